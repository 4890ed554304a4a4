"""Reading FASTA: in one pass, and at random places through an index.

Whatever the layout of a file, every way to read it gives the bases that the most obvious parser
finds, or refuses it with a sentence that says what to do.
"""

import builtins
import gzip
import hashlib
import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnamamba.data_prep.genomes import fasta as fasta_module
from dnamamba.data_prep.genomes.fasta import FastaReader, IndexedFasta
from dnamamba.data_prep.genomes.store import GenomeStore, prepare_store
from dnamamba.errors import InputError
from dnamamba.files import compression_of
from dnamamba.tokenizer import decode
from genomes import (
    LETTERS,
    as_read,
    fasta_text,
    naive_parse,
    random_sequence,
    write_bgzf,
    write_fasta,
    write_gzip,
)

# --- every way to read a file


def stream_plain(folder, text):
    return _streamed(_plain(folder, text))


def stream_gzip(folder, text):
    return _streamed(write_gzip(folder / "x.fa.gz", text))


def stream_bgzf(folder, text):
    return _streamed(write_bgzf(folder / "x.fa.gz", text, block_bases=7))


def index_plain(folder, text):
    return _fetched(IndexedFasta(_plain(folder, text)))


def index_bgzf(folder, text):
    return _fetched(IndexedFasta(write_bgzf(folder / "x.fa.gz", text, block_bases=7)))


def store(folder, text):
    return _fetched(GenomeStore(prepare_store([_plain(folder, text)], folder / "x.h5")))


def _plain(folder, text):
    path = folder / "x.fa"
    path.write_bytes(text.encode("latin-1"))
    return path


def _streamed(path):
    return {record.name: decode(record.codes) for record in FastaReader(path)}


def _fetched(source):
    return {name: decode(source.read(name, 0, size)) for name, size in source.contigs.items()}


RANDOM_ACCESS = [index_plain, index_bgzf, store]
WAYS = [stream_plain, stream_gzip, stream_bgzf, *RANDOM_ACCESS]
ways = pytest.mark.parametrize("read", WAYS, ids=lambda way: way.__name__)

LAYOUTS = {
    "usual": ">chr1 a description\nACGT\nAC\n>chr2\nGGGG\nTTTT\n",
    "windows line ends": ">a\r\nACGT\r\nAC\r\n>b\r\nGG\r\n",
    "mixed line ends": ">a\r\nACGT\nACG\n>b\nGG\r\n",
    "no newline at the end": ">a\nACGT\nAC",
    "blank lines at the end": ">a\nACGT\nAC\n\n\n\n",
    "blank lines at the end of a windows file": ">a\r\nACGT\r\nAC\r\n\r\n\r\n",
    "blank lines between records": ">a\nACGT\nAC\n\n\n>b\nGGGG\n\n>c\nTT\n",
    "blank line after a full line": ">a\nACGT\nACGT\n\n>b\nGG\n",
    "blank lines before the first record": "\n\n>a\nACGT\n",
    "blank line after a header": ">a\n\nACGT\nAC\n>b\n\n\nG\n",
    "empty records": ">none\n>a\nACGT\n>also none\n>last\n",
    "one line a record": f">a\n{'ACGTN' * 50}\n>b\nA\n>c\nC",
    "one base a line": ">a\nA\nC\nG\n",
    "a last line of one base": ">a\nACGT\nA\n>b\nGG\n",
    "soft-masked": ">a\nACgtNnacGT\nacgtacgtac\n",
    "runs of N": f">a\n{'N' * 40}\nACGT\n>b\n{'n' * 9}\n",
    "rna and iupac": ">a\nUuRYSWKM\nBDHVrysw\n>b\nkmbdhv-.*X\n",
    "a tab in the header": ">a\tdescription\nACGT\n>  b after spaces\nGG\n",
    "a > inside a line": ">a\nAC>T\nACGT\n",
    "only a header": ">a",
}


@ways
@pytest.mark.parametrize("text", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_way_to_read_gives_the_same_bases(read, text, tmp_path):
    expected = {name: as_read(sequence) for name, sequence in naive_parse(text).items()}
    assert read(tmp_path, text) == expected


sequences = st.text(st.sampled_from(LETTERS.replace(" ", "")), max_size=60)
genomes = st.dictionaries(st.sampled_from(["chr1", "chr2", "a|b", "HLA:1-2"]), sequences)


@given(genomes, st.integers(1, 30), st.sampled_from(["\n", "\r\n"]), st.data())
@settings(deadline=None, max_examples=40)
def test_any_slice_of_any_file_is_right(tmp_path_factory, records, width, newline, data):
    text = fasta_text(records, width, newline)
    text = text if data.draw(st.booleans(), "last newline") else text.removesuffix(newline)
    if not records:
        return
    folder = tmp_path_factory.mktemp("slices")
    path = write_bgzf(folder / "x.fa.gz", text, block_bases=data.draw(st.integers(1, 50)))
    sources = [
        IndexedFasta(_plain(folder, text)),
        IndexedFasta(path),
        GenomeStore(prepare_store([path], folder / "x.h5")),
    ]
    name = data.draw(st.sampled_from(sorted(records)))
    length = len(records[name])
    start = data.draw(st.integers(0, length))
    end = data.draw(st.integers(start, length))
    for source in sources:
        assert source.contigs == {key: len(value) for key, value in records.items()}
        assert decode(source.read(name, start, end)) == as_read(records[name])[start:end]


def test_a_record_larger_than_a_block_is_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(fasta_module, "_BLOCK", 16)
    records = {"long": random_sequence(1000), "short": "ACGT", "none": "", "end": "G" * 40}
    path = write_fasta(tmp_path / "x.fa", records, width=7)
    assert _streamed(path) == records


def test_letters_are_counted_by_byte(tmp_path):
    first, second = FastaReader(write_gzip(tmp_path / "x.fa.gz", ">a\nACGTNacgtn\nAU\n>b\nxx\n"))
    letters = {chr(i): int(n) for i, n in enumerate(first.letters) if n}
    assert letters == dict.fromkeys("CGTNacgtnU", 1) | {"A": 2}
    assert second.letters[ord("x")] == 2


@pytest.mark.parametrize("write", [write_gzip, write_bgzf])
def test_the_checksum_is_of_the_whole_file_as_it_lies_on_the_disk(write, tmp_path):
    path = write(tmp_path / "x.fa.gz", fasta_text({"a": random_sequence(50_000)}))
    if write is write_gzip:
        path.write_bytes(path.read_bytes() + bytes(100_000))  # padding, as tapes have
    reader = FastaReader(path)
    assert sum(len(record.codes) for record in reader) == 50_000
    assert reader.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_letters_of_a_long_record_are_counted_in_pieces(tmp_path):
    path = write_fasta(tmp_path / "x.fa", {"a": "ACGG" * 600_000}, width=1 << 30)
    (record,) = FastaReader(path)
    assert record.letters[ord("G")] == 1_200_000
    assert record.letters.sum() == 2_400_000


def test_compression_is_told_by_content(tmp_path):
    assert compression_of(write_fasta(tmp_path / "plain.gz", {"a": "ACGT"})) == "none"
    assert compression_of(write_gzip(tmp_path / "x.fa", ">a\nACGT\n")) == "gzip"
    assert compression_of(write_bgzf(tmp_path / "y.fa", ">a\nACGT\n")) == "bgzf"


# --- what is refused


@ways
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no FASTA record"),
        ("\n\n", "holds no FASTA record"),
        ("Dear reader,\nnothing here\n", "does not look like FASTA.*'>' first, got b'Dear"),
        ("ACGT\n>a\nAC\n", "does not look like FASTA: expected a line starting with '>' first"),
        ("\x89PNG\r\n\x1a\n\0\0", "does not look like FASTA"),
        (">a\nACGT\n>\nAC\n", "a record without a name"),
        (">a\nACGT\n>  \nAC\n", "a record without a name"),
        (">a\nACGT\n>b\nA\n>a x\nAC\n", "two records named 'a': rename one"),
        (">a\rACGT\rAC\r", "line ends of old Macs"),
    ],
)
def test_what_is_no_fasta_is_refused(read, text, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        ">a\nACGT\nACGTACGT\nAC\n",
        ">a\nACGT\nACG\nACGT\n",
        ">a\nACGT\nACGTA\n",  # pyfaidx's own index takes this for sound, and reads wrong bases
        ">b\nAC\nACGTACGT\n>c\nGGGG\n",
        ">a\nACGT\n\nAC\n",
        ">a\nACGT\r\nACGTA\n",
        ">a\nACGT \nACGT \n",
        ">a\nAC GT\nACGTA\n",
    ],
)
def test_uneven_lines_need_a_store(text, tmp_path):
    expected = {name: as_read(line.replace(" ", "")) for name, line in naive_parse(text).items()}
    for read in (index_plain, index_bgzf):
        with pytest.raises(InputError, match=r"line \d+ has .*\n  dnamamba data prepare"):
            read(tmp_path, text)
    assert stream_plain(tmp_path, text) == expected
    assert store(tmp_path, text) == expected


@pytest.mark.parametrize("missing", [1, 28, 29, 60])
def test_a_bgzf_file_that_is_cut_off_is_refused(missing, tmp_path):
    path = write_bgzf(tmp_path / "x.fa.gz", fasta_text({"a": random_sequence(500)}))
    path.write_bytes(path.read_bytes()[:-missing])
    for read in (_streamed, IndexedFasta, lambda path: prepare_store([path], tmp_path / "x.h5")):
        with pytest.raises(InputError, match=r"x.fa.gz is cut off.* [Cc]opy or download it again"):
            read(path)


@pytest.mark.parametrize("kept", [30, 100, -1])
def test_a_gzip_file_that_is_cut_off_is_refused(kept, tmp_path):
    path = write_gzip(tmp_path / "x.fa.gz", fasta_text({"a": random_sequence(5000)}))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"cut off or damaged.*Copy or download it again"):
        _streamed(path)


@pytest.mark.parametrize("write", [write_gzip, write_bgzf])
def test_a_damaged_byte_is_noticed(write, tmp_path):
    path = write(tmp_path / "x.fa.gz", fasta_text({"a": random_sequence(5000)}))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InputError, match="cut off or damaged"):
        _streamed(path)
    if write is write_bgzf:
        with pytest.raises(InputError, match="cut off or damaged"):
            IndexedFasta(path)


def test_plain_gzip_is_refused_with_the_commands_that_fix_it(tmp_path):
    path = write_gzip(tmp_path / "my genome.v2.fa.gz", ">a\nACGT\n")
    with pytest.raises(InputError) as error:
        IndexedFasta(path)
    message = str(error.value)
    assert f"dnamamba data prepare '{path}' --out 'my genome.h5'" in message
    assert f"gzip -dc '{path}' > 'my genome.v2.fa'" in message


@pytest.mark.parametrize(("name", "packed"), [("x.fa", True), ("x.bgzf", True), ("x.gz", False)])
def test_a_name_that_lies_about_compression_is_refused(name, packed, tmp_path):
    text = ">a\nACGT\n"
    path = tmp_path / name
    write_bgzf(path, text) if packed else path.write_text(text)
    assert _streamed(path) == {"a": "ACGT"}
    with pytest.raises(InputError, match="its name says otherwise: rename it"):
        IndexedFasta(path)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        IndexedFasta(tmp_path / "nothing.fa")
    with pytest.raises(InputError, match="expected a file, got a folder"):
        IndexedFasta(tmp_path)
    with pytest.raises(InputError, match="expected a file, got a folder"):
        _streamed(tmp_path)


# --- the index


@pytest.fixture(params=["plain", "bgzf"])
def indexed(request, tmp_path):
    """A function that writes records into one file, and the file's index."""
    folder = tmp_path / "data"
    folder.mkdir()
    path = folder / ("x.fa" if request.param == "plain" else "x.fa.gz")

    def write(records):
        if request.param == "plain":
            return write_fasta(path, records)
        return write_bgzf(path, fasta_text(records), block_bases=50)

    return write


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_index_lies_beside_the_file(indexed, own_cache_folder):
    path = indexed({"a": random_sequence(300)})
    IndexedFasta(path)
    packed = path.suffix == ".gz"
    assert files_in(path.parent) == {path.name, f"{path.name}.fai"} | (
        {f"{path.name}.gzi"} if packed else set()
    )
    assert files_in(own_cache_folder) == set()


def test_the_index_is_the_one_pyfaidx_would_write(indexed):
    import pyfaidx

    path = indexed({"a": random_sequence(300), "none": "", "b": "ACGT"})
    ours = IndexedFasta(path).index
    theirs = path.with_name("theirs.fai")
    pyfaidx.Faidx(str(path), indexname=theirs, gzi_indexname=f"{theirs}.gzi").close()
    assert ours.read_text() == theirs.read_text()
    if path.suffix == ".gz":
        assert ours.with_suffix(".gzi").read_bytes() == Path(f"{theirs}.gzi").read_bytes()


def test_an_index_of_samtools_is_used_as_it_is(indexed, monkeypatch):
    path = indexed({"a": random_sequence(300)})
    IndexedFasta(path)
    monkeypatch.setattr(fasta_module, "_write_fai", None)
    assert IndexedFasta(path).contigs == {"a": 300}


def test_a_folder_that_may_not_be_written_stays_as_it_is(indexed, own_cache_folder, monkeypatch):
    sequence = random_sequence(300)
    path = indexed({"a": sequence})
    monkeypatch.setattr(os, "access", lambda folder, mode: Path(folder) != path.parent)
    assert _fetched(IndexedFasta(path)) == {"a": sequence}
    assert files_in(path.parent) == {path.name}
    assert files_in(own_cache_folder) != set()
    monkeypatch.setattr(fasta_module, "_write_fai", None)
    assert _fetched(IndexedFasta(path)) == {"a": sequence}, "the second time the cache is used"


def test_files_of_one_name_do_not_share_a_cached_index(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda folder, mode: False)
    for name, sequence in {"one": "ACGT" * 30, "two": "G" * 50}.items():
        (tmp_path / name).mkdir()
        path = write_fasta(tmp_path / name / "x.fa", {"a": sequence})
        assert _fetched(IndexedFasta(path)) == {"a": sequence}


def test_an_index_older_than_its_file_is_made_again(indexed):
    path = indexed({"a": random_sequence(300)})
    IndexedFasta(path)
    records = {"b": "T" * 70, "c": random_sequence(100, seed=1)}
    indexed(records)
    for index in path.parent.glob("*i"):
        os.utime(index, (1, 1))
    assert _fetched(IndexedFasta(path)) == records


def with_old_times(path):
    """As `cp -p`, tar and rsync -t leave a file: older than the index of the one before it."""
    os.utime(path, (1, 1))
    return path


GENES = {"a": random_sequence(300), "none": "", "b": random_sequence(130, 1), "c": "ACGT" * 40}


@pytest.mark.parametrize("old_width", [60, 50, 20, 1000])
@pytest.mark.parametrize("new_width", [60, 50, 20, 1000])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "bgzf"])
def test_an_old_file_with_other_lines_gets_another_index(packed, old_width, new_width, tmp_path):
    path = tmp_path / ("x.fa.gz" if packed else "x.fa")
    for width in (old_width, new_width):
        text = fasta_text(GENES, width)
        write_bgzf(path, text, block_bases=50) if packed else path.write_text(text)
        assert _fetched(IndexedFasta(with_old_times(path))) == GENES


@pytest.mark.parametrize(
    "records",
    [
        GENES | {"added": "ACGT"},
        GENES | {"c": "ACGT" * 41},
        GENES | {"c": "ACGT"},
        GENES | {"a": ""},
        {f"{name}2": sequence for name, sequence in GENES.items()},
        dict(reversed(GENES.items())),
        {"a": GENES["a"]},
        {"none": ""},
    ],
    ids=["added", "longer", "shorter", "emptied", "renamed", "another order", "fewer", "nothing"],
)
def test_an_old_file_with_other_contigs_gets_another_index(indexed, records):
    IndexedFasta(with_old_times(indexed(GENES)))
    assert _fetched(IndexedFasta(with_old_times(indexed(records)))) == records


def test_bgzf_packed_again_in_other_blocks_gets_another_index(tmp_path):
    for block_bases in (50, 33):
        path = write_bgzf(tmp_path / "x.fa.gz", fasta_text(GENES), block_bases)
        assert _fetched(IndexedFasta(with_old_times(path))) == GENES


@pytest.mark.parametrize("damage", ["", "a\tb\n", "a\t300\n", "a\t300\t3\t0\t0\n", "\0" * 40])
def test_a_damaged_index_is_made_again(indexed, damage):
    path = with_old_times(indexed(GENES))
    for index in (".fai", ".gzi"):
        IndexedFasta(path)
        path.with_name(path.name + index).write_text(damage)
        assert _fetched(IndexedFasta(path)) == GENES


@pytest.mark.parametrize("text", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "bgzf"])
def test_the_index_of_any_layout_is_used_again(packed, text, tmp_path, monkeypatch):
    path = write_bgzf(tmp_path / "x.fa.gz", text, 7) if packed else _plain(tmp_path, text)
    first = _fetched(IndexedFasta(path))
    if any(first.values()):  # else there is nothing to judge an index by
        monkeypatch.setattr(fasta_module, "_write_fai", None)
    assert _fetched(IndexedFasta(path)) == first


def test_a_failed_index_leaves_nothing(tmp_path):
    path = tmp_path / "x.fa"
    path.write_text(">a\nACGT\nACGTACGT\n")
    with pytest.raises(InputError):
        IndexedFasta(path)
    assert files_in(tmp_path) == {"x.fa"}


def test_a_handle_is_not_pickled_and_not_opened_twice(indexed, monkeypatch):
    sequence = random_sequence(300)
    source = IndexedFasta(indexed({"a": sequence}))
    assert _fetched(source) == {"a": sequence}
    opened = []
    real_open = builtins.open
    monkeypatch.setattr(builtins, "open", lambda *a, **k: opened.append(a) or real_open(*a, **k))
    source.read("a", 3, 9)
    assert opened == []
    copy = pickle.loads(pickle.dumps(source))
    assert _fetched(copy) == {"a": sequence}
    assert opened != []


# --- real files


def test_the_real_bgzf_file_reads_as_gzip_reads_it(shared_data, tmp_path):
    """Its own index was made by samtools; ours is made beside a link to it."""
    source = shared_data / "genomes" / "human_GRCh37_chr7_86-87Mb.fa.gz"
    link = tmp_path / source.name
    link.symlink_to(source)
    expected = naive_parse(gzip.decompress(source.read_bytes()).decode())
    assert _fetched(IndexedFasta(link)) == {k: as_read(v) for k, v in expected.items()}


def test_bgzf_is_read_from_every_block_boundary(tmp_path):
    """Blocks of 65,536 bytes, as Biopython writes them: pyfaidx alone fails at their first byte."""
    sequence = random_sequence(300_000, 1)
    text = f">chr1\n{sequence}\n"
    path = write_bgzf(tmp_path / "genome.fa.gz", text, block_bases=1 << 16)
    fasta = IndexedFasta(path)
    boundaries = [n * 65_536 - len(">chr1\n") for n in range(1, 5)]
    for boundary in boundaries:
        for start in (boundary - 1, boundary, boundary + 1):
            end = min(start + 70_000, len(sequence))
            assert decode(fasta.read("chr1", start, end)) == sequence[start:end]
