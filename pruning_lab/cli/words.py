"""The words of the command line, and what each accepts."""

import argparse
import math
import os
from collections.abc import Callable
from typing import NoReturn

from pruning_lab import __version__

LENETS = ("lenet-300-100", "lenet-5")  # which come trained
NETWORKS = (*LENETS, "alexnet", "alexnet-torchvision", "vgg-16")
RECIPES = (*LENETS, "alexnet", "vgg-16")  # networks of the paper
TRAINED = "lenet-5"  # what the studio opens where no file is named
DATA = ("auto", "mnist", "digits", "photos", "imagenette", "imagenet", "shapes", "folder:PATH")
SALIENCIES = ("magnitude", "random")
ACROSS = ("layer", "network", "lamp")
METHODS = ("single", "joint")
DENSITIES = (0.9, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02)  # of a scan that is not told any

_EVALUATIONS = "of the network on 2,000 images, at most, in a joint search (1000)"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; {self.prog} --help says what can be typed")


def parser() -> argparse.ArgumentParser:
    """The whole command line; `parse_args` raises ValueError for words that it does not know."""
    whole = _Parser(
        prog="pruning-lab",
        description="Train, scan, prune and retrain neural networks (Han et al. 2015).",
        epilog="Start with: pruning-lab run --model lenet-300-100",
    )
    whole.add_argument("--version", action="version", version=f"pruning-lab {__version__}")
    commands = whole.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True
    )

    every = argparse.ArgumentParser(add_help=False)
    every.add_argument("--json", action="store_true", help="print JSON and nothing else")
    every.add_argument("--debug", action="store_true", help="show the traceback of an error")

    writing = argparse.ArgumentParser(add_help=False)
    writing.add_argument("--force", action="store_true", help="replace files of an earlier call")

    seeded = argparse.ArgumentParser(add_help=False)
    seeded.add_argument("--seed", type=_SEED, help="of everything random (0)")

    images = argparse.ArgumentParser(add_help=False)
    images.add_argument(
        "--data",
        metavar="NAME",
        help=f"{', '.join(DATA)} (auto: mnist where it is, else digits; photos, for the large "
        "networks: imagenette where it is, else shapes)",
    )
    images.add_argument("--size", type=_SIZE, metavar="PX", help="of photos (the network's)")
    images.add_argument("--root", help="folder of the data ($PRUNING_LAB_DATA, else data)")
    images.add_argument("--download", action="store_true", help="fetch the data if missing")
    images.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    images.add_argument(
        "--threads", type=_THREADS, help="threads on a CPU (what suits the network)"
    )

    shaped = argparse.ArgumentParser(add_help=False)
    shaped.add_argument(
        "--width",
        type=_number(0.0, 4.0, above=True),
        metavar="W",
        help="share of the channels and units of alexnet and vgg-16 (on a CPU few, at 64 px; "
        "else all, at 128 px)",
    )
    shaped.add_argument("--dropout", type=_number(0.0, 0.99), metavar="P", help="of those two")

    learning = argparse.ArgumentParser(add_help=False)
    learning.add_argument("--epochs", type=_FEW, help="passes over the training images")
    learning.add_argument("--lr", type=_POSITIVE, help="highest learning rate")
    learning.add_argument("--batch-size", type=_COUNT)
    learning.add_argument("--weight-decay", type=_AMOUNT, help="L2")
    learning.add_argument("--shift", type=_SHIFT, help="pixels by which images move at random")
    learning.add_argument("--flip", action="store_true", help="mirror images at random")
    learning.add_argument(
        "--crop",
        type=_number(0.0, 1.0, above=True),
        metavar="SHARE",
        help="smallest area of a crop",
    )
    learning.add_argument(
        "--colour", type=_number(0.0, 10.0), metavar="SIGMA", help="jitter along RGB's axes"
    )
    learning.add_argument("--accumulate", type=_COUNT, metavar="N", help="batches for a step")
    learning.add_argument("--compile", action="store_true", help="by torch.compile")
    learning.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    learning.add_argument("--resume", action="store_true", help="go on behind the checkpoint")

    stored = argparse.ArgumentParser(add_help=False)
    stored.add_argument("--model", choices=NETWORKS, help="what the file holds, if it does not say")

    network = argparse.ArgumentParser(add_help=False)
    network.add_argument(
        "--model",
        metavar="NAME",
        help=f"what the file holds, if it does not say: {', '.join(NETWORKS)}, or a function of "
        "yours as package.module:function, which is called and gives the network",
    )
    network.add_argument("--weights", metavar="FILE", help="the same as the network's file")

    normed = argparse.ArgumentParser(add_help=False)
    normed.add_argument(
        "--recalibrate",
        type=_COUNT,
        metavar="N",
        help="renew BatchNorm statistics after every cut, from N training images (1000 do)",
    )

    def command(name: str, summary: str, example: str, *parents) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example:\n  pruning-lab {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[*parents, every],
        )

    add = command(
        "run",
        "train, scan, prune and retrain a network, and report beside the paper",
        "run --model lenet-5 --data mnist --out runs/first",
        images,
        seeded,
        shaped,
    ).add_argument
    add("--model", choices=RECIPES, help=f"which network ({RECIPES[0]})")
    add("--bf16", action="store_true", help="autocast to bfloat16 (always for photos on a GPU)")
    add(
        "--compression",
        type=_number(1.0, 1e6),
        metavar="X",
        help="parameters, before / after (the paper's)",
    )
    add(
        "--density",
        type=_FRACTION,
        metavar="D",
        help="share of all weights to keep, by its own scan",
    )
    add("--max-drop", type=_POINTS, metavar="POINTS", help="what may be lost before retraining")
    add("--method", choices=METHODS, help="how --density or --max-drop chooses (joint)")
    add("--evaluations", type=_COUNT, metavar="N", help=_EVALUATIONS)
    add("--out", help="folder for the files (runs/MODEL)")
    add("--resume", action="store_true", help="go on with the unfinished run in --out")

    add = command(
        "train",
        "train a dense network",
        "train --model lenet-300-100 --epochs 5 --out dense.safetensors",
        images,
        seeded,
        shaped,
        learning,
        writing,
    ).add_argument
    add("--model", choices=RECIPES, default="lenet-300-100")
    add("--out", default="dense.safetensors", help="file for the network (dense.safetensors)")

    add = command(
        "scan",
        "prune one layer at a time, and see how much accuracy goes (uses the val images)",
        "scan dense.safetensors --densities 0.5 0.2 0.1 0.05 --out scan.csv\n"
        "  pruning-lab scan --model nets:make --weights mine.safetensors --data folder:photos\n"
        "with several processes:\n"
        "  python -m torch.distributed.run --nproc-per-node=2 -m pruning_lab scan ...",
        normed,
        network,
        images,
        seeded,
        writing,
    ).add_argument
    add("file", nargs="?", help="a network's file")
    levels = " ".join(map(str, DENSITIES))
    add("--densities", nargs="+", type=_FRACTION, metavar="D", help=f"shares to keep ({levels})")
    add("--qualities", nargs="+", type=_AMOUNT, metavar="Q", help="thresholds / sigma, instead")
    add("--saliency", choices=SALIENCIES, default=SALIENCIES[0], help="which weights matter")
    add("--layers", nargs="+", metavar="LAYER", help="only these")
    add("--cumulative", action="store_true", help="each layer with all before it")
    add("--resume", action="store_true", help="go on behind the last finished batch")
    add("--out", default="scan.csv", help="file for the rows (scan.csv); a .json goes beside it")

    add = command(
        "choose",
        "choose from a scan what to keep of each layer (measures on the val images)",
        "choose scan.csv dense.safetensors --max-drop 0.5 --out plan.json\n"
        "  pruning-lab choose scan.csv dense.safetensors --density 0.1 --method joint",
        normed,
        network,
        images,
        seeded,
        writing,
    ).add_argument
    add("scan", help="the rows of a scan (scan.csv)")
    add("file", nargs="?", help="the network's file, to measure all layers pruned together")
    add("--max-drop", type=_POINTS, metavar="POINTS", help="percentage points that may be lost")
    add("--density", type=_FRACTION, metavar="D", help="share of all weights to keep, 0 to 1")
    add(
        "--method",
        choices=METHODS,
        help="of --density; single: by what each layer loses alone (the default); joint: searched",
    )
    add("--evaluations", type=_COUNT, metavar="N", help=_EVALUATIONS)
    add("--out", default="plan.json", help="file for the plan (plan.json)")

    add = command(
        "prune",
        "choose which weights stay, and print the receipt",
        "prune dense.safetensors --quality fc1=1.4 fc2=1.1 --out mask.safetensors\n"
        "  pruning-lab prune dense.safetensors --plan plan.json",
        network,
        seeded,
        writing,
    ).add_argument
    add("file", nargs="?", help="a network's file")
    amounts = "one number, or LAYER=NUMBER ..."
    add("--quality", nargs="+", metavar="Q", help=f"threshold / sigma of the layer: {amounts}")
    add("--density", nargs="+", metavar="D", help=f"share to keep, 0 to 1: {amounts}")
    add("--threshold", nargs="+", metavar="T", help=f"smallest |w| to keep: {amounts}")
    add("--plan", metavar="FILE", help="what `choose` wrote, instead of these three")
    add("--saliency", choices=SALIENCIES, help=f"which weights matter ({SALIENCIES[0]})")
    add("--within", metavar="MASK", help="prune what this mask keeps")
    add(
        "--across",
        choices=ACROSS,
        help="rank each layer alone (the default), the whole network, or by LAMP (with --density)",
    )
    add("--out", default="mask.safetensors", help="file for the mask (mask.safetensors)")
    add("--save-model", metavar="FILE", help="also write the network with the mask applied")

    add = command(
        "retrain",
        "train what a mask left of a network",
        "retrain dense.safetensors --mask mask.safetensors --epochs 6 --out pruned.safetensors",
        stored,
        images,
        seeded,
        learning,
        writing,
    ).add_argument
    add("file", help="a network's file")
    add("--mask", required=True, help="a mask's file")
    add("--freeze", nargs="+", default=[], metavar="LAYER", help="layers that keep their weights")
    add("--out", default="pruned.safetensors", help="file for the network (pruned.safetensors)")

    add = command(
        "report",
        "compare a pruned network with the dense one and with the paper (uses the test images)",
        "report runs/first\n  pruning-lab report pruned.safetensors --dense dense.safetensors",
        stored,
        images,
        writing,
    ).add_argument
    add("file", help="the folder of a run, or a pruned network's file")
    add("--dense", metavar="FILE", help="the network before pruning")
    add("--out", help="file for the page (report.html)")

    add = command(
        "studio",
        "drag thresholds and see the network change, in the browser (uses the val images)",
        "studio dense.safetensors --scan scan.csv\n"
        "  pruning-lab studio --model nets:make --weights mine.safetensors --data folder:photos",
        normed,
        network,
        images,
        seeded,
    ).add_argument
    add("file", nargs="?", help=f"a network's file (the trained {TRAINED} that comes with this)")
    add("--scan", metavar="FILE", help="the rows of a scan of it (scan.csv), to start with")
    add("--port", type=_number(0, 65_535), metavar="N", help="of this machine (any free one)")
    add("--no-browser", action="store_true", help="only print the address")
    return whole


def _number(
    low: float, high: float, *, above: bool = False, hint: str = ""
) -> Callable[[str], float]:
    """A number from `low` (or above it) to `high`; a whole one where `low` is."""
    whole = isinstance(low, int)

    def number(text: str) -> float:
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or (above and value == low):
            kind, start = "a whole number" if whole else "a number", "above" if above else "from"
            span = f"{start} {low:g} to {f'{high:,}'.removesuffix('.0')}"
            raise argparse.ArgumentTypeError(f"must be {kind} {span}, got {text!r}{hint}")
        return value

    return number


_FRACTION = _number(0.0, 1.0, hint="; for a percentage, divide by 100")
_COUNT, _FEW = _number(1, 1_000_000), _number(0, 1_000_000)
_POSITIVE, _AMOUNT = _number(0.0, 1e6, above=True), _number(0.0, 1e6)
_POINTS = _number(0.0, 100.0)  # percentage points
_SEED = _number(0, 10**12)
_THREADS = _number(1, 4 * (os.cpu_count() or 1))
_SIZE, _SHIFT = _number(1, 2048), _number(0, 512)
