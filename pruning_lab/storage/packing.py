"""The packed file: a whole pruned network, from which its state_dict comes back.

Format "pruning_lab pack 1" is a safetensors file, so that any reader of those can list it:

    8 bytes     N, the length of the header, little-endian
    N bytes     JSON: {"__metadata__": {"crc32": "8 hex digits", "about": "JSON"},
                       NAME: {"dtype": ..., "shape": ..., "data_offsets": [from, to]}, ...}
    the rest    the tensors' bytes, in the order of the header, without holes

The crc32 of the header is that of its N + 8 bytes without its own 8 digits. `about` holds the
format, the caller's `about`, the crc32 of every tensor's bytes, and for each packed weight its
shape and how it was coded. A packed weight is a tensor of bytes (U8): the set of its nonzero
elements (`codes.encode_set`), then their values: floats, whose sign is moved behind the mantissa,
as planes of bytes, the last plane (of float32: the exponents) as `codes.encode_symbols`; or the
codebook (its length in one byte, float32 values) and its symbols. All other tensors are plain.

An element is gone if it is +0.0, bit for bit: NaN, infinities, subnormals and -0.0 (which
`weight * mask` leaves, `masked_fill` does not) are values like others. "float32" brings back every
bit; "float16" and "bfloat16" bring back the weight rounded to them; "codebook" the nearest of 32
values per layer, -0.0 counting as gone.

The dense tensors have at most 1,024 times as many bytes as the file (spaces after the header see
to it), which is checked before any is made: `unpack` takes at most the memory of the dense tensors
and 256 bytes for each byte of the file.
"""

import json
import math
import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar, TypedDict

import torch
from torch import Tensor, nn

from pruning_lab import files
from pruning_lab.layers import device_of, prunable
from pruning_lab.rows import Rows, counted, decode
from pruning_lab.storage import codes, weights

_FORMAT = "pruning_lab pack 1"
_START = b'{"__metadata__":{"crc32":"'
_DIGITS = slice(8 + len(_START), 16 + len(_START))  # where the header's checksum stands
_MOST = 1024  # dense bytes for each byte of the file
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class PackedRow:
    """One packed weight, and what it takes in the paper's scheme."""

    layer: str
    weights: int
    kept: int
    index_bits: float  # per kept weight
    value_bits: float  # per kept weight
    bytes: int
    paper_bytes: int  # 5-bit (convolutions: 8-bit) relative indices, float32 values, fillers
    paper_overhead: float  # of these, all but the kept values, as a fraction of them
    bound: float  # bits per kept weight of gaps that are independent of one another


class Packed(Rows[PackedRow]):
    """A row per packed weight; `.file_bytes` and `.dense_bytes` count the other tensors too."""

    columns: ClassVar = {
        "layer": lambda row: row.layer,
        "weights": lambda row: f"{row.weights:,}",
        "kept": lambda row: f"{row.kept:,}",
        "index bits": lambda row: f"{row.index_bits:.2f}",
        "(if independent)": lambda row: f"{row.bound:.2f}",
        "value bits": lambda row: f"{row.value_bits:.2f}",
        "bytes": lambda row: f"{row.bytes:,}",
        "paper's bytes": lambda row: f"{row.paper_bytes:,}",
        "its overhead": lambda row: f"{row.paper_overhead:.1%}",
    }
    file_bytes: int
    dense_bytes: int
    negative_zeros: int  # weights that are -0.0, and stored as values

    @property
    def total(self) -> PackedRow:
        sums = {n: sum(getattr(r, n) for r in self) for n in ("weights", "kept", *_BYTES)}
        weighted = {n: sum(r.kept * getattr(r, n) for r in self) for n in _PER_WEIGHT}
        means = {name: value / max(sums["kept"], 1) for name, value in weighted.items()}
        return PackedRow("total", **sums, **means)

    def __str__(self) -> str:
        table = self.table((*self, self.total))
        if not self.negative_zeros:
            return table
        return (
            f"{table}\n\n{counted(self.negative_zeros, 'weight')} of -0.0 are stored as values: "
            f"multiplying by a mask leaves them, and Mask.of(model).apply_(model) makes them 0.0"
        )


_BYTES = ("bytes", "paper_bytes")
_PER_WEIGHT = ("index_bits", "value_bits", "paper_overhead", "bound")


class _About(TypedDict):
    about: dict | None
    crc32: dict[str, int]
    layers: dict[str, weights.Layout]


@dataclass(frozen=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def pack(
    path: str | Path, model: nn.Module, *, values: str = "float32", about: Mapping | None = None
) -> Packed:
    """Write a network as a packed file: the weights of prunable layers coded, the others plain.

    `values` is one of FORMATS: how nonzero weights are stored ("float32": exactly, in the weight's
    own precision). `about` comes back from `unpack`; that of `models.load` says how to build the
    network. ValueError names a tensor that cannot be stored so.
    """
    device_of(model)  # raises for the meta device
    coded = {id(layer.weight) for layer in prunable(model).values()}
    blobs, entries, layouts, rows, dense, minus, at = {}, {}, {}, [], 0, 0, 0
    for name, tensor in model.state_dict(keep_vars=True).items():
        packed, tensor = id(tensor) in coded, tensor.detach().cpu()
        try:
            if packed:
                gaps, kept, layout = weights.encode(tensor, values)
                rows.append(_row(name.removesuffix(".weight"), tensor, len(gaps), len(kept)))
                blob, layouts[name] = gaps + kept, asdict(layout)
                minus += (values != "codebook") * weights.negative_zeros(tensor)
            else:
                blob = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            code, shape = ("U8", [len(blob)]) if packed else (_CODES[tensor.dtype], tensor.shape)
        except (ValueError, KeyError) as error:
            raise ValueError(f"{name} cannot be packed: {error}") from None
        blobs[name], offsets = blob, [at, at := at + len(blob)]
        entries[name] = {"dtype": code, "shape": [*shape], "data_offsets": offsets}
        dense += tensor.nbytes
    checksums = {name: zlib.crc32(blob) for name, blob in blobs.items()}
    inside = {"format": _FORMAT, "about": about, "crc32": checksums, "layers": layouts}
    header = _header(inside, entries, least=dense // _MOST + 1 - at)
    with files.replacing(path) as temporary, open(temporary, "wb") as file:
        file.writelines((header, *blobs.values()))
    return Packed(rows, file_bytes=len(header) + at, dense_bytes=dense, negative_zeros=minus)


def _row(layer: str, weight: Tensor, index_bytes: int, value_bytes: int) -> PackedRow:
    size, kept, theirs = weight.numel(), int(weight.count_nonzero()), weights.paper_bytes(weight)
    bits = [8 * part / max(kept, 1) for part in (index_bytes, value_bytes)]
    overhead = (theirs - 4 * kept) / max(4 * kept, 1)
    bound = weights.entropy_bound(kept / max(size, 1))
    return PackedRow(layer, size, kept, *bits, index_bytes + value_bytes, theirs, overhead, bound)


def _header(inside: dict, entries: dict, least: int) -> bytes:
    """The length and the JSON, with spaces at its end up to so many bytes."""
    text = json.dumps(inside, ensure_ascii=False, allow_nan=False)
    content = {"__metadata__": {"crc32": "0" * 8, "about": text}, **entries}
    made = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    made = made.ljust(max(least, -(-len(made) // 8) * 8))  # safetensors' own are multiples of 8
    sized = len(made).to_bytes(8, "little") + made
    return sized[: _DIGITS.start] + _checksum(sized) + sized[_DIGITS.stop :]


def _checksum(sized: bytes) -> bytes:
    """The header's, which leaves its own eight digits out."""
    return b"%08x" % zlib.crc32(sized[: _DIGITS.start] + sized[_DIGITS.stop :])


def unpack(path: str | Path) -> tuple[dict[str, Tensor], dict | None]:
    """The state_dict (on the CPU) and the `about` that `pack` was given; nothing is executed.

    ValueError names the layer and the byte at which a file is not as `pack` writes it.
    """
    with files.open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        inside, entries, start = _read_header(file, size, path)
        _check(inside, entries, start, size, path)
        tensors = {}
        for name, entry in entries.items():
            begin, end = entry.data_offsets
            data = codes.Reader(file.read(end - begin), start + begin, f"{path}: {name}")
            if zlib.crc32(data.data) != inside["crc32"].get(name):
                data.fail("its bytes are not those that were written: another checksum")
            if name in inside["layers"]:
                tensors[name] = weights.decode(data, inside["layers"][name])
            else:
                tensors[name] = _plain(data, entry)
    return tensors, inside["about"]


def _read_header(
    file: BinaryIO, size: int, path: str | Path
) -> tuple[_About, dict[str, _Entry], int]:
    """What the header says, and where the tensors start."""
    sized, where = file.read(8), f"{path}: header, byte 8:"
    header = codes.Reader(sized, 0, f"{path}: header")
    length = int.from_bytes(header.take(8).tobytes(), "little")
    if not _DIGITS.stop < 8 + length <= size:
        header.fail(f"it cannot have {length:,} bytes in a file of {size:,}")
    sized += file.read(length)
    if not sized[8:].startswith(_START):
        header.fail("this is not a packed network; name a file that `pack` wrote")
    if sized[_DIGITS] != _checksum(sized):
        header.fail("it is not what was written: another checksum")
    try:
        content = files.parse_json(sized[8:].decode(), where)
        about = files.parse_json(content.pop("__metadata__")["about"], where)
    except (UnicodeDecodeError, LookupError, TypeError) as error:
        header.fail(f"it cannot be read: {error!r}")
    inside = decode(_About, about, where, _FORMAT)
    return inside, decode(dict[str, _Entry], content, where), 8 + length


def _check(inside: _About, entries: dict, start: int, size: int, path: str | Path) -> None:
    """Raise ValueError unless all tensors fill the file, and are not too large for it."""
    at, dense = start, 0
    for name, entry in entries.items():
        where = codes.Reader(b"", at, f"{path}: {name}")
        (begin, end), layout = entry.data_offsets, inside["layers"].get(name)
        if entry.dtype not in (["U8"] if layout else _DTYPES):
            where.fail(f"it cannot be of type {entry.dtype!r}")
        itemsize, shape = _DTYPES[entry.dtype].itemsize, (layout or entry).shape
        length = itemsize * math.prod(entry.shape)
        if start + begin != at or end - begin != length or min((*entry.shape, *shape, 0)) < 0:
            where.fail(f"a tensor of shape {entry.shape} cannot be at {begin:,} to {end:,}")
        if start + end > size:
            where.fail(f"{end - begin:,} bytes are expected, {size - at:,} are left")
        at, dense = start + end, dense + (4 if layout else itemsize) * math.prod(shape)
        volume = math.prod(max(n, 1) for n in shape)  # of (0, 2**62) torch cannot make a tensor
        most = codes.MOST if layout else 2**60
        if dense > _MOST * size or volume > most or len(shape) > 64:
            where.fail(f"a tensor of shape {shape} is too large for a file of {size:,} bytes")
    if at != size or inside["layers"].keys() - entries.keys():
        codes.Reader(b"", at, f"{path}: end").fail(f"{size - at:,} bytes are left over")


def _plain(data: codes.Reader, entry: _Entry) -> Tensor:
    """A tensor that is stored as it is."""
    dtype = _DTYPES[entry.dtype]
    stored = torch.from_numpy(data.take(data.left).copy())
    return (stored != 0 if dtype is torch.bool else stored.view(dtype)).reshape(entry.shape)
