# %% [markdown]
# # 8 · AlexNet
#
# **Does it hold on photos, in a network with five convolutions?**
#
# AlexNet is the paper's main case: its **Figure 6** and **Table 4** are of it, and its claim of
# nine times fewer parameters with nothing lost. Ours comes trained with the library: a quarter of
# the channels, photos of 64 px. We scan it, prune it to the paper's densities, and retrain it as
# the paper does, one kind of layers at a time, beside a control. Beside our rows stand the paper's,
# and those of long runs of ours with the network at its full width.
#
# This takes about 45 minutes of yours, tasks included, and two of the computer's. (The first time a
# little more: the photos are decoded once, and kept.)

# %%
import copy
import json
import math
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import nn

import pruning_lab as lab

# %%
SIZE = "quick"  # retraining in sight: "quick", a minute; "thorough", ten, and fewer errors
SHAPE = {**lab.experiments.REDUCED["alexnet"], "classes": 10}

# %% [markdown]
# ## The photos
#
# Imagenette has ten of ImageNet's thousand classes, easy to tell apart. Where it is not there, we
# draw shapes instead, and say so.

# %%
splits = lab.data.load("photos", size=SHAPE["size"])
print(f"{splits.name}: {splits.train.n:,} images to train on, {splits.val.n:,} in val")
print(splits.origin.rpartition("; ")[0] or splits.origin)  # but for where the cache lies

# %% [markdown]
# One of each class, as small as the network sees them. Could you tell them all?

# %%
PHOTOS = [
    *("tench", "English springer", "cassette player", "chain saw", "church"),
    *("French horn", "garbage truck", "gas pump", "golf ball", "parachute"),
]
names = PHOTOS if splits.name == "imagenette" else list(lab.data.shapes.SHAPES)
figure, axes = plt.subplots(2, 5, figsize=(7, 3.3), layout="constrained")
for label, ax in enumerate(axes.flat):
    first = int((splits.train.labels == label).nonzero()[0])
    ax.imshow(splits.train.images[first].permute(1, 2, 0))  # (H, W, C)
    ax.set_title(names[label], fontsize=9)
    ax.axis("off")
lab.plots.show(figure, f"One image of each class: {', '.join(names)}")

# %% [markdown]
# ## Where the weights are, and where the work is
#
# The paper's AlexNet takes images of 227 px. By hand, for its first convolution: each of 96
# filters has 11 x 11 weights for each of 3 colours, and is applied at 55 x 55 places of the
# image. In its first fully connected layer each weight is used once.

# %% tags=["nbval-check-output"]
conv1, fc1 = 96 * 11 * 11 * 3, 4096 * (256 * 6 * 6)
print(f"conv1: {conv1:10,} weights, {2 * conv1 * 55 * 55:11,} operations")
print(f"fc1:   {fc1:10,} weights, {2 * fc1:11,} operations")

# %% [markdown]
# **Make a guess:** how much of the whole network's weights is in the three fully connected layers,
# and how much of its work?

# %% tags=["nbval-check-output"]
full = lab.counts.layers(lab.models.alexnet(), (3, 227, 227))
for column in ("weights", "flops"):
    total = getattr(full.total, column)
    part = sum(getattr(row, column) for row in full[5:]) / total
    print(f"{column:7}: {total:13,} in all, {part:.0%} of them in fc1, fc2 and fc3")

# %% tags=["ci", "nbval-check-output"]
print("by hand:", full[0].weights == conv1, full[5].flops == 2 * fc1)

# %% [markdown]
# So cutting the fully connected layers makes the network small, and cutting the convolutions saves
# operations. Now ours: the same layers, with fewer channels and units. On images so small conv1 has
# filters of 5 x 5 instead of 11 x 11.

# %% tags=["nbval-check-output"]
model = lab.models.alexnet(trained="imagenette", **SHAPE)
recipe = lab.experiments.paper_recipe("alexnet", splits.name, SHAPE)
print(lab.models.describe(recipe.about))
for name, layer in lab.masks.prunable(model).items():
    print(f"{name:5} {tuple(layer.weight.shape)!s:16} {layer.weight.numel():7,} weights")

# %% [markdown]
# It was trained on Imagenette. What was that training, and how good has it become? The file beside
# the weights says so:

# %%
beside = Path(lab.__file__).parent / "weights" / "alexnet-imagenette.json"
manifest = json.loads(beside.read_text())
print(manifest["command"])
print("then, on val:", lab.evaluation.Accuracy(**manifest["val"]))

# %%
if splits.name != "imagenette":
    print("Imagenette is not here; the network learns drawn shapes first, for three epochs.")
    for epoch in lab.train(model, splits.train, replace(recipe.dense, epochs=3)):
        print(f"epoch {epoch.epoch} of {epoch.epochs}, accuracy {epoch.accuracy:.1%}")
dense = lab.evaluate(model, splits.val)
print(f"now, on val of {splits.name}: {dense}")

# %% [markdown]
# With ten classes, guessing would be right once in ten.
#
# ## Which layer is the most sensitive?
#
# @task 08.rank
#
# **Which layer loses most, when it alone is pruned to a fiftieth of its weights?** Order all
# eight, the one that loses most first.

# %% tags=["exercise", "guess"]
layers = [row.layer for row in lab.paper.ALEXNET if row.layer != "total"]
rank = lab.widgets.Rank("08.rank", layers)
rank

# %% tags=["ci"]
rank.value = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc3", "fc2", "fc1"]
rank.note()

# %% [markdown]
# Each layer alone, to ever lower densities, while the others stay dense. Grey is what lies within
# the noise, the band is the paired interval:

# %%
scan = lab.scan(model, splits.val, recipe.scan)
title = f"AlexNet on {splits.name}, one layer pruned, no retraining"
lab.plots.show(lab.plots.sensitivity_grid(scan, max_drop=5, title=title), scan)

# %%
lowest = {layer: scan.of(layer)[-1] for layer in scan.layers}
order = sorted(lowest, key=lambda layer: -lowest[layer].drop.value)
print(f"at density {recipe.scan[0]}, the most sensitive layer first:")
for layer in order:
    print(f"{layer:5} {lowest[layer].drop}")

# %% tags=["reveal"]
lab.exercises.reveal("08.rank", order)

# %% tags=["ci", "nbval-check-output"]
print("the model is as it was:", lab.evaluate(model, splits.val) == dense)
kinds = {"conv": layers[:5], "fc": layers[5:]}
harm = {k: sum(lowest[n].drop.value for n in own) / len(own) for k, own in kinds.items()}
print("convolutions are more sensitive than fully connected layers:", harm["conv"] > harm["fc"])

# %% [markdown]
# Where the intervals of two neighbours overlap widely, these images cannot tell which of them
# loses more; and at milder densities the order may be another, as the curves above show. In the
# paper's Figure 6 the convolutions on its left fall early, the fully connected layers on its right
# late.
#
# ## Threshold or quality?
#
# In Figure 6 conv1 is the most sensitive layer, and so, says the paper, it got the smallest
# *threshold*. A threshold is quality × σ. The paper prints neither thresholds nor qualities; but
# the densities of its Table 4 say what they come to in our network.
#
# @task 08.threshold
#
# **Which of our layers has the smallest threshold**, when all are pruned to the densities of Table
# 4? Note its name as your guess.

# %% tags=["exercise", "guess"]
layer = None  # such as "fc2"
# BEGIN SOLUTION
layer = "conv1"
# END SOLUTION
lab.exercises.guess("08.threshold", layer)

# %% [markdown]
# The density that the paper reports for each layer, and what that makes of ours:

# %%
reported = {row.layer: row.density for row in lab.paper.ALEXNET if row.layer != "total"}
receipt = lab.prune(model, density=reported).receipt
quality = {row.layer: row.threshold / row.sigma for row in receipt}
threshold = {row.layer: row.threshold for row in receipt}

# %% tags=["reveal"]
lab.exercises.reveal("08.threshold", min(threshold, key=threshold.get))

# %%
pd.DataFrame(
    {
        "density, Table 4": {row.layer: f"{row.asked}" for row in receipt},
        "quality here": {layer: f"{value:.2f}" for layer, value in quality.items()},
        "σ": {row.layer: f"{row.sigma:.3f}" for row in receipt},
        "threshold here": {row.layer: f"{row.threshold:.3f}" for row in receipt},
    }
)

# %% tags=["nbval-check-output"]
print("smallest quality:", min(quality, key=quality.get))

# %% tags=["ci", "nbval-check-output"]
by_quality, by_threshold = sorted(quality, key=quality.get), sorted(threshold, key=threshold.get)
print("the layers stand in the same order by both:", by_quality == by_threshold)

# %% [markdown]
# The second half of the task: **in one sentence, why is the smallest threshold not the same as the
# most sensitive layer?**

# %% tags=["exercise", "check"]
sentence = None
# BEGIN SOLUTION
sentence = (
    "A threshold is quality times sigma, and sigma differs between layers (in ours, and in the "
    "paper's network in another way), so only qualities or densities can be compared."
)
# END SOLUTION
lab.exercises.explain("08.threshold", sentence)

# %% [markdown]
# ## Dropout
#
# While it trains, AlexNet leaves out units of `fc1` and `fc2` at random: *dropout*, against
# overfitting. A pruned layer has fewer weights to overfit with, so it needs less dropout. How much
# less? Take a layer of 4 units after 4 others. Leave half of the units, on both sides:

# %% tags=["nbval-check-output"]
connections, left = 4 * 4, 2 * 2
print("connections left:", left / connections)
print("units left:      ", math.sqrt(left / connections))

# %% [markdown]
# @task 08.dropout
#
# Dropout is about units, and a density is about connections. What is the dropout rate of a layer
# that had `original`, when a fraction `density` of its connections is left? (Equation 2 of the
# paper.)


# %% tags=["exercise"]
def rate(original, density):
    """The dropout rate while the pruned layer is retrained."""
    # BEGIN SOLUTION
    return original * math.sqrt(density)
    # END SOLUTION


# %% tags=["check"]
lab.exercises.check("08.dropout", rate)

# %% tags=["nbval-check-output"]
with lab.retraining.dropout_adjusted(model, lab.prune(model, density=reported)):
    print(f"our fc1: {SHAPE['dropout']} becomes {model.drop6.p:.3f} while it is retrained")
print("afterwards:", model.drop6.p)

# %% [markdown]
# ## Is it frozen?
#
# Through many layers gradients vanish, which makes a deep network harder to retrain, says the
# paper's section 3.3. So it cuts the fully connected layers, and retrains these while the
# convolutions stay *frozen*; then it cuts the convolutions, and retrains those.
#
# @task 08.freeze
#
# Which layers has a training moved? `before` and `after` are what `state_dict()` gave, before and
# after. The function below overlooks some. **Find out which, and repair it**: it returns the names
# of the layers (`"conv1"`, not `"conv1.weight"`), each once, in order.


# %% tags=["exercise"]
def moved(before, after):
    """The names of the layers of which anything has changed."""
    moved = []
    for name in before:
        if "weight" in name and not torch.allclose(before[name], after[name]):
            moved.append(name)
    return moved


# BEGIN SOLUTION
def moved(before, after):
    """The names of the layers of which anything has changed."""
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    return list(dict.fromkeys(name.rpartition(".")[0] for name in changed))


# END SOLUTION
# %% tags=["check"]
lab.exercises.check("08.freeze", moved)

# %% [markdown]
# Three ways to freeze a convolution and its batch normalisation layer (`norm1`). In which of them
# does only `fc1` move?


# %%
def moved_by(way):
    """What a step of training moves, in a network whose conv1 and norm1 were to be frozen."""
    parts = {"conv1": nn.Conv2d(1, 2, 3), "norm1": nn.BatchNorm2d(2), "flatten": nn.Flatten()}
    net = nn.Sequential(OrderedDict(**parts, fc1=nn.Linear(72, 3)))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=1e-3)
    if way != "gradients set to zero":
        net[:2].requires_grad_(False)
    if way == "no gradients, norm in eval mode":
        net.norm1.eval()
    before = copy.deepcopy(net.state_dict())
    net(torch.randn(4, 1, 8, 8)).square().mean().backward()
    if way == "gradients set to zero":
        for parameter in net[:2].parameters():
            parameter.grad.zero_()
    optimizer.step()
    return moved(before, net.state_dict())


# %% tags=["nbval-check-output"]
for way in "gradients set to zero", "no gradients", "no gradients, norm in eval mode":
    print(f"{way:32} moved {' '.join(moved_by(way))}")

# %% [markdown]
# Weight decay shrinks every weight that is not zero, even where its gradient is zero; and a batch
# normalisation layer in train mode updates its running mean and variance.
# `lab.retraining.frozen` takes care of both.
#
# ## Prune, and retrain one kind at a time
#
# First, for comparison, all of it at once, and nothing retrained. **Make a guess:** what is left of
# the accuracy?

# %%
with lab.masks.masked(model, lab.prune(model, density=recipe.rounds[-1]["density"])):
    at_once = lab.evaluate(model, splits.val)
print("cut at once:", at_once)
print("change:     ", lab.evaluation.drop(dense, at_once))

# %% [markdown]
# Now step by step, down to the same densities: twice the fully connected layers and then the
# convolutions, and in a fifth round all layers are retrained together. (That round cuts nothing.)
# The size `quick` retrains for few epochs, on a quarter of the images, at a third of the learning
# rate.

# %%
images = splits
if SIZE == "quick":
    images = replace(splits, train=splits.train.head(splits.train.n // 4))
    few = zip(recipe.retrain, (1, 1, 1, 1, 2), strict=True)
    few = tuple(replace(one, epochs=n, lr=0.005) for one, n in few)
    recipe = replace(recipe, retrain=few)
growing = lab.widgets.GrowingTraining(dense, title=f"AlexNet on val of {splits.name}")


def in_rounds(name, recipe):
    """A copy of the model after all rounds; says after each what it has moved."""
    network = copy.deepcopy(model)
    how = {"val": splits.val, "on_epoch": lambda epoch: growing.add(name, epoch.val)}
    rounds = recipe.retrain, recipe.rounds
    moved_in = []
    for stage in lab.retraining.iterative(
        network, images.train, *rounds, freeze=recipe.freeze, **how
    ):
        if stage.kind == "cut":
            before = copy.deepcopy(network.state_dict())
            if stage.round == 1:
                growing.add(name, lab.evaluate(network, splits.val))  # after 0 epochs
        else:
            layers = " ".join(moved(before, network.state_dict()))
            moved_in.append(f"round {stage.round}, {stage.mask.density:5.1%} left, moved {layers}")
    return network, moved_in


# %%
pruned, moved_in = in_rounds("pruned", recipe)

# %% tags=["nbval-check-output"]
print(*moved_in, sep="\n")

# %% [markdown]
# **Is that the work of pruning?** The network was trained on after the dense one had stopped. So
# here is the *control* (notebook 3): the dense network, trained on for as long, in the same way,
# with the same layers frozen, and nothing cut. **Make a guess:** which of the two ends higher?

# %%
control, _ = in_rounds("control", recipe.control)

# %%
answers = {"pruned": lab.evaluate(pruned, splits.val), "control": lab.evaluate(control, splits.val)}
print("on val, pruned against dense:  ", lab.evaluation.drop(dense, answers["pruned"]))
print("on val, control against dense: ", lab.evaluation.drop(dense, answers["control"]))
print("on val, pruned against control:", lab.evaluation.drop(answers["control"], answers["pruned"]))

# %% [markdown]
# Look at the control first. Where it is worse than the dense network, this retraining does harm by
# itself: so few epochs on a quarter of the images cost accuracy without any pruning. Then *pruned
# against control* says that pruning did no further harm in this short training; it does not say
# that nine times fewer weights cost nothing. The long runs of `results/README.md`, with controls,
# do say what it costs.

# %% tags=["nbval-check-output"]
size = lab.counts.parameters(pruned)
print(f"parameters in all: {size.total:,}; left: {size.compression:.1f} × fewer")

# %% tags=["ci", "nbval-check-output"]
print("better than cut at once, not retrained:", answers["pruned"].value > at_once.value)
asked, found = recipe.rounds[-1]["density"], lab.prune(pruned, density=1.0).receipt
print("no weight came back:", all(r.kept <= asked[r.layer] * r.weights + 1 for r in found))

# %% [markdown]
# ## Our rows beside Table 4
#
# The densities agree because we asked for them. The activations are measured: what is not zero
# after ReLU and pooling. A layer's operations left are its own density times that of what comes
# in.

# %%
ours = lab.counts.layers(pruned, splits.val)
what = ("density", "activation_density", "flop_density")
lab.reports.layers_beside(lab.paper.ALEXNET, ours, what)

# %% [markdown]
# ## The full width, and further
#
# A GPU trains AlexNet at its full width, on the same photos at 128 px. Such runs of ours are kept
# in the folder `results`, with all their settings; nothing of that is trained here. The last row
# is of a network like the one above, trained for fewer epochs.
#
# These runs have **no control**: their pruned networks were trained for longer than the dense ones
# they came from. So a plus is not the effect of pruning, as in notebook 3. What they show is that
# the network still works at 160 times fewer parameters, and not what that cost.

# %%
kept_in = Path(lab.__file__).parents[1] / "results" / "photos.json"
long_runs = []
if kept_in.exists():
    stored = json.loads(kept_in.read_text())["rows"]
    long_runs = [run for run in stored if run["network"].startswith("alexnet,")]
else:
    print("The rows of our long runs lie in results/photos.json of the repository; not here.")


def row(run):
    change = lab.evaluation.Drop(**run["change"])
    return {
        "network": run["network"],
        "trained on": run["data"],
        "compression": f"{run['compression']:.0f} ×",
        "error, dense": f"{run['dense_error']:.1%}",
        "error, pruned": f"{run['error']:.1%}",
        "change of accuracy": str(change),
        "minutes": f"{sum(run['seconds'].values()) / 60:.1f}",
        "on": run["machine"]["device"],
    }


pd.DataFrame([row(run) for run in long_runs])

# %% [markdown]
# At nine times the densities are the paper's, but slightly lower throughout: convolutions hold a
# larger fraction of our weights, so reaching nine times takes more from every layer. Beyond that
# no densities are known: all weights are ranked together, and the smallest go, whichever layer
# they are in.
# **Make a guess:** which layer pays most for that, and which hardly anything?

# %%
full_width = [run for run in long_runs if "width" not in run["network"]]
with lab.plots.style():
    figure, ax = plt.subplots(figsize=(7, 3.2))
theirs = f"paper, on ImageNet, {lab.paper.TABLE_1['alexnet'].compression} ×"
ax.plot(reported.keys(), reported.values(), "kx", markersize=9, label=theirs)
for run, look in zip(full_width, ("o-", "s--", "^:"), strict=True):
    label = f"ours, on {run['data']}, {run['compression']:.0f} ×"
    ax.plot(reported.keys(), [run["densities"][layer] for layer in reported], look, label=label)
ax.set_yscale("log")
ax.yaxis.set_major_formatter(lambda density, _: f"{density:.1%}")
ax.set(ylabel="weights left", title="What each layer keeps at the full width")
ax.legend(fontsize=8, frameon=False)
kept_by = [f"{run['compression']:.0f} ×: fc1 {run['densities']['fc1']:.1%}" for run in full_width]
lab.plots.show(figure, f"A line for each run, from conv1 to fc3; {', '.join(kept_by)}")

# %% [markdown]
# `fc1` and `fc2`, which hold most of the weights, pay for it. `conv1` keeps the largest fraction
# of all layers (at 160 times less than half of it, though), and `fc3` is spared as well. The
# one-layer scan above said the same of `conv1`, `fc1` and `fc2`.
#
# ## What may we say?
#
# All choices are made; now the test images, once for each of the three networks.

# %%
tested = {
    name: lab.evaluate(network, splits.test)
    for name, network in {"dense": model, "control": control, "pruned": pruned}.items()
}
changes = {
    f"pruned against {name}": lab.evaluation.drop(tested[name], tested["pruned"])
    for name in ("dense", "control")
}
print("error:", {name: f"{accuracy.error:.2%}" for name, accuracy in tested.items()})
print(*(f"{name:22} {change}" for name, change in changes.items()), sep="\n")

# %% [markdown]
# @task 08.claims
#
# Four headlines. **Which of them do the lines above support?** Write `True` or `False` for each.
#
# - **A** The pruned network differs from the dense one it came from by so many points: that is what
#   pruning does.
# - **B** With nine times fewer parameters AlexNet loses no more than this on ImageNet.
# - **C** If the network is trained, pruned and retrained again, the change lies within the
#   interval.
# - **D** For this pruned network, on images like these test images, the change from its control
#   lies in the interval, as far as such intervals hold.

# %% tags=["exercise"]
claims = {"A": None, "B": None, "C": None, "D": None}
# BEGIN SOLUTION
claims = {"A": False, "B": False, "C": False, "D": True}
# END SOLUTION

# %% tags=["check"]
lab.exercises.check("08.claims", claims)

# %% [markdown]
# ## AlexNet in the studio
#
# The same network, dense, with a slider for each layer; the scan that we have serves for its
# curves. From a cell first. **Make a guess:** what costs more, half of `conv1` or nine tenths of
# `fc1`? And how many weights does each save?

# %%
studio = lab.Studio(model, images, scan=scan, about=recipe.about).settle()
half = studio.set(density={"conv1": 0.5}).rename("half of conv1").settle().attempt
tenth = studio.go(1).set(density={"fc1": 0.1}).rename("a tenth of fc1").settle().attempt
print(studio.compare())

# %% tags=["nbval-check-output"]
now = studio.go(1).set(density=reported).rename("paper's").settle().metrics()
print("weights kept:", sum(row.kept for row in now.layers))

# %% tags=["ci", "nbval-check-output"]
asked = {row.layer: round(reported[row.layer] * row.weights) for row in now.layers}
print("each layer keeps what was asked:", asked == {row.layer: row.kept for row in now.layers})
of_fc1, of_conv1 = 1 - tenth.density, 1 - half.density
print("the cut of fc1 saves more than ten times as much:", of_fc1 > 10 * of_conv1)
print("the model is as it came:", lab.evaluate(model, splits.val) == dense)

# %% [markdown]
# Here all eight layers are cut at once. What does the accuracy say? Move the thresholds; find out
# which of them has lost too much; or press the button that retrains.

# %%
suggested = studio.suggest(density=now.density).rename("suggested").settle().attempt
panel = lab.widgets.StudioPanel(studio)
panel.layer = order[0]
panel.settle()
panel

# %%
studio.go(suggested.number)  # wherever you have been meanwhile; your attempts stay
studio.retrain(config=replace(recipe.retrain[-1], epochs=1)).rename("suggested, retrained")
retrained = studio.settle().attempt
print(studio.compare())

# %% tags=["ci", "nbval-check-output"]
print("no weight came back in the studio:", retrained.density <= suggested.density)

# %% [markdown]
# ## Our numbers beside the paper's
#
# The paper's column is of ImageNet, with a thousand classes; ours are of ten classes. So compare
# down the columns, and never the errors across them.

# %%
table_1 = lab.paper.TABLE_1["alexnet"]
columns = {
    "paper, ImageNet": {
        "error, dense": f"{table_1.dense_error:.2%}",
        "error, pruned": f"{table_1.error:.2%}",
        "change of accuracy": f"{100 * (table_1.dense_error - table_1.error):+.2f} points",
        "parameters": f"{table_1.dense_parameters:,.0f}",
        "compression": f"{table_1.compression} ×",
    },
    f"this notebook, {splits.name}": {
        "error, dense": f"{tested['dense'].error:.2%}",
        "error, pruned": f"{tested['pruned'].error:.2%}",
        "change of accuracy": str(changes["pruned against dense"]),
        "change from the control": str(changes["pruned against control"]),
        "parameters": f"{size.total:,}",
        "compression": f"{size.compression:.0f} ×",
    },
}
for run in full_width:
    cells = row(run) | {"parameters": f"{run['dense_parameters']:,}"}
    name = f"full width, {run['data']}, {cells['compression']}"
    columns[name] = {key: cells[key] for key in columns["paper, ImageNet"]}
pd.DataFrame(columns).fillna("")

# %% tags=["nbval-check-output"]
print("compression, paper:", table_1.compression, " ours:", round(size.compression))

# %% tags=["ci", "nbval-check-output"]
print("all three tested on as many images:", len({each.n for each in tested.values()}) == 1)

# %% [markdown]
# **What we make of the difference.** Compare each pruned network with the dense one it came from,
# and with its control: only the second says what pruning did. The paper finds nothing lost at nine
# times, and has no control; look at the intervals of ours, and see whether zero is inside, or
# beyond.
#
# The densities at nine times are the paper's, so they show nothing about our layers. The scan
# does: on Imagenette `conv1` is the first to lose a point and `fc2` the last, as in Figure 6. The
# search of the studio agrees there on `conv1`, `fc1` and `fc2`; it gives `fc3` and the other
# convolutions more than the paper does. Our long runs go further than nine times, without a
# control. This does not beat the paper: ten classes need far less of a network than a thousand.
#
# And three things we did otherwise. The paper retrains at a hundredth of the learning rate
# (`lab.paper.RETRAIN_LR_FACTOR`) and takes days; we let the rate climb and fall again, for a few
# epochs. It fixes one kind of layers in one section and retrains the whole network in another; we
# do first the one, then the other. And it gives no intervals, and no qualities.
#
# Try it: lower the densities in `recipe.rounds`, or find better ones in the studio above, which is
# still open, layer by layer. The thorough size is what `pruning-lab run --model alexnet` does on
# a laptop; on a machine with a GPU the same command trains the network at its full width.
