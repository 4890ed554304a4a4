"""Each job from Python as a newcomer does it, in at most five lines, and what bad input says."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import dnamamba
from dnamamba.convert import export_model
from dnamamba.models import HeadConfig
from dnamamba.task import Task
from genomes import (
    random_sequence,
    write_fasta,
)

CONTIGS = {"chr1": random_sequence(3000, seed=1), "chr2": random_sequence(900, seed=2)}
READS = [random_sequence(length, seed=length) for length in (40, 7, 190, 64)]
RC = str.maketrans("ACGT", "TGCA")
BIDIRECTIONAL = "caduceus-ph-demo"


def saved(folder: Path, name: str = "mamba-demo") -> Path:
    """A run folder with a model of random weights."""
    torch.manual_seed(0)
    model = dnamamba.DnaModel.from_config(name)
    torch.nn.init.normal_(model.backbone.embedding.weight)
    model.save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def model(run):
    return dnamamba.DnaModel.from_pretrained(run)


@pytest.fixture(scope="module")
def masked_model(tmp_path_factory):
    return dnamamba.DnaModel.from_pretrained(
        saved(tmp_path_factory.mktemp("masked"), BIDIRECTIONAL)
    )


@pytest.fixture
def genome(tmp_path) -> Path:
    return write_fasta(tmp_path / "genome.fa", CONTIGS)


def make_classifier(kind="multiclass", labels=("ape", "bee", "cat"), name="mamba-demo"):
    torch.manual_seed(0)
    head = HeadConfig(task=Task(kind=kind, labels=labels))
    classifier = dnamamba.DnaClassifier(dnamamba.preset(name), head)
    torch.nn.init.normal_(classifier.head.weight)
    return classifier.eval()


def turned(text: str) -> str:
    return text[::-1].translate(RC)


# --- load a model


def test_load_a_run_its_model_folder_and_a_config(run):
    model = dnamamba.DnaModel.from_pretrained(run)
    same = dnamamba.DnaModel.from_pretrained(run / "model")
    new = dnamamba.DnaModel.from_config("mamba-demo")
    weight = model.lm_head.weight
    assert torch.equal(weight, same.lm_head.weight)
    assert new.config == model.config == dnamamba.preset("mamba-demo")
    assert not torch.equal(weight, new.lm_head.weight)
    assert dnamamba.DnaModel.from_config(new.config).config == new.config


def test_load_what_convert_export_wrote(run, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    export_model(run, tmp_path / "exported")
    again = dnamamba.DnaModel.from_pretrained(tmp_path / "exported")
    assert again.config == model.config
    np.testing.assert_array_equal(dnamamba.logits(again, "ACGT"), dnamamba.logits(model, "ACGT"))
    with pytest.raises(dnamamba.InputError, match="is no classifier of dnamamba"):
        dnamamba.DnaClassifier.from_pretrained(tmp_path / "exported")


@pytest.mark.parametrize("kind", ["DnaModel", "DnaClassifier"])
def test_the_name_of_a_preset_has_no_weights_to_load(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = r"mamba-7m is a preset, .* random weights by DnaModel\.from_config\('mamba-7m'\)"
    with pytest.raises(dnamamba.InputError, match=message):
        getattr(dnamamba, kind).from_pretrained("mamba-7m")
    saved(tmp_path / "mamba-7m")
    dnamamba.DnaModel.from_pretrained("mamba-7m")  # a folder of that name


# --- sequences


def test_tokenize_pads_on_the_right():
    batch = dnamamba.tokenize(["ACGT", "gu", "N"])
    assert batch.token_ids.tolist() == [[7, 8, 9, 10], [9, 10, 4, 4], [11, 4, 4, 4]]
    assert batch.token_ids.dtype == np.uint8
    assert batch.lengths.tolist() == [4, 2, 1]
    assert dnamamba.tokenize("ACGT").token_ids.shape == (1, 4)
    assert dnamamba.tokenize([]).token_ids.shape == (0, 0)


def test_tokenize_for_a_call_of_the_model(model):
    batch = dnamamba.tokenize(READS, return_tensors="pt")
    with torch.no_grad():
        logits = model(batch.token_ids, lengths=batch.lengths)
    assert logits.shape == (4, 190, 16)
    with pytest.raises(dnamamba.InputError, match="return_tensors must be one of np, pt, got 'tf'"):
        dnamamba.tokenize("A", return_tensors="tf")


def test_logits(model):
    logits = dnamamba.logits(model, "ACGTAC")
    assert logits.shape == (6, len(dnamamba.VOCABULARY.tokens))
    assert logits.dtype == np.float32
    ids = dnamamba.tokenize("ACGTAC").token_ids
    with torch.no_grad():
        expected = model(torch.from_numpy(ids))[0, :, :12].numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["mamba-demo", BIDIRECTIONAL])
def test_logits_of_several_are_those_of_each(name, model, masked_model):
    reader = model if name == "mamba-demo" else masked_model
    alone = [dnamamba.logits(reader, text) for text in READS]
    batch = dnamamba.tokenize(READS)
    for several in (
        dnamamba.logits(reader, READS),
        dnamamba.logits(reader, READS, batch_tokens=64),
        dnamamba.logits(reader, batch.token_ids),
        dnamamba.logits(reader, torch.from_numpy(batch.token_ids)),
    ):
        for one, found in zip(alone, several, strict=True):
            np.testing.assert_allclose(found, one, rtol=1e-4, atol=1e-4)


# --- embed


def test_embed_a_string_and_several(model):
    vector = dnamamba.embed(model, "ACGTTGCA")
    vectors = dnamamba.embed(model, READS)
    assert vector.shape == (64,)
    assert vectors.shape == (4, 64)
    assert vectors.dtype == np.float32


@pytest.mark.parametrize("name", ["mamba-demo", BIDIRECTIONAL])
@pytest.mark.parametrize("rc", ["none", "average", "concat"])
def test_vectors_of_several_are_those_of_each(name, rc, model, masked_model):
    reader = model if name == "mamba-demo" else masked_model
    alone = np.stack([dnamamba.embed(reader, text, rc=rc) for text in READS])
    for batch_tokens in (None, 64):
        found = dnamamba.embed(reader, READS, rc=rc, batch_tokens=batch_tokens)
        np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-5)


def test_vectors_of_the_other_strand(model):
    other = [turned(text) for text in READS]
    forward, reverse = dnamamba.embed(model, READS), dnamamba.embed(model, other)
    close = {"rtol": 1e-4, "atol": 1e-5}
    mean = dnamamba.embed(model, READS, rc="average")
    np.testing.assert_allclose(mean, (forward + reverse) / 2, **close)
    np.testing.assert_allclose(dnamamba.embed(model, other, rc="average"), mean, **close)
    both = dnamamba.embed(model, READS, rc="concat")
    np.testing.assert_allclose(both, np.concatenate([forward, reverse], 1), **close)


def regions_as(kind: str):
    columns = {
        "chrom": ["chr2", "chr1", "chr1"],
        "start": [0, 100, 2950],
        "end": [900, 130, 3000],
        "strand": ["+", "-", "."],
    }
    if kind == "numpy":
        return {name: np.array(values) for name, values in columns.items()}
    if kind == "pyarrow":
        return pytest.importorskip("pyarrow").table(columns)
    if kind in ("pandas", "polars"):
        return pytest.importorskip(kind).DataFrame(columns)
    return columns


@pytest.mark.parametrize("kind", ["mapping", "numpy", "pandas", "polars", "pyarrow"])
def test_embed_a_table_of_regions(kind, model, genome):
    table = regions_as(kind)
    vectors = dnamamba.embed(model, table, genome=genome)
    bases = [CONTIGS["chr2"], turned(CONTIGS["chr1"][100:130]), CONTIGS["chr1"][2950:]]
    np.testing.assert_allclose(vectors, dnamamba.embed(model, bases), rtol=1e-4, atol=1e-5)


def test_embed_rows_of_a_file_with_context(model, genome, tmp_path):
    (tmp_path / "peaks.bed").write_text("chr1\t1000\t1100\n")
    whole = dnamamba.WindowRule(seq_len=500, widen=True)
    opened = dnamamba.open_genome(genome)
    with dnamamba.open_regions(tmp_path / "peaks.bed", genome=opened, rule=whole) as rows:
        (vector,) = dnamamba.embed(model, rows)
    window = dnamamba.tokenize(CONTIGS["chr1"][800:1300], return_tensors="pt")
    with torch.no_grad():
        expected = model.embed(window.token_ids)[0, 200:300].mean(0)
    np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)


# --- score


def test_score_sequences(model):
    scores = dnamamba.score_sequences(model, READS)
    one = dnamamba.score_sequences(model, READS[0])
    assert scores.shape == (4,)
    assert isinstance(one, float)
    logits = dnamamba.logits(model, READS[0]).astype(np.float64)[:-1, 7:11]
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    bases = ["ACGT".index(letter) for letter in READS[0][1:]]
    assert one == pytest.approx(log_probs[np.arange(39), bases].sum(), rel=1e-5)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_scores_of_several_are_those_of_each(reduction, model):
    for rc in ("none", "average"):
        alone = [dnamamba.score_sequences(model, one, reduction=reduction, rc=rc) for one in READS]
        found = dnamamba.score_sequences(model, READS, reduction=reduction, rc=rc, batch_tokens=64)
        np.testing.assert_allclose(found, alone, rtol=1e-5)


def test_score_both_strands(model):
    forward = dnamamba.score_sequences(model, READS)
    reverse = dnamamba.score_sequences(model, [turned(text) for text in READS])
    both = dnamamba.score_sequences(model, READS, rc="average")
    np.testing.assert_allclose(both, (forward + reverse) / 2, rtol=1e-5)


def test_score_every_base(model):
    values = dnamamba.score_sequences(model, "ACGNTA", reduction="none")
    assert np.isnan(values).tolist() == [True, False, False, True, False, False]
    total = dnamamba.score_sequences(model, "ACGNTA")
    assert total == pytest.approx(np.nansum(values.astype(np.float64)))
    mean = dnamamba.score_sequences(model, "ACGNTA", reduction="mean")
    assert mean == pytest.approx(total / 4)
    assert np.isnan(dnamamba.score_sequences(model, "A"))


def test_score_regions(model, genome):
    table = {"chrom": ["chr1"], "start": [10], "end": [60], "strand": ["-"]}
    expected = dnamamba.score_sequences(model, turned(CONTIGS["chr1"][10:60]))
    found = dnamamba.score_sequences(model, table, genome=genome)
    assert found == pytest.approx([expected], rel=1e-5)


def variant_table():
    ref = CONTIGS["chr1"][999]
    return {
        "chrom": ["chr1", "chr1", "chrX"],
        "pos": [1000, 1000, 5],
        "ref": [ref, ref, "A"],
        "alt": ["T" if ref != "T" else "A", ref + "GG", "C"],
    }


def test_score_variants_of_a_table_and_of_a_vcf(model, genome, tmp_path, caplog):
    table = variant_table()
    scores = dnamamba.score_variants(model, table, genome=genome, seq_len=101)
    assert scores.shape == (3,)
    assert np.isfinite(scores["llr"][:2]).all()
    assert np.isnan(scores["llr"][2])
    assert scores["status"].tolist() == ["ok", "ok", "unreadable"]
    assert scores["pos"].tolist() == [1000, 1000, 5]
    assert "1 of 3 alleles have no score, the first chrX:5: the genome has no contig" in caplog.text

    lines = ["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
    alleles = ",".join(table["alt"][:2])
    lines.append(f"chr1\t1000\t.\t{table['ref'][0]}\t{alleles}\t.\t.\t.")
    (tmp_path / "x.vcf").write_text("\n".join(lines) + "\n")
    of_file = dnamamba.score_variants(model, tmp_path / "x.vcf", genome=genome, seq_len=101)
    assert (of_file == scores[:2]).all()


def test_the_score_of_a_variant_is_the_difference_of_its_windows(model, genome):
    table = {name: values[:1] for name, values in variant_table().items()}
    (score,) = dnamamba.score_variants(model, table, genome=genome, seq_len=101, rc="none")
    window = CONTIGS["chr1"][949:1050]
    changed = window[:50] + table["alt"][0] + window[51:]
    expected = dnamamba.score_sequences(model, [window, changed])
    assert score["llr"] == pytest.approx(expected[1] - expected[0], abs=1e-3)


# --- classify


def test_classify():
    classifier = make_classifier()
    found = dnamamba.classify(classifier, READS)
    assert found.classes_.tolist() == ["ape", "bee", "cat"]
    assert found.probabilities.shape == (4, 3)
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-5)
    assert found.labels.tolist() == found.classes_[found.probabilities.argmax(1)].tolist()


@pytest.mark.parametrize("rc", ["none", "average"])
def test_classes_of_several_are_those_of_each(rc):
    classifier = make_classifier()
    several = dnamamba.classify(classifier, READS, rc=rc, batch_tokens=64)
    for i, text in enumerate(READS):
        alone = dnamamba.classify(classifier, text, rc=rc)
        np.testing.assert_allclose(alone.probabilities, several.probabilities[i], atol=1e-5)
        assert alone.labels == several.labels[i]


def test_classify_regions(genome):
    classifier = make_classifier()
    found = dnamamba.classify(classifier, regions_as("mapping"), genome=genome)
    bases = [CONTIGS["chr2"], turned(CONTIGS["chr1"][100:130]), CONTIGS["chr1"][2950:]]
    expected = dnamamba.classify(classifier, bases).probabilities
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)


def test_several_labels_a_label_a_base_and_numbers():
    found = dnamamba.classify(make_classifier("multilabel"), READS)
    assert found.labels.dtype == bool
    assert (found.labels == (found.probabilities >= 0.5)).all()
    found = dnamamba.classify(make_classifier("per_base"), READS)
    assert [labels.shape for labels in found.labels] == [(len(text),) for text in READS]
    assert found.probabilities[1].shape == (7, 3)
    regression = make_classifier("regression", ("height", "weight"))
    with pytest.raises(dnamamba.InputError, match=r"regression .* use predict_sequences"):
        dnamamba.classify(regression, READS)
    numbers = np.stack(list(dnamamba.predict_sequences(regression, READS)))
    assert numbers.shape == (4, 2)


# --- bad input


JOBS = {
    "embed": lambda data, **more: dnamamba.embed(MODELS.model, data, **more),
    "score": lambda data, **more: dnamamba.score_sequences(MODELS.model, data, **more),
    "classify": lambda data, **more: dnamamba.classify(MODELS.classifier, data, **more),
}
MODELS = SimpleNamespace()


@pytest.fixture(params=JOBS)
def job(request, model):
    MODELS.model, MODELS.classifier = model, make_classifier()
    return JOBS[request.param]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "sequence 0 is empty: expected 1 base or more"),
        (["ACGT", ""], "sequence 1 is empty"),
        (["ACGT", "NNNN"], "sequence 1 has no A, C, G or T among 4 letters"),
        ("ACGEZ", r"letters must be A, C, .* sequence 0 has 2 others, the first 'E' at position 3"),
        ("runs/human", "letters must be A, C"),
        (Path("x.fa"), "expected a sequence .* got PosixPath; files are opened by open_regions"),
        (7, "expected a sequence of letters or ids, .* got int"),
        ([np.array([7, 99])], "sequence 0 must have ids from 0 to 11, got 7 to 99"),
        ([np.array([0.5])], r"sequence 0 must be letters, or integers of one dimension, got float"),
        ([[["A"]]], "sequence 0 must be letters, or integers"),
    ],
)
def test_bad_sequences_are_named(data, message, job):
    with pytest.raises(dnamamba.InputError, match=message):
        job(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chrom": ["1"]}, r"row 0 \(1:5-9\): the genome has no contig '1' \(it has 'chr1'\)"),
        ({"start": [9], "end": [5]}, "row 0 .*start 9 is after end 5"),
        ({"start": [5], "end": [5]}, "row 0 .*no base at all"),
        ({"start": [-1]}, "row 0 .*start must be >= 0, got -1"),
        ({"start": [5.5]}, r"row 0 .*start must be a whole number, got 5\.5"),
        ({"end": [3001]}, "row 0 .*end 3,001 lies past the end of chr1, which has 3,000 bases"),
        ({"strand": ["x"]}, r"row 0 .*strand must be \+, - or \., got 'x'"),
        ({"end": [9, 10]}, "must be equally long, got chrom 1, start 1, end 2"),
    ],
)
def test_bad_regions_are_named(changes, message, job, genome):
    table = {"chrom": ["chr1"], "start": [5], "end": [9]} | changes
    with pytest.raises(dnamamba.InputError, match=message):
        job(table, genome=genome)


def test_tables_without_columns_or_genome(job, genome):
    with pytest.raises(dnamamba.InputError, match="there is no chrom among chr, start, end"):
        job({"chr": ["chr1"], "start": [5], "end": [9]}, genome=genome)
    with pytest.raises(dnamamba.InputError, match="name the genome"):
        job({"chrom": ["chr1"], "start": [5], "end": [9]})
    with pytest.raises(dnamamba.InputError, match=r"a genome is for regions: .* got list"):
        job(READS, genome=genome)


def test_options_that_a_job_does_not_have(model, masked_model, genome):
    with pytest.raises(dnamamba.InputError, match="reduction must be one of sum, mean, none"):
        dnamamba.score_sequences(model, READS, reduction="max")
    with pytest.raises(dnamamba.InputError, match="rc must be one of none, average, got 'concat'"):
        dnamamba.score_sequences(model, READS, rc="concat")
    with pytest.raises(dnamamba.InputError, match=r"rc must be none with reduction 'none'"):
        dnamamba.score_sequences(model, READS, rc="average", reduction="none")
    with pytest.raises(dnamamba.InputError, match="reads both ways"):
        dnamamba.score_sequences(masked_model, READS)
    with pytest.raises(dnamamba.InputError, match=r"layer"):
        dnamamba.embed(model, READS, layers=99)
    with pytest.raises(dnamamba.InputError, match="variants must be a VCF's name or a table"):
        dnamamba.score_variants(model, ["A>T"], genome=genome)
    two = {"chrom": ["chr1"], "pos": [1], "ref": ["A"], "alt": ["C,G"]}
    with pytest.raises(dnamamba.InputError, match="row 0: alt must be one allele, got 'C,G'"):
        dnamamba.score_variants(model, two, genome=genome)
