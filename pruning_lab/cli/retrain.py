"""`pruning-lab retrain`: train the weights that a mask keeps."""

from __future__ import annotations

from typing import Annotated

import pruning_lab as lab
from pruning_lab.cli import common
from pruning_lab.cli.train import Training, save


def retrain(
    file: Annotated[str, common.File()],
    *,
    mask: Annotated[str, common.File(), common.FILE],
    freeze: common.Layers = None,
    out: common.TrainedFile = "pruned.safetensors",
    training: Training = Training(),
    network: common.Network = common.Network(),
    images: common.Images = common.Images(),
    seed: common.Seed = 0,
    output: common.WritingOutput = common.WritingOutput(),
) -> None:
    """Retrain (fine-tune) the weights that a mask keeps.

    example:
      pruning-lab retrain dense.safetensors --mask mask.safetensors --out pruned.safetensors

    Args:
        file: The network's file.
        mask: The mask's file.
        freeze: Layers that keep their weights.
    """
    model, about = network.load(file)
    splits = images.load(about, output, model, training=True)
    kept = lab.Mask.load(mask)
    kept.apply_(model)
    adjusted = lab.retraining.dropout_adjusted(model, kept)
    with adjusted, lab.retraining.frozen(model, freeze or []):
        result = training.fit(model, about, splits, seed, out, output, mask=kept)
    save(out, model, about, {"density": kept.density, **result}, output)
