"""A file of embeddings from rows of regions, part by part; `dnamamba embed`.

    model = DnaModel.from_pretrained("runs/human")
    embeddings = embed_regions(model, "peaks.bed", "peaks.h5", genome=open_genome(["hg38.fa"]))

Rows are cut into parts by their own sizes alone, so that any number of processes, stopped and
started again at any moment, make the same file.
"""

import hashlib
import shutil
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import torch

from dnamamba.data_prep.genomes.genome import Genome
from dnamamba.data_prep.regions.readers import open_regions
from dnamamba.data_prep.regions.rows import RegionRow, RegionTable, RowStatus, join_notes
from dnamamba.embedding.config import Allele, EmbedConfig
from dnamamba.embedding.embedder import Embedded, Embedder
from dnamamba.embedding.export import export, format_of
from dnamamba.embedding.format import EmbeddedRow, EmbeddingInfo
from dnamamba.embedding.forward import EmbedInput
from dnamamba.embedding.reader import Embeddings, read_embeddings
from dnamamba.embedding.writer import EmbeddingWriter
from dnamamba.errors import InputError
from dnamamba.files import building, open_input
from dnamamba.inference.options import device_of
from dnamamba.inference.windows import variant_rule
from dnamamba.models.language_model import DnaModel
from dnamamba.models.loading import name_of_model, trained_seq_len, weights_of
from dnamamba.models.streaming import resolve_layers
from dnamamba.runtime import Compute, Ranks, logger

T = TypeVar("T")

PART_ROWS, PART_BYTES = 8192, 1 << 26
"""Limits of a part of more than one row: rows, bytes of vectors."""

PART_BASES = {"cuda": 1 << 24, "cpu": 1 << 20}
"""Its limit of bases: seconds of work on a GPU, half a minute on a CPU. A kill costs one part, and
progress is reported after each."""

LAZY_FROM = 1 << 22
"""Longer windows are read piece by piece (WindowRule.lazy_from)."""


def embed_regions(
    model: DnaModel,
    regions: Path | str,
    out: Path | str,
    *,
    genome: Genome | None = None,
    config: EmbedConfig | None = None,
    source: str | None = None,
    force: bool = False,
) -> Embeddings:
    """Write the embeddings of regions, variants or sequences to an .h5 file, and open it.

    regions: a file in any format that `open_regions` takes, or a region like `chr1:1-2,000`.
    genome: the genome that regions and variants refer to. config: default mean-pooled vectors of
    the final norm. source: run, folder or repository of the model, for the file's settings. A run
    that was stopped continues. Raises InputError for input that cannot be read, for settings that
    it has no use for, if `out` is not named .h5, and if it exists (without `force`).
    """
    config = config or EmbedConfig()
    if format_of(Path(out), config.output_format) != "h5":
        raise InputError(
            f"embed_regions must write a .h5 file, got {out}: name one, then export it "
            "(read_embeddings(out).export)"
        )
    run = EmbedRun(
        model, regions, Path(out), genome=genome, config=config, source=source, force=force
    )
    with run.open_regions() as table:
        if config.allele == "alt" and not table.has_alternatives:
            raise InputError('allele="alt" must come with a VCF, whose rows are variants')
        if config.context and not table.has_surroundings:
            raise InputError("context must come with regions of a genome: sequences end there")
        run.write(table)
    return read_embeddings(out)


class Summary(NamedTuple):
    statuses: Counter[RowStatus]
    """Number of rows of each status."""

    first_failure: str
    """What is wrong with the first row without vectors; empty if all have some."""


@dataclass
class Progress:
    """Rows and bases that this process has embedded, and rows of parts that were there before."""

    rows: int = 0
    bases: int = 0
    resumed: int = 0


class EmbedRun:
    """One file of embeddings to make: `open_regions`, then `write`.

    regions: a file, a region's text, or a stream. out: an .h5 file, or of one layer another format.
    source: run, folder or repository of the model. compute: default the model's device, one
    process. Raises InputError for layers and names of files that cannot be used.
    """

    def __init__(
        self,
        model: DnaModel,
        regions: Path | str | BinaryIO,
        out: Path,
        *,
        genome: Genome | None = None,
        config: EmbedConfig | None = None,
        source: str | None = None,
        compute: Compute | None = None,
        force: bool = False,
    ) -> None:
        self.model, self.regions, self.out, self.genome = model, regions, out, genome
        self.config = config = config or EmbedConfig()
        self.source, self.force = source, force
        self.compute = compute or Compute(
            device_of(model), config.autocast_dtype, Ranks(0, 0, 1, 1)
        )
        self.layers = _resolve_layers(model, config)
        self.output_format = format_of(out, config.output_format)
        if self.output_format != "h5" and len(self.layers) > 1:
            raise InputError(
                f"a file of {self.output_format} holds one layer, not {len(self.layers)}: write an "
                ".h5 file, or run the command once for each layer"
            )
        # Variants always have a window, other regions with `context`.
        trained = trained_seq_len(source) if source else None
        rule = variant_rule(model.config, config.context, config.edge, trained)
        widen = config.context is not None
        self.rule = replace(rule, cut=False, widen=widen, lazy_from=LAZY_FROM)
        # Other formats are made from an .h5 file.
        self._file = out if self.output_format == "h5" else out.with_name(f".{out.name}.h5")
        self._input: Path | str = ""

    @contextmanager
    def open_regions(self) -> Iterator[RegionTable]:
        """Open the rows to embed; a stream is kept as a file until the end."""
        config = self.config
        with (
            self._kept_input() as self._input,
            open_regions(
                self._input,
                genome=self.genome,
                rule=self.rule,
                input_format=config.input_format,
                sequence_column=config.sequence_column,
                name_column=config.name_column,
            ) as table,
        ):
            yield table

    def write(
        self,
        table: RegionTable,
        on_part: Callable[[Progress], None] = lambda progress: None,
        say: Callable[[str], None] = logger.info,
    ) -> Summary | None:
        """Embed the rows and write the file; None on ranks other than the first, which finishes it.

        on_part: called after each part. say: takes a line about parts that are kept.
        """
        with self._open_writer(self.info(table), say) as writer:
            n_parts = embed_rows(
                table,
                Embedder(self.model, self.config, writer.scratch),
                writer,
                allele=self.config.allele,
                ranks=self.compute.ranks,
                on_part=on_part,
            )
            self.compute.wait_for_ranks()
            if not self.compute.ranks.is_main:
                return None
            writer.finish(n_parts)
        summary = _summarize(self._file)
        if self._file != self.out:
            export(self._file, self.out, self.output_format, force=self.force)
            self._file.unlink()
        return summary

    def info(self, table: RegionTable) -> EmbeddingInfo:
        """The settings that the file keeps."""
        config = self.config
        sources = [] if self.genome is None else self.genome.sources()
        return EmbeddingInfo(
            model=name_of_model(self.source) if self.source else "",
            model_sha256=weights_of(self.source) if self.source else None,
            layers=self.layers,
            d_out=config.width(self.model.config.d_model),
            pooling=str(config.pooling),
            rc=config.rc,
            context=self.rule.seq_len if table.has_alternatives else config.context,
            edge=config.edge,
            dtype=config.dtype,
            precision="fp32" if config.autocast_dtype is None else "bf16",
            source_sha256=checksum(self._input),
            genome=tuple(
                {"name" if key == "file" else key: value for key, value in one.items()}
                for one in sources
            ),
            columns=table.columns,
            allele=config.allele,
        )

    @contextmanager
    def _kept_input(self) -> Iterator[Path | str]:
        """A file that can be read again, or the text of a region."""
        given = self.regions
        if isinstance(given, str | Path) and not _is_stream(Path(given)):
            yield Path(given) if Path(given).exists() else given
            return
        kept = self._file.with_name(f".{self._file.name}.input")
        self.compute.on_main_first(lambda: keep_stream(given, kept))
        try:
            yield kept
        finally:
            if self.compute.ranks.is_main:
                kept.unlink(missing_ok=True)

    @contextmanager
    def _open_writer(
        self, info: EmbeddingInfo, say: Callable[[str], None]
    ) -> Iterator[EmbeddingWriter]:
        """Open the writer on all ranks; say how many parts were there, and on Ctrl-C are kept."""

        def open_writer() -> EmbeddingWriter:
            if self._file != self.out:
                # Left by a run that was killed before the other format was written.
                self._file.unlink(missing_ok=True)
            # Names of columns are no setting of the file, but decide what its parts hold.
            columns = f"columns {self.config.sequence_column}, {self.config.name_column}"
            parts = f"{division(self.compute.device)}, {columns}"
            return EmbeddingWriter(self._file, info, force=self.force, division=parts)

        writer = self.compute.on_main_first(open_writer) or open_writer()
        is_main = self.compute.ranks.is_main
        if is_main and writer.n_parts:
            say(f"{self.out} was begun before, and {_kept(writer.n_parts)}")
        try:
            yield writer
        except KeyboardInterrupt:
            if is_main:
                kept = f"{_kept(writer.n_parts)}, and the same command goes on from there"
                say(f"\n{self.out} is not whole yet: {kept}")
            raise
        finally:
            writer.leave()


def _resolve_layers(model: DnaModel, config: EmbedConfig) -> tuple[int, ...]:
    layers = resolve_layers(model.config, config.layers)
    if twice := [layer for layer, count in Counter(layers).items() if count > 1]:
        given = ",".join(map(str, config.layers))
        raise InputError(f"--layers {given} names layer {twice[0]} twice: leave one out")
    return layers


def _kept(n_parts: int) -> str:
    return "1 part is kept" if n_parts == 1 else f"{n_parts:,} parts are kept"


def _summarize(path: Path) -> Summary:
    with read_embeddings(path) as found:
        table = found.table
        statuses = Counter(map(RowStatus, table["status"].tolist()))
        if found.ok.all():
            return Summary(statuses, "")
        row = int(found.ok.argmin())
        return Summary(statuses, f"line {table['line'][row]}: {table['note'][row]}")


# --- rows in parts


def division(device: torch.device) -> str:
    """The limits of parts, in words; EmbeddingWriter reuses only parts of the same limits."""
    bases = PART_BASES[device.type]
    return f"{PART_ROWS} rows, {bases} bases, {PART_BYTES} bytes of float32 a part"


def embed_rows(
    rows: Iterable[RegionRow],
    embedder: Embedder,
    writer: EmbeddingWriter,
    *,
    allele: Allele = "ref",
    ranks: Ranks | None = None,
    on_part: Callable[[Progress], None] = lambda progress: None,
) -> int:
    """Embed rows and write them in parts; returns the number of parts, for `writer.finish`.

    Each of several processes goes through all rows and takes every world_size-th part. Reading,
    computing and writing go on at the same time. on_part: called after each part.
    """
    rank, world_size = (0, 1) if ranks is None else (ranks.rank, ranks.world_size)
    progress, n_parts = Progress(), 0
    at_work = deque[tuple[int, list[RegionRow]]]()
    writing: Future[None] | None = None
    parts = (
        (part, [_input_of(row, allele) for row in part if row.length])
        for part in _parts(iter(rows), embedder)
    )

    def inputs_to_embed() -> Iterator[list[EmbedInput]]:
        nonlocal n_parts
        for number, (part, inputs) in enumerate(_ahead(parts)):
            n_parts += 1
            if number % world_size != rank:
                continue
            if writer.done(number):
                progress.resumed += len(part)
                on_part(progress)
                continue
            at_work.append((number, part))
            yield inputs

    def take(results: list[Embedded]) -> None:
        nonlocal writing
        number, part = at_work.popleft()
        if writing is not None:  # One part is held beside the one being written.
            writing.result()
        writing = pool.submit(_write_part, writer, number, part, results)
        progress.rows += len(part)
        progress.bases += sum(row.length for row in part)
        on_part(progress)

    with _frequent_turns(), ThreadPoolExecutor(1) as pool:
        embedder.run(inputs_to_embed(), take)
        if writing is not None:
            writing.result()
    return n_parts


def _parts(rows: Iterator[RegionRow], embedder: Embedder) -> Iterator[list[RegionRow]]:
    part, n_bases, n_bytes = list[RegionRow](), 0, 0
    most_bases = PART_BASES[embedder.device.type]
    for row in rows:
        size = _bytes_of(row, embedder)
        is_full = len(part) == PART_ROWS or n_bases + row.length > most_bases
        if part and (is_full or n_bytes + size > PART_BYTES):
            yield part
            part, n_bases, n_bytes = [], 0, 0
        part.append(row)
        n_bases, n_bytes = n_bases + row.length, n_bytes + size
    if part:
        yield part


def _bytes_of(row: RegionRow, embedder: Embedder) -> int:
    """Bytes of the row's vectors as float32."""
    pooling = embedder.options.pooling
    start, end = row.span or (0, 0)
    n_vectors = end - start if pooling.kind == "none" else pooling.n_vectors
    return 4 * n_vectors * embedder.d_out * len(embedder.layers)


def _write_part(
    writer: EmbeddingWriter, number: int, part: Sequence[RegionRow], results: Sequence[Embedded]
) -> None:
    """results: one for each row that has bases to read."""
    remaining = iter(results)
    writer.write(number, [_record(row, next(remaining) if row.length else None) for row in part])


def _input_of(row: RegionRow, allele: Allele) -> EmbedInput:
    if allele == "alt" and row.alternative is not None:
        assert row.variant_start is not None, "rows with an alternative say where it begins"
        start = row.variant_start
        return EmbedInput.of(row.alternative, (start, start + len(row.columns[-1])))
    return EmbedInput.of_row(row)


def _record(row: RegionRow, result: Embedded | None) -> EmbeddedRow:
    region, window = row.region, row.window
    failure = result if isinstance(result, str) else ""
    return EmbeddedRow(
        line=row.line,
        chrom=region.chrom if region else "",
        start=region.start if region else -1,
        end=region.end if region else -1,
        strand=str(region.strand) if region else ".",
        name=row.name,
        window_start=window.start if window else -1,
        window_end=window.end if window else -1,
        status=str(RowStatus.FAILED if failure else row.status),
        note=join_notes(row.note, failure),
        columns=row.columns,
        vectors=None if isinstance(result, str) else result,
    )


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the items, making the next one in a thread meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


@contextmanager
def _frequent_turns() -> Iterator[None]:
    """Let Python's threads take turns ten times as often: the thread that launches a batch yields
    at each of its hundreds of operations, and would wait 5 ms each time for reading or writing."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, 5e-4))
    try:
        yield
    finally:
        sys.setswitchinterval(before)


# --- input


def _is_stream(path: Path) -> bool:
    """Whether it is a pipe or the like, which can be read once."""
    return path.exists() and not path.is_file() and not path.is_dir()


def keep_stream(source: BinaryIO | Path | str, path: Path) -> Path:
    """Copy a stream, or a pipe by its name, to a file that several processes can read."""
    opened = open(source, "rb") if isinstance(source, str | Path) else nullcontext(source)
    with building(path) as unfinished, open(unfinished, "wb") as file, opened as stream:
        shutil.copyfileobj(stream, file, 1 << 20)
    return path


def checksum(source: Path | str) -> str:
    """sha256 of a text, or of a file's unpacked content."""
    if isinstance(source, str):
        return hashlib.sha256(source.encode()).hexdigest()
    with open_input(source) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
