"""Make the dense network of a finished run the one that ships with the package.

    pruning-lab run --model lenet-5 --data mnist --out runs/lenet-5
    python tools/ship_weights.py runs/lenet-5

Writes pruning_lab/weights/NETWORK-DATA.safetensors, and beside it the manifest of the run.
"""

import sys
from pathlib import Path

from pruning_lab import experiments, files, models

WEIGHTS = Path(__file__).resolve().parent.parent / "pruning_lab" / "weights"


def main(folder: str) -> None:
    run = experiments.Run.load(folder)
    record = run.record
    network, data = record["recipe"]["network"], record["data"]["name"]
    path = WEIGHTS / f"{network}-{data}.safetensors"
    models.save(path, run.dense, about={"network": network, "data": data, "seed": record["seed"]})
    manifest = {
        "network": network,
        "sha256": files.sha256(path.read_bytes()),
        "command": f"pruning-lab run --model {network} --data {data} --seed {record['seed']}",
        "seed": record["seed"],
        "config": record["recipe"]["dense"],
        "data": record["data"],
        "val": record["dense_val"],
        "test": record["test"]["dense"],
        "seconds": record["seconds"]["train"],
        "versions": record["versions"],
        "machine": record["machine"],
    }
    files.save_json(path.with_suffix(".json"), manifest)
    print(f"wrote {path.name}: test error {1 - manifest['test']['value']:.2%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
