# %% [markdown]
# # 9 · The threshold studio
#
# **How far can we prune LeNet-5 by hand, and do we find better thresholds than the paper?**
#
# The paper's quality parameters were found by trying. The studio is a place to try: move the
# threshold of a layer, see at once what stays, see the accuracy follow, retrain, go back, branch,
# and compare all of it in the end. We do it in plain calls first, then on a panel
# with sliders, then on a network of our own, and put **Table 3** and **Table 1** beside it.
#
# All of it takes less than a minute.

# %%
from dataclasses import replace

import pandas as pd
import torch
from torch import nn
import pruning_lab as lab

splits = lab.data.load()
print(splits)

# %%
SIZE = "quick"  # "quick": some ten seconds of retraining in all; "thorough": a minute or two
IMAGES = {"quick": 12_000, "thorough": 55_000}[SIZE]  # to retrain on; of the digits, all there are
EPOCHS = {"mnist": 1, "digits": 10}[splits.name]
splits = replace(splits, train=splits.train.head(IMAGES))

# %% [markdown]
# ## Six numbers by hand
#
# The whole studio is this, many times over: numbers, a threshold in units of their σ, and those
# below it are pruned. **Make a guess:** at which quality does the fourth number, −0.7, go?

# %%
w = [0.9, -0.1, 0.4, -0.7, 0.05, 0.3]
six = lab.widgets.NumbersSlider(w, quality=0.8).settle()
six

# %% [markdown]
# Move the slider with the mouse or the arrow keys; or move it from here. What the panel says is
# what `lab.criteria.by_quality` says.

# %% tags=["nbval-check-output"]
for quality in (0.8, 1.4, 1.45):
    six.quality = quality
    same = six.kept.equal(lab.criteria.by_quality(torch.tensor(w), quality))
    print(f"quality {quality}: {int(six.kept.sum())} stay; the plain call says so too: {same}")

# %% [markdown]
# ## A studio, in plain calls
#
# LeNet-5, trained on MNIST, comes with the library; on the small digits we train it here, in some
# ten seconds. A `Studio` takes it and the images, and leaves it as it is: it works on a copy.

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

studio = lab.Studio(model, splits, about={"network": "lenet-5"})
studio.settle()

# %% [markdown]
# `set` moves thresholds: by quality, or by density, which is exact. What follows from weights and
# sizes alone is there at once.

# %% tags=["nbval-check-output"]
studio.set(density={"fc1": 0.1})
now = studio.metrics()
fc1 = next(row for row in now.layers if row.layer == "fc1")
print(f"fc1 keeps {fc1.kept:,} of {fc1.weights:,} weights")
print(f"stored, each with 5 bits to say where it is: {fc1.bytes:,} bytes")
print("by hand:", 40_000 * (32 + 5) // 8, "bytes")

# %% [markdown]
# Accuracy takes longer. It is measured meanwhile, first on some images, then on all of val;
# `settle` waits for that. With it come its 95 % interval, and the paired change against the
# dense network.

# %%
now = studio.settle().metrics()
print("accuracy:", now.accuracy)
print("change:", now.drop)
print(f"operations for an image: {now.flops_kept / 1e6:.2f}M of {now.flops / 1e6:.2f}M")

# %% tags=["nbval-check-output"]
table_3 = {row.layer: row for row in lab.paper.LENET_5}
print("dense, ours: ", f"{now.flops:,}", "operations")
print("dense, paper:", f"{table_3['total'].flops:,.0f}")

# %% [markdown]
# Every `set` is an *attempt*, and attempts stay. Go back with `undo` and forward with `redo`; start
# another line with `branch`; name one with `rename`.

# %% tags=["nbval-check-output"]
there = studio.fingerprint()
studio.undo()
back = studio.mask.kept == studio.mask.weights
studio.redo()
print("after undo all weights stay:", back)
print("after redo it is the same network, to the bit:", studio.fingerprint() == there)

# %% [markdown]
# **Make a guess:** which of these three moves costs most?

# %%
studio.undo()
for move in ({"fc1": 1.5}, {"conv2": 1.5}, {"conv1": 1.5}):
    studio.set(move).settle()
    studio.undo()
print(studio.compare())

# %% [markdown]
# The stars are the *Pareto front*: attempts that no other beats in both, accuracy and weights.
#
# ## The paper's densities, and a choice of our own
#
# First as the paper did: its densities from Table 3, then retraining.

# %%
reported = {row.layer: row.density for row in lab.paper.LENET_5 if row.layer != "total"}
studio.set(density=reported).rename("paper's").settle()
at_theirs = studio.attempt
print(f"cut:       {studio.metrics().accuracy}")
studio.retrain(EPOCHS).rename("paper's, retrained")
print(f"retrained: {studio.metrics().accuracy}")

# %% tags=["nbval-check-output"]
kept = {row.layer: row.kept for row in studio.metrics().layers}
print("kept:", kept, "in all", sum(kept.values()))
zeros = sum(int((m.weight == 0).sum()) for m in lab.masks.prunable(studio.network()).values())
print("zeros stayed zero:", zeros >= 430_500 - sum(kept.values()))

# %% [markdown]
# Now from the dense network again. `suggest` scans the layers, once, and sets them so that each
# alone loses as little as the others; we ask for as many weights as the paper kept.

# %%
studio.go(1).branch("ours")
studio.suggest(density=at_theirs.density).rename("suggested")
suggested = {row.layer: row.kept for row in studio.metrics().layers}
print(studio.metrics().accuracy)
pd.DataFrame(
    {
        "paper, Table 3": {name: f"{density:.0%}" for name, density in reported.items()},
        "suggested": {row.layer: f"{row.density:.0%}" for row in studio.metrics().layers},
    }
)

# %% [markdown]
# ## On a panel
#
# The same studio with sliders. Pick a layer by its name; move its threshold with the mouse, the
# arrow keys or the box; on the left its weights, on the right what it costs when this layer alone
# is cut, below it all attempts. What the buttons do, the cells above did. **Try it:** one layer
# has a better use for some weights than `fc1` has. Which?

# %%
panel = lab.widgets.StudioPanel(studio)
panel.layer = "conv1"
panel.settle()
panel

# %% [markdown]
# A cell and a slider move the same thing:

# %% tags=["nbval-check-output"]
panel.rows["conv1"].slider.value = 0.5  # as the mouse would
panel.settle()
conv1 = studio.metrics().layers[0]
print("asked of conv1:", conv1.asked)
by_rule = lab.criteria.by_quality(model.conv1.weight, 0.5)
print("it keeps what the rule keeps:", conv1.kept == int(by_rule.sum()))
print("the model is as it came:", bool((model.conv1.weight != 0).all()))

# %% [markdown]
# A curve tells what a layer costs when all others are whole. But here all are cut, and what `conv1`
# gets wrong, no other layer compensates. So we give `conv1` 400 of its 500 weights, and take as
# many from `fc1` as that costs.

# %%
studio.undo()
taken = 400 - suggested["conv1"]
studio.set(density={"conv1": 400 / 500, "fc1": (suggested["fc1"] - taken) / 400_000})
studio.rename("by hand").settle()
print(studio.metrics().accuracy)
studio.retrain(EPOCHS).rename("by hand, retrained")
print("retrained:", studio.metrics().accuracy)

# %% [markdown]
# ## Take it away
#
# `export` writes a plan, and beside it the network that it is for. The command line makes the
# same mask of the two; here we call it from Python.

# %%
exported = studio.export("runs/studio/plan.json")
print(exported.command)
code = lab.cli.main(
    [*exported.command.split()[1:], "--out", "runs/studio/mask.safetensors", "--force"]
)

# %% tags=["nbval-check-output"]
mask = lab.Mask.load("runs/studio/mask.safetensors")
print("the command ended with", code)
print("it made the same mask:", mask.fingerprint() == studio.mask.fingerprint())
print("weights kept by the plan:", lab.sensitivity.Plan.load(exported.plan).density == mask.density)


# %% [markdown]
# ## A network of your own
#
# Any `nn.Module` with convolutions or linear layers will do. Here is a small one with a *skip
# connection*: what enters the block is added to what comes out, so the block can lose a lot
# before the image is lost. **Make a guess:** which of the four layers can spare most?


# %%
class Small(nn.Module):
    """Images of 1 x 28 x 28, ten classes."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, kernel_size=5, stride=2)  # -> 12 x 12
        self.inner = nn.Conv2d(8, 16, kernel_size=3, padding=1)
        self.outer = nn.Conv2d(16, 8, kernel_size=3, padding=1)
        self.head = nn.Linear(8 * 6 * 6, 10)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (x + self.outer(self.inner(x).relu())).relu()  # the skip connection
        return self.head(nn.functional.max_pool2d(x, 2).flatten(1))


torch.manual_seed(0)
small = Small()
config = lab.TrainConfig(epochs=2 * EPOCHS, lr=0.05)
for epoch in lab.train(small, splits.train, config):
    print(f"\repoch {epoch.epoch} of {config.epochs}, accuracy {epoch.accuracy:.1%}", end="")

# %%
mine = lab.widgets.StudioPanel(lab.Studio(small, splits))
mine.studio.suggest(max_drop=1.0)
mine.layer = "inner"
mine.settle()
mine

# %% tags=["nbval-check-output"]
counted = {name: layer.weight.numel() for name, layer in lab.masks.prunable(small).items()}
print("weights by hand:", {"stem": 8 * 25, "inner": 16 * 72, "outer": 8 * 144, "head": 10 * 288})
print("in the studio:  ", {row.layer: row.weights for row in mine.studio.metrics().layers})
print("the same:", counted == {row.layer: row.weights for row in mine.studio.metrics().layers})

# %% [markdown]
# To have such a panel as a page of its own, in the browser and without a notebook, type
# `pruning-lab studio --model nets:make --weights mine.safetensors` for the network that the
# function `make` in `nets.py` gives, or `python3 lab.py studio` for LeNet-5.
#
# ## Our numbers beside the paper's
#
# All choices are made; now the test images, which nobody has chosen by. The studio counts how
# often they are used: twice here, once for each of the two networks.

# %%
rows = {}
for name in ("paper's, retrained", "by hand, retrained"):
    attempt = next(a for a in studio.attempts if a.name == name)
    tested = studio.go(attempt.number).test()
    rows[name] = {
        "weights kept": f"{studio.mask.kept:,}",
        "error on val": f"{attempt.accuracy.error:.2%}",
        "error on test": f"{tested.error:.2%}",
        "change on test": str(studio.test_drop),
    }
table_1 = lab.paper.TABLE_1["lenet-5"]
change = 100 * (table_1.dense_error - table_1.error)
rows["the paper, Table 1"] = {
    "weights kept": f"{table_1.parameters:,.0f}, with biases",
    "error on test": f"{table_1.error:.2%}",
    "change on test": f"{change:+.2f} points",
}
pd.DataFrame(rows).T.fillna("")

# %% tags=["nbval-check-output"]
print("the test images were used", studio.tests, "times")
print("as many weights, but for rounding:", abs(studio.mask.kept - sum(kept.values())) <= 4)
drops = {a.name: a.drop.value for a in studio.attempts if a.name}
better = drops["by hand"] < drops["suggested"]
print(
    "on MNIST moving a few weights by hand improves what the curves suggest:",
    better or splits.name != "mnist",
)

# %%
studio.close()
mine.close()

# %% [markdown]
# **What we make of the difference.** On MNIST the curves alone choose worse than the paper did:
# they spare `conv1` too little, for they know nothing of the other layers. The paper keeps two
# thirds of it, and moving a few weights there by hand gets about as far, with as many weights.
# That is what its authors must have found by trying, too, though they do not say so. (Notebook
# [04_sensitivity](04_sensitivity.ipynb) has a program that finds it: `method="joint"`.)
#
# A little retraining then makes up for most of what was lost, in both cases, and the two are
# hard to tell apart: look how far the intervals of their drops overlap. So exact thresholds matter
# less than the retraining that follows, as long as no layer is cut beyond repair. The errors
# themselves are not to be compared too closely: our network was trained differently, is
# retrained on a part of the images only, and the paper gives no interval. On the small digits the
# intervals are so wide that none of this can be seen.
#
# Now take the panel, begin at *by hand*, and see how few weights you can keep. Each attempt
# stays, so nothing is lost by trying.
