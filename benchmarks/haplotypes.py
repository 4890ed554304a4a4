"""Species by windows of 1k to 64k, learned from one haplotype and evaluated on the other.

    python benchmarks/haplotypes.py prepare loci/ --out data
    python benchmarks/haplotypes.py train data --json results.json --out runs --gpus 2

loci/: a FASTA for each species, whose records are called LOCUS_mat and LOCUS_pat, LOCUS_hap1 and
LOCUS_hap2, or LOCUS_hap0 where there is one haplotype. The first of two trains; of the second
80 KiB in the middle validate and the rest tests. Of a single one, blocks of 256 KiB train and test
in turn, and the first 80 KiB tested on validate. `prepare` writes a store for each species and
split.bed.

`train` pretrains each model on what trains and fine-tunes it at 1k, from there at 4k, and so on:
what RECIPES says, by the commands a user types. Hyena's filters, functions of position / l_max, are
made for 1k: made for 64k they are too coarse to learn words. Every model has a GPU of its own, if
there are enough. What --json has is kept, so that a benchmark that was stopped goes on.
"""

import argparse
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from classify import run_command, summarise, table, visible_gpus

from dnamamba.bench.results import describe_setup
from dnamamba.data_prep.genomes.genome import open_genome
from dnamamba.runtime import choose_device

KIB = 1024
PIECE, BLOCK = 80 * KIB, 256 * KIB
SPLIT = "split.bed"


@dataclass(frozen=True)
class Stage:
    """Training at one length. steps are optimiser steps of batch windows; pretraining's have 256k
    tokens, at the default rate."""

    seq_len: str
    steps: int
    batch: int = 256
    learning_rate: str = ""


@dataclass(frozen=True)
class Recipe:
    pretraining: Stage
    fine_tuning: tuple[Stage, ...]


# The longer the windows, the fewer different ones there are: rates and steps fall, and the model of
# the best validation is kept, be it that of the length before.
LONGER = (
    Stage("4k", 400, 64, "2e-4"),
    Stage("16k", 300, 16, "1e-4"),
    Stage("64k", 150, 8, "5e-5"),
)
RECIPES = {
    "mamba-1.4m": Recipe(Stage("64k", 1600), (Stage("1k", 6400, 256, "1e-3"), *LONGER)),
    "hyena-1.4m": Recipe(Stage("1k", 2400), (Stage("1k", 4000, 256, "8e-4"), *LONGER)),
}


def divide(contig: str, length: int) -> list[tuple[str, int, int, str]]:
    """Rows of the split for one record: contig, start, end, split."""
    haplotype = contig.rpartition("_")[2]
    if haplotype in ("mat", "hap1"):
        return [(contig, 0, length, "train")]
    if haplotype in ("pat", "hap2"):
        middle = length // 2 // KIB * KIB
        return [
            (contig, 0, middle, "test"),
            (contig, middle, middle + PIECE, "valid"),
            (contig, middle + PIECE, length, "test"),
        ]
    if haplotype != "hap0":
        sys.exit(f"{contig} ends in none of _mat, _pat, _hap0, _hap1, _hap2")
    edges = [*range(0, length - BLOCK // 2, BLOCK), length]
    rows = []
    for number, (start, end) in enumerate(pairwise(edges)):
        if number == 1:
            rows.append((contig, start, start + PIECE, "valid"))
            start += PIECE
        rows.append((contig, start, end, "test" if number % 2 else "train"))
    return rows


def prepare(folder: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for path in sorted(folder.glob("*.fa*")):
        species = path.name.partition(".")[0]
        store = out / f"{species}.h5"
        call = [sys.executable, "-m", "dnamamba", "data", "prepare", str(path)]
        subprocess.run([*call, "--out", str(store), "--force"], check=True)
        for contig, length in open_genome([store]).contigs.items():
            rows += divide(f"{species}/{contig}", length)
    lines = ("\t".join(map(str, row)) + "\n" for row in rows)
    (out / SPLIT).write_text("".join(lines))


def pretraining(model: str, data: Path, seq_len: str, steps: int) -> list[str]:
    stores = [str(path) for path in sorted(data.glob("*.h5"))]
    return [
        *("pretrain", *stores, "--model", model, "--bed", str(data / SPLIT), "--windows", "tile"),
        *("--seq-len", seq_len, "--batch-tokens", "256k", "--steps", str(steps)),
    ]


def fine_tuning(
    start: Path, data: Path, stage: Stage, steps: int, windows: int, extends_filters: bool
) -> list[str]:
    species = [f"{path.stem}={path}" for path in sorted(data.glob("*.h5"))]
    named = [word for each in species for word in ("--species", each)]
    return [
        *("classify", "train", str(start), *named, "--bed", str(data / SPLIT), "--split", "bed"),
        *("--seq-len", stage.seq_len, "--no-length-warmup", "--pool", "mean"),
        *("--batch-size", str(stage.batch), "--micro-batch", str(stage.batch)),
        *("--steps", str(steps), "--learning-rate", stage.learning_rate),
        *("--warmup-fraction", "0.1", "--eval-every", str(max(1, steps // 2))),
        *("--eval-windows", str(windows), "--workers", "3"),
        *(["--extend-filters"] if extends_filters else []),
    ]


class Benchmark:
    """Rows of all models, written after each."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.device = choose_device()
        self.gpus = visible_gpus(arguments.gpus)
        self.rows: list[dict[str, Any]] = []
        if arguments.json and arguments.json.exists():
            self.rows = json.loads(arguments.json.read_text())["rows"]
        self._lock = threading.Lock()

    def run(self, number: int, model: str) -> None:
        """One model from pretraining to the longest windows."""
        out, data = self.arguments.out, self.arguments.data
        gpu = self.gpus[number % len(self.gpus)] if self.device.type == "cuda" else None
        start, first = out / f"pretrained-{model}", RECIPES[model].pretraining
        if not (start / "model").exists():
            options = pretraining(model, data, first.seq_len, self._share(first.steps))
            if run_command(options, start, gpu)[0]:
                sys.exit(f"pretraining of {model} failed, see {start}.log")
        for stage in RECIPES[model].fine_tuning:
            name = f"{model} {stage.seq_len}"
            run = out / name.replace(" ", "-")
            if not any(row["name"] == name for row in self.rows):
                extends = model.startswith("hyena") and stage.seq_len != first.seq_len
                steps = self._share(stage.steps)
                options = fine_tuning(start, data, stage, steps, self.arguments.windows, extends)
                code, seconds = run_command(options, run, gpu)
                if code:
                    sys.exit(f"{name} failed, see {run}.log")
                self._add(summarise(name, options[2:], run, seconds))
            start = run

    def _share(self, steps: int) -> int:
        return max(1, round(steps * self.arguments.share))

    def _add(self, row: dict[str, Any]) -> None:
        print(f"{row['name']}: {row['test']['comparison']} ({row['seconds']:.0f} s)", flush=True)
        with self._lock:
            self.rows.append(row)
            if self.arguments.json:
                result = {**describe_setup(self.device), "gpus": len(self.gpus), "rows": self.rows}
                self.arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def train(arguments: argparse.Namespace) -> None:
    arguments.out.mkdir(parents=True, exist_ok=True)
    benchmark = Benchmark(arguments)
    with ThreadPoolExecutor(len(arguments.model)) as pool:
        jobs = [pool.submit(benchmark.run, *each) for each in enumerate(arguments.model)]
    for job in jobs:
        job.result()
    print("\n".join(table(benchmark.rows)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    preparing = commands.add_parser("prepare")
    preparing.add_argument("folder", type=Path)
    preparing.add_argument("--out", type=Path, required=True)
    preparing.set_defaults(command=lambda given: prepare(given.folder, given.out))
    training = commands.add_parser("train")
    training.add_argument("data", type=Path, help="what `prepare` wrote")
    training.add_argument("--out", type=Path, default=Path("runs/haplotypes"))
    training.add_argument("--json", type=Path)
    training.add_argument("--model", action="append", choices=RECIPES, help="may be given again")
    training.add_argument("--gpus", type=int, default=1)
    training.add_argument(
        "--windows", type=int, default=1000, help="windows evaluated in each split"
    )
    training.add_argument("--share", type=float, default=1.0, help="of all steps, to try it")
    training.set_defaults(command=train)
    arguments = parser.parse_args()
    if "model" in arguments:
        arguments.model = arguments.model or list(RECIPES)
    arguments.command(arguments)


if __name__ == "__main__":
    main()
