"""What `dnamamba embed` does to write a file of embeddings."""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from dnamamba.cli.row_output import conclude_rows, refuse_output

if TYPE_CHECKING:
    from dnamamba.data_prep.genome import Genome
    from dnamamba.data_prep.region_rows import RegionTable, WindowRule
    from dnamamba.embedding_file import EmbeddingInfo
    from dnamamba.embedding_run import Done
    from dnamamba.models import DnaModel
    from dnamamba.runtime import Compute

Format = Literal["h5", "npz", "parquet", "tsv"]

_ENDINGS: dict[str, Format] = {
    **dict.fromkeys((".h5", ".hdf5"), "h5"),
    ".npz": "npz",
    ".parquet": "parquet",
    ".tsv": "tsv",
}
_PROGRESS_SECONDS = 5


def batch_tokens(values: dict[str, Any], compute: "Compute") -> int:
    """What --batch-tokens says, or what suits the device."""
    return values["batch_tokens"] or (1 << 20 if compute.device.type == "cuda" else 1 << 16)


def write_embeddings(
    reader: "DnaModel",
    model: str,
    source: str,
    genome: "Genome | None",
    out: Path,
    values: dict[str, Any],
    compute: "Compute",
) -> None:
    from dnamamba.embedding import Embedder
    from dnamamba.embedding_file import EmbeddingWriter, export
    from dnamamba.embedding_passes import EmbedOptions
    from dnamamba.embedding_run import DIVISION, embed_rows
    from dnamamba.models.pooling import Pooling
    from dnamamba.models.streaming import resolve_layers

    out_format: Format = values["out_format"] or _format_of(out)
    pooling = Pooling.parse(values["pooling"])
    layers = resolve_layers(reader.config, values["layers"])
    if compute.ranks.is_main:
        refuse_output(out, Path(source), force=values["force"], example="peaks.h5")
    file = out if out_format == "h5" else out.with_name(f".{out.name}.h5")
    with _kept(source, file, compute) as given:
        rule = _rule(reader, model, values)
        with _open_table(given, genome, rule, values) as table:
            info = _info(reader, model, given, genome, layers, table.columns, values)
            force = values["force"] or out_format != "h5"

            def open_writer() -> EmbeddingWriter:
                return EmbeddingWriter(file, info, force=force, division=DIVISION)

            writer = compute.on_main_first(open_writer) or open_writer()
            size = batch_tokens(values, compute)
            options = EmbedOptions(
                layers=layers,
                pooling=pooling,
                rc=values["rc"],
                batch_tokens=size,
                chunk_tokens=max(size, 1 << 16),
                autocast_dtype=compute.autocast_dtype,
                scratch=writer.scratch,
            )
            n_parts = embed_rows(
                table,
                Embedder(reader, options),
                writer,
                allele=values["allele"],
                ranks=compute.ranks,
                on_part=_Progress(),
            )
    compute.wait_for_ranks()
    if not compute.ranks.is_main:
        return
    writer.finish(n_parts)
    statuses = _statuses(file)
    if out_format != "h5":
        export(file, out, out_format, force=values["force"])
        file.unlink()
    conclude_rows(statuses, out, what="rows", failure="nothing could be embedded; note says why")


def _format_of(out: Path) -> Format:
    from dnamamba.errors import InputError

    name = out.name.removesuffix(".gz").lower()
    for ending, found in _ENDINGS.items():
        if name.endswith(ending):
            return found
    raise InputError(
        f"--out {out} is named like none of {', '.join(_ENDINGS)}: name it so, or give --format"
    )


def _rule(reader: "DnaModel", model: str, values: dict[str, Any]) -> "WindowRule":
    """What is read of each row. Variants always have a window, others with --context."""
    from dnamamba.embedding_run import LAZY_FROM
    from dnamamba.scoring import scoring_rule, trained_seq_len

    context = values["context"]
    rule = scoring_rule(reader, context, values["edge"], trained_seq_len(model))
    return replace(rule, cut=False, widen=context is not None, lazy_from=LAZY_FROM)


@contextmanager
def _open_table(
    given: Path | str, genome: "Genome | None", rule: "WindowRule", values: dict[str, Any]
) -> "Iterator[RegionTable]":
    from dnamamba.data_prep.region_readers import open_regions

    with open_regions(
        given,
        genome=genome,
        rule=rule,
        input_format=values["input_format"],
        sequence_column=values["sequence_column"],
        name_column=values["name_column"],
    ) as table:
        yield table


@contextmanager
def _kept(source: str, out: Path, compute: "Compute") -> Iterator[Path | str]:
    """What --regions names: a file that can be read again, or a region's text."""
    from dnamamba.embedding_run import keep_stream

    path = Path(source)
    is_stream = source == "-" or (path.exists() and not path.is_file() and not path.is_dir())
    if not is_stream:
        yield path if path.exists() else source
        return
    kept = out.with_name(f".{out.name}.input")

    def keep() -> None:
        if source == "-":
            keep_stream(sys.stdin.buffer, kept)
            return
        with open(path, "rb") as stream:
            keep_stream(stream, kept)

    compute.on_main_first(keep)
    try:
        yield kept
    finally:
        if compute.ranks.is_main:
            kept.unlink(missing_ok=True)


def _info(
    reader: "DnaModel",
    model: str,
    given: Path | str,
    genome: "Genome | None",
    layers: tuple[int, ...],
    columns: tuple[str, ...],
    values: dict[str, Any],
) -> "EmbeddingInfo":
    from dnamamba.embedding_file import EmbeddingInfo
    from dnamamba.embedding_run import checksum
    from dnamamba.label_setup import weights_of
    from dnamamba.models.pooling import Pooling

    folder = Path(model)
    width = reader.config.d_model
    return EmbeddingInfo(
        model=folder.parent.name if folder.name == "model" else folder.name,
        model_sha256=weights_of(model),
        layers=layers,
        d_out=2 * width if values["rc"] == "concat" else width,
        pooling=str(Pooling.parse(values["pooling"])),
        rc=values["rc"],
        context=values["context"],
        edge=values["edge"],
        dtype=values["dtype"],
        precision=values["precision"],
        source_sha256=checksum(given),
        genome=() if genome is None else tuple(genome.sources()),
        columns=columns,
        allele=values["allele"],
    )


def _statuses(path: Path) -> "Counter[Any]":
    from dnamamba.data_prep.region_rows import RowStatus
    from dnamamba.embedding_reader import read_embeddings

    with read_embeddings(path) as found:
        return Counter(map(RowStatus, found.table["status"].tolist()))


class _Progress:
    """Says on standard error every few seconds how far this process is."""

    def __init__(self) -> None:
        self._started = self._said = time.monotonic()

    def __call__(self, done: "Done") -> None:
        now = time.monotonic()
        if now - self._said < _PROGRESS_SECONDS:
            return
        self._said = now
        before = f", {done.resumed:,} were there" if done.resumed else ""
        rate = done.bases / (now - self._started)
        click.echo(f"{done.rows:,} rows{before}, {rate:,.0f} bases a second", err=True)
