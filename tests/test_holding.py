"""A held mask: zeros stay zero, and an optimizer learns as if pruned weights were not there."""

import copy
import gc
import io
import math
import weakref
from itertools import cycle, islice

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import clip_grad_norm_

from pruning_lab import masks, training

muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")


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
    mask.hold(toy)
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


def test_the_mask_holds_from_the_moment_that_hold_returns(toy):
    mask = masks.prune(toy, density=0.3)
    mask.hold(toy)
    assert risen(toy, mask) == 0


def test_after_a_handle_is_removed_pruned_weights_move_again(toy, batches):
    optimizer = OPTIMIZERS["momentum"](toy.parameters())
    mask = masks.prune(toy, density=0.3)
    handle = mask.hold(toy)
    list(steps(toy, optimizer, batches, 2))
    handle.remove()
    list(steps(toy, optimizer, batches, 1))
    assert risen(toy, mask) > 0


def test_zeros_stay_through_autocast_and_a_gradient_scaler(toy, batches):
    optimizer = OPTIMIZERS["momentum"](toy.parameters())
    scaler = torch.amp.GradScaler("cpu")
    mask = masks.prune(toy, density=0.3)
    mask.hold(toy)
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


def test_zeros_stay_in_every_one_of_two_processes(two):
    """Two processes of torch's own DDP on different images end with one network, zeros kept."""
    first, second = (about["held"] for about in two[1])
    assert first[0] == [29, 0, 14, 0]  # 48 - round(19.2), 24 - round(9.6)
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
    masks.prune(toy, density=0.3).hold(toy)
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
    mask.hold(toy)
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
    mask.hold(branching)
    for _ in steps(branching, optimizer, batches):
        assert risen(branching, mask) == 0
    assert branching.norm.weight.all()  # norms and biases are never pruned
    assert mask["block.0"].shape == (4, 2, 3, 3)


def test_a_frozen_layer_is_masked_once_and_left_alone(toy, batches):
    toy.conv1.requires_grad_(False)
    optimizer = OPTIMIZERS["momentum"]([p for p in toy.parameters() if p.requires_grad])
    mask = masks.prune(toy, density=0.5)
    mask.hold(toy)
    before = toy.conv1.weight.clone()
    list(steps(toy, optimizer, batches))
    assert torch.equal(toy.conv1.weight, before)
    assert risen(toy, mask) == 0


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
    mask.hold(model)
    list(steps(model, optimizer, batches))
    assert int(model.decode.weight.count_nonzero()) == round(0.5 * 64 * 64)


# --- whatever the loop does --------------------------------------------------------------------


def test_zeros_stay_where_a_layer_is_trained_only_later(toy, batches):
    mask = masks.prune(toy, density=0.3)
    optimizer = torch.optim.SGD(toy.fc2.parameters(), lr=0.1, momentum=0.9)
    mask.hold(toy)
    list(steps(toy, optimizer, batches, 2))
    optimizer.add_param_group({"params": list(toy.fc1.parameters())})
    before = toy.fc1.weight.detach().clone()
    list(steps(toy, optimizer, batches, 2))
    assert risen(toy, mask) == 0
    assert not torch.equal(toy.fc1.weight, before)


def test_zeros_and_gradients_stay_in_a_layer_that_was_frozen_when_it_was_held(toy, batches):
    toy.fc1.requires_grad_(False)
    mask = masks.prune(toy, density=0.3)
    mask.hold(toy)
    assert not toy.fc1.weight.requires_grad
    toy.fc1.requires_grad_(True)
    list(steps(toy, OPTIMIZERS["AdamW"](toy.parameters()), batches, 2))
    assert not toy.fc1.weight.grad[~mask["fc1"]].any()
    assert toy.fc1.weight.grad[mask["fc1"]].any()
    assert risen(toy, mask) == 0


@muon
def test_two_optimizers_share_a_network_one_of_them_without_masked_weights(toy, batches):
    mask = masks.prune(toy, density=0.3)
    mask.hold(toy)
    matrices = torch.optim.Muon([toy.fc1.weight, toy.fc2.weight], lr=0.05)
    others = torch.optim.AdamW([*toy.conv1.parameters(), toy.fc1.bias, toy.fc2.bias], lr=0.01)
    before = {name: p.detach().clone() for name, p in toy.named_parameters()}
    for x, y in batches:
        for optimizer in (matrices, others):
            optimizer.zero_grad()
        F.cross_entropy(toy(x), y).backward()
        matrices.step()
        others.step()
        assert risen(toy, mask) == 0
    assert not any(torch.equal(p, before[name]) for name, p in toy.named_parameters())


def test_an_optimizer_of_biases_alone_trains_under_a_mask(toy, batches):
    mask = masks.prune(toy, density=0.3)
    mask.hold(toy)
    optimizer = torch.optim.AdamW([toy.fc1.bias, toy.fc2.bias], lr=0.1)
    before = toy.fc1.weight.detach().clone(), toy.fc1.bias.detach().clone()
    list(steps(toy, optimizer, batches))
    assert torch.equal(toy.fc1.weight, before[0])
    assert not torch.equal(toy.fc1.bias, before[1])


def test_a_loop_without_any_optimizer_keeps_the_zeros(toy, batches):
    mask = masks.prune(toy, density=0.3)
    mask.hold(toy)
    for x, y in batches:
        toy.zero_grad()
        F.cross_entropy(toy(x), y).backward()
        with torch.no_grad():
            for parameter in toy.parameters():
                parameter -= 0.1 * parameter.grad
    assert risen(toy, mask) == 0


def test_accumulated_gradients_are_zero_where_weights_are_gone_and_exact_elsewhere(toy, batches):
    mask = masks.prune(toy, density=0.3)
    mask.apply_(toy)
    plain = copy.deepcopy(toy)
    mask.hold(toy)
    for model in (toy, plain):
        for x, y in batches[:2]:
            F.cross_entropy(model.eval()(x), y).backward()
    for name, kept in mask.items():
        held, free = (masks.prunable(m)[name].weight.grad for m in (toy, plain))
        assert free[~kept].any()
        assert torch.equal(held, free * kept)


def test_one_infinite_gradient_leaves_no_nan_in_a_pruned_weight(toy, batches):
    mask = masks.prune(toy, density=0.3)
    mask.hold(toy)
    gone = ~mask["fc1"]
    optimizer = torch.optim.SGD(toy.parameters(), lr=0.1, momentum=0.9)
    toy.fc1.weight.grad = torch.zeros_like(toy.fc1.weight)
    toy.fc1.weight.grad[gone] = math.inf  # set by hand, so that no hook of a backward pass sees it
    optimizer.step()
    assert risen(toy, mask) == 0
    list(steps(toy, optimizer, batches, 2))
    assert risen(toy, mask) == 0
    assert toy.fc1.weight.isfinite().all()
    F.cross_entropy(toy(batches[0][0] * math.inf), batches[0][1]).backward()
    assert toy.fc1.weight.grad[mask["fc1"]].isnan().any()
    assert not toy.fc1.weight.grad[gone].any()


@pytest.mark.parametrize("assign", [False, True])
def test_a_state_dict_that_is_loaded_under_a_mask_is_pruned_at_once(toy, batches, assign):
    dense = {name: tensor.clone() for name, tensor in toy.state_dict().items()}
    mask = masks.prune(toy, density=0.3)
    handle = mask.hold(toy)
    toy.load_state_dict(copy.deepcopy(dense), assign=assign)
    assert risen(toy, mask) == 0
    assert torch.equal(toy.fc1.bias, dense["fc1.bias"])
    list(steps(toy, OPTIMIZERS["momentum"](toy.parameters()), batches))
    assert not toy.fc1.weight.grad[~mask["fc1"]].any()
    assert risen(toy, mask) == 0
    handle.remove()
    toy.load_state_dict(dense)
    assert risen(toy, mask) > 0


def test_a_parameter_that_is_replaced_is_held_from_the_next_step_on(toy, batches):
    mask = masks.prune(toy, density=0.3)
    mask.hold(toy)
    toy.fc1.weight = nn.Parameter(torch.randn_like(toy.fc1.weight))
    list(steps(toy, OPTIMIZERS["momentum"](toy.parameters()), batches, 1))
    assert risen(toy, mask) == 0


def test_two_masks_on_one_network_keep_what_both_keep_until_one_is_removed(toy, batches):
    optimizer = OPTIMIZERS["momentum"](toy.parameters())
    list(steps(toy, optimizer, batches, 1))
    wide, narrow = masks.prune(toy, density=0.5), masks.prune(toy, density=0.2)
    wide.hold(toy)
    inner = narrow.hold(toy)
    list(steps(toy, optimizer, batches, 2))
    assert risen(toy, narrow) == 0
    inner.remove()
    list(steps(toy, optimizer, batches, 2))
    assert risen(toy, narrow) > 0
    assert risen(toy, wide) == 0


def test_a_mask_that_is_held_twice_holds_until_both_handles_are_removed(toy, batches):
    optimizer = OPTIMIZERS["momentum"](toy.parameters())
    list(steps(toy, optimizer, batches, 1))
    mask = masks.prune(toy, density=0.3)
    first, second = mask.hold(toy), mask.hold(toy)
    first.remove()
    first.remove()  # which changes nothing any more
    list(steps(toy, optimizer, batches, 2))
    assert risen(toy, mask) == 0
    second.remove()
    list(steps(toy, optimizer, batches, 2))
    assert risen(toy, mask) > 0


def test_a_deep_copy_and_a_pickle_are_free_until_held(toy, batches):
    dense = {name: tensor.clone() for name, tensor in toy.state_dict().items()}
    mask = masks.prune(toy, density=0.3)
    mask.hold(toy)
    file = io.BytesIO()
    torch.save(toy, file)
    file.seek(0)
    for twin in (copy.deepcopy(toy), torch.load(file, weights_only=False)):
        assert risen(twin, mask) == 0
        twin.load_state_dict(dense)
        list(steps(twin, OPTIMIZERS["momentum"](twin.parameters()), batches, 1))
        assert risen(twin, mask) > 0
        with mask.hold(twin):
            list(steps(twin, OPTIMIZERS["momentum"](twin.parameters()), batches, 2))
            assert risen(twin, mask) == 0
    assert risen(toy, mask) == 0


def test_a_mask_keeps_no_network_alive():
    model = nn.Sequential(nn.Linear(4, 3))
    masks.prune(model, density=0.5).hold(model)
    gone = weakref.ref(model[0].weight)
    del model
    gc.collect()
    assert gone() is None


# --- learning: against a layer from which the pruned inputs were cut by hand --------------------

ALIVE = [0, 3, 4, 7, 9, 15]  # inputs that stay, of 16


@pytest.fixture
def wide_and_small():
    """A network whose first layer has lost ten inputs to a mask, and one made without them."""
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 3))
    small = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    small[2].load_state_dict(wide[2].state_dict())
    small[0].weight.data.copy_(wide[0].weight[:, ALIVE])
    small[0].bias.data.copy_(wide[0].bias)
    kept = torch.zeros(4, 16, dtype=torch.bool)
    kept[:, ALIVE] = True
    masks.Mask({"0": kept}).hold(wide)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200, 16, generator=generator)
    y = torch.randint(3, (200,), generator=generator)
    return wide, small, x, y


LEARNERS = {
    "LBFGS": lambda p: torch.optim.LBFGS(p, max_iter=10, line_search_fn="strong_wolfe"),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9, weight_decay=1e-3),
}


@pytest.mark.parametrize("make", LEARNERS.values(), ids=LEARNERS)
def test_an_optimizer_reaches_the_loss_that_it_reaches_without_the_pruned_inputs(
    wide_and_small, make
):
    wide, small, x, y = wide_and_small
    losses = []
    for model, seen in ((wide, x), (small, x[:, ALIVE])):
        first = F.cross_entropy(model(seen), y).item()
        list(steps(model, make(model.parameters()), [(seen, y)], 8))
        losses.append(F.cross_entropy(model(seen), y).item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert losses[0] < first - 0.05  # it learned


def test_clipping_sees_the_gradient_of_the_small_layer(wide_and_small):
    wide, small, x, y = wide_and_small
    norms = []
    for model, seen in ((wide, x), (small, x[:, ALIVE])):
        F.cross_entropy(model(seen), y).backward()
        norms.append(clip_grad_norm_(model.parameters(), 0.01).item())
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    assert torch.allclose(wide[0].weight.grad[:, ALIVE], small[0].weight.grad, atol=1e-7)


@muon
def test_muon_moves_the_weights_that_are_left_as_it_moves_the_small_layers(wide_and_small):
    wide, small, x, y = wide_and_small
    moves = []
    for model, seen in ((wide, x), (small, x[:, ALIVE])):
        optimizer = torch.optim.Muon([model[0].weight], lr=0.1, weight_decay=0.0)
        before = model[0].weight.detach().clone()
        F.cross_entropy(model(seen), y).backward()
        optimizer.step()
        moves.append((model[0].weight - before).detach())
    assert torch.allclose(moves[0][:, ALIVE], moves[1], atol=2e-3)  # its products are in bfloat16
    assert moves[1].abs().max() > 0.02


def test_a_gradient_scaler_learns_under_a_mask_as_it_does_on_the_small_layer(wide_and_small):
    wide, small, x, y = wide_and_small
    losses = []
    for model, seen in ((wide, x), (small, x[:, ALIVE])):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        for _ in range(8):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(seen), y)).backward()
            scaler.unscale_(optimizer)
            clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
        losses.append(F.cross_entropy(model(seen), y).item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_compiled_network_trains_under_a_mask_as_the_plain_one_does(toy, batches, tmp_path):
    twin = copy.deepcopy(toy)
    compiled = torch.compile(twin, backend="eager")
    mask = masks.prune(compiled, density=0.3)
    assert list(mask) == ["conv1", "fc1", "fc2"]
    assert mask == masks.prune(toy, density=0.3)
    masks.Mask.load(mask.save(tmp_path / "mask.safetensors")).hold(toy)
    mask.hold(compiled)
    for model in (toy, compiled):
        model.eval()  # dropout would draw other numbers
        list(steps(model, OPTIMIZERS["momentum"](model.parameters()), batches))
    assert risen(twin, mask) == 0
    assert all(
        torch.allclose(a, b) for a, b in zip(*(m.parameters() for m in (toy, twin)), strict=True)
    )


def test_a_wrapped_network_has_the_layer_names_of_the_plain_one(toy):
    class Wrapper(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.module = model

        def forward(self, x):
            return self.module(x)

    mask = masks.prune(toy, density=0.3)
    toy.fc1 = torch.compile(toy.fc1, backend="eager")
    wrappers = (Wrapper(toy), nn.DataParallel(toy), torch.compile(Wrapper(toy), backend="eager"))
    for wrapped in wrappers:
        assert masks.prune(wrapped, density=0.3) == mask
        mask.apply_(wrapped)
    assert risen(toy, mask) == 0
