"""Packed files: exact, small, refused when broken; the paper's scheme; the commands."""

import json
import math
import random
import re
import tracemalloc
import zlib

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn
from toys import Branching

from pruning_lab import cli, files, masks, models, paper, storage
from pruning_lab.storage import codes

PLACE = re.compile(r"(header|end|\d\.[a-z_]+), byte [\d,]+: ")


def holding(weight):
    """A network whose only parameter is this weight."""
    layer = nn.Linear(1, 1, bias=False)
    layer.weight = nn.Parameter(weight)
    return nn.Sequential(layer)


def there_and_back(weight, path, values="float32"):
    packed = storage.pack(path, holding(weight), values=values)
    assert packed.file_bytes == path.stat().st_size
    return storage.unpack(path)[0]["0.weight"]


def bits(tensor):
    """NaN and -0.0 are equal to themselves only as bits."""
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.dtype, tensor.shape, tensor.contiguous().view(-1).view(kind).tolist()


def sparse(shape, density, seed=0, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=draw)
    gone = torch.rand(shape, generator=draw) >= density
    return weight.masked_fill(gone, 0).to(dtype)  # a product would leave -0.0


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("storage") / "net.packed"


# ------------------------------------------------------------------------------------ exactness

ODD = [-0.0, math.nan, math.inf, -math.inf, 1e-45, -1e-40, 3.4e38, 6e-8, 65504.0]
SHAPES = [(1, 1), (1, 70), (70, 1), (5, 64), (33, 31), (4, 3, 3, 3), (2, 3, 5), (3, 0), (130, 90)]


@settings(deadline=None, max_examples=120)
@given(
    st.sampled_from(SHAPES),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    st.sampled_from([0, 0.01, 0.1, 0.5, 0.97, 1]),
    st.lists(st.sampled_from(ODD), max_size=6),
    st.integers(0, 2**20),
)
@example((130, 90), torch.float32, 0.1, ODD, 1)
def test_every_bit_comes_back(path, shape, dtype, density, odd, seed):
    weight = sparse(shape, density, seed, dtype)
    flat = weight.view(-1)
    for place, value in enumerate(odd[: len(flat)]):
        flat[(place * 7919 + seed) % len(flat)] = value
    assert bits(there_and_back(weight, path)) == bits(weight)


@pytest.mark.parametrize("gap", [0, 1, 31, 32, 33, 255, 256, 257, 10**6])
@pytest.mark.parametrize("repeated", [1, 3])
def test_gaps_of_every_length_come_back(gap, repeated, path):
    weight = torch.zeros(1, 2 + repeated * (gap + 1))
    weight[0, gap :: gap + 1] = torch.arange(1.0, len(weight[0, gap :: gap + 1]) + 1)
    assert torch.equal(there_and_back(weight, path), weight)


@settings(deadline=None, max_examples=30)
@given(st.binary(min_size=4, max_size=400))
def test_any_bits_at_all_come_back(path, content):
    weight = torch.frombuffer(bytearray(content[: len(content) // 4 * 4]), dtype=torch.int32)
    assert bits(there_and_back(weight.view(torch.float32)[None], path))[2] == weight.tolist()


@pytest.mark.parametrize("values", ["float16", "bfloat16"])
def test_rounded_values_come_back_as_torch_rounds_them(values, path):
    weight = sparse((200, 70), 0.2)
    weight[0, :4] = torch.tensor([1e-9, -1e-9, -0.0, 1.0])
    rounded = weight.to(getattr(torch, values)).float()
    assert bits(there_and_back(weight, path, values)) == bits(rounded)


def test_a_codebook_has_32_values_and_every_weight_the_nearest(path):
    weight = sparse((300, 100), 0.1)
    found = there_and_back(weight, path, "codebook")
    kept, book = weight[weight != 0], found.unique()
    assert torch.equal(found != 0, weight != 0)
    book = book[book != 0]
    assert len(book) <= 32
    nearest = (kept[:, None] - book).abs().min(1)
    assert torch.equal((kept - found[weight != 0]).abs(), nearest.values)
    means = torch.stack([kept[nearest.indices == i].double().mean() for i in range(len(book))])
    assert torch.allclose(means.float(), book, atol=1e-4)  # k-means has converged
    few = torch.tensor([[0.0, 0.5, -0.25, 0.5]])
    assert torch.equal(there_and_back(few, path, "codebook"), few)
    minus = torch.linspace(-1, 1.3, 1000)[None]
    minus[0, 5] = -0.0
    assert there_and_back(minus, path, "codebook")[0, 5] == 0


def test_a_whole_network_comes_back_with_its_buffers_and_its_about(path):
    model = Branching()
    model(torch.randn(4, 1, 8, 8))  # the batch norm has seen something
    masks.prune(model, density=0.3).apply_(model)
    model = model.to(memory_format=torch.channels_last)
    about = {"network": "mine:Branching", "Größe": [1, 2.5, None]}
    packed = storage.pack(path, model, about=about)
    tensors, found = storage.unpack(path)
    assert found == about
    assert [*tensors] == [*model.state_dict()]
    for name, tensor in model.state_dict().items():
        assert bits(tensors[name]) == bits(tensor)
    assert [row.layer for row in packed] == ["stem", "block.0", "block.2", "head"]
    Branching().load_state_dict(tensors)


def test_half_precision_and_tied_networks_come_back(path):
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)).half()
    model[2].weight = model[0].weight
    storage.pack(path, model)
    for name, tensor in storage.unpack(path)[0].items():
        assert bits(tensor) == bits(model.state_dict()[name])


@pytest.mark.parametrize(
    ("weight", "values", "expected"),
    [
        (torch.ones(2, 2, dtype=torch.float64), "float32", "model.float()"),
        (torch.tensor([[math.nan]]), "codebook", "infinite or NaN"),
        (torch.tensor([[1e9]]), "float16", "too large for float16"),
        (torch.ones(1, 1), "float8", "there are float32, float16, bfloat16, codebook"),
        (torch.ones(1, 1, device="meta"), "float32", "meta device"),
    ],
)
def test_what_no_packed_file_holds_gets_one_sentence(weight, values, expected, tmp_path):
    with pytest.raises(ValueError, match=re.escape(expected)):
        storage.pack(tmp_path / "a", holding(weight), values=values)
    assert not (tmp_path / "a").exists()


# ----------------------------------------------------------------------------------------- sizes


def by_loop(weight):
    """Bytes in the paper's scheme, entry by entry: (zeros before it, value)."""
    bits, entries, zeros, waiting = (8 if weight.dim() > 2 else 5), 0, 0, 0
    for value in weight.reshape(-1).tolist():
        if value:
            entries, zeros, waiting = entries + waiting + 1, 0, 0
        elif zeros == 2**bits - 1:
            zeros, waiting = 0, waiting + 1  # a filler, if a weight follows
        else:
            zeros += 1
    return math.ceil(entries * (32 + bits) / 8)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([(1, 4000), (60, 50), (8, 10, 5, 5)]),
    st.sampled_from([0, 0.002, 0.01, 0.1, 0.6]),
    st.integers(0, 99),
)
def test_the_papers_scheme_is_that_of_a_loop(shape, density, seed):
    weight = sparse(shape, density, seed)
    assert storage.sizes(weight)["paper"] == by_loop(weight)


@pytest.mark.parametrize(("gap", "fillers"), [(31, 0), (32, 1), (63, 1), (64, 2), (1000, 31)])
def test_a_gap_of_32_zeros_needs_a_filler(gap, fillers):
    weight = torch.zeros(1, gap + 10)
    weight[0, gap] = 1
    assert storage.sizes(weight)["paper"] == math.ceil((1 + fillers) * 37 / 8)


def test_the_papers_figures_hold_where_no_gap_is_too_long():
    """15.6 % = 5/32, and AlexNet's 31.8 MB; a hundredth of each layer, evenly spread."""
    total = kept_bytes = 0
    for row in paper.ALEXNET[:-1]:
        size, kept = round(row.weights / 100), round(row.weights * row.density / 100)
        weight = torch.zeros(size)
        weight[torch.arange(kept) * size // kept] = 1
        shape = (1, size, 1, 1) if row.layer.startswith("conv") else (1, size)
        theirs = storage.sizes(weight.view(shape))["paper"]
        total, kept_bytes = total + 100 * theirs, kept_bytes + 400 * kept
        if row.layer.startswith("fc"):
            assert theirs / (4 * kept) - 1 == pytest.approx(5 / 32, abs=1e-4)
    assert total / 1e6 == pytest.approx(31.8, abs=0.05)
    assert total / kept_bytes - 1 == pytest.approx(0.168, abs=0.001)
    assert 244 / (total / 1e6) == pytest.approx(7.7, abs=0.05)  # times smaller, not 9


def test_sizes_are_those_of_what_is_stored(path):
    weight = sparse((100, 300), 0.1)
    sizes, kept = storage.sizes(weight), int(weight.count_nonzero())
    assert sizes["float32"] == weight.numpy().nbytes
    assert sizes["bit mask"] == len(np.packbits(weight != 0)) + weight[weight != 0].numpy().nbytes
    csr = scipy.sparse.csr_array(weight.numpy())  # with int32 indices
    assert sizes["csr int32"] == sum(x.nbytes for x in (csr.data, csr.indices, csr.indptr))
    for values in storage.FORMATS:
        packed = storage.pack(path, holding(weight), values=values)
        with safe_open(path, "pt") as file:  # any reader of safetensors can list it
            stored = file.get_slice("0.weight").get_shape()
        (row,) = packed
        assert stored == [row.bytes] == [sizes["ours" if values == "float32" else values]]
        assert (row.index_bits + row.value_bits) * kept == pytest.approx(8 * row.bytes)
        assert row.paper_bytes == sizes["paper"]
        assert (1 + row.paper_overhead) * 4 * kept == pytest.approx(row.paper_bytes)


def test_the_total_adds_up(path):
    model = models.lenet_300_100(trained="mnist")
    masks.prune(model, density=0.08).apply_(model)
    packed = storage.pack(path, model)
    total = packed.total
    assert total.kept == sum(int(p.count_nonzero()) for p in model.parameters() if p.dim() > 1)
    assert total.bytes == sum(row.bytes for row in packed)
    assert (total.index_bits + total.value_bits) * total.kept == pytest.approx(8 * total.bytes)
    assert (1 + total.paper_overhead) * 4 * total.kept == pytest.approx(total.paper_bytes)
    assert packed.dense_bytes == 4 * 266_610
    assert packed.file_bytes < packed.dense_bytes / 13
    assert str(packed).splitlines()[-1].startswith("total")


def test_independent_gaps_come_near_their_bound_and_dead_inputs_beat_it(path):
    """The bound is that of gaps which do not know their column; real masks have dead columns."""
    even = sparse((1000, 1000), 0.09)
    dead = sparse((1000, 1000), 0.18)
    dead[:, torch.arange(1000) // 50 % 2 == 0] = 0
    (row,) = storage.pack(path, holding(even))
    assert row.bound == pytest.approx(4.850, abs=0.02)
    assert row.bound < row.index_bits < 1.015 * row.bound
    (row,) = storage.pack(path, holding(dead))
    assert row.index_bits < 0.85 * row.bound
    assert torch.equal(storage.unpack(path)[0]["0.weight"], dead)


# ----------------------------------------------------------------------------------------- codes


def set_by_loop(code):
    """The positions of a code of at most 32, bit by bit, as the docstring of `codes` says."""
    number, length, leaf, k = code[:4]
    assert (number < 128, length < 128, leaf) == (True, True, 0)
    stream, bits = [int(b) for byte in code[4:] for b in f"{byte:08b}"], []
    plane = 8 * math.ceil(number / 8)
    lows = [sum(stream[p * plane + i] << p for p in range(k)) for i in range(number)]
    quotient, position, at = 0, -1, 0
    for bit in stream[k * plane :]:
        if not bit:
            quotient += 1
            continue
        position += (quotient << k) + lows[at] + 1
        bits.append(position)
        quotient, at = 0, at + 1
    assert len(stream) == k * plane + 8 * length
    return k, bits


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=32, unique=True))
def test_a_set_is_the_rice_code_of_a_loop_with_the_best_k(positions):
    positions = sorted(positions)
    k, found = set_by_loop(codes.encode_set(np.array(positions)))
    assert found == positions
    gaps = [b - a - 1 for a, b in zip([-1, *positions], positions, strict=False)]
    costs = [sum((gap >> k) + 1 + k for gap in gaps) for k in range(10)]
    assert costs[k] == min(costs)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=256), st.integers(0, 3000))
def test_symbols_come_back(frequencies, number):
    draw = np.random.default_rng(number)
    weights = np.array(frequencies) ** 4 + 1e-9
    symbols = draw.choice(len(weights), number, p=weights / weights.sum()).astype(np.uint8)
    data = codes.Reader(codes.encode_symbols(symbols))
    assert np.array_equal(codes.decode_symbols(data, number), symbols)
    assert data.left == 0


@pytest.mark.parametrize("p", [(0.98, 0.02), (0.7, 0.2, 0.05, 0.05), (1 / 32,) * 32])
def test_symbols_come_near_their_entropy(p):
    symbols = np.random.default_rng(0).choice(len(p), 200_000, p=p).astype(np.uint8)
    entropy = -sum(x * math.log2(x) for x in p)
    assert 8 * len(codes.encode_symbols(symbols)) / len(symbols) < 1.05 * entropy + 0.01


# ---------------------------------------------------------------------------- broken and hostile


@pytest.fixture(scope="module")
def small(path):
    """The bytes of a small packed network, and its tensors."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(8, 9))
    del model[1].num_batches_tracked, model[1].running_var  # a shorter header
    masks.prune(model, density=0.3).apply_(model)
    storage.pack(path, model, about={"network": "small"})
    return path.read_bytes(), storage.unpack(path)[0]


def write(path, content):
    path.unlink(missing_ok=True)  # some file systems sync a file that is truncated and written
    path.write_bytes(content)


def refused(path, content):
    write(path, content)
    with pytest.raises(ValueError, match=PLACE) as error:
        storage.unpack(path)
    assert str(path) in str(error.value)
    return str(error.value)


def test_10_000_changed_and_cut_files_are_all_refused(small, tmp_path):
    content, _ = small
    draw, path = random.Random(0), tmp_path / "changed.packed"
    for length in range(0, len(content), 2):
        refused(path, content[:length])
    for _ in range(10_000 - len(content) // 2):
        changed = bytearray(content)
        for _ in range(draw.choice([1, 1, 1, 2, 5, 40])):
            place = draw.randrange(len(changed))
            how = draw.randrange(4)
            if how < 2:
                changed[place] ^= 1 << draw.randrange(8)
            elif how == 2:
                changed[place] = draw.randrange(256)
            elif draw.random() < 0.5:
                changed.insert(place, draw.randrange(256))
            else:
                del changed[place]
        if bytes(changed) != content:
            refused(path, bytes(changed))


def test_a_changed_byte_of_a_layer_is_named_with_its_place(small, tmp_path):
    content, tensors = small
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    for name in tensors:
        begin, end = header[name]["data_offsets"]
        for place in {begin, end - 1}:
            changed = bytearray(content)
            changed[start + place] ^= 1
            said = refused(tmp_path / "a.packed", bytes(changed))
            assert f"{name}, byte {start + begin:,}: " in said
    assert "2.weight, byte" in refused(tmp_path / "a.packed", content[: start + begin - 1])
    assert "end, byte" in refused(tmp_path / "a.packed", content + b"0")


def signed(content, change):
    """The file after `change(entries, inside, blobs)`, with all checksums right again."""
    start = 8 + int.from_bytes(content[:8], "little")
    entries = json.loads(content[8:start])
    inside = json.loads(entries.pop("__metadata__")["about"])
    blobs = {n: bytearray(content[start:][slice(*e["data_offsets"])]) for n, e in entries.items()}
    change(entries, inside, blobs)
    if isinstance(inside["crc32"], dict):
        inside["crc32"] |= {name: zlib.crc32(blob) for name, blob in blobs.items()}
    header = {"__metadata__": {"crc32": "0" * 8, "about": json.dumps(inside)}, **entries}
    text = json.dumps(header, separators=(",", ":")).encode()
    text = len(text).to_bytes(8, "little") + text
    place = text.index(b'"crc32":"') + 9
    digits = b"%08x" % zlib.crc32(text[:place] + text[place + 8 :])
    return text[:place] + digits + text[place + 8 :] + b"".join(blobs.values())


def longer(content):
    def change(entries, inside, blobs):
        added = len(content) - len(blobs["2.weight"])
        blobs["2.weight"][:] = content
        for name in [*entries][[*entries].index("2.weight") :]:
            begin, end = entries[name]["data_offsets"]
            entries[name]["data_offsets"] = [begin + added * (name != "2.weight"), end + added]
        entries["2.weight"]["shape"] = [len(content)]

    return change


def put(part, name, key, value):
    """A change of one field."""

    def change(entries, inside, blobs):
        where = {"entry": entries, "layer": inside["layers"], "inside": {None: inside}}[part]
        where[name][key] = value

    return change


def codebook_of_one(entries, inside, blobs):
    """A single weight, with the sixth of the values."""
    longer(b"\1\1\0\0\x80" + b"\1" + bytes(4) + b"\0\5")(entries, inside, blobs)
    inside["layers"][LINEAR]["values"] = "codebook"


def absurd(entries, inside, blobs):
    """No weights in a shape that torch cannot make."""
    longer(b"\0\0")(entries, inside, blobs)
    inside["layers"][LINEAR]["shape"] = [0, 2**62, 2**62]


LINEAR = "2.weight"
HOSTILE = {
    "shape far too large": put("layer", LINEAR, "shape", [2**40, 2**20]),
    "shape too large for the file": put("layer", LINEAR, "shape", [10**4, 10**4]),
    "shape too small": put("layer", LINEAR, "shape", [3, 3]),
    "negative": put("layer", LINEAR, "shape", [-9, -8]),
    "no weights, absurd shape": absurd,
    "too many dimensions": put("layer", LINEAR, "shape", [9, 8, *[1] * 1000]),
    "other dtype": put("layer", LINEAR, "dtype", "bfloat16"),
    "no dtype": put("layer", LINEAR, "dtype", "Tensor"),
    "no values": put("layer", LINEAR, "values", "pickle"),
    "other values": put("layer", LINEAR, "values", "codebook"),
    "columns of a vector": put("layer", LINEAR, "shape", []),
    "another version": put("inside", None, "format", "pruning_lab pack 2"),
    "no checksum": put("inside", None, "crc32", 3),
    "layer without bytes": put("inside", None, "layers", {"gone": {}}),
    "plain shape": put("entry", "2.bias", "shape", [2**50]),
    "plain dtype": put("entry", "2.bias", "dtype", "object"),
    "offsets": put("entry", "2.bias", "data_offsets", [0, 36]),
    "offsets back": put("entry", "2.bias", "data_offsets", [36, 0]),
    "offsets far": put("entry", "2.bias", "data_offsets", [2**62, 2**62 + 36]),
    "empty": longer(b""),
    "a byte too many": longer(b"\0\0\0"),
    "not in the codebook": codebook_of_one,
    "number without end": longer(b"\xff" * 999),
    "more than there are": longer(b"\x7f\x01" + bytes(99)),
    "too long a code": longer(b"\x01\x7f\x00\x00" + bytes(99) + b"\x01"),
    "k of 200": longer(b"\x01\x01\x00\xc8" + bytes(200) + b"\x80"),
    "k of 31": longer(b"\x02\x01\x00\x1f" + b"\xff" * 31 + b"\x0c"),
    # Two positions that overflow, 64 bits together: the last one is 1 again.
    "k of 62": longer(b"\x02\x01\x00\x3e" + bytes(62) + b"\x24" + bytes(6) + b"\x00\x7f"),
    # All 72 weights are kept, and their exponents are a tree of 60 levels.
    "levels": longer(
        b"\x48\x09\x00\x00" + b"\xff" * 9 + bytes(3 * 72) + b"\1\1\0\0\x80" * 60 + b"\0\x7f" * 61
    ),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_hostile_files_are_refused(how, small, tmp_path):
    path = tmp_path / "hostile.packed"
    refused(path, signed(small[0], HOSTILE[how]))


def test_a_hostile_header_is_refused(small, tmp_path):
    content, path = small[0], tmp_path / "hostile.packed"
    for length in (0, 1, 40, len(content), 2**63, 2**64 - 1):
        refused(path, length.to_bytes(8, "little") + content[8:])
    start = content[8:42]  # with the checksum
    for text in (
        b"",
        b"}",
        start + b"}}",
        start + b'about":3}}',
        start + b'about":"[]"}}',
        b"\xff",
    ):
        sized = len(start + text).to_bytes(8, "little") + start + text
        digits = b"%08x" % zlib.crc32(sized[:34] + sized[42:])
        refused(path, sized[:34] + digits + sized[42:])
    models.save(path, models.lenet_300_100())
    assert "not a packed network" in refused(path, path.read_bytes())


def test_changed_codes_with_right_checksums_give_a_tensor_of_the_shape_or_one_error(
    small, tmp_path
):
    """And take no more memory than is promised."""
    content, tensors = small
    draw, path = random.Random(1), tmp_path / "hostile.packed"
    most = 256 * len(content) + sum(tensor.nbytes for tensor in tensors.values())
    refusals = 0
    tracemalloc.start()
    for _ in range(500):

        def change(entries, inside, blobs):
            blob = blobs[draw.choice(["0.weight", "2.weight"])]
            for _ in range(draw.choice([1, 2, 8])):
                blob[int(len(blob) * draw.random() ** 3)] = draw.choice(
                    [0, 1, 255, draw.randrange(256)]
                )

        write(path, signed(content, change))
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            found, said = storage.unpack(path)[0], "0.weight, byte 0: "
        except ValueError as error:
            found, said, refusals = tensors, str(error), refusals + 1
        assert PLACE.search(said)
        assert [t.shape for t in found.values()] == [t.shape for t in tensors.values()]
        assert tracemalloc.get_traced_memory()[1] - before < most
    tracemalloc.stop()
    assert 100 < refusals < 480


def test_a_bool_is_0_or_1_whatever_the_byte(path):
    model = holding(sparse((3, 3), 0.5))
    model.register_buffer("seen", torch.tensor([True, False]))
    storage.pack(path, model)
    assert storage.unpack(path)[0]["seen"].tolist() == [True, False]
    write(path, signed(path.read_bytes(), lambda entries, inside, blobs: put_byte(blobs["seen"])))
    assert storage.unpack(path)[0]["seen"].view(torch.uint8).tolist() == [1, 0]


def put_byte(blob):
    blob[0] = 2


def test_an_empty_layer_is_not_smaller_than_its_shape_may_be(path):
    weight = torch.zeros(2000, 1000)
    assert torch.equal(there_and_back(weight, path), weight)
    assert path.stat().st_size == pytest.approx(8_000_000 / 1024, abs=100)


def test_packing_takes_twice_the_memory_of_the_weight_at_most(path):
    weight = sparse((2000, 2000), 0.09)
    tracemalloc.start()
    model = holding(weight)
    storage.pack(path, model)
    _, packing = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    storage.unpack(path)
    unpacking = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert packing < weight.nbytes  # besides the weight
    assert unpacking < 2 * weight.nbytes  # the weight included


@pytest.mark.parametrize("columns", [False, True])
def test_the_file_with_the_most_weights_for_its_size_keeps_the_promise_about_memory(columns, path):
    """A bit for each weight, and one value for all."""
    weight = torch.ones(1500, 1400)
    storage.pack(path, holding(weight), values="codebook")
    content = signed(path.read_bytes(), put("layer", "0.weight", "columns", columns))
    write(path, content)
    tracemalloc.start()
    found = storage.unpack(path)[0]["0.weight"]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert torch.equal(found, weight)
    assert len(content) < weight.nbytes / 30
    assert most < weight.nbytes + 256 * len(content)


# -------------------------------------------------------------------------------------- commands


@pytest.fixture
def pruned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = models.lenet_300_100(trained="mnist")
    masks.prune(model, density=0.08).apply_(model)
    models.save("pruned.safetensors", model, about={"network": "lenet-300-100", "data": "mnist"})
    return model


def test_pack_and_unpack_give_the_file_again_byte_for_byte(pruned, tmp_path, capsys):
    assert cli.main(("pack", "pruned.safetensors", "-o", "small.packed")) == 0
    said = capsys.readouterr().out
    size = (tmp_path / "small.packed").stat().st_size
    assert said.splitlines()[0].split()[:3] == ["layer", "weights", "kept"]
    assert f"wrote small.packed: {size:,} bytes, 13.2 times smaller" in said
    assert cli.main(("unpack", "small.packed", "-o", "again.safetensors")) == 0
    one, other = (tmp_path / f"{name}.safetensors" for name in ("pruned", "again"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("values", storage.FORMATS)
def test_pack_in_json_is_all_that_is_printed(values, pruned, tmp_path, capsys):
    words = ("pack", "pruned.safetensors", "-o", "a.packed", "--values", values, "--json")
    assert cli.main(words) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["bytes"] == (tmp_path / "a.packed").stat().st_size
    assert record["values"] == values
    sizes = storage.sizes(pruned.fc1.weight)
    assert record["rows"][0]["bytes"] == sizes["ours" if values == "float32" else values]


def test_a_network_of_ones_own_is_packed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write("own_packed.py", "from toys import Branching\n")
    models.save("own.safetensors", Branching())
    words = ("pack", "own.safetensors", "--model", "own_packed:Branching")
    assert cli.main(words) == 0
    assert storage.unpack("model.packed")[1] == {"network": "own_packed:Branching"}
    assert cli.main(("unpack", "model.packed")) == 0
    assert files.load_shapes("model.safetensors") == files.load_shapes("own.safetensors")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("unpack", "pruned.safetensors", "-o", "b.safetensors"), "not a packed network"),
        (("unpack", "cut.packed"), "cut.packed: fc3.bias, byte "),
        (("unpack", "nowhere"), "nowhere could not be read"),
        (("pack", "pruned.safetensors", "-o", "whole.packed"), "add --force to replace it"),
        (("pack", "pruned.safetensors", "-o", "pruned.safetensors"), "which this command reads"),
        (("unpack", "cut.packed", "-o", "pruned.safetensors"), "add --force to replace it"),
        (("pack", "whole.packed"), "does not say which network it is"),
        (("pack",), "name a network's file"),
    ],
)
def test_mistakes_about_packed_files_get_one_sentence(words, expected, pruned, tmp_path, capsys):
    storage.pack("whole.packed", pruned)
    files.write("cut.packed", (tmp_path / "whole.packed").read_bytes()[:-3])
    assert cli.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line


def test_zeros_of_a_multiplication_by_a_mask_are_counted_and_said(path):
    model = nn.Sequential(nn.Linear(8, 5))
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(-20.0, 20).view(5, 8))
        model[0].weight *= model[0].weight.abs() > 10
    packed = storage.pack(path, model)
    assert packed.negative_zeros == 10
    assert "10 weights of -0.0 are stored as values" in str(packed)
    masks.Mask.of(model).apply_(model)
    assert "-0.0" not in str(storage.pack(path, model))
