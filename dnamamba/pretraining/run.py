"""Pretraining a DNA language model: genome, windows, model and loop put together."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import torch

from dnamamba.baselines.markov import MarkovBaseline
from dnamamba.configs import from_dict, to_dict
from dnamamba.data.window_dataset import (
    WindowDataset,
    build_datasets,
    evaluation_samples,
)
from dnamamba.data_prep.demo.simulate import DEMO_GENOMES, cached_demo_genomes
from dnamamba.data_prep.genomes.genome import Genome, open_genome
from dnamamba.errors import InputError
from dnamamba.files import describe_file
from dnamamba.intervals import Split
from dnamamba.kernels.backend import describe_choices
from dnamamba.models import DnaModel, no_weight_decay_names
from dnamamba.pretraining.config import PretrainConfig
from dnamamba.pretraining.objectives import OBJECTIVES, choose_objective
from dnamamba.pretraining.report import write_report
from dnamamba.pretraining.validation import LanguageValidator
from dnamamba.runtime import Compute, logger, open_compute
from dnamamba.tokenizer import Codes
from dnamamba.training.config import RunOptions
from dnamamba.training.memory_plan import Plan, Workload, make_plan, shareable
from dnamamba.training.run_folder import RunFolder, describe_start
from dnamamba.training.trainer import Outcome, Stream, Trainer

T = TypeVar("T")

_BASELINE_BASES = 100_000_000
_BASELINE_ORDERS = 11


def open_named_genome(names: tuple[str, ...]) -> Genome:
    """Open files by path; `demo` and `demo-apes` make simulated genomes in the cache folder."""
    if not is_demo(names):
        return open_genome(names)
    return open_genome(list(cached_demo_genomes(names[0]).values()))


def is_demo(names: tuple[str, ...]) -> bool:
    """Whether a name stands for simulated genomes. Raises InputError for one beside others."""
    simulated = [name for name in names if name in DEMO_GENOMES]
    if simulated and len(names) > 1:
        raise InputError(
            f"{simulated[0]!r} stands for a genome set of its own; got {', '.join(names)}"
        )
    return bool(simulated)


def plan_pretraining(config: PretrainConfig, options: RunOptions | None = None) -> Plan:
    """What `pretrain` would do, without a step of it."""
    options = options or RunOptions()
    with open_compute(options.device, config.train.precision) as compute:
        return _Setup(config, options, compute).plan


def pretrain(
    config: PretrainConfig, out: Path, options: RunOptions | None = None, *, force: bool = False
) -> Outcome:
    """Train a language model from scratch into a new run folder.

    Raises InputError where the data or the settings cannot be used or `out` holds a run already
    (unless `force`), TrainingError where the loss stops being finite.
    """
    options = options or RunOptions()
    with open_compute(options.device, config.train.precision) as compute:
        setup = _Setup(config, options, compute)
        compute.on_main_first(lambda: _start(setup, out, force))
        return _train(setup, RunFolder(out), options)


def resume(path: Path, options: RunOptions | None = None) -> Outcome:
    """Continue a run from its newest checkpoint, as if it had never stopped.

    On the same kind of CPU the weights come out bit for bit the same, with any number of workers.
    Raises InputError where there is no run, or where its genome or BED has changed.
    """
    options = options or RunOptions()
    run = RunFolder.open(path)
    config = read_config(run)
    with open_compute(options.device, config.train.precision) as compute:
        batch_size = config.train.batch_size(config.data.windows.seq_len)
        train = shareable(config.train, batch_size, compute)
        setup = _Setup(replace(config, train=train), options, compute)
        compute.on_main_first(lambda: _check_unchanged(setup, run))
        return _train(setup, run, options)


def _start(setup: "_Setup", out: Path, force: bool) -> None:
    baseline = setup.baseline()
    run = RunFolder.create(out, force=force)
    run.write_json("config", {"format_version": 1} | to_dict(setup.config))
    run.write_json("manifest", setup.manifest())
    run.write_json("baseline", baseline)
    setup.announce(baseline)


def _check_unchanged(setup: "_Setup", run: RunFolder) -> None:
    """Refuse to go on with other files; write again what a kill kept from being written."""
    if (run.path / "manifest.json").exists():
        before = run.read_json("manifest").get("data", {}).get("files")
        if before != setup.files():
            raise InputError(
                f"the genome or BED is not the one {run.path} was started with: expected {before}, "
                f"got {setup.files()}"
            )
    else:
        run.write_json("manifest", setup.manifest())
    if not (run.path / "baseline.json").exists():
        run.write_json("baseline", setup.baseline())
    setup.announce(run.read_json("baseline"))


def read_config(run: RunFolder) -> PretrainConfig:
    """A run's settings. Raises InputError for a folder written by another format."""
    saved = run.read_json("config")
    version = saved.pop("format_version", None)
    if version != 1:
        raise InputError(f"{run.path} has config format_version {version}, this dnamamba reads 1")
    return from_dict(PretrainConfig, saved)


def _train(setup: "_Setup", run: RunFolder, options: RunOptions) -> Outcome:
    compute, config = setup.compute, setup.config
    workers = options.n_workers
    if workers is None:
        workers = 0 if compute.device.type == "cpu" else 4
    train = config.train
    trainer = Trainer(
        objective=setup.objective,
        no_decay=[f"model.{name}" for name in no_weight_decay_names(setup.model)],
        stream=Stream(
            dataset=setup.datasets[Split.TRAIN],
            batch_size=train.batch_size(config.data.windows.seq_len),
            tokens_after=lambda step: step * train.batch_tokens,
        ),
        validator=LanguageValidator(
            setup.objective, setup.datasets[Split.VALID], compute, train.eval_tokens
        ),
        config=config.train,
        run=run,
        compute=compute,
        n_workers=workers,
    )
    trainer.restore()
    outcome = trainer.fit()
    if compute.ranks.is_main:
        ended = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "step": outcome.step,
            "stopped_by": outcome.stopped_by.name if outcome.stopped_by else None,
        }
        run.update_manifest({"ended": ended, "kernels": describe_choices()})
        write_report(run.path)
    return outcome


class _Setup:
    """Genome, datasets, model and plan of a run, the config resolved to what will be done."""

    def __init__(self, config: PretrainConfig, options: RunOptions, compute: Compute):
        self.compute = compute
        self.genome = self._open_genome(config)
        torch.manual_seed(config.train.seed)
        self.model = DnaModel(config.model).to(compute.device)
        objective = choose_objective(config.objective, is_causal=self.model.is_causal)
        self.objective = OBJECTIVES[objective](
            self.model, softmask_weight=config.train.softmask_weight
        )
        self.datasets: Mapping[Split, WindowDataset] = build_datasets(
            self.genome, config.data, masks_bases=self.objective.masks_bases
        )
        self.plan = make_plan(
            self.objective,
            compute,
            config.model,
            Workload(
                seq_len=config.data.windows.seq_len,
                windows={split: data.index.n_windows() for split, data in self.datasets.items()},
                batch_size=config.train.batch_size(config.data.windows.seq_len),
                max_steps=config.train.max_steps,
            ),
            micro_batch=_first_given(options.micro_batch, config.train.micro_batch),
            recompute=_first_given(options.recompute, config.train.recompute),
        )
        self.objective.recompute = self.plan.recompute
        resolved = replace(
            config.train,
            micro_batch=self.plan.micro_batch,
            recompute=self.plan.recompute,
            precision="fp32" if compute.autocast_dtype is None else "bf16",
        )
        self.config = replace(config, train=resolved, objective=objective)

    def _open_genome(self, config: PretrainConfig) -> Genome:
        def open_and_scan() -> Genome:
            genome = open_named_genome(config.genome)
            genome.statistics()
            return genome

        # Rank 0 first: it makes demo genomes, indexes and scans, which the others then find.
        genome = self.compute.on_main_first(open_and_scan)
        return open_and_scan() if genome is None else genome

    def files(self) -> list[dict[str, Any]]:
        """Name, size and checksum of everything that decides the windows."""
        bed = self.config.data.splits.bed
        return self.genome.sources() + ([] if bed is None else [describe_file(Path(bed))])

    def description(self) -> str:
        if is_demo(self.config.genome):
            return "simulated great-ape demo genomes (not real sequence)"
        return ", ".join(Path(name).name for name in self.config.genome)

    def manifest(self) -> dict[str, Any]:
        return {
            **describe_start(self.compute),
            "data": {
                "description": self.description(),
                "files": self.files(),
                "contigs": len(self.genome.contigs),
                "bases": sum(self.genome.contigs.values()),
                "windows": self.plan.windows,
            },
            "parameters": self.plan.parameters,
        }

    def baseline(self) -> dict[str, Any]:
        """Markov models of the training windows, judged on the model's validation windows."""
        train_set, valid_set = self.datasets[Split.TRAIN], self.datasets[Split.VALID]
        samples = evaluation_samples(train_set, _BASELINE_BASES)
        n_bases = len(samples) * self.plan.seq_len
        # Contexts that cannot each come up about once only cost memory.
        order = min(_BASELINE_ORDERS, max(1, int(math.log(max(n_bases, 4), 4))))
        markov = MarkovBaseline(order, both_strands=self.config.data.rc_augment)
        markov.fit(read_windows(train_set, samples))
        evaluated = evaluation_samples(valid_set, self.config.train.eval_tokens)
        return markov.summarise(read_windows(valid_set, evaluated))

    def announce(self, baseline: Mapping[str, Any]) -> None:
        logger.info("data: %s", self.description())
        for name, value in self.plan.rows():
            logger.info("%s: %s", name, value)
        bits = {row["order"]: row["bits_per_base"] for row in baseline["orders"]}
        shown = sorted({order for order in (0, 3, baseline["best_order"]) if order in bits})
        logger.info(
            "Markov models of the same data, validation bits/base: %s (order %s is best)",
            ", ".join(f"order {order} {bits[order]:.4f}" for order in shown),
            baseline["best_order"],
        )


def _first_given(one: T | None, other: T | None) -> T | None:
    return other if one is None else one


def read_windows(dataset: WindowDataset, samples: list[int]) -> Iterator[Codes]:
    """Windows by sample number, a few megabytes at a time."""
    size = max(1, (1 << 22) // dataset.index.config.seq_len)
    for first in range(0, len(samples), size):
        yield dataset.read(samples[first : first + size])


def conclusion(path: Path, outcome: Outcome) -> list[str]:
    """What a finished or stopped run tells its user, in lines."""
    run = RunFolder.open(path)
    lines = []
    if outcome.stopped_by is not None:
        lines.append(
            f"Stopped by {outcome.stopped_by.name} after step {outcome.step}; continue with: "
            f"dnamamba pretrain --resume {path}"
        )
    rows = [row for row in run.metrics.rows() if row["split"] == Split.VALID]
    if rows:
        bits = rows[-1]["bits_per_base"]
        lines.append(f"Validation: {bits:.4f} bits per base after step {rows[-1]['step']}")
        if run.read_json("config").get("objective") == "masked":
            lines.append("  of hidden bases, from both sides; the Markov models predict next ones")
        else:
            lines += _against_baseline(bits, run.read_json("baseline"))
    lines.append(f"Model:  {run.model}")
    lines.append(f"Report: {run.path / 'report.html'}")
    return lines


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
