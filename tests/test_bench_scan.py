"""`dnamamba bench scan`: right before fast, and what it leaves behind."""

import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
import torch

from dnamamba.bench import scan as scan_bench
from dnamamba.bench.checks import CHECKED_STEPS, check_scan, check_shape
from dnamamba.bench.floors import Floors, scan_bound_ps
from dnamamba.bench.operators import OPERATORS, Case, Where, scan_case
from dnamamba.bench.results import checkout_commit
from dnamamba.bench.scan import ScanBenchmark, ScanRow, choose_where
from dnamamba.bench.scan_chart import write_scan_chart
from dnamamba.bench.shapes import ScanShape, doubled_lengths
from dnamamba.bench.timing import median_ms, pass_ms, time_calls
from dnamamba.cli.main import main
from dnamamba.errors import InputError, WrongResultError
from dnamamba.kernels.scan import chunked, op

CPU = torch.device("cpu")
HERE = Where(CPU, torch.float32, "cpu")
# Measured on an H100: docs say so of its copies and exponentials.
H100 = Floors(copy_tb_per_s=3.02, exp2_per_s=4.08e12)
ROW_KEYS = {
    *("op", "batch", "d_inner", "seq_len", "dtype", "fwd_ms", "bwd_ms"),
    *("called_fwd_ms", "called_bwd_ms"),
    *("ps_per_element", "bound_fraction", "max_error", "note"),
}


def bench(*arguments: str) -> int:
    """The command's exit code, as the shell sees it."""
    with pytest.raises(SystemExit) as end:
        main(["bench", "scan", "--device", "cpu", *arguments])
    return int(end.value.code or 0)


def tiny(*arguments: str) -> int:
    return bench("--min-len", "64", "--max-len", "128", "--d-inner", "64", *arguments)


@pytest.fixture
def install(monkeypatch):
    """Put a backend of a given function before all others."""

    def put(run):
        new = replace(op.BACKENDS[0], name="broken", run=run)
        monkeypatch.setattr(op, "BACKENDS", (new, *op.BACKENDS))

    return put


@pytest.fixture
def nothing_is_timed(monkeypatch):
    def refuse(*_):
        raise AssertionError("time was spent")

    monkeypatch.setattr(scan_bench, "pass_ms", refuse)


def one_step_off(*given):
    """Wrong by a thousandth of the largest entry, at one step of one channel."""
    out, last = chunked.selective_scan(*given)
    wrong = torch.zeros_like(out)
    wrong[0, -1, 0] = out.detach().abs().max() / 1000
    return out + wrong, last


def half_of_a_gradient(operands, *options):
    A = operands.A.clone()
    A.register_hook(lambda gradient: gradient / 2)
    return chunked.selective_scan(operands._replace(A=A), *options)


# --- the command


def test_a_sweep_prints_a_table_and_writes_json_and_a_drawing(tmp_path, capsys):
    json_path, plot = tmp_path / "scan.json", tmp_path / "scan.svg"
    assert tiny("--json", str(json_path), "--plot", str(plot)) == 0
    out = capsys.readouterr().out
    for words in ("worst error", "selective scan", "attention", "FFT convolution", "1 x 64 x 128"):
        assert words in out
    content = json.loads(json_path.read_text())
    assert {"device", "torch", "triton", "commit", "backend", "floors"} <= content.keys()
    assert content["backend"] == "cpu"
    assert content["floors"] is None
    rows = content["rows"]
    assert [(row["seq_len"], row["op"]) for row in rows] == [
        (seq_len, name) for seq_len in (64, 128) for name in OPERATORS
    ]
    for row in rows:
        assert row.keys() == ROW_KEYS
        assert row["fwd_ms"] > 0
        both = row["fwd_ms"] + row["bwd_ms"]
        assert row["ps_per_element"] == pytest.approx(both * 1e9 / (64 * row["seq_len"]))
        assert (row["max_error"] is not None) == (row["op"] == "selective_scan")
    labels = {text.text for text in ET.parse(plot).findall(".//{*}text")}
    assert {"64", "128", "sequence length"} <= labels


def test_shapes_time_the_scan_alone(tmp_path, capsys):
    path = tmp_path / "shapes.json"
    arguments = ["--shape", "2x5x70", "--shape", "1x64x1k", "--backend", "chunked"]
    assert bench(*arguments, "--json", str(path)) == 0
    rows = json.loads(path.read_text())["rows"]
    shapes = [(row["op"], row["batch"], row["d_inner"], row["seq_len"]) for row in rows]
    assert shapes == [("selective_scan", 2, 5, 70), ("selective_scan", 1, 64, 1024)]
    assert all(row["max_error"] < 1e-4 for row in rows)
    assert "scan 'chunked' in float32" in capsys.readouterr().out


def test_bfloat16_operands_are_judged_by_their_rounding(tmp_path):
    path = tmp_path / "bf16.json"
    assert bench("--shape", "1x64x128", "--dtype", "bf16", "--json", str(path)) == 0
    (row,) = json.loads(path.read_text())["rows"]
    assert row["dtype"] == "bfloat16"
    assert 1e-4 < row["max_error"] < 2**-7


@pytest.mark.parametrize(("wrong", "tensor"), [(one_step_off, "out"), (half_of_a_gradient, "d_A")])
def test_a_wrong_kernel_is_not_timed(wrong, tensor, install, nothing_is_timed, tmp_path, capsys):
    install(wrong)
    path = tmp_path / "scan.json"
    assert tiny("--json", str(path)) == 1
    err = capsys.readouterr().err
    assert re.search(rf"'broken' is wrong on cpu .*: {tensor} is off by", err)
    assert "Traceback" not in err
    assert not path.exists()


def test_a_kernel_that_is_wrong_at_one_shape_alone_is_found(install, capsys):
    def run(operands, *options):
        is_wrong = operands.u.shape[1] == 128
        return (half_of_a_gradient if is_wrong else chunked.selective_scan)(operands, *options)

    install(run)
    assert tiny() == 1
    out, err = capsys.readouterr()
    assert "1 x 64 x 64" in out
    assert "wrong on cpu at 1 x 64 x 128" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--json", "nowhere/scan.json"], 1, "there is no folder nowhere; make it"),
        (["--plot", "nowhere/scan.svg"], 1, "there is no folder nowhere; make it"),
        (["--json", "."], 1, "is a folder; name a file in it"),
        (["--plot", "scan.pdf"], 1, "--plot must be an .svg or .png file, got scan.pdf"),
        (
            ["--shape", "8x512"],
            2,
            "must be BATCHxD_INNERxSEQ_LEN, e.g. 8x512x128k; got '8x512'",
        ),
        (["--shape", "8x512x1q"], 2, "in '8x512x1q': a size must look like"),
        (["--shape", "1x64x64", "--batch", "2"], 2, "leave out --batch"),
        (["--backend", "cuda"], 1, "backend must be one of auto, cpu, triton, chunked, reference"),
        (["--backend", "triton"], 1, "cannot run this: it needs a CUDA device"),
        (["--d-inner", "100"], 1, "--d-inner must be a multiple of 64"),
        (["--min-len", "4k", "--max-len", "1k"], 1, "--max-len must be >= --min-len 4k, got 1k"),
        (["--device", "gpu"], 1, "auto, cpu, cuda or cuda:N, got 'gpu'"),
        (["--limit", "0"], 2, "0.0 is not in the range x>0"),
    ],
)
def test_mistakes_are_told_before_any_time_is_spent(
    arguments, code, message, nothing_is_timed, monkeypatch, tmp_path, capsys
):
    monkeypatch.chdir(tmp_path)
    assert bench(*arguments) == code
    err = capsys.readouterr().err
    assert message in " ".join(err.split())
    assert "Traceback" not in err


# --- what is left out


def rows_of(benchmark, lengths=(64, 128, 256, 512)):
    rows = list(benchmark.time_operators(lengths, batch=1, d_inner=64))
    return {(row.op, row.seq_len): row for row in rows}


def times(fwd_ms, bwd_ms):
    return {"fwd_ms": fwd_ms, "bwd_ms": bwd_ms}


def test_an_operator_that_would_take_too_long_is_left_out_from_there(monkeypatch):
    monkeypatch.setattr(ScanBenchmark, "_time", lambda *_: (times(1000.0, 2000.0), None))
    found = rows_of(ScanBenchmark(HERE, limit_s=5))
    assert found["attention", 64].fwd_ms == 1000
    left_out = found["attention", 128]
    assert left_out.fwd_ms is None
    assert left_out.note == "left out from here: a call would take about 6 s"
    assert ("attention", 256) not in found


def test_an_operator_that_grows_faster_is_left_out_earlier(monkeypatch):
    def time(self, op, shape):
        ms = shape.seq_len**2 / 16 if op == "attention" else shape.seq_len
        return times(ms / 2, ms / 2), None

    monkeypatch.setattr(ScanBenchmark, "_time", time)
    found = rows_of(ScanBenchmark(HERE, limit_s=2))
    assert found["attention", 256].note == "left out from here: a call would take about 4 s"
    assert found["selective_scan", 512].both_ms == 512


def test_memory_that_runs_out_is_a_note_and_the_others_go_on(monkeypatch):
    def time(self, op, shape):
        if op == "fft_convolution" and shape.seq_len > 64:
            raise torch.OutOfMemoryError("no more")
        if op == "attention":
            raise RuntimeError("no kernel\nfor this")
        return times(1.0, 2.0), None

    monkeypatch.setattr(ScanBenchmark, "_time", time)
    found = rows_of(ScanBenchmark(HERE))
    assert found["fft_convolution", 64].both_ms == 3
    assert found["fft_convolution", 128].note == "out of memory"
    assert found["attention", 64].note == "failed: no kernel"
    assert found["selective_scan", 512].both_ms == 3


def test_what_a_cpu_has_no_memory_for_is_not_tried():
    (row,) = ScanBenchmark(HERE).time_shapes([ScanShape(1024, 1024, 1 << 20)])
    assert row.fwd_ms is None
    assert re.fullmatch(r"left out: needs about 49152.0 GiB, .* GiB are free", row.note or "")


def test_what_ours_raises_is_not_swallowed(monkeypatch):
    def time(*_):
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(ScanBenchmark, "_time", time)
    with pytest.raises(RuntimeError, match="a bug of ours"):
        rows_of(ScanBenchmark(HERE))


# --- the pieces


def test_every_operator_gives_an_output_and_all_gradients():
    for operator in OPERATORS.values():
        case = operator.build(ScanShape(2, 128, 20), HERE)
        gradients = case.backward(case.forward())
        assert {name: tensor.shape for name, tensor in gradients.items()} == {
            name: tensor.shape for name, tensor in case.inputs.items()
        }


def test_the_convolution_by_fft_is_causal_and_as_long_as_the_sequence():
    case = OPERATORS["fft_convolution"].build(ScanShape(1, 64, 30), HERE)
    x, taps = case.inputs["x"].detach(), case.inputs["filter"].detach()
    expected = torch.zeros_like(x)
    for t in range(30):
        for s in range(t + 1):
            expected[..., t] += x[..., s] * taps[:, t - s]
    assert torch.allclose(case.forward(), expected, atol=1e-4)


def test_some_channels_tell_what_all_would():
    """The check of a large shape, by four of its channels, finds a fault of one step in them."""
    case = scan_case(ScanShape(2, 40, 200), HERE)
    found = case.results()
    assert check_shape(case, found, HERE) < 1e-5
    found["d_delta"] = found["d_delta"].clone()
    found["d_delta"][1, 100, 39] += found["d_delta"].abs().max() / 100
    with pytest.raises(WrongResultError, match="d_delta is off by"):
        check_shape(case, found, HERE)


def test_of_a_very_long_scan_the_first_outputs_are_checked():
    case = scan_case(ScanShape(1, 2, CHECKED_STEPS + 100), HERE)
    out = case.forward().detach()
    assert check_shape(case, {"out": out}, HERE) < 1e-4
    out[0, CHECKED_STEPS - 1, 0] = 100
    with pytest.raises(WrongResultError, match="out is off by"):
        check_shape(case, {"out": out}, HERE)


def test_a_result_that_is_not_a_number_is_wrong(monkeypatch):
    nan = torch.full((2, 300, 48), math.nan)
    monkeypatch.setattr(Case, "backward", lambda *_: {})
    monkeypatch.setattr("dnamamba.bench.operators.selective_scan", lambda **_: nan)
    with pytest.raises(WrongResultError, match="out is off by nan"):
        check_scan(HERE)


def test_the_least_time_of_a_scan_on_an_h100():
    """Exponentials take the forward's time, memory the backward's; chunks cost a pass each way."""
    one_pass = scan_bound_ps(ScanShape(1024, 512, 1024), torch.bfloat16, H100, 132)
    assert one_pass == pytest.approx(20 / 4.08 + 18 / 3.02)
    two_passes = scan_bound_ps(ScanShape(1, 1024, 1 << 20), torch.bfloat16, H100, 132)
    assert two_passes == pytest.approx(one_pass + 2 * 18 / 4.08)
    in_float32 = scan_bound_ps(ScanShape(1024, 512, 1024), torch.float32, H100, 132)
    assert in_float32 == pytest.approx(20 / 3.02 + 36 / 3.02)


def test_the_bound_is_a_share_of_the_least_time(monkeypatch):
    monkeypatch.setattr(ScanBenchmark, "floors", H100)
    monkeypatch.setattr(scan_bench, "n_multiprocessors", lambda device: 132)
    monkeypatch.setattr(ScanBenchmark, "_time", lambda *_: (times(1.0, 1.0), 0.0))
    shape = ScanShape(1, 1024, 1024)
    (row,) = ScanBenchmark(HERE).time_shapes([shape])
    expected = scan_bound_ps(shape, torch.float32, H100, 132) / (2e9 / shape.n_elements)
    assert row.bound_fraction == pytest.approx(expected)


def test_lengths_double_up_to_the_longest():
    assert doubled_lengths(512, 5000) == [512, 1024, 2048, 4096]
    assert doubled_lengths(64, 64) == [64]


def test_calls_are_counted_and_the_median_is_taken(monkeypatch):
    calls = []
    assert len(time_calls(lambda: calls.append(1), CPU, 7)) == len(calls) == 7
    found = iter([[9.0], [200.0], [1.0, 100.0, 2.0]])
    monkeypatch.setattr("dnamamba.bench.timing.time_calls", lambda *_: next(found))
    assert median_ms(lambda: None, CPU) == 2.0


def test_on_a_cpu_a_pass_takes_what_its_call_takes():
    prepared, called = [], []
    work, as_called = pass_ms(called.append, lambda: prepared.append(1), CPU)
    assert work == as_called > 0
    assert len(prepared) == 1 < len(called), "a backward is timed without its forward"


def test_defaults_on_a_cpu():
    assert choose_where("cpu") == HERE
    with pytest.raises(InputError, match="--precision must be auto, bf16 or fp32"):
        choose_where("cpu", "fp8")


def test_the_commit_is_that_of_this_checkout_or_none(monkeypatch, tmp_path):
    commit = checkout_commit()
    assert commit is None or re.fullmatch(r"[0-9a-f]{12,40}(-dirty)?", commit)
    monkeypatch.setattr("dnamamba.bench.results._CHECKOUT", tmp_path)
    assert checkout_commit() is None


# --- the drawing


def row(op_name: str, seq_len: int, ms: float | None, note: str | None = None) -> ScanRow:
    return ScanRow(
        op=op_name, batch=1, d_inner=64, seq_len=seq_len, dtype="float32",
        fwd_ms=ms, bwd_ms=ms, note=note,
    )  # fmt: skip


def test_a_chart_names_lines_with_their_last_times_and_what_is_left_out(tmp_path):
    rows = [row("selective_scan", n, n / 100) for n in (512, 1024, 2048)]
    rows += [row("attention", 512, 10.0), row("attention", 1024, 700.0)]
    rows.append(row("attention", 2048, None, "out of memory"))
    write_scan_chart(tmp_path / "scan.svg", rows, "A <CPU> $x$", HERE)
    texts = [text.text for text in ET.parse(tmp_path / "scan.svg").findall(".//{*}text")]
    assert {"selective scan 41 ms", "attention 1.4 s", "512", "1k", "2k"} <= set(texts)
    assert "attention at 2k: out of memory" in texts
    assert "A <CPU> $x$; 1 x 64 channels in float32; scan by 'cpu'" in texts


def test_a_png_is_drawn_too(tmp_path):
    rows = [row("selective_scan", 512, 1.0), row("selective_scan", 1024, 2.0)]
    write_scan_chart(tmp_path / "scan.png", rows, "a CPU", HERE)
    assert (tmp_path / "scan.png").read_bytes().startswith(b"\x89PNG")


def test_one_length_makes_a_drawing_and_nothing_timed_is_said(tmp_path):
    write_scan_chart(tmp_path / "one.svg", [row("attention", 512, 1.0)], "a CPU", HERE)
    assert "attention 2 ms" in (tmp_path / "one.svg").read_text()
    with pytest.raises(InputError, match="nothing was timed"):
        write_scan_chart(tmp_path / "none.svg", [row("attention", 512, None)], "a CPU", HERE)


# --- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["triton", "chunked"])
def test_on_a_gpu_floors_are_measured_and_the_bound_is_told(backend, tmp_path):
    path = tmp_path / "scan.json"
    arguments = ["--device", "cuda", "--backend", backend, "--json", str(path)]
    assert tiny(*arguments) == 0  # the later --device counts
    content = json.loads(path.read_text())
    assert content["floors"]["copy_tb_per_s"] > 0.05
    assert content["floors"]["exp2_per_s"] > 1e11
    scans = [row for row in content["rows"] if row["op"] == "selective_scan"]
    assert all(0 < row["bound_fraction"] < 1 for row in scans)
    assert {row["dtype"] for row in scans} == {"bfloat16"}
    assert all(row["called_fwd_ms"] > 0 and row["called_bwd_ms"] > 0 for row in scans)
