"""Networks for other programs: ONNX, a state_dict for torch.load, and one with CSR tensors."""

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


@dataclass(frozen=True)
class Exported:
    """A file that was written, and what a reader of it should know."""

    path: str
    bytes: int
    note: str
    difference: float | None = None  # largest of the answers, relative to the largest answer

    def __str__(self) -> str:
        return f"wrote {self.path}: {self.bytes:,} bytes; {self.note}"


def to_torch(model: nn.Module, path: str | Path) -> Exported:
    """Write the state_dict for `torch.load(path, weights_only=True)`; zeros are stored too."""
    prunable(model)  # raises for a layer that computes its weight from others
    return _saved(unwrapped(model).state_dict(), path, "dense weights, zeros included")


def to_csr(model: nn.Module, path: str | Path) -> Exported:
    """`to_torch` with the weights of linear and convolution layers as CSR with int32 indices.

    They are (out, in / groups * kh * kw): torch's CSR has two dimensions, so the others are
    flattened; `.to_dense().view(shape)` gives the weight.
    """
    state = {name: tensor.detach() for name, tensor in unwrapped(model).state_dict().items()}
    own = {id(layer.weight) for layer in prunable(model).values()}
    for name, weight in unwrapped(model).named_parameters(remove_duplicate=False):
        if id(weight) in own:
            state[name] = csr(weight)
    note = "weights as CSR, 8 bytes for each that is kept, flattened to two dimensions"
    return _saved(state, path, note)


def csr(weight: Tensor) -> Tensor:
    """The weight (out, ...) as a CSR matrix with 32-bit indices; `to_sparse_csr` has 64."""
    with warnings.catch_warnings():  # torch's CSR is in beta, and it says so once per process
        warnings.simplefilter("ignore")
        made = weight.detach().flatten(1).to_sparse_csr()
        indices = made.crow_indices().int(), made.col_indices().int()
        return torch.sparse_csr_tensor(*indices, made.values(), made.shape, check_invariants=False)


def to_onnx(model: nn.Module, path: str | Path, images: Tensor) -> Exported:
    """Write an ONNX file for any number of images, checked with onnxruntime on `images`.

    `images` is (N, C, H, W), N of 2 or more; the network is written in evaluation mode, its zeros as dense weights.
    Raises ModuleNotFoundError without the extra `export`, ValueError where the answers of the file
    differ by more than 1e-5 of the largest.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            todo = "type: pip install 'pruning-lab[export]'"
            raise ModuleNotFoundError(f"{name} is not installed; {todo}", name=name)
    import onnxruntime

    prunable(model)  # raises for a layer that computes its weight from others
    network = copy.deepcopy(unwrapped(model)).cpu()
    x = images.cpu()
    with measuring(network), files.replacing(path) as temporary:
        answers = network(x)
        with warnings.catch_warnings(), redirect_stdout(StringIO()):  # the exporter chats
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (x,),
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
            program.save(str(temporary), external_data=False)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors alone
        session = onnxruntime.InferenceSession(
            temporary.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        found = torch.from_numpy(session.run(["logits"], {"images": x.numpy()})[0])
        difference = float((found - answers).abs().max() / answers.abs().max())
        if not difference <= 1e-5:
            raise ValueError(f"the ONNX file answers otherwise: by {difference:.1e} of the largest")
    note = "its weights are dense, zeros included, so that it is as large as the dense network"
    return Exported(str(path), Path(path).stat().st_size, note, difference)


def _saved(state: dict[str, Tensor], path: str | Path, note: str) -> Exported:
    with files.replacing(path) as temporary:
        torch.save({name: tensor.detach().cpu() for name, tensor in state.items()}, temporary)
    return Exported(str(path), Path(path).stat().st_size, note)
