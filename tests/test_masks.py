"""Zeros stay zero in anyone's loop, receipts say what happened, files come back."""

import copy
import math
import subprocess
import sys
from itertools import cycle, islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from pruning_lab import criteria, files, masks, training


def steps(model, optimizer, batches, count=4):
    """Anyone's loop; yields after each step. The closure serves optimizers that ask for one."""
    for x, y in islice(cycle(batches), count):

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x.to(next(model.parameters()).dtype)), y)
            loss.backward()
            return loss

        optimizer.step(closure)
        yield


def risen(model, mask):
    """How many pruned weights are not zero."""
    layers = masks.prunable(model)
    return sum(int(layers[name].weight[~kept].count_nonzero()) for name, kept in mask.items())


OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "fused SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
    "foreach SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, foreach=True),
    "maximize": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, maximize=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "fused Adam": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "foreach Adam": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_pruned_weights_stay_zero_through_every_step(toy, batches, make):
    optimizer = make(toy.parameters())
    list(steps(toy, optimizer, batches, 2))  # momentum is there before the mask is
    mask = masks.prune(toy, density=0.3)
    mask.attach(optimizer, toy)
    before = copy.deepcopy(toy)
    for _ in steps(toy, optimizer, batches):
        assert risen(toy, mask) == 0
    for name, layer in masks.prunable(toy).items():
        old = masks.prunable(before)[name].weight
        assert not torch.equal(layer.weight[mask[name]], old[mask[name]])  # the others do learn


def test_without_the_hook_momentum_moves_pruned_weights(toy, batches):
    """What the promise is against: else the tests above would prove nothing."""
    optimizer = OPTIMIZERS["momentum"](toy.parameters())
    list(steps(toy, optimizer, batches, 2))
    mask = masks.prune(toy, density=0.3)
    mask.apply_(toy)
    list(steps(toy, optimizer, batches, 1))
    assert risen(toy, mask) > 0


def test_the_mask_holds_from_the_moment_it_is_attached(toy):
    mask = masks.prune(toy, density=0.3)
    mask.attach(OPTIMIZERS["Adam"](toy.parameters()), toy)
    assert risen(toy, mask) == 0


def test_a_removed_handle_lets_the_weights_go(toy, batches):
    optimizer = OPTIMIZERS["momentum"](toy.parameters())
    mask = masks.prune(toy, density=0.3)
    handle = mask.attach(optimizer, toy)
    list(steps(toy, optimizer, batches, 2))
    handle.remove()
    list(steps(toy, optimizer, batches, 1))
    assert risen(toy, mask) > 0


def test_zeros_stay_through_autocast_and_a_gradient_scaler(toy, batches):
    optimizer = OPTIMIZERS["momentum"](toy.parameters())
    scaler = torch.amp.GradScaler("cpu")
    mask = masks.prune(toy, density=0.3)
    mask.attach(optimizer, toy)
    before = toy.fc1.weight.detach().clone()
    overflowing = (batches[0][0] * math.inf, batches[0][1])  # the scaler skips this step
    for x, y in [overflowing, *batches]:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(toy(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        assert risen(toy, mask) == 0
    assert not torch.equal(toy.fc1.weight, before)
    assert toy.fc1.weight.isfinite().all()


def test_zeros_stay_in_every_one_of_two_processes(tmp_path):
    """Two processes of torch's own DDP on different images end with one network, zeros kept."""
    script = """
import sys, torch, torch.distributed as dist, torch.nn.functional as F
from torch import nn
from pruning_lab import masks
rank, meeting = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
model = nn.parallel.DistributedDataParallel(net)
mask = masks.prune(model, density=0.4)
mask.attach(optimizer, model)
torch.manual_seed(1 + rank)
for _ in range(3):
    optimizer.zero_grad()
    F.cross_entropy(model(torch.randn(5, 6)), torch.randint(3, (5,))).backward()
    optimizer.step()
zeros = [int((p == 0).sum()) for p in net.parameters()]
print(zeros, sum(p.double().sum().item() for p in net.parameters()))
dist.destroy_process_group()
"""
    command = [sys.executable, "-c", script]
    both = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    (first, errors), (second, _) = (process.communicate(timeout=60) for process in both)
    assert first.startswith("[29, 0, 14, 0]"), errors  # 48 - round(19.2), 24 - round(9.6)
    assert first == second


def test_parameters_keep_their_names_and_modules_their_types(toy):
    def face():
        return (
            list(toy.state_dict()),
            [name for name, _ in toy.named_parameters()],
            [type(module) for module in toy.modules()],
            [id(parameter) for parameter in toy.parameters()],
        )

    before = face()
    masks.prune(toy, density=0.3).attach(OPTIMIZERS["Adam"](toy.parameters()), toy)
    assert face() == before


def test_a_copy_and_a_second_training_keep_the_zeros(toy, split, tmp_path):
    config = training.TrainConfig(epochs=1, batch_size=16)
    mask = masks.prune(toy, density=0.3)
    list(training.train(toy, split, config, mask=mask))
    twin = copy.deepcopy(toy)
    assert risen(twin, mask) == 0
    torch.save(toy.state_dict(), tmp_path / "model.pt")
    twin.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    list(training.train(twin, split, config, mask=masks.Mask.of(twin)))
    assert risen(twin, mask) == 0
    assert not torch.equal(twin.fc1.weight, toy.fc1.weight)


def test_the_mask_holds_after_the_model_was_cast(toy, batches):
    optimizer = torch.optim.SGD(toy.parameters(), lr=0.1)
    mask = masks.prune(toy, density=0.3)
    mask.attach(optimizer, toy)
    list(steps(toy, optimizer, batches, 1))
    for cast in (toy.double, toy.bfloat16, toy.float):
        list(steps(cast(), optimizer, batches, 2))
        assert risen(toy, mask) == 0
    toy.to(memory_format=torch.channels_last)
    list(steps(toy, optimizer, batches, 2))
    assert risen(toy, mask) == 0


def test_a_users_own_network_is_pruned_with_its_branches_and_groups(branching, batches):
    names = ["stem", "block.0", "block.2", "head"]
    assert list(masks.prunable(branching)) == names
    optimizer = OPTIMIZERS["AdamW"](branching.parameters())
    mask = masks.prune(branching, density=dict.fromkeys(names, 0.5))
    mask.attach(optimizer, branching)
    for _ in steps(branching, optimizer, batches):
        assert risen(branching, mask) == 0
    assert branching.norm.weight.all()  # norms and biases are never pruned
    assert mask["block.0"].shape == (4, 2, 3, 3)


def test_a_frozen_layer_is_masked_once_and_left_alone(toy, batches):
    toy.conv1.requires_grad_(False)
    optimizer = OPTIMIZERS["momentum"]([p for p in toy.parameters() if p.requires_grad])
    mask = masks.prune(toy, density=0.5)
    mask.attach(optimizer, toy)
    before = toy.conv1.weight.clone()
    list(steps(toy, optimizer, batches))
    assert torch.equal(toy.conv1.weight, before)
    assert risen(toy, mask) == 0


def test_an_optimizer_of_another_model_is_refused(toy):
    foreign = OPTIMIZERS["Adam"](copy.deepcopy(toy).parameters())
    before = toy.fc1.weight.detach().clone()
    with pytest.raises(ValueError, match="parameters\\(\\) of the same model"):
        masks.prune(toy, density=0.3).attach(foreign, toy)
    assert torch.equal(toy.fc1.weight, before)


def test_a_shared_weight_is_pruned_once_under_its_first_name(batches):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode, self.decode = nn.Linear(64, 64), nn.Linear(64, 64)
            self.decode.weight = self.encode.weight

        def forward(self, x):
            return self.decode(self.encode(x.flatten(1)).relu())

    model = Tied()
    mask = masks.prune(model, density=0.5)
    assert list(mask) == ["encode"]
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    mask.attach(optimizer, model)
    list(steps(model, optimizer, batches))
    assert int(model.decode.weight.count_nonzero()) == round(0.5 * 64 * 64)


@pytest.mark.parametrize(
    "compute",
    [
        lambda layer: nn.utils.parametrizations.weight_norm(layer),
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    ],
)
def test_a_layer_that_computes_its_weight_is_refused_by_name(toy, compute):
    compute(toy.fc1)
    with pytest.raises(TypeError, match=r"'fc1' computes its weight .* make it plain"):
        masks.prune(toy, density=0.5)


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
    earlier = masks.Mask({"conv1": torch.rand(4, 1, 3, 3) < 0.5})
    within = masks.prune(toy, density={"fc1": 0.5}, within=earlier)
    assert torch.equal(within["conv1"], earlier["conv1"])
    assert torch.equal(within["fc1"], mask["fc1"])


def test_a_mask_of_some_layers_restricts_only_those(toy):
    earlier = masks.Mask({"conv1": torch.zeros(4, 1, 3, 3, dtype=bool)})
    mask = masks.prune(toy, density=0.5, within=earlier)
    assert not mask["conv1"].any()
    assert torch.equal(mask["fc1"], masks.prune(toy, density=0.5)["fc1"])


@given(first=st.floats(0, 1), second=st.floats(0, 1))
def test_amounts_refer_to_the_whole_layer_and_never_compound(first, second):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 9))
    earlier = masks.prune(model, density=first)
    earlier.apply_(model)
    later = masks.prune(model, density=second, within=earlier)
    assert later.kept == min(round(63 * first), round(63 * second))
    assert not (later["0"] & ~earlier["0"]).any()


def test_pruning_again_by_quality_raises_the_threshold(toy):
    first = masks.prune(toy, quality=1.0)
    second = masks.prune(toy, quality=1.0, within=first)
    for before, after in zip(first.receipt, second.receipt, strict=True):
        survivors = masks.prunable(toy)[before.layer].weight.detach()[first[before.layer]]
        assert after.threshold == pytest.approx(survivors.numpy().std(), rel=1e-5)
        assert after.threshold > before.threshold
        assert after.kept < before.kept


def test_all_layers_ranked_together_share_one_density(toy):
    mask = masks.prune(toy, density=0.25, across_layers=True)
    flat = torch.cat([la.weight.detach().abs().flatten() for la in masks.prunable(toy).values()])
    cut = flat.sort(descending=True).values[mask.kept - 1]
    assert mask.kept == round(0.25 * flat.numel())
    assert all(
        torch.equal(mask[name], layer.weight.abs() >= cut)
        for name, layer in masks.prunable(toy).items()
    )


def test_a_criterion_of_ones_own_ranks_the_weights(toy):
    mask = masks.prune(toy, density=0.5, criterion=lambda weight: -weight)
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
        ({"quality": 1, "criterion": criteria.random}, ValueError, "goes with magnitude"),
        ({"quality": 1, "across_layers": True}, ValueError, "give density=NUMBER"),
        ({"density": {"fc1": 0.5}, "across_layers": True}, ValueError, "give density=NUMBER"),
        ({"density": 0.5, "within": masks.Mask({"fc9": torch.ones(1)})}, KeyError, "fc9"),
        ({"density": 0.5, "within": masks.Mask({"fc1": torch.ones(1)})}, ValueError, "shape"),
    ],
)
def test_a_wrong_call_gets_one_clear_sentence(toy, call, error, says):
    with pytest.raises(error, match=says) as caught:
        masks.prune(toy, **call)
    assert "\n" not in str(caught.value)


def test_a_network_without_layers_to_prune_is_told_so():
    with pytest.raises(ValueError, match="no Conv2d or Linear layer"):
        masks.prune(nn.Sequential(nn.ReLU()), density=0.5)


def test_a_weight_that_is_not_a_number_is_said_to_be_none(toy):
    toy.fc1.weight.data[0, 0] = math.nan
    for amount in ({"quality": 1}, {"density": 0.5}, {"threshold": 0.1}):
        with pytest.raises(ValueError, match="not a number"):
            masks.prune(toy, **amount)


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
        "ties: 24 of the dropped equal the smallest kept; earlier positions stayed",
    ]
    assert all("all gone" in note for note in notes["{'threshold': 9}"])
    assert notes["{'threshold': 0}"] == notes["{'density': 1}"] == 3 * ["nothing gone"]


def test_an_unknown_layer_of_a_mask_names_the_nearest(toy):
    with pytest.raises(KeyError, match="did you mean fc1"):
        masks.Mask.dense(toy)["fc_1"]
    assert "fc_1" not in masks.Mask.dense(toy)


def test_a_mask_of_another_network_is_refused(toy, branching):
    with pytest.raises(KeyError, match="no layer 'conv1' to prune"):
        masks.Mask.dense(toy).apply_(branching)


# --- files -------------------------------------------------------------------------------------


def test_a_mask_comes_back_with_its_receipt(toy, tmp_path):
    toy.to(memory_format=torch.channels_last)
    mask = masks.prune(toy, density=0.37)
    back = masks.Mask.load(mask.save(tmp_path / "mask"))
    assert list(back) == list(mask)
    assert all(torch.equal(back[name], mask[name]) for name in mask)
    assert back.receipt == mask.receipt
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
    return {"format": "pruning_lab mask 1", "shapes": {"fc1": [8]}, "receipt": [row], **changes}


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
        {"format": "pruning_lab mask 1"},
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
    with pytest.raises(ValueError, match=r"odd\.mask is a broken mask file"):
        masks.Mask.load(path)
