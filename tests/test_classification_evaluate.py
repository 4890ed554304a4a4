"""Judging a classifier again, on its own examples and on others."""

import numpy as np
import pytest

from dnamamba.classification.evaluate import evaluate_classifier
from dnamamba.classification.run import train_classifier
from dnamamba.data.labelled.config import TableConfig
from dnamamba.data.species.dataset import SpeciesConfig, SpeciesFiles
from dnamamba.errors import InputError
from dnamamba.training.run_folder import RunFolder
from genomes import random_sequence
from label_runs import OPTIONS, tiny_classify, write_table
from model_cases import tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    for name, n, seed in (("train", 120, 1), ("dev", 40, 2), ("test", 60, 3)):
        write_table(folder / f"{name}.csv", n, seed=seed)
    tiny_model(d_model=16).save_pretrained(folder / "pretrained")
    train_classifier(tiny_classify(folder), folder / "run", OPTIONS)
    return folder


def evaluation(path):
    return RunFolder(path).read_json("evaluation")["splits"]


def test_a_run_judged_again_comes_to_the_same(folder, tmp_path):
    lines = evaluate_classifier(folder / "run", tmp_path / "again", options=OPTIONS)
    assert [line.split(":")[0] for line in lines] == ["valid", "test"]
    assert evaluation(tmp_path / "again") == evaluation(folder / "run")
    assert (tmp_path / "again" / "report.html").exists()


def test_another_table_is_judged_as_a_whole(folder, tmp_path):
    table = TableConfig(train=str(folder / "test.csv"))
    evaluate_classifier(folder / "run", tmp_path / "other", table, options=OPTIONS)
    found, own = evaluation(tmp_path / "other")["test"], evaluation(folder / "run")["test"]
    assert found["model"] == own["model"]
    assert found["baseline"] == own["baseline"]


def test_a_model_without_its_run_has_no_baseline_and_no_examples(folder, tmp_path):
    with pytest.raises(InputError, match="has no examples of its own"):
        evaluate_classifier(folder / "run" / "model", tmp_path / "none", options=OPTIONS)
    with pytest.raises(InputError, match=r"there is no run of .* at .*nowhere"):
        evaluate_classifier(folder / "nowhere", tmp_path / "none", options=OPTIONS)
    table = TableConfig(train=str(folder / "test.csv"))
    evaluate_classifier(folder / "run" / "model", tmp_path / "alone", table, options=OPTIONS)
    found = evaluation(tmp_path / "alone")["test"]
    assert (found["baseline"], found["comparison"]) == (None, None)


def test_labels_that_the_model_does_not_know_are_refused(folder, tmp_path):
    table = write_table(tmp_path / "odd.csv", 10, label=lambda has, _: "tata" if has else "odd")
    with pytest.raises(InputError, match=r"odd.csv.* 'odd'; known are none, tata"):
        evaluate_classifier(
            folder / "run", tmp_path / "out", TableConfig(train=str(table)), options=OPTIONS
        )
    assert not (tmp_path / "out" / "evaluation.json").exists()


def test_species_are_judged_at_several_lengths(folder, tmp_path):
    for label, letters in (("one", "AACGT"), ("two", "ACGGT")):
        records = (f">chr{n}\n{random_sequence(3000, n, letters)}\n" for n in (2, 1, 5))
        (tmp_path / f"{label}.fa").write_text("".join(records))
    species = tuple(SpeciesFiles(name, (str(tmp_path / f"{name}.fa"),)) for name in ("one", "two"))
    data = SpeciesConfig(species=species, seq_len=64, epoch_size=16, n_eval=20)
    config = tiny_classify(folder, data, epochs=2, eval_every=0)
    train_classifier(config, tmp_path / "run", OPTIONS)
    evaluate_classifier(tmp_path / "run", tmp_path / "out", lengths=(32, 64, 128), options=OPTIONS)
    found = evaluation(tmp_path / "out")["test"]["model"]
    assert found["n"] == 60
    assert [row["from"] for row in found["by_length"]] == [32, 64, 128]
    own = evaluation(tmp_path / "run")["test"]["model"]["accuracy"]
    assert found["by_length"][1]["accuracy"] == pytest.approx(own)
    with pytest.raises(InputError, match="lengths are of species"):
        evaluate_classifier(folder / "run", tmp_path / "out", lengths=(32,), options=OPTIONS)
    assert np.isfinite(found["accuracy"])


def test_columns_of_other_names_are_told(folder, tmp_path):
    table = write_table(tmp_path / "n.csv", 60, label=lambda _, letters: letters.count("A"))
    data = TableConfig(train=str(table), task_kind="regression")
    train_classifier(tiny_classify(folder, data), tmp_path / "run", OPTIONS)
    other = write_table(tmp_path / "o.csv", 20, label=lambda *_: 1.5, header=("sequence", "score"))
    data = TableConfig(train=str(other), task_kind="regression", label_columns=("score",))
    with pytest.raises(InputError, match=r"with the columns score, the model's are label"):
        evaluate_classifier(tmp_path / "run", tmp_path / "out", data, options=OPTIONS)


def test_both_strands_give_a_sequence_and_its_reverse_complement_the_same(folder, tmp_path):
    complement = str.maketrans("ACGT", "TGCA")
    rows = (folder / "test.csv").read_text().splitlines()
    turned = [rows[0]]
    for row in rows[1:]:
        letters, label = row.split(",")
        turned.append(f"{letters.translate(complement)[::-1]},{label}")
    (tmp_path / "turned.csv").write_text("\n".join(turned) + "\n")
    found = []
    for name in (folder / "test.csv", tmp_path / "turned.csv"):
        table = TableConfig(train=str(name))
        evaluate_classifier(folder / "run", tmp_path / "out", table, rc="average", options=OPTIONS)
        found.append(evaluation(tmp_path / "out")["test"]["model"])
    assert found[0]["confusion"] == found[1]["confusion"]
    assert found[0]["auroc"] == pytest.approx(found[1]["auroc"])
