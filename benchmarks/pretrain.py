"""What `dnamamba pretrain` takes on this machine: tokens a second and memory, planned and measured.

    python benchmarks/pretrain.py genome.h5 --json pretrain.json
    python benchmarks/pretrain.py genome.h5 --run mamba-7m:128k --run mamba-1.4m:1M --steps 4

Runs `dnamamba doctor` first and stops where a kernel is wrong.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dnamamba.bench.results import describe_setup
from dnamamba.intervals import parse_size
from dnamamba.runtime import choose_device
from dnamamba.training.metrics_log import MetricsFile


def dnamamba(*arguments: str) -> str:
    """Run the command as a user does; its standard output."""
    command = [sys.executable, "-m", "dnamamba", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def measure(
    genome: Path, model: str, seq_len: str, steps: int, options: list[str]
) -> dict[str, Any]:
    """One short run: medians over its steps without the first, and the plan made before it."""
    recipe = [str(genome), "--model", model, "--seq-len", seq_len, "--steps", str(steps), *options]
    recipe += ["--log-every", "1", "--eval-every", str(steps), "--eval-tokens", seq_len]
    plan = dnamamba("pretrain", *recipe, "--dry-run")
    with tempfile.TemporaryDirectory() as folder:
        dnamamba("pretrain", *recipe, "--out", f"{folder}/run")
        rows = MetricsFile(Path(folder, "run", "metrics.jsonl")).rows()
    train = [row for row in rows if row["split"] == "train"]
    return {
        "model": model,
        "seq_len": parse_size(seq_len),
        "batch_tokens": train[0]["tokens"],
        "tokens_per_s": statistics.median(row["tokens_per_s"] for row in train[1:]),
        "peak_gib": max((row.get("gpu_memory_gib", 0.0) for row in train), default=0.0),
        "planned": next(line.strip() for line in plan.splitlines() if "memory" in line),
        "last_loss": train[-1]["loss"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("genome", type=Path)
    parser.add_argument("--run", action="append", help="MODEL:SEQ_LEN; may be given again")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--options", default="", help="more options of `dnamamba pretrain`")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(dnamamba("doctor"))
    rows = []
    for run in arguments.run or ["mamba-1.4m:1k", "mamba-1.4m:128k", "mamba-7m:128k"]:
        model, seq_len = run.split(":")
        options = arguments.options.split()
        rows.append(measure(arguments.genome, model, seq_len, arguments.steps, options))
        print(json.dumps(rows[-1]))
    if arguments.json:
        result = {**describe_setup(choose_device()), "rows": rows}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
