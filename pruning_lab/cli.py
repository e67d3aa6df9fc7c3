"""`pruning-lab`: files in, files out. Names typed by a person become objects here and nowhere else.

torch is imported inside the commands: help and mistakes in typing are answered at once.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pruning_lab import __version__

NETWORKS = ("lenet-300-100", "lenet-5")
DATA = ("auto", "mnist", "digits")
CRITERIA = ("magnitude", "random")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 with one sentence when the input was at fault."""
    # Threads that spin while they wait starve each other on a busy machine (2-3 times slower) and
    # gain nothing on an idle one. Has to stand before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except KeyboardInterrupt:
        print(f"\ninterrupted{_how_to_go_on(options)}", file=sys.stderr)
        return 130
    except (ValueError, KeyError, TypeError, OSError, ArithmeticError) as error:
        if options.debug:
            raise
        message = error.args[0] if isinstance(error, KeyError) else error
        print(f"pruning-lab: {message}", file=sys.stderr)
        return 2
    return 0


# ------------------------------------------------------------------------------------- commands


def run(options: argparse.Namespace) -> None:
    from pruning_lab import experiments, files, reports

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
    _show(options, result.record, reports)
    _say(options, f"\nThe plots are in {page}, the network in {folder / 'model.safetensors'}")


def train(options: argparse.Namespace) -> None:
    from pruning_lab import models

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
    from dataclasses import asdict

    from pruning_lab import criteria, masks, models

    model, about = _load_model(options)
    _seed(options)
    given = {kind: getattr(options, kind) for kind in ("quality", "density", "threshold")}
    mask = masks.prune(
        model,
        **{kind: _amounts(kind, texts) for kind, texts in given.items() if texts},
        criterion={"magnitude": criteria.magnitude, "random": criteria.random}[options.criterion],
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
    from pruning_lab import masks, models, retraining

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
    from pruning_lab import experiments, files, masks, reports

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
    _show(options, result.record, reports)
    _say(options, f"\nOpen {out} for the plots")


# --------------------------------------------------------------------------------- their parts


def _train(options, model, splits, config, mask=None):
    """Train with a progress bar and a checkpoint; rows of epochs, accuracy on val."""
    from dataclasses import asdict

    from pruning_lab import evaluation, experiments, training

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
    from dataclasses import replace

    from pruning_lab import experiments

    config = experiments.paper_recipe(network, data_name).dense
    names = ("epochs", "lr", "batch_size", "weight_decay", "shift", "seed")
    typed = {name: getattr(options, name) for name in names}
    typed = {name: value for name, value in typed.items() if value is not None}
    return replace(config, **typed, bf16=options.bf16)


def _checkpoint(options: argparse.Namespace) -> str:
    return f"{options.out}.checkpoint"


def _load_model(options: argparse.Namespace, path: str | None = None):
    """A network from its file, which says itself which one it is."""
    from pruning_lab import files, models

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
    from pruning_lab import data

    device = _device(options.device)
    splits = data.load(
        name or options.data or "auto", root=options.root, device=device, download=options.download
    )
    _say(options, str(splits))
    return splits


def _device(name: str) -> str:
    import torch

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
    import torch

    threads = options.threads or (1 if network == "lenet-300-100" else None)
    if threads:
        torch.set_num_threads(threads)


def _seed(options: argparse.Namespace) -> None:
    import torch

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


def _progress(epochs: int, options: argparse.Namespace):
    """A context that gives a function to notify: a bar on a terminal, a line per phase anywhere."""
    from contextlib import contextmanager

    from tqdm import tqdm

    @contextmanager
    def watching():
        off = True if options.json else None  # None: off where stderr is not a terminal
        with tqdm(total=epochs, unit="epoch", leave=False, disable=off) as bar:

            def notify(note) -> None:
                if note.epoch:
                    bar.set_description(note.phase)
                    bar.set_postfix(loss=f"{note.epoch.loss:.3f}")
                    bar.update()
                if note.text and not options.json:
                    bar.write(f"  {note.phase:8} {note.text}", file=sys.stdout)

            yield notify

    return watching()


def _settings(options: argparse.Namespace, folder: Path) -> dict:
    """What an unfinished run was started with; typing something else now is an error."""
    from pruning_lab import files

    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"no run in {folder} to go on with; start it without --resume")
    settings = files.load_json(folder / "config.json")
    settings["network"] = settings["recipe"]["network"]
    typed = {"--data": "data", "--seed": "seed", "--model": "network"}
    for option, name in typed.items():
        value = getattr(options, option.removeprefix("--"))
        if value is not None and value != settings[name]:
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


def _how_to_go_on(options: argparse.Namespace) -> str:
    if not hasattr(options, "resume"):
        return "; nothing was written"
    return "; the same command with --resume goes on behind the last finished epoch"


def _say(options: argparse.Namespace, line: str) -> None:
    if not options.json:
        print(line, flush=True)


def _show(options: argparse.Namespace, record: dict, reports) -> None:
    if options.json:
        print(json.dumps(record, ensure_ascii=False))
    else:
        print(f"\n{reports.text(record)}")


def _done(options: argparse.Namespace, result: dict) -> None:
    if options.json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print(f"wrote {result['out']}")


# ---------------------------------------------------------------------------------- the parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pruning-lab",
        description="Train, scan, prune and retrain neural networks (Han et al. 2015).",
        epilog="Start with: pruning-lab run --model lenet-300-100",
    )
    parser.add_argument("--version", action="version", version=f"pruning-lab {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    every = argparse.ArgumentParser(add_help=False)
    every.add_argument("--json", action="store_true", help="print JSON and nothing else")
    every.add_argument("--debug", action="store_true", help="show the traceback of an error")

    seeded = argparse.ArgumentParser(add_help=False)
    seeded.add_argument("--seed", type=_whole, help="of everything random (0)")

    images = argparse.ArgumentParser(add_help=False)
    images.add_argument("--data", choices=DATA, help="auto (the default): mnist where it is")
    images.add_argument("--root", help="folder of the data ($PRUNING_LAB_DATA, else data)")
    images.add_argument("--download", action="store_true", help="fetch the data if missing")
    images.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    images.add_argument("--threads", type=_whole, help="threads on a CPU (what suits the network)")

    learning = argparse.ArgumentParser(add_help=False)
    learning.add_argument("--epochs", type=_whole, help="passes over the training images")
    learning.add_argument("--lr", type=float, help="highest learning rate")
    learning.add_argument("--batch-size", type=_whole)
    learning.add_argument("--weight-decay", type=float, help="L2")
    learning.add_argument("--shift", type=_whole, help="pixels by which images move at random")
    learning.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    learning.add_argument("--resume", action="store_true", help="go on behind the checkpoint")

    def command(function, summary: str, example: str, *parents) -> argparse.ArgumentParser:
        made = commands.add_parser(
            function.__name__,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example:\n  pruning-lab {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[*parents, every],
        )
        made.set_defaults(command=function)
        return made

    add = command(
        run,
        "train, scan, prune and retrain a network, and report beside the paper",
        "run --model lenet-5 --data mnist --out runs/first",
        images,
        seeded,
    ).add_argument
    add("--model", choices=NETWORKS, help=f"which network ({NETWORKS[0]})")
    add("--compression", type=float, metavar="X", help="parameters, before / after (the paper's)")
    add("--out", help="folder for the files (runs/MODEL)")
    add("--resume", action="store_true", help="go on with the unfinished run in --out")

    add = command(
        train,
        "train a dense network",
        "train --model lenet-300-100 --epochs 5 --out dense.safetensors",
        images,
        seeded,
        learning,
    ).add_argument
    add("--model", choices=NETWORKS, default="lenet-300-100")
    add("--out", default="dense.safetensors", help="file for the network (dense.safetensors)")

    add = command(
        prune,
        "choose which weights stay, and print the receipt",
        "prune dense.safetensors --quality fc1=1.4 fc2=1.1 --out mask.safetensors",
        seeded,
    ).add_argument
    add("file", help="a network's file")
    amounts = "one number, or LAYER=NUMBER ..."
    add("--quality", nargs="+", metavar="Q", help=f"threshold / sigma of the layer: {amounts}")
    add("--density", nargs="+", metavar="D", help=f"share to keep, 0 to 1: {amounts}")
    add("--threshold", nargs="+", metavar="T", help=f"smallest |w| to keep: {amounts}")
    add("--criterion", choices=CRITERIA, default="magnitude")
    add("--within", metavar="MASK", help="keep only what this mask keeps")
    add("--across-layers", action="store_true", help="rank all layers together (with --density)")
    add("--model", choices=NETWORKS, help="which network the file holds, if it does not say")
    add("--out", default="mask.safetensors", help="file for the mask (mask.safetensors)")
    add("--save-model", metavar="FILE", help="also write the network with the mask applied")

    add = command(
        retrain,
        "train what a mask left of a network",
        "retrain dense.safetensors --mask mask.safetensors --epochs 6 --out pruned.safetensors",
        images,
        seeded,
        learning,
    ).add_argument
    add("file", help="a network's file")
    add("--mask", required=True, help="a mask's file")
    add("--freeze", nargs="+", default=[], metavar="LAYER", help="layers that keep their weights")
    add("--model", choices=NETWORKS, help="which network the file holds, if it does not say")
    add("--out", default="pruned.safetensors", help="file for the network (pruned.safetensors)")

    add = command(
        report,
        "compare a pruned network with the dense one and with the paper (uses the test images)",
        "report runs/first\n  pruning-lab report pruned.safetensors --dense dense.safetensors",
        images,
    ).add_argument
    add("file", help="the folder of a run, or a pruned network's file")
    add("--dense", metavar="FILE", help="the network before pruning")
    add("--model", choices=NETWORKS, help="which network the file holds, if it does not say")
    add("--out", help="file for the page (report.html)")
    return parser


def _whole(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text}")
    return number


if __name__ == "__main__":
    sys.exit(main())
