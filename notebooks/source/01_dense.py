# %% [markdown]
# # 1 · The network before pruning
#
# **What is in a small network, how well does it do, and which of its weights matter?**
#
# We train LeNet-300-100, the smallest network of *Learning both Weights and Connections for
# Efficient Neural Networks* (Han, Pool, Tran and Dally, 2015), count what it is made of, and
# look at its weights. At the end stand our error and size beside the first row of the paper's
# **Table 1**, and our counts beside its **Table 2**.
#
# All of it takes about half a minute on a laptop. The images are MNIST's where you have them
# (see `data/README.md`), else scikit-learn's small digits, which need no download. Everything
# works with both; the paper's numbers are for MNIST.

# %%
import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import nn

import pruning_lab as lab

torch.set_num_threads(1)  # so small a network gains nothing from more threads

# %%
splits = lab.data.load()
print(splits)

# %% [markdown]
# How long do you want to train? This is the only cell to change.

# %%
SIZE = "quick"  # "quick": about 10 seconds; "thorough": about a minute, and a better network
EPOCHS = {
    "mnist": {"quick": 5, "thorough": 20},
    "digits": {"quick": 40, "thorough": 200},
}[splits.name][SIZE]
LR = {"mnist": 0.15, "digits": 0.05}[splits.name]  # few images need smaller steps

# %% [markdown]
# ## The images
#
# There are three splits. The network learns from *train*. Every choice, here and in the
# notebooks to come, is made on *val*. *Test* is for one report at the very end: a number that
# we have chosen by is no longer a fair one.

# %%
figure, axes = plt.subplots(2, 10, figsize=(10, 2.4))
for ax, image, label in zip(axes.flat, splits.train.images, splits.train.labels, strict=False):
    ax.imshow(image[0], cmap="gray_r")
    ax.set_title(int(label))
    ax.axis("off")

# %% [markdown]
# ## Six weights by hand
#
# A fully connected layer holds one weight for every pair of an input and an output. Here are
# three inputs and two outputs, so six weights. Each output is the sum of its inputs, each times
# its weight. ReLU then cuts off what is negative.

# %% tags=["nbval-check-output"]
x = torch.tensor([1.0, 0.0, 2.0])
w = torch.tensor([[0.9, -0.1, 0.4], [-0.7, 0.05, 0.3]])  # (out, in)
first = 1.0 * 0.9 + 0.0 * -0.1 + 2.0 * 0.4
second = 1.0 * -0.7 + 0.0 * 0.05 + 2.0 * 0.3
print("by hand:", round(first, 2), round(second, 2))
print("torch:  ", (w @ x).numpy().round(2))
print("ReLU:   ", (w @ x).relu().numpy().round(2))

# %% [markdown]
# Six multiplications and six additions: **12 FLOPs**. A pruned weight would save two of them,
# and so would an input that is zero, like the middle one. Does the library count as we do?

# %% tags=["nbval-check-output"]
layer = nn.Sequential(nn.Linear(3, 2))
print(lab.counts.layers(layer, (3,)))

# %% [markdown]
# ## The network
#
# LeNet-300-100 is three such layers: 784 pixels go to 300 neurons, those to 100, those to the
# ten digits.

# %%
torch.manual_seed(0)
model = lab.models.lenet_300_100()
model

# %% [markdown]
# **Make a guess:** which of the three layers holds most of the weights, and what fraction of them?

# %% tags=["nbval-check-output"]
dense_counts = lab.counts.layers(model, (1, 28, 28))
print(dense_counts)
print(f"\nfc1 holds {dense_counts[0].weights / dense_counts.total.weights:.0%} of all weights")

# %% [markdown]
# The paper's Table 2 prints the same columns, rounded to thousands. Its Table 1 also counts the
# biases, one per neuron, which are never pruned.

# %% tags=["nbval-check-output"]
for ours, theirs in zip([*dense_counts, dense_counts.total], lab.paper.LENET_300_100, strict=True):
    print(f"{ours.layer:6} ours {ours.weights:>8,}   paper {theirs.weights:>8,.0f}")
reported = lab.paper.TABLE_1["lenet-300-100"]
total = lab.counts.parameters(model).total
print(f"with biases: ours {total:,}, paper {reported.dense_parameters:,.0f}")

# %% [markdown]
# ## Before training
#
# **Make a guess:** the weights are random now. How many of the images does the network get
# right?

# %%
untrained = lab.evaluate(model, splits.val)
print("on val:", untrained)

# %% tags=["nbval-check-output"]
print("hardly better than guessing one of ten:", untrained.value < 0.3)

# %% [markdown]
# The range in brackets is the 95 % interval: with other images of the same kind, the accuracy
# would mostly land in there. The fewer images, the wider it is.
#
# ## Training
#
# Each row appears when its epoch, one pass over all training images, is done. The images move
# by a pixel at random each time, so that the network learns shapes and not pixels.

# %%
before = model.fc1.weight.detach().clone()
config = lab.TrainConfig(epochs=EPOCHS, lr=LR, shift=1)
for epoch in lab.train(model, splits.train, config):
    if epoch.epoch % max(1, EPOCHS // 5) == 0:
        print(f"epoch {epoch.epoch:3}   loss {epoch.loss:.3f}   accuracy {epoch.accuracy:.1%}")

# %%
trained = lab.evaluate(model, splits.val)
print("before:", untrained)
print("after: ", trained)

# %% tags=["nbval-check-output"]
print("beyond doubt better than before:", trained.low > untrained.high)

# %% [markdown]
# Which images does it still get wrong? Would you have known?

# %%
wrong = (~trained.hits).nonzero().flatten()[:10]
answers = model(splits.val.normalise(splits.val.images[wrong])).argmax(1)
figure, axes = plt.subplots(1, 10, figsize=(10, 1.5))
for ax in axes:
    ax.axis("off")
for ax, index, answer in zip(axes, wrong, answers, strict=False):
    ax.imshow(splits.val.images[index, 0], cmap="gray_r")
    ax.set_title(f"{int(splits.val.labels[index])}, not {int(answer)}", fontsize=9)

# %% [markdown]
# ## The weights
#
# **Make a guess:** before training, the weights of `fc1` were drawn evenly from a narrow range.
# What does their histogram look like now? Are there many large ones?

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3), sharex=True)
lab.plots.weights(before, title="fc1 before training", ax=left)
lab.plots.weights(model.fc1.weight, title="fc1 after training", ax=right)
figure.tight_layout()

# %% [markdown]
# Most weights have stayed near zero, and a few have moved far out. That is the paper's opening:
# perhaps the many small ones are hardly needed. How many are small? We measure it in units of
# their own standard deviation σ. A normal distribution has about two thirds within one σ.

# %%
rows = []
for name, layer in [("fc1", model.fc1), ("fc2", model.fc2), ("fc3", model.fc3)]:
    sigma = lab.criteria.sigma(layer.weight)
    small = (layer.weight.abs() < sigma).float().mean().item()
    rows.append({"layer": name, "σ": f"{sigma:.4f}", "|w| < σ": f"{small:.1%}"})
pd.DataFrame(rows).set_index("layer")

# %% [markdown]
# ## Our numbers beside the paper's
#
# Nothing was chosen by the test images, so now we may look at them, once.

# %%
test = lab.evaluate(model, splits.test)
pd.DataFrame(
    {
        "test error": [f"{reported.dense_error:.2%}", f"{test.error:.2%}"],
        "95 % interval": ["", f"{1 - test.high:.2%} to {1 - test.low:.2%}"],
        "parameters": [f"{reported.dense_parameters:,.0f}", f"{total:,}"],
        "images": ["mnist", splits.name],
    },
    index=["paper, Table 1", "ours"],
)

# %% tags=["nbval-check-output"]
comparable = splits.name == "mnist"
print(
    "less than a point above the paper's error, or on other images:",
    test.error < reported.dense_error + 0.01 or not comparable,
)

# %% [markdown]
# **What we make of the difference.** The network is the paper's, weight for weight. The
# training is not: the paper took Caffe's example network and says little about how it was
# trained, while we shift the images at random and let the learning rate rise and fall, which takes
# only a few epochs. On MNIST that gives an error near the paper's. On the small digits there are
# far fewer images, and those in test were written by other people than those in train, so the
# error is larger and its interval wide.
#
# What matters for pruning is that we start from a network that works, and that we know what it
# is made of. Next, [02_prune_once](02_prune_once.ipynb): we take weights away and see what
# breaks.
