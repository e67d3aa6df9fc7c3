# %% [markdown]
# # 9 · The threshold studio
#
# **How far can we prune LeNet-5 by hand, and do we find better thresholds than the paper?**
#
# The paper chose a quality for each layer by the layer's sensitivity, one layer at a time (its
# Figure 6), and does not print them. In the studio you choose them: move the threshold of a layer,
# see at once what stays, see the accuracy follow, retrain, go back, branch, and compare all of it
# in the end. We do it in plain calls first, then on a panel with sliders, then on a network of our
# own, and put **Table 3** and **Table 1** beside it.
#
# Running it takes a minute or two; the tasks at its end are a project of some hours.

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
IMAGES = {"quick": 12_000, "thorough": 55_000}[SIZE]  # to retrain on; mnist-5k has 3,000
EPOCHS = {"mnist": 1, "mnist-5k": 4}[splits.name]  # as many steps on both
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
# Move the slider with the mouse or the arrow keys; or move it from a cell.

# %% tags=["nbval-check-output"]
for quality in (0.8, 1.4, 1.45):
    six.quality = quality
    print(f"quality {quality}: {int(six.kept.sum())} stay")

# %% tags=["ci", "nbval-check-output"]
by_rule = lab.criteria.by_quality(torch.tensor(w), 1.45)
print("the panel keeps what the rule keeps:", six.kept.equal(by_rule))

# %% [markdown]
# ## A studio, in plain calls
#
# LeNet-5, trained on MNIST, comes with the library. A `Studio` takes it and the images, and leaves
# it as it is: it works on a copy.

# %%
model = lab.models.lenet_5(trained="mnist")
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
print(f"in this library's file: about {fc1.bytes:,} bytes")
print("in the paper's, with 5 bits to say where each is:", 40_000 * (32 + 5) // 8, "bytes")
stored = lab.storage.paper_bytes(studio.network().fc1.weight)
print("and with zeros that fill its long gaps:", stored, "bytes")
tenth = studio.attempt.number

# %% [markdown]
# (Five bits count up to 31 pruned weights in a row. Where a row is longer, a zero is stored to
# fill the gap.)
#
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
# Every `set` is an *attempt*, and attempts stay, each with its number. Go back with `undo` and
# forward with `redo`, or to any attempt with `go`; start another line with `branch`; name one with
# `rename`.

# %% tags=["nbval-check-output"]
there = studio.go(tenth).fingerprint()
print(f"after undo {studio.undo().mask.kept:,} weights stay")
print(f"after redo {studio.redo().mask.kept:,}")

# %% tags=["ci", "nbval-check-output"]
print("after redo it is the same network, to the bit:", studio.fingerprint() == there)

# %% [markdown]
# **Make a guess:** which of these three moves costs most?

# %%
for move in ({"fc1": 1.5}, {"conv2": 1.5}, {"conv1": 1.5}):
    studio.go(1).set(move).settle()  # attempt 1 is the network as it came
print(studio.compare())

# %% [markdown]
# The stars are the *Pareto front*: attempts that no other beats in both, accuracy and weights.
#
# ## The paper's densities, and a choice of our own
#
# First as the paper did: its densities from Table 3, then retraining.

# %%
reported = {row.layer: row.density for row in lab.paper.LENET_5 if row.layer != "total"}
paper_cut = studio.go(1).set(density=reported).rename("paper's").settle().attempt
print(f"cut:       {studio.metrics().accuracy}")
paper_retrained = studio.retrain(EPOCHS).rename("paper's, retrained").settle().attempt.number
print(f"retrained: {studio.metrics().accuracy}")

# %% tags=["nbval-check-output"]
kept = {row.layer: row.kept for row in studio.metrics().layers}
print("kept:", kept, "in all", sum(kept.values()))

# %% tags=["ci", "nbval-check-output"]
zeros = sum(int((m.weight == 0).sum()) for m in lab.masks.prunable(studio.network()).values())
print("zeros stayed zero:", zeros >= 430_500 - sum(kept.values()))

# %% [markdown]
# Now from the dense network again. `suggest` scans the layers, once, and then searches: layers
# exchange weights as long as the accuracy with *all* of them pruned rises (`method="joint"` of
# notebook [04_sensitivity](04_sensitivity.ipynb)). We ask for as many weights as the paper kept.

# %%
studio.go(1).branch("ours")
studio.suggest(density=paper_cut.density).rename("suggested").settle()
suggested = studio.attempt.number
suggestion = {row.layer: row.kept for row in studio.metrics().layers}
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
# The same studio as a panel. Drag a layer's threshold through its weights, or move it with the
# arrow keys; accuracy, losses and the trail of all attempts follow. What the buttons do, the cells
# above did. **Try it:** the search tried 60 networks. Which layer would you give more weights?

# %%
panel = lab.widgets.StudioPanel(studio)
panel.layer = "conv1"
panel.settle()
panel

# %% [markdown]
# A cell and the panel move the same thing. The panel above has followed:

# %% tags=["nbval-check-output"]
studio.go(suggested)  # wherever you have been meanwhile; your attempts stay
panel.studio.set({"conv1": 0.5})  # as a drag in the panel does
conv1 = studio.metrics().layers[0]
print("asked of conv1:", conv1.asked)

# %% tags=["ci", "nbval-check-output"]
by_rule = lab.criteria.by_quality(model.conv1.weight, 0.5)
print("it keeps what the rule keeps:", conv1.kept == int(by_rule.sum()))
print("the model is as it came:", bool((model.conv1.weight != 0).all()))

# %% [markdown]
# The search gives the convolutions a larger fraction than the paper does. Is all of that needed?
# Let us give `conv1` 400 of its 500 weights and `conv2` as many as the paper does; `fc1` takes up
# the difference, so that as many weights stay in all.

# %%
taken = 400 + 3_000 - suggestion["conv1"] - suggestion["conv2"]
asked = {"conv1": 400 / 500, "conv2": 3_000 / 25_000, "fc1": (suggestion["fc1"] - taken) / 400_000}
by_hand = studio.go(suggested).set(density=asked).rename("by hand").settle().attempt.number
print(studio.metrics().accuracy)

# %% [markdown]
# Which of the three is best? All three networks saw the same images, so compare them image by
# image. Where zero lies inside the interval, these images cannot tell the two apart.

# %%
numbers = suggested, paper_cut.number, by_hand
on_val = {number: lab.evaluate(studio.go(number).network(), splits.val) for number in numbers}
over_suggested = lab.evaluation.drop(on_val[suggested], on_val[by_hand])
over_paper = lab.evaluation.drop(on_val[paper_cut.number], on_val[by_hand])
suggested_over_paper = lab.evaluation.drop(on_val[paper_cut.number], on_val[suggested])
print("by hand, against suggested:  ", over_suggested, "-", over_suggested.conclusion)
print("by hand, against the paper's:", over_paper, "-", over_paper.conclusion)
print("suggested, against the paper's:", suggested_over_paper, "-", suggested_over_paper.conclusion)

# %% [markdown]
# Then retrained, as the other was. And the *control*: the dense network, retrained for as long.
# Only what a pruned network loses against it is the cost of pruning.

# %%
studio.go(by_hand).retrain(EPOCHS).rename("by hand, retrained").settle()
by_hand_retrained = studio.attempt.number
print("by hand:", studio.metrics().accuracy)
studio.go(1).retrain(EPOCHS).rename("control: dense, retrained").settle()
control = studio.attempt.number
print("control:", studio.metrics().accuracy)

# %% [markdown]
# ## Export the plan
#
# `export` writes a plan, and beside it the network that it is for. The command line makes the
# same mask of the two; here we call it from Python.

# %%
exported = studio.go(by_hand_retrained).export("runs/studio/plan.json", overwrite=True)
print(exported.command)
code = lab.cli.main(
    [*exported.command.split()[1:], "--out", "runs/studio/mask.safetensors", "--force"]
)

# %% tags=["ci", "nbval-check-output"]
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
mine = lab.widgets.StudioPanel(lab.Studio(small, splits).settle())
mine.studio.suggest(max_drop=1.0)
mine.layer = "inner"
mine.settle()
mine

# %% tags=["nbval-check-output"]
print("weights by hand:", {"stem": 8 * 25, "inner": 16 * 72, "outer": 8 * 144, "head": 10 * 288})
print("in the studio:  ", {row.layer: row.weights for row in mine.studio.metrics().layers})

# %% [markdown]
# To have such a panel as a page of its own, in the browser and without a notebook, type
# `pruning-lab studio --model nets:make --weights mine.safetensors` for the network that the
# function `make` in `nets.py` gives, or `python3 lab.py studio` for LeNet-5.
#
# ## Our numbers beside the paper's
#
# All choices are made; now the test images, by which nothing was chosen. The studio counts how
# often they are used: three times here, once for each of the three networks.

# %%
rows, tested = {}, {}
for number in (control, paper_retrained, by_hand_retrained):
    attempt = studio.go(number).attempt
    tested[number] = studio.test()
    rows[attempt.name] = {
        "weights kept": f"{studio.mask.kept:,}",
        "error on val": f"{attempt.accuracy.error:.2%}",
        "error on test": f"{tested[number].error:.2%}",
        "against dense": str(studio.test_drop),
        "against the control": str(lab.evaluation.drop(tested[control], tested[number])),
    }
del rows["control: dense, retrained"]["against the control"]  # which is itself
table_1 = lab.paper.TABLE_1["lenet-5"]
change = 100 * (table_1.dense_error - table_1.error)
rows["the paper, Table 1"] = {
    "weights kept": f"{table_1.parameters:,.0f}, with biases",
    "error on test": f"{table_1.error:.2%}",
    "against dense": f"{change:+.2f} points",
}
pd.DataFrame(rows).T.fillna("")

# %% [markdown]
# The two pruned networks, image by image:

# %%
print("by hand, against the paper's densities:")
print(lab.evaluation.drop(tested[paper_retrained], tested[by_hand_retrained]))

# %% tags=["ci", "nbval-check-output"]
print("as many weights, but for rounding:", abs(studio.mask.kept - sum(kept.values())) <= 4)

# %% [markdown]
# **What we make of it.** *Which densities?* Look at the three lines that compare them on val,
# before any retraining. On MNIST the choice by hand and the suggestion could not be told apart
# there, and both were better than the paper's densities. That is no fault of the paper's: its
# network was trained differently, and densities that fit its layers need not fit ours. After
# retraining the difference is smaller: see whether the interval on test holds zero.
#
# *What did pruning cost?* The column *against the control* says that: all three networks were
# retrained for as long. The column *against dense* mixes it with what the retraining itself did,
# as the control's own row shows. Do not compare the errors too closely with the paper's: our
# network was trained differently, is retrained on a part of the images only, and the paper gives
# neither a control nor an interval.
#
# Now take the panel, begin at *by hand*, and see how few weights you can keep. Each attempt
# stays, so nothing is lost by trying.

# %% [markdown]
# ## Your turn: three tasks of a project
#
# @task 09.repair
#
# Of the densities below, **one** costs nearly all of the accuracy that is lost. Which?
# Build the plan in the studio, and change one layer at a time.

# %%
(given,) = lab.exercises.case("09.repair")
print(given)
print(studio.go(1).set(density=given).settle().metrics().drop)

# %% tags=["exercise"]
culprit = None  # "conv1", "conv2", "fc1" or "fc2"
# BEGIN SOLUTION
after = {}
for layer in given:
    others = {name: density for name, density in given.items() if name != layer}
    with lab.masks.masked(model, lab.prune(model, density=others)):
        after[layer] = lab.evaluate(model, splits.val).value
culprit = max(after, key=after.get)
# END SOLUTION

# %% tags=["check"]
lab.exercises.check("09.repair", culprit, model=model, images=splits.val)

# %% [markdown]
# @task 09.budget
#
# **Prune and retrain LeNet-5 until it fits your budget.** Cut, retrain, cut again, choose on val.
# Then export the attempt that you want to be judged by.

# %%
(budget,) = lab.exercises.case("09.budget")
print(budget)

# %% tags=["exercise"]
plan = None  # the file that studio.export wrote, such as "runs/studio/mine.json"
# BEGIN SOLUTION
by_layer = {"conv1": 0.8, "conv2": 0.12, "fc1": 0.05, "fc2": 0.2}
studio.go(1).set(density=by_layer).retrain(EPOCHS)
plan = str(studio.settle().export("runs/studio/mine.json", overwrite=True).plan)
# END SOLUTION

# %% tags=["check"]
lab.exercises.check("09.budget", plan, images=splits.val)

# %% [markdown]
# When you are done, `pruning-lab course score runs/studio/mine.json` measures it on test: once.
#
# @task 09.own
#
# **A network of your own.** Take any `nn.Module` and any images. How much of it can go?
# Report on one page: *question*, *plan*, *control*, *interval*, and *what I would not claim*.

# %% tags=["exercise"]
report = (
    None  # """Question: ... Plan: ... Control: ... Interval: ... What I would not claim: ..."""
)
# BEGIN SOLUTION
report = """Question: can the small network with a skip connection lose half of its weights?
Plan: densities suggested on val for at most one point. Control: the dense network, trained for as
many further epochs. Interval: the paired change against it, on test, used once. What I would not
claim: anything about other networks, other images or other seeds, or about speed."""
# END SOLUTION

# %% tags=["check"]
lab.exercises.explain("09.own", report)

# %%
lab.exercises.progress("09")

# %% tags=["ci", "nbval-check-output"]
print("all done:", all(row.verdict[0] == "✓" for row in lab.exercises.progress("09")))
