# %% [markdown]
# # 7 · Store and run
#
# **Nine weights in ten are zero. Is the network smaller? Is it faster?**
#
# The paper answers for the file: its **section 5** stores a pruned network with an index of a few
# bits for each weight, and says how much that adds. For the time it gives no number. We measure
# both on this machine: bytes in several encodings, milliseconds dense and sparse. At the end we
# prune in another way, which makes the network smaller *and* faster, and see what that costs.
#
# This takes about 50 minutes of yours, tasks included, and a minute of the computer's.

# %%
import copy
import time
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import pandas as pd
import torch

import pruning_lab as lab

torch.set_num_threads(1)  # times on one core are easier to compare

# %%
SIZE = "quick"  # "quick": a minute in all; "thorough": a quarter of an hour, for the last section
splits = lab.data.load()
model = lab.models.lenet_5(trained="mnist")
print(splits)

# %% [markdown]
# The words of this notebook, and those that you meet elsewhere:
#
# | here | elsewhere |
# | --- | --- |
# | relative index, gap | delta encoding, run-length encoding of zeros |
# | filler | padding zero |
# | sparse layer | CSR (compressed sparse row) matrix product |
# | break-even density | crossover point |
# | weights pruned, neurons removed | unstructured, structured pruning |
#
# We keep of LeNet-5 what the paper keeps (Table 3):

# %% tags=["nbval-check-output"]
reported = {row.layer: row.density for row in lab.paper.LENET_5 if row.layer != "total"}
pruned = copy.deepcopy(model)
mask = lab.prune(pruned, density=reported)
mask.apply_(pruned)
print(f"{mask.kept:,} of {mask.weights:,} weights stay: {mask.weights / mask.kept:.0f} × fewer")

# %% [markdown]
# **Make a guess:** how many bytes has the file of each of the two networks?

# %% tags=["nbval-check-output"]
folder = Path(mkdtemp())
sizes = {}
for name, network in {"dense": model, "pruned": pruned}.items():
    path = lab.models.save(folder / f"{name}.safetensors", network)
    sizes[name] = path.stat().st_size
    print(f"{name:6} {sizes[name]:,} bytes")

# %% [markdown]
# A zero in a tensor takes four bytes, like any other number. And a dense layer multiplies by it, as
# by any other number. To gain anything, the zeros must be left out: out of the file, and out of the
# product.
#
# ## How long does a sparse layer take?
#
# `fc1` of LeNet-5 has most of its weights. We store it sparse, each weight with its column, so that
# a product can skip the zeros, and let 64 images through.
#
# @task 07.even
#
# **How long does the sparse layer take, in percent of the dense one, when so many of its weights
# are left?** Draw the curve. Where does it fall below the dense layer, which is 100?

# %% tags=["exercise", "guess"]
kept = ("80 %", "50 %", "20 %", "10 %", "5 %", "2 %")
times = lab.widgets.DrawCurve("07.even", kept, high=400)
times

# %% tags=["ci"]
times.value = [80, 50, 20, 10, 5, 2]
times.note()

# %% [markdown]
# The slider below sets the density. Time and bytes of the layer are measured when it moves, here
# and now. Bars are quartiles: other programs run too.

# %%
panel = lab.widgets.CostSlider(model, "fc1", splits.val, batch=64)
panel

# %% [markdown]
# The next cell moves it to the densities of your guess:

# %% tags=["reveal"]
rows = []
for density in (0.8, 0.5, 0.2, 0.1, 0.05, 0.02):
    panel.density = density
    rows.append(panel.row)
measured = [100 * row.sparse_ms.value / row.dense_ms.value for row in rows]
lab.exercises.reveal("07.even", [round(percent) for percent in measured])

# %%
guess = lab.exercises.guessed("07.even")
title = f"fc1, batches of {rows[0].batch}, on this machine"
words = f"Sparse, in percent of dense: {', '.join(f'{each:.0f}' for each in measured)}"
lab.plots.show(lab.plots.layer_times(rows, guess=guess, title=title), words)

# %% [markdown]
# Half of the multiplications are left at density 0.5. Is the layer twice as fast?

# %%
print(f"at density 0.5 the sparse layer is {rows[1].speedup} times as fast")

# %% [markdown]
# Three things decide it, and they differ from machine to machine:
#
# - **Arithmetic.** A dense kernel multiplies 8 or 16 neighbours with one instruction. Kept weights
#   lie anywhere, and each brings an index that has to be read.
# - **Memory.** Where a layer is larger than the caches, the time goes into reading it, and a sparse
#   layer reads fewer bytes.
# - **The start.** A sparse product takes some time before its first multiplication. Small layers
#   show hardly anything else.
#
# So counted operations do not predict a time. They are what hardware saves that skips zeros for
# free (EIE, Han et al. 2016, was built so).
#
# (What stands in brackets behind a time here, and in the tables below, is the middle half of the
# measurements, the *quartiles*, and no 95 % interval.)
#
# ## How many bytes does it take?
#
# ### Six weights by hand
#
# Half of six weights are left. A file has to say which. The paper stores for each weight how many
# zeros come before it, its *relative index*, in 5 bits (8 in a convolution). Is that many? If each
# weight stayed with the same probability, whatever its neighbours do, no code could store the
# places in fewer bits for each kept weight than the *entropy*:

# %% tags=["nbval-check-output"]
row = [0.9, 0.0, 0.4, -0.7, 0.0, 0.0]
entries = [(0, 0.9), (1, 0.4), (0, -0.7)]  # (zeros before it, value)
bits = len(entries) * (5 + 32)  # an index and a float32 for each
print(f"dense: {6 * 32} bits, relative indices: {bits} bits, or {-(-bits // 8)} bytes")
for density in (0.5, 0.1):
    least = lab.storage.entropy_bound(density)
    print(f"at density {density} the place of a kept weight takes {least:.2f} bits (entropy)")

# %% [markdown]
# Five bits count up to 31 zeros. Where a gap is longer, a *filler* is stored: the entry (31, 0.0),
# which steps over 31 zeros and is a zero itself.
#
# @task 07.bytes
#
# How many bytes does a layer take? It stores `kept` of `weights` weights, and some fillers, each
# with so many bits for the value and for the index. Bits are packed one after the other.


# %% tags=["exercise"]
def size(kept, weights, value_bits, index_bits, fillers=0):
    """How many bytes, a whole number."""
    # BEGIN SOLUTION
    return -(-(kept + fillers) * (value_bits + index_bits) // 8)
    # END SOLUTION


# %% tags=["check"]
lab.exercises.check("07.bytes", size)

# %% [markdown]
# @task 07.encode
#
# Write the encoding itself. `row` is a list of numbers. Return a list of entries `(gap, value)`:
# the number of zeros before a value, from 0 to `2**bits - 1`, and the value. For a longer gap
# insert fillers `(2**bits - 1, 0.0)`. With the length of the row it must be possible to decode it.


# %% tags=["exercise"]
def encode(row, bits):
    """A list of entries (gap, value)."""
    # BEGIN SOLUTION
    entries, zeros = [], 0
    for value in row:
        if value == 0:
            zeros += 1
            continue
        while zeros >= 2**bits:
            entries.append((2**bits - 1, 0.0))
            zeros -= 2**bits
        entries.append((zeros, value))
        zeros = 0
    return entries
    # END SOLUTION


# %% tags=["check"]
verdict = lab.exercises.check("07.encode", encode)
verdict

# %% [markdown]
# Your encoding on `fc1` (once it is right), beside what the library says of the paper's scheme:

# %% tags=["nbval-check-output"]
weight = pruned.fc1.weight.detach()
kept = int(weight.count_nonzero())
print(f"fc1: {kept:,} of {weight.numel():,} weights, {lab.storage.paper_bytes(weight):,} bytes")
if verdict.sign == "✓":
    stored = encode(weight.flatten().tolist(), 5)
    print(f"by yours: {len(stored) - kept} fillers, {-(-len(stored) * (5 + 32) // 8):,} bytes")

# %% [markdown]
# ### Encodings beside one another
#
# **Make a guess:** at this density, is a list of indices smaller or a *bit mask*, one bit for each
# weight, kept or not? And what comes out of `gzip`, which knows nothing of weights?

# %%
stored, _ = lab.cost.sizes(weight)
drawn = lab.plots.stored(stored, title=f"fc1 at density {kept / weight.numel():.0%}")
lab.plots.show(drawn, ", ".join(f"{name}: {size:,} bytes" for name, size in stored.items()))

# %% [markdown]
# - `csr int32` is what sparse products use: a value and a column, four bytes each.
# - `ours` codes the gaps near their entropy, and the exponents of the values, which are few. It is
#   exact to the bit.
# - `float16`, `bfloat16` and `codebook` round the values: to 16 bits, or to one of 32 values per
#   layer, as in Deep Compression (Han et al. 2016).
#
# The whole network as one file, exact:

# %%
packed = lab.storage.pack(folder / "exact.packed", pruned)
print(packed)

# %% tags=["nbval-check-output"]
tensors, _ = lab.storage.unpack(folder / "exact.packed")
same = all(torch.equal(tensors[name], value) for name, value in pruned.state_dict().items())
print("every number comes back:", same)
print(f"weights: {mask.weights / mask.kept:.1f} × fewer")
print(f"bytes:   {packed.dense_bytes / packed.file_bytes:.1f} × fewer")

# %% [markdown]
# Where an index takes fewer bits than the entropy (the column *if independent*), the kept weights
# of that layer are not independent: they stand in groups, and a code can use this.
#
# An index costs some bits for each weight. But the values have few different exponents, so that an
# exact value takes fewer than its 32 bits. Together:

# %% tags=["nbval-check-output"]
total = packed.total
print(f"{total.index_bits:.2f} bits of index and {total.value_bits:.2f} of value for each weight")

# %% [markdown]
# **Make a guess:** how much accuracy does it cost to store 32 different values per layer instead of
# all?

# %%
before = lab.evaluate(pruned, splits.val)
for values in lab.storage.FORMATS:
    path = folder / f"{values}.packed"
    size_ = lab.storage.pack(path, pruned, values=values).file_bytes
    rounded = copy.deepcopy(pruned)
    rounded.load_state_dict(lab.storage.unpack(path)[0])
    change = lab.evaluation.drop(before, lab.evaluate(rounded, splits.val))
    print(f"{values:9} {sizes['dense'] / size_:5.1f} × smaller than dense, change {change}")

# %% [markdown]
# ## Is it faster?
#
# @task 07.bench
#
# How many times as long does `f` take as `g`? Here is how most of us would measure it. **Three
# things are wrong.** `clock()` returns seconds, like `time.perf_counter()`. In the check it runs on
# a machine that we have made up, where the first call is slow, other programs come in between, and
# which becomes slower as it gets warm. Repair it.


# %% tags=["exercise"]
def ratio(f, g, clock):
    """How many times as long a call of f takes as one of g."""

    def seconds(work):
        began = clock()
        for _ in range(20):
            work()
        return (clock() - began) / 20

    return seconds(f) / seconds(g)


# BEGIN SOLUTION
def ratio(f, g, clock):
    """How many times as long a call of f takes as one of g."""
    f(), g()  # the first call costs more
    times = [], []
    for _ in range(50):
        for work, own in zip((f, g), times, strict=True):
            began = clock()
            work()
            own.append(clock() - began)
    of_f, of_g = (sorted(own)[25] for own in times)
    return of_f / of_g


# END SOLUTION
# %% tags=["check"]
verdict = lab.exercises.check("07.bench", ratio)
verdict

# %% [markdown]
# With it (once it is right): how many times as long does pruned `fc1` take as the dense one, when
# both are stored dense?

# %%
x = torch.rand(64, 800)
if verdict.sign == "✓":
    with torch.inference_mode():
        found = ratio(lambda: pruned.fc1(x), lambda: model.fc1(x), time.perf_counter)
    print(f"pruned / dense, both stored dense: {found:.2f}")

# %% [markdown]
# Now each layer sparse, where that is faster. `lab.sparse.bench` times dense and sparse in turn,
# and says below which density each layer would be faster on this machine:

# %%
bench = lab.sparse.bench(pruned, splits.val, batches=(1, 64))
columns = "layer", "batch", "density", "speed-up", "break-even", "chosen"
pd.DataFrame([{name: bench.columns[name](row) for name in columns} for row in bench])

# %%
print(*bench.verdicts, sep="\n")

# %% [markdown]
# Put the two things together: at the paper's densities the file is many times smaller, and the time
# is another matter.
#
# ## Smaller and faster
#
# What if whole neurons go, instead of single weights? Then a layer has fewer rows, the next one
# fewer columns, and what is left is a smaller *dense* network, which needs no index and no special
# kernel.
#
# @task 07.channels
#
# Write it for two linear layers with a ReLU in between. `keep` is `True` for each unit between them
# that stays. Return two new, smaller layers; those that you are given stay as they are.


# %% tags=["exercise"]
def drop_units(first, second, keep):
    """(first, second) as new nn.Linear layers, without the units that go."""
    # BEGIN SOLUTION
    count = int(keep.sum())
    smaller = torch.nn.Linear(first.in_features, count), torch.nn.Linear(count, second.out_features)
    with torch.no_grad():
        smaller[0].weight.copy_(first.weight[keep])  # (out, in): a unit is a row here
        smaller[0].bias.copy_(first.bias[keep])
        smaller[1].weight.copy_(second.weight[:, keep])  # and a column here
        smaller[1].bias.copy_(second.bias)
    return smaller
    # END SOLUTION


# %% tags=["check"]
verdict = lab.exercises.check("07.channels", drop_units)
verdict

# %% [markdown]
# Half of the units between `fc1` and `fc2` of LeNet-5 go, those with the smallest weights (once
# your function is right). The library does the same to any chain of layers by
# `lab.neurons.remove_smallest`:

# %%
small = lab.neurons.remove_smallest(model, {"fc1": 0.5})
print("by the library:", small.fc1, small.fc2)
if verdict.sign == "✓":
    norms = model.fc1.weight.norm(dim=1)
    mine = drop_units(model.fc1, model.fc2, norms > norms.median())
    print("by you:        ", *mine)

# %%
pairs = {"dense": model.fc1, "half of its units": small.fc1}
with torch.inference_mode():
    for name, layer in pairs.items():
        row = lab.sparse.timed(name, layer, x)
        print(f"{name:18} {row.dense_ms} ms")

# %% [markdown]
# And the price? A neuron takes its large weights with it. So both ways start from one dense network
# here, keep as many parameters, and are retrained alike; the *control* is the dense network trained
# for as long. (LeNet-300-100, one seed. The size `quick` has fewer images, rounds and epochs.)
#
# **Make a guess:** which of the two loses more, at 10 × fewer parameters and at 40 ×?

# %%
recipes = [lab.experiments.compressed_recipe("lenet-300-100", x, splits.name) for x in (10, 40)]
images = splits
if SIZE == "quick":
    images = replace(splits, train=splits.train.head(12_000))
    epochs = 2 if splits.name == "mnist" else 8
    recipes = [
        replace(each, rounds=each.rounds[3::4], retrain=each.retrain[3::4]) for each in recipes
    ]
    recipes = [each.trained_with(epochs=epochs) for each in recipes]

# %%
workspace = lab.experiments.Workspace(folder)  # trains the control once for both
rows = lab.experiments.contrast(images, recipes=recipes, seeds=[0], workspace=workspace)
shown = lab.plots.contrast(rows, title=f"LeNet-300-100, {splits.name}")
lab.plots.show(shown, " ".join(rows.conclusions))

# %%
print(*rows.conclusions, sep="\n")

# %% [markdown]
# The intervals are paired, of the test images, which were looked at once for each network; nothing
# was chosen by them. With all images, twelve rounds and three seeds both ways lose less; such rows
# of ours are kept in the folder `results`, under *Weights or neurons*.

# %% tags=["ci", "nbval-check-output"]
pruned10, removed10, pruned40, removed40 = rows
print("the more neurons go, the more it costs:", removed40.drop.value > removed10.drop.value)
for one, other in (pruned10, removed10), (pruned40, removed40):
    print("as many parameters both ways:", abs(one.compression / other.compression - 1) < 0.15)

# %% [markdown]
# ## Our numbers beside the paper's
#
# The paper stores each pruned layer as a sparse matrix, with relative indices.

# %%
index_bits = lab.paper.INDEX_BITS["fc"]
ours = {row.layer: row for row in packed}
plain = f"{index_bits} bits of 32 are {index_bits / 32:.1%}"
with_fillers = f"{ours['fc1'].paper_overhead:.1%} with the fillers"
by_batch = {row.batch: row for row in bench if row.layer == "whole network"}
theirs = lab.paper.TABLE_1["lenet-5"].compression
table = {
    "index of a weight in fc1, bits": (index_bits, f"{ours['fc1'].index_bits:.2f}"),
    "what indices add to the values": (plain, with_fillers),
    "weights, dense / pruned": (f"{theirs} ×", f"{mask.weights / mask.kept:.1f} ×"),
    "bytes, dense / pruned": ("", f"{packed.dense_bytes / packed.file_bytes:.1f} ×"),
    "time, dense / sparse, 1 image": ("", f"{by_batch[1].speedup} ×"),
    "time, dense / sparse, 64 images": ("", f"{by_batch[64].speedup} ×"),
}
pd.DataFrame(table, index=["paper", "here"]).T

# %% [markdown]
# **What we make of the difference.** The paper's number is that of the 5 bits alone. At its own
# densities some gaps are longer than 31 zeros, so fillers come on top. A code of variable length
# needs fewer bits for an index, since most gaps are short, and no fillers.
#
# About time the paper promises nothing for the machine that you have. Its reason for pruning is the
# energy of reading weights from memory (notebook 0), and chips were built for its networks. On a
# CPU look at your own rows above: what a sparse layer gains depends on its size, its density and
# the batch. A smaller dense network was faster wherever we measured it, by how much depends on the
# batch; what it costs stands in the intervals.
# [Why is it not faster, why is it not smaller?](../docs/why-not-faster.md) says more,
# with a command for each question.
#
# Try it: move the slider to a batch of one image (`batch=1`), or to `conv2`. Where is the
# break-even then?
