"""Option types and options that several commands share."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from dnamamba.errors import InputError
from dnamamba.intervals import parse_size

Command = Callable[..., Any]


class Size(click.ParamType):
    """131072, 1_000_000, 450k or 1M; see intervals.parse_size."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        try:
            return parse_size(value)
        except InputError as error:
            self.fail(str(error), param, ctx)


class Parsed(click.ParamType):
    """What a function makes of a text; its InputError is a mistake in usage."""

    def __init__(self, parse: Callable[[str], Any], name: str) -> None:
        self.parse, self.name = parse, name

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            return self.parse(value)
        except InputError as error:
            self.fail(str(error), param, ctx)


SIZE = Size()
FILE = click.Path(path_type=Path)
RECOMPUTE = click.option(
    "--recompute",
    type=click.Choice(["nothing", "cheap", "blocks"]),
    help="What the backward pass makes again instead of keeping it: all but the scan (cheap) or "
    "whole blocks. [default: what memory needs]",
)


def window_options(command: Command) -> Command:
    """How windows are laid; for commands that read windows. `split_options` included."""
    options: list[Callable[[Command], Command]] = [
        click.option(
            "--seq-len", type=SIZE, default="1k", show_default=True, help="Bases in a window."
        ),
        click.option(
            "--windows",
            "rule",
            type=click.Choice(["auto", "tile", "mamba", "hyenadna", "caduceus"]),
            default="auto",
            show_default=True,
            help="How windows are laid; auto is tile, with a BED mamba (the paper's).",
        ),
        split_options,
        click.option(
            "--edge",
            type=click.Choice(["shift", "pad", "skip"]),
            default="shift",
            show_default=True,
            help="Windows past a contig's end: moved inside, padded or skipped.",
        ),
        click.option(
            "--max-n-fraction",
            type=float,
            default=0.5,
            show_default=True,
            help="Skip windows with a larger share of N.",
        ),
        click.option(
            "--data-seed",
            type=int,
            default=0,
            show_default=True,
            help="Order, phase and strand of training windows.",
        ),
    ]
    return apply_options(options, command)


def split_options(command: Command) -> Command:
    """What is held out."""
    options: list[Callable[[Command], Command]] = [
        click.option(
            "--bed",
            type=FILE,
            help="4-column BED (chrom, start, end, train|valid|test) that rules the splits.",
        ),
        click.option(
            "--valid-contigs",
            metavar="NAMES",
            help="Contigs held out for validation, comma-separated; * matches anything.",
        ),
        click.option(
            "--test-contigs", metavar="NAMES", help="Contigs held out for the test, likewise."
        ),
        click.option(
            "--valid-fraction",
            type=float,
            default=0.05,
            show_default=True,
            help="Share of each contig for validation, where neither BED nor contigs are named.",
        ),
        click.option(
            "--test-fraction",
            type=float,
            default=0.05,
            show_default=True,
            help="Share of each contig for the test, likewise.",
        ),
        click.option(
            "--keep-overlap",
            is_flag=True,
            help="Keep training windows that overlap held-out ones, as published loaders do.",
        ),
    ]
    return apply_options(options, command)


def parse_labelled(text: str) -> tuple[str, tuple[str, ...]]:
    """Read `human=human.h5` or `human=a.fa,b.fa`: a label and its files."""
    label, _, files = text.partition("=")
    names = tuple(name.strip() for name in files.split(",") if name.strip())
    if not label.strip() or not names:
        raise InputError(
            f"a label and its files look like human=human.h5 or human=a.fa,b.fa, got {text!r}"
        )
    return label.strip(), names


LABELLED_FILES = Parsed(parse_labelled, "label=files")


def species_options(command: Command) -> Command:
    """Genomes to tell apart, and how they are divided; beside `window_options`."""
    options: list[Callable[[Command], Command]] = [
        click.option(
            "--species",
            type=LABELLED_FILES,
            metavar="LABEL=FILE[,FILE...]",
            multiple=True,
            help="A species and its genome: FASTA files and stores. Once for each species.",
        ),
        click.option(
            "--split",
            type=click.Choice(["homology", "hyenadna", "contigs", "bed"]),
            help="How species are divided: by homology to human chromosomes (test 5, 7, 9, 10, "
            "11; valid 1, 3, 12, 13), by a chromosome's own number as HyenaDNA does, or by "
            "contigs or a BED. [default: what --bed or --valid-contigs say, else homology]",
        ),
    ]
    return apply_options(options, command)


def apply_options(options: Sequence[Callable[[Command], Command]], command: Command) -> Command:
    """Decorate a command with options, which its help then shows in this order."""
    for option in reversed(options):
        command = option(command)
    return command


def optimiser_options(
    *, min_learning_rate: float, warmup_fraction: float
) -> list[Callable[[Command], Command]]:
    """The schedule's end and start, AdamW's decay, clipping; with a command's own defaults."""
    number = functools.partial(click.option, type=float, show_default=True)
    return [
        number("--min-learning-rate", default=min_learning_rate, help="Where the cosine ends."),
        number("--warmup-fraction", default=warmup_fraction, help="Share of steps in warm-up."),
        number("--weight-decay", default=0.1, help="AdamW's."),
        number("--grad-clip", default=1.0, help="Largest gradient norm; 0: none."),
    ]


def repeat_options(*, seeded: str) -> list[Callable[[Command], Command]]:
    """What makes two runs alike. seeded: what --seed decides."""
    return [
        click.option("--seed", type=int, default=0, show_default=True, help=seeded),
        click.option(
            "--precision",
            type=click.Choice(["auto", "bf16", "fp32"]),
            default="auto",
            show_default=True,
            help="auto is bf16 on GPUs, fp32 on CPUs, though those with AVX512-BF16 or AMX train "
            "a quarter faster in bf16; parameters stay fp32.",
        ),
    ]


def run_options(command: Command) -> Command:
    """Where and with what help a run computes; they do not change its result."""
    options: list[Callable[[Command], Command]] = [
        click.option(
            "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
        ),
        click.option(
            "--workers",
            "n_workers",
            type=int,
            help="Loader processes. [default: 0 on a CPU, 4 on a GPU]",
        ),
        click.option("--micro-batch", type=int, help="Windows in one pass. [default: what fits]"),
        RECOMPUTE,
    ]
    return apply_options(options, command)


_RUN_SETTINGS = ("device", "n_workers", "micro_batch", "recompute")


def read_run_options(values: dict[str, Any]) -> Any:
    """The RunOptions that `run_options` describe."""
    from dnamamba.training.config import RunOptions

    return RunOptions(**{name: values[name] for name in _RUN_SETTINGS})


def refuse_settings() -> None:
    """Beside --resume: settings that would change the result."""
    for name, flag in typed_options().items():
        if name not in ("resume", *_RUN_SETTINGS):
            raise click.UsageError(
                f"--resume continues a run with its own settings: leave out {flag}"
            )


def print_plan(plan: Any) -> None:
    """What a run would take, by rank 0."""
    from dnamamba.runtime import read_ranks

    if read_ranks().is_main:
        for name, value in plan.rows():
            click.echo(f"{name:>15}  {value}")


def conclude(context: click.Context, lines: Callable[[], Sequence[str]], outcome: Any) -> None:
    """What came out, by rank 0; a run that a signal ended leaves with the shell's code for that:
    130 for Ctrl-C, 143 for SIGTERM."""
    from dnamamba.runtime import read_ranks

    if read_ranks().is_main:
        for line in lines():
            click.echo(line)
    if outcome.stopped_by is not None:
        context.exit(128 + outcome.stopped_by)


def data_config(values: dict[str, Any], *, is_demo: bool, rc_augment: bool = True) -> Any:
    """The DataConfig that `window_options` describe.

    values: click's parameters. is_demo: hold whole chromosomes out unless something else is asked
    for, since the simulated species share them.
    """
    from dnamamba.data.splits import SplitConfig
    from dnamamba.data.window_dataset import DataConfig
    from dnamamba.data.windows import WindowConfig

    bed = values["bed"]
    valid, test = (split_names(values[key]) for key in ("valid_contigs", "test_contigs"))
    fractions_given = {"valid_fraction", "test_fraction"} & set(typed_options())
    if fractions_given and (bed is not None or valid or test):
        raise click.UsageError(
            "--valid-fraction and --test-fraction divide each contig; with a BED or contigs held "
            "out they have no meaning: leave them out"
        )
    if is_demo and bed is None and not (valid or test or fractions_given):
        valid, test = ("chr5",), ("chr4",)
    rule = values["rule"]
    if rule == "auto":
        rule = "tile" if bed is None else "mamba"
    return DataConfig(
        windows=WindowConfig(
            seq_len=values["seq_len"],
            rule=rule,
            edge=values["edge"],
            max_n_fraction=values["max_n_fraction"],
            drop_overlap=not values["keep_overlap"],
        ),
        splits=SplitConfig(
            bed=None if bed is None else str(bed.resolve()),
            valid_contigs=valid,
            test_contigs=test,
            valid_fraction=values["valid_fraction"],
            test_fraction=values["test_fraction"],
        ),
        rc_augment=rc_augment,
        seed=values["data_seed"],
    )


def species_config(values: dict[str, Any]) -> Any:
    """The SpeciesConfig that `species_options` and `window_options` describe.

    values: click's parameters.
    """
    from dnamamba.data.species.dataset import SpeciesConfig, SpeciesFiles

    of_tiles = ("rule", "edge", "keep_overlap", "valid_fraction", "test_fraction")
    for name, flag in typed_options().items():
        if name in of_tiles:
            raise click.UsageError(
                f"{flag} is for windows that tile a genome; those of --species are drawn at "
                "random from whole contigs or rows of a BED: leave it out"
            )
    bed = values["bed"]
    valid, test = (split_names(values[key]) for key in ("valid_contigs", "test_contigs"))
    by_default: Any = "bed" if bed is not None else "contigs" if valid or test else "homology"
    return SpeciesConfig(
        species=tuple(
            SpeciesFiles(label, tuple(str(Path(file).resolve()) for file in files))
            for label, files in values["species"]
        ),
        seq_len=values["seq_len"],
        split=values["split"] or by_default,
        valid_contigs=valid,
        test_contigs=test,
        bed=None if bed is None else str(bed.resolve()),
        max_n_fraction=values["max_n_fraction"],
        seed=values["data_seed"],
    )


def split_names(text: str | None) -> tuple[str, ...]:
    """Comma-separated names; none of an option that was left out."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def typed_options() -> dict[str, str]:
    """What is on this command line: the parameters' names and how they are called there."""
    context = click.get_current_context()
    return {
        parameter.name: parameter.opts[0]
        for parameter in context.command.params
        if parameter.name
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    }
