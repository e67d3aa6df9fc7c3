"""One threshold, one mask: prune, scan, the studio and the command line choose alike.

On dense and on pruned networks: a zero weight is gone, everywhere.
"""

import contextlib
import os

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pruning_lab import cli, counts, masks, models, sensitivity
from pruning_lab.data import Split
from pruning_lab.studio import Studio

LAYERS = ("conv1", "conv2", "fc1", "fc2")
amounts = st.tuples(st.just("quality"), st.floats(0, 3)) | st.tuples(
    st.just("density"), st.floats(0, 1)
)


@pytest.fixture(scope="module")
def network():
    """A LeNet-5 with few of its weights left, and images that it takes."""
    torch.manual_seed(0)
    images = torch.randint(256, (20, 1, 28, 28), dtype=torch.uint8)
    return models.lenet_5(), Split("val", images, torch.arange(20) % 10, 127.5, 74.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("command line")


def by_numpy(weight, kind, amount):
    """(kept, threshold) of a layer, from its non-zero weights alone."""
    w = weight.detach().numpy()
    alive = w != 0
    if kind == "quality":
        threshold = amount * w[alive].astype("f8").std() if alive.any() else 0.0
        return alive & (abs(w) >= w.dtype.type(threshold)), threshold
    order = sorted(alive.ravel().nonzero()[0], key=lambda i: (-abs(w.ravel()[i]), i))
    kept = alive.ravel() & False
    kept[order[: round(amount * w.size)]] = True
    kept = kept.reshape(w.shape)
    return kept, abs(w[kept]).min() if kept.any() else None


@settings(max_examples=12)
@given(layer=st.sampled_from(LAYERS), asked=amounts, before=st.sampled_from([None, 0.7, 0.3, 0.05]))
@example(layer="fc1", asked=("quality", 1.0), before=None)
@example(layer="fc1", asked=("quality", 1.0), before=0.1)
@example(layer="conv2", asked=("density", 0.5), before=0.1)
@example(layer="conv1", asked=("density", 0.0), before=0.3)
def test_prune_scan_studio_and_command_line_agree(layer, asked, before, network, folder):
    model, images = network
    model = models.lenet_5()
    model.load_state_dict(network[0].state_dict())
    if before is not None:
        masks.prune(model, density=before).apply_(model)
    kind, amount = asked
    kept, threshold = by_numpy(model.get_submodule(layer).weight, kind, amount)

    mask = masks.prune(model, **{kind: {layer: amount}})
    row = next(row for row in mask.receipt if row.layer == layer)
    assert (mask[layer].numpy() == kept).all()
    assert row.threshold == (None if threshold is None else pytest.approx(threshold, rel=1e-6))
    assert row.kept == kept.sum()

    levels = {"qualities" if kind == "quality" else "densities": [amount]}
    (point,) = sensitivity.scan(model, images, layers=[layer], **levels)
    assert point.density == row.density
    assert point.threshold == row.threshold

    with contextlib.closing(Studio(model, images)) as studio:
        studio.set(**{kind: {layer: amount}})
        assert studio.mask == mask
        assert studio.metrics().layers[LAYERS.index(layer)].kept == row.kept

    models.save(folder / "network.safetensors", model, about={"network": "lenet-5"})
    words = ["prune", f"{folder}/network.safetensors", f"--{kind}", f"{layer}={amount!r}"]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        assert cli.main([*words, "--force", "--out", f"{folder}/mask.safetensors"]) == 0
    assert masks.Mask.load(folder / "mask.safetensors") == mask

    mask.apply_(model)
    counted = {row.layer: row.kept for row in counts.layers(model, (1, 28, 28))}
    assert counted == {row.layer: row.kept for row in mask.receipt}
