"""One weight as bytes: the gaps between its nonzero elements, then their values; and its sizes."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from pruning_lab import paper
from pruning_lab.storage import codes

Values = Literal["float32", "float16", "bfloat16", "codebook"]
FORMATS = get_args(Values)
_CODEBOOK = 2**5  # values per layer, as in Deep Compression (Han, Mao, Dally 2016), section 3
_BITS = {torch.float32: np.uint32, torch.float16: np.uint16, torch.bfloat16: np.uint16}


@dataclass(frozen=True)
class Layout:
    """What has to be known to decode a weight."""

    shape: tuple[int, ...]
    dtype: Literal["float32", "float16", "bfloat16"]  # of the weight
    values: Values  # as they are stored
    columns: bool  # whether the matrix (out, everything else) is read column by column


def encode(weight: Tensor, values: Values = "float32") -> tuple[bytes, bytes, Layout]:
    """The code of the gaps, that of the values, and what `decode` has to know.

    ValueError for float64 and integer weights, and where the format cannot hold a value.
    """
    stored = _rounded(weight, values)
    flat = stored.reshape(-1)
    bits = flat.view(torch.int32 if flat.element_size() == 4 else torch.int16).numpy()
    positions = np.flatnonzero(bits != 0)
    gaps, columns = codes.encode_set(positions), False
    rows = len(weight) if weight.dim() else 1
    if 1 < rows < len(bits):
        by_column = _transposed(positions, len(bits) // rows, rows)
        by_column.sort()
        other = codes.encode_set(by_column)
        if columns := len(other) < 0.99 * len(gaps):  # for less, reading by rows is faster
            gaps, positions = other, _transposed(by_column, rows, len(bits) // rows)
        del by_column  # a large array
    kept = bits.take(positions).view(_BITS[stored.dtype])
    del positions
    code = _encode_book(kept) if values == "codebook" else _encode_floats(kept)
    dtype = str(weight.dtype).removeprefix("torch.")
    return gaps, code, Layout(tuple(weight.shape), dtype, values, columns)


def decode(data: codes.Reader, layout: Layout) -> Tensor:
    """The weight that `encode` was given, rounded to the layout's values."""
    dtype = getattr(torch, layout.dtype)
    size = math.prod(layout.shape)
    positions = codes.decode_set(data, size)
    if layout.values == "codebook":
        stored, kept = torch.float32, _decode_book(data, len(positions))
    else:
        stored = _stored(dtype, layout.values)
        kept = _decode_floats(data, len(positions), _BITS[stored])
    if data.left:
        data.fail(f"{data.left:,} bytes are left over")
    if layout.columns:
        rows = layout.shape[0]
        positions = _transposed(positions, rows, size // rows)
    flat = np.zeros(size, kept.dtype)
    flat[positions] = kept
    signed = flat.view(np.int32 if flat.itemsize == 4 else np.int16)
    return torch.from_numpy(signed).view(stored).to(dtype).reshape(layout.shape)


def sizes(weight: Tensor) -> dict[str, int]:
    """Bytes of one layer's weight in each encoding, without names and shapes.

    "float32" is dense, "ours" exact; the last three are ours with values rounded to them.

    >>> sizes(torch.eye(64))["float32"], sizes(torch.eye(64))["csr int32"]
    (16384, 772)
    """
    kept, weight = int(weight.count_nonzero()), weight.detach().cpu()
    packed = {name: sum(map(len, encode(weight, name)[:2])) for name in FORMATS}
    return {
        "float32": 4 * weight.numel(),
        "bit mask": 4 * kept + -(-weight.numel() // 8),
        "csr int32": 8 * kept + 4 * (len(weight) + 1),
        "paper": paper_bytes(weight),
        "ours": packed.pop("float32"),
        **packed,
    }


def paper_bytes(weight: Tensor) -> int:
    """Bytes of a weight in the paper's scheme: relative indices and float32 values (section 5).

    An index has 5 bits (8 in a convolution), so it steps over up to 31 zeros; of a longer gap
    every 32nd zero is stored as a value, a filler.
    """
    positions = weight.detach().cpu().reshape(-1).nonzero()[:, 0].numpy()
    bits = paper.INDEX_BITS["conv" if weight.dim() > 2 else "fc"]
    fillers = int(((np.diff(positions, prepend=-1) - 1) >> bits).sum())
    return -(-(len(positions) + fillers) * (32 + bits) // 8)


def negative_zeros(weight: Tensor) -> int:
    """How many elements are -0.0, which is a value to `encode`."""
    bits = weight.view(torch.int32 if weight.element_size() == 4 else torch.int16)
    return int(bits.count_nonzero()) - int(weight.count_nonzero())


def entropy_bound(density: float) -> float:
    """Bits per kept weight if each is kept with this probability, whatever its neighbours."""
    return -sum(p * math.log2(p) for p in (density, 1 - density) if p) / (density or 1)


def _rounded(weight: Tensor, values: Values) -> Tensor:
    """The weight as it is stored: never wider than it is."""
    if values not in FORMATS:
        raise ValueError(f"no values {values!r}; there are {', '.join(FORMATS)}")
    if weight.dtype not in _BITS or weight.numel() > codes.MOST:
        kind = f"{weight.numel():,} numbers in {weight.dtype}"
        raise ValueError(f"it has {kind}, at most {codes.MOST:,} in float32 fit; use model.float()")
    if values == "codebook":
        if not weight.isfinite().all():
            raise ValueError("a weight is infinite or NaN, which no codebook has; use float32")
        return weight.float() + 0.0  # -0.0 becomes 0.0: for a codebook it is gone
    stored = weight.to(_stored(weight.dtype, values))
    if stored.dtype != weight.dtype and (stored.isinf() & weight.isfinite()).any():
        raise ValueError(f"a weight is too large for {values}; use bfloat16 or float32")
    return stored


def _stored(dtype: torch.dtype, values: Values) -> torch.dtype:
    return dtype if values == "float32" else getattr(torch, values)


def _transposed(positions: np.ndarray, width: int, height: int) -> np.ndarray:
    """Positions in a matrix (height, width) as those in its transpose."""
    rows, columns = np.divmod(positions, width)
    columns *= height
    columns += rows
    return columns


def _encode_floats(kept: np.ndarray) -> bytes:
    """The first byte entropy-coded, the others as they are, plane by plane.

    The sign goes last, so that the first byte of a float32 is its exponent.
    """
    width = 8 * kept.itemsize
    planes = ((kept << 1) | (kept >> (width - 1))).view(np.uint8).reshape(-1, kept.itemsize)
    return planes[:, :-1].T.tobytes() + codes.encode_symbols(np.ascontiguousarray(planes[:, -1]))


def _decode_floats(data: codes.Reader, number: int, kind: type) -> np.ndarray:
    itemsize = np.dtype(kind).itemsize
    planes = np.empty((number, itemsize), np.uint8)
    for place in range(itemsize - 1):
        planes[:, place] = data.take(number)
    planes[:, -1] = codes.decode_symbols(data, number)
    kept = planes.view(kind).reshape(-1)
    return (kept >> 1) | (kept << (8 * itemsize - 1))


def _encode_book(kept: np.ndarray) -> bytes:
    """At most 32 values per layer (k-means), and the code of which weight has which."""
    kept = kept.view(np.float32)
    book = _k_means(kept) if len(kept) else kept
    symbols = np.searchsorted((book[1:] + book[:-1]) / 2, kept).astype(np.uint8)
    return bytes((len(book),)) + book.tobytes() + codes.encode_symbols(symbols)


def _decode_book(data: codes.Reader, number: int) -> np.ndarray:
    book = data.take(4 * int(data.take(1)[0])).view(np.uint32)
    symbols = codes.decode_symbols(data, number)
    if number and int(symbols.max()) >= len(book):
        data.fail(f"its codebook has {len(book)} values, and a weight another one")
    return book[symbols]


def _k_means(kept: np.ndarray) -> np.ndarray:
    """The values of a layer's codebook, ascending, from evenly spaced ones (Deep Compression)."""
    kept = np.sort(kept)
    sums = np.concatenate(([0.0], np.cumsum(kept, dtype=np.float64)))
    book = np.linspace(kept[0], kept[-1], _CODEBOOK)
    for _ in range(1000):
        ends = np.searchsorted(kept, (book[1:] + book[:-1]) / 2)
        ends = np.concatenate(([0], ends, [len(kept)]))
        numbers = np.diff(ends)
        moved = np.where(numbers > 0, np.diff(sums[ends]) / np.maximum(numbers, 1), book)
        if np.array_equal(moved, book):
            break
        book = moved
    return book[numbers > 0].astype(np.float32)
