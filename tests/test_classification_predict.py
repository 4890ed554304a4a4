"""Predictions: the same for any batching, in the input's order, and a table that keeps its rows."""

import gzip
import io
from itertools import islice

import numpy as np
import pytest
import torch

from dnamamba.classification.predict import (
    PredictionCells,
    PredictOptions,
    predict_rows,
    predict_sequences,
    window_rule,
    write_predictions,
)
from dnamamba.data_prep.regions.readers import open_regions
from dnamamba.data_prep.regions.rows import RegionRow, RowStatus, WindowRule
from dnamamba.errors import InputError
from dnamamba.models import AttentionConfig, BiMambaConfig, HyenaConfig, MambaConfig, ModelConfig
from dnamamba.models.classifier import DnaClassifier, HeadConfig
from dnamamba.task import Task
from dnamamba.tokenizer import encode, reverse_complement
from genomes import MemoryGenome, random_sequence
from model_cases import STRIPED_HYENA, of_mixer

APES = Task(labels=("bonobo", "human"))
EXONS = Task(kind="per_base", labels=("e", "i"))
TASKS = {
    "multiclass": APES,
    "multilabel": Task(kind="multilabel", labels=("liver", "skin")),
    "regression": Task(kind="regression", labels=("mean", "spread")),
    "per_base": EXONS,
}
MIXERS = {
    "mamba": MambaConfig(),
    "bimamba": BiMambaConfig(),
    "attention": AttentionConfig(n_heads=2),
    "hyena": HyenaConfig(l_max=64),
    "striped-hyena": STRIPED_HYENA,
}


def make_classifier(task=APES, mixer=None, **head):
    torch.manual_seed(0)
    config = ModelConfig(d_model=16, n_layers=2, **of_mixer(mixer))
    classifier = DnaClassifier(config, HeadConfig(task=task, **head))
    # Larger than a new head's weights, so that labels differ between sequences.
    torch.nn.init.normal_(classifier.head.weight)
    return classifier.eval()


def draw_sequences(n=20, longest=60):
    lengths = np.random.default_rng(0).integers(1, longest, n).tolist()
    return [encode(random_sequence(length, seed=i)) for i, length in enumerate(lengths)]


def predict_alone(classifier, codes):
    """The most obvious way: one sequence, without padding."""
    with torch.no_grad():
        return classifier.predict(torch.from_numpy(codes.copy()).long()[None])[0].numpy()


# --- sequences


@pytest.mark.parametrize("mixer", MIXERS.values(), ids=MIXERS.keys())
@pytest.mark.parametrize("task", [APES, EXONS], ids=["multiclass", "per_base"])
def test_a_batch_gives_what_each_sequence_gives_alone(mixer, task):
    classifier, sequences = make_classifier(task, mixer), draw_sequences()
    found = list(predict_sequences(classifier, sequences, batch_tokens=200))
    assert len(found) == len(sequences)
    for codes, values in zip(sequences, found, strict=True):
        np.testing.assert_allclose(values, predict_alone(classifier, codes), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch_tokens", [1, 7, 100, 100_000])
def test_any_number_of_tokens_in_a_batch_gives_the_same(batch_tokens):
    classifier, sequences = make_classifier(), draw_sequences()
    expected = np.stack(list(predict_sequences(classifier, sequences)))
    found = np.stack(list(predict_sequences(classifier, sequences, batch_tokens=batch_tokens)))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def passes_of(sequences, batch_tokens):
    """Rows, width and lengths of each pass."""
    classifier, passes = make_classifier(), []
    alone = classifier.predict

    def recording(token_ids, lengths=None):
        passes.append((*token_ids.shape, lengths))
        return alone(token_ids, lengths)

    classifier.predict = recording
    list(predict_sequences(classifier, sequences, batch_tokens=batch_tokens))
    return passes


def test_batches_keep_to_their_tokens():
    passes = passes_of(draw_sequences(), 200)
    assert all(rows * width <= 200 for rows, width, _ in passes)
    assert len(passes) < 8, "of 20 sequences of 30 bases: several make a batch"


def test_sequences_of_one_length_are_not_padded():
    sequences = [encode(random_sequence(997, seed=i)) for i in range(5)]
    assert passes_of(sequences, 3100) == [(3, 997, None), (2, 997, None)]


def test_batches_have_few_widths():
    """Memory that was freed is used again for the next batch."""
    sequences = [encode("A" * length) for length in range(300, 1000)]
    widths = [width for rows, width, _ in passes_of(sequences, 3000) if rows > 1]
    assert len(set(widths)) <= 30 < len(widths), "16 between a power of two and the next"


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
def test_both_strands_are_averaged(task):
    classifier, codes = make_classifier(task), encode(random_sequence(50))
    (found,) = predict_sequences(classifier, [codes], rc="average")
    one = predict_alone(classifier, codes)
    other = predict_alone(classifier, reverse_complement(codes))
    if task.kind == "per_base":
        other = other[::-1]
    np.testing.assert_allclose(found, (one + other) / 2, rtol=1e-5)
    (turned,) = predict_sequences(classifier, [reverse_complement(codes)], rc="average")
    turned = turned[::-1] if task.kind == "per_base" else turned
    np.testing.assert_allclose(found, turned, rtol=1e-5)
    assert not np.allclose(one, other), "or there is nothing to average"


def test_case_means_nothing():
    text = random_sequence(50)
    one, other = predict_sequences(make_classifier(), [encode(text), encode(text.lower())])
    np.testing.assert_array_equal(one, other)


def test_a_batch_of_hyenas_is_no_wider_than_its_filters():
    classifier = make_classifier(mixer=HyenaConfig(l_max=61))
    sequences = [encode(random_sequence(length)) for length in (61, 50)]
    assert len(list(predict_sequences(classifier, sequences))) == 2


def test_dropout_is_off():
    classifier = make_classifier(dropout=0.5).train()
    codes = encode(random_sequence(50))
    one, other = predict_sequences(classifier, [codes, codes], batch_tokens=50)
    np.testing.assert_array_equal(one, other)


def test_matrices_may_be_multiplied_in_bfloat16():
    classifier, sequences = make_classifier(), draw_sequences()
    exact = np.stack(list(predict_sequences(classifier, sequences)))
    rounded = np.stack(
        list(predict_sequences(classifier, sequences, autocast_dtype=torch.bfloat16))
    )
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.05


def test_sequences_and_rows_are_taken_a_few_batches_ahead():
    taken = []

    def endless(make):
        while True:
            taken.append(1)
            yield make()

    sequences = endless(lambda: encode("ACGT" * 5))
    found = predict_sequences(make_classifier(), sequences, batch_tokens=100)
    assert len(list(islice(found, 50))) == 50
    assert len(taken) < 100

    taken.clear()
    nothing = endless(lambda: RegionRow(1, ("x",), RowStatus.UNREADABLE, "no"))
    assert len(list(islice(predict_rows(make_classifier(), nothing), 50))) == 50
    assert len(taken) < 5000, "rows without a sequence are not piled up either"


def test_a_pass_that_memory_is_too_small_for_is_halved():
    classifier, sequences = make_classifier(), draw_sequences()
    expected = np.stack(list(predict_sequences(classifier, sequences)))
    alone = classifier.predict

    def small(token_ids, lengths=None):
        if token_ids.numel() > 100:
            raise torch.OutOfMemoryError("too much")
        return alone(token_ids, lengths)

    classifier.predict = small
    found = np.stack(list(predict_sequences(classifier, sequences)))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    with pytest.raises(InputError, match="no memory for a sequence of 101 bases: read shorter"):
        list(predict_sequences(classifier, [encode("A" * 101)]))


def test_wrong_options_and_empty_sequences_are_said():
    with pytest.raises(InputError, match="rc must be one of none, average, concat, got 'both'"):
        PredictOptions(rc="both")
    letters = Task(kind="per_base", labels=("exon", "i"))
    with pytest.raises(InputError, match="a letter a base cannot stand for the label 'exon'"):
        PredictionCells(letters, False, "string")
    with pytest.raises(InputError, match="but this model labels sequences: leave it out"):
        PredictionCells(APES, False, "runs")
    with pytest.raises(InputError, match="base_format must be one of auto, string, runs, got 'x'"):
        PredictOptions(base_format="x")
    with pytest.raises(InputError, match="batch_tokens must be >= 1, got 0"):
        PredictOptions(batch_tokens=0)
    with pytest.raises(InputError, match="sequence 0 is empty: expected 1 base"):
        list(predict_sequences(make_classifier(), [encode("")]))


# --- windows


def test_windows_are_as_long_as_those_trained_on():
    classifier = make_classifier(trained_seq_len=100)
    assert window_rule(classifier) == WindowRule(seq_len=100)
    assert window_rule(classifier, 50, "pad") == WindowRule(seq_len=50, widen=True, edge="pad")
    assert window_rule(make_classifier()) == WindowRule()


def test_windows_longer_than_those_trained_on_are_said(caplog):
    with caplog.at_level("WARNING", "dnamamba"):
        window_rule(make_classifier(trained_seq_len=1000), 2000)
    assert "windows of 2,000 bases are longer than any" in caplog.text


def test_hyenas_windows_end_with_its_filters():
    classifier = make_classifier(mixer=HyenaConfig(l_max=64))
    assert window_rule(classifier) == WindowRule(seq_len=64)
    with pytest.raises(InputError, match="65 bases are more than the 64 that"):
        window_rule(classifier, 65)


# --- tables

GENOME = MemoryGenome({"chr1": random_sequence(400, seed=3)})


def written(classifier, text, rule=None, options=None):
    """The table of predictions as a list of dicts, a dict a row."""
    out = io.BytesIO()
    with open_regions(io.BytesIO(text.encode()), genome=GENOME, rule=rule) as table:
        statuses = write_predictions(classifier, table, out, options)
    names, *rows = (line.split("\t") for line in out.getvalue().decode().splitlines())
    assert statuses.total() == len(rows)
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_every_row_of_a_bed_is_a_row_of_the_table():
    classifier = make_classifier()
    text = "chr1\t10\t60\tgene\nchr7\t1\t2\tx\nchr1\t100\t90\ty\nchr1\t380\t900\tz\n"
    rows = written(classifier, text)
    assert [row["name"] for row in rows] == ["gene", "x", "y", "z"]
    assert [row["status"] for row in rows] == ["ok", "unreadable", "unreadable", "clipped"]
    assert [row["p_human"] != "" for row in rows] == [True, False, False, True]
    assert rows[1]["note"] == "the genome has no contig 'chr7'"
    assert (rows[3]["window_start"], rows[3]["window_end"]) == ("380", "400")
    expected = predict_alone(classifier, GENOME.read("chr1", 10, 60))
    assert float(rows[0]["p_human"]) == pytest.approx(expected[1], rel=1e-4)
    assert rows[0]["label"] == APES.labels[expected.argmax()]


def test_a_variant_has_both_alleles_and_their_difference():
    classifier = make_classifier()
    contig = GENOME.read("chr1", 0, 400)
    ref = random_sequence(400, seed=3)[199]
    text = f"##fileformat=VCFv4.2\nchr1\t200\trs1\t{ref}\tACGTACGT,<DEL>\t.\t.\t.\n"
    row, other = written(classifier, text, WindowRule(seq_len=80))
    assert (row["ID"], row["allele"], other["allele"]) == ("rs1", "ACGTACGT", "<DEL>")
    assert (row["status"], other["status"]) == ("ok", "unreadable")
    start = int(row["window_start"])
    changed = np.concatenate([contig[start:199], encode("ACGTACGT"), contig[200:]])[:80]
    before = predict_alone(classifier, contig[start : start + 80])[1]
    after = predict_alone(classifier, changed)[1]
    assert float(row["ref_p_human"]) == pytest.approx(before, rel=1e-4)
    assert float(row["alt_p_human"]) == pytest.approx(after, rel=1e-4)
    assert float(row["difference_p_human"]) == pytest.approx(after - before, abs=1e-5)
    assert {"ref_label", "alt_label"} < row.keys()


@pytest.mark.parametrize(
    ("task", "values", "cells"),
    [
        (APES, [0.25, 0.75], {"label": "human", "p_bonobo": "0.25", "p_human": "0.75"}),
        (
            TASKS["multilabel"],
            [0.5, 0.75],
            {"labels": "liver;skin", "p_liver": "0.5", "p_skin": "0.75"},
        ),
        (TASKS["multilabel"], [0.25, 0.25], {"labels": "", "p_liver": "0.25", "p_skin": "0.25"}),
        (
            TASKS["regression"],
            [-3, 1e-9],
            {"predicted_mean": "-3", "predicted_spread": "1e-09"},
        ),
        (
            EXONS,
            [[1, 0], [0.75, 0.25], [0.25, 0.75]],
            {"labels": "eei", "mean_probability": "0.833333"},
        ),
        (
            Task(kind="per_base", labels=("exon", "intron")),
            [[1, 0], [0.75, 0.25], [0.25, 0.75], [1, 0]],
            {"labels": "exon:2;intron:1;exon:1", "mean_probability": "0.875"},
        ),
    ],
)
def test_cells_of_every_task(task, values, cells):
    table = PredictionCells(task, has_alternatives=False)
    found = table.of([np.array(values, np.float32)])
    assert dict(zip(table.columns, found, strict=True)) == cells
    assert table.of([]) == [""] * len(cells)


def test_cells_of_variants():
    table = PredictionCells(TASKS["regression"], has_alternatives=True)
    found = table.of([np.float32([1, 2]), np.float32([1.5, 0])])
    assert dict(zip(table.columns, found, strict=True)) == {
        "ref_predicted_mean": "1",
        "ref_predicted_spread": "2",
        "alt_predicted_mean": "1.5",
        "alt_predicted_spread": "0",
        "difference_predicted_mean": "+0.5",
        "difference_predicted_spread": "-2",
    }
    with pytest.raises(InputError, match="labels each base, which says nothing of a variant"):
        PredictionCells(EXONS, has_alternatives=True)


def test_labels_of_bases_are_those_of_the_strand():
    text = "chr1\t10\t60\tx\t0\t+\nchr1\t10\t60\tx\t0\t-\n"
    forward, reverse = written(make_classifier(EXONS), text, options=PredictOptions(rc="average"))
    assert len(forward["labels"]) == 50
    assert forward["labels"] == reverse["labels"][::-1]
    runs = PredictOptions(rc="average", base_format="runs")
    assert ":" in written(make_classifier(EXONS), text, options=runs)[0]["labels"]


def test_columns_of_the_input_that_are_called_like_ours_keep_their_values():
    text = "chrom\tstart\tend\tlabel\tstatus\nchr1\t10\t60\tmine\tnew\n"
    (row,) = written(make_classifier(), text)
    assert (row["input_status"], row["input_label"]) == ("new", "mine")
    assert row["status"] == "ok"
    assert row["label"] in APES.labels


def test_a_table_is_there_once_it_is_whole(tmp_path):
    out = tmp_path / "new" / "x.tsv"
    text = "chr1\t1\t60\n" * 3
    with open_regions(io.BytesIO(text.encode()), genome=GENOME) as table:
        write_predictions(make_classifier(), table, out)
    whole = out.read_bytes()
    cut = gzip.compress(text.encode() * 5000, 0)[:-50]
    with (
        pytest.raises(InputError, match="cut off"),
        open_regions(io.BytesIO(cut), genome=GENOME) as table,
    ):
        write_predictions(make_classifier(), table, out)
    assert out.read_bytes() == whole
    assert list(out.parent.iterdir()) == [out]


def test_a_table_is_packed_where_its_name_says_so(tmp_path):
    out, plain = tmp_path / "x.tsv.gz", io.BytesIO()
    for target in (out, plain):
        with open_regions(io.BytesIO(b">a\nACGT\n"), genome=None) as table:
            write_predictions(make_classifier(), table, target)
    assert gzip.decompress(out.read_bytes()) == plain.getvalue()
