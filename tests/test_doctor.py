"""The doctor: well where all is well, and loud where something is not."""

import tempfile
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from dnamamba import doctor
from dnamamba.cli.main import cli
from dnamamba.doctor import examine
from dnamamba.errors import InputError
from dnamamba.kernels.backend import Backend
from dnamamba.kernels.scan import chunked, op


@pytest.fixture(autouse=True)
def small_write(monkeypatch):
    monkeypatch.setattr(doctor, "_WRITE_BYTES", 1 << 20)


@pytest.fixture
def install(monkeypatch):
    """Put backends in the place of the op's own, for the op and for the doctor."""

    def put(*backends: Backend) -> None:
        monkeypatch.setattr(op, "BACKENDS", backends)
        monkeypatch.setattr(doctor, "BACKENDS", backends)

    return put


def find(findings, name):
    return next(finding for finding in findings if finding.name.strip() == name)


def backend_named(name):
    return next(backend for backend in op.BACKENDS if backend.name == name)


def half_of_the_state(*given):
    """Right in the output, wrong in the last state."""
    out, last = chunked.selective_scan(*given)
    return out, last / 2


def gradient_not_a_number(operands, *options):
    """Right in the output; the gradient of u alone is NaN."""
    u = operands.u.clone()
    u.register_hook(lambda gradient: gradient * float("nan"))
    return chunked.selective_scan(operands._replace(u=u), *options)


def test_everything_is_well_on_this_machine(tmp_path):
    findings = examine("cpu", tmp_path)
    assert [finding for finding in findings if not finding.ok] == []
    assert {"dnamamba", "python", "torch", "device", "cache folder", "selective_scan"} <= {
        finding.name for finding in findings
    }
    assert "MB/s written" in find(findings, "run folder").detail
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_every_backend_is_run_or_says_why_not(tmp_path, install):
    refused = replace(
        backend_named("chunked"), name="fused", refuse=lambda *operands: "needs a GPU"
    )
    install(refused, *op.BACKENDS)
    findings = examine("cpu", tmp_path)
    assert find(findings, "fused").detail == "not here: needs a GPU"
    assert find(findings, "fused").ok
    evaluated = [f.name for f in findings if "error of output and gradients" in f.detail]
    assert evaluated == ["  cpu", "  chunked", "  reference"]


@pytest.mark.parametrize("run", [half_of_the_state, gradient_not_a_number])
def test_a_broken_backend_is_found(tmp_path, install, run):
    broken = replace(backend_named("chunked"), name="broken", run=run)
    install(broken, backend_named("chunked"), backend_named("reference"))
    findings = examine("cpu", tmp_path)
    assert [finding.name.strip() for finding in findings if not finding.ok] == ["broken"]


@pytest.mark.parametrize(("is_fused", "words"), [(True, "(fused)"), (False, "slow")])
def test_what_auto_takes_is_named(tmp_path, install, is_fused, words):
    install(replace(backend_named("chunked"), is_fused=is_fused), backend_named("reference"))
    detail = find(examine("cpu", tmp_path), "selective_scan").detail
    assert "auto takes 'chunked'" in detail
    assert words in detail


def test_the_device_of_auto_and_the_one_asked_for_are_told_apart(tmp_path, monkeypatch):
    def choose(name: str = "auto") -> torch.device:
        return torch.device("cuda:0" if name == "auto" else name)

    monkeypatch.setattr(doctor, "choose_device", choose)
    detail = find(examine("cpu", tmp_path), "device").detail
    assert detail == "auto takes cuda:0; this check uses cpu, as --device asks"


def test_the_device_of_auto_is_named_once(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "choose_device", lambda name="auto": torch.device("cpu"))
    assert find(examine("auto", tmp_path), "device").detail == "auto takes cpu"


def test_a_run_folder_that_does_not_exist_yet_is_judged_by_its_parent(tmp_path):
    finding = find(examine("cpu", tmp_path / "not" / "yet"), "run folder")
    assert finding.ok
    assert finding.detail.startswith(f"{tmp_path}: ")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_found(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    finding = find(examine("cpu", tmp_path), "run folder")
    assert not finding.ok
    assert f"{tmp_path} cannot be written" in finding.detail
    assert "Permission denied" in finding.detail


def test_a_file_in_place_of_the_run_folder_is_a_mistake(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(InputError, match=r"--out .*runs is a file; name a folder"):
        examine("cpu", tmp_path / "runs")


def test_the_command_ends_with_0_where_all_is_well(tmp_path):
    result = CliRunner().invoke(cli, ["doctor", "--device", "cpu", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert all(line.startswith("ok  ") for line in result.stdout.splitlines())


def test_the_command_ends_with_1_where_something_is_broken(tmp_path, install):
    broken = replace(backend_named("chunked"), name="broken", run=half_of_the_state)
    install(broken, backend_named("reference"))
    result = CliRunner().invoke(cli, ["doctor", "--device", "cpu", "--out", str(tmp_path)])
    assert result.exit_code == 1
    failed = [line for line in result.stdout.splitlines() if line.startswith("FAIL")]
    assert len(failed) == 1
    assert "broken" in failed[0]
