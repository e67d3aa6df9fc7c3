"""Masks: exact amounts, receipts that say what happened, files that come back."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pruning_lab import criteria, files, masks


def risen(model, mask):
    """How many pruned weights are not zero."""
    layers = masks.prunable(model)
    return sum(int(layers[name].weight[~kept].count_nonzero()) for name, kept in mask.items())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_weights_come_back_after_an_error_too(toy, error):
    before = {name: tensor.clone() for name, tensor in toy.state_dict().items()}
    mask = masks.prune(toy, density=0.3)
    inside = []

    def measure():
        with masks.masked(toy, mask) as model:
            inside.append((model is toy, risen(toy, mask)))
            raise error

    with pytest.raises(error):
        measure()
    assert inside == [(True, 0)]
    assert all(torch.equal(tensor, before[name]) for name, tensor in toy.state_dict().items())


def test_pruning_changes_nothing_until_the_mask_is_applied(toy, everything_of):
    before = everything_of(toy)
    mask = masks.prune(toy, density=0.3)
    str(mask.receipt), mask.density
    assert everything_of(toy) == before
    mask.apply_(toy)
    assert int(toy.fc1.weight.count_nonzero()) == round(0.3 * toy.fc1.weight.numel())
    assert torch.equal(masks.Mask.of(toy)["fc1"], mask["fc1"])


# --- amounts -----------------------------------------------------------------------------------


def test_a_density_keeps_exactly_what_it_says_in_every_layer(toy):
    mask = masks.prune(toy, density=0.215)
    assert {n: int(kept.sum()) for n, kept in mask.items()} == {
        name: round(0.215 * layer.weight.numel()) for name, layer in masks.prunable(toy).items()
    }
    assert mask.kept == sum(int(kept.sum()) for kept in mask.values())
    assert mask.density == mask.kept / mask.weights


def test_quality_and_threshold_keep_what_numpy_keeps(toy):
    by_quality = masks.prune(toy, quality={"fc1": 1.2})["fc1"].numpy()
    by_threshold = masks.prune(toy, threshold={"fc1": 0.1})["fc1"].numpy()
    weight = toy.fc1.weight.detach().numpy()
    assert (by_quality == (np.abs(weight) >= 1.2 * weight.std())).all()
    assert (by_threshold == (np.abs(weight) >= 0.1)).all()


def test_layers_that_are_not_named_stay_as_they_are(toy):
    mask = masks.prune(toy, density={"fc1": 0.5})
    assert mask["conv1"].all()
    assert mask["fc2"].all()
    assert mask.receipt[2].asked == "-"


@given(first=st.floats(0, 1), second=st.floats(0, 1))
def test_amounts_refer_to_the_whole_layer_and_never_compound(first, second):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 9))
    earlier = masks.prune(model, density=first)
    earlier.apply_(model)
    later = masks.prune(model, density=second)
    assert later.kept == min(round(63 * first), round(63 * second))
    assert not (later["0"] & ~earlier["0"]).any()


def test_pruning_again_by_quality_raises_the_threshold(toy):
    first = masks.prune(toy, quality=1.0)
    first.apply_(toy)
    second = masks.prune(toy, quality=1.0)
    for before, after in zip(first.receipt, second.receipt, strict=True):
        survivors = masks.prunable(toy)[before.layer].weight.detach()[first[before.layer]]
        assert after.threshold == pytest.approx(survivors.numpy().std(), rel=1e-5)
        assert after.threshold > before.threshold
        assert after.kept < before.kept


def test_all_layers_ranked_together_share_one_density(toy):
    mask = masks.prune(toy, density=0.25, across="network")
    flat = torch.cat([la.weight.detach().abs().flatten() for la in masks.prunable(toy).values()])
    cut = flat.sort(descending=True).values[mask.kept - 1]
    assert mask.kept == round(0.25 * flat.numel())
    assert all(
        torch.equal(mask[name], layer.weight.abs() >= cut)
        for name, layer in masks.prunable(toy).items()
    )


def test_a_saliency_of_ones_own_ranks_the_weights_signed_too(toy):
    mask = masks.prune(toy, density=0.5, saliency=lambda weight: -weight)
    weight = toy.fc1.weight.detach()
    assert weight[mask["fc1"]].max() <= weight[~mask["fc1"]].min()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        ({}, ValueError, "exactly one of quality, density and threshold, got none"),
        ({"density": 0.5, "quality": 1}, ValueError, "got quality and density"),
        ({"density": 8}, ValueError, "for a percentage, divide by 100"),
        ({"density": True}, TypeError, "must be a number"),
        ({"quality": {"fc1": "1.0"}}, TypeError, "must be a number"),
        ({"quality": {"fc1": math.nan}}, ValueError, "finite"),
        ({"density": {"fc3": 0.5}}, KeyError, "'fc3'.* did you mean fc[12] or fc[12]\\? .*conv1"),
        ({"density": {"fc1.weight": 0.5}}, KeyError, "did you mean fc1"),
        ({"quality": 1, "saliency": criteria.random(0)}, ValueError, "goes with magnitude"),
        ({"quality": 1, "across": "network"}, ValueError, "give density=NUMBER"),
        ({"density": {"fc1": 0.5}, "across": "lamp"}, ValueError, "give density=NUMBER"),
        ({"density": 0.5, "across": "layers"}, ValueError, "must be layer, network or lamp"),
        ({"density": 0.5, "saliency": {"fc1": torch.ones(1)}}, KeyError, "no layer 'conv1'"),
        ({"density": {"fc1": 0.5}, "saliency": {"fc1": torch.ones(1)}}, ValueError, "shaped"),
        ({"density": 0.5, "saliency": lambda w: w.norm()}, ValueError, "shaped like its weight"),
        ({"density": 0.5, "saliency": lambda w: 0.5}, ValueError, "got float"),
    ],
)
def test_a_wrong_call_gets_one_clear_sentence(toy, call, error, says):
    with pytest.raises(error, match=says) as caught:
        masks.prune(toy, **call)
    assert "\n" not in str(caught.value)


def test_a_network_without_layers_to_prune_is_told_so():
    with pytest.raises(ValueError, match="no layer to prune"):
        masks.prune(nn.Sequential(nn.ReLU()), density=0.5)


def test_a_weight_that_is_not_a_number_is_said_to_be_none(toy):
    toy.fc1.weight.data[0, 0] = math.nan
    for amount in ({"quality": 1}, {"density": 0.5}, {"threshold": 0.1}):
        with pytest.raises(ValueError, match="not a number"):
            masks.prune(toy, **amount)


def test_an_infinite_weight_is_said_by_its_layer_whatever_is_asked(toy):
    toy.fc1.weight.data[0, 0] = math.inf
    for amount in ({"quality": 1}, {"density": 0.5}, {"threshold": 0.1}):
        with pytest.raises(ValueError, match="layer 'fc1' has a weight that is infinite"):
            masks.prune(toy, **amount)


# --- what is gone ------------------------------------------------------------------------------


def test_a_zero_weight_is_gone_whatever_is_asked(toy):
    masks.prune(toy, density=0.3).apply_(toy)
    alive = masks.Mask.of(toy)
    asked = [{"quality": 0.0}, {"threshold": 0.0}, {"density": 1.0}, {"density": {"fc1": 0.1}}]
    asked += [{"density": 0.9, "across": across} for across in ("network", "lamp")]
    asked += [{"density": 0.9, "saliency": criteria.random(0)}]
    for amounts in asked:
        mask = masks.prune(toy, **amounts)
        assert mask & alive == mask
    assert masks.prune(toy, quality=0.0) == alive


def test_asking_for_more_than_is_left_keeps_what_is_left_and_says_so(toy):
    masks.prune(toy, density={"fc1": 0.25}).apply_(toy)
    mask = masks.prune(toy, density=0.5)
    row = mask.receipt[1]
    assert (row.layer, row.kept) == ("fc1", 108)  # a quarter of 432
    assert row.note == "asked for 216 weights, only 108 are left; nothing gone"


def test_regrow_ranks_the_zeros_too_and_says_how_many_came_back(toy):
    masks.prune(toy, density=0.25).apply_(toy)
    weight = toy.fc1.weight.detach().clone()
    mask = masks.prune(toy, density={"fc1": 0.5}, regrow=True)
    assert int(mask["fc1"].sum()) == 216
    assert mask["fc1"][weight != 0].all()
    assert "108 regrown" in mask.receipt[1].note
    assert mask["fc2"].sum() == round(0.25 * 48)  # nothing was asked of it


# --- ranked together ---------------------------------------------------------------------------


def test_lamp_keeps_what_its_definition_keeps():
    """Lee et al. 2021, equation 3, in plain loops over all pairs of weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(3, 2))
    with torch.no_grad():
        model[1].weight.mul_(10)  # which a ranking by magnitude would keep whole
    scores = {}
    for name, layer in masks.prunable(model).items():
        squares = [w * w for w in layer.weight.double().flatten().tolist()]
        scores |= {(name, i): s / sum(v for v in squares if v >= s) for i, s in enumerate(squares)}
    for density in (0.08, 0.3, 0.7):
        mask = masks.prune(model, density=density, across="lamp")
        best = sorted(scores, key=scores.get, reverse=True)[: round(density * 38)]
        assert {
            (name, i)
            for name, kept in mask.items()
            for i, k in enumerate(kept.flatten().tolist())
            if k
        } == set(best)
        assert all(kept.any() for kept in mask.values())


# --- layers ------------------------------------------------------------------------------------


class Attending(nn.Module):
    """Attention in its three forms, an embedding, a norm and a layer that computes its weight."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(5, 16)
        self.packed = nn.MultiheadAttention(16, 2)
        self.apart = nn.MultiheadAttention(16, 2, kdim=6, vdim=7)
        self.norm = nn.LayerNorm((3, 16))
        self.head = nn.utils.parametrizations.spectral_norm(nn.Linear(16, 3))


def test_attention_is_pruned_and_everything_else_is_listed_with_its_size():
    torch.manual_seed(0)
    model = Attending()
    mask = masks.prune(model, density=0.25)
    assert {name: tuple(kept.shape) for name, kept in mask.items()} == {
        "packed.in_proj": (48, 16),
        "packed.out_proj": (16, 16),
        "apart.q_proj": (16, 16),
        "apart.k_proj": (16, 6),
        "apart.v_proj": (16, 7),
        "apart.out_proj": (16, 16),
    }
    computed, words, vectors = sorted(
        mask.receipt.not_covered, key=lambda row: (row.why == "never pruned", row.parameters)
    )
    assert (computed.parameters, words.name, words.parameters) == (48, "words.weight", 80)
    assert computed.name.startswith("head.")
    parameters = sum(p.numel() for p in model.parameters())
    assert mask.weights + 48 + 80 + vectors.parameters == parameters
    *_, first, second, last = str(mask.receipt).splitlines()
    assert "words.weight, 80 weights (Embedding is not a layer that is pruned)" in first + second
    assert "computes the weight" in first + second
    assert last.startswith(f"not covered: {vectors.parameters:,} biases, normalisation")
    mask.apply_(model)
    assert int((model.packed.in_proj_weight == 0).sum()) == 48 * 16 - round(0.25 * 48 * 16)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Conv1d(2, 3, 5), (3, 2, 5)),
        (lambda: nn.Conv3d(2, 3, 2), (3, 2, 2, 2, 2)),
        (lambda: nn.ConvTranspose1d(2, 3, 5), (2, 3, 5)),
        (lambda: nn.ConvTranspose2d(2, 4, 5, groups=2), (2, 2, 5, 5)),
        (lambda: nn.ConvTranspose3d(2, 3, 2), (2, 3, 2, 2, 2)),
    ],
)
def test_every_kind_of_convolution_is_pruned(make, shape):
    layer = nn.Sequential(make())
    mask = masks.prune(layer, density=0.5)
    assert tuple(mask["0"].shape) == shape
    assert mask.kept == round(0.5 * math.prod(shape))


@pytest.mark.parametrize(
    "compute",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
    ],
)
def test_a_layer_that_computes_its_weight_is_left_out_and_said_to_be(toy, compute):
    before = masks.prune(copy.deepcopy(toy), density=0.5)
    compute(toy.fc1)
    mask = masks.prune(toy, density=0.5)
    assert mask == masks.Mask({name: before[name] for name in ("conv1", "fc2")})
    assert any(
        row.name.startswith("fc1.") and "computes" in row.why for row in mask.receipt.not_covered
    )
    with pytest.raises(KeyError, match="no layer 'fc1' to prune"):
        masks.prune(toy, density={"fc1": 0.5})


def test_a_layer_type_of_ones_own_is_pruned_once_it_is_in_the_table(monkeypatch):
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(4, 4))

    class Derived(Mine):
        pass

    model = nn.Sequential(nn.Linear(4, 4), Mine(), Derived())
    assert [row.name for row in masks.prune(model, density=0.5).receipt.not_covered[:-1]] == [
        "1.kernel",
        "2.kernel",
    ]
    monkeypatch.setitem(masks.ADAPTERS, Mine, ("kernel",))
    mask = masks.prune(model, density=0.5)
    assert list(mask) == ["0", "1.kernel", "2.kernel"]
    mask.apply_(model)
    assert int(model[1].kernel.count_nonzero()) == 8


def test_a_shared_weight_has_its_first_name_alone(toy):
    toy.again = nn.Linear(36, 12)
    toy.again.weight = toy.fc1.weight
    with pytest.raises(KeyError, match=r"no layer 'again' to prune; .* has conv1, fc1, fc2"):
        masks.prune(toy, density={"again": 0.5})


def test_a_layer_that_has_no_weight_yet_is_told_to_run_first():
    with pytest.raises(ValueError, match=r"'0' \(LazyLinear\) has no weight yet; run one batch"):
        masks.prune(nn.Sequential(nn.LazyLinear(3)), density=0.5)


# --- masks as values ---------------------------------------------------------------------------


def test_masks_are_compared_and_combined_bit_by_bit(toy):
    a, b = masks.prune(toy, density=0.5), masks.prune(toy, density=0.6, saliency=criteria.random(1))
    assert a == masks.prune(toy, density=0.5)
    assert a != b
    assert a != {"fc1": a["fc1"]}
    for name in a:
        one, other = a[name].numpy(), b[name].numpy()
        assert ((a & b)[name].numpy() == np.logical_and(one, other)).all()
        assert ((a | b)[name].numpy() == np.logical_or(one, other)).all()
        assert ((~a)[name].numpy() == np.logical_not(one)).all()
    assert (a & ~a).kept == 0
    assert [row.kept for row in (a | ~a).receipt] == [36, 432, 48]


def test_masks_of_different_networks_are_not_combined(toy, branching):
    with pytest.raises(ValueError, match=r"layer 'conv1' has shape .* combine masks of the same"):
        masks.Mask.of(toy) & masks.Mask.of(branching)
    with pytest.raises(TypeError):
        masks.Mask.of(toy) & {"fc1": toy.fc1.weight != 0}


def test_a_mask_has_no_hash_since_its_tensors_can_change(toy):
    with pytest.raises(TypeError, match="unhashable type: 'Mask'"):
        hash(masks.Mask.of(toy))


def test_a_mask_owns_its_tensors():
    kept = torch.ones(2, 3, dtype=torch.bool)
    mask = masks.Mask({"fc1": kept})
    kept[:] = False
    assert mask.kept == 6
    assert copy.deepcopy(mask) == mask
    assert pickle.loads(pickle.dumps(mask)) == mask
    assert repr(mask) == "Mask(6 of 6 weights kept in 1 layer)"


# --- receipts ----------------------------------------------------------------------------------


def test_a_receipt_says_what_was_asked_and_what_was_kept(toy):
    mask = masks.prune(toy, density={"fc1": 0.3})
    rows = {row.layer: row for row in mask.receipt}
    assert list(rows) == ["conv1", "fc1", "fc2"]
    weight = toy.fc1.weight.detach()
    assert rows["fc1"].asked == "density 0.3"
    assert rows["fc1"].kept == int(mask["fc1"].sum()) == round(0.3 * weight.numel())
    assert rows["fc1"].density == rows["fc1"].kept / weight.numel()
    assert rows["fc1"].threshold == weight[mask["fc1"]].abs().min().item()
    assert rows["fc1"].sigma == pytest.approx(weight.numpy().std(), rel=1e-5)
    assert (rows["fc2"].asked, rows["fc2"].threshold, rows["fc2"].note) == ("-", None, "")
    assert "fc1" in str(mask.receipt)
    assert "30.1%" in str(mask.receipt)  # 130 of 432


def test_a_receipt_remarks_on_whatever_is_odd(toy):
    toy.fc2.weight.data.fill_(0.25)
    notes = {}
    for amount in ({"density": 0.5}, {"threshold": 9}, {"threshold": 0}, {"density": 1}):
        receipt = masks.prune(toy, **amount).receipt
        notes[str(amount)] = [row.note for row in receipt]
    assert notes["{'density': 0.5}"] == [
        "",
        "",
        "ties: 24 of the dropped equal the smallest kept; earlier ones stayed",
    ]
    assert all("all gone" in note for note in notes["{'threshold': 9}"])
    assert notes["{'threshold': 0}"] == notes["{'density': 1}"] == 3 * ["nothing gone"]


def test_a_receipt_and_an_error_escape_control_characters_in_names():
    model = nn.Sequential()
    model.add_module("fc\x1b[2J1", nn.Linear(4, 3))
    model.add_module("words\n", nn.Embedding(5, 4))
    mask = masks.prune(model, density=0.5)
    assert len(str(mask.receipt).splitlines()) == 6  # head, rule, layer, total, two not covered
    assert all(line.isprintable() for line in str(mask.receipt).splitlines())
    with pytest.raises(KeyError) as caught:
        masks.prune(model, density={"fc2": 0.5})
    assert caught.value.args[0].endswith(r"this network has fc\x1b[2J1")


def test_an_unknown_layer_of_a_mask_names_the_nearest(toy):
    with pytest.raises(KeyError, match="did you mean fc1"):
        masks.Mask.of(toy)["fc_1"]
    assert "fc_1" not in masks.Mask.of(toy)


def test_a_mask_of_another_network_is_refused(toy, branching):
    with pytest.raises(KeyError, match="no layer 'conv1' to prune"):
        masks.Mask.of(toy).apply_(branching)


# --- files -------------------------------------------------------------------------------------


def test_a_mask_comes_back_with_its_receipt(toy, tmp_path):
    toy.to(memory_format=torch.channels_last)
    mask = masks.prune(toy, density=0.37)
    back = masks.Mask.load(mask.save(tmp_path / "mask"))
    assert list(back) == list(mask)
    assert all(torch.equal(back[name], mask[name]) for name in mask)
    assert back.receipt == mask.receipt
    assert back.receipt.not_covered == mask.receipt.not_covered
    assert back.fingerprint() == mask.fingerprint()


def test_a_mask_file_holds_a_bit_per_weight(toy, tmp_path):
    mask = masks.prune(toy, density=0.37)
    packed, _ = files.load_tensors(mask.save(tmp_path / "mask"))
    assert {name: bits.numel() for name, bits in packed.items()} == {
        name: math.ceil(kept.numel() / 8) for name, kept in mask.items()
    }


def test_a_fingerprint_changes_with_a_bit_and_with_a_name_and_with_nothing_else(toy):
    mask = masks.prune(toy, density=0.37)
    turned = masks.Mask(dict(reversed(list(mask.items()))))
    assert turned.fingerprint() == mask.fingerprint()
    renamed = masks.Mask({f"{name}_": kept for name, kept in mask.items()})
    flipped = masks.Mask({**mask, "fc2": ~mask["fc2"]})
    assert len({m.fingerprint() for m in (mask, renamed, flipped)}) == 3


def about(**changes):
    row = vars(masks.ReceiptRow("fc1", "-", None, 0.1, 8, 8, 1.0))
    plain = {"shapes": {"fc1": [8]}, "receipt": [row], "not_covered": []}
    return {"format": "pruning_lab mask 2", **plain, **changes}


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        about(format="pruning_lab mask 9"),
        about(shapes={"fc1": [9]}),
        about(shapes={"fc1": [-1, -8]}),
        about(shapes={"fc1": [2**70]}),
        about(shapes={"fc1": "ab"}),
        about(shapes={"fc1": None}),
        about(shapes={"fc2": [8]}),
        about(shapes=[8]),
        about(receipt=[{"layer": "fc1"}]),
        about(receipt=[{**about()["receipt"][0], "__class__": "os.system"}]),
        about(receipt=7),
        {"format": "pruning_lab mask 2"},
    ],
)
def test_a_broken_or_foreign_mask_file_is_refused_by_name(tmp_path, wrong):
    path = files.save_tensors(
        tmp_path / "odd.mask", {"fc1": torch.zeros(1, dtype=torch.uint8)}, about=wrong
    )
    with pytest.raises(ValueError, match=r"odd\.mask"):
        masks.Mask.load(path)


def test_bits_of_another_type_are_refused(tmp_path):
    path = files.save_tensors(tmp_path / "odd.mask", {"fc1": torch.zeros(1)}, about=about())
    with pytest.raises(ValueError, match=r"odd\.mask is broken: its bits"):
        masks.Mask.load(path)
