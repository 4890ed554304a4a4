"""Pretrain a DNA language model."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dnamamba.baselines.markov import MarkovBaseline
from dnamamba.data.window_dataset import WindowDataset, build_datasets, evaluation_samples
from dnamamba.data_prep.demo.simulate import cached_demo_genomes
from dnamamba.data_prep.genomes.genome import Genome, open_genome
from dnamamba.files import describe_file
from dnamamba.intervals import Split
from dnamamba.models import DnaModel
from dnamamba.pretraining.config import PretrainConfig, is_demo
from dnamamba.pretraining.objectives import OBJECTIVES, choose_objective
from dnamamba.pretraining.validation import LanguageValidator
from dnamamba.runtime import Compute, logger
from dnamamba.tokenizer import Codes
from dnamamba.training.config import RunOptions
from dnamamba.training.memory_plan import Plan, Workload
from dnamamba.training.run import (
    TrainingRun,
    announce_plan,
    how_to_resume,
    plan_run,
    resume_run,
    start_run,
)
from dnamamba.training.run_folder import RunFolder
from dnamamba.training.trainer import Outcome, Stream

_BASELINE_BASES = 100_000_000
_BASELINE_ORDERS = 11


def pretrain(
    config: PretrainConfig, out: Path, options: RunOptions | None = None, *, force: bool = False
) -> Outcome:
    """Train a language model from scratch into a new run folder.

    out: gets model/, checkpoints, metrics.jsonl and report.html. options: device, workers, memory.

        config = PretrainConfig.with_defaults(("hg38.fa",), model="mamba-1.4m")
        pretrain(config, Path("runs/human"))
        model = DnaModel.from_pretrained("runs/human")

    Raises InputError if the data or the settings cannot be used or `out` holds a run already
    (unless `force`), TrainingError if the loss stops being finite.
    """
    return start_run(Pretraining, config, out, options, force=force)


def resume(path: Path, options: RunOptions | None = None) -> Outcome:
    """Continue a run as if it had never stopped; see training.run.resume_run."""
    return resume_run(Pretraining, path, options)


def plan_pretraining(config: PretrainConfig, options: RunOptions | None = None) -> Plan:
    """Sizes, steps and memory of `pretrain`, without training; `.rows()` are lines for people."""
    return plan_run(Pretraining, config, options)


def open_named_genome(names: tuple[str, ...]) -> Genome:
    """Open files, or for `demo` and `demo-apes` simulated genomes in the cache folder."""
    if not is_demo(names):
        return open_genome(names)
    return open_genome(list(cached_demo_genomes(names[0]).values()))


class Pretraining(TrainingRun[PretrainConfig]):
    purpose = "pretrain"
    config_type = PretrainConfig

    def __init__(
        self,
        config: PretrainConfig,
        options: RunOptions,
        compute: Compute,
        *,
        resumed: RunFolder | None = None,
    ) -> None:
        self.compute = compute
        self.genome = self._open_genome(config)
        seq_len, train = config.data.windows.seq_len, config.train
        torch.manual_seed(train.seed)
        model = DnaModel(config.model).to(compute.device)
        objective = choose_objective(config.objective, is_causal=model.is_causal)
        loss = OBJECTIVES[objective](model, softmask_weight=train.softmask_weight)
        self.objective = loss
        self.datasets: Mapping[Split, WindowDataset] = build_datasets(
            self.genome, config.data, masks_bases=loss.masks_bases
        )
        work = Workload(
            seq_len=seq_len,
            windows={split: data.index.n_windows() for split, data in self.datasets.items()},
            batch_size=train.batch_size(seq_len),
            max_steps=train.max_steps,
        )
        train = self.plan_recipe(
            train.fill_in(config.model), work, config.model, options, resumes=resumed is not None
        )
        self.config = replace(config, train=train, objective=objective)
        self.stream = Stream(
            dataset=self.datasets[Split.TRAIN],
            batch_size=work.batch_size,
            tokens_after=lambda step: step * train.batch_tokens,
        )
        self.validator = LanguageValidator(
            loss, self.datasets[Split.VALID], compute, train.eval_tokens
        )

    def _open_genome(self, config: PretrainConfig) -> Genome:
        def open_and_scan() -> Genome:
            genome = open_named_genome(config.genome)
            genome.statistics()
            return genome

        # Rank 0 makes demo genomes, indexes and scans; the others find them.
        return self.compute.on_main_first(open_and_scan) or open_and_scan()

    def files(self) -> list[dict[str, Any]]:
        bed = self.config.data.splits.bed
        return self.genome.sources() + ([] if bed is None else [describe_file(Path(bed))])

    def description(self) -> str:
        if is_demo(self.config.genome):
            return "simulated great-ape demo genomes (not real sequence)"
        return ", ".join(Path(name).name for name in self.config.genome)

    def describe(self) -> dict[str, Any]:
        data = {
            "description": self.description(),
            "files": self.files(),
            "contigs": len(self.genome.contigs),
            "bases": sum(self.genome.contigs.values()),
            "windows": self.plan.windows,
        }
        return {"data": data}

    def fit_baseline(self) -> Callable[[RunFolder], None]:
        """Fit Markov models to the training windows; evaluate on the model's validation windows."""
        train_set, valid_set = self.datasets[Split.TRAIN], self.datasets[Split.VALID]
        samples = evaluation_samples(train_set, _BASELINE_BASES)
        n_bases = len(samples) * self.plan.seq_len
        # Contexts that occur less than once on average only cost memory.
        order = min(_BASELINE_ORDERS, max(1, int(math.log(max(n_bases, 4), 4))))
        markov = MarkovBaseline(order, both_strands=self.config.data.rc_augment)
        markov.fit(read_windows(train_set, samples))
        evaluated = evaluation_samples(valid_set, self.config.train.eval_tokens)
        record = markov.summarise(read_windows(valid_set, evaluated))
        return lambda folder: folder.write_json("baseline", record)

    def announce(self, baseline: Mapping[str, Any]) -> None:
        announce_plan(self.description(), self.plan)
        bits = {row["order"]: row["bits_per_base"] for row in baseline["orders"]}
        shown = sorted({order for order in (0, 3, baseline["best_order"]) if order in bits})
        logger.info(
            "Markov models of the same data, validation bits/base: %s (order %s is best)",
            ", ".join(f"order {order} {bits[order]:.4f}" for order in shown),
            baseline["best_order"],
        )

    @staticmethod
    def conclusion(path: Path, outcome: Outcome) -> list[str]:
        run = RunFolder.open(path)
        lines = how_to_resume(outcome, "pretrain", path)
        rows = [row for row in run.metrics.rows() if row["split"] == Split.VALID]
        if rows:
            bits = rows[-1]["bits_per_base"]
            lines.append(f"Validation: {bits:.4f} bits per base after step {rows[-1]['step']}")
            if run.read_json("config").get("objective") == "masked":
                lines.append("  of hidden bases, from both sides; Markov models predict next ones")
            else:
                lines += _against_baseline(bits, run.read_json("baseline"))
        return [*lines, f"Model:  {run.model}", f"Report: {run.path / 'report.html'}"]


def read_windows(dataset: WindowDataset, samples: list[int]) -> Iterator[Codes]:
    """Yield windows by sample number, a few megabytes at a time."""
    size = max(1, (1 << 22) // dataset.index.config.seq_len)
    for first in range(0, len(samples), size):
        yield dataset.read(samples[first : first + size])


def _against_baseline(bits: float, baseline: Mapping[str, Any]) -> list[str]:
    by_order = {row["order"]: row["bits_per_base"] for row in baseline["orders"]}
    best = baseline["best_order"]
    lines = []
    for order in sorted({3, best} & set(by_order)):
        name = f"order-{order} Markov model" + (", the best order" if order == best else "")
        verdict = "better" if bits < by_order[order] else "worse"
        difference = abs(by_order[order] - bits)
        lines.append(
            f"  {name}: {by_order[order]:.4f}; the model is {difference:.4f} bits {verdict}"
        )
    return lines
