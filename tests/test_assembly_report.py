"""Contig names: NCBI's assembly reports, UCSC's chromAlias tables, plain tables of two columns."""

import re
from pathlib import Path

import pytest

from ape_reports import COLUMNS, chromosome, write_report
from dnamamba.data_prep.genomes.aliases import read_aliases, rename
from dnamamba.data_prep.genomes.store import GenomeStore, prepare_store
from dnamamba.errors import InputError
from genomes import write_fasta


def test_a_report_names_chromosomes_in_every_style(tmp_path: Path) -> None:
    report = write_report(
        tmp_path,
        [
            chromosome("1", "1"),
            chromosome("2p", "2p"),
            chromosome("2q", "2q", "chr2B"),
            chromosome("X", "X"),
            chromosome("MT", "MT", "chrM"),
        ],
    )
    aliases = read_aliases(report)
    for name in ("1", "CM1.2", "NC_1.2", "chr1"):
        assert aliases[name] == "chr1"
    names = [aliases[f"NC_{molecule}.2"] for molecule in ("2p", "2q", "X", "MT")]
    assert names == ["chr2A", "chr2B", "chrX", "chrM"]
    assert "na" not in aliases


def test_scaffolds_get_ucscs_name_or_keep_their_own(tmp_path: Path) -> None:
    report = write_report(
        tmp_path,
        [
            chromosome("1", "1"),
            "s1 unlocalized-scaffold 1 GB1.1 NW_1.1 chr1_NW_1v1_random",
            "s2 unplaced-scaffold na GB2.1 NW_2.1 na",
        ],
    )
    aliases = read_aliases(report)
    assert {aliases[name] for name in ("s1", "GB1.1", "NW_1.1")} == {"chr1_NW_1v1_random"}
    assert [aliases[name] for name in ("GB2.1", "NW_2.1")] == ["GB2.1", "NW_2.1"]


def test_own_numbers_come_out_with_the_human_chromosome(tmp_path: Path) -> None:
    """Chromosome 4 of the complete gorilla genome is not homologous to human 4."""
    report = write_report(
        tmp_path,
        [*(chromosome(f"{n}", f"{n}") for n in range(1, 24)), chromosome("Y", "Y")],
        organism="Gorilla gorilla gorilla",
    )
    aliases = read_aliases(report)
    names = [aliases[f"NC_{molecule}.2"] for molecule in ("1", "4", "12", "23", "Y")]
    assert names == ["chr1_hsa1", "chr4_hsa17x5", "chr12_hsa2a", "chr23_hsa22", "chrY"]


def test_human_chromosomes_in_the_reports_own_names_are_kept(tmp_path: Path) -> None:
    rows = [chromosome("chr4_pat_hsa17x5", "4"), chromosome("chrX_mat_hsaX", "X")]
    aliases = read_aliases(write_report(tmp_path, rows, organism="Gorilla gorilla gorilla"))
    assert aliases["NC_4.2"] == aliases["chr4_pat_hsa17x5"] == "chr4_hsa17x5"
    assert aliases["NC_X.2"] == "chrX"


@pytest.mark.parametrize(
    "text",
    [
        "# ucsc\tassembly\tgenbank\tncbi\trefseq\nchr2A\t2p\tCM1.2\t2p\tNC_1.2\n",
        "# refseq\tassembly\tgenbank\tncbi\tucsc\nNC_1.2\t2p\tCM1.2\t2p\tchr2A\n",
        "# sequenceName\talias names\tUCSC database: panTro6\nchr2A\t2p\tCM1.2\tNC_1.2\n",
    ],
    ids=["ucsc first", "refseq first", "older"],
)
def test_chrom_alias_tables_of_every_age_are_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "chromAlias.txt"
    path.write_text(text)
    assert read_aliases(path) == dict.fromkeys(("chr2A", "2p", "CM1.2", "NC_1.2"), "chr2A")


def test_chrom_alias_tables_keep_the_human_chromosome(tmp_path: Path) -> None:
    path = tmp_path / "chromAlias.txt"
    header = "# refseq\tassembly\tgenbank\tncbi\tucsc\n"
    path.write_text(f"{header}NC_1.2\tchr4_pat_hsa17x5\tCM1.2\t4\tchr4\nNW_1.1\t\tGB1.1\t\t\n")
    aliases = read_aliases(path)
    assert aliases["NC_1.2"] == aliases["chr4"] == "chr4_hsa17x5"
    assert aliases["NW_1.1"] == "NW_1.1"
    assert "" not in aliases


def test_two_columns_are_old_and_new_names(tmp_path: Path) -> None:
    path = tmp_path / "names.tsv"
    path.write_text("scaffold_1\tchr1\n\nscaffold_2\tchr2\n")
    old_names = {"scaffold_1": "chr1", "scaffold_2": "chr2"}
    assert read_aliases(path) == {**old_names, "chr1": "chr1", "chr2": "chr2"}


def test_two_columns_may_number_anew(tmp_path: Path) -> None:
    path = tmp_path / "names.tsv"
    path.write_text("chr2\tchr3\nchr3\tchr4\n")
    assert read_aliases(path) == {"chr2": "chr3", "chr3": "chr4", "chr4": "chr4"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no contig: expected an assembly report"),
        ("# a comment\n", "names no contig"),
        ("a b\n", "expected 2 columns with tabs between, got 1 in 'a b'"),
        ("a\tb\tc\n", "expected 2 columns with tabs between, got 3"),
        ("a\tchr1\na\tchr2\n", "'a' is called 'chr1' and 'chr2'"),
        ("# Sequence-Name\tGenBank-Accn\n1\tCM1\n", "without the column Assigned-Molecule"),
        (f"# {COLUMNS}\n1\tassembled-molecule\n", "expected 10 columns"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "names.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_aliases(path)


def test_a_missing_table_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such file: .*names\.txt"):
        read_aliases(tmp_path / "names.txt")


# --- in the store


def test_a_store_has_the_new_names(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "ape.fa", {"NC_1.2": "ACGT", "NC_2q.2": "GGGTT"})
    report = write_report(tmp_path, [chromosome("1", "1"), chromosome("2q", "2q")])
    store = GenomeStore(prepare_store([fasta], tmp_path / "ape.h5", aliases=report))
    assert store.contigs == {"chr1": 4, "chr2B": 5}
    assert len(store.read("chr2B", 1, 4)) == 3
    assert store.sources()[0]["names_from"] == "assembly_report.txt"


def test_a_contig_that_the_table_lacks_is_refused(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "ape.fa", {"NC_9.2": "ACGT"})
    report = write_report(tmp_path, [chromosome("1", "1")])
    message = r"contig 'NC_9.2' is not in .*assembly_report.txt, which has 1, CM1.2"
    with pytest.raises(InputError, match=message):
        prepare_store([fasta], tmp_path / "ape.h5", aliases=report)
    assert not (tmp_path / "ape.h5").exists()


def test_two_contigs_cannot_get_one_name(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "ape.fa", {"a": "ACGT", "b": "ACGT"})
    names = tmp_path / "names.tsv"
    names.write_text("a\tchr1\nb\tchr1\n")
    with pytest.raises(InputError, match=re.escape("two contigs the name 'chr1'")):
        prepare_store([fasta], tmp_path / "ape.h5", aliases=names)


def test_rename_gives_the_new_name() -> None:
    assert rename("2p", {"2p": "chr2A"}, Path("table.txt")) == "chr2A"
