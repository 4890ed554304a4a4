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

from dnamamba.cli.row_output import batch_tokens, conclude_rows, refuse_idle_options, refuse_output

if TYPE_CHECKING:
    from dnamamba.data_prep.genomes.genome import Genome
    from dnamamba.data_prep.regions.rows import RegionTable, WindowRule
    from dnamamba.embedding.run import Done
    from dnamamba.embedding.writer import EmbeddingInfo, EmbeddingWriter
    from dnamamba.models import DnaModel
    from dnamamba.models.pooling import Pooling
    from dnamamba.runtime import Compute, Ranks

Format = Literal["h5", "npz", "parquet", "tsv"]

_ENDINGS: dict[str, Format] = {
    **dict.fromkeys((".h5", ".hdf5"), "h5"),
    ".npz": "npz",
    ".parquet": "parquet",
    ".tsv": "tsv",
}
_PROGRESS_SECONDS = 5


def write_embeddings(
    reader: "DnaModel",
    model: str,
    source: str,
    genome: "Genome | None",
    out: Path,
    values: dict[str, Any],
    compute: "Compute",
) -> None:
    from dnamamba.embedding.export import export
    from dnamamba.models.pooling import Pooling

    pooling = Pooling.parse(values["pooling"])
    layers = _resolve_layers(reader, values["layers"])
    allowed = _is_open(out, values)
    compute.on_main_first(
        lambda: refuse_output(
            out, Path(source), *values["genome"], force=allowed, example="peaks.h5"
        )
    )
    out_format = _format_of(out, values["out_format"], layers)
    file = out if out_format == "h5" else out.with_name(f".{out.name}.h5")
    with (
        _kept(source, file, compute) as given,
        _open_table(given, genome, reader, model, values) as table,
    ):
        info = _info(reader, model, given, genome, layers, table, values, compute)
        with _open_writer(file, out, info, values, compute) as writer:
            n_parts = _embed(reader, table, writer, pooling, values, compute)
            compute.wait_for_ranks()
            if not compute.ranks.is_main:
                return
            writer.finish(n_parts)
    statuses, note = _statuses(file)
    if out_format != "h5":
        export(file, out, out_format, force=values["force"])
        file.unlink()
    failure = f"nothing could be embedded; {note}"
    conclude_rows(statuses, out, what="rows", failure=failure)


def _is_open(out: Path, values: dict[str, Any]) -> bool:
    """Whether a file that is there is no matter, or one for the writer, which also clears away what
    is left of a run that was killed when it had made it."""
    return values["force"] or out.with_name(f".{out.name}.parts").exists()


def _resolve_layers(reader: "DnaModel", given: Any) -> tuple[int, ...]:
    from dnamamba.errors import InputError
    from dnamamba.models.streaming import resolve_layers

    layers = resolve_layers(reader.config, given)
    if twice := [layer for layer, count in Counter(layers).items() if count > 1]:
        raise InputError(
            f"--layers {','.join(map(str, given))} names layer {twice[0]} twice: leave one out"
        )
    return layers


def _format_of(out: Path, given: Format | None, layers: tuple[int, ...]) -> Format:
    """What --format or the file's name says. Raises InputError for what could not be written in the
    end, when everything is computed."""
    from dnamamba.embedding.export import require_export
    from dnamamba.errors import InputError

    name = out.name.removesuffix(".gz").lower()
    found = given or next((kind for end, kind in _ENDINGS.items() if name.endswith(end)), None)
    if found is None:
        raise InputError(
            f"--out {out} is named like none of {', '.join(_ENDINGS)}: name it so, or give --format"
        )
    if found == "h5":
        return found
    if len(layers) > 1:
        raise InputError(
            f"a file of {found} holds one layer, not {len(layers)}: write an .h5 file, or run the "
            "command once for each layer"
        )
    require_export(found, out)
    return found


@contextmanager
def _open_writer(
    file: Path, out: Path, info: "EmbeddingInfo", values: dict[str, Any], compute: "Compute"
) -> "Iterator[EmbeddingWriter]":
    """Says what of the file is there already and, where the run is stopped, what is kept."""
    from dnamamba.embedding.run import division
    from dnamamba.embedding.writer import EmbeddingWriter

    def open_writer() -> EmbeddingWriter:
        if file != out:
            # Of a run that was killed when it had all but the other format.
            file.unlink(missing_ok=True)
        # What rows are called and which sequences are read is no setting of the file's, but parts
        # of other columns do not belong together.
        columns = f"columns {values['sequence_column']}, {values['name_column']}"
        parts = f"{division(compute.device)}, {columns}"
        return EmbeddingWriter(file, info, force=values["force"], division=parts)

    writer = compute.on_main_first(open_writer) or open_writer()
    is_main = compute.ranks.is_main
    if is_main and writer.n_parts:
        click.echo(f"{out} was begun before, and {_parts(writer.n_parts)} kept", err=True)
    try:
        yield writer
    except KeyboardInterrupt:
        if is_main:
            kept = f"{_parts(writer.n_parts)} kept, and the same command goes on from there"
            click.echo(f"\n{out} is not whole yet: {kept}", err=True)
        raise
    finally:
        writer.leave()


def _parts(number: int) -> str:
    return "1 part is" if number == 1 else f"{number:,} parts are"


def _embed(
    reader: "DnaModel",
    table: "RegionTable",
    writer: "EmbeddingWriter",
    pooling: "Pooling",
    values: dict[str, Any],
    compute: "Compute",
) -> int:
    """Make the parts of this process; returns how many there are of all."""
    from dnamamba.embedding.embedder import Embedder
    from dnamamba.embedding.forward import EmbedOptions
    from dnamamba.embedding.run import embed_rows

    size = batch_tokens(values["batch_tokens"], compute.device)
    options = EmbedOptions(
        layers=writer.info.layers,
        pooling=pooling,
        rc=values["rc"],
        batch_tokens=size,
        chunk_tokens=max(size, 1 << 16),
        autocast_dtype=compute.autocast_dtype,
        scratch=writer.scratch,
    )
    return embed_rows(
        table,
        Embedder(reader, options),
        writer,
        allele=values["allele"],
        ranks=compute.ranks,
        on_part=_Progress(compute.ranks),
    )


def _rule(reader: "DnaModel", model: str, values: dict[str, Any]) -> "WindowRule":
    """What is read of each row. Variants always have a window, others with --context."""
    from dnamamba.embedding.run import LAZY_FROM
    from dnamamba.models.loading import trained_seq_len
    from dnamamba.scoring.variants import variant_rule

    context = values["context"]
    rule = variant_rule(reader, context, values["edge"], trained_seq_len(model))
    return replace(rule, cut=False, widen=context is not None, lazy_from=LAZY_FROM)


@contextmanager
def _open_table(
    given: Path | str,
    genome: "Genome | None",
    reader: "DnaModel",
    model: str,
    values: dict[str, Any],
) -> "Iterator[RegionTable]":
    from dnamamba.data_prep.regions.readers import open_regions

    with open_regions(
        given,
        genome=genome,
        rule=_rule(reader, model, values),
        input_format=values["input_format"],
        sequence_column=values["sequence_column"],
        name_column=values["name_column"],
    ) as table:
        if values["allele"] == "alt" and not table.has_alternatives:
            raise click.UsageError(
                "--allele alt is of a VCF, whose rows are variants: leave it out"
            )
        if values["context"] and not table.has_surroundings:
            raise click.UsageError(
                "--context is of regions of a genome, and sequences have no bases around them: "
                "leave it out"
            )
        refuse_idle_options(table, genome, is_widened=values["context"] is not None)
        yield table


@contextmanager
def _kept(source: str, out: Path, compute: "Compute") -> Iterator[Path | str]:
    """What --regions names: a file that can be read again, or a region's text."""
    from dnamamba.embedding.run import keep_stream

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
    table: "RegionTable",
    values: dict[str, Any],
    compute: "Compute",
) -> "EmbeddingInfo":
    from dnamamba.embedding.run import checksum
    from dnamamba.embedding.writer import EmbeddingInfo
    from dnamamba.models.loading import name_of_model, weights_of
    from dnamamba.models.pooling import Pooling

    width = reader.config.d_model
    return EmbeddingInfo(
        model=name_of_model(model),
        model_sha256=weights_of(model),
        layers=layers,
        d_out=2 * width if values["rc"] == "concat" else width,
        pooling=str(Pooling.parse(values["pooling"])),
        rc=values["rc"],
        context=_rule(reader, model, values).seq_len
        if table.has_alternatives
        else values["context"],
        edge=values["edge"],
        dtype=values["dtype"],
        precision="fp32" if compute.autocast_dtype is None else "bf16",
        source_sha256=checksum(given),
        genome=() if genome is None else tuple(map(_named, genome.sources())),
        columns=table.columns,
        allele=values["allele"],
    )


def _named(source: dict[str, Any]) -> dict[str, Any]:
    """A genome's file by the keys of docs/formats.md."""
    return {"name" if key == "file" else key: value for key, value in source.items()}


def _statuses(path: Path) -> "tuple[Counter[Any], str]":
    """How many rows there are of each, and what is wrong with the first that has no vectors."""
    from dnamamba.data_prep.regions.rows import RowStatus
    from dnamamba.embedding.reader import read_embeddings

    with read_embeddings(path) as found:
        table = found.table
        statuses = Counter(map(RowStatus, table["status"].tolist()))
        if found.ok.all():
            return statuses, ""
        row = int(found.ok.argmin())
        return statuses, f"line {table['line'][row]}: {table['note'][row]}"


class _Progress:
    """Says on standard error every few seconds how far it is; of several processes one does."""

    def __init__(self, ranks: "Ranks") -> None:
        self._ranks = ranks
        self._started = self._said = time.monotonic()

    def __call__(self, done: "Done") -> None:
        now = time.monotonic()
        if now - self._said < _PROGRESS_SECONDS or not self._ranks.is_main:
            return
        self._said = now
        before = f", {done.resumed:,} were there" if done.resumed else ""
        shared = f" (by 1 of {self._ranks.world_size})" if self._ranks.world_size > 1 else ""
        rate = done.bases / (now - self._started)
        click.echo(f"{done.rows:,} rows{before}, {rate:,.0f} bases a second{shared}", err=True)
