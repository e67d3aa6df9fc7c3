"""Codes for sets and symbols that need no loop over weights: Rice codes of gaps, trees of sets.

A set of positions is stored as its gaps (elements left out before each): the low k bits of all
gaps bit by bit, the quotients gap >> k in unary (zeros, then a one). With k = 0 this is a bit mask.

Symbols are stored as a Huffman tree whose every node holds the set of the positions that go to its
rarer side. Where that side is rare, a gap code needs far less than Huffman's one bit.
"""

import heapq
import struct
from itertools import count
from typing import NoReturn

import numpy as np

from pruning_lab.rows import printable

MOST = 2**32 - 1  # elements of a set
_SET = struct.Struct("<BII")  # k, positions, bytes of the unary part
_LEAF = 255  # in place of k
_DEPTH = 48  # a Huffman tree of 2**32 symbols is not deeper: its counts grow as Fibonacci's numbers


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

    def fail(self, what: str) -> NoReturn:
        """Raise ValueError, naming the layer and the byte."""
        raise ValueError(printable(f"{self.where}, byte {self.start + self.position:,}: {what}"))


def encode_set(positions: np.ndarray) -> bytes:
    """The code of ascending positions, int64, with the k that makes it shortest."""
    gaps = np.diff(positions, prepend=-1).astype(np.uint32)
    gaps -= 1
    quotients, k = gaps, 0
    total = int(gaps.sum(dtype=np.int64))
    while total > len(gaps):  # convex in k: each step saves less than the one before
        halves = quotients >> 1
        left = int(halves.sum(dtype=np.int64))
        if total - left <= len(gaps):
            break
        quotients, total, k = halves, left, k + 1
    ends = np.cumsum(quotients, dtype=np.int64)
    ends += np.arange(len(ends))
    unary = np.zeros(len(gaps) + total, bool)
    unary[ends] = True
    planes = [np.packbits((gaps & (1 << bit)) != 0).tobytes() for bit in range(k)]
    packed = np.packbits(unary).tobytes()
    return b"".join((_SET.pack(k, len(gaps), len(packed)), *planes, packed))


def decode_set(data: Reader, size: int) -> np.ndarray:
    """The positions, int64, all below `size`."""
    k, number, unary = _SET.unpack(data.take(_SET.size))
    if number > size or k > 31:
        data.fail(f"{number:,} positions of {size:,}, or k = {k}, cannot be")
    planes = data.take(k * -(-number // 8)).reshape(k, -(-number // 8))
    ends = np.flatnonzero(np.unpackbits(data.take(unary)).view(bool))
    if len(ends) != number:
        data.fail(f"{number:,} gaps are expected, {len(ends):,} are there")
    if not number:
        return ends
    steps = np.arange(number)
    ends -= steps
    if int(ends[-1]) << k >= size:  # before it can overflow
        data.fail(f"its positions do not end below {size:,}")
    ends <<= k
    ends += steps
    if k:
        low = np.zeros(number, np.uint32)
        for bit, plane in enumerate(planes):
            low |= np.unpackbits(plane, count=number).astype(np.uint32) << bit
        ends += np.cumsum(low, dtype=np.int64, out=steps)
    if ends[-1] >= size:
        data.fail(f"its positions do not end below {size:,}")
    return ends


def encode_symbols(symbols: np.ndarray) -> bytes:
    """The code of uint8 symbols, near their entropy."""
    numbers = np.bincount(symbols, minlength=256)
    order = count()  # no two entries of the heap are equal
    heap = [(int(numbers[s]), next(order), int(s)) for s in np.flatnonzero(numbers)]
    heapq.heapify(heap)
    while len(heap) > 1:
        (few, _, rarer), (many, _, other) = heapq.heappop(heap), heapq.heappop(heap)
        heapq.heappush(heap, (few + many, next(order), (other, rarer)))
    return b"".join(_encode_node(symbols, heap[0][2])) if heap else b""


def _encode_node(symbols: np.ndarray, tree: int | tuple) -> list[bytes]:
    if isinstance(tree, int):
        return [bytes((_LEAF, tree))]
    other, rarer = tree
    table = np.zeros(256, bool)
    table[_leaves(rarer)] = True
    inside = table[symbols]
    positions = np.flatnonzero(inside)
    first = [] if isinstance(other, int) else symbols[~inside]
    code = [encode_set(positions), *_encode_node(first, other)]
    return code + _encode_node(symbols[positions], rarer)


def _leaves(tree: int | tuple) -> list[int]:
    return [tree] if isinstance(tree, int) else _leaves(tree[0]) + _leaves(tree[1])


def decode_symbols(data: Reader, number: int, depth: int = _DEPTH) -> np.ndarray:
    """That many symbols, uint8."""
    if not number:
        return np.zeros(0, np.uint8)
    if data.left and data.data[data.position] == _LEAF:
        return np.full(number, data.take(2)[1])
    positions = decode_set(data, number)
    if not 0 < len(positions) < number or not depth:
        data.fail("its tree of symbols has an empty branch, or too many levels")
    first = decode_symbols(data, number - len(positions), depth - 1)
    inside = np.ones(number, bool)
    inside[positions] = False
    symbols = np.empty(number, np.uint8)
    symbols[inside] = first
    symbols[positions] = decode_symbols(data, len(positions), depth - 1)
    return symbols
