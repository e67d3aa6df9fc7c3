"""One layer's density under a slider: what it takes to store and to compute, measured here."""

import copy
from collections.abc import Sequence
from html import escape

from ipywidgets import HTML, FloatLogSlider, HBox, VBox
from matplotlib.figure import Figure
from torch import Tensor, nn

from pruning_lab import cost, masks, plots
from pruning_lab.data import Images
from pruning_lab.evaluation import measuring
from pruning_lab.layers import prunable
from pruning_lab.sparse import SparseRow, example_images, timed
from pruning_lab.widgets.drawing import WIDTH, for_pages

_FIRST = (0.5, 0.2, 0.05)  # densities measured before the slider moves


class CostSlider(VBox):
    """Time and bytes of one layer over its density, measured on this machine.

    `images` is the shape (C, H, W) of an image, images (N, C, H, W) or a split; `batch` of them
    enter the network at once. The largest weights stay. A density is measured when it is first set:
    dense and sparse in turn, for about half a second. Set `panel.density` in a cell, or move the
    slider; read `panel.row`, as of `sparse.bench`, and `panel.sizes`, encoding -> bytes, which are
    estimated for a layer of more than 2^19 weights.

    Raises KeyError for a layer that is not there.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str,
        images: Images | Tensor | Sequence[int],
        *,
        batch: int = 1,
        density: float = 0.1,
    ):
        weight = prunable(model)[layer].weight  # raises for an unknown one
        self.layer, self.batch, self._module = layer, batch, model.get_submodule(layer)
        self._x, self._measured = self._entering(model, images), {}
        self.slider = FloatLogSlider(density, min=-2, max=0, step=0.02, readout_format=".1%")
        self.slider.continuous_update, self.slider.layout.width = False, "480px"
        self.picture, self.text = HTML(), HTML()
        label = HTML(f"density of {escape(layer)}, {weight.numel():,} weights")
        super().__init__([HBox([label, self.slider]), self.picture, self.text])
        for first in _FIRST:
            self._measure(first)
        self.slider.observe(lambda _: self._show(), "value")
        self._show()

    @property
    def density(self) -> float:
        return self.slider.value

    @density.setter
    def density(self, density: float) -> None:
        self.slider.value = density

    @property
    def row(self) -> SparseRow:
        """Milliseconds, dense and sparse, at this density."""
        return self._measure(self.density)[0]

    @property
    def sizes(self) -> dict[str, int]:
        """Encoding -> bytes, as of `cost.sizes`."""
        return self._measure(self.density)[1]

    def _entering(self, model: nn.Module, images) -> Tensor:
        """What the layer gets of the first images."""
        seen = []
        hook = self._module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            with measuring(model):
                model(example_images(images, self.batch, model))
        finally:
            hook.remove()
        return seen[0].clone()

    def _measure(self, density: float) -> tuple[SparseRow, dict[str, int], bool]:
        if density not in self._measured:
            pruned = nn.Sequential(copy.deepcopy(self._module))
            masks.prune(pruned, density=density).apply_(pruned)
            with measuring(pruned):
                row = timed(self.layer, pruned[0], self._x)
            self._measured[density] = row, *cost.sizes(pruned[0].weight)
        return self._measured[density]

    def _show(self) -> None:
        row, sizes, estimated = self._measure(self.density)
        figure = Figure(figsize=(WIDTH / 100, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        rows, images = [row for row, *_ in self._measured.values()], f"batches of {self.batch}"
        plots.layer_times(rows, density=row.density, title=f"time, {images}", ax=left)
        plots.stored(sizes, title=f"bytes at {row.density:.1%}", ax=right)
        self._png = plots.png(figure)
        faster = f"{row.speedup.value:.2g}x ({row.speedup.low:.2g} to {row.speedup.high:.2g})"
        about = "about " if estimated else ""
        self.words = (
            f"{self.layer} at density {row.density:.1%}, {images}: {row.sparse_ms.value:.3g} ms "
            f"sparse, {row.dense_ms.value:.3g} ms dense, {faster} as fast; {about}"
            f"{sizes['ours']:,} bytes packed, {sizes['float32']:,} dense."
        )
        self.picture.value = plots.Picture(self._png, self.words, WIDTH).img
        self.text.value = f'<p role="status">{escape(self.words)}</p>'

    def __repr__(self) -> str:
        return self.words

    def _repr_mimebundle_(self, **options) -> dict:
        html = f"<p>{escape(self.words)}</p>"
        return for_pages(super()._repr_mimebundle_(**options), self.words, html, self._png)
