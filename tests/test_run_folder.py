"""A run folder is made once, opened again, and never overwritten by accident."""

import pytest

from dnamamba.errors import InputError
from dnamamba.training.run_folder import RunFolder


def test_json_files_round_trip_and_leave_nothing_behind(tmp_path):
    run = RunFolder.create(tmp_path / "run")
    run.write_json("config", {"a": [1, 2]})
    run.write_json("manifest", {"started": "now"})
    run.update_manifest({"ended": {"step": 3}})
    assert run.read_json("manifest") == {"started": "now", "ended": {"step": 3}}
    assert sorted(path.name for path in run.path.iterdir()) == ["config.json", "manifest.json"]


def test_an_existing_run_is_kept_unless_forced(tmp_path):
    run = RunFolder.create(tmp_path / "run")
    run.write_json("config", {"format_version": 1, "train": {}})
    run.metrics.append({"step": 1})
    with pytest.raises(InputError, match="holds a run already: continue it with --resume"):
        RunFolder.create(run.path)
    RunFolder.create(run.path, force=True)
    assert list(run.path.iterdir()) == []


def test_a_folder_with_other_files_is_refused_even_with_force(tmp_path):
    (tmp_path / "thesis.txt").write_text("words")
    with pytest.raises(InputError, match="a folder with other files in it"):
        RunFolder.create(tmp_path, force=True)
    assert (tmp_path / "thesis.txt").exists()


def test_opening_what_is_not_a_run(tmp_path):
    with pytest.raises(InputError, match=r"no run in .* \(it has no config.json\)"):
        RunFolder.open(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json is not JSON"):
        RunFolder.open(tmp_path).read_json("config")


def test_a_config_of_another_project_is_not_a_run(tmp_path):
    (tmp_path / "config.json").write_text('{"name": "theirs"}')
    (tmp_path / "model").mkdir()
    with pytest.raises(InputError, match="a folder with other files in it"):
        RunFolder.create(tmp_path, force=True)
    assert (tmp_path / "model").exists()


def test_json_that_is_not_an_object_is_damaged(tmp_path):
    run = RunFolder.create(tmp_path / "run")
    (run.path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="should hold one JSON object, got a list"):
        run.read_json("config")
