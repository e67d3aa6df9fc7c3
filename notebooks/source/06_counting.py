# %% [markdown]
# # 6 · Counting
#
# **A pruned network has fewer weights. How much less work is that, how much less energy, and where
# do the savings come from?**
#
# The paper says that AlexNet has nine times fewer weights after pruning and takes three times less
# computation. These are the last rows of the columns *Weights%* and *FLOP%* of its **Table 4**. We
# count both, find the rule that makes one column from the others in **Tables 2 to 5**, and use the
# energies of **Figure 1** to ask what a smaller layer is worth.
#
# This takes about 45 minutes of yours, tasks included, and a few seconds of the computer's.

# %%
from dataclasses import replace

import torch
import pruning_lab as lab

# %%
splits = lab.data.load()
print(splits)

# %% [markdown]
# Little is computed here. This cell sets how many images the one short retraining sees, and for how
# many epochs.

# %%
IMAGES, EPOCHS = 6_000, 2  # mnist-5k has 3,000 for training

# %% [markdown]
# The words of this notebook, and those that you meet elsewhere:
#
# | here | elsewhere |
# | --- | --- |
# | FLOP | floating point operation; a multiply-add (MAC) is two |
# | work, operations | FLOPs of one image; not *FLOPS* or FLOP/s, which is a speed |
# | activation density, act% | 1 − activation sparsity: the fraction of outputs that are not zero |
# | on the chip | SRAM, on-chip memory; the other memory is DRAM, off-chip |
#
# ## A convolution by hand
#
# An image of six pixels, and a kernel of 2 x 2. The kernel fits at two positions. At each of them,
# four weights are multiplied with four pixels. **Make a guess:** how many FLOPs is that?

# %% tags=["nbval-check-output"]
image = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0]])
kernel = torch.tensor([[0.9, -0.1], [0.4, -0.7]])
for column in (0, 1):
    window = image[:, column : column + 2]
    print(f"position {column + 1}: {float((window * kernel).sum()):5.2f}")
print(f"{2 * 4 * 2} FLOPs: 4 weights at 2 positions, a multiplication and an addition each")

# %% tags=["nbval-check-output"]
conv = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 2, bias=False))
print("counted by the library:", lab.counts.layers(conv, (1, 2, 3)).total.flops)

# %% [markdown]
# So a weight of a convolution saves more than 2 FLOPs when it is pruned: 2 for every position.
#
# Real convolutions have several channels. Each output channel reads a window of k x k pixels in
# *every* input channel. With `groups`, the channels are divided into groups, and an output channel
# reads only the input channels of its own group. AlexNet has two groups in three of its layers,
# because it was trained on two graphics cards.
#
# @task 06.conv
#
# **How many FLOPs does a convolution take for one image?** `h_out` and `w_out` are the height and
# width of its output, before any pooling. Biases are not counted. Return a whole number.


# %% tags=["exercise"]
def flops(out, in_, k, h_out, w_out, groups=1):
    """FLOPs per image of a convolution from in_ to out channels with a kernel of k x k."""
    # BEGIN SOLUTION
    return 2 * out * (in_ // groups) * k * k * h_out * w_out
    # END SOLUTION


# %% tags=["check"]
lab.exercises.check("06.conv", flops)

# %% [markdown]
# ## Where AlexNet keeps its weights, and where it works
#
# AlexNet has five convolutions and three fully connected layers.
#
# @task 06.where
#
# **What percentage of AlexNet's weights do its three fully connected layers hold, and what
# percentage of its operations do they take?**

# %% tags=["exercise", "guess"]
where_guess = lab.widgets.DrawCurve("06.where", ["weights", "operations"])
where_guess

# %% tags=["ci"]
where_guess.value = [80, 60]
where_guess.note()

# %% [markdown]
# We let the library run one image of 227 x 227 pixels through the paper's AlexNet, with random
# weights: the counts do not depend on their values.

# %%
alexnet = lab.counts.layers(lab.models.alexnet(), (3, 227, 227))
fc = [row for row in alexnet if row.layer.startswith("fc")]

# %% tags=["reveal"]
total = alexnet.total
weights, work = sum(row.weights for row in fc), sum(row.flops for row in fc)
lab.exercises.reveal("06.where", [100 * weights / total.weights, 100 * work / total.flops])

# %%
import pandas

parts = {
    name: [100 * getattr(row, column) / getattr(total, column) for row in alexnet]
    for name, column in {"weights": "weights", "FLOPs": "flops"}.items()
}
parts = pandas.DataFrame(parts, index=[row.layer for row in alexnet])

# %%
with lab.plots.style():
    ax = parts.plot.bar(rot=0, width=0.8, figsize=(8, 3.2), ylabel="% of all of AlexNet")
for bars in ax.containers:
    ax.bar_label(bars, fmt="%.1f", fontsize=8)
fractions = "; ".join(f"{name} {w:.1f} % and {f:.1f} %" for name, w, f in parts.itertuples())
lab.plots.show(ax, f"weights and FLOPs of each layer: {fractions}")

# %% tags=["nbval-check-output"]
print(f"fc layers: {weights / total.weights:.1%} of weights, {work / total.flops:.1%} of FLOPs")
for row in alexnet:
    print(f"{row.layer:6} uses of each weight: {row.flops // row.weights // 2:,}")

# %% [markdown]
# So there are two goals. For a **small** network, prune the fully connected layers; for **less
# work**, prune the convolutions. The paper's Table 4 has our counts,
# rounded:

# %%
lab.reports.layers_beside(lab.paper.ALEXNET, alexnet, ["weights", "flops"])

# %% tags=["ci", "nbval-check-output"]
theirs = {row.layer: row for row in lab.paper.ALEXNET}
off = {row.layer: abs(row.flops / theirs[row.layer].flops - 1) for row in alexnet}
print("FLOPs within rounding of the paper's:", max(off.values()) < 0.07)
print("and of the large ones:", max(off[row.layer] for row in alexnet if row.flops > 1e8) < 0.004)

# %% [markdown]
# ## A zero saves, wherever it is
#
# A multiplication is needed only where its weight **and** its input are not zero. Pruning makes
# zeros among the weights. ReLU makes zeros among the activations, for free. Here are six weights,
# three of them pruned, and three inputs, one of them zero. **Make a guess:** how many of the six
# multiplications are left?

# %% tags=["nbval-check-output"]
w = torch.tensor([[0.9, 0.0, 0.4], [-0.7, 0.0, 0.0]])  # (out, in)
x = torch.tensor([1.0, 2.0, 0.0])
needed = (w != 0) & (x != 0)
density, active = float((w != 0).float().mean()), float((x != 0).float().mean())
print(f"left: {int(needed.sum())} of {w.numel()}")
print(f"weights {density:.2f} x inputs {active:.2f} = {density * active:.2f} of the work")

# %% [markdown]
# In so small a layer the product is exact by luck. In a large one it is a good estimate, unless
# pruned weights and zero inputs are correlated. This is the rule of the paper's
# tables, though the paper does not say so: **FLOP% of a layer is its weight density times the
# density of the activations that *enter* it**.
#
# @task 06.left
#
# **Which fraction of a network's operations is left?** `flops`, `densities` and `activations` are
# lists with a number for each layer. `activations` are those that *leave* the layer. Each pixel of
# the image, which enters the first layer, counts.


# %% tags=["exercise"]
def left(flops, densities, activations):
    """The fraction of all FLOPs that is left when zero weights and zero inputs are skipped."""
    # BEGIN SOLUTION
    incoming = [1, *activations[:-1]]
    kept = [f * d * a for f, d, a in zip(flops, densities, incoming, strict=True)]
    return sum(kept) / sum(flops)
    # END SOLUTION


# %% tags=["check"]
lab.exercises.check("06.left", left)

# %% [markdown]
# ## Four tables from one rule
#
# Does the rule hold for every row of Tables 2 to 5? Both columns of the product are printed as
# whole percentages, so a product may be off by about a point.


# %%
def products(rows):
    """(layer, weights% x incoming act%, FLOP% as printed) of each row, as fractions."""
    incoming = [1.0, *(row.activation_density for row in rows)]
    return [(r.layer, r.density * a, r.flop_density) for r, a in zip(rows, incoming, strict=False)]


tables = {number: lab.paper.LAYER_TABLES[n][:-1] for n, number in lab.paper.TABLE_NUMBERS.items()}
for layer, product, printed in products(tables[4]):
    print(f"{layer:6} product {product:6.1%}   printed {printed:4.0%}")

# %% [markdown]
# **Make a guess:** by how many points is the worst of all rows off?

# %% tags=["nbval-check-output"]
for number, rows in tables.items():
    off = [100 * abs(product - printed) for _, product, printed in products(rows)]
    print(f"Table {number}: {len(off):2} rows, at most {max(off):.2f} points off")

# %% [markdown]
# Every row fits. Now the totals: the fraction of all operations that is left, by the paper's own
# rows. For comparison, the same if only zero weights were skipped and every activation computed.


# %%
def fraction(rows, by_activations=True):
    """The fraction of operations left; a mean of the rows, weighted by their FLOPs."""
    each = [product for _, product, _ in products(rows)]
    each = each if by_activations else [row.density for row in rows]
    return sum(row.flops * part for row, part in zip(rows, each, strict=True)) / sum(
        row.flops for row in rows
    )


# %% tags=["nbval-check-output"]
for name, number in lab.paper.TABLE_NUMBERS.items():
    rows, printed = tables[number], lab.paper.LAYER_TABLES[name][-1].flop_density
    both, alone = fraction(rows), fraction(rows, by_activations=False)
    print(f"{name:14} printed {printed:4.0%}, rule {both:5.1%}, weights alone {alone:5.1%}")

# %% [markdown]
# The last two columns are the answer to the question of this notebook. For LeNet-300-100, nearly
# all savings come from the weights. For AlexNet, a good part of the work that is saved comes from
# zeros that ReLU makes, and that **the dense network probably has too**. So the fair comparison for
# pruning alone is not with all operations, but with those that the dense network needs when it
# skips zero activations as well. The paper has the activations of the pruned network only; with
# those:

# %% tags=["nbval-check-output"]
for name, number in lab.paper.TABLE_NUMBERS.items():
    rows = tables[number]
    undone = [replace(row, density=1.0) for row in rows]  # no weight pruned, the same activations
    active, both = fraction(undone), fraction(rows)
    print(f"{name:14} by activations {1 / active:.1f}x, then by pruning {active / both:4.1f}x")

# %% [markdown]
# (A chip that can skip zero activations has both factors; a processor that computes with dense
# matrices has neither. What is faster on your machine is the question of the next notebook.)
#
# ## Our own network
#
# The library measures what the rule needs: it counts the zeros that really enter each layer. We
# take LeNet-5 as it comes with the library, cut it to the densities of **Table 3**, and retrain it
# for a moment on a few thousand images.

# %%
model = lab.models.lenet_5(trained="mnist")
reported = {row.layer: row.density for row in lab.paper.LENET_5 if row.layer != "total"}
mask = lab.prune(model, density=reported)
mask.apply_(model)
print("cut:       ", lab.evaluate(model, splits.val))

# %%
few, short = splits.train.head(IMAGES), lab.TrainConfig(epochs=EPOCHS, lr=0.02)
epochs = list(lab.train(model, few, short, mask=mask))
print("retrained: ", lab.evaluate(model, splits.val))

# %% [markdown]
# **Make a guess:** the weights are cut as in the paper. In which layer does our FLOP% differ most
# from the paper's?

# %%
ours = lab.counts.layers(model, splits.val)
columns = ["density", "activation_density", "flop_density"]
lab.reports.layers_beside(lab.paper.LENET_5, ours, columns)

# %%
drawn = lab.plots.layer_table(ours, lab.paper.LENET_5, title="Table 3, the paper's and ours")
drawn.set_ylim(0, 1)
lab.plots.show(drawn, ours)

# %% tags=["ci", "nbval-check-output"]
print("kept:", {row.layer: row.kept for row in ours})
dense_work = lab.counts.layers(model, (1, 28, 28)).total.flops
print("FLOPs of the dense network:", f"{dense_work:,}")
print("most of the work is gone:", ours.total.flop_density < 0.25)

# %%
printed = {row.layer: row.flop_density for row in lab.paper.LENET_5}
row = max(ours, key=lambda row: abs(row.flop_density - printed[row.layer]))
print(f"most different: {row.layer}, ours {row.flop_density:.1%}, paper {printed[row.layer]:.0%}")
print(f"in total: ours {ours.total.flop_density:.1%}, paper {printed['total']:.0%}")
print(f"ours by weights alone: {ours.weights_only_flop_density:.1%}")

# %% [markdown]
# The densities are the paper's, so the differences come from the activations. Are those of pruning,
# or of the network? The dense one, with its zero activations skipped as well:

# %%
dense = lab.counts.layers(lab.models.lenet_5(trained="mnist"), splits.val)
print("not zero after", *(f"{row.layer:>5}" for row in ours))
for name, rows in {"dense": dense, "pruned": ours, "the paper": lab.paper.LENET_5[:4]}.items():
    print(f"{name:14}", *(f"{row.activation_density:5.0%}" for row in rows))
skipped, both = dense.total.flop_density, ours.total.flop_density
print(f"by activations {1 / skipped:.1f}x, then by pruning {skipped / both:.1f}x")

# %% [markdown]
# Here both factors are measured. Where an activation density differs from the paper's in the dense
# network already, it is our training that makes it so, and not the pruning.
#
# ## A misprint
#
# @task 06.typo
#
# The next cell prints Table 3 or Table 4 of the paper, your own copy, **with one digit changed**.
# Which number is wrong? `where` is the layer and the column, such as `("conv2", "density")`. Use
# the rule: where a row does not fit, one of three numbers is wrong. For which one is there another
# digit that makes all rows fit?

# %%
typo = lab.exercises.case("06.typo")[0]
print(f"Table {typo.table}   density   activation_density   flop_density")
for row in typo.rows:
    cut, active, work = (f"{100 * getattr(row, column):.0f}%" for column in columns)
    print(f"{row.layer:7} {cut:>9} {active:>20} {work:>14}")

# %% tags=["exercise"]
where = None  # (layer, column)
# BEGIN SOLUTION
where = ("conv4", "flop_density")
# END SOLUTION

# %% tags=["check"]
lab.exercises.check("06.typo", where)

# %% [markdown]
# ## What a smaller layer is worth
#
# Notebook [00_start](00_start.ipynb) has shown that a weight from DRAM takes 128 times the energy
# of one from SRAM, which is on the chip. `fc1` of AlexNet is the largest layer of all.

# %% tags=["nbval-check-output"]
fc1 = next(row for row in alexnet if row.layer == "fc1")
print(f"fc1: {fc1.weights:,} weights, {4 * fc1.weights / 1e6:.0f} MB as 32 bit numbers")

# %% [markdown]
# @task 06.sram
#
# A chip has `sram` bytes of memory. A pruned layer is stored as its weights that are kept: 32 bits
# for the value of each, and `index_bits` for its place (the paper takes 5 for fully connected
# layers). **How much must the layer be compressed so that it just fits, and how much energy does it
# take to read it once, before (dense, from DRAM) and after (pruned, from SRAM)?**
# `lab.cost.read_energy(size, "DRAM")` gives joules for `size` bytes; `"SRAM"` is the other one.


# %% tags=["exercise"]
def on_chip(weights, sram, index_bits=5):
    """(weights / kept, joules before, joules after) for the most weights that fit into `sram`."""
    # BEGIN SOLUTION
    kept = 8 * sram // (32 + index_bits)
    before = lab.cost.read_energy(4 * weights, "DRAM")
    after = lab.cost.read_energy(kept * (32 + index_bits) / 8, "SRAM")
    return weights / kept, before, after
    # END SOLUTION


# %% tags=["check"]
lab.exercises.check("06.sram", on_chip)

# %% [markdown]
# **Make a guess:** does `fc1` fit into 8 MB on the chip at the density of Table 4? How large are
# the steps from the dense layer to the pruned one, and from DRAM to SRAM?

# %%
PAPER = next(row.density for row in lab.paper.ALEXNET if row.layer == "fc1")
bits = 32 + lab.paper.INDEX_BITS["fc"]
stored = PAPER * fc1.weights * bits / 8
places = {"dense, DRAM": (4 * fc1.weights, "DRAM"), "pruned, DRAM": (stored, "DRAM")}
places |= {"pruned, SRAM": (stored, "SRAM")}
energy = {name: 1e6 * lab.cost.read_energy(*place) for name, place in places.items()}
energy["its arithmetic, dense"] = 1e6 * lab.cost.operation_energy(fc1.flops)

# %%
drawn = lab.plots.energy({name: round(cost) for name, cost in energy.items()})
drawn.set_xlabel("energy of fc1 per image (µJ, logarithmic)")
lab.plots.show(drawn, ", ".join(f"{name}: {cost:,.0f} µJ" for name, cost in energy.items()))

# %% tags=["nbval-check-output"]
print(f"at the paper's density fc1 takes {stored / 1e6:.1f} MB with its indices")
print(f"8 MB hold {8 * 8_000_000 // bits / fc1.weights:.1%} of its weights")

# %% [markdown]
# The energies are a **model**: Figure 1 is of one old chip, every weight is read once per image,
# and neither caches nor the reading of activations count. The paper says (section 5) that after
# pruning all weights of AlexNet fit on the chip. With its 32 bits for a value and 5 for an index
# `fc1` alone is too large for 8 MB, so that needs a chip with more memory, or fewer bits per
# weight, which is what the authors did next (*Deep Compression*, 2016). Try sizes of chips:


# %%
def needed(megabytes):
    """How much fc1 must be compressed for a chip with so much memory."""
    kept = min(fc1.weights, int(8e6 * megabytes) // bits)
    joules = lab.cost.read_energy(kept * bits / 8, "SRAM")
    return f"{fc1.weights / kept:.1f}x fewer weights, {1e6 * joules:.1f} µJ per image"


lab.widgets.FunctionSlider(needed, 1, 26, label="MB on the chip")

# %% tags=["nbval-check-output"]
for megabytes in (2, 8, 16):
    print(f"{megabytes:2} MB: {needed(megabytes)}")

# %% [markdown]
# ## Our numbers beside the paper's
#
# AlexNet is not trained here, so *ours* is what the rule makes of the paper's own rows.

# %%
table_4 = lab.paper.ALEXNET[-1]
by_weights = fraction(tables[4], by_activations=False)
lab.reports.beside(
    {"weights left": table_4.density, "operations left": table_4.flop_density},
    {
        "weights left": sum(r.density * r.weights for r in tables[4]) / total.weights,
        "operations left": fraction(tables[4]),
        "by weights alone": by_weights,
    },
)

# %% [markdown]
# **What we make of the difference.** The paper's numbers follow from its own rows, by a rule that
# it does not state. "Three times less computation" is true for a machine that skips zero weights
# *and* zero activations. On one that skips weights alone, the factor is smaller, as the last row
# says; on one that skips nothing, there is none. Whenever you read how many operations a pruned
# network saves, ask which zeros were counted.
#
# Weights and operations are saved in different layers. A compression of nine, most of it in the
# fully connected layers, makes a network that is easier to store and to fetch. It takes less
# energy above all because it needs less memory, and the large step comes only when a layer fits on
# the chip as a whole.

# %%
lab.exercises.progress("06")
