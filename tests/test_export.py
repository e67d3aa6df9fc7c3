"""Networks for other programs, read by those programs; masks to and from torch.nn.utils.prune."""

import importlib.util
import json

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from toys import Branching, lively

import pruning_lab
from pruning_lab import cli, counts, masks, models, sensitivity, sparse

MODULES = ("onnx", "onnxscript", "onnxruntime")
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in MODULES), reason="no onnx here"
)


def pruned(model, density=0.2):
    masks.prune(lively(model.eval()), density=density).apply_(model)
    return model


# ----------------------------------------------------------------------------------------- ONNX


@needs_onnx
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: models.alexnet(classes=10, width=0.1, size=64), (3, 64, 64)),
        (Branching, (1, 8, 8)),
    ],
)
def test_onnxruntime_answers_as_torch_does_for_any_number_of_images(make, shape, tmp_path):
    import onnxruntime

    model, path = pruned(make()).train(), tmp_path / "p.onnx"
    written = sparse.to_onnx(model, path, torch.randn(2, *shape))
    assert model.training
    assert written.bytes == path.stat().st_size
    assert written.bytes > sum(t.nbytes for t in model.parameters())  # zeros included
    assert "dense weights, zeros included" in str(written)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for n in (1, 7):
        x = torch.randn(n, *shape)
        (found,) = session.run(None, {"images": x.numpy()})
        with torch.no_grad():
            expected = model.eval()(x)
        assert (torch.from_numpy(found) - expected).abs().max() <= 1e-5 * expected.abs().max()


@needs_onnx
def test_a_file_that_answers_otherwise_is_not_written(toy, tmp_path, monkeypatch):
    import onnxruntime

    class Wrong(onnxruntime.InferenceSession):
        def run(self, *words):
            return [answer + 0.1 for answer in super().run(*words)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Wrong)
    with pytest.raises(ValueError, match="the ONNX file answers otherwise: by"):
        sparse.to_onnx(toy, tmp_path / "p.onnx", torch.randn(2, 1, 8, 8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lost", MODULES)
def test_without_the_extra_one_sentence_says_what_to_install(lost, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == lost else name)
    with pytest.raises(ModuleNotFoundError, match=rf"{lost} is not .*'pruning-lab\[export\]'"):
        sparse.to_onnx(toy, tmp_path / "p.onnx", torch.randn(2, 1, 8, 8))


# ---------------------------------------------------------------------------------- state_dicts


def test_torch_load_reads_weights_and_nothing_else(toy, tmp_path):
    model = pruned(toy)
    sparse.to_torch(model, tmp_path / "p.pt")
    state = torch.load(tmp_path / "p.pt", weights_only=True)
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_csr_holds_the_kept_weights_with_indices_of_32_bits(branching, tmp_path):
    model = pruned(branching)
    sparse.to_torch(model, tmp_path / "p.pt", as_csr=True)
    found = torch.load(tmp_path / "p.pt", weights_only=True)
    assert list(found) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        if name.removesuffix(".weight") in masks.prunable(model):
            assert found[name].col_indices().dtype == torch.int32
            assert len(found[name].values()) == tensor.count_nonzero()
            found[name] = found[name].to_dense().view(tensor.shape)
        assert torch.equal(found[name], tensor)


# -------------------------------------------------------------------------- torch.nn.utils.prune


def test_masks_go_to_torch_and_back(branching):
    mask, x = masks.prune(branching, density=0.3), torch.randn(2, 1, 8, 8)
    mask = masks.Mask({name: mask[name] for name in ("stem", "head")})
    mask.to_torch(branching)
    assert torch.equal(branching.stem.weight_mask, mask["stem"].float())
    assert torch.equal(branching.head.weight_mask, mask["head"].float())
    assert prune.is_pruned(branching.head)
    assert not prune.is_pruned(branching.block)
    answer = branching(x)
    assert masks.Mask.from_torch(branching) == mask
    assert torch.equal(branching(x), answer)
    assert not prune.is_pruned(branching)
    for layer in masks.prunable(branching).values():  # -0.0 would be stored as a value
        assert not layer.weight[layer.weight == 0].signbit().any()


def prune_one(model):
    prune.l1_unstructured(model.fc1, "weight", amount=0.7)


def prune_all(model):
    layers = [(layer.module, "weight") for layer in masks.prunable(model).values()]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=0.8)


def prune_twice(model):
    prune_all(model)
    prune_one(model)
    prune.ln_structured(model.conv1, "weight", amount=1, n=2, dim=0)
    prune.random_unstructured(model.fc2, "bias", amount=1)


@pytest.mark.parametrize("how", [prune_one, prune_all, prune_twice])
def test_what_torch_has_pruned_is_taken_over(how, toy, split, tmp_path):
    how(toy)
    optimizer = torch.optim.SGD(toy.parameters(), lr=0.1)
    layers = {name: toy.get_submodule(name) for name in ("conv1", "fc1", "fc2")}
    theirs = {name: layer.weight != 0 for name, layer in layers.items()}
    buffers = {
        name: layer.weight_mask.bool()
        for name, layer in layers.items()
        if hasattr(layer, "weight_mask")
    }
    x = next(iter(split))[0]
    toy.eval()
    answer = toy(x)
    for work in (
        masks.Mask.of,
        lambda model: masks.prune(model, density=0.1),
        lambda model: sensitivity.scan(model, split, [0.5]),
        lambda model: counts.layers(model, (1, 8, 8)),
        lambda model: sparse.to_sparse(model, example=(1, 8, 8)),
        lambda model: sparse.to_torch(model, tmp_path / "p.pt"),
    ):
        with pytest.raises(ValueError, match=r"pruned by torch.nn.utils.prune; call masks.Mask.fr"):
            work(toy)
    mask = masks.Mask.from_torch(toy)
    assert mask == masks.Mask(buffers)
    assert torch.equal(toy(x), answer)
    assert masks.Mask.of(toy) == masks.Mask(theirs)
    kept = {name: int(there.sum()) for name, there in theirs.items()}
    assert {row.layer: row.kept for row in counts.layers(toy, (1, 8, 8))} == kept
    assert {row.layer: row.kept for row in masks.prune(toy, density=1.0).receipt} == kept
    assert [point.density for point in sensitivity.scan(toy, split, [1.0])] == [
        kept[name] / theirs[name].numel() for name in theirs
    ]
    assert {id(p) for p in toy.parameters()} == {id(p) for p in optimizer.param_groups[0]["params"]}
    with mask.hold(toy):
        toy(x).sum().backward()
        optimizer.step()
    assert (toy.fc1.weight[~mask["fc1"]] == 0).all()


def test_where_torch_has_pruned_nothing_there_is_nothing_to_take_over(toy):
    with pytest.raises(ValueError, match="has pruned no layer of this model"):
        masks.Mask.from_torch(toy)


def test_a_mask_that_does_not_fit_is_handed_over_nowhere(toy):
    mask = masks.Mask({"conv1": torch.ones(4, 1, 3, 3), "fc1": torch.ones(2, 2)})
    with pytest.raises(ValueError, match="the mask of layer 'fc1' has shape"):
        mask.to_torch(toy)
    assert not prune.is_pruned(toy)


# ---------------------------------------------------------------------------------- the command


@needs_onnx
def test_the_command_writes_each_kind_and_replaces_its_own_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = pruned(models.lenet_300_100(), 0.05)
    models.save("p.safetensors", model, about={"network": "lenet-300-100", "data": "mnist-5k"})
    for kind, note in (("onnx", "as large as"), ("torch", "zeros included"), ("csr", "8 bytes")):
        words = ("export", "p.safetensors", "--to", kind, "-o", "out")
        assert cli.main((*words, "--force")) == 0
        assert note in capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / "out").stat().st_size < 0.2 * (tmp_path / "p.safetensors").stat().st_size
    assert cli.main(words) == 2
    assert "out is there already; add --force" in capsys.readouterr().err
    assert cli.main((*words[:-1], "mine.txt", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["path"] == "mine.txt"
    (tmp_path / "mine.txt").write_text("my thesis")
    for name in ("mine.txt", "p.safetensors"):
        assert cli.main((*words[:-1], name, "--force")) == 2
    assert (tmp_path / "mine.txt").read_text() == "my thesis"


def test_a_network_of_ones_own_is_exported(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Linear(4, 3))\n"
    (tmp_path / "own.py").write_text(code)
    assert cli.main(("export", "--model", "own:make", "--to", "csr", "-o", "own.pt")) == 0
    assert "wrote own.pt" in capsys.readouterr().out
    assert isinstance(pruning_lab.sparse.to_torch(nn.Linear(2, 2), "own.pt").bytes, int)
