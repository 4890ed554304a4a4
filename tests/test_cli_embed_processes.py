"""`dnamamba embed` in processes of its own: kills, Ctrl-C, ranks, memory."""

import json

import pytest

from genomes import random_sequence, write_fasta
from model_cases import tiny_model
from runs import REPOSITORY, TORCHRUN, launch, run, run_python

pytestmark = pytest.mark.slow


@pytest.fixture
def outcome(tmp_path):
    """What a task of embed_processes.py found."""

    def run_task(task):
        return json.loads(run_python(REPOSITORY / "tests" / "embed_processes.py", task, tmp_path))

    return run_task


def test_twenty_kills_at_random_moments_change_nothing(outcome):
    found = outcome("kill")
    assert found["kills"] >= 20
    assert found["different_moments"] > 3
    assert found["same"], (
        "a file made in spite of kills is that of an undisturbed run, byte by byte"
    )
    assert found["left"] == []


def test_ctrl_c_keeps_whole_parts_and_says_how_to_go_on(outcome):
    found = outcome("interrupt")
    assert found["code"] == 130
    n_parts = len(found["left"]) - 1
    kept = "1 part is kept" if n_parts == 1 else f"{n_parts} parts are kept"
    line = f"x.h5 is not whole yet: {kept}, and the same command goes on from there"
    assert line in found["said"]
    assert found["said"].endswith("Stopped.\n")
    assert "Traceback" not in found["said"]
    assert found["left"] == ["info.json", *(f"part-{n:06d}.bin" for n in range(n_parts))]
    assert not found["is_there"]
    assert found["again"] == 0
    assert f"x.h5 was begun before, and {kept}" in found["said_again"]
    assert found["same"]
    assert found["hidden"] == []


def test_two_ranks_go_on_with_the_work_of_one(outcome):
    found = outcome("ranks")
    assert found["kept"] >= 4
    assert found["codes"] == [0, 0]
    assert found["same"]
    assert found["hidden"] == []


def test_two_ranks_by_torchrun_write_the_same_file(tmp_path):
    tiny_model(n_layers=1).save_pretrained(tmp_path / "run" / "model")
    write_fasta(tmp_path / "genome.fa", {"chr1": random_sequence(9000, seed=1)})
    # Three parts of at most 8,192 rows.
    starts = (n % 8900 for n in range(17_000))
    (tmp_path / "rows.bed").write_text("".join(f"chr1\t{n}\t{n + 12}\n" for n in starts))
    given = ("embed", "run", "--genome", "genome.fa", "--regions", "rows.bed", "--device", "cpu")
    assert run(*given, "--out", "one.h5", cache=tmp_path)[0] == 0
    code, _, err = launch(*TORCHRUN, *given, "--out", "two.h5", cache=tmp_path)
    assert code == 0, err
    assert err.count("two.h5: 17,000 rows: 17,000 ok") == 1
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


def test_host_memory_does_not_grow_with_a_region(outcome):
    """8 Mb against 1 Mb, of which hidden states alone would be 256 MB; those of every base, which
    are kept, wait in files."""
    for short, long in outcome("memory").values():
        assert long - short < 64e6
