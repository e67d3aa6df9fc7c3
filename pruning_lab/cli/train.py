"""`pruning-lab train`; and how networks are made and trained, which `run` and `retrain` share."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

import pruning_lab as lab
from pruning_lab.cli import common
from pruning_lab.cli.common import COUNT, number

Model = Annotated[
    str, Parameter(group=common.NETWORK, help="A network, or a function: package.module:function.")
]


@Parameter(name="*", group=common.NETWORK)
@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape of a new network for photos."""

    width: Annotated[float | None, number(0.0, 4.0, above=True)] = None
    """Fraction of the channels of alexnet and vgg-16 (default: few, at 64 px; on a GPU all)."""
    dropout: Annotated[float | None, number(0.0, 0.99)] = None
    """Dropout of alexnet and vgg-16."""

    def about(self, network: str, images: common.Images) -> dict:
        """What the file of a new network says: what was typed, else what suits the device."""
        typed = {**vars(self), "size": images.size}
        typed = {name: value for name, value in typed.items() if value is not None}
        if network in common.PHOTO_NETWORKS:
            small = "width" not in typed and images.where() == "cpu"
            default = lab.experiments.REDUCED.get(network, {}) if small else {"size": 128}
            return {"network": network, **({} if images.data == "imagenet" else default), **typed}
        for name in typed if ":" not in network else typed.keys() - {"size"}:
            raise ValueError(f"--{name} goes with alexnet and vgg-16, {network} has one shape")
        return {"network": network, **typed}


def prepare(about: dict, seed: int, images: common.Images, output: common.Output) -> tuple:
    """A new network, what its file will say, and the images that it fits."""
    import torch

    photos = about["network"] in common.PHOTO_NETWORKS
    if photos:
        check_memory(about)
    splits = images.load(about, output, training=True)
    if photos:
        about = {**about, "classes": common.classes(splits)}
        output.say(lab.models.describe(about))
    torch.manual_seed(seed)
    model = common.build(about)
    common.check_fit(model.to(splits.val.device), splits)
    return model, about, splits


def dense_config(about: dict, data: str) -> lab.TrainConfig:
    """How a network is trained unless something else is typed: by its recipe, if it has one."""
    if (network := about["network"].removesuffix("-torchvision")) not in common.RECIPES:
        return lab.TrainConfig()
    shape = {k: v for k, v in lab.models.settings(about).items() if k != "network"}
    return lab.experiments.paper_recipe(network, data, shape).dense


def check_memory(about: dict) -> None:
    """Raise ValueError where a network, its gradients and momentum exceed this machine's memory."""
    import torch

    with torch.device("meta"):
        needed = 12 * sum(p.numel() for p in lab.models.build(about).parameters())
    if not hasattr(os, "sysconf"):  # Windows does not say
        return
    if needed > (there := os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")):
        raise ValueError(
            f"training {lab.models.describe(about)} takes {needed / 1e9:,.0f} GB of memory, and "
            f"this machine has {there / 1e9:,.0f}; choose a smaller --width or --size"
        )


_EPOCHS = (
    "Passes over the training images (default: lenet-300-100 10, lenet-5 4, both 3 times as many "
    "on mnist-5k; alexnet and vgg-16 60, of reduced width 14; your own 5)."
)
_LR = (
    "Highest learning rate (default: lenet-300-100 0.1, lenet-5 0.05, "
    "alexnet 0.03, vgg-16 0.02, of reduced width 0.015; your own 0.1)."
)


@Parameter(name="*", group=Group("Training", sort_key=3))
@dataclass(frozen=True, kw_only=True)
class Training:
    """How a network is trained; what is not typed comes from the network's recipe."""

    epochs: Annotated[int | None, number(0, 1_000_000), Parameter(help=_EPOCHS)] = None
    lr: Annotated[float | None, number(0.0, 1e6, above=True), Parameter(help=_LR)] = None
    batch_size: Annotated[int | None, COUNT] = None
    """Images per step (default: 128; vgg-16 64, alexnet and vgg-16 of reduced width 32)."""
    weight_decay: Annotated[float | None, common.AMOUNT] = None
    """Factor of the L2 penalty."""
    shift: Annotated[int | None, number(0, 512)] = None
    """Move images at random by up to N pixels."""
    flip: bool | None = None
    """Mirror images at random."""
    crop: Annotated[float | None, number(0.0, 1.0, above=True)] = None
    """Crop images at random, to at least this fraction of their area."""
    colour: Annotated[float | None, number(0.0, 10.0)] = None
    """Sigma of the colour jitter along the axes of RGB."""
    accumulate: Annotated[int | None, COUNT] = None
    """Batches per step."""
    compile: bool | None = None
    """Use torch.compile."""
    bf16: bool | None = None
    """Autocast to bfloat16."""
    resume: bool = False
    """Continue after the last checkpoint."""

    def fit(self, model, about: dict, splits, seed: int, out: str, output, mask=None) -> dict:
        """Train with a line per epoch and a checkpoint: the rows of all epochs, accuracy on val."""
        config = dense_config(about, splits.name)
        typed = {k: v for k, v in vars(self).items() if v is not None and k != "resume"}
        config, checkpoint = replace(config, **typed, seed=seed), Path(f"{out}.checkpoint")
        if checkpoint.exists() and not self.resume:
            raise FileExistsError(
                f"{checkpoint} is left of an interrupted call; continue with --resume, or delete it"
            )
        epochs = lab.rows.counted(config.epochs, "epoch")
        output.say(f"{epochs}, learning rate {config.lr:g}, batches of {config.batch_size} images")
        rows = []
        for row in lab.train(model, splits.train, config, mask=mask, checkpoint=checkpoint):
            rows.append(lab.rows.plain(row))
            output.say(row)
        accuracy = lab.evaluate(model, splits.val)
        output.say(f"accuracy on val: {accuracy}")
        return {"epochs": rows, "val": lab.rows.plain(accuracy)}


def save(out: str, model, about: dict, result: dict, output: common.Output) -> None:
    """Write a trained network, in place of its checkpoint."""
    if lab.processes.rank() == 0:
        lab.models.save(out, model, about=about)
        Path(f"{out}.checkpoint").unlink(missing_ok=True)
        output.show({"out": out, **result}, f"wrote {out}")


def train(
    *,
    model: Model = "lenet-300-100",
    shape: Shape = Shape(),
    training: Training = Training(),
    images: common.Images = common.Images(),
    seed: common.Seed = 0,
    out: common.TrainedFile = "dense.safetensors",
    output: common.WritingOutput = common.WritingOutput(),
) -> None:
    """Train a dense network.

    example:
      pruning-lab train --model lenet-300-100 --epochs 5 --out dense.safetensors
      pruning-lab train --model nets:make --data folder:photos --out own.safetensors
    """
    network, about, splits = prepare(shape.about(model, images), seed, images, output)
    result = training.fit(network, about, splits, seed, out, output)
    about |= {"data": common.full_name(splits.name), "seed": seed}
    if images.root and ":" not in splits.name:
        about["root"] = os.path.abspath(images.root)
    save(out, network, about, result, output)
