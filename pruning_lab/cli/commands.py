"""What the commands do."""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from pruning_lab import (
    data,
    evaluation,
    experiments,
    files,
    masks,
    models,
    processes,
    reports,
    retraining,
    sensitivity,
    training,
)
from pruning_lab.cli import names, outputs, page
from pruning_lab.cli.words import DENSITIES, LENETS, RECIPES, TRAINED, parser
from pruning_lab.rows import plain
from pruning_lab.studio import Studio

EVALUATIONS = 1000  # of a joint search that is not told any


def run(options: argparse.Namespace) -> None:
    with processes.joined():
        _run(options)


def _run(options: argparse.Namespace) -> None:
    if processes.world() > 1 and not options.out:
        raise ValueError("several processes write into one folder; name it with --out")
    if options.resume:
        folder = Path(options.out) if options.out else _newest_unfinished(options)
    else:
        folder = Path(options.out) if options.out else _free_folder(_network(options))
    outputs.check_place(folder / "run.json", "--out")
    config = _started(options, folder)
    network = config["recipe"].network if config else _network(options)
    data_name, seed = (config["data"], config["seed"]) if config else (options.data, _seed(options))
    processes.wait()  # until all have looked into the folder
    if (folder / "run.json").exists():
        result = experiments.Run.load(folder)
        _say(options, f"{folder} is finished already")
    else:
        if config:
            recipe = config["recipe"]
            splits = names.splits(options, data_name, recipe.about)
        else:
            about = {"network": network, **names.shape(options, network)}
            splits = names.splits(options, data_name, about)
            recipe = _recipe(options, _fitted(about, splits), splits.name)
            if options.resume:
                _say(options, f"nothing to resume in {folder}, so it starts from the beginning")
        _say(options, str(splits))
        if network in names.PHOTOS:
            _say(options, _said(recipe.about))
        names.check_memory(recipe.about)
        names.check_fit(models.build(recipe.about).to(splits.val.device), splits)
        _set_threads(options, network)
        epochs = f"{recipe.epochs} epochs in all{_search(recipe)}"
        _say(options, f"{network}, seed {seed}, {epochs}; files go to {folder}")
        with _progress(recipe.epochs, options) as notify:
            result = experiments.run(recipe, splits, seed=seed, folder=folder, notify=notify)
    page = folder / "report.html"
    if processes.rank() == 0:
        files.write(page, reports.html(result))
    _show(options, result.record)
    _say(options, f"\nThe plots are in {page}, the network in {folder / 'model.safetensors'}")


def train(options: argparse.Namespace) -> None:
    with processes.joined():
        _train_dense(options)


def _train_dense(options: argparse.Namespace) -> None:
    about = {"network": options.model, **names.shape(options, options.model)}
    names.check_memory(about)
    splits = names.splits(options, about=about)
    about = _fitted(about, splits)
    _seed(options)
    model = models.build(about)
    _place(options, model, splits)
    if options.model in names.PHOTOS:
        _say(options, _said(about))
    _set_threads(options, options.model)
    config = _train_config(options, about, splits.name)
    rows, accuracy = _train(options, model, splits, config)
    about |= {"data": splits.name, "seed": options.seed or 0}
    if processes.rank() > 0:
        return
    models.save(options.out, model, about=about)
    Path(_checkpoint(options)).unlink(missing_ok=True)
    _done(options, {"out": options.out, "epochs": rows, "val": accuracy})


def scan(options: argparse.Namespace) -> None:
    with processes.joined():
        _seed(options)  # before the network: an own one may come with random weights
        model, about = names.network(options)
        splits = _load_data(options, model, about=about)
        _set_threads(options)
        levels = {"densities": options.densities, "qualities": options.qualities}
        if not any(levels.values()):
            levels["densities"] = DENSITIES
        _seed(options)
        with _scan_progress(options, model, splits.val) as notify:
            result = sensitivity.scan(
                model,
                splits.val,
                **levels,
                saliency=names.saliency(options),
                layers=options.layers,
                cumulative=options.cumulative,
                recalibrate=names.recalibrate(options, model, splits),
                out=options.out,
                resume=options.resume,
                notify=notify,
            )
        _say(options, f"\n{result}\n")
        rows = {"dense": plain(result.dense), "points": plain(result)}
        _done(options, {"out": options.out, **result.about, **rows}, _beside(options.out))


def choose(options: argparse.Namespace) -> None:
    if (options.max_drop is None) == (options.density is None):
        raise ValueError("choose by --max-drop POINTS or by --density SHARE, one of the two")
    is_search = options.method == "joint" or options.max_drop is not None
    if options.evaluations and not is_search:
        raise ValueError("--evaluations goes with --max-drop or --method joint")
    scanned = sensitivity.Scan.load(options.scan)
    saliency = names.known_saliency(scanned.about.get("saliency"), options.scan)
    model = val = train = None
    _seed(options)
    if options.file or options.weights or options.model:
        model, about = names.network(options)
        splits = _load_data(options, model, about=about)
        val, train = splits.val, names.recalibrate(options, model, splits)
        _set_threads(options)
        _check_same_images(options.scan, scanned, val)
        _check_scanned(options.scan, scanned, model)
    elif is_search:
        raise ValueError(
            f"this measures all layers together; "
            f"name the network's file: pruning-lab choose {options.scan} NETWORK.safetensors ..."
        )
    with _progress(None, options) as notify:
        plan = sensitivity.choose(
            scanned,
            max_drop=options.max_drop,
            density=options.density,
            method=options.method,
            model=model,
            images=val,
            recalibrate=train,
            saliency=saliency,
            evaluations=options.evaluations or EVALUATIONS,
            notify=lambda *done: notify(experiments.Note("choose", evaluations=done)),
        )
    plan.save(options.out)
    _say(options, str(plan))
    if model is None:
        _say(
            options,
            f"To measure them: pruning-lab choose {options.scan} NETWORK.safetensors "
            f"{_amount(options)}, with the --data of the scan",
        )
    _done(options, {"out": options.out, "density": plan.density, **plain(plan)})
    _say(options, f"next: pruning-lab prune {_network_words(options)} --plan {options.out}")


def prune(options: argparse.Namespace) -> None:
    _seed(options)
    model, about = names.network(options)
    _seed(options)
    mask = _planned_mask(options, model) if options.plan else _asked_mask(options, model)
    mask.save(options.out)
    if options.save_model:
        mask.apply_(model)
        models.save(options.save_model, model, about=about)
    _say(options, str(mask.receipt))
    receipt = plain(mask.receipt)
    _done(options, {"out": options.out, "density": mask.density, "receipt": receipt})


def retrain(options: argparse.Namespace) -> None:
    with processes.joined():
        _retrain(options)


def _retrain(options: argparse.Namespace) -> None:
    model, about = names.network(options)
    splits = _load_data(options, model, about=about)
    _set_threads(options, about["network"])
    mask = masks.Mask.load(options.mask)
    mask.apply_(model)
    config = _train_config(options, about, splits.name)
    with retraining.dropout_adjusted(model, mask), retraining.frozen(model, options.freeze):
        rows, accuracy = _train(options, model, splits, config, mask=mask)
    if processes.rank() > 0:
        return
    models.save(options.out, model, about=about)
    Path(_checkpoint(options)).unlink(missing_ok=True)
    _done(options, {"out": options.out, "density": mask.density, "epochs": rows, "val": accuracy})


def report(options: argparse.Namespace) -> None:
    if Path(options.file).is_dir():
        result = experiments.Run.load(options.file)
    else:
        if not options.dense:
            raise ValueError(
                f"{options.file} is one network; name the one before pruning with --dense FILE, "
                f"or give the folder of a run"
            )
        model, about = names.network(options)
        if about["network"] not in RECIPES:
            raise ValueError(
                f"the paper has no {about['network']} to compare with, only {', '.join(RECIPES)}"
            )
        dense, _ = names.network(options, options.dense)
        splits = _load_data(options, model, about=about)
        _set_threads(options, about["network"])
        record = {
            "recipe": {"network": about["network"]},
            **experiments.compare(dense, model, splits),
        }
        result = experiments.Run(record, dense, model, masks.Mask.of(model))
    files.write(options.out, reports.html(result))
    _show(options, result.record)
    _say(options, f"\nOpen {options.out} for the plots")


def studio(options: argparse.Namespace) -> None:
    port = page.free_port(options.port)
    names.device(options.device)
    # What cannot work is said before there is a server; the page opens a studio of its own.
    open_studio(argparse.Namespace(**{**vars(options), "device": "cpu"})).close()
    with tempfile.TemporaryDirectory() as folder:

        def ready(address: str) -> None:
            if options.json:
                print(json.dumps({"address": address}), flush=True)
            _say(options, f"The studio is at {address}\nCtrl-C ends it")
            if not options.no_browser:
                page.browse(address, folder)

        page.serve(options, port, ready)
    _say(options, "\nthe studio is closed")


def open_studio(options: argparse.Namespace) -> Studio:
    """The studio of the network and the images that were typed."""
    _seed(options)
    trained = not (options.file or options.weights) and (options.model or TRAINED) in LENETS
    if trained:
        about = {"network": options.model or TRAINED}
        model = models.BUILT_IN[about["network"]](trained="mnist")
    else:
        model, about = names.network(options)
    splits = _load_data(options, model, about=about)
    _set_threads(options, about["network"])
    scanned = _scan_of(options.scan, model, splits.val) if options.scan else None
    own = about["network"] not in models.BUILT_IN  # then its files cannot say what they hold
    train = names.recalibrate(options, model, splits)
    about = None if own else about
    return Studio(model, splits, scan=scanned, about=about, recalibrate=train)


def panel():
    """The studio's panel for what was typed: the one cell of the page."""
    from pruning_lab.widgets import StudioPanel  # no other command needs matplotlib's widgets

    typed = page.typed()
    os.chdir(typed.pop("folder", "."))
    options = parser().parse_args(["studio"])
    return StudioPanel(open_studio(argparse.Namespace(**{**vars(options), **typed, "json": False})))


def _recipe(options: argparse.Namespace, about: Mapping, data_name: str) -> experiments.Recipe:
    """What was asked for; photos on a GPU always go in bfloat16, which its units are made for."""
    network = about["network"]
    shape = {name: value for name, value in about.items() if name != "network"}
    recipe = _asked_recipe(options, network, data_name, shape)
    on_gpu = names.device(options.device).startswith("cuda")
    if options.bf16 or (on_gpu and network in names.PHOTOS):
        return recipe.in_bf16()
    return recipe


def _asked_recipe(options, network: str, data_name: str, shape: dict) -> experiments.Recipe:
    given = _typed(options, "compression", "density", "max_drop")
    if len(given) > 1:
        raise ValueError("give one of --compression, --density and --max-drop")
    if options.method and not given.keys() & {"density", "max_drop"}:
        raise ValueError("--method goes with --density or --max-drop")
    if options.evaluations and (not given or options.method == "single" or "compression" in given):
        raise ValueError("--evaluations goes with --density or --max-drop, by the joint method")
    if not given:
        return experiments.paper_recipe(network, data_name, shape)
    if "compression" in given:
        return experiments.compressed_recipe(network, options.compression, data_name, shape)
    choose = {**given, "method": options.method or "joint", **_typed(options, "evaluations")}
    return experiments.chosen_recipe(network, choose, data_name, shape)


def _search(recipe: experiments.Recipe) -> str:
    """What the search of a recipe takes, in words."""
    if not recipe.choose or recipe.choose.get("method") != "joint":
        return ""
    most = recipe.choose.get("evaluations", EVALUATIONS)
    return f" and a search of at most {most:,} evaluations"


def _fitted(about: dict, splits: data.Splits) -> dict:
    """A network for photos tells as many classes apart as there are."""
    if about["network"] not in names.PHOTOS:
        return about
    return {**about, "classes": names.classes(splits)}


def _said(about: Mapping) -> str:
    words = models.describe(about)
    if experiments.REDUCED[about["network"]].items() <= about.items():
        size = models.settings({"network": about["network"]})["size"]
        words += f": reduced for a CPU; --width 1 --size {size} is the paper's"
    return words


# ------------------------------------------------------------------------- of scan and choose


def _check_same_images(path: str, scanned: sensitivity.Scan, val: data.Split) -> None:
    if scanned.about.get("images_sha256") not in (None, val.fingerprint()):
        raise ValueError(
            f"{path} was made on other images than these; name the same --data as for the scan"
        )


def _check_scanned(path: str, scanned: sensitivity.Scan, model) -> None:
    try:
        sensitivity.check_same_weights(scanned, model)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: {error.args[0]}") from None


def _scan_of(path: str, model, val: data.Split) -> sensitivity.Scan:
    """A scan to go on from. Raises ValueError where it is of something else, or says too little."""
    scanned = sensitivity.Scan.load(path)
    _check_scanned(path, scanned, model)
    _check_same_images(path, scanned, val)
    sensitivity.choose(scanned, density=1.0)  # raises where nothing can be chosen by it
    return scanned


def _amount(options: argparse.Namespace) -> str:
    if options.max_drop is not None:
        return f"--max-drop {options.max_drop:g}"
    return f"--density {options.density:g}"


def _network_words(options: argparse.Namespace) -> str:
    """The network as it was typed, to be typed again."""
    file = options.file or options.weights
    words = [*([file] if file else []), *(["--model", options.model] if options.model else [])]
    return " ".join(words) or "NETWORK.safetensors"


@contextmanager
def _scan_progress(options: argparse.Namespace, model, val: data.Split) -> Iterator[Callable]:
    """Gives a function to notify: what is measured in one line, then a bar with the time left."""
    layers = set(options.layers or masks.prunable(model))
    points = len(layers) * len(options.densities or options.qualities or DENSITIES)
    shared = f" by {processes.world()} processes" if processes.world() > 1 else ""
    layout = "{l_bar}{bar}| {n_fmt}/{total_fmt} images{postfix}"
    off = True if _quiet(options) else None  # None: off where stderr is not a terminal
    with tqdm(total=val.n, desc="scan", leave=False, disable=off, bar_format=layout) as bar:

        def notify(progress: sensitivity.Progress) -> None:
            if progress.images == 0 and not _quiet(options):
                line = f"{progress.how}{shared}: {points} points on {val.n:,} images"
                bar.write(line, file=sys.stdout)
            if progress.seconds_left is not None:
                bar.set_postfix_str(f"{_duration(progress.seconds_left)} left", refresh=False)
            bar.update(progress.images - bar.n)

        yield notify


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{max(1, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _beside(path: str) -> str:
    return f" and {Path(path).with_suffix('.json')}"


# --------------------------------------------------------------------------------- their parts


def _asked_mask(options: argparse.Namespace, model) -> masks.Mask:
    given = {kind: getattr(options, kind) for kind in ("quality", "density", "threshold")}
    if options.within:
        masks.Mask.load(options.within).apply_(model)
    return masks.prune(
        model,
        **{kind: names.amounts(kind, texts) for kind, texts in given.items() if texts},
        saliency=names.saliency(options),
        across=options.across or "layer",
    )


def _planned_mask(options: argparse.Namespace, model) -> masks.Mask:
    words = ("quality", "density", "threshold", "saliency", "within", "across")
    for word in words:
        if getattr(options, word):
            raise ValueError(
                f"--plan says what to keep of each layer; leave --{word.replace('_', '-')} out"
            )
    plan = sensitivity.Plan.load(options.plan)
    saliency = names.known_saliency(plan.saliency, options.plan)
    try:
        plan.check(model)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{options.plan}: {error.args[0]}") from None
    return plan.mask(model, saliency=saliency)


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
            rows.append(plain(epoch))
            notify(experiments.Note("train", epoch=epoch))
    accuracy = evaluation.evaluate(model, splits.val)
    _say(options, f"{len(rows)} epochs, loss {rows[-1]['loss']:.4f}" if rows else "no epochs")
    _say(options, f"accuracy on val: {accuracy}")
    return rows, plain(accuracy)


def _train_config(options: argparse.Namespace, about: Mapping, data_name: str):
    """The network's recipe, with what was typed in place of what it says."""
    shape = models.settings(about)
    network = shape.pop("network").removesuffix("-torchvision")  # which the paper does not have
    config = experiments.paper_recipe(network, data_name, shape).dense
    words = ("epochs", "lr", "batch_size", "weight_decay", "shift", "crop", "colour", "accumulate")
    typed = _typed(options, *words, "seed")
    flip = options.flip or config.flip
    return replace(config, **typed, flip=flip, bf16=options.bf16, compile=options.compile)


def _checkpoint(options: argparse.Namespace) -> str:
    return f"{options.out}.checkpoint"


def _load_data(
    options: argparse.Namespace, model, name: str | None = None, about: Mapping | None = None
) -> data.Splits:
    """The splits, said in one line; the model goes where they are, and has to fit them."""
    splits = names.splits(options, name, about)
    _place(options, model, splits)
    return splits


def _place(options: argparse.Namespace, model, splits: data.Splits) -> None:
    _say(options, str(splits))
    names.check_fit(model.to(splits.val.device), splits)


def _set_threads(options: argparse.Namespace, network: str | None = None) -> None:
    """One thread for the small matrices of LeNet-300-100, where more cost more than they win."""
    threads = options.threads or (1 if network == "lenet-300-100" else None)
    if threads:
        torch.set_num_threads(threads)


def _seed(options: argparse.Namespace) -> int:
    """Set torch's seed, and return it."""
    torch.manual_seed(options.seed or 0)
    return options.seed or 0


def _network(options: argparse.Namespace) -> str:
    return options.model or RECIPES[0]


def _typed(options: argparse.Namespace, *names: str) -> dict:
    """The options that were typed."""
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


@contextmanager
def _progress(epochs: int | None, options: argparse.Namespace) -> Iterator[Callable]:
    """Gives a function to notify: a bar on a terminal, a line per phase anywhere."""
    off = True if _quiet(options) else None  # None: off where stderr is not a terminal
    with tqdm(total=epochs, unit="epoch", leave=False, disable=off) as bar:

        def notify(note: experiments.Note) -> None:
            if note.epoch:
                bar.set_description(note.phase, refresh=False)
                bar.set_postfix_str(_pace(note.epoch), refresh=False)
                bar.update()
            if note.evaluations and not _quiet(options):
                done, most = note.evaluations
                if done == 0:
                    line = f"  {note.phase:8} at most {most:,} evaluations on 2,000 images each"
                    bar.write(f"{line} (--evaluations N)", file=sys.stdout)
                bar.set_description(f"{note.phase}, {done:,} of {most:,} evaluations")
            if note.text and not _quiet(options):
                bar.write(f"  {note.phase:8} {note.text}", file=sys.stdout)

        yield notify


def _pace(epoch: training.Epoch) -> str:
    """Loss, images a second, and the most memory so far; the bar itself has the time left."""
    words = [f"loss {epoch.loss:.3f}", f"{epoch.images_per_second:,.0f} images/s"]
    if epoch.peak_bytes is not None:
        words.append(f"{epoch.peak_bytes / 1e9:.1f} GB")
    return ", ".join(words)


def _started(options: argparse.Namespace, folder: Path) -> experiments.Config | None:
    """What the run in the folder was started with, None where there is none.

    Raises ValueError where something else is typed now, FileExistsError without --resume.
    """
    if not (folder / "config.json").exists():
        return None
    if not options.resume:
        raise FileExistsError(
            f"{folder} holds a run already; go on with it by --resume, or name another --out"
        )
    config = experiments.load_config(folder)
    recipe, now = config["recipe"], {"data": config["data"], "seed": config["seed"]}
    now |= {"model": recipe.network, **models.settings(recipe.about)}
    now["bf16"] = recipe.dense.bf16
    for name, value in _typed(options, "model", "data", "seed", "width", "size", "dropout").items():
        if value != now.get(name) and value != "auto":
            raise ValueError(_contradiction(folder, name, value, now.get(name)))
    if options.bf16 and not recipe.dense.bf16:
        raise ValueError(_contradiction(folder, "bf16", "", "off"))
    words = ("compression", "density", "max_drop", "method", "evaluations")
    if typed := _typed(options, *words):
        asked = _asked_recipe(options, recipe.network, config["data"], recipe.shape)
        if (asked.rounds, asked.choose) != (recipe.rounds, recipe.choose):
            name, value = next(iter(typed.items()))
            before = recipe.choose or f"{len(recipe.rounds)} fixed rounds"
            raise ValueError(_contradiction(folder, name, value, before))
    return config


def _contradiction(folder: Path, name: str, value: object, before: object) -> str:
    word = f"--{name.replace('_', '-')}"
    return (
        f"{folder} was started with {word} {before}, not {value}; resume with the same options, "
        f"or with none"
    )


def _free_folder(network: str) -> Path:
    """runs/NETWORK, or the first runs/NETWORK-2, -3, ... that is not there."""
    folder, number = Path("runs") / network, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{network}-{number}"
    return folder


def _newest_unfinished(options: argparse.Namespace) -> Path:
    """The unfinished run in runs/ that was started last, of those that fit what is typed."""
    typed = _typed(options, "model", "data", "seed")
    waiting = []
    for path in Path("runs").glob("*/config.json"):
        if not (path.parent / "run.json").exists():
            config = experiments.load_config(path.parent)
            now = {**config, "model": config["recipe"].network}
            if all(value in (now[name], "auto") for name, value in typed.items()):
                waiting.append(path)
    if not waiting:
        return _free_folder(_network(options))
    return max(waiting, key=lambda config: config.stat().st_mtime).parent


def _quiet(options: argparse.Namespace) -> bool:
    return options.json or processes.rank() > 0


def _say(options: argparse.Namespace, line: str) -> None:
    if not _quiet(options):
        print(line, flush=True)


def _show(options: argparse.Namespace, record: dict) -> None:
    if processes.rank() > 0:
        return
    if options.json:
        print(json.dumps(record, ensure_ascii=False))
    else:
        print(f"\n{reports.text(record)}")


def _done(options: argparse.Namespace, result: dict, more: str = "") -> None:
    if options.json and processes.rank() == 0:
        print(json.dumps(result, ensure_ascii=False))
    _say(options, f"wrote {result['out']}{more}")


COMMANDS = {
    command.__name__: command
    for command in (run, train, scan, choose, prune, retrain, report, studio)
}
