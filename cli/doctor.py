"""`dnamamba doctor`."""

from pathlib import Path

import click

from dnamamba.cli.options import DEVICE, file_option


@click.command()
@DEVICE
@file_option("--out", "Folder of runs to test.", default=Path("runs"))
def doctor(device: str, out: Path) -> None:
    """Show versions, devices and kernels, and check them on this machine.

    Compares every kernel backend with its float64 definition, gradients included, and measures the
    write speed of the folder of runs. Exit code 1 if something does not work.

    \b
    Example:
      dnamamba doctor --out runs
    """
    from dnamamba.doctor import examine

    findings = examine(device, out)
    for finding in findings:
        mark = "ok  " if finding.ok else "FAIL"
        click.echo(f"{mark} {finding.name:<15} {finding.detail}")
    if not all(finding.ok for finding in findings):
        click.get_current_context().exit(1)
