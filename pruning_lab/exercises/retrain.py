"""The tasks of notebook 03 (retrain)."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from numbers import Real
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_lab.exercises.comparison import brief
from pruning_lab.exercises.exercise import Exercise, Guess, Verdict, call
from pruning_lab.exercises.nearness import curve, points
from pruning_lab.exercises.once import SIX
from pruning_lab.masks import Mask
from pruning_lab.training import TrainConfig

# --------------------------------------------------------------------------------------- 03.back

BACK = Exercise(
    id="03.back",
    kind="predict",
    minutes=2,
    difficulty=1,
    importance=3,
    points=2,
    guess=Guess(
        example=40,
        nearness=points(),
        unit="%",
        low=0,
        high=100,
        slips={
            "To the optimizer zero is a value like any other: the loss has a gradient there "
            "too, and the next step moves the weight.": lambda _: 0,
        },
    ),
    hints=(
        "Which line of the loop knows that a weight was pruned?",
        "The gradient of a weight depends on its input and on the error, not on its own value.",
        "What stays zero is a weight whose gradient was zero in all fifty steps.",
    ),
)

# --------------------------------------------------------------------------------------- 03.step

STEPS = 5
OPTIMIZERS = {
    "SGD with momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
}


def _step_cases(random: Random) -> Iterator[tuple]:
    for name in OPTIMIZERS:
        yield name, random.randrange(10_000)


def _in_training(name: str, seed: int) -> tuple:
    """A network that was pruned during its training, and the batches of the steps to come.

    The optimizer has momentum for every weight; one neuron has lost all its inputs. Of the
    kept weights one is exactly zero, and one nearly.
    """
    drawn = partial(torch.randn, generator=torch.Generator().manual_seed(seed))
    model = nn.Sequential()
    for part, module in (("fc1", nn.Linear(4, 5)), ("tanh", nn.Tanh()), ("fc2", nn.Linear(5, 3))):
        model.add_module(part, module)
    batches = [(drawn(8, 4), drawn(8, 3).argmax(1)) for _ in range(2 + STEPS)]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * drawn(parameter.shape))
    optimizer = OPTIMIZERS[name](model.parameters())
    for batch in batches[:2]:
        _step_as(model, {}, optimizer, *batch)
    optimizer.zero_grad()
    kept = {part: weight.abs() > weight.abs().median() for part, weight in _weights(model).items()}
    kept["fc1"][0] = False
    kept["fc1"][1, :2] = True
    _cut(model, kept)
    _weights(model)["fc1"][1, :2] = torch.tensor([0, 0.01])
    return model, Mask(kept), optimizer, batches[2:]


def _trace(step: Callable, name: str, seed: int) -> dict | None:
    """What five steps did to the network; None where the function did and returned nothing."""
    model, mask, optimizer, batches = _in_training(name, seed)
    kept, before = dict(mask), [parameter.detach().clone() for parameter in model.parameters()]
    losses, revived, zero = [], [], []
    for x, y in batches:
        loss = step(model, mask, optimizer, x, y)
        losses.append("None" if loss is None else torch.as_tensor(loss).item())
        weights = _weights(model)
        revived.append(sum(int(w[~kept[n]].count_nonzero()) for n, w in weights.items()))
        zero.append(weights["fc1"][1, 0].item())
    if losses == ["None"] * STEPS and all(map(torch.equal, before, model.parameters())):
        return None
    return {
        "pruned weights that are not zero": revived,
        "a kept weight that was zero": zero,
        "loss of each step": losses,
        "kept weights": torch.cat([w[kept[n]] for n, w in _weights(model).items()]),
        "biases": torch.cat([model.fc1.bias, model.fc2.bias]).detach().clone(),
    }


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: model.get_submodule(name).weight.detach() for name in ("fc1", "fc2")}


def _cut(model: nn.Module, mask: Mapping[str, Tensor]) -> None:
    for name, kept in mask.items():
        model.get_submodule(name).weight.detach().mul_(kept)


def _step(model, mask, optimizer, x, y) -> float:
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for name, kept in mask.items():
            model.get_submodule(name).weight.mul_(kept)
    return loss.item()


def _nothing(model: nn.Module, mask: Mapping[str, Tensor]) -> None:
    pass


def _step_as(
    model, mask, optimizer, x, y, *, first=_nothing, between=_nothing, last=_cut, skip=(), of=None
) -> float:
    """A training step in which the mask does something else, or at another time.

    Calls of the optimizer in `skip` are left out; the loss is that `of` the outputs.
    """
    first(model, mask)
    loss = F.cross_entropy(of(model(x)) if of else model(x), y)
    if "zero_grad" not in skip:
        optimizer.zero_grad()
    loss.backward()
    between(model, mask)
    if "step" not in skip:
        optimizer.step()
    last(model, mask)
    return loss.item()


def _upside_down(model: nn.Module, mask: Mapping[str, Tensor]) -> None:
    _cut(model, {name: ~kept for name, kept in mask.items()})


def _for_each_layer(change: Callable[[nn.Module, Tensor], object]) -> Callable:
    def changed(model: nn.Module, mask: Mapping[str, Tensor]) -> None:
        for name, kept in mask.items():
            change(model.get_submodule(name), kept)

    return changed


def _and_biases(change: Callable[[Tensor, Tensor], object]) -> Callable:
    def changed(model: nn.Module, mask: Mapping[str, Tensor]) -> None:
        _cut(model, mask)
        _for_each_layer(lambda layer, kept: change(layer.bias.detach(), kept))(model, mask)

    return changed


def _recomputed(model, mask, optimizer, x, y) -> float:
    kept = {name: weight != 0 for name, weight in _weights(model).items()}
    return _step(model, kept, optimizer, x, y)


def _new_parameter(layer: nn.Module, kept: Tensor) -> None:
    layer.weight = nn.Parameter(layer.weight * kept)


STEP = Exercise(
    id="03.step",
    kind="write",
    minutes=10,
    difficulty=3,
    importance=5,
    points=12,
    cases=_step_cases,
    answer=_step,
    observe=_trace,
    shown=lambda optimizer, _seed: f"five steps with {optimizer}",
    twins={
        "only the gradients are masked, and the optimizer still moves the pruned weights by the "
        "momentum that it remembers; set the weights to zero, after optimizer.step().": partial(
            _step_as,
            between=_for_each_layer(lambda layer, kept: layer.weight.grad.mul_(kept)),
            last=_nothing,
        ),
        "the mask is applied before optimizer.step(), which moves the pruned weights again; "
        "apply it after the step.": (
            partial(_step_as, first=_cut, last=_nothing),
            partial(_step_as, between=_cut, last=_nothing),
        ),
        "nothing sets the pruned weights back to zero. A mask made from the weights after the "
        "step finds no zeros either; use the one that is given.": partial(_step_as, last=_nothing),
        "the mask is made from `weight != 0`. A weight that is kept can be exactly zero for a "
        "moment, and is then pruned for good; use the mask that is given.": _recomputed,
        "the biases are masked too. Biases are never pruned: they train as before, even those of a "
        "neuron that has no weights left.": (
            partial(_step_as, last=_and_biases(lambda bias, kept: bias.zero_())),
            partial(_step_as, last=_and_biases(lambda bias, kept: bias.mul_(kept.any(1)))),
            partial(_step_as, last=_and_biases(lambda bias, kept: bias.mul_(kept.all(1)))),
            partial(_step_as, between=_for_each_layer(lambda layer, kept: layer.bias.grad.zero_())),
        ),
        "torch refuses to change a parameter in place while it records gradients; put the line "
        "into `with torch.no_grad():`.": partial(
            _step_as, last=_for_each_layer(lambda layer, kept: layer.weight.mul_(kept))
        ),
        "a parameter cannot be replaced by a tensor; change its values in place: `with "
        "torch.no_grad(): layer.weight *= kept`.": partial(
            _step_as,
            last=_for_each_layer(lambda layer, kept: setattr(layer, "weight", layer.weight * kept)),
        ),
        "a new nn.Parameter takes the weight's place. The optimizer still moves the old one, so "
        "the weights stop learning; change the values in place.": partial(
            _step_as, last=_for_each_layer(_new_parameter)
        ),
        "the gradients of earlier steps add up; call optimizer.zero_grad() before backward().": (
            partial(_step_as, skip=["zero_grad"])
        ),
        "nothing is learned: optimizer.step() is missing, or the gradients are cleared between "
        "backward() and it.": partial(_step_as, skip=["step"]),
        "the mask is upside down: the kept weights are set to zero. True is a weight that stays.": (
            partial(_step_as, last=_upside_down)
        ),
        "the outputs go through a softmax before the loss; cross_entropy has one in it.": (
            partial(_step_as, of=lambda outputs: outputs.softmax(1))
        ),
        "the step is right, but it returns None; return the loss as a number, loss.item().": (
            lambda *case: _step(*case) and None
        ),
    },
    hints=(
        "It is a training step as in the loop above, with one more thing at its end.",
        "After optimizer.step() multiply each weight by its mask; the weight of the layer that the "
        "mask calls name is model.get_submodule(name).weight.",
        "Under torch.no_grad(), for name, kept in mask.items(): that weight.mul_(kept). Return "
        "loss.item().",
    ),
    blocked=("masks.Mask.hold", "masks.Mask.apply_"),
)

# --------------------------------------------------------------------------------- 03.optimizers

TARGETS = (1.0, -0.3, 0.8, -1.0, 0.3, 0.1)
TRIED = {  # name -> how it is made, and why it does or does not bring a weight back
    "SGD": (
        partial(torch.optim.SGD, lr=0.1),
        "its step is a multiple of the gradient, which is zero, and it remembers nothing",
    ),
    "SGD + decay": (
        partial(torch.optim.SGD, lr=0.1, weight_decay=0.01),
        "decay adds a multiple of the weight to the gradient, and the weight is zero",
    ),
    "momentum": (
        partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        "it remembers the gradients of earlier steps and keeps moving without a new one",
    ),
    "RMSprop": (
        partial(torch.optim.RMSprop, lr=0.1),
        "what it remembers are squares, and they only scale the present gradient, which is zero",
    ),
    "Adagrad": (
        partial(torch.optim.Adagrad, lr=0.1),
        "its sum of squares only scales the present gradient, which is zero",
    ),
    "Adam": (
        partial(torch.optim.Adam, lr=0.1),
        "its running mean of gradients is a momentum, and moves the weight without a new one",
    ),
}


def _moved(make: Callable) -> float:
    """The largest of the three smallest of six weights, pruned after two steps, after a third."""
    w, target = torch.tensor(SIX, requires_grad=True), torch.tensor(TARGETS)
    optimizer, kept = make([w]), torch.ones(6)
    for number in range(3):
        if number == 2:
            kept = (w.abs() > w.abs().sort().values[2]).float()
            w.detach().mul_(kept)
        optimizer.zero_grad()
        (w - target).square().sum().backward()
        w.grad *= kept
        optimizer.step()
    return w.detach()[kept == 0].abs().max().item()


def _all_run(comes_back: object) -> Verdict:
    """A sentence for each wrong entry; all six are run."""
    if not isinstance(comes_back, Mapping) or comes_back.keys() != TRIED.keys():
        raise ValueError(f"comes_back is a dict with the keys {', '.join(TRIED)}")
    if odd := [name for name, entry in comes_back.items() if entry not in (True, False)]:
        raise ValueError(f"an entry is True or False, got {brief(comes_back[odd[0]])} ({odd[0]})")
    moved = {name: _moved(make) for name, (make, _) in TRIED.items()}
    lines = tuple((name, f"{far:.3f}") for name, far in moved.items())
    wrong = [f"{n}: {TRIED[n][1]}" for n in TRIED if bool(comes_back[n]) != (moved[n] > 0)]
    if wrong:
        return Verdict("✗", f"wrong: {'; '.join(wrong)}.")
    return Verdict("✓", "right. The largest pruned weight after one more step:", lines)


RETURNING = Exercise(
    id="03.optimizers",
    kind="debug",
    minutes=6,
    difficulty=2,
    importance=3,
    points=6,
    observe=_all_run,
    hints=(
        "The gradient is zero. What else is in the formula of the optimizer's step?",
        "Decay adds a multiple of the weight, which is zero. Which ones keep a mean of gradients?",
        "A mean of gradients still moves the weight; a mean of their squares only divides.",
    ),
)

# ------------------------------------------------------------------------------------ 03.control

CONTROL_KEYS = ("start", "epochs", "lr", "mask")


def _judged(
    control: Callable, *, retraining: TrainConfig | None = None, dense: TrainConfig | None = None
) -> Verdict:
    """Compared with how the notebook retrained the pruned network, and trained the dense one."""
    retraining = retraining or TrainConfig(epochs=6, lr=0.1)
    dense = dense or TrainConfig(epochs=3, lr=0.15)
    made = call(control)
    if made is None or (
        isinstance(made, Mapping) and None in map(made.get, made.keys() - {"mask"})
    ):
        return Verdict("○", f"not yet: control() returns {brief(made)}")
    _check_control(made)
    lr, new, more = made["lr"], made["start"] == "new", made["epochs"] - retraining.epochs
    faults = {
        "a new network has not had the training that both should share; start from the dense one, "
        "as the pruned network did.": new,
        "the control trains for fewer epochs than the pruned network after its cut, so training "
        "time may still explain a difference.": more < 0,
        "the control trains for more epochs than the pruned network after its cut; count only "
        "those that follow the dense training.": more > 0,
        "the mask is held, so this is the pruned network again; a control keeps all its weights.": (
            made["mask"] not in (None, False)
        ),
    }
    if not math.isclose(lr, retraining.lr, rel_tol=1e-3):
        is_first = math.isclose(lr, dense.lr, rel_tol=1e-3)
        which = "that of the first training" if is_first else "another"
        faults[f"the learning rate is {which}; take that of the pruned network's retraining."] = (
            True
        )
    if wrong := [words for words, applies in faults.items() if applies]:
        return Verdict("✗", f"wrong: {' And '.join(wrong)}")
    return Verdict("✓", "right: the two networks differ in the mask and in nothing else")


def _check_control(made: object) -> None:
    """Raise ValueError unless it has the form of a control."""
    if not isinstance(made, Mapping) or made.keys() != set(CONTROL_KEYS):
        keys = ", ".join(CONTROL_KEYS)
        raise ValueError(f"control() returns a dict with the keys {keys}, got {brief(made)}")
    if made["start"] not in ("dense", "new"):
        got = f"got {brief(made['start'])}"
        raise ValueError(f'start is "dense" (before the cut) or "new" (new weights), {got}')
    for key in ("epochs", "lr"):
        if isinstance(made[key], bool) or not isinstance(made[key], Real):
            raise ValueError(f"{key} is a number, got {brief(made[key])}")
    if not isinstance(made["mask"], bool | Mapping | None):
        raise ValueError(f"mask is True (it is held) or False, got {brief(made['mask'])}")


CONTROL = Exercise(
    id="03.control",
    kind="design",
    minutes=12,
    difficulty=3,
    importance=5,
    points=12,
    observe=_judged,
    hints=(
        "In what do the two networks differ that you compare? The mask is one thing.",
        "The pruned network had the dense training and then its retraining. A control gets both.",
        "It starts from the dense network, and trains for as many epochs and with the learning "
        "rate of the retraining, without a mask.",
    ),
)

# -------------------------------------------------------------------------------------- 03.humps

HUMPS = Exercise(
    id="03.humps",
    kind="predict",
    minutes=3,
    difficulty=2,
    importance=2,
    points=2,
    guess=Guess(
        example=[20, 50, 80],
        nearness=curve(("the negative side", "zero", "the positive side"), half=20),
        unit="% of the tallest bar",
        low=0,
        high=100,
        slips={
            "One peak at zero is the dense layer; the weights near zero are those that were "
            "pruned.": lambda _: [50, 100, 50],
        },
    ),
    hints=(
        "The histogram has the surviving weights only.",
        "Which weights were pruned, and where in the histogram were they?",
        "Retraining moves the survivors; a few of them come near to zero or cross it.",
    ),
)

# -------------------------------------------------------------------------------------- 03.print

PRINT = Exercise(
    id="03.print",
    kind="explain",
    minutes=4,
    difficulty=2,
    importance=4,
    points=4,
    rubric=(
        "It names the change against the control, the dense network trained as long; or both "
        "changes, each with what it is compared with.",
        "It says why: these two networks differ in the mask only, the other two in training time "
        "as well.",
        "It gives the paired interval, and claims no more than the interval allows.",
    ),
    hints=(
        "Of what is each change the effect: of pruning, of more training, or of both?",
        "Which of the two numbers would a reader repeat as the price of pruning?",
        "Does the interval of that number have zero inside?",
    ),
)

EXERCISES = (BACK, STEP, RETURNING, CONTROL, HUMPS, PRINT)
