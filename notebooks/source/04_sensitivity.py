# %% [markdown]
# # 4 · Which layer is the most sensitive
#
# **Which layer of LeNet-5 is the most sensitive to pruning, and how much can each one lose?**
#
# The paper prunes one layer at a time, looks at the accuracy, and draws a curve for each layer:
# its **Figure 6**. From such curves it chose its thresholds. We draw them for LeNet-5, with error
# bars, choose densities by them, see what they cannot tell us, and put our densities beside the
# paper's in **Table 3**.
#
# All of it takes about half a minute.

# %%
import math

import matplotlib.pyplot as plt
import pandas as pd
import torch

import pruning_lab as lab

splits = lab.data.load()
print(splits)

# %%
SIZE = "quick"  # "quick": about 10 seconds of measuring; "thorough": a minute, and finer curves
DENSITIES = {
    "quick": [0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01],
    "thorough": [0.9, 0.7, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.015, 0.01],
}[SIZE]
SEARCHED = {"quick": 500, "thorough": 2000}[SIZE]  # images that a search further down looks at

# %% [markdown]
# LeNet-5 has two convolutions and two fully connected layers. Trained on MNIST it comes with the
# library; on the small digits we train it here, which takes some ten seconds.

# %%
if splits.name == "mnist":
    model = lab.models.lenet_5(trained="mnist")
else:
    torch.manual_seed(0)
    model = lab.models.lenet_5()
    config = lab.TrainConfig(epochs=20, lr=0.05, shift=1)
    for epoch in lab.train(model, splits.train, config):
        print(f"\repoch {epoch.epoch} of {config.epochs}, accuracy {epoch.accuracy:.1%}", end="")
    print()

dense = lab.evaluate(model, splits.val)
print("dense, on val:", dense)

# %% [markdown]
# ## Six weights by hand
#
# Here is a network of one layer, and three images of three pixels each. The larger output is the
# answer. What the dense network answers counts as right. **Make a guess:** when half of the
# weights go, the smallest ones, which of the three answers changes?

# %% tags=["nbval-check-output"]
w = torch.tensor([[0.9, -0.1, 0.4], [-0.7, 0.05, 0.3]])  # (out, in)
x = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])  # an image in each row
right = (x @ w.T).argmax(1)
for density in (1, 0.5):
    kept = lab.criteria.by_density(w.abs(), density)
    answers = (x @ (w * kept).T).argmax(1)
    print(f"density {density:3}: {answers.tolist()}, {int((answers == right).sum())} of 3 right")

# %% [markdown]
# Two points of a curve: that is a sensitivity scan. But how much is two of three? With three other
# images it might have been three, or one.
#
# ## Is it a loss, or chance?
#
# An accuracy is a count of images, and other images of the same kind would give another count. The
# 95 % interval says how far off it may be. **Make a guess:** 99 of 100 images are right. How low
# may the accuracy really be? And with 4,950 of 5,000?

# %% tags=["nbval-check-output"]
for n in (100, 1000, 5000):
    print(lab.evaluation.Accuracy.counted(round(0.99 * n), n))

# %% [markdown]
# The changes that we look for are smaller than that. But we have more than two counts: both
# networks see *the same images*. Here are six answers of each, right or wrong:

# %% tags=["nbval-check-output"]
before = torch.tensor([True, True, True, True, False, True])
after = torch.tensor([True, True, False, True, True, True])
print("right before:", int(before.sum()), " right after:", int(after.sum()))
print("lost:", int((before & ~after).sum()), " won:", int((~before & after).sum()))

# %% [markdown]
# Both are right five times. Pruning has lost one image and won another. What it did is in the
# answers that *changed*; the others carry no information, however many they are. An interval that
# counts only these is called *paired*. Below, of 1,000 images, 990 are right before and 982 after,
# so the change is the same in all three rows. In the first row we forget which images they were; in
# the second eight were lost and none won; in the third many changed, in both directions.

# %% tags=["nbval-check-output"]
n = 1000
half = 1.96 * math.sqrt((0.990 * 0.010 + 0.982 * 0.018) / n)
unpaired = lab.evaluation.Drop(0.008, 0.008 - half, 0.008 + half, n)
print("forgotten which:       ", unpaired)
print("lost 8, won none:      ", lab.evaluation.Drop.counted(lost=8, won=0, n=n))
print("lost 18, won 10:       ", lab.evaluation.Drop.counted(lost=18, won=10, n=n))

# %% [markdown]
# Only the second interval lies below zero: there we can be fairly sure that pruning did harm. All
# changes in this library are paired. An interval with zero inside is *within the noise*: perhaps
# nothing was lost at all. How small a loss can our own images show?

# %%
least = next(k for k in range(1, 100) if lab.evaluation.Drop.counted(k, 0, dense.n).low > 0)
print(f"{dense.n:,} images on val: {least} must be lost, and none won, to be beyond the noise;")
print(f"that is a loss of {100 * least / dense.n:.2f} points")

# %% [markdown]
# ## Which layer is the most sensitive?
#
# LeNet-5's layers are of very different sizes:

# %% tags=["nbval-check-output"]
for name, layer in lab.masks.prunable(model).items():
    print(f"{name:5} {tuple(layer.weight.shape)!s:16} {layer.weight.numel():7,} weights")

# %% [markdown]
# **Make a guess**, and write it down: the first convolution, the second, the large `fc1`, or the
# last layer, `fc2`? Each is pruned alone, to ever lower densities, while the others stay dense.
# You can watch the curves grow and the bands shrink as more images are seen.

# %%
title = f"LeNet-5 on {splits.name}, one layer pruned, no retraining"
scan = lab.scan(model, splits.val, DENSITIES, notify=lab.widgets.GrowingScan(title=title))

# %% [markdown]
# Near the top the curves lie on one another. Here is that part alone, with its bands.

# %%
figure, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
lab.plots.sensitivity(scan, title="The same, near the top", ax=ax)
reach = 400 * (dense.high - dense.low)  # points
ax.set_ylim(-reach, reach / 4)
plt.show()
# %% [markdown]
# The band around a curve is the paired interval. Grey is what lies within the noise: there the
# curve may well be flat. A layer begins to lose accuracy where colour begins.
#
# The same in a table: how low each layer can go, as far as these images can tell, and what it
# loses at the lowest level.

# %%
rows = []
for layer in scan.layers:
    points = scan.of(layer)
    quiet = [point.density for point in points if point.drop.low <= 0]
    rows.append(
        {
            "layer": layer,
            "within the noise down to": f"{min(quiet):.0%}" if quiet else "no cut tried",
            "lowest level": f"{points[-1].density:.1%}",
            "change there": points[-1].drop,
        }
    )
pd.DataFrame(rows).set_index("layer")


# %% tags=["nbval-check-output"]
def falls_at(layer, points_lost):
    """The density at which the layer's curve has lost so many percentage points."""
    lost = [p.density for p in scan.of(layer) if 100 * p.drop.value > points_lost]
    return max(lost, default=0)


first = max(scan.layers, key=lambda layer: falls_at(layer, 2))
print("on MNIST, conv1 is the most sensitive:", first == "conv1" or splits.name != "mnist")
print("on MNIST, fc1 is the least sensitive:", falls_at("fc1", 2) < 0.02 or splits.name != "mnist")
print("the model is as it was:", lab.evaluate(model, splits.val) == dense)

# %% [markdown]
# On MNIST it is as in the paper, where AlexNet's first convolution is the most sensitive. That
# layer sees the images themselves, has few weights, and uses each of them at every place of the
# image. `fc1` has the most weights, and can spare the most.
#
# ## What a threshold keeps
#
# The paper does not ask for densities. It sets thresholds, *quality × σ*, and takes what comes out.
# Could we have known what comes out? If weights were spread like a normal distribution (Gaussian),
# or like the more pointed Laplace distribution, a formula would say it. For one σ:

# %% tags=["nbval-check-output"]
print(f"Gaussian: {math.erfc(1 / math.sqrt(2)):.1%} are larger than σ")
print(f"Laplace:  {math.exp(-math.sqrt(2)):.1%}")

# %% [markdown]
# **Make a guess:** which of the two is nearer to our layers? To all four?

# %%
figure, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
prior = lab.sensitivity.prior(model, [0.25 * step for step in range(1, 13)])
lab.plots.prior(prior, title="What a threshold keeps of each layer", ax=ax)
plt.show()
# %%
rows = {
    row.layer: {
        "keeps at 2.5 × σ": f"{row.density:.1%}",
        "if Gaussian": f"{row.gaussian:.1%}",
        "if Laplace": f"{row.laplace:.1%}",
        "nearer to": "Gaussian"
        if abs(row.density - row.gaussian) < abs(row.density - row.laplace)
        else "Laplace",
    }
    for row in prior
    if row.quality == 2.5
}
pd.DataFrame(rows).T

# %% [markdown]
# A formula gives a first idea and no more: layers differ in shape as they do in sensitivity. The
# same quality for all layers is neither the same density nor the same harm. So we choose by the
# curves.
#
# ## Choosing by an allowed drop
#
# Say how much accuracy each layer alone may lose, in percentage points. Where the curve of a
# layer crosses that line, there is its density: `lab.choose` reads it off.
#
# **Make a guess:** if each of the four layers alone loses half a point, what do they lose when
# all four are pruned together?

# %%
panel = lab.widgets.DropSlider(scan, model, splits.val, max_drop_per_layer=0.5).settle()
panel

# %% [markdown]
# Move the slider with the mouse or the arrow keys. The table follows at once. What all layers
# lose together is measured each time, first on a few hundred images, then on all of val. The
# next cell can read all of it, or move the slider:

# %%
panel.max_drop_per_layer = 0.2
panel.settle()
print(panel.plan)

# %% tags=["nbval-check-output"]
plan = panel.plan
print("allowed:", panel.max_drop_per_layer, "points for each of", len(plan.rows), "layers")
worse = plan.together.value > plan.predicted
print("on MNIST, together they lose more than the sum:", worse or splits.name != "mnist")

# %% [markdown]
# **Single drops do not add.** In the scan each pruned layer got clean inputs from the layers before
# it, and the dense layers after it compensated for some of the harm. Pruned together, each gets
# inputs that are already off, and no dense layer is left to compensate. (It can go the other way
# too, where two layers harm the same images. On few images, chance decides.) So a choice by single
# curves is a proposal: measure it.
#
# ## Choosing for all layers together
#
# `method="joint"` starts from that proposal and lets the layers exchange weights: one gives up
# some, another gets as many back, whenever the loss of the network *with all layers pruned* falls.
# The number of weights stays the same. We take as many as the paper kept in Table 3.
#
# **Make a guess:** which layer gives weights away, and which get them?

# %%
reported = {
    row.layer: row.density for row in lab.paper.LAYER_TABLES["lenet-5"] if row.layer != "total"
}
theirs = lab.prune(model, density=reported)
single = lab.choose(scan, density=theirs.density)
joint = lab.choose(
    scan, density=theirs.density, method="joint", model=model, images=splits.val.head(SEARCHED)
)

# %%
plans = {"single": single.densities, "joint": joint.densities, "paper, Table 3": reported}
pd.DataFrame(plans).map("{:.1%}".format)

# %% tags=["nbval-check-output"]
kept = {name: lab.prune(model, density=densities).kept for name, densities in plans.items()}
print("weights kept:", kept["paper, Table 3"], "of", theirs.weights)
print("as many by the others:", all(abs(k - theirs.kept) <= 4 for k in kept.values()))
more = joint.densities["conv1"] > single.densities["conv1"]
print("on MNIST, joint gives conv1 more:", more or splits.name != "mnist")

# %% [markdown]
# ## Our numbers beside the paper's
#
# Three choices that keep as many weights. On val, by which we chose, and then, as all choices are
# made, once on test. Nothing is retrained yet. The paper's own row is of its network after
# retraining.


# %%
def drops(densities):
    """On val and on test, with the layers cut to these densities."""
    mask, row = lab.prune(model, density=densities), {}
    for split in (splits.val, splits.test):
        before = lab.evaluate(model, split)
        with lab.masks.masked(model, mask):
            after = lab.evaluate(model, split)
        row[f"change on {split.name}"] = lab.evaluation.drop(before, after)
        row[f"error on {split.name}"] = f"{after.error:.2%}"
    return row


results = {name: drops(densities) for name, densities in plans.items()}
pd.DataFrame(results).T

# %%
table_1 = lab.paper.TABLE_1["lenet-5"]
change = 100 * (table_1.dense_error - table_1.error)
test = lab.evaluate(model, splits.test)
print(f"ours, dense:      error {test.error:.2%} on {splits.name}")
print(f"paper, retrained: error {table_1.error:.2%} on mnist, a change of {change:+.2f} points")

# %% tags=["nbval-check-output"]
on_test = {name: row["change on test"].value for name, row in results.items()}
better = on_test["joint"] < min(on_test["single"], on_test["paper, Table 3"])
print("on MNIST, joint loses least without retraining:", better or splits.name != "mnist")

# %% [markdown]
# **What we make of the difference.** The paper, too, keeps most of `conv1` and least of `fc1`.
# On MNIST it also gives `conv1` more than that layer's own curve asks for, as does our joint
# choice, which knows that the others will be pruned as well. For the other layers the two
# differ. Ours are densities for a network that is cut and left alone: small layers, which cost few
# weights, are spared, and `fc1` pays. The paper's are those of a network that was retrained after
# each cut, and such a network can spare other weights than one that was not; what retraining gives
# back, [03_retrain](03_retrain.ipynb) has shown.
#
# And the paper's curves have no error bars. Where ours are grey, another set of images, or
# another seed, might choose other densities, and be as right. Try it: set `SIZE` to `"thorough"`
# and see which densities stay. On the small digits, so few images can tell hardly anything apart,
# and the honest answer to the question at the top is how long the grey lines are.
