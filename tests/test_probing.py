"""Probing embeddings: known signals are found, what is held out stays unseen, all is told."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dnamamba.baselines.linear_models import LinearProbe
from dnamamba.data_prep.genomes.genome import open_genome
from dnamamba.errors import InputError
from dnamamba.intervals import Split
from dnamamba.metrics.bootstrap import Ids, resampled
from dnamamba.metrics.task_kinds import task_kind
from dnamamba.probing.folds import cut_folds, given_folds
from dnamamba.probing.problem import Layer, ProbeConfig
from dnamamba.probing.report import write_probe_report
from dnamamba.probing.run import NO_BASELINE, ProbeResult, evaluate_probe, probe_embeddings
from dnamamba.probing.sequences import sequences_in, sequences_of, span_of, word_sets
from dnamamba.task import Task
from dnamamba.tokenizer import decode, encode
from genomes import (
    random_sequence,
    write_fasta,
)
from label_files import write_table
from probe_cases import embeddings, labels, named, two_classes
from report_pages import Page
from test_classification_report import class_scores, number_scores

PLAIN = ProbeConfig(folds=3, inner_folds=2)
NUMBERS = replace(PLAIN, task="regression")
CLASSES = Task(labels=("a", "b", "c"))
NUMBER = Task(kind="regression", labels=("x",))


def model_of(result: ProbeResult) -> dict:
    return result.record["judged"]["model"]


# --- signals that are known


def test_a_shift_is_told_about_as_well_as_it_can_be(tmp_path: Path) -> None:
    """Two normal distributions 2 apart: the best rule is right in 84.1 %, AUROC 0.921."""
    made, classes = two_classes(600, 2.0)
    result = probe_embeddings(made.layers, labels(tmp_path / "x.tsv", named(classes)), PLAIN)
    found = model_of(result)
    assert found["accuracy"] == pytest.approx(0.841, abs=0.04)
    assert found["auroc"] == pytest.approx(0.921, abs=0.03)
    low, high = found["intervals"]["auroc"]
    assert 0.86 < low < found["auroc"] < high < 0.97
    assert result.record["judged"]["comparison"] is None


def test_three_classes_and_a_forest(tmp_path: Path) -> None:
    right = np.arange(240) % 3
    vectors = np.random.default_rng(0).normal(size=(240, 4))
    vectors[:, 0] += 5 * (right == 1)
    vectors[:, 1] += 5 * (right == 2)
    table = labels(tmp_path / "x.tsv", named(np.array(["a", "b", "c"])[right]))
    linear = probe_embeddings(embeddings(vectors).layers, table, PLAIN)
    assert model_of(linear)["accuracy"] > 0.95
    assert np.array(model_of(linear)["confusion"]).sum() == 240
    config = replace(PLAIN, model="forest", folds=2, inner_folds=1)  # nothing is chosen
    forest = probe_embeddings(embeddings(vectors).layers, table, config)
    assert model_of(forest)["accuracy"] > 0.95
    assert forest.probe is None


def test_numbers_are_predicted_up_to_their_noise(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    vectors = random.normal(size=(500, 6))
    numbers = 3 * vectors[:, 4] + random.normal(size=500) + 7
    table = labels(tmp_path / "x.tsv", named(numbers))
    result = probe_embeddings(embeddings(vectors).layers, table, NUMBERS)
    found = model_of(result)
    assert found["r2"] == pytest.approx(0.9, abs=0.02)
    assert found["mae"] == pytest.approx(np.sqrt(2 / np.pi), abs=0.08)
    assert found["intervals"]["spearman"][0] > 0.9
    assert result.probe is not None
    assert result.probe.weight[0, 4] == pytest.approx(3, abs=0.15)


def test_bins_are_flattened(tmp_path: Path) -> None:
    made, classes = two_classes(120, 4.0, width=12)
    made.vectors = made.vectors.reshape(120, 3, 4)
    table = labels(tmp_path / "x.tsv", named(classes))
    result = probe_embeddings(made.layers, table, PLAIN)
    assert model_of(result)["accuracy"] > 0.9
    assert result.probe is not None
    assert result.probe.weight.shape == (2, 12)
    assert result.probe.scores(made.vectors).shape == (120, 2)


# --- nothing of what is held out is seen


def leaky(seed: int, n_groups: int = 60, each: int = 6):
    """Labels are a coin for each group, and features tell groups apart, nothing else."""
    random = np.random.default_rng(seed)
    group = np.repeat(np.arange(n_groups), each)
    places = random.normal(size=(n_groups, 40))
    vectors = places[group] + 0.1 * random.normal(size=(len(group), 40))
    coin = random.permutation(np.arange(n_groups) % 2)[group]
    return vectors, group, [("tails", "heads")[i] for i in coin]


def test_groups_never_cross_folds(tmp_path: Path) -> None:
    """With the label a coin for each group, any skill is a leak; rows by themselves have one."""
    found = []
    for seed in range(5):
        vectors, group, coins = leaky(seed)
        made = embeddings(vectors, [f"chr{i}" for i in group])
        table = labels(tmp_path / "x.tsv", named(coins))
        result = probe_embeddings(made.layers, table, replace(PLAIN, group_by="chrom"))
        assert sum(fold["groups"] for fold in result.record["folds"]) == 60
        found.append(model_of(result))
    # Of one draw of 60 coins it is 0.5 +- 0.08.
    assert np.mean([each["auroc"] for each in found]) == pytest.approx(0.5, abs=0.1)
    plain = model_of(probe_embeddings(made.layers, table, replace(PLAIN, group_by="none")))
    assert plain["auroc"] > 0.9
    (low, high), (one, other) = (each["intervals"]["auroc"] for each in (found[-1], plain))
    assert high - low > 2 * (other - one), "60 coins, not 360"


def test_noise_is_at_chance_whatever_could_be_chosen(tmp_path: Path) -> None:
    """The best of many layers of noise would look like skill, were it chosen by what is judged."""
    random = np.random.default_rng(5)
    coins = [("a", "b")[i] for i in random.permutation(np.arange(90) % 2)]
    many = [embeddings(random.normal(size=(90, 5))) for _ in range(8)]
    layers = [Layer(f"layer {i}", lambda one=one: one) for i, one in enumerate(many)]
    result = probe_embeddings(layers, labels(tmp_path / "x.tsv", named(coins)), PLAIN)
    each = [layer["headline"] for layer in result.record["layers"]]
    assert model_of(result)["accuracy"] < max(each)
    low, high = model_of(result)["intervals"]["accuracy"]
    assert low < 0.5 < high


def test_the_best_layer_is_found_by_validation(tmp_path: Path) -> None:
    sides = [two_classes(150, distance, seed=seed) for seed, distance in enumerate((0.5, 3, 1))]
    layers = [Layer(f"layer {i}", lambda i=i: sides[i][0]) for i in range(3)]
    result = probe_embeddings(layers, labels(tmp_path / "x.tsv", named(sides[0][1])), PLAIN)
    rows = result.record["layers"]
    assert [row["is_best"] for row in rows] == [False, True, False]
    assert rows[1]["chosen_in"] == 3
    assert rows[1]["headline"] == model_of(result)["accuracy"]
    assert result.record["chosen"]["features"] == "layer 1"


def test_the_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    made, classes = two_classes(90, 1.5)
    chroms = [f"chr{i % 9}" for i in range(90)]
    made = embeddings(made.vectors, chroms)
    order = np.random.default_rng(0).permutation(90)
    config = replace(PLAIN, group_by="chrom")
    rows = named(classes)
    one = probe_embeddings(made.layers, labels(tmp_path / "x.tsv", rows), config)
    turned = labels(tmp_path / "x.tsv", [rows[i] for i in order[::-1]])
    other = probe_embeddings(made.ordered(order).layers, turned, config)
    assert one.record == other.record
    assert sorted(one.predictions) == sorted(other.predictions)


def test_another_seed_cuts_other_folds(tmp_path: Path) -> None:
    made, classes = two_classes(60, 1.0)
    table = labels(tmp_path / "x.tsv", named(classes))
    one, same, other = (
        probe_embeddings(made.layers, table, replace(PLAIN, seed=seed)) for seed in (0, 0, 1)
    )
    assert one.predictions == same.predictions
    assert one.predictions != other.predictions


def test_a_given_split_is_fitted_to_train_and_judged_on_test(tmp_path: Path) -> None:
    made, classes = two_classes(120, 3.0)
    parts = [("train", "valid", "test")[i // 40] for i in range(120)]
    made.vectors[80:] = 0  # nothing to tell the test by
    rows = [(f"p{i}", classes[i], parts[i]) for i in range(120)]
    header = ("name", "label", "part")
    table = labels(tmp_path / "x.tsv", rows, header, split_column="part")
    result = probe_embeddings(made.layers, table, PLAIN)
    assert model_of(result)["n"] == 40
    assert model_of(result)["auroc"] == 0.5
    (fold,) = result.record["folds"]
    assert (fold["fold"], fold["train"], fold["test"]) == ("test", 40, 40)
    assert {line[6] for line in result.predictions[1:]} == {"test"}


# --- folds


@pytest.mark.parametrize("task", [CLASSES, NUMBER], ids=["classes", "numbers"])
def test_folds_share_rows_and_groups_out(task: Task) -> None:
    random = np.random.default_rng(0)
    targets = random.integers(0, 3, 100) if task is CLASSES else random.normal(size=(100, 1))
    groups = [f"g{i}" for i in random.integers(0, 12, 100)]
    folds = cut_folds(targets, task, groups, 4, 3, seed=0)
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(100))
    for fold in folds:
        assert not {groups[i] for i in fold.train} & {groups[i] for i in fold.test}
        for fitted, evaluated in fold.inner:
            assert sorted([*fitted, *evaluated]) == fold.train.tolist()
            assert not {groups[i] for i in fitted} & {groups[i] for i in evaluated}


def test_a_group_in_two_given_splits_is_refused() -> None:
    splits = {Split.TRAIN: np.arange(4), Split.TEST: np.arange(4, 6)}
    targets = np.arange(6) % 2
    with pytest.raises(InputError, match="in one split, 1 have rows in train and in test"):
        given_folds(splits, targets, CLASSES, list("xyzwxv"), 3, 0)
    with pytest.raises(InputError, match="no row is for test or valid"):
        given_folds({Split.TRAIN: np.arange(6)}, targets, CLASSES, None, 3, 0)


# --- the baseline


def planted(n: int = 200) -> tuple[list[str], list[str]]:
    """Hot sequences hold TATAAT four times."""
    sequences = [random_sequence(120, seed=i) for i in range(n)]
    for i in range(1, n, 2):
        for at in (10, 40, 70, 100):
            sequences[i] = sequences[i][:at] + "TATAAT" + sequences[i][at + 6 :]
    return sequences, [("cold", "hot")[i % 2] for i in range(n)]


def test_a_planted_word_is_found_by_the_baseline_on_the_same_folds(tmp_path: Path) -> None:
    sequences, classes = planted()
    made = embeddings(np.random.default_rng(0).normal(size=(200, 5)))
    table = labels(tmp_path / "x.tsv", named(classes))
    codes = [encode(text) for text in sequences]
    result = probe_embeddings(
        made.layers,
        table,
        replace(PLAIN, max_k=4),
        sequences=lambda embedded, rows: [codes[row] for row in rows],
    )
    evaluated = result.record["judged"]
    assert evaluated["baseline"]["accuracy"] > 0.95
    assert evaluated["model"]["accuracy"] < 0.65
    difference = evaluated["comparison"]["differences"]["accuracy"]
    assert difference["difference"] < -0.3
    assert difference["interval"][1] < -0.2
    assert evaluated["comparison"]["test"]["name"] == "McNemar's exact test"
    assert "the embeddings do worse" in evaluated["comparison"]["sentence"]
    head, *lines = result.predictions
    said = [line[head.index("baseline_prediction")] for line in lines]
    right = np.mean([a == b for a, b in zip(said, classes, strict=True)])
    assert right == evaluated["baseline"]["accuracy"]


def test_the_same_bases_in_two_folds_are_said(tmp_path: Path) -> None:
    made, classes = two_classes(40, 1.0)
    codes = [encode(random_sequence(50, seed=i // 20)) for i in range(40)]
    result = probe_embeddings(
        made.layers,
        labels(tmp_path / "x.tsv", named(classes)),
        replace(PLAIN, max_k=2),
        sequences=lambda embedded, rows: [None if row == 39 else codes[row] for row in rows],
    )
    assert any(note.startswith("39 rows have the same bases") for note in result.record["notes"])
    assert any(note.startswith("1 rows have no sequence") for note in result.record["notes"])


def test_sequences_of_regions_follow_the_strand(tmp_path: Path) -> None:
    contig = random_sequence(4000, seed=1)
    genome = open_genome([write_fasta(tmp_path / "x.fa", {"chr1": contig})])
    made = embeddings(np.zeros((3, 2)), strand=["+", "-", "."], start=np.array([0, 1000, -1]))
    one, other, none = sequences_of(made, genome)
    assert one is not None and decode(one).upper() == contig[:100]  # noqa: PT018
    turned = contig[1000:1100][::-1].translate(str.maketrans("ACGT", "TGCA"))
    assert other is not None and decode(other).upper() == turned  # noqa: PT018
    assert none is None
    with pytest.raises(InputError, match=r"no contig 'chr9' .it has chr1"):
        list(sequences_of(embeddings(np.zeros((2, 2)), ["chr9"] * 2), genome))
    with pytest.raises(InputError, match=r"beyond the contig's end .4,000 bases"):
        list(sequences_of(embeddings(np.zeros((9, 2))), genome))


def test_words_of_variants_are_those_of_their_windows() -> None:
    made = embeddings(np.zeros((2, 2)))
    assert span_of(made) == "region"
    made.table |= {"end": made.table["start"] + 1, "window_start": made.table["start"] - 50 + 50}
    assert span_of(made) == "window"


@pytest.mark.parametrize("suffix", ["fa", "csv"])
def test_sequences_are_found_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    if suffix == "fa":
        write_fasta(path, {"a": "ACGT", "b": "GGG"})
    else:
        write_table(path, [("ACGT", "a"), ("GGG", "b")], ("sequence", "name"))
    found = sequences_in(path, ["b", "c", "a"])
    assert [None if row is None else decode(row) for row in found] == ["GGG", None, "ACGT"]
    with pytest.raises(InputError, match="it has 'a', 'b', the embeddings have 'x'"):
        sequences_in(path, ["x"])


def test_words_of_rows_of_all_lengths_are_counted_in_place() -> None:
    texts = ["ACAC", "G", "", "TTTTTTTTTT", "CA"]
    sets = word_sets([encode(text) if text else None for text in texts], 2)
    words = sets[1].read()
    assert words.shape == (5, 16)
    assert words[0, [0b0001, 0b0100]] == pytest.approx([2 / 3, 1 / 3])
    assert words[3, 15] == 1
    assert words[[1, 2]].sum() == 0
    assert [one.name for one in sets][2:] == ["1-mers of both strands", "2-mers of both strands"]


# --- judging


@pytest.mark.parametrize("task", [CLASSES, NUMBER], ids=["classes", "numbers"])
def test_what_is_resampled_is_what_is_judged(task: Task) -> None:
    """Each metric of all rows, counted once, is the one that `evaluate` gives."""
    scores = class_scores(task, 60, 0.4) if task is CLASSES else number_scores(task, 60, 0.8)
    evaluated = evaluate_probe(scores, None, task, None)["model"]
    for name, number in task_kind(task).resampled(scores).items():
        assert number(np.ones((1, 60)))[0] == pytest.approx(evaluated[name]), name
        low, high = evaluated["intervals"][name]
        assert low < evaluated[name] < high


@pytest.mark.parametrize(("groups", "n"), [(None, 60), (np.arange(60) // 6, 10)])
def test_right_in_every_row_is_no_certainty(groups: Ids | None, n: int) -> None:
    """Resampling never draws a wrong row; Wilson's interval is that of n rows, or groups, right."""
    scores = class_scores(CLASSES, 60, 0.0)
    right = scores._replace(targets=scores.scores.argmax(axis=1))
    evaluated = evaluate_probe(right, None, CLASSES, groups)["model"]
    assert evaluated["accuracy"] == 1
    low, high = evaluated["intervals"]["accuracy"]
    assert (low, high) == pytest.approx((n / (n + 1.96**2), 1), abs=1e-4)
    assert evaluated["intervals"]["mcc"] is None


def test_groups_are_drawn_whole() -> None:
    groups = np.array([0, 0, 1, 2, 2, 2])
    metrics = {"n": lambda weights: weights.sum(1), "one": lambda w: w[:, 0] - w[:, 1]}
    drawn = resampled(metrics, 6, groups)
    assert set(drawn["one"]) == {0}
    assert set(drawn["n"]) <= set(range(3, 10))


# --- what is written


def test_the_folder_holds_everything_and_no_pickle(tmp_path: Path) -> None:
    made, classes = two_classes(80, 3.0)
    table = labels(tmp_path / "x.tsv", named([*classes[:70], *[""] * 10]))
    result = probe_embeddings(made.layers, table, PLAIN, source={"file": "peaks.h5"})
    folder = tmp_path / "out"
    result.write(folder)
    write_probe_report(folder)
    assert {path.name for path in folder.iterdir()} == {
        *("probe.json", "predictions.tsv", "probe.npz", "report.html")
    }
    with open(folder / "predictions.tsv", encoding="utf8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["name"] for row in rows] == [f"p{i}" for i in range(70)]
    assert rows[3]["truth"] == "hot"
    assert float(rows[3]["p_cold"]) + float(rows[3]["p_hot"]) == pytest.approx(1, abs=1e-5)
    right = np.mean([row["truth"] == row["prediction"] for row in rows])
    assert json.loads((folder / "probe.json").read_text())["judged"]["model"]["accuracy"] == right
    text = Page((folder / "report.html").read_text()).text
    for part in (
        *("Probe of peaks.h5", "Held out, accuracy", "Chance 50.0 %", NO_BASELINE),
        *("Held out, confusion of classes", "Principal components", "Folds", "Settings"),
        "10 embeddings whose label is missing, left out",
    ):
        assert part in text


def test_kept_coefficients_give_the_models_probabilities(tmp_path: Path) -> None:
    right = np.arange(150) % 3
    vectors = np.random.default_rng(0).normal(size=(150, 4)) * [1, 10, 100, 0] + 5
    vectors[:, 1] += 30 * right
    table = labels(tmp_path / "x.tsv", named(np.array(["a", "b", "c"])[right]))
    probe = probe_embeddings(embeddings(vectors).layers, table, PLAIN).probe
    assert probe is not None
    probe.save(tmp_path / "probe.npz")
    read = LinearProbe.load(tmp_path / "probe.npz")
    assert read.task == CLASSES
    assert read.features == "layer 3"
    scores = read.scores(vectors)
    assert scores.sum(axis=1) == pytest.approx(np.ones(150))
    assert (scores.argmax(axis=1) == right).mean() > 0.8
    with np.load(tmp_path / "probe.npz", allow_pickle=False) as file:
        logits = vectors @ file["weight"].T + file["bias"]
    assert (logits.argmax(axis=1) == scores.argmax(axis=1)).all()
    with pytest.raises(InputError, match=r"vectors with 4 numbers .layer 3., these have 5"):
        read.scores(np.zeros((1, 5)))
    (tmp_path / "broken.npz").write_bytes(b"PK\3\4")
    with pytest.raises(InputError, match="cannot be read as a probe"):
        LinearProbe.load(tmp_path / "broken.npz")


def test_reports_of_numbers_and_of_many_classes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    made = embeddings(random.normal(size=(140, 6)))
    numbers = labels(tmp_path / "x.tsv", named(made.vectors[:, 0]))
    classes = labels(tmp_path / "y.tsv", named(f"c{i % 7}" for i in range(140)))
    for table, config in ((numbers, NUMBERS), (classes, PLAIN)):
        folder = tmp_path / table.path.stem
        probe_embeddings([*made.layers, *made.layers], table, config).write(folder)
        text = Page(write_probe_report(folder).read_text()).text
        assert "PC3, " in text
        assert "Layers" in text
        assert ("2 smaller classes" in text) == (table is classes)
        assert ("predicted and true numbers" in text) == (table is numbers)


def test_a_report_needs_a_probe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no probe.json"):
        write_probe_report(tmp_path)


# --- what is refused


@pytest.mark.parametrize(
    ("values", "config", "message"),
    [
        (["a"] * 12, PLAIN, "needs 2 labels or more, got a"),
        ([f"{i}" for i in range(300)], PLAIN, "For numbers choose --task regression"),
        (["1", "x"] * 6, NUMBERS, "x.tsv row 3 column 'label': expected a number, got 'x'"),
        (["2"] * 12, NUMBERS, "all 12 labels are 2"),
        (["a", "b"], PLAIN, "3 folds need 3 rows or more, there are 2"),
        (["a", "b"] * 6, replace(PLAIN, group_by="chrom"), "3 folds need 3 groups or more.* 1:"),
        (["a", "b"] * 6, replace(PLAIN, model="ridge"), "choose --model logistic or forest"),
        (["1", "2"] * 6, replace(NUMBERS, model="logistic"), "choose --model ridge or forest"),
        (["a", "b"] * 6, replace(PLAIN, model="tree"), "one of logistic, ridge, forest"),
    ],
)
def test_labels_that_cannot_be_probed(tmp_path: Path, values, config, message: str) -> None:
    made = embeddings(np.random.default_rng(0).normal(size=(len(values), 3)))
    with pytest.raises(InputError, match=message):
        probe_embeddings(made.layers, labels(tmp_path / "x.tsv", named(values)), config)


def test_vectors_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    made, classes = two_classes(20, 1.0)
    made.vectors[7, 2] = np.nan
    table = labels(tmp_path / "x.tsv", named(classes))
    with pytest.raises(InputError, match=r"1 of 20 labelled rows .* \(rows 8: 'p7'\)"):
        probe_embeddings(made.layers, table, PLAIN)
    made.table["status"][7] = "unreadable"
    made = embeddings(made.vectors, status=made.table["status"])
    assert model_of(probe_embeddings(made.layers, table, PLAIN))["n"] == 19
    made.vectors = np.zeros((50, 8))
    with pytest.raises(InputError, match=r"50 vectors for 20 rows: .* --pooling mean"):
        probe_embeddings(made.layers, table, PLAIN)
