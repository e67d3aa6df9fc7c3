"""Networks that a studio prunes: the model as it came, and what each retraining left."""

import copy
from collections.abc import Callable, Iterator, Mapping

from torch import Tensor, nn

from pruning_lab import counts, models
from pruning_lab.data import Images
from pruning_lab.evaluation import Evaluator, right
from pruning_lab.masks import prunable
from pruning_lab.studio.attempts import ALL, Setting
from pruning_lab.studio.layers import Choice, Layer


class Origin:
    """The model as the studio found it; changing it behind the studio's back is noticed."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.seen, self.content = self.look(), models.fingerprint(model)

    def check(self) -> None:
        if (seen := self.look()) == self.seen:
            return
        if models.fingerprint(self.model) != self.content:
            raise RuntimeError(
                "the model was changed since the studio opened it, so its numbers no longer hold; "
                "make a new Studio"
            )
        self.seen = seen  # changed and changed back, as masks.masked does

    def look(self) -> list[tuple]:
        """What differs after a change: where tensors lie, how often they were written, some values.

        Fused optimizers and whoever writes to `.data` leave the count of writings as it was.
        """
        state = self.model.state_dict(keep_vars=True).values()
        return [(t.data_ptr(), 0 if t.is_inference() else t._version, *_some(t)) for t in state]


def _some(tensor: Tensor, count: int = 32) -> list[float]:
    """Values from all over a tensor, which is not read as a whole."""
    held = tensor.untyped_storage().nbytes() // tensor.element_size() - tensor.storage_offset()
    size = min(tensor.numel(), held)
    step = max(1, size // count)
    return tensor.detach().as_strided((size // step,), (step,), tensor.storage_offset()).tolist()


class Base:
    """A network with one set of weights: what a slider moves on, until it is retrained."""

    def __init__(self, number: int, seen: list, model: nn.Module, weights: Mapping[str, Tensor]):
        self.number, self.seen = number, seen  # what the model looked like that it shares
        self.model = sharing(model, weights).eval()
        found = prunable(self.model)
        self.layers = {name: Layer(name, module.weight) for name, module in found.items()}
        self.choices: dict[str, Choice] = {}
        self._asked: dict[str, Setting] = {}
        self.choose({})
        self.session: Evaluator | None = None
        self.prepared = False
        self._settled = dict(self.choices)  # what the session last went through with

    def choose(self, settings: Mapping[str, Setting]) -> None:
        for name, layer in self.layers.items():
            setting = settings.get(name, ALL)
            if self._asked.get(name) != setting:
                self.choices[name], self._asked[name] = layer.choose(setting), setting

    def prepare(self, say: Callable[[str], None], stale: Callable[[], bool]) -> None:
        """What makes a slider quick; a layer that is done stays done."""
        for number, layer in enumerate(self.layers.values(), start=1):
            if stale():
                return
            if len(self.layers) > 2:
                say(f"{layer.name}, {number} of {len(self.layers)}")
            layer.prepare()
        self.prepared = True

    def open(self, images: Images, budget: int, recalibrate: Images | None) -> None:
        self.session = Evaluator(self.model, images, budget=budget, recalibrate=recalibrate)

    def advance(self, choices: Mapping[str, Choice]) -> Iterator[Tensor]:
        """Hits batch by batch, of what lies behind the first layer that has changed."""
        changes = {
            name: self.layers[name].cut(choice)
            for name, choice in choices.items()
            if not choice.same(self._settled[name])
        }
        seen = 0
        for logits in self.session.advance(changes):
            yield right(logits, self.session.labels[seen : seen + len(logits)]).cpu()
            seen += len(logits)
        self._settled = dict(choices)


def sharing(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the model whose parameters and buffers are these tensors, and not copies."""
    memo = {}
    own = model.state_dict(keep_vars=True)
    for name, tensor in own.items():
        given = weights[name].detach()
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(given, requires_grad=False) if is_parameter else given
    return copy.deepcopy(model, memo)


def flops_of(model: nn.Module, session: Evaluator) -> dict[str, int]:
    """Of each layer, per image; a layer that never runs has none."""
    counted = {row.layer: row.flops for row in counts.layers(model, [(session.image, None)])}
    return {name: counted.get(name, 0) for name in prunable(model)}
