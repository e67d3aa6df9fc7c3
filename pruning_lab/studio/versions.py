"""Versions of the weights: the network as it came, and what each retraining left."""

import copy
from collections.abc import Callable, Collection, Mapping

from torch import Tensor, nn

from pruning_lab.evaluation import Changes
from pruning_lab.layers import not_covered, prunable
from pruning_lab.masks import Mask, Receipt, ReceiptRow
from pruning_lab.sensitivity import Scan
from pruning_lab.studio.history import ALL, Setting
from pruning_lab.studio.layers import Layer
from pruning_lab.studio.metrics import LayerMetrics, Layers

Settings = Mapping[str, Setting]


class Version:
    """One set of weights of a network, which is pruned by settings; nothing here changes it."""

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor]):
        self._model, self.weights = model, dict(weights)
        layers = prunable(self.network())
        self.layers = {name: Layer(name, layer.weight) for name, layer in layers.items()}
        self.scan: Scan | None = None
        self._prepared = False

    def network(self) -> nn.Module:
        """The network before pruning, whose parameters and buffers are these tensors, no copies."""
        memo = {}
        for name, tensor in self._model.state_dict(keep_vars=True).items():
            given = self.weights[name].detach()
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(given, requires_grad=False) if is_parameter else given
        return copy.deepcopy(self._model, memo).eval()

    def prepare(self, say: Callable[[str], None], stale: Callable[[], bool]) -> None:
        """Count ahead what makes a slider quick, layer by layer."""
        for number, layer in enumerate(self.layers.values(), start=1):
            if self._prepared or stale():
                return
            if len(self.layers) > 2:
                say(f"preparing {layer.name}, {number} of {len(self.layers)} …")
            layer.prepare()
        self._prepared = True

    def changes(self, settings: Settings, before: Settings) -> Changes:
        """The weights of the layers that other settings than before prune."""
        return {
            name: layer.cut(layer.choose(settings.get(name, ALL)))
            for name, layer in self.layers.items()
            if settings.get(name, ALL) != before.get(name, ALL)
        }

    def rows(self, settings: Settings, locks: Collection[str], flops: Mapping[str, int]) -> Layers:
        rows = []
        for name, layer in self.layers.items():
            asked = settings.get(name, ALL)
            choice = layer.choose(asked)
            rows.append(
                LayerMetrics(
                    layer=name,
                    asked=asked,
                    threshold=choice.threshold,
                    quality=choice.threshold / layer.sigma if layer.sigma else 0.0,
                    sigma=layer.sigma,
                    weights=layer.size,
                    kept=choice.kept,
                    flops=flops.get(name),
                    locked=name in locks,
                    is_conv=layer.is_conv,
                )
            )
        return Layers(rows)

    def mask(self, settings: Settings) -> Mask:
        """What stays, with its receipt."""
        kept, rows = {}, []
        for name, layer in self.layers.items():
            choice = layer.choose(settings.get(name, ALL))
            kept[name] = layer.kept(choice)
            asked = str(settings[name]) if name in settings else "-"
            cut = choice.threshold if name in settings and choice.kept else None
            density = choice.kept / max(layer.size, 1)
            row = (name, asked, cut, layer.sigma, layer.size, choice.kept, density)
            rows.append(ReceiptRow(*row))
        return Mask(kept, Receipt(rows, not_covered=not_covered(self._model)))
