"""Option types, and groups of options that reach a command as one typed argument."""

import functools
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dnamamba.errors import InputError
from dnamamba.intervals import parse_size

if TYPE_CHECKING:
    from dnamamba.data.species.dataset import SpeciesConfig
    from dnamamba.data.window_dataset import DataConfig
    from dnamamba.training.config import RunOptions
    from dnamamba.training.run import TrainingRun

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]


class Parsed(click.ParamType):
    """A value that a function reads from text; its InputError is a usage error."""

    def __init__(self, parse: Callable[[str], Any], name: str) -> None:
        self.parse, self.name = parse, name

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            return self.parse(value)
        except InputError as error:
            self.fail(str(error), param, ctx)


SIZE = Parsed(parse_size, "size")
"""131072, 1_000_000, 450k or 1M; see intervals.parse_size."""
FILE = click.Path(path_type=Path)


def option(names: str, help: str, **settings: Any) -> Decorator:
    """A click.option that shows its default. names: as in `--steps max_steps`."""
    return click.option(*names.split(), help=help, show_default="default" in settings, **settings)


def choice(names_and_words: str, help: str, **settings: Any) -> Decorator:
    """An option with a choice of words, as in `--edge shift|pad|skip`."""
    names, _, words = names_and_words.rpartition(" ")
    return option(names, help, type=click.Choice(words.split("|")), **settings)


switch = functools.partial(option, is_flag=True)
number = functools.partial(option, type=float)
integer = functools.partial(option, type=int)
whole = functools.partial(option, type=click.IntRange(min=1))
size_option = functools.partial(option, type=SIZE)
file_option = functools.partial(option, type=FILE)


def apply_options(options: Sequence[Decorator], command: Command) -> Command:
    """Decorate a command with options, in the order of its help."""
    for decorate in reversed(options):
        command = decorate(command)
    return command


def grouped(name: str, build: Callable[..., Any], options: Sequence[Decorator]) -> Decorator:
    """Give a command options whose values reach it as one argument, `name`, made by `build`."""

    def holder() -> None: ...

    parameters = getattr(apply_options(options, holder), "__click_params__")  # noqa: B009
    names = [parameter.name for parameter in parameters]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def called(*arguments: Any, **values: Any) -> Any:
            values[name] = build(**{own: values.pop(own) for own in names})
            return command(*arguments, **values)

        return apply_options(options, called)

    return decorate


def typed_options() -> dict[str, str]:
    """Return name -> flag of the parameters on this command line."""
    context = click.get_current_context()
    return {
        parameter.name: parameter.opts[0]
        for parameter in context.command.params
        if parameter.name
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    }


def typed_values(**values: Any) -> dict[str, Any]:
    """Keep the values on the command line; the library has the defaults of the others."""
    typed = typed_options()
    return {name: value for name, value in values.items() if name in typed}


def refuse_typed(names: Container[str], why: str) -> None:
    """Raise UsageError for an option on the command line that would be ignored."""
    for name, flag in typed_options().items():
        if name in names:
            raise click.UsageError(f"{flag} {why}: leave it out")


def split_names(text: str | None) -> tuple[str, ...]:
    """Split comma-separated names; () for None."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Length of windows, contigs or BED rows held out, windows skipped."""

    seq_len: int | None = None
    bed: Path | None = None
    valid_contigs: str | None = None
    test_contigs: str | None = None
    max_n_fraction: float | None = None
    data_seed: int = 0

    @property
    def bed_path(self) -> str | None:
        return None if self.bed is None else str(self.bed.resolve())


@dataclass(frozen=True, kw_only=True)
class WindowOptions(HeldOut):
    """How windows tile a genome."""

    seq_len: int
    max_n_fraction: float
    rule: Any
    edge: Any
    keep_overlap: bool
    valid_fraction: float
    test_fraction: float

    def data_config(self, genome: Sequence[str], *, rc_augment: bool = True) -> "DataConfig":
        """genome: names of files; simulated ones hold out whole chromosomes by default."""
        from dnamamba.data.splits import SplitConfig
        from dnamamba.data.window_dataset import DataConfig
        from dnamamba.data.windows import WindowConfig
        from dnamamba.pretraining.config import default_splits

        fractions = {"valid_fraction", "test_fraction"} & set(typed_options())
        named = self.bed is not None or bool(self.valid_contigs or self.test_contigs)
        if named:
            why = "divides each contig, which has no meaning with a BED or contigs held out"
            refuse_typed(fractions, why)
        splits = SplitConfig(
            bed=self.bed_path,
            valid_contigs=split_names(self.valid_contigs),
            test_contigs=split_names(self.test_contigs),
            valid_fraction=self.valid_fraction,
            test_fraction=self.test_fraction,
        )
        rule: Any = "tile" if self.bed is None else "mamba"
        return DataConfig(
            windows=WindowConfig(
                seq_len=self.seq_len,
                rule=rule if self.rule == "auto" else self.rule,
                edge=self.edge,
                max_n_fraction=self.max_n_fraction,
                drop_overlap=not self.keep_overlap,
            ),
            splits=splits if named or fractions else default_splits(genome),
            rc_augment=rc_augment,
            seed=self.data_seed,
        )


window_options = grouped(
    "windows",
    WindowOptions,
    [
        size_option("--seq-len", "Bases in a window.", default="1k"),
        choice(
            "--windows rule auto|tile|mamba|hyenadna|caduceus",
            "How windows are laid; auto is tile, with a BED mamba (the paper's).",
            default="auto",
        ),
        file_option("--bed", "BED that rules the splits: chrom, start, end, train|valid|test."),
        option("--valid-contigs", "Contigs for validation: chr1,chr2 or chr*.", metavar="NAMES"),
        option("--test-contigs", "Contigs for the test, likewise.", metavar="NAMES"),
        number("--valid-fraction", "Else, share of each contig for validation.", default=0.05),
        number("--test-fraction", "Else, share of each contig for the test.", default=0.05),
        switch("--keep-overlap", "Keep training windows that overlap held-out ones, as published."),
        choice(
            "--edge shift|pad|skip",
            "Windows past a contig's end: moved inside, padded or skipped.",
            default="shift",
        ),
        number("--max-n-fraction", "Skip windows with a larger share of N.", default=0.5),
        integer("--data-seed", "Order, phase and strand of training windows.", default=0),
    ],
)
"""The argument `windows`, a WindowOptions."""


def parse_labelled(text: str) -> tuple[str, tuple[str, ...]]:
    """Read a label and its files: `human=human.h5` or `human=a.fa,b.fa`."""
    label, _, files = text.partition("=")
    names = split_names(files)
    if not label.strip() or not names:
        raise InputError(
            f"a label and its files must look like human=human.h5 or human=a.fa,b.fa, got {text!r}"
        )
    return label.strip(), names


LABELLED_FILES = Parsed(parse_labelled, "label=files")
LabelledFiles = tuple[tuple[str, tuple[str, ...]], ...]

SPECIES_OPTIONS = [
    option(
        "--species",
        "A species and its genome: FASTA files and stores. Once for each species.",
        type=LABELLED_FILES,
        metavar="LABEL=FILE[,FILE...]",
        multiple=True,
    ),
    choice(
        "--split homology|hyenadna|contigs|bed",
        "How species are divided: by homology to human chromosomes (test 5, 7, 9, 10, 11; valid 1, "
        "3, 12, 13), by a chromosome's own number as HyenaDNA does, or by contigs or a BED. "
        "[default: what --bed or --valid-contigs say, else homology]",
    ),
]


def species_config(species: LabelledFiles, split: Any, windows: HeldOut) -> "SpeciesConfig":
    """Config of the named genomes; without any, of the simulated great apes."""
    from dnamamba.classification.config import demo_apes_config
    from dnamamba.data.species.dataset import SpeciesConfig, SpeciesFiles

    refuse_typed(
        ("rule", "edge", "keep_overlap", "valid_fraction", "test_fraction"),
        "is for windows that tile a genome; those of --species are drawn at random",
    )
    seq_len = windows.seq_len or 1024
    named = tuple(SpeciesFiles(label, tuple(map(absolute, files))) for label, files in species)
    config = SpeciesConfig(species=named, seq_len=seq_len) if named else demo_apes_config(seq_len)
    changes: dict[str, Any] = {"warmup_lengths": (), "seed": windows.data_seed}
    valid, test = split_names(windows.valid_contigs), split_names(windows.test_contigs)
    split = split or ("bed" if windows.bed else "contigs" if valid or test else None)
    if split:
        changes |= {"split": split, "valid_contigs": valid, "test_contigs": test}
        changes["bed"] = windows.bed_path
    if windows.max_n_fraction is not None:
        changes["max_n_fraction"] = windows.max_n_fraction
    return replace(config, **changes)


def absolute(path: Path | str) -> str:
    return str(Path(path).resolve())


@dataclass(frozen=True, kw_only=True)
class RunTarget:
    """The folder of a new or resumed run."""

    out: Path | None
    force: bool
    resume: Path | None
    dry_run: bool


def target_options(default_out: str) -> Decorator:
    """Options for the argument `target`, a RunTarget."""
    options = [
        file_option("--out", f"Run folder. [default: {default_out}]"),
        switch("--force", "Start over in a run folder that exists."),
        file_option("--resume", "Continue a run folder exactly.", metavar="RUN"),
        switch("--dry-run", "Print the plan and stop."),
    ]
    return grouped("target", RunTarget, options)


def optimiser_options(*, min_learning_rate: float, warmup_fraction: float) -> list[Decorator]:
    """Options of schedule, decay and clipping with a command's defaults."""
    return [
        number("--min-learning-rate", "Where the cosine ends.", default=min_learning_rate),
        number("--warmup-fraction", "Share of steps in warm-up.", default=warmup_fraction),
        number("--weight-decay", "AdamW's.", default=0.1),
        number("--grad-clip", "Largest gradient norm; 0: none.", default=1.0),
    ]


def repeat_options(*, seeded: str) -> list[Decorator]:
    """Options of reproducibility. seeded: help of --seed."""
    return [
        integer("--seed", seeded, default=0),
        choice(
            "--precision auto|bf16|fp32",
            "auto is bf16 on GPUs, fp32 on CPUs, though those with AVX512-BF16 or AMX train a "
            "quarter faster in bf16; parameters stay fp32.",
            default="auto",
        ),
    ]


DEVICE = option("--device", "auto, cpu, cuda or cuda:N.", default="auto")
MICRO_BATCH = integer("--micro-batch", "Windows in one pass. [default: what fits]")
RECOMPUTE = choice(
    "--recompute nothing|cheap|blocks",
    "What the backward pass computes again instead of keeping it: all but the scan (cheap) or "
    "whole blocks. [default: what memory needs]",
)
_RUN_SETTINGS = ("device", "n_workers", "micro_batch", "recompute")


def _run_options(**values: Any) -> "RunOptions":
    from dnamamba.training.config import RunOptions

    return RunOptions(**values)


run_options = grouped(
    "options",
    _run_options,
    [
        DEVICE,
        integer("--workers n_workers", "Loader processes. [default: 0 on a CPU, 4 on a GPU]"),
        MICRO_BATCH,
        RECOMPUTE,
    ],
)
"""The argument `options`, a RunOptions."""


def run_training(
    use: "type[TrainingRun[Any]]",
    target: RunTarget,
    options: "RunOptions",
    configure: Callable[[], tuple[Any, Path]],
) -> None:
    """Resume, plan or start a run, and print what came out.

    configure: returns the config of a new run and its default folder. A run that a signal ended
    exits with the shell's code for that: 130 for Ctrl-C, 143 for SIGTERM.
    """
    from dnamamba.training.run import plan_run, resume_run, start_run

    if target.resume is not None:
        allowed = ("resume", *_RUN_SETTINGS)
        others = typed_options().keys() - allowed
        refuse_typed(others, "would change a run, which --resume continues with its own settings")
        out = target.resume
        outcome = resume_run(use, out, options)
    else:
        config, default_out = configure()
        if target.dry_run:
            plan = plan_run(use, config, options)
            echo_once(lambda: [f"{name:>15}  {value}" for name, value in plan.rows()])
            return
        out = target.out or default_out
        outcome = start_run(use, config, out, options, force=target.force)
    echo_once(lambda: use.conclusion(out, outcome))
    if outcome.stopped_by is not None:
        click.get_current_context().exit(128 + outcome.stopped_by)


def echo_once(lines: Callable[[], Sequence[str]]) -> None:
    """Print lines on rank 0."""
    from dnamamba.runtime import read_ranks

    if read_ranks().is_main:
        click.echo("\n".join(lines()))
