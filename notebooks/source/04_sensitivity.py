# %% [markdown]
# # 4 · Which layer is the most sensitive
#
# **Which layer of LeNet-5 is the most sensitive to pruning, and how many weights can each one
# lose?**
#
# The paper prunes one layer at a time, measures the accuracy, and draws a curve for each layer: its
# **Figure 6**. From such curves it chose its thresholds. We draw them for LeNet-5, with intervals,
# choose densities by them, see what they cannot tell, and put our densities beside the paper's in
# **Table 3**.
#
# This takes about 60 minutes of yours, tasks included, and half a minute of the computer's.

# %%
import torch
import pruning_lab as lab

# %%
splits = lab.data.load()
model = lab.models.lenet_5(trained="mnist")
print(splits)

# %% [markdown]
# LeNet-5 comes trained with the library, by MNIST's 55,000 training images. We choose everything on
# *val*. The training images of `mnist-5k` are other ones, which this network has never seen, so
# there they serve for choosing too: more images give narrower intervals.

# %%
val = splits.val
if splits.name == "mnist-5k":
    from dataclasses import replace

    parts = splits.train, splits.val
    images, labels = (torch.cat([getattr(p, n) for p in parts]) for n in ("images", "labels"))
    val = replace(splits.val, images=images, labels=labels)

# %%
dense = lab.evaluate(model, val)
print("dense:", dense)

# %% [markdown]
# The words of this notebook, and those that you meet elsewhere:
#
# | here | elsewhere |
# | --- | --- |
# | sensitivity scan | layer-wise sensitivity analysis |
# | paired interval | confidence interval of a difference of paired proportions; McNemar's test |
# | within the noise | not significant |
# | a plan, densities of all layers | layer-wise sparsity allocation |
# | single, joint | each layer by its own curve; all layers together |
#
# Two of LeNet-5's layers are convolutions and two are fully connected. They are of very different
# sizes. A convolution uses each of its weights at every position of its output.

# %% tags=["nbval-check-output"]
for row in lab.counts.layers(model, (1, 28, 28)):
    positions = row.flops // row.weights // 2
    print(f"{row.layer:5} {row.weights:7,} weights, each used at {positions} positions")

# %% [markdown]
# @task 04.rank
#
# **Which layer loses accuracy first, when it alone is pruned?** Order the four, the most sensitive
# one first.

# %% tags=["exercise", "guess"]
rank = lab.widgets.Rank("04.rank", ["conv1", "conv2", "fc1", "fc2"])
rank

# %% tags=["ci"]
rank.value = ["fc1", "conv1", "conv2", "fc2"]
rank.note()

# %% [markdown]
# ## Six weights by hand
#
# Here is a network of one layer, and three images of three pixels each. The larger output is the
# answer. What the dense network answers counts as right. **Make a guess:** when half of the weights
# go, the smallest ones, which of the three answers changes?

# %% tags=["nbval-check-output"]
w = torch.tensor([[0.9, -0.1, 0.4], [-0.7, 0.05, 0.3]])  # (out, in)
x = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])  # an image in each row
right = (x @ w.T).argmax(1)
for density in (1, 0.5):
    kept = lab.criteria.by_density(w.abs(), density)
    answers = (x @ (w * kept).T).argmax(1)
    print(f"density {density:3}: {answers.tolist()}, {int((answers == right).sum())} of 3 right")

# %% [markdown]
# These are two points of a curve. A *sensitivity scan* measures such a curve for each layer.
#
# @task 04.scan
#
# Write it. For each layer of `model.named_children()` (all are `nn.Linear`) and each density, keep
# the `round(density * n)` largest magnitudes of that layer, call `evaluate(model)`, and note a row
# `(name, density, accuracy)`. **The other layers stay dense, and at the end the model is as it
# was.**


# %% tags=["exercise"]
def scan(model, evaluate, densities):
    """A list of rows (name, density, accuracy): layer by layer, the densities as given."""
    # BEGIN SOLUTION
    rows = []
    for name, layer in model.named_children():
        dense = layer.weight.detach().clone()
        for density in densities:
            kept = lab.criteria.by_density(dense.abs(), density)
            try:
                with torch.no_grad():
                    layer.weight.copy_(dense * kept)
                rows.append((name, density, evaluate(model)))
            finally:
                with torch.no_grad():
                    layer.weight.copy_(dense)
    return rows
    # END SOLUTION


# %% tags=["check"]
lab.exercises.check("04.scan", scan)

# %% [markdown]
# ## Is it a loss, or chance?
#
# An accuracy is a count of images, and other images would give another count: notebook 1 has shown
# how wide its interval is. The changes that we look for are smaller than that. But we have more
# than two counts. Both networks, dense and pruned, see *the same images*. Here are six answers of
# each, right or wrong:

# %% tags=["nbval-check-output"]
before = torch.tensor([True, True, True, True, False, True])
after = torch.tensor([True, True, False, True, True, True])
print("right before:", int(before.sum()), " right after:", int(after.sum()))

# %% [markdown]
# Both are right five times. Did pruning change nothing?
#
# @task 04.paired
#
# Count the images that were **lost** (right before, wrong after) and those that were **won**.


# %% tags=["exercise"]
def changes(before, after):
    """(lost, won), two whole numbers, from two bool tensors: right or wrong for each image."""
    # BEGIN SOLUTION
    return int((before & ~after).sum()), int((~before & after).sum())
    # END SOLUTION


# %% tags=["check"]
lab.exercises.check("04.paired", changes)

# %% [markdown]
# What pruning did is in the answers that changed. The others carry no information about the
# difference, however many they are. An interval that uses only those that changed is called
# *paired*. Of 1,000 images, 990 are right before and 982 after. That is the same change in all
# three rows below. In the first we have forgotten which images they were; in the second, eight were
# lost and none won; in the third, many changed in both directions.

# %% tags=["nbval-check-output"]
half = 1.96 * ((0.990 * 0.010 + 0.982 * 0.018) / 1000) ** 0.5
forgotten = lab.evaluation.Drop(0.008, 0.008 - half, 0.008 + half, 1000)
print("forgotten which:    ", forgotten)
print("lost 8, won none:   ", lab.evaluation.Drop.counted(lost=8, won=0, n=1000))
print("lost 18, won 10:    ", lab.evaluation.Drop.counted(lost=18, won=10, n=1000))

# %% [markdown]
# Only the second interval lies below zero: there we can be rather sure that pruning did harm. All
# changes in this library are paired. An interval with zero inside is *within the noise*: it is
# possible that nothing was lost.
#
# Mind the sign. A `Drop` prints the *change* in points, with a minus for a loss. Its numbers
# `value`, `low` and `high` are the *loss*, as fractions: `low > 0` means that a loss is beyond the
# noise.
#
# @task 04.overlap
#
# Two pruned networks were measured on the same images. The function below says which one is better,
# by looking whether their intervals overlap. **That is a common mistake. Repair it**, so that it
# uses what is known of each image. `first` and `second` are bool tensors as above;
# `lab.evaluation.Drop.counted(lost, won, n)` has the interval.


# %% tags=["exercise"]
def better(first, second):
    """ "first", "second" or "cannot tell", from the hits of two networks on the same images."""
    one, two = lab.evaluation.Accuracy.of(first), lab.evaluation.Accuracy.of(second)
    if one.low > two.high:
        return "first"
    if two.low > one.high:
        return "second"
    return "cannot tell"


# BEGIN SOLUTION
def better(first, second):
    """ "first", "second" or "cannot tell", from the hits of two networks on the same images."""
    lost, won = int((first & ~second).sum()), int((~first & second).sum())
    loss = lab.evaluation.Drop.counted(lost, won, len(first))
    return "first" if loss.low > 0 else "second" if loss.high < 0 else "cannot tell"


# END SOLUTION
# %% tags=["check"]
lab.exercises.check("04.overlap", better)

# %% [markdown]
# How small a loss can our own images show?

# %%
least = next(k for k in range(1, 100) if lab.evaluation.Drop.counted(k, 0, dense.n).low > 0)
print(f"{dense.n:,} images: {least} must be lost, and none won, to be beyond the noise;")
print(f"that is a change of {lab.evaluation.change(least / dense.n)} points")

# %% [markdown]
# ## Which layer is the most sensitive?
#
# Each layer is pruned alone, to ever lower densities, while the others stay dense. You can watch
# the curves grow, and the bands shrink as more images are seen. The legend shows your own ranking.
# (`lab.scan` computes only what comes after the pruned layer, so it is faster than a plain loop.)

# %%
densities = [0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01]
title, guess = "LeNet-5, one layer pruned, no retraining", lab.exercises.guessed("04.rank")
growing = lab.widgets.GrowingScan(title=title, guess=guess)
curves = lab.scan(model, val, densities, notify=growing)

# %% [markdown]
# The band around a curve is the paired interval. Grey is what lies within the noise: there the
# curve may well be flat. Near the top the curves lie on one another, so here is that part alone:

# %%
drawn = lab.plots.sensitivity(curves, max_drop=1, title="The same, near the top")
lab.plots.show(drawn, curves)

# %% [markdown]
# Now in numbers. This is what each layer loses when it keeps three tenths of its weights, and a
# twentieth:


# %%
def at(density):
    """layer -> drop, where that layer alone is pruned to this density."""
    asked = f"density {density:g}"
    return {point.layer: point.drop for point in curves if point.asked == asked}


for layer in curves.layers:
    print(f"{layer:5}  at 0.3: {at(0.3)[layer]!s:34}  at 0.05: {at(0.05)[layer]}")

# %% tags=["reveal"]
by_loss = sorted(curves.layers, key=lambda layer: -at(0.05)[layer].value)
lab.exercises.reveal("04.rank", by_loss)

# %% tags=["ci", "nbval-check-output"]
for density in (0.3, 0.05):
    conv1, *others = (at(density)[layer] for layer in ("conv1", "conv2", "fc1", "fc2"))
    outside = all(conv1.low > other.high for other in others)
    print(f"at {density}, conv1 loses more than any other, outside of the intervals: {outside}")
print("by the loss at 0.05:", by_loss)
print("the model is as it was:", lab.evaluate(model, val) == dense)

# %% [markdown]
# It is as in the paper, where the first convolution of AlexNet is the most sensitive layer. That
# layer sees the images themselves, has few weights, and uses each of them at every position of the
# image. `fc1` has the most weights, and can spare the most.
#
# Two curves may cross: a layer that loses less at one density can lose more at another. So there is
# no one order of the layers. Do you find two such curves above?
#
# How low can each layer go alone, as far as these images can tell?

# %%
for layer in curves.layers:
    quiet = [point.density for point in curves.of(layer) if point.drop.low <= 0]
    print(f"{layer:5} within the noise down to", f"{min(quiet):.0%}" if quiet else "no cut tried")

# %% [markdown]
# ## What a threshold keeps
#
# The paper does not ask for densities. It sets thresholds, *quality × σ*, and takes what comes out.
# Could we have known that? If weights had a normal distribution (Gaussian), or the more peaked
# Laplace distribution, a formula would say it. For a threshold of one σ:

# %% tags=["nbval-check-output"]
normal, laplace = torch.distributions.Normal(0, 1), torch.distributions.Laplace(0, 0.5**0.5)
for name, spread in {"Gaussian": normal, "Laplace": laplace}.items():  # both with σ = 1
    print(f"{name:8} {float(2 * spread.cdf(torch.tensor(-1.0))):.1%} are larger than σ")

# %% [markdown]
# **Make a guess:** which of the two is nearer to our layers? To all four?

# %%
rows = lab.sensitivity.prior(model, [0.25 * step for step in range(1, 13)])
drawn = lab.plots.prior(rows, title="What a threshold keeps of each layer")
lab.plots.show(drawn, rows)

# %% [markdown]
# Do not judge by eye alone: a layer with few weights is a small sample. The interval below says
# what a layer that keeps so many of so few weights might keep, if it had many more:

# %%
at_sigma = [row for row in rows if row.quality == 1]
for cut, row in zip(lab.prune(model, quality=1).receipt, at_sigma, strict=True):
    kept = lab.evaluation.Accuracy.counted(cut.kept, cut.weights)
    print(f"{row.layer:5} keeps {kept.low:.1%} to {kept.high:.1%} of its {cut.weights:,} weights")

# %% [markdown]
# Which layers have an interval that holds the fraction of the Gaussian, and which that of the
# Laplace distribution? On the network that comes with the course, `conv1` fits the Gaussian, and
# the others neither of the two (`fc2` only just). A formula gives a first idea and no more. Layers
# differ in the shape of their histograms as they do in sensitivity, and the same quality for all
# is neither the same density nor the same harm. So we choose by the curves.
#
# ## Choosing by an allowed drop
#
# Say how much accuracy each layer alone may lose. Where the curve of a layer crosses that line,
# there is its density: `lab.choose` reads it off.
#
# @task 04.together
#
# Each of the four layers alone loses **half a point**. **How many points do they lose when all four
# are pruned together?**

# %% tags=["exercise", "guess"]
together = lab.widgets.GuessSlider("04.together", 0, 20, unit="points lost")
together

# %% tags=["ci"]
together.value = 2
together.note()

# %% [markdown]
# The slider below is the allowed drop of each layer. Move it with the mouse or the arrow keys. The
# table follows at once. What all layers lose together is then measured, first on a few hundred
# images, then on all.

# %%
panel = lab.widgets.DropSlider(curves, model, val, max_drop_per_layer=0.1).settle()
panel

# %% [markdown]
# The next cell reads it, or moves the slider:

# %% tags=["reveal"]
panel.max_drop_per_layer = 0.5
panel.settle()
lab.exercises.reveal("04.together", 100 * panel.drop.value)

# %%
print(panel.plan)

# %% tags=["ci", "nbval-check-output"]
plan = panel.plan
print("allowed:", panel.max_drop_per_layer, "points for each of", len(plan.rows), "layers")
print("together more than the sum, outside of the interval:", plan.together.low > plan.predicted)

# %% [markdown]
# **Single drops do not add.** In the scan, a pruned layer got correct inputs from the dense layers
# before it, and the dense layers after it could compensate for some of the harm. Pruned together,
# each layer receives inputs that are already wrong, and no dense layer is left to compensate. (It
# can go the other way too, where two layers harm the same images.) So a choice by single curves is
# a proposal. Measure it.
#
# ## A plan for all layers
#
# The paper's Table 3 keeps this many of LeNet-5's weights:

# %%
reported = {row.layer: row.density for row in lab.paper.LENET_5 if row.layer != "total"}
theirs = lab.prune(model, density=reported)
print(f"{theirs.kept:,} of {theirs.weights:,} weights stay")

# %% [markdown]
# @task 04.plan
#
# **Find densities that keep exactly so many weights and lose less on val than the choice by the
# single curves, which is below.** How many weights depends on your name; for the demo they are the
# paper's. Think of what the scan has not seen: all layers are pruned now. Which layer would you
# give more?

# %%
budget = lab.exercises.case("04.plan")[0]
single = lab.choose(curves, density=budget / theirs.weights)
print(f"keep exactly {budget:,} weights")
print("single choice:", {layer: round(d, 3) for layer, d in single.densities.items()})

# %% tags=["exercise"]
mine = None  # layer -> density, such as {"conv1": 0.7, "conv2": 0.1, "fc1": 0.08, "fc2": 0.2}
# BEGIN SOLUTION
counts = {"conv1": 450, "conv2": 8_750, "fc2": 3_000}
counts["fc1"] = budget - sum(counts.values())
weights = {row.layer: row.weights for row in single.rows}
mine = {layer: count / weights[layer] for layer, count in counts.items()}
# END SOLUTION

# %% tags=["check"]
verdict = lab.exercises.check("04.plan", mine, model=model, images=val, scan=curves)
verdict

# %% [markdown]
# ## Choosing for all layers together
#
# The library can search as you did. `method="joint"` starts from the single choice and lets the
# layers exchange weights: one gives up some, another gets as many, whenever the loss of the network
# *with all layers pruned* falls. The number of weights stays the same.

# %%
first_images = val.head(500)  # the search measures often, so it looks at few images
joint = lab.choose(curves, density=single.density, method="joint", model=model, images=first_images)

# %%
plans = {"paper": reported, "single": single.densities, "joint": joint.densities}
plans |= {"mine": mine} if verdict.sign == "✓" else {}
for name, densities in plans.items():
    print(f"{name:7}", "  ".join(f"{layer} {densities[layer]:6.1%}" for layer in curves.layers))

# %% tags=["ci", "nbval-check-output"]
kept = {name: lab.prune(model, density=densities).kept for name, densities in plans.items()}
print("weights kept by the paper:", kept["paper"], "of", theirs.weights)
print("as many by the others:", all(abs(count - theirs.kept) <= 4 for count in kept.values()))
print("joint gives conv1 more:", joint.densities["conv1"] > single.densities["conv1"])

# %% [markdown]
# ## Our numbers beside the paper's
#
# The paper's plan keeps its own number of weights, the others keep yours. First on val, by which we
# chose, each compared with the dense network; nothing is retrained.


# %%
def pruned(densities, images):
    """The accuracy with the layers cut to these densities."""
    with lab.masks.masked(model, lab.prune(model, density=densities)):
        return lab.evaluate(model, images)


on_val = {name: pruned(densities, val) for name, densities in plans.items()}
for name, accuracy in on_val.items():
    print(f"{name:7} {lab.evaluation.drop(dense, accuracy)}")

# %% [markdown]
# All choices are made, so now the test images, once. The paper's own row is of its network after
# retraining.

# %%
on_test = {name: pruned(densities, splits.test) for name, densities in plans.items()}
table_1 = lab.paper.TABLE_1["lenet-5"]
lab.reports.beside(
    {"dense": table_1.dense_error, "paper": table_1.error},
    {"dense": lab.evaluate(model, splits.test), **on_test},
)

# %% [markdown]
# Is the joint choice better than the single one, on images by which neither was chosen?

# %%
for name, accuracies in {"val": on_val, "test": on_test}.items():
    change = lab.evaluation.drop(accuracies["single"], accuracies["joint"])
    print(f"joint against single on {name:4}: {change}: {change.conclusion}")

# %% tags=["ci", "nbval-check-output"]
gain = lab.evaluation.drop(on_val["single"], on_val["joint"])
print("on val, joint is better than single, outside of the interval:", gain.high < 0)

# %% [markdown]
# **What we make of the difference.** The paper, too, keeps most of `conv1` and least of `fc1`. Our
# joint choice gives `conv1` more than that layer's own curve asks for, since it measures with the
# other layers pruned as well. For the other layers the two differ. Ours are densities for a network
# that is cut and left alone: small layers, which cost few weights, are spared, and `fc1` pays for
# it. The paper's are those of a network that was retrained after each cut, and such a network can
# lose other weights than one that was not. What retraining gives back,
# [03_retrain](03_retrain.ipynb) has shown.
#
# The paper's curves have no intervals. Where ours are grey, other images might choose other
# densities, and be as good. The choice was made on val, so its gain there may be too large: compare
# the two lines above, and see whether it holds on test.

# %%
lab.exercises.progress("04")
