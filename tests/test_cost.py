"""Costs: bytes, operations and energies by hand, by the paper, and by packing everything."""

import json
import subprocess

import pytest
import torch
from torch import nn

from pruning_lab import cli, cost, counts, masks, models, paper, storage
from pruning_lab.layers import prunable


@pytest.fixture
def pruned():
    """LeNet-300-100 with the densities of the paper's Table 2."""
    model = models.lenet_300_100(trained="mnist")
    density = {row.layer: row.density for row in paper.LENET_300_100[:-1]}
    masks.prune(model, density=density).apply_(model)
    return model


# --- energy ------------------------------------------------------------------------------------


def test_a_billion_connections_at_20_hz_take_the_papers_12_8_watts():
    assert 20 * cost.read_energy(4 * 10**9) == pytest.approx(12.8)
    assert 20 * cost.read_energy(4 * 10**9, "SRAM") == pytest.approx(0.1)


def test_energies_of_a_layer_are_those_of_a_calculation_by_hand():
    """12 weights, 6 of them kept, at 4 places: 48 multiply-accumulates, of which 24 are left."""
    model = nn.Sequential(nn.Conv2d(1, 3, 2))
    model[0].weight.data.copy_(torch.arange(1.0, 13).view(3, 1, 2, 2))
    model[0].weight.data[:, :, 0] = 0
    found = cost.table(model, (1, 3, 3), encoding="csr int32")
    (row,), total = found, found.total
    csr = 6 * 8 + 4 * 4
    assert row.sizes["csr int32"] == csr
    dense_operations, operations = 48 * 4.6, 24 * 4.6  # pJ
    assert row.dense_energy == pytest.approx(1e-12 * (12 * 5 + dense_operations))
    assert row.dram_energy == pytest.approx(1e-12 * (csr / 4 * 640 + operations))
    assert row.sram_energy == pytest.approx(1e-12 * (csr / 4 * 5 + operations))
    assert (total.dram_energy, total.sizes) == (row.dram_energy, row.sizes)
    small = cost.table(model, (1, 3, 3), sram=47, encoding="csr int32")
    assert small.total.dense_energy == pytest.approx(1e-12 * (12 * 640 + dense_operations))
    assert not small.total.fits


def test_zero_activations_are_skipped_where_they_were_measured(toy, batches):
    by_shape, measured = cost.table(toy, (1, 8, 8)), cost.table(toy, batches)
    counted = counts.layers(toy, batches)
    assert [row.flops_kept for row in by_shape] == [None] * 3
    assert [row.flops_kept for row in measured] == [row.flops_kept for row in counted]
    for row in (*by_shape, by_shape.total):
        assert row.flops_by_weights == row.flops  # nothing is pruned
    left = measured.total.flops_kept
    assert left < measured.total.flops
    saved = by_shape.total.sram_energy - measured.total.sram_energy
    assert saved == pytest.approx(cost.operation_energy(measured.total.flops - left))


def test_a_network_fits_from_the_compression_that_it_says(pruned):
    stored = cost.table(pruned, (1, 28, 28)).total.sizes["ours"]
    for sram, fits in ((stored, True), (stored - 1, False)):
        found = cost.table(pruned, (1, 28, 28), sram=sram)
        total = found.total
        assert total.fits is fits
        assert total.fits_from == 4 * 266_200 / sram
        assert total.compression == 4 * 266_200 / stored
        # A layer alone needs less than all together.
        assert [row.fits for row in found] == [row.sizes["ours"] <= sram for row in found]
        assert ("does not fit" in found.conclusions[1]) is not fits
    assert "fit into 8 MB of SRAM as they are" in cost.table(pruned, (1, 28, 28)).conclusions[1]


# --- bytes -------------------------------------------------------------------------------------


def test_sizes_are_those_of_storage_and_of_the_command_gzip(pruned, tmp_path):
    found = cost.table(pruned, (1, 28, 28))
    for row, layer in zip(found, prunable(pruned).values(), strict=True):
        sizes = dict(row.sizes)
        (tmp_path / "weight").write_bytes(layer.weight.detach().numpy().tobytes())
        by_command = subprocess.run(
            ["gzip", "-c", tmp_path / "weight"], capture_output=True, check=True
        )
        name = len("weight") + 1  # the command writes the file's name into its header
        assert sizes.pop("gzip") == pytest.approx(len(by_command.stdout) - name, rel=0.01)
        assert sizes == storage.sizes(layer.weight.detach())
        assert not row.is_estimate
    total = found.total
    assert total.sizes == {name: sum(row.sizes[name] for row in found) for name in total.sizes}
    assert (total.weights, total.kept) == (266_200, masks.Mask.of(pruned).kept)


def test_an_estimate_is_near_what_all_of_the_layer_takes():
    """Rows of very different densities, in no order; a fifth of the columns is dead."""
    weight = torch.randn(1000, 1000)
    cut = torch.rand(1000, 1).mul_(1.7).add_(0.3)
    weight.masked_fill_(weight.abs() < 1.5 * cut, 0)[:, ::5] = 0
    estimated, is_estimate = cost.sizes(weight)
    assert is_estimate
    halves = [cost.sizes(half)[0]["gzip"] for half in weight.split(500)]  # each packed whole
    exact = {**storage.sizes(weight), "gzip": sum(halves)}
    assert estimated.keys() == exact.keys()
    assert estimated["float32"] == exact["float32"]
    for name, size in exact.items():
        assert estimated[name] == pytest.approx(size, rel=0.04), name


def test_a_layer_that_is_all_zeros_or_one_long_row_has_a_size_too():
    zeros, _ = cost.sizes(torch.zeros(2000, 400))
    assert zeros["ours"] < 2000
    assert zeros["csr int32"] == pytest.approx(4 * 2001, rel=0.01)
    row, is_estimate = cost.sizes(torch.eye(1, 600_000))
    assert row["csr int32"] == 16
    assert not is_estimate


def test_what_is_no_layer_stays_dense():
    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(10, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.embedding(x.long()).mean((1, 2, 3)))

    model = Embedded()
    model.head.weight.data[0] = 0
    found = cost.table(model, (1, 2, 2))
    assert [row.layer for row in found] == ["head", "other"]
    assert set(found[1].sizes.values()) == {160}
    assert found.total.sizes["float32"] == 160 + 32
    assert "other" in str(found)


def test_measuring_leaves_no_trace(toy, batches, everything_of):
    before = everything_of(toy)
    cost.table(toy, batches)
    assert everything_of(toy) == before


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"encoding": "zip"}, "no encoding 'zip'; there are float32, bit mask, csr int32, paper"),
        ({"sram": 0}, "sram must be at least 1 byte, got 0"),
        ({"model": nn.Flatten()}, "no layer to prune"),
    ],
)
def test_a_wrong_word_gets_a_sentence(toy, changes, text):
    with pytest.raises(ValueError, match=text):
        cost.table(**{"model": toy, "images": (1, 8, 8), **changes})


# --- the command -------------------------------------------------------------------------------


def test_the_command_prints_the_tables_and_says_what_is_a_model(pruned, tmp_path, capsys):
    path = tmp_path / "pruned.safetensors"
    models.save(path, pruned, about={"network": "lenet-300-100", "data": "mnist-5k"})
    assert cli.main(("cost", str(path), "--sram", "0.1")) == 0
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    kept = f"{masks.Mask.of(pruned).kept:,}"
    assert ["total", "266,200", kept, "8.2%", "532,400", "8.2%"] in [line[:6] for line in lines]
    assert "Energies are a MODEL, not a measurement: 45 nm (Han et al. 2015, Figure 1)" in out
    assert "fit into 0.1 MB of SRAM from a compression of 10.6x" in out
    assert err == ""


def test_the_command_prints_json(pruned, tmp_path, capsys):
    path = tmp_path / "pruned.safetensors"
    models.save(path, pruned, about={"network": "lenet-300-100", "data": "mnist-5k"})
    words = ("cost", str(path), "--json", "--encoding", "codebook")
    assert cli.main(words) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["sram"] == cost.SRAM
    assert record["encoding"] == "codebook"
    assert [row["layer"] for row in record["layers"]] == ["fc1", "fc2", "fc3"]
    assert record["total"]["sizes"]["float32"] == 4 * 266_200
    assert record["total"]["flops_kept"] < record["total"]["flops_by_weights"]


def test_the_command_refuses_in_a_sentence(tmp_path, capsys):
    assert cli.main(("cost", "--sram", "0")) == 2
    assert cli.main(("cost", str(tmp_path / "none.safetensors"))) == 2
    err = capsys.readouterr().err
    assert "--sram: must be a number above 0" in err
    assert "none.safetensors" in err
