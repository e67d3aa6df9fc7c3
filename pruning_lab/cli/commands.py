"""What the commands do. Names typed by a person become objects here and nowhere else."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch
from tqdm import tqdm

from pruning_lab import (
    criteria,
    data,
    evaluation,
    experiments,
    files,
    masks,
    models,
    reports,
    retraining,
    training,
)
from pruning_lab.cli.words import NETWORKS


def run(options: argparse.Namespace) -> None:
    if options.resume:
        folder = Path(options.out) if options.out else _newest_unfinished()
        settings = _settings(options, folder)
        network, data_name, seed = settings["network"], settings["data"], settings["seed"]
    else:
        network, data_name, seed = options.model or NETWORKS[0], options.data, options.seed or 0
        folder = Path(options.out) if options.out else _free_folder(network)
        if (folder / "config.json").exists():
            raise FileExistsError(
                f"{folder} holds a run already; go on with it by --resume, or name another --out"
            )
    if (folder / "run.json").exists():
        result = experiments.Run.load(folder)
        _say(options, f"{folder} is finished already")
    else:
        splits = _load_data(options, data_name)
        _set_threads(options, network)
        if options.resume:
            recipe = experiments.Recipe.from_json(settings["recipe"])
        elif options.compression is None:
            recipe = experiments.paper_recipe(network, splits.name)
        else:
            recipe = experiments.compressed_recipe(network, options.compression, splits.name)
        _say(
            options, f"{network}, seed {seed}, {recipe.epochs} epochs in all; files go to {folder}"
        )
        with _progress(recipe.epochs, options) as notify:
            result = experiments.run(recipe, splits, seed=seed, folder=folder, notify=notify)
    page = files.write(folder / "report.html", reports.html(result))
    _show(options, result.record)
    _say(options, f"\nThe plots are in {page}, the network in {folder / 'model.safetensors'}")


def train(options: argparse.Namespace) -> None:
    splits = _load_data(options)
    _set_threads(options, options.model)
    _seed(options)
    model = models.BUILT_IN[options.model]().to(splits.train.images.device)
    config = _train_config(options, options.model, splits.name)
    rows, accuracy = _train(options, model, splits, config)
    about = {"network": options.model, "data": splits.name, "seed": options.seed or 0}
    models.save(options.out, model, about=about)
    Path(_checkpoint(options)).unlink(missing_ok=True)
    _done(options, {"out": options.out, "epochs": rows, "val": accuracy})


def prune(options: argparse.Namespace) -> None:
    model, about = _load_model(options)
    _seed(options)
    given = {kind: getattr(options, kind) for kind in ("quality", "density", "threshold")}
    mask = masks.prune(
        model,
        **{kind: _amounts(kind, texts) for kind, texts in given.items() if texts},
        criterion=CRITERIA[options.criterion],
        within=masks.Mask.load(options.within) if options.within else None,
        across_layers=options.across_layers,
    )
    mask.save(options.out)
    if options.save_model:
        mask.apply_(model)
        models.save(options.save_model, model, about=about)
    _say(options, str(mask.receipt))
    receipt = [asdict(row) for row in mask.receipt]
    _done(options, {"out": options.out, "density": mask.density, "receipt": receipt})


def retrain(options: argparse.Namespace) -> None:
    model, about = _load_model(options)
    splits = _load_data(options)
    _set_threads(options, about["network"])
    mask = masks.Mask.load(options.mask)
    model.to(splits.train.images.device)
    mask.apply_(model)
    config = _train_config(options, about["network"], splits.name)
    with retraining.dropout_adjusted(model, mask), retraining.frozen(model, options.freeze):
        rows, accuracy = _train(options, model, splits, config, mask=mask)
    models.save(options.out, model, about=about)
    Path(_checkpoint(options)).unlink(missing_ok=True)
    _done(options, {"out": options.out, "density": mask.density, "epochs": rows, "val": accuracy})


def report(options: argparse.Namespace) -> None:
    if Path(options.file).is_dir():
        result = experiments.Run.load(options.file)
        out = options.out or Path(options.file) / "report.html"
    else:
        if not options.dense:
            raise ValueError(
                f"{options.file} is one network; name the one before pruning with --dense FILE, "
                f"or give the folder of a run"
            )
        model, about = _load_model(options)
        dense, _ = _load_model(options, options.dense)
        splits = _load_data(options)
        _set_threads(options, about["network"])
        record = {
            "recipe": {"network": about["network"]},
            **experiments.compare(dense, model, splits),
        }
        result = experiments.Run(record, dense, model, masks.Mask.of(model))
        out = options.out or "report.html"
    files.write(out, reports.html(result))
    _show(options, result.record)
    _say(options, f"\nOpen {out} for the plots")


# --------------------------------------------------------------------------------- their parts


def _train(options, model, splits, config, mask=None):
    """Train with a progress bar and a checkpoint; rows of epochs, accuracy on val."""
    checkpoint = Path(_checkpoint(options))
    if checkpoint.exists() and not options.resume:
        raise FileExistsError(
            f"{checkpoint} is left of an interrupted call; go on with --resume, or delete it"
        )
    rows = []
    with _progress(config.epochs, options) as notify:
        for epoch in training.train(model, splits.train, config, mask=mask, checkpoint=checkpoint):
            rows.append(asdict(epoch))
            notify(experiments.Note("train", epoch=epoch))
    accuracy = evaluation.evaluate(model, splits.val)
    _say(options, f"{len(rows)} epochs, loss {rows[-1]['loss']:.4f}" if rows else "no epochs")
    _say(options, f"accuracy on val: {accuracy}")
    return rows, experiments.plain(accuracy)


def _train_config(options: argparse.Namespace, network: str, data_name: str):
    """The network's recipe, with what was typed in place of what it says."""
    config = experiments.paper_recipe(network, data_name).dense
    names = ("epochs", "lr", "batch_size", "weight_decay", "shift", "seed")
    typed = {name: getattr(options, name) for name in names}
    typed = {name: value for name, value in typed.items() if value is not None}
    return replace(config, **typed, bf16=options.bf16)


def _checkpoint(options: argparse.Namespace) -> str:
    return f"{options.out}.checkpoint"


def _load_model(options: argparse.Namespace, path: str | None = None):
    """A network from its file, which says itself which one it is."""
    path = path or options.file
    _, about = files.load_tensors(path)
    network = getattr(options, "model", None) or (about or {}).get("network")
    if network is None:
        raise ValueError(f"{path} does not say which network it is; add --model NAME")
    if network not in models.BUILT_IN:
        raise ValueError(f"{path}: no network {network!r}; there are {', '.join(NETWORKS)}")
    model = models.BUILT_IN[network]()
    models.load_(model, path)
    return model, {**(about or {}), "network": network}


def _load_data(options: argparse.Namespace, name: str | None = None):
    device = _device(options.device)
    splits = data.load(
        name or options.data or "auto", root=options.root, device=device, download=options.download
    )
    _say(options, str(splits))
    return splits


def _device(name: str) -> str:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        return "mps" if name == "cpu" and torch.backends.mps.is_available() else name
    available = {"cpu": True, "cuda": torch.cuda.is_available()}
    available["mps"] = torch.backends.mps.is_available()
    if not available[name]:
        raise ValueError(f"--device {name}: this machine's torch has none; use --device auto")
    return name


def _set_threads(options: argparse.Namespace, network: str) -> None:
    """One thread for the small matrices of LeNet-300-100, where more cost more than they win."""
    threads = options.threads or (1 if network == "lenet-300-100" else None)
    if threads:
        torch.set_num_threads(threads)


def _seed(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed or 0)


def _amounts(kind: str, texts: list[str]) -> float | dict[str, float]:
    """`0.08`, or `fc1=0.08 fc2=0.1`, as masks.prune takes it."""
    pairs = [text.rpartition("=") for text in texts]
    try:
        values = {layer: float(number) for layer, _, number in pairs}
    except ValueError:
        raise ValueError(
            f"--{kind} takes a number (0.08) or LAYER=NUMBER pairs (fc1=0.08 fc2=0.1), "
            f"got {' '.join(texts)}"
        ) from None
    if len(values) < len(texts):
        raise ValueError(f"--{kind} names a layer twice: {' '.join(texts)}")
    if "" in values and len(values) > 1:
        raise ValueError(f"--{kind} takes one number or LAYER=NUMBER pairs, not both")
    return values.get("", values)


@contextmanager
def _progress(epochs: int, options: argparse.Namespace) -> Iterator[Callable]:
    """Gives a function to notify: a bar on a terminal, a line per phase anywhere."""
    off = True if options.json else None  # None: off where stderr is not a terminal
    with tqdm(total=epochs, unit="epoch", leave=False, disable=off) as bar:

        def notify(note: experiments.Note) -> None:
            if note.epoch:
                bar.set_description(note.phase, refresh=False)
                bar.set_postfix(loss=f"{note.epoch.loss:.3f}", refresh=False)
                bar.update()
            if note.text and not options.json:
                bar.write(f"  {note.phase:8} {note.text}", file=sys.stdout)

        yield notify


def _settings(options: argparse.Namespace, folder: Path) -> dict:
    """What an unfinished run was started with; typing something else now is an error."""
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"no run in {folder} to go on with; start it without --resume")
    settings = files.load_json(folder / "config.json")
    settings["network"] = settings["recipe"]["network"]
    typed = {"--data": "data", "--seed": "seed", "--model": "network"}
    for option, name in typed.items():
        value = getattr(options, option.removeprefix("--"))
        if value not in (None, "auto", settings[name]):
            raise ValueError(
                f"{folder} was started with {option} {settings[name]}, not {value}; "
                f"--resume needs no settings, it takes those of the run"
            )
    if options.compression is not None:
        raise ValueError("--resume takes the run's own settings; leave --compression out")
    return settings


def _free_folder(network: str) -> Path:
    """runs/NETWORK, or the first runs/NETWORK-2, -3, ... that is not there."""
    folder, number = Path("runs") / network, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{network}-{number}"
    return folder


def _newest_unfinished() -> Path:
    waiting = [
        config
        for config in Path("runs").glob("*/config.json")
        if not (config.parent / "run.json").exists()
    ]
    if not waiting:
        raise FileNotFoundError("no unfinished run in runs/; name its folder with --out")
    return max(waiting, key=lambda config: config.stat().st_mtime).parent


def _say(options: argparse.Namespace, line: str) -> None:
    if not options.json:
        print(line, flush=True)


def _show(options: argparse.Namespace, record: dict) -> None:
    if options.json:
        print(json.dumps(record, ensure_ascii=False))
    else:
        print(f"\n{reports.text(record)}")


def _done(options: argparse.Namespace, result: dict) -> None:
    if options.json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print(f"wrote {result['out']}")


COMMANDS = {"run": run, "train": train, "prune": prune, "retrain": retrain, "report": report}
CRITERIA = {"magnitude": criteria.magnitude, "random": criteria.random}
