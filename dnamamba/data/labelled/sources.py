"""Readers of labelled sequences: tables, a FASTA for each class, regions of a genome."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnamamba.data.labelled.config import RecordsConfig, RegionsConfig, TableConfig
from dnamamba.data.labelled.splits import Keys, named_splits, overlap_groups
from dnamamba.data.splits import held_out_contigs
from dnamamba.data_prep.genomes.fasta import FastaReader
from dnamamba.data_prep.genomes.genome import Genome, open_genome
from dnamamba.data_prep.regions.bed import LabelledRegion, read_labelled_bed
from dnamamba.data_prep.sequences import Ints, PackedSequences, Packer, text_keys
from dnamamba.data_prep.tables import read_table
from dnamamba.errors import InputError
from dnamamba.files import describe_file, first_of
from dnamamba.intervals import Split, Strand
from dnamamba.runtime import logger
from dnamamba.task import LabelColumns
from dnamamba.tokenizer import reverse_complement

AnyLabelledConfig = TableConfig | RecordsConfig | RegionsConfig


class RowNames(NamedTuple):
    """Origins of examples, for people: a prefix, and the name or number of each row."""

    prefix: str
    names: NDArray[np.generic]

    def of(self, i: int) -> str:
        return f"{self.prefix}{self.names[i]}"

    def take(self, examples: Ints) -> "RowNames":
        return RowNames(self.prefix, self.names[examples])


@dataclass(frozen=True)
class LabelledSource:
    """The examples of one file, or of all files of a config that names no splits.

    groups: a key for each example; a group stays in one split. None: groups of equal sequences.
    splits: examples of each split, if the file names splits.
    """

    name: str
    packed: PackedSequences
    labels: LabelColumns
    origins: RowNames
    groups: Keys | None = None
    splits: Mapping[Split, Ints] | None = None

    def training_labels(self) -> LabelColumns:
        """Labels of the examples for training, and for shares cut from them."""
        if self.splits is None:
            return self.labels
        examples = self.splits[Split.TRAIN].tolist()
        return {name: [texts[i] for i in examples] for name, texts in self.labels.items()}


def read_sources(config: AnyLabelledConfig) -> dict[Split, LabelledSource]:
    """The training source of a config, and the splits with files of their own."""
    if isinstance(config, TableConfig):
        return {
            split: _read_table(config, Path(file), split)
            for split, file in _table_files(config).items()
        }
    if isinstance(config, RecordsConfig):
        return {Split.TRAIN: _read_records(config)}
    return {Split.TRAIN: _read_regions(config)}


def read_undivided(config: AnyLabelledConfig) -> LabelledSource:
    """The training source alone, without its splits and groups."""
    if isinstance(config, TableConfig):
        config = replace(config, valid=None, test=None, split_column=None, group_column=None)
    elif isinstance(config, RegionsConfig):
        # Groups of overlapping regions need no number of contigs.
        config = replace(config, valid_contigs=(), test_contigs=(), group_by="overlap")
    return read_sources(config)[Split.TRAIN]


def source_files(config: AnyLabelledConfig) -> list[dict[str, Any]]:
    """Name, size and sha256 of every file that a config names, for manifests."""
    if isinstance(config, TableConfig):
        return [describe_file(Path(file)) for file in _table_files(config).values()]
    if isinstance(config, RecordsConfig):
        return [describe_file(Path(file)) for entry in config.records for file in entry.files]
    return [describe_file(Path(config.regions)), *open_genome(config.genome).sources()]


# --- tables


def _table_files(config: TableConfig) -> dict[Split, str]:
    files = {Split.TRAIN: config.train, Split.VALID: config.valid, Split.TEST: config.test}
    return {split: file for split, file in files.items() if file is not None}


def _read_table(config: TableConfig, path: Path, split: Split) -> LabelledSource:
    extra = (config.split_column, config.group_column) if split is Split.TRAIN else ()
    extra_columns = [name for name in extra if name is not None]
    table = read_table(path, config.sequence_column, [*config.label_columns, *extra_columns])
    columns, groups, splits = table.columns, None, None
    if extra_columns and config.group_column is not None:
        if "" in (texts := columns[config.group_column]):
            row = table.where(texts.index(""))
            raise InputError(f"{row} has no group (column {config.group_column!r}): give it one")
        groups = text_keys(texts)
    if extra_columns and config.split_column is not None:
        names = columns[config.split_column]
        splits = named_splits(names, config.split_column, table.where)
    labels = {name: columns[name] for name in config.label_columns}
    origins = RowNames(f"{path.name} row ", table.rows)
    return LabelledSource(path.name, table.sequences, labels, origins, groups, splits)


# --- a FASTA for each class


def _read_records(config: RecordsConfig) -> LabelledSource:
    packer, labels, origins = Packer(), [], []
    for entry in config.records:
        for file in map(Path, entry.files):
            for record in FastaReader(file):
                origin = f"{file.name} record {record.name}"
                packer.add_one(record.codes, origin)
                packer.note_letters(record.letters, origin)
                labels.append(entry.label)
                origins.append(origin)
    name = "the FASTA files"
    names = RowNames("", np.array(origins, object))
    return LabelledSource(name, packer.finish(name), {"label": labels}, names)


# --- regions of a genome


def _read_regions(config: RegionsConfig) -> LabelledSource:
    path, genome = Path(config.regions), open_genome(config.genome)
    rows = _rows_on(genome, path, config.label_column)
    packer, origins = Packer(), []
    for row in rows:
        origin = f"{path.name} line {row.line} ({row.interval})"
        chrom, start, end = row.interval.chrom, row.interval.start, row.interval.end
        if end > genome.contigs[chrom]:
            raise InputError(
                f"{origin} ends past the end of {chrom}, which has {genome.contigs[chrom]:,} "
                "bases: is this the genome the regions were made for?"
            )
        codes = genome.read(chrom, start, end)
        if row.interval.strand is Strand.REVERSE:
            codes = reverse_complement(codes)
        packer.add_one(codes, origin)
        origins.append(origin)
    labels = {f"column {config.label_column}": [row.label for row in rows]}
    packed, splits = packer.finish(path.name), _splits_by_contig(config, genome, rows)
    groups = _region_groups(config, rows, splits)
    names = RowNames("", np.array(origins, object))
    return LabelledSource(path.name, packed, labels, names, groups, splits)


def _rows_on(genome: Genome, path: Path, label_column: int) -> list[LabelledRegion]:
    rows = list(read_labelled_bed(path, label_column))
    if not rows:
        raise InputError(f"{path} holds no region")
    known = [row for row in rows if row.interval.chrom in genome.contigs]
    if len(known) < len(rows):
        missing = sorted({row.interval.chrom for row in rows} - set(genome.contigs))
        message = (
            f"{len(rows) - len(known):,} of {len(rows):,} regions of {path.name} lie on contigs "
            f"that the genome does not have ({first_of(missing)}); it has "
            f"{first_of(genome.contigs)}."
        )
        if not known:
            raise InputError(f"{message} Give the genome the regions were made for")
        logger.warning("%s They are left out", message)
    return known


def _splits_by_contig(
    config: RegionsConfig, genome: Genome, rows: Sequence[LabelledRegion]
) -> dict[Split, Ints] | None:
    if not config.valid_contigs and not config.test_contigs:
        return None
    held_out = held_out_contigs(config.valid_contigs, config.test_contigs, genome.contigs)
    split_of = np.array([held_out.get(row.interval.chrom, Split.TRAIN) for row in rows], object)
    asked = {Split.TRAIN: True, Split.VALID: config.valid_contigs, Split.TEST: config.test_contigs}
    found = {split: np.flatnonzero(split_of == split) for split in Split if asked[split]}
    for split, examples in found.items():
        if not len(examples):
            raise InputError(
                f"no region of {Path(config.regions).name} lies on a contig of the {split} split: "
                "name other contigs"
            )
    return found


def _region_groups(
    config: RegionsConfig, rows: Sequence[LabelledRegion], splits: Mapping[Split, Ints] | None
) -> Keys:
    chroms = [row.interval.chrom for row in rows]
    if config.group_by == "overlap":
        starts = np.array([row.interval.start for row in rows], np.int64)
        ends = np.array([row.interval.end for row in rows], np.int64)
        return overlap_groups(chroms, starts, ends)
    n_splits = 2 + (config.shares.test_fraction > 0)
    if splits is None and len(set(chroms)) < n_splits:
        raise InputError(
            f"the regions lie on {len(set(chroms))} contigs, and contigs are held out as a whole, "
            f"for {n_splits} splits: hold out regions that overlap no others instead (--group-by "
            "overlap)"
        )
    return text_keys(chroms)
