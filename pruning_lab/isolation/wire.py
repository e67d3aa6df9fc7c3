"""What goes over a socket: plain values as JSON from a student's process; nothing is executed."""

import base64
import json
import socket
import struct
from collections.abc import Callable
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor, nn

from pruning_lab.masks import Mask

LENGTH = struct.Struct("!Q")
MODULES = (nn.Module, torch.optim.Optimizer, Mask)  # live on between the calls of a case
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64),
    )
}


class Foreign:
    """Stands for a value that is not plain: only its type's name and its text came."""

    def __init__(self, text: str):
        self._text = text

    def __repr__(self) -> str:
        return self._text


def packed(value: object, known: Callable[[object], object] = lambda value: None) -> object:
    """The value as JSON's lists; `known` gives the number of an object that both sides have."""
    if (number := known(value)) is not None:
        return ["known", number]
    if value is None or isinstance(value, bool | str):
        return ["plain", value]
    if value is ...:
        return ["..."]
    if isinstance(value, np.generic):
        return packed(value.item())
    if isinstance(value, Integral):
        return ["int", str(int(value))]
    if isinstance(value, Real):
        return ["float", float(value).hex()]
    if isinstance(value, Tensor) and value.layout == torch.strided:
        return ["tensor", *_tensor(value)]
    if isinstance(value, dict):
        return ["dict", [[packed(key), packed(entry, known)] for key, entry in value.items()]]
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, [packed(entry, known) for entry in value]]
    if isinstance(value, nn.Module):
        state = [[name, _tensor(entry)] for name, entry in value.state_dict().items()]
        return ["module", type(value).__name__, state]
    try:
        text = " ".join(repr(value).split())[:300]
    except Exception:
        text = f"a {type(value).__name__}"
    return ["foreign", type(value).__name__, text]


def _tensor(value: Tensor) -> list:
    value = value.detach().cpu().contiguous()
    content = value.flatten().view(torch.uint8) if value.numel() else torch.empty(0)
    text = base64.b64encode(content.numpy().tobytes()).decode()
    return [str(value.dtype).removeprefix("torch."), list(value.shape), text]


def unpacked(value: object, known: Callable[[int], object], module: Callable) -> object:
    """What `packed` made; ValueError for anything else. `module` makes one of name and state."""
    match value:
        case ["known", int(number)]:
            return known(number)
        case ["plain", None | bool() | str()]:
            return value[1]
        case ["..."]:
            return ...
        case ["int", str(text)]:
            return int(text)
        case ["float", str(text)]:
            return float.fromhex(text)
        case ["tensor", *parts]:
            return unpacked_tensor(parts)
        case ["dict", list(pairs)]:
            both = [[unpacked(part, known, module) for part in pair] for pair in pairs]
            return {key: entry for key, entry in both}  # noqa: C416  an odd length is an error
        case [("list" | "tuple") as kind, list(entries)]:
            made = [unpacked(entry, known, module) for entry in entries]
            return made if kind == "list" else tuple(made)
        case ["module", str(name), list(state)]:
            return module(name, {str(key): unpacked_tensor(entry) for key, entry in state})
        case ["foreign", str(name), str(text)]:
            return type(name if name.isidentifier() else "object", (Foreign,), {})(text[:300])
    raise ValueError("no value that a student's process may send")


def unpacked_tensor(parts: list) -> Tensor:
    dtype, shape, text = parts
    content = bytearray(base64.b64decode(text, validate=True))
    if not content:
        return torch.empty(shape, dtype=_DTYPES[dtype])
    return torch.frombuffer(content, dtype=_DTYPES[dtype]).view(shape)


def message(content: object) -> bytes:
    return json.dumps(content).encode()


def parsed(content: bytes) -> object:
    """ValueError for what is not JSON."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("too deep a message") from None


def receive(connection: socket.socket, count: int) -> bytes:
    """Exactly so many bytes. EOFError where the other end is closed."""
    content = bytearray()
    while len(content) < count:
        if not (more := connection.recv(min(count - len(content), 2**20))):
            raise EOFError
        content += more
    return bytes(content)


def read(connection: socket.socket, nonce: bytes, most: int) -> bytes:
    """A message that a student's process has sent; ValueError where it is not one."""
    (length,) = LENGTH.unpack(receive(connection, LENGTH.size))
    if not len(nonce) <= length <= most or receive(connection, len(nonce)) != nonce:
        raise ValueError("its process wrote what no answer is")
    return receive(connection, length - len(nonce))
