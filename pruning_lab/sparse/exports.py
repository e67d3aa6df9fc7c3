"""Networks for other programs: ONNX, and state_dicts for torch.load, dense or as CSR."""

import copy
import importlib.util
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor, nn

from pruning_lab import files
from pruning_lab.evaluation import measuring
from pruning_lab.layers import prunable, unwrapped
from pruning_lab.sparse.layers import csr


@dataclass(frozen=True)
class Exported:
    """A file that was written, and what its reader should know."""

    path: str
    bytes: int
    note: str
    difference: float | None = None  # of the answers, at most, relative to the largest (ONNX)

    def __str__(self) -> str:
        return f"wrote {self.path}: {self.bytes:,} bytes; {self.note}"


def to_torch(model: nn.Module, path: str | Path, *, as_csr: bool = False) -> Exported:
    """Write the state_dict for `torch.load(path, weights_only=True)`, zeros included.

    `as_csr`: linear and convolution weights become CSR matrices (out, in / groups * kh * kw) with
    32-bit indices; `.to_dense().view(shape)` is the weight again.
    """
    own = {id(layer.weight) for layer in prunable(model).values()}
    state = unwrapped(model).state_dict(keep_vars=True)
    state = {n: csr(t) if as_csr and id(t) in own else t.detach().cpu() for n, t in state.items()}
    with files.replacing(path) as temporary:
        torch.save(state, temporary)
    note = "dense weights, zeros included"
    if as_csr:
        note = "weights as CSR matrices, 8 bytes for each that is kept"
    return Exported(str(path), Path(path).stat().st_size, note)


def to_onnx(model: nn.Module, path: str | Path, images: Tensor) -> Exported:
    """Write an ONNX file that takes any number of images, in evaluation mode.

    It is checked by onnxruntime on `images` (N, C, H, W), two or more: ValueError where an answer
    differs by more than 1e-5 of the largest. ModuleNotFoundError without the extra `export`.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            todo = "type: pip install 'pruning-lab[export]'"
            raise ModuleNotFoundError(f"{name} is not installed; {todo}", name=name)
    import onnxruntime

    prunable(model)  # raises for a network that is sparse, whose weights are no operands
    network, x = copy.deepcopy(unwrapped(model)).cpu(), images.cpu()
    batch = ({0: torch.export.Dim("batch")},)
    names = {"input_names": ["images"], "output_names": ["logits"]}
    with measuring(network), files.replacing(path) as temporary:
        answers = network(x).numpy()
        with warnings.catch_warnings(), redirect_stdout(StringIO()):  # of the exporter
            warnings.simplefilter("ignore")
            made = torch.onnx.export(network, (x,), dynamo=True, dynamic_shapes=batch, **names)
            made.save(str(temporary), external_data=False)
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"images": x.numpy()})
        difference = float(abs(found - answers).max() / abs(answers).max())
        if not difference <= 1e-5:
            raise ValueError(f"the ONNX file answers otherwise: by {difference:.1e} of the largest")
    note = "dense weights, zeros included: as large as the dense network"
    return Exported(str(path), Path(path).stat().st_size, note, difference)
