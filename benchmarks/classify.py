"""Runs of `dnamamba classify train`, many at a time, and what they came to in one table.

    python benchmarks/classify.py runs.json --json results.json --out runs --gpus 2

runs.json: {"name": ["MODEL", "--species", "human=human.h5", ...], ...}: what follows `dnamamba
classify train`. Each run is a process of its own; with several GPUs they take turns. A name that
ends in " #N" is one of several seeds of a run, of which the table has mean and spread.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dnamamba.bench.results import describe_setup
from dnamamba.runtime import choose_device
from dnamamba.training.metrics_log import MetricsFile

NUMBERS = ("accuracy", "accuracy_interval", "mcc", "auroc", "n")


def visible_gpus(n: int) -> list[str]:
    """The first n GPUs that this process may use."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (named.split(",") if named else [str(i) for i in range(n)])[:n]


def run_command(arguments: list[str], out: Path, gpu: str | None) -> tuple[int, float]:
    """One run by the command a user types; exit code and seconds. Its log is out.log."""
    command = [sys.executable, "-m", "dnamamba", *arguments]
    environment = dict(os.environ)
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    began = time.monotonic()
    with open(f"{out}.log", "w") as log:
        done = subprocess.run(
            [*command, "--out", str(out), "--force"], stdout=log, stderr=log, env=environment
        )
    return done.returncode, time.monotonic() - began


def summarise(name: str, arguments: list[str], out: Path, seconds: float) -> dict[str, Any]:
    """A row of results, from the run's own files."""
    rows = [row for row in MetricsFile(out / "metrics.jsonl").rows() if row["split"] == "train"]
    row: dict[str, Any] = {
        "name": name,
        "arguments": [argument.rpartition("/")[2] for argument in arguments],
        "seconds": round(seconds, 1),
    }
    if rows:
        rates = [each["tokens_per_s"] for each in rows[1:] or rows]
        row |= {
            "steps": rows[-1]["step"],
            "tokens": rows[-1]["tokens"],
            "tokens_per_s": statistics.median(rates),
            "peak_gib": max(each.get("gpu_memory_gib", 0.0) for each in rows),
        }
    evaluation = json.loads((out / "evaluation.json").read_text())
    for split, found in evaluation["splits"].items():
        row[split] = {
            who: {key: found[who][key] for key in NUMBERS if key in found[who]}
            | {"recall": {each["label"]: each.get("recall") for each in found[who]["labels"]}}
            for who in ("model", "baseline")
        }
        row[split]["comparison"] = found["comparison"]
    return row


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Test accuracy and MCC of model and baseline, a line for each name; seeds together."""
    groups = defaultdict(list)
    for row in rows:
        if "accuracy" in row.get("test", {}).get("model", {}):
            groups[row["name"].partition(" #")[0]].append(row["test"])
    lines = [f"{'run':<44} {'accuracy':>16} {'MCC':>16} {'k-mer acc.':>10} {'k-mer MCC':>9}"]
    for name, found in groups.items():
        cells = [_spread([each["model"][key] for each in found]) for key in ("accuracy", "mcc")]
        accuracy, mcc = (
            statistics.mean(each["baseline"][key] for each in found) for key in ("accuracy", "mcc")
        )
        kmers = f"{accuracy:>10.4f} {mcc:>9.4f}"
        lines.append(f"{name:<44} {cells[0]:>16} {cells[1]:>16} {kmers}")
    return lines


def _spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{statistics.mean(values):.4f} +- {statistics.stdev(values):.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--parallel", type=int, default=4, help="processes at a time")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    device, gpus = choose_device(), visible_gpus(arguments.gpus)
    rows: list[dict[str, Any]] = []
    lock = threading.Lock()

    def run(job: tuple[int, tuple[str, list[str]]]) -> None:
        number, (name, options) = job
        out = arguments.out / name.replace(" ", "_").replace("#", "")
        gpu = gpus[number % len(gpus)] if device.type == "cuda" else None
        code, seconds = run_command(["classify", "train", *options], out, gpu)
        if code:
            print(f"{name} failed, see {out}.log", flush=True)
            return
        row = summarise(name, options, out, seconds)
        evaluated = row.get("test", row["valid"])
        print(f"{name}: {evaluated['comparison']} ({seconds:.0f} s)", flush=True)
        with lock:
            rows.append(row)
            if not arguments.json:
                return
            result = {**describe_setup(device), "gpus": arguments.gpus, "rows": rows}
            arguments.json.write_text(json.dumps(result, indent=1) + "\n")

    jobs = list(enumerate(json.loads(arguments.runs.read_text()).items()))
    with ThreadPoolExecutor(arguments.parallel) as pool:
        list(pool.map(run, jobs))
    print("\n".join(table(sorted(rows, key=lambda row: row["name"]))))


if __name__ == "__main__":
    main()
