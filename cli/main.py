"""The `dnamamba` command. Commands are imported when they run, so `--help` needs no torch."""

import importlib
import sys

import click

from dnamamba import __version__

EXIT_FAILED = 1


class LazyGroup(click.Group):
    """A group that imports its commands when they are called.

    lazy: name -> (`module.attribute` in dnamamba.cli, short help).
    """

    def __init__(self, lazy: dict[str, tuple[str, str]], name: str, help: str):
        super().__init__(name=name, help=help, no_args_is_help=True)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return None
        module, _, attribute = self._lazy[cmd_name][0].partition(".")
        return getattr(importlib.import_module(f"dnamamba.cli.{module}"), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, help) in self._lazy.items()])


cli = LazyGroup(
    {
        "pretrain": ("pretrain.pretrain", "Train a DNA language model."),
        "classify": ("classify.classify", "Classify sequences: great apes, or any labelled ones."),
        "embed": ("embed.embed", "Write embeddings of regions, or per-base tracks, of any length."),
        "probe": ("probe.probe", "Predict labels from embeddings, beside k-mers."),
        "score": ("score.score", "Score the variants of a VCF: likelihood ratios and distances."),
        "data": ("data.data", "Inspect, download, prepare, simulate and check genomes."),
        "convert": ("convert.convert", "Read other projects' weights, and write ours for them."),
        "bench": ("bench.bench", "Measure how fast operators and training steps are here."),
        "doctor": ("doctor.doctor", "Check versions, devices and kernels of this machine."),
    },
    name="dnamamba",
    help="""Train and use DNA language models.

    \b
    Examples:
      dnamamba pretrain --steps 200
      dnamamba pretrain genome.fa --seq-len 1M
      dnamamba data info genome.fa

    Lengths read 131072, 1_000_000, 450k or 1M; k and M are powers of two: 1k = 1,024 and
    1M = 2^20 = 1,048,576.
    """,
)
cli = click.version_option(__version__, prog_name="dnamamba")(cli)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake gives one line and exit code 1 (2 for usage)."""
    from dnamamba.errors import InputError, TrainingError, WrongResultError
    from dnamamba.runtime import set_up_logging

    set_up_logging()
    try:
        code = cli.main(arguments, prog_name="dnamamba", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        code = 2
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        click.echo("Stopped.", err=True)
        code = 130
    except (InputError, TrainingError, WrongResultError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        code = EXIT_FAILED
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
