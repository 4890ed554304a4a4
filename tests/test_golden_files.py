"""The golden files themselves: how they are found, and that those of the project are up to date."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import golden_files
import make_golden
from golden_files import PART, WHOLE, golden_path, load_golden

ITEM = "ssd_a"
"""`tests/golden/` has its cases but for g1 and D_hp_no_z."""


@pytest.fixture
def nothing_beside(monkeypatch, tmp_path):
    monkeypatch.setattr(golden_files, "WHOLE", tmp_path)


def test_golden_numbers_in_the_repository_stay_below_a_megabyte():
    assert sum(path.stat().st_size for path in PART.iterdir()) < 1_000_000


@pytest.mark.usefixtures("nothing_beside")
def test_a_file_that_is_in_neither_folder_skips_the_test():
    with pytest.raises(pytest.skip.Exception, match=r"needs .*mamba_lm_b\.json, which is not part"):
        golden_path("mamba_lm_b.json")


@pytest.mark.usefixtures("nothing_beside")
def test_a_case_that_only_the_whole_file_has_skips_the_test():
    golden = load_golden(ITEM)
    assert golden.group("L1/in")
    with pytest.raises(pytest.skip.Exception, match=r"needs .*ssd_a\.safetensors for g1/in, which"):
        golden.group("g1/in")


def test_tensors_of_the_whole_file_are_added_and_a_wrong_name_fails(monkeypatch, tmp_path):
    ours = load_golden(ITEM).group("L1/in")
    other = {"L1/in/dt": torch.zeros(1), "only_here/x": torch.ones(2)}
    save_file(other, tmp_path / f"{ITEM}.safetensors")
    monkeypatch.setattr(golden_files, "WHOLE", tmp_path)
    golden = load_golden(ITEM)
    assert golden.group("L1/in").keys() == ours.keys()
    assert torch.equal(golden.tensors["L1/in/dt"], ours["dt"])
    assert torch.equal(golden.tensors["only_here/x"], other["only_here/x"])
    with pytest.raises(AssertionError, match=r"has no tensors under typo/in/"):
        golden.group("typo/in")


@pytest.mark.parametrize("item", make_golden.TENSORS)
def test_tensors_in_the_repository_are_those_of_the_whole_files(item):
    need_whole_files()
    info, tensors = make_golden.take_tensors(item)
    found = load_file(PART / f"{item}.safetensors")
    assert read_part(item) == info
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_descriptions_in_the_repository_are_those_of_the_whole_files():
    need_whole_files()
    for item, info in make_golden.take_json().items():
        assert read_part(item) == info, item
    for name in make_golden.FILES:
        assert (PART / name).read_bytes() == (WHOLE / name).read_bytes()


def need_whole_files():
    if not WHOLE.is_dir():
        golden_files.skip_without(WHOLE)


def read_part(item):
    return json.loads((PART / f"{item}.json").read_text(encoding="utf-8"))
