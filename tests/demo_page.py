"""The demo's page, made as its tool makes it, and what is in it, read back without its scripts."""

import base64
import importlib.util
import json
import re
import zlib
from pathlib import Path

import torch
from torch import nn

import pruning_lab as lab
from pruning_lab.data import Part

TOOL = Path(__file__).resolve().parent.parent / "tools" / "demo.py"


def build(path: Path) -> Path:
    tool = importlib.util.spec_from_file_location("demo", TOOL)
    tool.loader.exec_module(demo := importlib.util.module_from_spec(tool))
    demo.main(["--out", str(path)])
    return path


def contents(path: Path) -> dict:
    found = re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.S)
    return json.loads(found[1])


def network(contents: dict) -> nn.Sequential:
    """The page's int8 weights in torch's layers."""
    model, place = lab.models.lenet_300_100(), 0
    data = zlib.decompress(base64.b64decode(contents["packed"]))
    for about in contents["layers"]:
        layer, size = model.get_submodule(about["name"]), about["shape"][0] * about["shape"][1]
        whole = torch.frombuffer(bytearray(data[place : place + size]), dtype=torch.int8)
        layer.weight.data = whole.float().reshape(about["shape"]) * about["scale"]
        layer.bias.data = torch.tensor(about["bias"])
        place += size
    return model


def val() -> Part:
    return lab.data.load("mnist-5k").val.head(500)
