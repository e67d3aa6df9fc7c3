# %% [markdown]
# # 0 · Start
#
# **Does it run here, and why prune a network at all?**
#
# This course rebuilds one paper, *Learning both Weights and Connections for Efficient Neural
# Networks* (Han, Pool, Tran and Dally, 2015): train a network, remove most of its weights, train
# the remainder, and lose no accuracy. This first notebook checks your installation and shows the
# paper's reason for pruning. It redraws **Figure 1**, and takes about ten minutes to read and a
# few seconds to run.
#
# Run the cells from top to bottom: Shift + Enter runs one and goes to the next.

# %%
import pruning_lab as lab

# %% [markdown]
# ## Does it run?
#
# The images are MNIST's handwritten digits: all 70,000 where you have them (see
# `data/README.md`), otherwise 5,000 of them that come with the installation. A trained network
# comes with it too. Here it reads ten digits that it was not trained on:

# %%
splits = lab.data.load()
print(splits)

# %%
model = lab.models.lenet_300_100(trained="mnist")
x, labels = next(iter(splits.val))  # the first batch of images
answers = model(x).argmax(1)
lab.plots.show(lab.plots.images(x[:10], answers[:10].tolist()), "ten handwritten digits")

# %% [markdown]
# If you see ten digits, each with the network's answer above it, everything works. How many of all
# images in this part of the data does it read correctly?

# %%
print("accuracy:", lab.evaluate(model, splits.val))

# %% tags=["ci", "nbval-check-output"]
print("most of the ten are right:", int((answers[:10] == labels[:10]).sum()) >= 8)

# %% [markdown]
# ## Your name
#
# Tasks use random numbers, and your name is their seed: every student gets other numbers, and you
# get the same ones each time. Type any word between the quotation marks, or leave it empty for
# the demo. What you do is kept in the file `.pruning_lab/progress.json` in this folder, and
# nowhere else.

# %%
lab.exercises.student("")  # for example "ada"

# %% [markdown]
# There are tasks of five kinds: *predict* (a guess, before you see the answer), *write*, *debug*,
# *design* and *explain*. A line above each task says how long it takes and how hard it is. A
# check answers with one of three signs:
#
# - ✓ right
# - ✗ wrong, with the mistake in words or the smallest example that fails
# - ○ not yet: there is nothing to check
#
# A wrong guess costs nothing, so note one every time: afterwards it shows you what you did not
# expect. If you are stuck, `lab.exercises.hint("00.watts")` in a new cell gives the first hint for
# the task of that name; run it again for the next one.
#
# ## What a weight costs
#
# To compute an output, a network fetches each of its weights from memory, multiplies it by an
# input, and adds the product to a sum. The paper's Figure 1 lists the energy of one such
# operation in a 45 nm chip, in picojoules (1 pJ = 10⁻¹² J).

# %%
energy = lab.paper.ENERGY_PJ
words = ", ".join(f"{operation}: {cost:g} pJ" for operation, cost in energy.items())
lab.plots.show(lab.plots.energy(energy), words)

# %% [markdown]
# The axis is logarithmic: each tick is ten times the one before. *DRAM* is the large main
# memory, beside the processor chip; *SRAM* is the small memory on the chip itself. How do they
# compare with the arithmetic?

# %% tags=["nbval-check-output"]
dram, sram = energy["32 bit DRAM memory"], energy["32 bit SRAM cache"]
multiply, add = energy["32 bit float MULT"], energy["32 bit float ADD"]
print(f"a weight from DRAM: {dram / multiply:5.1f} multiplications")
print(f"a weight from SRAM: {sram / multiply:5.1f} multiplications")

# %% [markdown]
# @task 00.watts
#
# A network with a billion (10⁹) connections looks at a video 20 times a second. Each time, every
# weight comes from DRAM. **How many watts does the memory alone take?** (1 W = 1 J per second.)
# Guess first, then work it out on paper with the numbers above.

# %% tags=["exercise", "guess"]
guess = lab.widgets.GuessSlider("00.watts", 0.001, 10_000, "W", log=True)
guess

# %% tags=["ci"]
guess.value = 3
guess.note()

# %% [markdown]
# For comparison, the arithmetic of the same network: each connection is one multiplication and
# one addition.

# %% tags=["nbval-check-output"]
arithmetic = 20 * 1e9 * (multiply + add) * 1e-12  # times a second x connections x pJ, in J
print(f"arithmetic: {arithmetic:.3f} W")

# %% [markdown]
# And the memory?

# %% tags=["reveal"]
memory = 20 * 1e9 * dram * 1e-12
lab.exercises.reveal("00.watts", memory)

# %% tags=["nbval-check-output"]
print(f"memory: {memory:.1f} W, {memory / arithmetic:.0f} times the arithmetic")

# %% [markdown]
# A whole phone with its screen on takes a few watts. So the energy of a large network is not
# spent on computing, but on fetching weights from DRAM.
#
# ## What if some of the weights were on the chip?
#
# **Make a guess:** nine of ten weights are in SRAM, one is in DRAM. What is left of the power?
# Then move the slider, with the mouse or the arrow keys.


# %%
def power(fraction):
    """The watts, with that fraction of the weights in SRAM and the others in DRAM."""
    average = fraction * sram + (1 - fraction) * dram  # pJ per weight
    return f"memory {20 * 1e9 * average * 1e-12:.2f} W, arithmetic {arithmetic:.2f} W"


lab.widgets.FunctionSlider(power, 0, 1, label="fraction of the weights in SRAM")

# %% tags=["nbval-check-output"]
for fraction in (0.0, 0.5, 0.9, 0.95, 1.0):
    print(f"{fraction:4.0%} of the weights in SRAM: {power(fraction)}")

# %% [markdown]
# The few weights that remain in DRAM still decide the power. It is not enough to move many of
# them to the chip: **all** must fit. And the chip has little room, often a few megabytes. The
# paper's answer is to make the network smaller. These are the sizes of its four networks, at four
# bytes per weight, before and after pruning:

# %% tags=["nbval-check-output"]
for result in lab.paper.TABLE_1.values():
    before, after = 4 * result.dense_parameters / 1e6, 4 * result.parameters / 1e6
    print(f"{result.network:14}{before:6.1f} MB ->{after:5.1f} MB")

# %% [markdown]
# (A pruned network must also store *where* its weights are, which takes some more room. Does it fit
# on a chip then? Notebook 6 counts it.)
#
# The paper reports that none of the four makes more errors after pruning than before. That is hard
# to believe, and it is what you will test in this course.
#
# ## Where you stand
#
# Each notebook ends with a table of its tasks and of what you have done. Without the number, the
# table has all tasks of the course.

# %%
lab.exercises.progress("00")

# %% tags=["ci", "nbval-check-output"]
print("all done:", all(row.verdict[0] == "✓" for row in lab.exercises.progress("00")))

# %% [markdown]
# Next, [01_dense](01_dense.ipynb): what is in a network, before anything is removed?
