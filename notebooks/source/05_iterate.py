# %% [markdown]
# # 5 · Prune in rounds
#
# **Why many small steps? Does a network lose less when it is pruned in rounds than when it is cut
# once, if both are trained for as long?**
#
# The paper prunes AlexNet in one step to a fifth of its weights without a loss, and in several
# rounds of pruning and retraining to a ninth. These are two curves of its **Figure 5**. We draw the
# same curves for LeNet-300-100. There are as many epochs for each, and each has a *control*, the
# dense network trained on for as long (see [03_retrain](03_retrain.ipynb)).
#
# On the way: what happens to σ from round to round, which neurons die, and whether the weights that
# are kept are worth keeping. This takes about 65 minutes of yours, tasks included, and one of the
# computer's.

# %%
from copy import deepcopy
from dataclasses import replace

import torch
import pruning_lab as lab

torch.set_num_threads(1)  # so small a network gains nothing from more threads

# %%
splits = lab.data.load()
print(splits)

# %% [markdown]
# This cell sets how long everything trains. `mnist-5k` has 18 times fewer images, so there are more
# epochs, of smaller batches.

# %%
# Epochs of the dense training, epochs of each round, images in a batch.
EPOCHS, EACH, BATCH = {"mnist": (3, 1, 256), "mnist-5k": (12, 4, 64)}[splits.name]
ROUNDS, FINAL = 6, 0.01  # the density after the last round
training = lab.TrainConfig(epochs=EPOCHS, lr=BATCH / 1000, batch_size=BATCH, shift=1)
retraining = replace(training, epochs=ROUNDS * EACH, lr=0.8 * training.lr)

# %% [markdown]
# The words of this notebook, and those that you meet elsewhere:
#
# | here | elsewhere |
# | --- | --- |
# | cut once, in rounds | one-shot, iterative pruning |
# | schedule | sparsity schedule, pruning schedule |
# | dead neuron | dead unit, removable channel; another thing than a "dying ReLU" |
# | new initial values | random re-initialisation; *rewinding* takes old values instead |
# | pooled | of all seeds together |

# %%
torch.manual_seed(0)
model = lab.models.lenet_300_100()
epochs = list(lab.train(model, splits.train, training))
dense = lab.evaluate(model, splits.val)
print("dense, on val:", dense)

# %% [markdown]
# ## The same quality again
#
# The paper gives every layer a *quality*; the threshold is quality × σ. It does not say what σ is
# when a layer is pruned again. We take the standard deviation of the weights that are **left**.
# Here are six weights, cut three times with the same quality. **Make a guess:** how many are left
# after each cut?

# %% tags=["nbval-check-output"]
w, kept = torch.tensor([0.9, -0.1, 0.4, -0.7, 0.05, 0.3]), torch.ones(6, dtype=torch.bool)
for cut in (1, 2, 3):
    sigma = lab.criteria.sigma(w, kept)
    kept = lab.criteria.by_quality(w, 0.76, kept)
    left = [round(weight, 2) for weight in w[kept].tolist()]
    print(f"cut {cut}: σ {sigma:.3f}, threshold {0.76 * sigma:.3f}, left {left}")

# %% [markdown]
# The small weights are gone, so σ is larger at the next cut and the threshold grows: the second cut
# removes one more. The third finds nothing below its threshold. (Nothing was retrained in between.)
#
# @task 05.sigma
#
# Now `fc1` of our network, with quality 1: weights smaller than σ go. **How many percent of the
# weights are left after one cut, after two and after three?**

# %% tags=["exercise", "guess"]
sigma_guess = lab.widgets.DrawCurve("05.sigma", ["one cut", "two cuts", "three cuts"])
sigma_guess

# %% tags=["ci"]
sigma_guess.value = [32, 32, 32]
sigma_guess.note()


# %%
def cuts(weight, quality, number, sigma=lab.criteria.sigma):
    """The density of a layer after each of so many cuts with the same quality, in percent."""
    kept, left = torch.ones_like(weight, dtype=torch.bool), []
    for _ in range(number):
        kept = kept & (weight.abs() >= quality * sigma(weight, kept))
        left.append(100 * kept.float().mean().item())
    return left


# %% tags=["reveal"]
fc1 = model.fc1.weight.detach()
lab.exercises.reveal("05.sigma", cuts(fc1, 1, 3))

# %% [markdown]
# What if σ were that of the whole layer, with its zeros, or the first σ for all cuts?


# %%
def with_zeros(weight, kept):
    """σ of all weights of the layer, the pruned ones as zeros."""
    return (weight * kept).std(correction=0)


readings = {"of the survivors": lab.criteria.sigma, "with the zeros": with_zeros}
readings["the first one"] = lambda weight, kept: weight.std(correction=0)
for name, reading in readings.items():
    print(f"σ {name:17}", "  ".join(f"{left:6.2f} %" for left in cuts(fc1, 1, 5, reading)))

# %% tags=["ci", "nbval-check-output"]
survivors, zeros, first = (cuts(fc1, 1, 5, reading) for reading in readings.values())
print("with σ of the survivors each cut takes more:", survivors == sorted(survivors)[::-1])
print("with the zeros in it σ falls, and nothing more goes:", len(set(zeros)) == 1)
print("the first σ takes nothing more:", len(set(first)) == 1)

# %% [markdown]
# One sentence of the paper, and three readings of it. With σ of the survivors a quality
# *compounds*; with the other two, repeating it does nothing as long as nothing is retrained in
# between. So a quality alone does not say how
# much of a network is left: that depends on the number of cuts. A density does say it, so from here
# on we ask for densities.
#
# ## A schedule
#
# How large should the steps be? If each round removes the same *number* of weights, the first one
# takes a small part of the layer and the last one nearly all that is left. So let each round keep
# the same *fraction* of what the round before has left.
#
# @task 05.schedule
#
# Write such a schedule: the density of the layer after each round. The last one is `final`.


# %% tags=["exercise"]
def schedule(final, rounds):
    """A list of `rounds` densities, down to `final`: each the same fraction of the one before."""
    # BEGIN SOLUTION
    return [final ** (number / rounds) for number in range(1, rounds + 1)]
    # END SOLUTION


# %% tags=["check"]
lab.exercises.check("05.schedule", schedule)

# %% [markdown]
# The library has the same, for the layers of a network:

# %% tags=["nbval-check-output"]
steps = [step["density"]["fc1"] for step in lab.experiments.recipes.down_to({"fc1": FINAL}, ROUNDS)]
print("densities:", "  ".join(f"{density:.1%}" for density in steps))

# %% [markdown]
# Now such a density has to become a mask. PyTorch's own function takes an `amount` to prune, so one
# asks it for 1 − density, and gets something else:

# %% tags=["nbval-check-output"]
from torch.nn.utils import prune as torch_prune

layer = torch.nn.Linear(784, 300)
for density in steps[:3]:
    torch_prune.l1_unstructured(layer, "weight", amount=1 - density)
    print(f"asked for {density:.1%}, left {layer.weight_mask.mean():.1%}")

# %% [markdown]
# @task 05.compound
#
# The function below makes the same mistake. It is to make the mask of one round: of the weights
# that are still there (`kept`), `density` *of the whole layer* stays. **Find the mistake and repair
# it.** A weight that was pruned stays pruned: `kept` says which are there, even where `weight`
# still has a value. If more is asked for than is left, keep what is left.


# %% tags=["exercise"]
def next_mask(weight, kept, density):
    """bool, shaped like the weight: what is left after this round."""
    sizes = weight.abs() * kept
    count = round(density * int(kept.sum()))
    new = kept.new_zeros(kept.shape)
    new.view(-1)[sizes.flatten().topk(count).indices] = True
    return new


# BEGIN SOLUTION
def next_mask(weight, kept, density):
    """bool, shaped like the weight: what is left after this round."""
    sizes = weight.abs().masked_fill(~kept, -1)
    count = min(round(density * weight.numel()), int(kept.sum()))
    new = kept.new_zeros(kept.shape)
    new.view(-1)[sizes.flatten().topk(count).indices] = True
    return new


# END SOLUTION
# %% tags=["check"]
lab.exercises.check("05.compound", next_mask)

# %% [markdown]
# (`torch.nn.utils.prune` means it so: its `amount` is a fraction of what is left. If you
# read it as a fraction of the layer, your network is much sparser than you report.)
#
# ## Once, or in rounds
#
# Now the experiment. All three networks start from the same dense one and train for as many epochs:
#
# - *control*: nothing is pruned
# - *cut once*: cut to the last density, then all epochs
# - *in rounds*: cut to the first density, the epochs of one round, cut to the second, and so on
#
# The largest weights of all layers together stay (`across="network"`), so that we need not choose
# densities for the layers. **Make a guess:** where does each curve begin and end?

# %%
growing = lab.widgets.GrowingTraining(dense, title="Change from the dense network, on val")
networks = {name: deepcopy(model) for name in ("control", "cut once", "in rounds")}
growing.add("control", dense)
for epoch in lab.train(networks["control"], splits.train, retraining, val=splits.val):
    growing.add("control", epoch.val)


# %%
def in_rounds(network, config, rounds, notify=lambda accuracy: None):
    """Prune and retrain; a list of (density, accuracy on val) after each cut, and each round."""
    seen = {"cut": [], "retrained": []}
    options = {"val": splits.val, "on_epoch": lambda epoch: notify(epoch.val)}
    for stage in lab.retraining.iterative(network, splits.train, config, rounds, **options):
        seen[stage.kind].append((stage.mask.density, lab.evaluate(network, splits.val)))
        if stage.kind == "cut" and stage.round == 1:
            notify(seen["cut"][0][1])
    return seen


# %%
from functools import partial

amounts = [{"density": density, "across": "network"} for density in steps]
draw = partial(growing.add, "cut once")
once = in_rounds(networks["cut once"], retraining, amounts[-1:], draw)

# %%
per_round, draw = replace(retraining, epochs=EACH), partial(growing.add, "in rounds")
stepwise = in_rounds(networks["in rounds"], per_round, amounts, draw)

# %% [markdown]
# Here are the changes in numbers, each with its paired interval. After the colon stands what the
# interval allows us to say.


# %%
def compared(images):
    """The changes on these images against the control, and that of the rounds against one cut."""
    found = {name: lab.evaluate(network, images) for name, network in networks.items()}
    pairs = ("control", "cut once"), ("control", "in rounds"), ("cut once", "in rounds")
    for before, after in pairs:
        change = lab.evaluation.drop(found[before], found[after])
        print(f"{after:9} against {before:8} {change}: {change.conclusion}")
    return found


on_val = compared(splits.val)

# %% tags=["ci", "nbval-check-output"]
for name in ("cut once", "in rounds"):
    print(name, f"keeps {lab.Mask.of(networks[name]).kept:,} weights")
lost, back = (lab.evaluation.drop(dense, points[0][1]) for points in once.values())
print("the one cut loses more than its retraining leaves lost:", lost.low > back.high)
first = lab.evaluation.drop(dense, stepwise["cut"][0][1])
print("the first of the rounds loses less than the one cut:", first.high < lost.low)

# %% [markdown]
# The third line is the question of this notebook. If it says *better*, the paper's finding holds
# here too. If it says that these images cannot tell the two apart, then at this number of epochs we
# have not found a reason for rounds; the interval says how large a gain may still hide in it. If it
# says *worse*, the last rounds may have had too few epochs to recover.
#
# Why should rounds help at all? One cut chooses all weights by their size in the dense network. In
# rounds, the network adapts to the loss of some weights before the next are chosen, and other
# weights may have become large by then. How many of the final weights do the two share?

# %%
masks = [lab.Mask.of(networks[name]) for name in ("cut once", "in rounds")]
shared = sum(int((kept & masks[1][layer]).sum()) for layer, kept in masks[0].items())
print(f"{shared:,} of {masks[0].kept:,} weights are kept by both ({shared / masks[0].kept:.0%})")

# %% [markdown]
# ## Figure 5
#
# In the paper's figure the sparsity grows to the right. There is a curve each for pruning without
# retraining, with one retraining, and in rounds. (Two more are of L1 regularization.) For another
# point of the second curve we cut once to a milder density. **Make a guess:** from which density on
# does each curve fall?

# %%
milder = in_rounds(deepcopy(model), retraining, amounts[-3:-2])


# %%
def cut_alone(amount):
    """(density, accuracy on val) of the dense network, cut and not retrained."""
    mask = lab.prune(model, **amount)
    with lab.masks.masked(model, mask):
        return mask.density, lab.evaluate(model, splits.val)


curves = {"not retrained": [cut_alone(amount) for amount in amounts]}
curves["cut once"] = [*milder["retrained"], *once["retrained"]]
curves["in rounds"] = stepwise["retrained"]

# %%
changes = {
    name: [(density, lab.evaluation.drop(dense, accuracy)) for density, accuracy in points]
    for name, points in curves.items()
}
drawn = None
for name, points in changes.items():
    drawn = lab.plots.trade_off(points, label=name, ax=drawn, title="Figure 5, LeNet-300-100")
words = "; ".join(f"{name}: {lab.plots.words(points)}" for name, points in changes.items())
lab.plots.show(drawn, words)

# %% [markdown]
# Read with care. The line at 0 is the dense network *before* the further epochs, as in the paper.
# Along the curve of the rounds, training time grows: its last point had all epochs, its first one
# those of one round. Only at the lowest density have the two retrained curves had as many.
#
# How many times fewer weights can there be before the loss is more than noise? For the paper's
# AlexNet (top-5 accuracy, a thousand classes of photos) that is read off its text. For ours (top-1,
# ten digits) it is read off the points above, so only those densities count that we have tried.

# %%
free = {
    name: max((1 / density for density, drop in points if drop.low <= 0), default=1)
    for name, points in changes.items()
}
theirs = {name: f"{times}x" for name, times in lab.paper.FREE_COMPRESSION.items()}
lab.reports.beside(theirs, {name: f"{times:.1f}x" for name, times in free.items()})

# %% tags=["ci", "nbval-check-output"]
print("retraining lets more weights go:", max(list(free.values())[1:]) >= free["not retrained"])

# %% [markdown]
# ## Neurons that die
#
# Pruning removes single weights. But if all weights that enter a neuron are gone, or all that leave
# it, the neuron is useless: it is *dead*, and can be removed with its other weights and its bias.
#
# @task 05.dead
#
# `into` has a row for each hidden neuron and a column for each input. `out` has a row for each
# neuron of the next layer and a column for each hidden neuron, as `nn.Linear.weight` has them.
# **Which hidden neurons are dead?**


# %% tags=["exercise"]
def dead(into, out):
    """bool (hidden,): True for neurons without inputs, or that no neuron of the next layer reads.

    into: (hidden, in), out: (next, hidden)
    """
    # BEGIN SOLUTION
    return (into == 0).all(1) | (out == 0).all(0)
    # END SOLUTION


# %% tags=["check"]
lab.exercises.check("05.dead", dead)

# %% [markdown]
# A dead neuron can take others with it. In the chain below, each layer has two neurons and only a
# few weights. No neuron reads neuron 1 (counted from 0) of the second layer. **Make a guess:** how
# many neurons can go?

# %% tags=["nbval-check-output"]
chain = torch.nn.Sequential(*(torch.nn.Linear(2, size, bias=False) for size in (2, 2, 1)))
weights = [[0.9, -0.1], [0.4, 0.3]], [[0.7, 0.0], [0.0, 0.5]], [[0.3, 0.0]]
for layer, values in zip(chain, weights, strict=True):
    layer.weight.data = torch.tensor(values)
print(lab.neurons.find(chain))

# %% [markdown]
# Two: once that neuron has gone, neuron 1 of the first layer has no reader left. So one looks
# again until nothing more dies; `lab.neurons.find` does. (`by_output`: not read. `by_input`: reads
# nothing. Such a neuron is a constant: its bias. `folded` says how often that constant was added to
# the next layer's biases, so that the answers stay the same.)
#
# **Make a guess:** how many of the 400 hidden neurons of the network that was pruned in rounds are
# dead?

# %%
smaller, report = lab.neurons.remove(networks["in rounds"])
print(report)

# %%
sizes = [layer.out_features for layer in smaller if isinstance(layer, torch.nn.Linear)]
x, _ = next(iter(splits.val))
off = (smaller(x) - networks["in rounds"](x)).abs().max()
print(f"the network is a LeNet-{'-'.join(map(str, sizes[:2]))} now; answers differ by {off:.0e}")

# %% tags=["ci", "nbval-check-output"]
print("neurons are dead:", report.total.removed > 0)
print("the smaller network answers the same:", bool(off < 1e-4))
print("nothing more dies in it:", lab.neurons.find(smaller).total.removed)

# %% [markdown]
# The paper says that dead neurons need no code: in retraining, their other weights get no gradient
# from the loss, and weight decay takes them to zero. Is it so? Had it happened, no weight would go
# with the dead neurons. A threshold of zero is strict, so here is also how large the weights are
# that go:

# %%
total = report.total
before = {name: layer.weight for name, layer in lab.masks.prunable(networks["in rounds"]).items()}
print(f"{total.weights} weights and {total.biases} biases go with {total.removed} dead neurons")
sizes = torch.cat([weight[weight != 0].abs() for weight in before.values()])
stay = torch.cat([layer.weight.flatten() for layer in lab.masks.prunable(smaller).values()]).abs()
go = sizes[~torch.isin(sizes, stay)]
print(f"median |w| of all {len(sizes):,} weights that were left: {sizes.median():.3f}")
if len(go):
    print(f"of the {len(go)} that go: median {go.median():.3f}, smallest {go.min():.3f}")

# %% [markdown]
# Weights that had been driven towards zero would be much smaller than the others. Two things are
# against it. In a few epochs, weight decay (here 1e-4) shrinks a weight only a little, and never to
# exactly zero. And a neuron without inputs still has its bias: it is a constant, which the next
# layer can use as one more bias. So the loss *does* have a gradient there.
#
# ## Keep the weights, or start again?
#
# The paper keeps the values of the surviving weights, and says that new initial values are worse.
#
# @task 05.reinit
#
# The dense network is cut to a tenth, and retrained for the epochs of two rounds: with the weights
# that it has, or with the same mask and *new initial values* (biases too). **By how many points
# does the accuracy change, on average of three seeds, if the values are new?** Negative is a loss.

# %% tags=["exercise", "guess"]
reinit = lab.widgets.GuessSlider("05.reinit", -5, 5, unit="points")
reinit

# %% tags=["ci"]
reinit.value = -2
reinit.note()


# %%
def retrained(seed, **options):
    """The accuracy on val after one cut and a short retraining."""
    network, config = deepcopy(model), replace(retraining, epochs=2 * EACH, seed=seed)
    for _ in lab.retraining.once(network, splits.train, config, amounts[2], **options):
        pass
    return lab.evaluate(network, splits.val)


# %% tags=["reveal"]
drops = []
for seed in range(3):
    old, new = retrained(seed), retrained(seed, reinitialise=lab.models.lenet_300_100)
    drops.append(lab.evaluation.drop(old, new))
pooled = lab.evaluation.pooled(drops)
lab.exercises.reveal("05.reinit", -100 * pooled.value)

# %%
for seed, change in enumerate(drops):
    print(f"seed {seed}: new instead of old values {change}: {change.conclusion}")
print(f"pooled: {pooled}: {pooled.conclusion}")

# %% [markdown]
# (The seeds set the order and the shifts of the images, and the new values. All start from one
# dense network, and are measured on the same images. The pooled interval counts each answer as if
# it were of another image, so it is narrower than it should be, by a factor of up to √3. How much
# *networks* differ from one another, three seeds cannot say well: look at the three rows.)
#
# **Write one sentence:** were the old values worth keeping? Either outcome is right if your
# sentence fits the interval.

# %% tags=["exercise"]
sentence = None  # "With new values the accuracy is ..., because the interval ..."
# BEGIN SOLUTION
sentence = (
    f"With new initial values the accuracy changes by {pooled}, pooled over 3 seeds of "
    f"{2 * EACH} epochs at one density ({pooled.conclusion}); longer trainings were not tried."
)
# END SOLUTION

# %% tags=["check"]
lab.exercises.explain("05.reinit", sentence)

# %% [markdown]
# A new network has to learn everything in these few epochs; the old one has only to recover: its
# values had the epochs of the dense training as well. With many epochs the difference may become
# small: Liu and others (2019, *Rethinking the Value of Network Pruning*) find that new values do
# as well then. Frankle and Carbin (2019, *The Lottery Ticket Hypothesis*) find new values worse,
# and set the survivors back to their *first* values instead: *rewinding*.
#
# ## Your own schedule
#
# @task 05.race
#
# **Go as low as you can with the epochs of this notebook, without a loss of more than half a point
# against the control that val can show:** the interval of the change must not lie below -0.5 as a
# whole. The density that you must reach depends on your name.
#
# `rounds` is a list of dicts: what `lab.prune` takes, and the `"epochs"` after that cut. Cut as
# often as you like; the epochs of all rounds together are at most those of the control. The check
# trains, so it takes some seconds.

# %%
print(f"at most {lab.exercises.case('05.race')[0]:.1%} of the weights, {retraining.epochs} epochs")

# %% tags=["exercise"]
rounds = None  # such as [{"density": 0.2, "across": "network", "epochs": EACH}, ...]
# BEGIN SOLUTION
rounds = [
    {"density": 0.2, "across": "network", "epochs": EACH},
    {"density": lab.exercises.case("05.race")[0], "across": "network", "epochs": 5 * EACH},
]
# END SOLUTION

# %% tags=["check"]
given = {"model": model, "train": splits.train, "val": splits.val, "control": on_val["control"]}
lab.exercises.check("05.race", rounds, config=retraining, **given)

# %% [markdown]
# ## Our numbers beside the paper's
#
# All choices are made, so now the test images, once.

# %%
on_test = compared(splits.test)

# %%
table_1 = lab.paper.TABLE_1["lenet-300-100"]
theirs = {"dense": table_1.dense_error, "pruned": table_1.error, "parameters": table_1.parameters}
ours = {"dense": lab.evaluate(model, splits.test), **on_test}
ours["parameters"] = lab.counts.parameters(networks["in rounds"]).kept
lab.reports.beside(theirs, ours)

# %% [markdown]
# **What we make of the difference.** The next cell says it from the numbers above. A finding should
# hold on both sets of images. Val and test are different images, but the networks are the same two,
# of one seed: an interval says how much other *images* would change the result, and not how much
# another *seed* would.

# %%
gains = [lab.evaluation.drop(on["cut once"], on["in rounds"]) for on in (on_val, on_test)]
findings = {gain.conclusion.split(" images")[-1].strip() for gain in gains}
print(f"rounds instead of one cut: on val {gains[0]}, on test {gains[1]}")
found = findings.pop() if len(findings) == 1 else "val and test do not agree"
print(f"with {FINAL:.0%} of the weights and {retraining.epochs} epochs: {found}")

# %% [markdown]
# The paper does not say for how many epochs each of its curves was retrained. If every round got a
# whole retraining, its iterative curve was trained several times longer than the others, and part
# of what it shows is training time. Ours get the same number. To see what rounds do with more time,
# set `EACH` higher: then all three networks get more, and the control stays fair. Several seeds and
# longer trainings, with a control for every point, are one command: `pruning-lab figure 5`.
#
# Our networks have many fewer weights than the pruned LeNet-300-100 of the paper. The density was
# chosen so low that there is something to lose. Next, [06_counting](06_counting.ipynb): what all
# these zeros save.

# %%
lab.exercises.progress("05")
