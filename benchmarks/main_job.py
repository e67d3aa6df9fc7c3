"""What the main job costs: seconds and memory of `pruning-lab run`, and seconds of the import.

    python benchmarks/main_job.py                  # about five minutes; MNIST rows need MNIST
    python benchmarks/main_job.py --save           # also write results/main-job.json

Every command is a process of its own. Memory is the process's peak beyond that of `import torch`.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

from pruning_lab import files, provenance

RESULTS = Path(__file__).resolve().parent.parent / "results"
MODULES = "masks, models, data, evaluation, training, sensitivity, retraining, counts"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--save", action="store_true", help="write results/main-job.json")
    options = parser.parse_args()

    imports = _imports(turns=7)
    print(tabulate([imports], headers="keys", floatfmt=".3f"), flush=True)
    runs = _runs()
    print(tabulate(runs, headers="keys", floatfmt=".1f"))
    if options.save:
        about = {
            "versions": provenance.versions(),
            "machine": provenance.machine(),
        }
        files.save_json(RESULTS / "main-job.json", {**about, "import": imports, "runs": runs})


def _imports(turns: int) -> dict:
    """Seconds that the library adds to `import torch`, inside one process each time."""
    code = (
        "import time; a = time.perf_counter(); import torch; b = time.perf_counter(); "
        f"from pruning_lab import {MODULES}; c = time.perf_counter(); print(b - a, c - b)"
    )
    times = []
    for _ in range(turns):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        times.append([float(word) for word in done.stdout.split()])
    torch_alone, added = zip(*times, strict=True)
    return {
        "import torch, s": statistics.median(torch_alone),
        "pruning_lab adds, s": statistics.median(added),
        "at most, s": max(added),
        "turns": turns,
    }


def _runs() -> list[dict]:
    _, torch_mib = _measure(["-c", "import torch"])
    root = Path(os.environ.get("PRUNING_LAB_DATA", "data")).resolve()
    names = ["mnist-5k", "mnist"] if (root / "MNIST").is_dir() else ["mnist-5k"]
    rows = []
    for data in names:
        for network in ("lenet-300-100", "lenet-5"):
            words = ["-m", "pruning_lab", "run", "--model", network, "--data", data]
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "run"
                seconds, mib = _measure([*words, "--root", str(root), "--out", str(out)])
                test = files.load_json(out / "run.json")["test"]
            rows.append(
                {
                    "data": data,
                    "network": network,
                    "seconds": seconds,
                    "peak beyond torch, MiB": mib - torch_mib,
                    "error, dense": f"{1 - test['dense']['value']:.2%}",
                    "error, pruned": f"{1 - test['pruned']['value']:.2%}",
                }
            )
            print(rows[-1], flush=True)
    return rows


def _measure(words: list[str]) -> tuple[float, float]:
    """Seconds and peak MiB of one Python process, as the operating system counted them."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(
            f"`python {' '.join(words)}` ended with {os.waitstatus_to_exitcode(status)}"
        )
    unit = 1024**2 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return seconds, usage.ru_maxrss / unit


if __name__ == "__main__":
    main()
