# %% [markdown]
# # 2 · Prune once
#
# **How many weights can go before the network notices, and which layer is most sensitive?**
#
# The paper removes every weight whose magnitude is below a threshold, layer by layer. The
# threshold is *quality × σ*, where σ is the standard deviation of the layer's weights. We do that
# to LeNet-300-100 and do **not** retrain it. This rebuilds, for a small network, what **Figure 6**
# shows for AlexNet (the sensitivity of each layer) and the curve without retraining of
# **Figure 5**.
#
# This takes about 55 minutes of yours, tasks included, and a few seconds of the computer's.

# %%
import torch
import pruning_lab as lab

torch.set_num_threads(1)  # so small a network gains nothing from more threads

# %% [markdown]
# The network has been trained as in the first notebook, for 10 epochs on MNIST's 55,000 training
# images, and comes with the course. It has seen no image of val or test.

# %%
splits = lab.data.load()
model = lab.models.lenet_300_100(trained="mnist")
dense = lab.evaluate(model, splits.val)
print(splits)
print("on val:", dense)

# %% [markdown]
# The words of this notebook, and those that you meet elsewhere:
#
# | here | elsewhere | in torch |
# | --- | --- | --- |
# | density: the fraction kept | 1 − sparsity, 1 − pruning rate | 1 − `amount` |
# | mask: `True` = kept | binary mask | `weight_mask`: 1 = kept |
# | prune by magnitude | unstructured pruning | `prune.l1_unstructured` |
# | σ of a layer | standard deviation | `weight.std(correction=0)` |
# | quality: threshold / σ | sensitivity (Distiller) | |
# | saliency: what weights are ranked by | importance, score | `importance_scores` |
# | prune once; retrain | one-shot pruning; fine-tune | |
#
# (`prune` in the last column is `torch.nn.utils.prune`.)

# %% [markdown]
# ## Six numbers by hand
#
# Let a layer have these six weights.

# %%
w = torch.tensor([0.9, -0.1, 0.4, -0.7, 0.05, 0.3])

# %% [markdown]
# @task 02.three
#
# **Which three would you remove?** Press the buttons below the bars, and note your guess.

# %% tags=["exercise", "guess"]
guess = lab.widgets.Pick("02.three", w, 3)
guess

# %% tags=["ci"]
guess.value = [-0.7, -0.1, 0.05]  # a guess, and a common one
guess.note()

# %% [markdown]
# Now with a slider for the quality, which sets the threshold in units of σ. What is below the
# threshold, on either side of zero, turns grey: it is pruned. Move the slider, with the mouse or
# the arrow keys, until three weights are left.

# %%
numbers = lab.widgets.NumbersSlider(w, quality=0.1).settle()
numbers

# %% tags=["reveal"]
numbers.quality = 0.7
lab.exercises.reveal("02.three", [round(value, 2) for value in w[~numbers.kept].tolist()])

# %% [markdown]
# The rule removes the weights with the smallest magnitude |w|. The sign does not matter. A line
# like `w > 0.35` would remove −0.7, the second largest of all; it is a common mistake in pruning
# code:

# %% tags=["nbval-check-output"]
print("w > 0.35:  ", (w > 0.35).tolist())
print("|w| > 0.35:", (w.abs() > 0.35).tolist())

# %% [markdown]
# `True` is a weight that stays.
#
# Is a small weight always unimportant? No. A weight is multiplied by its input, and what the
# output loses is the product. If one input is much larger than the others, its weight counts for
# more:

# %% tags=["nbval-check-output"]
x = torch.tensor([1.0, 1.0, 1.0, 1.0, 20.0, 1.0])
print("the output loses, weight by weight:", (w * x).abs().numpy().round(2))

# %% [markdown]
# So *small weights change the output least* is a heuristic: cheap and often good. (*Optimal Brain
# Damage*, LeCun et al. 1989, uses second derivatives instead, because it is not always true.)
#
# ## The rule
#
# The standard deviation σ is the root of the mean squared distance from the mean. By hand:

# %% tags=["nbval-check-output"]
mean = sum(w.tolist()) / 6
sigma = (sum((value - mean) ** 2 for value in w.tolist()) / 6) ** 0.5
print(f"by hand {sigma:.4f}, library {lab.criteria.sigma(w):.4f}")

# %% [markdown]
# @task 02.keep
#
# Write the paper's rule: **keep a weight when |w| is at least *quality × σ*.** Take all weights of
# the layer for σ, as above (divided by n, not by n − 1).


# %% tags=["exercise"]
def keep(weight, quality):
    """bool, shaped like the weight: True where it stays."""
    # BEGIN SOLUTION
    sigma = weight.std(correction=0)
    return weight.abs() >= quality * sigma
    # END SOLUTION


# %% tags=["check"]
lab.exercises.check("02.keep", keep)

# %% [markdown]
# With a quality we choose the threshold, and what it keeps depends on the weights. Often one wants
# the opposite: a *density*, so that exactly this fraction of the weights stays. Then the weights
# must be ranked.
#
# @task 02.exact
#
# **Keep the `round(density * n)` weights with the largest magnitudes, and never one more.** If
# several have the same magnitude at the border, those that come first in the layer stay.


# %% tags=["exercise"]
def keep_share(weight, density):
    """bool, shaped like the weight: True for the round(density * n) largest magnitudes."""
    # BEGIN SOLUTION
    count = round(density * weight.numel())
    ranked = weight.abs().flatten().argsort(descending=True, stable=True)
    kept = torch.zeros(weight.numel(), dtype=torch.bool)
    kept[ranked[:count]] = True
    return kept.reshape(weight.shape)
    # END SOLUTION


# %% tags=["check"]
lab.exercises.check("02.exact", keep_share)

# %% [markdown]
# The library has both rules:

# %% tags=["nbval-check-output"]
print("quality 0.8:", lab.criteria.by_quality(w, 0.8).tolist())
print("density 0.5:", lab.criteria.by_density(w.abs(), 0.5).tolist())

# %% [markdown]
# ## The network
#
# `lab.prune` applies a rule to every layer. It gives a *mask* and changes nothing yet. Its receipt
# says what was asked of each layer, and what came out.

# %% tags=["nbval-check-output"]
mask = lab.prune(model, quality=1.0)
print(mask.receipt)

# %% [markdown]
# The same quality keeps a different fraction of each layer, because their histograms have
# different shapes. If the weights were normally distributed, the density would follow from the
# quality alone:

# %% tags=["nbval-check-output"]
normal = torch.distributions.Normal(0, 1)
for quality in (0.5, 1.0, 1.5, 2.0):
    fc1 = lab.prune(model, quality=quality)["fc1"].float().mean()
    predicted = 2 * normal.cdf(torch.tensor(-quality))
    print(f"quality {quality}: fc1 keeps {fc1:5.1%}, a normal distribution {predicted:5.1%}")

# %% [markdown]
# A density is exact, whatever the histogram looks like:

# %% tags=["nbval-check-output"]
eighth = lab.prune(model, density=0.125)
for row in eighth.receipt:
    print(f"{row.layer}: {row.kept:,} of {row.weights:,}")

# %% [markdown]
# ## What may be pruned at all?
#
# The last line of the receipt counts what the mask does not cover: biases, for example. They are
# few, and each of them shifts a whole neuron. Other networks have more parameters of this kind.
#
# @task 02.which
#
# The function below lists the layers whose weights may be pruned: convolutions and fully connected
# layers, each of them once. On LeNet it works. **On other networks it does not: why? Repair it.**


# %% tags=["exercise"]
def prunable(model):
    """The names of the layers to prune, such as ["conv1", "fc1"]."""
    names = [name for name, _ in model.named_parameters() if "weight" in name]
    return [name.removesuffix(".weight") for name in names]


# BEGIN SOLUTION
def prunable(model):
    """The names of the layers to prune: convolutions and fully connected layers, each once."""
    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]


# END SOLUTION
# %% tags=["check"]
lab.exercises.check("02.which", prunable)

# %% [markdown]
# The library's `lab.masks.prunable(model)` gives these layers by name. `torch.nn.Embedding`, whose
# weight is a table that is looked up, and normalisation layers are not among them.
#
# ## One layer with a slider
#
# **Make a guess:** how far can you raise the threshold of `fc1` before one percentage point of
# accuracy is gone? What fraction of the layer is left then?
#
# Move the slider. Grey weights are pruned. The accuracy is estimated on a few hundred images
# first, then measured on all of val. The change compares the pruned network with the dense one,
# image by image.

# %%
panel = lab.widgets.ThresholdSlider(model, splits.val, layer="fc1", quality=1.0).settle()
panel

# %% [markdown]
# A cell can read what the slider shows, and it can move it:

# %%
panel.quality = 2.0
panel.settle()
print(f"threshold {panel.threshold:.4f} keeps {panel.density:.1%} of fc1")
print("accuracy", panel.accuracy)
print("change  ", panel.drop)

# %% tags=["ci", "nbval-check-output"]
print(panel.quality, panel.kept, panel.kept == int(panel.mask["fc1"].sum()))

# %% [markdown]
# ## The images lost first
#
# Raise the quality of all layers in small steps. Which images does the network get wrong first?
# `lab.masks.masked` prunes the network for a moment and restores the weights afterwards.

# %%
lost = []  # images that the dense network gets right, in the order in which they are lost
for step in range(1, 21):
    with lab.masks.masked(model, lab.prune(model, quality=step / 10)):
        now = lab.evaluate(model, splits.val)
    gone = (dense.hits & ~now.hits).nonzero().flatten().tolist()
    lost += [index for index in gone if index not in lost]

# %%
first = lost[:10]
images, labels = splits.val.images[first], splits.val.labels[first]
words = f"the images lost first, with their labels: {labels.tolist()}"
lab.plots.show(lab.plots.images(images, labels.tolist()), words)

# %% [markdown]
# Had the dense network been sure of them? Its probability for the right digit:

# %%
chances = torch.cat([model(x).softmax(1) for x, _ in splits.val]).detach()
right = chances.gather(1, splits.val.labels[:, None]).flatten()
print(f"all images that it gets right: {right[dense.hits].median():.4f} (median)")
print(f"the ten that are lost first:   {right[first].median():.4f} (median)")

# %% tags=["ci", "nbval-check-output"]
print("it was less sure:", bool(right[first].median() < 0.9 < right[dense.hits].median()))

# %% [markdown]
# A cut does not make the network worse at everything by a little. It loses first the images that
# were near to another answer. An accuracy alone hides that.
#
# ## Which layer is the most sensitive?
#
# **Make a guess**, then run the cell. It prunes one layer at a time to ever lower densities, while
# the other two stay dense, and measures each time. That is a *sensitivity scan*. The paper chooses
# its thresholds by one.

# %%
points = lab.scan(model, splits.val, [0.5, 0.3, 0.2, 0.15, 0.1, 0.05, 0.02, 0.01])
drawn = lab.plots.sensitivity(points, max_drop=1, title="One layer pruned, no retraining")
lab.plots.show(drawn, points)

# %% [markdown]
# How far can each layer be cut, on its own, before more than one point is lost? And what does each
# lose at the same density? (`drop.value` is the *loss*, as a fraction: 0.01 is one point. A drop
# prints as the *change*, in points, with a minus for a loss.)

# %%
for name in points.layers:
    cheap = [point.density for point in points.of(name) if point.drop.value <= 0.01]
    far = f"to {min(cheap):.0%} of its weights" if cheap else "not at all"
    print(f"{name}: {far}; at 15 % {points.of(name)[3].drop}")

# %% [markdown]
# The layer that loses most at the same density is the most sensitive one. Where the intervals of
# two layers overlap widely, these images cannot tell which of them loses more.

# %% [markdown]
# ## All layers at once
#
# Each layer can lose most of its weights. Can all of them together?
#
# @task 02.curve
#
# **Draw the curve:** what is the accuracy on val when *every* layer keeps 1/2, 1/5, 1/10, 1/20 and
# 1/50 of its weights? Move the five sliders (in percent), and note your guess.

# %% tags=["exercise", "guess"]
guess = lab.widgets.DrawCurve("02.curve", ["1/2", "1/5", "1/10", "1/20", "1/50"])
guess

# %% tags=["ci"]
guess.value = [98, 95, 85, 60, 20]
guess.note()

# %% [markdown]
# The measurement prunes all layers to one density after another:

# %%
curve = {}
for density in (0.5, 0.2, 0.1, 0.05, 0.02):
    with lab.masks.masked(model, lab.prune(model, density=density)):
        curve[density] = lab.evaluate(model, splits.val)

# %% tags=["reveal"]
measured = [100 * after.value for after in curve.values()]
lab.exercises.reveal("02.curve", measured)

# %% [markdown]
# Your curve is dashed. The axis is linear down to a loss of one point and logarithmic below, so
# that both ends can be read:

# %%
changes = [(density, lab.evaluation.drop(dense, after)) for density, after in curve.items()]
guess = lab.exercises.guessed("02.curve")
drawn = lab.plots.trade_off(changes, label="measured", dense=dense, guess=guess)
lab.plots.show(drawn, changes)

# %% tags=["ci", "nbval-check-output"]
print("half of the weights, within a point:", curve[0.5].value > dense.value - 0.01)
print("a fifth, more than a point lost:    ", curve[0.2].value < dense.value - 0.01)
print("and the model is as it was:         ", lab.evaluate(model, splits.val) == dense)

# %% [markdown]
# At first almost nothing is lost; then accuracy falls steeply. Compare it with the scan above: at
# the same density, all layers together lose much more than each of them alone. A layer whose inputs
# are already wrong has less to work with.
#
# ## Our numbers beside the paper's
#
# Table 2 says what fraction of each layer the paper kept. We keep exactly as much, by magnitude,
# and measure what is left. This is val: we are still choosing, and test must wait.

# %% tags=["nbval-check-output"]
reported = {row.layer: row.density for row in lab.paper.LENET_300_100 if row.layer != "total"}
cut = lab.prune(model, density=reported)
print(cut.receipt)

# %%
with lab.masks.masked(model, cut):
    pruned = lab.evaluate(model, splits.val)
result = lab.paper.TABLE_1["lenet-300-100"]
lab.reports.beside(
    {"dense error": result.dense_error, "pruned error": result.error, "retrained": "yes"},
    {"dense error": dense, "pruned error": pruned, "retrained": "no"},
)

# %% tags=["ci", "nbval-check-output"]
print("the cut alone costs more than a point:", lab.evaluation.drop(dense, pruned).low > 0.01)

# %% [markdown]
# The densities are the same, layer by layer, and yet the paper's network loses nothing while ours
# loses a lot. The paper's numbers are those *after retraining*: the remaining weights have learned
# to do without the others. The cut alone is only half of the method.
#
# ## Your turn: a budget
#
# @task 02.budget
#
# **Choose a quality for each layer so that no more weights stay than your budget allows, and as
# little accuracy as possible is lost on val.** The check says ✓ where it is less than *one* quality
# for all layers loses, with as many weights. The budget depends on your name:

# %%
(budget,) = lab.exercises.case("02.budget")
print(f"at most {budget:.0%} of the weights may stay")

# %% [markdown]
# The scan says which layer can give most. Count weights, too: where are they? Try as often as you
# like; this is val. (On test the check would refuse: what is chosen there cannot be reported.)

# %% tags=["exercise", "check"]
plan = None  # layer -> quality, such as {"fc1": 1.2, "fc2": 1.2, "fc3": 1.2}
# BEGIN SOLUTION
plan = {"fc1": 1.4, "fc2": 0.8, "fc3": 0.4}
# END SOLUTION
lab.exercises.check("02.budget", plan, model=model, images=splits.val)

# %% [markdown]
# Next, [03_retrain](03_retrain.ipynb): the other half.

# %%
lab.exercises.progress("02")

# %% tags=["ci", "nbval-check-output"]
print("all done:", all(row.verdict[0] == "✓" for row in lab.exercises.progress("02")))
