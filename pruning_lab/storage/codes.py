"""Codes for sets and symbols that need no loop over weights: Rice codes of gaps, trees of sets.

A set of positions is stored as its gaps (elements left out before each): of every 32 gaps the k
that makes their code shortest, the low k bits bit by bit, then the quotients gap >> k in unary
(zeros, then a one). Where weights are dense k is small, where they are sparse large: columns of
dead inputs cost little. With k = 0 everywhere this is a bit mask.

Symbols, these k among them, are stored as a tree: the set of positions of the rarer half of the
symbols, then both halves alike, down to one symbol. Where one symbol is most frequent the gaps of
the others need far less than the one bit of a Huffman code.
"""

from typing import NoReturn

import numpy as np

from pruning_lab.rows import printable

MOST = 2**32 - 1  # elements of a set
_CHUNK = 32  # gaps with one k
_LEAF = 0  # in place of a set's number of positions, which is never 0 in a tree
_DEPTH = 48  # a tree is less deep: one half has half the symbols, the other half the positions


class Reader:
    """The bytes of one layer, taken from the front; errors say at which byte of the file."""

    def __init__(self, data: bytes, start: int = 0, where: str = "layer"):
        self.data, self.start, self.where = memoryview(data), start, where
        self.position = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.position

    def take(self, size: int) -> np.ndarray:
        """The next bytes, uint8."""
        if size > self.left:
            self.fail(f"{size:,} bytes are expected, {self.left:,} are left")
        self.position += size
        return np.frombuffer(self.data[self.position - size : self.position], np.uint8)

    def number(self) -> int:
        """The next number: seven bits in each byte, whose eighth bit says that more follow."""
        number = shift = 0
        while (byte := int(self.take(1)[0])) > 127 and shift < 28:
            number, shift = number | (byte & 127) << shift, shift + 7
        return number | byte << shift

    def fail(self, what: str) -> NoReturn:
        """Raise ValueError, naming the layer and the byte."""
        raise ValueError(printable(f"{self.where}, byte {self.start + self.position:,}: {what}"))


def _number(number: int) -> bytes:
    """As `Reader.number` takes it."""
    return bytes((number & 127 | 128,)) + _number(number >> 7) if number > 127 else bytes((number,))


def encode_set(positions: np.ndarray) -> bytes:
    """The code of ascending positions, int64."""
    number = len(positions)
    gaps = np.zeros((-(-number // _CHUNK), _CHUNK), np.uint32)
    flat = gaps.reshape(-1)[:number]
    flat[:1] = positions[:1]
    np.subtract(positions[1:], positions[:-1], out=flat[1:], casting="unsafe")
    flat[1:] -= 1
    ks = _best(gaps, number)
    planes = []
    for bit in range(max(ks, default=0)):
        rows, bits = _plane(ks, bit, number)
        plane = (gaps[rows] & (1 << bit)).reshape(-1)[:bits] != 0
        planes.append(np.packbits(plane).tobytes())
    ends = (gaps >> ks[:, None]).reshape(-1)[:number].astype(np.int64)
    ends += 1
    np.cumsum(ends, out=ends)
    unary = np.zeros(ends[-1] if number else 0, bool)
    ends -= 1
    unary[ends] = True
    packed = np.packbits(unary).tobytes()
    sizes = _number(number) + _number(len(packed))
    return b"".join((sizes, encode_symbols(ks), *planes, packed))


def _best(gaps: np.ndarray, number: int) -> np.ndarray:
    """The k of every chunk, uint8."""
    sizes = np.full(len(gaps), _CHUNK)
    sizes[-1:] -= gaps.size - number
    ks, costs, halves = np.zeros(len(gaps), np.uint8), gaps.sum(1, dtype=np.int64), gaps
    for k in range(1, 32):
        halves = halves >> 1
        now = halves.sum(1, dtype=np.int64) + k * sizes
        better = now < costs
        if not better.any():  # the cost is convex in k, so no larger one is better
            break
        ks[better], costs = k, np.minimum(now, costs)
    return ks


def _plane(ks: np.ndarray, bit: int, number: int) -> tuple[np.ndarray, int]:
    """The chunks whose gaps have this low bit, and how many gaps that are."""
    rows = np.flatnonzero(ks > bit)
    missing = _CHUNK * len(ks) - number if ks[-1] > bit else 0
    return rows, _CHUNK * len(rows) - missing


def decode_set(data: Reader, size: int) -> np.ndarray:
    """The positions, int64, all below `size`."""
    number, length = data.number(), data.number()
    if number > min(size, 8 * length) or length > -(-size // 8):
        data.fail(f"{number:,} positions below {size:,} in {length:,} bytes cannot be")
    chunks = -(-number // _CHUNK)
    ks = decode_symbols(data, chunks)
    low = np.zeros((chunks, _CHUNK), np.uint32)
    for bit in range(max(ks, default=0)):
        if bit == 32:
            data.fail("its gaps have more than 32 bits")
        rows, bits = _plane(ks, bit, number)
        plane = np.zeros((len(rows), _CHUNK), np.uint32)
        plane.reshape(-1)[:bits] = np.unpackbits(data.take(-(-bits // 8)), count=bits)
        low[rows] |= plane << bit
    ends = np.flatnonzero(np.unpackbits(data.take(length)).view(bool))
    if len(ends) != number:
        data.fail(f"{number:,} gaps are expected, {len(ends):,} are there")
    steps = np.zeros((chunks, _CHUNK), np.int64)
    flat = steps.reshape(-1)[:number]
    flat[:] = ends  # in place, as all here: these are the largest arrays
    flat[1:] -= ends[:-1]
    flat[1:] -= 1
    steps <<= ks[:, None]
    steps += low
    steps += 1
    positions = np.cumsum(flat, out=ends)
    positions -= 1
    if number and not 0 <= positions[-1] < size:
        data.fail(f"its positions do not end below {size:,}")
    return positions


def encode_symbols(symbols: np.ndarray) -> bytes:
    """The code of uint8 symbols, near their entropy."""
    numbers = np.bincount(symbols, minlength=256)
    order = np.argsort(-numbers, kind="stable")[: np.count_nonzero(numbers)]
    if len(order) < 2:
        return b"".join(bytes((_LEAF, symbol)) for symbol in order)
    most = 1 + int(np.searchsorted(numbers[order].cumsum(), len(symbols) / 2))
    table = np.ones(256, bool)
    table[order[:most]] = False
    rarer = table[symbols]
    parts = symbols[~rarer], symbols[rarer]
    return encode_set(np.flatnonzero(rarer)) + b"".join(map(encode_symbols, parts))


def decode_symbols(data: Reader, number: int, depth: int = _DEPTH) -> np.ndarray:
    """That many symbols, uint8."""
    if not number:
        return np.zeros(0, np.uint8)
    if data.left and data.data[data.position] == _LEAF:
        return np.full(number, data.take(2)[1])
    rarer = decode_set(data, number)
    if not 0 < len(rarer) < number or not depth:
        data.fail("its tree of symbols has an empty branch, or too many levels")
    first = decode_symbols(data, number - len(rarer), depth - 1)
    other, symbols = np.ones(number, bool), np.empty(number, np.uint8)
    other[rarer] = False
    symbols[other] = first
    symbols[rarer] = decode_symbols(data, len(rarer), depth - 1)
    return symbols
