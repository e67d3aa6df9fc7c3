"""Storing pruned networks: bytes, seconds and memory of our packed files and of others.

    python benchmarks/storage.py                       # three minutes on two cores; needs MNIST
    python benchmarks/storage.py --save                # also write results/storage.json
    python benchmarks/storage.py pruned.safetensors    # also the layers of a network of your own

First fc6 of AlexNet (37.7 million weights, Gaussian and cut by threshold to 9 %, as no trained one
is at hand), exact: all sides run in this process, in turn; times are the best of the turns. Then
the trained LeNets, pruned and not retrained, in every format of values; accuracies are of the val
images. constriction, an entropy coder, is an upper anchor: pip install 'pruning-lab[benchmark]'.
"""

import argparse
import io
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
from tabulate import tabulate
from torch import Tensor, nn

from pruning_lab import data, evaluation, files, masks, models, paper, provenance, storage
from pruning_lab.rows import plain
from pruning_lab.storage import codes, weights

RESULTS = Path(__file__).resolve().parent.parent / "results"
DENSITY = 0.09
SHAPE = 4096, 9216  # fc6, the paper's fc1
KEPT = 0.3  # of the LeNets, or more where the paper keeps more: nothing is retrained
LENETS = ("lenet-300-100", "lenet-5")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("networks", nargs="*", type=Path, help="files of pruned networks")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=SHAPE[0], help="fewer, to see that it runs")
    parser.add_argument("--save", action="store_true", help="write results/storage.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    weight = fc6(options.rows)
    sides = [row for side in SIDES for row in [measured(side, weight, options.turns)] if row]
    print(tabulate(sides, headers="keys", floatfmt=("", ".2f", ".2f", ".2f")), flush=True)
    memory = peaks(weight)
    print(tabulate([memory], headers="keys", floatfmt=".2f"), flush=True)
    lenets = [row for name in LENETS for row in formats(name)]
    print(tabulate(lenets, headers="keys", floatfmt=(*[""] * 3, ".1f")))
    layers = {name: packed(pruned(name)) for name in LENETS}
    for path in options.networks:
        layers[str(path)] = packed(models.load(path)[0])
    for name, rows in layers.items():
        print(f"\n{name}: {rows.file_bytes:,} of {rows.dense_bytes:,} bytes", rows, sep="\n")
    if options.save and options.rows == SHAPE[0]:
        about = {"versions": provenance.versions(), "machine": provenance.machine()}
        result = {"fc6": sides, "memory": memory, "formats": lenets}
        result["layers"] = {name: layers[name] for name in LENETS}
        files.save_json(RESULTS / "storage.json", plain({**about, **result}))


def fc6(rows: int) -> Tensor:
    torch.manual_seed(0)
    weight = 0.01 * torch.randn(rows, SHAPE[1])
    last = weight.numel() - round(DENSITY * weight.numel())
    threshold = weight.abs().flatten().kthvalue(last).values
    return weight.masked_fill_(weight.abs() <= threshold, 0)


# ----------------------------------------------------------------------------------------- sides


def measured(side: Callable, weight: Tensor, turns: int) -> dict | None:
    """The bytes of one side, and the best times of its turns."""
    try:
        encode, decode = side()
    except ImportError as error:
        print(f"{error.name} is not installed: left out")
        return None
    times = []
    while len(times) < turns and sum(map(sum, times)) < 20:
        start = time.perf_counter()
        stored = encode(weight)
        middle = time.perf_counter()
        found = decode(stored)
        times.append((middle - start, time.perf_counter() - middle))
        assert np.array_equal(np.asarray(found), weight.numpy()), side.__doc__
    size = sum(len(part) if isinstance(part, bytes) else part.nbytes for part in stored)
    encoding, decoding = map(min, zip(*times, strict=True))
    return {"side": side.__doc__, "MB": size / 1e6, "encode, s": encoding, "decode, s": decoding}


def ours():
    """gaps and exponents coded (ours)"""

    def encode(weight: Tensor):
        *parts, layout = weights.encode(weight)
        return *parts, Layout(layout)

    return encode, lambda stored: weights.decode(codes.Reader(b"".join(stored[:2])), stored[2].it)


class Layout:
    """Its few bytes are not counted, as others' shapes are not."""

    nbytes = 0

    def __init__(self, it: object):
        self.it = it


def our_file():
    """the same with the file: pack and unpack"""
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "fc6.packed"

    def encode(weight: Tensor):
        storage.pack(path, holding(weight))
        return (path.read_bytes(),)

    return encode, lambda stored, folder=folder: storage.unpack(path)[0]["weight"]


def holding(weight: Tensor) -> nn.Module:
    layer = nn.Linear(1, 1, bias=False)
    layer.weight = nn.Parameter(weight)
    return layer


def relative_indices():
    """5-bit relative indices, fillers (the paper's)"""

    def encode(weight: Tensor):
        flat = weight.numpy().ravel()
        positions = np.flatnonzero(flat)
        gaps = np.diff(positions, prepend=-1) - 1
        ends = np.cumsum((gaps >> 5) + 1) - 1  # where the weights come among the fillers
        values, indices = np.zeros(ends[-1] + 1, np.float32), np.full(ends[-1] + 1, 31, np.uint8)
        values[ends], indices[ends] = flat[positions], gaps & 31
        return values, *(np.packbits(indices >> bit & 1) for bit in range(5)), Layout(weight.shape)

    def decode(stored: tuple):
        values, *planes, shape = stored
        indices = np.zeros(len(values), np.uint8)
        for bit, plane in enumerate(planes):
            indices |= np.unpackbits(plane, count=len(values)) << bit
        weight = np.zeros(shape.it, np.float32)
        weight.ravel()[np.cumsum(indices + np.int64(1)) - 1] = values
        return weight

    return encode, decode


def bit_mask():
    """bit mask"""

    def encode(weight: Tensor):
        kept = weight.numpy() != 0
        return np.packbits(kept), weight.numpy()[kept], Layout(weight.shape)

    def decode(stored: tuple):
        bits, values, shape = stored
        weight = np.zeros(shape.it, np.float32)
        weight[np.unpackbits(bits, count=weight.size).view(bool).reshape(shape.it)] = values
        return weight

    return encode, decode


def csr():
    """CSR, int32"""

    def encode(weight: Tensor):
        stored = scipy.sparse.csr_array(weight.numpy())
        return stored.data, stored.indices, stored.indptr, Layout(weight.shape)

    def decode(stored: tuple):
        *parts, shape = stored
        return scipy.sparse.csr_array(tuple(parts), shape=shape.it).toarray()

    return encode, decode


def save_npz():
    """scipy save_npz"""

    def encode(weight: Tensor):
        buffer = io.BytesIO()
        scipy.sparse.save_npz(buffer, scipy.sparse.csr_array(weight.numpy()))
        return (buffer.getvalue(),)

    return encode, lambda stored: scipy.sparse.load_npz(io.BytesIO(stored[0])).toarray()


def savez_compressed():
    """np.savez_compressed"""

    def encode(weight: Tensor):
        buffer = io.BytesIO()
        np.savez_compressed(buffer, weight.numpy())
        return (buffer.getvalue(),)

    return encode, lambda stored: np.load(io.BytesIO(stored[0]))["arr_0"]


def compressed():
    """zlib, level 1"""

    def decode(stored: tuple):
        return np.frombuffer(zlib.decompress(stored[0]), np.float32).reshape(stored[1].it)

    return lambda w: (zlib.compress(w.numpy(), 1), Layout(w.shape)), decode


def zstd():
    """zstd, level 3"""
    from compression import zstd  # Python 3.14

    def decode(stored: tuple):
        return np.frombuffer(zstd.decompress(stored[0]), np.float32).reshape(stored[1].it)

    return lambda w: (zstd.compress(w.numpy(), 3), Layout(w.shape)), decode


def constriction():
    """constriction: ANS of gaps and exponents"""
    import constriction

    coder, model = constriction.stream.stack.AnsCoder, constriction.stream.model.Categorical

    def coded(symbols: np.ndarray):
        seen, symbols = np.unique(symbols, return_inverse=True)
        numbers = np.bincount(symbols)
        ans = coder()
        ans.encode_reverse(symbols.astype(np.int32), model(numbers / numbers.sum(), perfect=False))
        return ans.get_compressed(), seen.astype(np.uint32), numbers

    def symbols_of(code: np.ndarray, seen: np.ndarray, numbers: np.ndarray):
        chances = model(numbers / numbers.sum(), perfect=False)
        return seen[coder(code).decode(chances, int(numbers.sum()))]

    def encode(weight: Tensor):
        bits = weight.numpy().ravel().view(np.uint32)
        positions = np.flatnonzero(bits != 0)
        kept = bits[positions]
        gaps = coded(np.diff(positions, prepend=-1))
        exponents = coded(kept >> 23 & 255)
        others = ((kept & 0x7FFFFF) << 1 | kept >> 31).view(np.uint8).reshape(-1, 4)
        return *gaps, *exponents, np.ascontiguousarray(others[:, :3]), Layout(weight.shape)

    def decode(stored: tuple):
        others = np.zeros((len(stored[6]), 4), np.uint8)
        others[:, :3] = stored[6]
        others = others.view(np.uint32)[:, 0]
        kept = others >> 1 | others << 31 | symbols_of(*stored[3:6]) << 23
        weight = np.zeros(stored[7].it, np.float32)
        weight.ravel().view(np.uint32)[np.cumsum(symbols_of(*stored[:3]), dtype=np.int64) - 1] = (
            kept
        )
        return weight

    return encode, decode


SIDES = (ours, our_file, constriction, relative_indices, bit_mask, csr)
SIDES = (*SIDES, save_npz, savez_compressed, compressed, zstd)


# ---------------------------------------------------------------------------------------- memory


def peaks(weight: Tensor) -> dict:
    """The peak memory of packing and of unpacking, as multiples of the dense weight.

    Each in a process of its own, beyond what it had before; for packing, with the weight itself.
    """
    size, found = weight.numpy().nbytes, {}
    with tempfile.TemporaryDirectory() as folder:
        weight.numpy().tofile(Path(folder) / "fc6")
        for what in ("pack", "unpack"):
            words = [sys.executable, __file__, f"--peak-of-{what}", folder, str(weight.shape[1])]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            found[f"{what}, times the dense bytes"] = int(done.stdout) / size
    return found


def child(what: str, folder: str, columns: str) -> None:
    """Print the bytes of memory that packing or unpacking took."""
    path = Path(folder)
    storage.pack(path / "warm", nn.Linear(2, 2))  # what is loaded on first use is not counted
    storage.unpack(path / "warm")
    before = peak()
    if what == "--peak-of-pack":
        weight = torch.from_numpy(np.fromfile(path / "fc6", np.float32))
        storage.pack(path / "fc6.packed", holding(weight.view(-1, int(columns))))
    else:
        storage.unpack(path / "fc6.packed")
    print(peak() - before)


def peak() -> int:
    """Bytes; from Linux, whose getrusage counts the process that started this one too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


# ---------------------------------------------------------------------------------------- LeNets


def pruned(name: str, least: float = 0.0) -> nn.Module:
    """The network as it ships, at the paper's densities, or at `least` where that is more."""
    model = models.BUILT_IN[name](trained="mnist").eval()
    rows = paper.LAYER_TABLES[name][:-1]
    masks.prune(model, density={r.layer: max(least, r.density) for r in rows}).apply_(model)
    return model


def packed(model: nn.Module, **how) -> storage.Packed:
    with tempfile.TemporaryDirectory() as folder:
        return storage.pack(Path(folder) / "packed", model, **how)


def formats(name: str) -> list[dict]:
    """A row for each format of values: the size, and the change of accuracy from exact values."""
    model, about = pruned(name, KEPT), {"network": name}
    val = data.load("mnist").val
    exact = evaluation.evaluate(model, val)
    rows = []
    for values in storage.FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "packed"
            size = storage.pack(path, model, values=values, about=about)
            tensors, said = storage.unpack(path)
        again = models.build(said).eval()
        again.load_state_dict(tensors)
        change = evaluation.drop(exact, evaluation.evaluate(again, val))
        times = size.dense_bytes / size.file_bytes
        row = {"network": name, "values": values, "bytes": size.file_bytes, "times smaller": times}
        row |= {"value bits": size.total.value_bits, "index bits": size.total.index_bits}
        rows.append({**row, "kept": KEPT, "accuracy": exact.value, "change": change})
    return rows


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith("--peak-of-"):
        child(*sys.argv[1:])
    else:
        main()
