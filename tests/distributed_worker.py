"""What two processes run for the tests: `distributed_worker.py FOLDER TASK`.

TASK is `everything`, or the name of a case that is killed. conftest.py starts them.
"""

import io
import json
import os
import signal
import sys
from contextlib import chdir, redirect_stdout, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from pruning_lab import (
    cli,
    data,
    experiments,
    files,
    masks,
    models,
    processes,
    retraining,
    sensitivity,
    training,
)
from pruning_lab.data import Split

CONFIG = training.TrainConfig(epochs=3, batch_size=8, lr=0.05, weight_decay=1e-3, shift=1)
ROUNDS = [{"quality": 0.6}, {"quality": 0.6}]
STEPS = 4  # of 16 images in two processes; the last has one image, and one process none


class Unsized:
    def __iter__(self):
        return iter(images())


class Double(nn.Module):
    def forward(self, x):
        return x.double()


def images():
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (49, 1, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.randint(4, (49,), generator=generator)
    return Split("train", pixels, labels, 127.5, 74.0)


def network(dropout=0.0):
    """Of float64, in which two ways to add up differ by next to nothing."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    layers = nn.Linear(36, 12), nn.ReLU(), nn.Dropout(dropout), nn.Linear(12, 4)
    return nn.Sequential(Double(), *convolution, *layers).double()


def normed():
    """With batch norm, whose running averages are of different images in each process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 4))


def rows_of(epochs) -> list:
    return [(row.loss, row.accuracy, row.lr, row.images) for row in epochs]


def retrained(batch_size: int, folder: Path, accumulate: int = 1) -> dict:
    """Dense, and pruned twice: the curve, the masks, and the network in a file."""
    model, config = network(), replace(CONFIG, batch_size=batch_size, accumulate=accumulate)
    curve = rows_of(training.train(model, images(), config))
    prints = []
    for stage in retraining.iterative(model, images(), config, ROUNDS, freeze=["1"]):
        curve += rows_of(stage.epochs)
        prints.append(stage.mask.fingerprint())
    models.save(folder / f"model{processes.rank()}", model)
    return {"curve": curve, "masks": prints, "zeros": zeros_hold(model, stage.mask)}


def zeros_hold(model, mask) -> bool:
    layers = masks.prunable(model)
    return not any(layers[name].weight[~kept].any() for name, kept in mask.items())


def resumed(folder: Path, kill_at: int = 0, killed: tuple = ()) -> list:
    """With dropout, a mask and a checkpoint after each epoch; some are killed before step kill_at.

    Killed, a process has no time for goodbyes.
    """
    model = network(dropout=0.5)
    steps = 0

    def count(*_):
        nonlocal steps
        steps += 1
        if steps == kill_at and processes.rank() in killed:
            os.kill(os.getpid(), signal.SIGKILL)

    model.register_forward_pre_hook(count)
    torch.manual_seed(5)
    options = {"mask": masks.prune(model, density=0.4), "checkpoint": folder / "checkpoint"}
    rows = list(training.train(model, images(), CONFIG, **options))
    models.save(folder / f"model{processes.rank()}", model)
    return [rows_of(rows), steps]


def line_search(parameters):
    return torch.optim.LBFGS(parameters, lr=1.0, max_iter=4, line_search_fn="strong_wolfe")


def searched(batch_size: int, folder: Path) -> list:
    """The curve of LBFGS with L1, whose line search needs the loss over all processes."""
    model, config = network(), replace(CONFIG, batch_size=batch_size, l1=1e-3)
    rows = rows_of(training.train(model, images(), config, optimizer=line_search))
    models.save(folder / f"searched{processes.rank()}", model)
    return rows


def communicated(folder: Path) -> list:
    """How often the processes added something up: a split, with a checkpoint, and a list."""
    calls, counts, add_up = [], [], dist.all_reduce
    dist.all_reduce = lambda *args, **options: (calls.append(1), add_up(*args, **options))
    for source, options in (
        (images(), {}),
        (images(), {"checkpoint": folder / "communicated"}),
        ([*images()], {}),
    ):
        calls.clear()
        list(training.train(network(), source, replace(CONFIG, epochs=2), **options))
        counts.append(len(calls))
    dist.all_reduce = add_up
    return counts


def listed(folder: Path) -> list:
    """Each process has a list of its own: a training of it resumes, one of another does not."""
    path, part = folder / "listed", slice(processes.rank(), None, 2)
    own = [(x[part], y[part]) for x, y in images().head(48)]
    next(training.train(network(), own, CONFIG, checkpoint=path))
    rows = list(training.train(network(), own, CONFIG, checkpoint=path))
    other = own if processes.rank() == 0 else [(x, y.flip(0)) for x, y in own]
    says = refused(lambda: list(training.train(network(), other, CONFIG, checkpoint=path)))
    return [len(rows), says]


def dropped() -> list:
    """Which pixels (none of which is 0) fell out, and a number drawn when training is over."""
    model, seen = nn.Sequential(nn.Dropout(), nn.Flatten(), nn.Linear(64, 4)), []
    model[0].register_forward_hook(lambda module, x, answer: seen.append((answer != 0).tolist()))
    torch.manual_seed(5)
    list(training.train(model, images(), replace(CONFIG, epochs=1)))
    return [seen, torch.rand(()).item()]


def refused(call) -> str | None:
    try:
        call()
    except (ValueError, RuntimeError, FileExistsError) as error:
        return str(error)
    return None


def refusals(folder: Path) -> dict:
    """Every process raises what is wrong in one."""
    rank = processes.rank()
    other, uneven = replace(CONFIG, lr=0.05 + rank), [*images()] * (1 + rank)
    amounts = {"density": 0.5 + 0.1 * rank}
    mask = masks.prune(network(), **amounts)
    list(training.train(network(), images(), CONFIG, checkpoint=folder / "seen1"))
    calls = {
        "config": lambda: training.train(network(), images(), other),
        "mask": lambda: training.train(network(), images(), CONFIG, mask=mask),
        "batches": lambda: list(training.train(network(), uneven, CONFIG)),
        "length": lambda: list(training.train(network(), Unsized(), CONFIG)),
        "amounts": lambda: list(retraining.once(network(), images(), CONFIG, amounts)),
        "checkpoint": lambda: list(
            training.train(network(), images(), CONFIG, checkpoint=folder / f"seen{rank}")
        ),
    }
    return {name: refused(call) for name, call in calls.items()}


def sampled() -> list:
    """A loader whose sampler gives each process its part, in another order each time."""
    split, seen = images().head(48), []
    numbers = TensorDataset(torch.arange(48.0)[:, None], split.labels)
    loader = DataLoader(numbers, batch_size=8, sampler=DistributedSampler(numbers, seed=3))
    model = nn.Sequential(nn.Linear(1, 4))
    model.register_forward_pre_hook(lambda module, x: seen.append(x[0].flatten().tolist()))
    rows = list(training.train(model, loader, replace(CONFIG, epochs=2)))
    return [rows_of(rows), seen]


def looked_at() -> dict:
    """What training leaves of a model with hooks and batch norm, which two processes share."""
    model, calls = normed(), []
    before = list(model.state_dict()), [type(module).__name__ for module in model.modules()]
    handle = model[3].register_forward_hook(lambda *_: calls.append(1))
    list(training.train(model, images(), replace(CONFIG, epochs=1)))
    after = list(model.state_dict()), [type(module).__name__ for module in model.modules()]
    handle.remove()
    state = files.sha256(*(tensor.numpy() for tensor in model.state_dict().values()))
    return {"unchanged": before == after, "calls": len(calls), "state": state}


# --- a scan ------------------------------------------------------------------------------------

FINE = [0.0, 0.02, 0.05, 0.1, 0.5, 1.0]


def many(count=1500, batch_size=300):
    """Random images that the network below answers rightly but for one in ten."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)
    split = Split("val", pixels, torch.zeros(count).long(), 127.5, 74.0, batch_size)
    model = scannable()
    with torch.no_grad():
        labels = model(split.normalise(pixels)).argmax(1)
    labels[::10] = torch.randint(4, labels[::10].shape, generator=generator)
    return replace(split, labels=labels)


def scannable():
    torch.manual_seed(5)
    layers = nn.Linear(64, 12, bias=False), nn.ReLU(), nn.Linear(12, 4, bias=False)
    return nn.Sequential(nn.Flatten(), *layers).eval()


def uneven():
    """The same, but every other batch is answered wrongly: two processes see different images."""
    split = many()
    wrong = torch.arange(split.n) // 300 % 2
    return replace(split, labels=(split.labels + wrong) % 4)


def killed_in_a_scan(folder: Path) -> None:
    def die(progress):
        if progress.images >= 900:
            os.kill(os.getpid(), signal.SIGKILL)

    sensitivity.scan(scannable(), many(), FINE, out=folder / "scan.csv", notify=die)


def scanned(folder: Path) -> dict:
    """What two say of each other, and of scans: whole, of other images, and behind killed ones."""
    scan = partial(sensitivity.scan, scannable(), many(), FINE)
    rank, counts = processes.rank(), torch.arange(3)
    if rank:
        (folder / "late1").touch()
    processes.wait()
    about = {
        "waited": (folder / "late1").exists(),
        "summed": processes.summed(counts + rank).tolist(),
        "left": counts.tolist(),
        "refused": refused(lambda: scan(out=folder / "killed" / "scan.csv")),
    }
    points = scan(out=folder / "killed" / "scan.csv", resume=True)
    told = []
    again = scan(out=folder / "uninterrupted" / "scan.csv", notify=lambda p: told.append(p.images))
    unnoted = sensitivity.scan(scannable(), uneven(), FINE)
    sensitivity.Scan.save(unnoted, folder / f"unnoted{rank}.csv")
    return about | {"told": told, "same": points == again}


# --- the command line --------------------------------------------------------------------------


def typed(*words: str) -> tuple[int, str]:
    """`pruning-lab WORDS` in this process: its exit code, and what it printed."""
    with redirect_stdout(io.StringIO()) as said:
        return cli.main(words), said.getvalue()


def interrupted_run(folder: Path) -> tuple[int, str]:
    """A run of AlexNet on the photos beside it, interrupted at its start and resumed."""
    from test_photo_runs import short

    def interrupt(note):
        raise KeyboardInterrupt

    splits = data.load(f"folder:{folder / 'photos'}", size=32)
    with suppress(KeyboardInterrupt):
        experiments.run(short(splits.name), splits, seed=3, folder=folder / "run", notify=interrupt)
    return typed("run", "--resume", "--out", str(folder / "run"))


def trained_by_words(folder: Path) -> tuple[int, str]:
    from test_photo_runs import TRAIN

    with chdir(folder):
        return typed(*TRAIN, "trained", "--batch-size", "32")


# --- torch's own DDP ---------------------------------------------------------------------------


def held() -> list:
    """Zeros of each parameter, and the sum of all, after steps of torch's DDP on other images."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    model = nn.parallel.DistributedDataParallel(net)
    masks.prune(model, density=0.4).hold(model)
    torch.manual_seed(1 + processes.rank())
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(5, 6)), torch.randint(3, (5,))).backward()
        optimizer.step()
    zeros = [int((p == 0).sum()) for p in net.parameters()]
    return [zeros, sum(p.double().sum().item() for p in net.parameters())]


def everything(folder: Path) -> dict:
    for name in ("whole", "one", "all", "rounds", "accumulated"):
        (folder / name).mkdir(exist_ok=True)
    return {
        "world": processes.world(),
        "rounds": retrained(8, folder / "rounds"),
        "accumulated": retrained(4, folder / "accumulated", accumulate=2),
        "whole": resumed(folder / "whole"),
        "resumed": [resumed(folder / name) for name in ("one", "all")],
        "searched": searched(8, folder),
        "communicated": communicated(folder),
        "listed": listed(folder),
        "dropped": [dropped(), dropped()],
        "sampled": sampled(),
        "looked_at": looked_at(),
        "refused": refusals(folder),
        "scanned": scanned(folder),
        "interrupted_run": interrupted_run(folder),
        "trained_by_words": trained_by_words(folder),
        "held": held(),
    }


def threads_of_gloo() -> list[str]:
    """Only where there is /proc."""
    names = (path.read_text() for path in Path("/proc/self/task").glob("*/comm"))
    return [name for name in names if "gloo" in name]


def main(folder: Path, task: str) -> None:
    torch.set_num_threads(1)
    alone = processes.rank(), processes.world(), dist.is_initialized()
    with processes.joined(), processes.joined():  # the inner one finds them joined
        if task == "one":
            resumed(folder, kill_at=STEPS + 3, killed=(1,))
        elif task == "all":
            resumed(folder, kill_at=STEPS + 3, killed=(0, 1))
        elif task == "scan":
            killed_in_a_scan(folder)
        else:
            about = everything(folder)
            (folder / f"about{processes.rank()}.json").write_text(json.dumps(about))
    after = processes.rank(), processes.world(), dist.is_initialized()
    assert alone == after == (0, 1, False)
    assert not threads_of_gloo()  # which might abort the process at its end


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
