"""The selective scan: its definition, its backends against it, and the official code's numbers."""

import inspect
import logging
import math
from dataclasses import replace
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from dnamamba.kernels import backend as backend_module
from dnamamba.kernels import selective_scan
from dnamamba.kernels.codegen import launch
from dnamamba.kernels.codegen.compiler import find_host
from dnamamba.kernels.scan import chunked, cpu, op, reference
from dnamamba.kernels.scan.segments import CPU_LIMITS, GPU_LIMITS, Limits, plan_segments
from golden_files import Golden, assert_close, load_golden

BACKENDS = ("reference", "chunked")
"""Those that take float64."""

ALL_BACKENDS = (*BACKENDS, "cpu")

# Relative to each entry plus relative to the largest of its tensor. float64: sums in another order.
# float32: 2^-24 an operation, grown by sums over time and channels; upstream's own bound is 6e-4.
TOLERANCES = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-12},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
}

# Many chunks and segments for short sequences: the path that long ones and GPUs take.
MANY_CHUNKS = Limits(segment=1 << 10, narrow=1 << 20, wide=1 << 20, widest=1 << 20)
MANY_ROW_BLOCKS = Limits(segment=1 << 9, narrow=1, wide=1, widest=1 << 6)


def draw_operands(
    batch: int = 2,
    seq_len: int = 20,
    channels: int = 6,
    d_state: int = 4,
    dtype: torch.dtype = torch.float64,
    groups: int | None = None,
) -> dict[str, Tensor]:
    """Operands of ordinary size, all requiring gradients; the same on every call."""
    generator = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    middle = () if groups is None else (groups,)
    operands = {
        "u": draw(batch, seq_len, channels),
        "delta": draw(batch, seq_len, channels) - 2,
        "A": -draw(channels, d_state).abs() - 0.1,
        "B": draw(batch, seq_len, *middle, d_state),
        "C": draw(batch, seq_len, *middle, d_state),
        "D": draw(channels),
        "z": draw(batch, seq_len, channels),
        "delta_bias": draw(channels),
        "initial_state": draw(batch, channels, d_state),
    }
    return {name: tensor.requires_grad_() for name, tensor in operands.items()}


def scan_with_gradients(operands: dict[str, Tensor], **options: object) -> dict[str, Tensor]:
    """out, last_state and the gradient of every operand under a loss that uses both."""
    options = {"delta_softplus": True, "return_last_state": True, **options}
    out, last_state = selective_scan(**operands, **options)
    weights = torch.linspace(-1, 1, out.numel()).reshape(out.shape)
    state_weights = torch.linspace(-1, 1, last_state.numel()).reshape(last_state.shape)
    loss = (out.double() * weights).sum() + (last_state.double() * state_weights).sum()
    gradients = torch.autograd.grad(loss, list(operands.values()))
    names = [f"gradient of {name}" for name in operands]
    return {"out": out, "last_state": last_state, **dict(zip(names, gradients, strict=True))}


def assert_all_close(found: dict[str, Tensor], expected: dict[str, Tensor], dtype) -> None:
    for name, value in expected.items():
        assert_close(found[name], value, **TOLERANCES[dtype], what=name)


# The definition, against something that is not a scan.


@pytest.mark.parametrize("backend", BACKENDS)
def test_scan_constant_parameters_is_a_geometric_sum(backend):
    """With one state and nothing that changes, h_t = dt B u (1 + a + ... + a^t), a = exp(dt A)."""
    seq_len, dt, A, B, C, u = 50, 0.3, -0.7, 1.5, -2.0, 0.4
    full = torch.full((1, seq_len, 1), 1.0, dtype=torch.float64)
    constant = torch.ones(1, 1, dtype=torch.float64)
    out, last_state = selective_scan(
        u * full, dt * full, A * constant, B * constant, C * constant,
        return_last_state=True, backend=backend,
    )  # fmt: skip
    decay = math.exp(dt * A)
    t = torch.arange(seq_len, dtype=torch.float64)
    expected = dt * B * u * (1 - decay ** (t + 1)) / (1 - decay)
    torch.testing.assert_close(out[0, :, 0], C * expected)
    torch.testing.assert_close(last_state[0, 0, 0], expected[-1])


def test_reference_complex_scan_of_an_impulse_is_a_cosine():
    """An impulse into one conjugate pair rings: y_t = 2 Re(exp(t A))."""
    u = torch.zeros(1, 30, 1, dtype=torch.float64)
    u[0, 0] = 1
    A = torch.tensor([[-0.05 + 0.9j]], dtype=torch.complex128)
    one = torch.ones(1, 1, dtype=torch.complex128)
    out = selective_scan(u, torch.ones_like(u), A, one, one)
    t = torch.arange(30, dtype=torch.float64)
    torch.testing.assert_close(out[0, :, 0], 2 * torch.exp(-0.05 * t) * torch.cos(0.9 * t))


@pytest.mark.parametrize("backend", BACKENDS)
def test_scan_gradients_match_finite_differences(backend):
    operands = draw_operands(batch=2, seq_len=4, channels=2, d_state=2)

    def scan(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        named = dict(zip(operands, tensors, strict=True))
        return selective_scan(**named, delta_softplus=True, return_last_state=True, backend=backend)

    assert torch.autograd.gradcheck(scan, tuple(operands.values()))


def test_reference_complex_gradients_match_finite_differences():
    operands = draw_operands(batch=1, seq_len=3, channels=2, d_state=2)
    for name in ("A", "B", "C", "initial_state"):
        real = operands[name].detach()
        operands[name] = torch.complex(real, real.flip(-1)).requires_grad_()

    def scan(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        named = dict(zip(operands, tensors, strict=True))
        return selective_scan(**named, delta_softplus=True, return_last_state=True)

    assert torch.autograd.gradcheck(scan, tuple(operands.values()))


# The chunked backend against the definition.


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("seq_len", [1, 2, 63, 64, 65, 1000])
@pytest.mark.parametrize("channels", [1, 3, 96])
def test_chunked_equals_reference(channels, seq_len, reverse):
    d_state = 16 if channels == 96 else 3
    operands = draw_operands(2, seq_len, channels, d_state)
    found = scan_with_gradients(operands, backend="chunked", reverse=reverse)
    expected = scan_with_gradients(operands, backend="reference", reverse=reverse)
    assert_all_close(found, expected, torch.float64)


@pytest.mark.parametrize("limits", [MANY_CHUNKS, MANY_ROW_BLOCKS], ids=["chunks", "row_blocks"])
@pytest.mark.parametrize("weights", ["per step", "grouped", "constant B", "constant C"])
@pytest.mark.parametrize("seq_len", [1, 17, 300])
def test_chunked_equals_reference_however_it_is_cut(monkeypatch, limits, weights, seq_len):
    monkeypatch.setattr(chunked, "CPU_LIMITS", limits)
    operands = draw_operands(5, seq_len, 6, 2, groups=3 if weights == "grouped" else None)
    if weights.startswith("constant"):
        operands[weights[-1]] = draw_operands(1, 6, 6, 2)["B"].detach()[0].requires_grad_()
    found = scan_with_gradients(operands, backend="chunked")
    expected = scan_with_gradients(operands, backend="reference")
    assert_all_close(found, expected, torch.float64)


@pytest.mark.parametrize("missing", ["D", "z", "delta_bias", "initial_state", "all"])
def test_chunked_without_optional_operands_equals_reference(missing):
    operands = draw_operands()
    for name in ("D", "z", "delta_bias", "initial_state") if missing == "all" else (missing,):
        del operands[name]
    for softplus in (False, True):
        found = scan_with_gradients(operands, backend="chunked", delta_softplus=softplus)
        expected = scan_with_gradients(operands, backend="reference", delta_softplus=softplus)
        assert_all_close(found, expected, torch.float64)


def test_chunked_different_groups_for_B_and_C_equals_reference():
    operands = draw_operands(groups=2)
    operands["C"] = draw_operands(groups=3)["C"].detach().requires_grad_()
    found = scan_with_gradients(operands, backend="chunked")
    expected = scan_with_gradients(operands, backend="reference")
    assert_all_close(found, expected, torch.float64)


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_chunked_float32_is_as_good_as_it_can_be(precision):
    """Also where torch may round matrix products: the scan then does without them."""
    exact = draw_operands(2, 300, 96, 16)
    rounded = {k: v.detach().float().requires_grad_() for k, v in exact.items()}
    widened = {k: v.detach().double().requires_grad_() for k, v in rounded.items()}
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        found = scan_with_gradients(rounded, backend="chunked")
    finally:
        torch.set_float32_matmul_precision(before)
    assert_all_close(found, scan_with_gradients(widened, backend="reference"), torch.float32)


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_scan_bf16_operands_keep_a_float32_state(backend):
    """The only rounding is that of the result: operands are widened exactly."""
    rounded = {k: v.detach().bfloat16() for k, v in draw_operands(2, 200, 8, 4).items()}
    widened = {k: v.float() for k, v in rounded.items()}
    options = {"delta_softplus": True, "return_last_state": True, "backend": backend}
    with torch.autocast("cpu", torch.bfloat16):
        out, last_state = selective_scan(**rounded, **options)
    expected, expected_state = selective_scan(**widened, **options)
    assert out.dtype == torch.bfloat16
    assert last_state.dtype == torch.float32
    assert torch.equal(out, expected.bfloat16())
    assert torch.equal(last_state, expected_state)


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_scan_gradients_have_the_dtypes_of_their_operands(backend):
    operands = draw_operands(dtype=torch.bfloat16)
    operands["A"] = operands["A"].detach().float().requires_grad_()
    results = scan_with_gradients(operands, backend=backend)
    for name, operand in operands.items():
        assert results[f"gradient of {name}"].dtype == operand.dtype


@pytest.mark.parametrize("backend", BACKENDS)
def test_scan_goes_on_from_a_state(backend):
    """Two halves with the state handed over are the whole, gradients included."""
    operands = draw_operands(seq_len=31)
    options = {"delta_softplus": True, "return_last_state": True, "backend": backend}
    whole, whole_state = selective_scan(**operands, **options)

    def part(times: slice, state: Tensor) -> tuple[Tensor, Tensor]:
        over_time = {name: operands[name][:, times] for name in ("u", "delta", "B", "C", "z")}
        return selective_scan(**{**operands, **over_time, "initial_state": state}, **options)

    first, state = part(slice(0, 13), operands["initial_state"])
    second, state = part(slice(13, None), state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(state, whole_state)
    weights = torch.linspace(-1, 1, whole.numel(), dtype=torch.float64).view_as(whole)
    in_parts = (torch.cat([first, second], 1) * weights).sum() + state.sum()
    at_once = (whole * weights).sum() + whole_state.sum()
    expected = torch.autograd.grad(at_once, list(operands.values()))
    found = torch.autograd.grad(in_parts, list(operands.values()))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_scan_reverse_is_the_scan_of_the_flipped_sequence(backend):
    operands = {name: tensor.detach() for name, tensor in draw_operands().items()}
    flipped = {
        name: tensor.flip(1) if name in ("u", "delta", "B", "C", "z") else tensor
        for name, tensor in operands.items()
    }
    out, state = selective_scan(**operands, return_last_state=True, reverse=True, backend=backend)
    expected, expected_state = selective_scan(**flipped, return_last_state=True, backend=backend)
    torch.testing.assert_close(out, expected.flip(1))
    torch.testing.assert_close(state, expected_state)


@pytest.mark.parametrize("limits", [CPU_LIMITS, MANY_CHUNKS], ids=["plain", "chunks"])
def test_chunked_reads_no_uninitialised_memory(monkeypatch, limits):
    """Deterministic mode fills fresh memory with NaN."""
    monkeypatch.setattr(chunked, "CPU_LIMITS", limits)
    assert torch.utils.deterministic.fill_uninitialized_memory
    operands = draw_operands(3, 100, 6, 4, dtype=torch.float32)
    torch.use_deterministic_algorithms(True)
    try:
        results = scan_with_gradients(operands, backend="chunked")
    finally:
        torch.use_deterministic_algorithms(False)
    for name, value in results.items():
        assert value.isfinite().all(), name


def test_chunked_repeats_bit_for_bit():
    operands = draw_operands(3, 257, 24, 16, dtype=torch.float32)
    first, second = (scan_with_gradients(operands, backend="chunked") for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("backend", ["chunked", "cpu"])
def test_scan_keeps_no_states_of_every_step(backend):
    """What waits for the backward is the inputs and at most as much again as u."""
    operands = draw_operands(2, 512, 64, 16, dtype=torch.float32)
    saved: dict[int, int] = {}

    def weigh(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor):
        selective_scan(**operands, delta_softplus=True, backend=backend)
    inputs = sum(tensor.untyped_storage().nbytes() for tensor in operands.values())
    one_state = operands["initial_state"].untyped_storage().nbytes()
    u_bytes = operands["u"].untyped_storage().nbytes()
    assert sum(saved.values()) <= inputs + u_bytes + 2 * one_state
    assert 512 * one_state > 3 * (inputs + u_bytes), "the test would not notice"


@pytest.mark.parametrize("limits", [CPU_LIMITS, GPU_LIMITS, MANY_CHUNKS, MANY_ROW_BLOCKS])
@pytest.mark.parametrize("batch", [1, 8, 100])
@pytest.mark.parametrize("seq_len", [1, 15, 16, 1000, 10_000])
@pytest.mark.parametrize(("channels", "d_state"), [(1, 1), (128, 16), (2048, 64)])
def test_plan_covers_everything_once_and_bounds_memory(limits, batch, seq_len, channels, d_state):
    plan = plan_segments(batch, seq_len, channels, d_state, limits)
    covered = 0
    row, time = 0, 0
    for segment in plan:
        assert (segment.rows.start, segment.times.start) == (row, time)
        length, height = segment.times.stop - time, segment.rows.stop - row
        assert segment.steps * segment.chunks == length
        elements = length * height * channels * d_state
        floor = max(16, d_state) * min(batch * channels * d_state, limits.widest)
        assert elements <= max(limits.segment, floor, max(16, d_state) * channels * d_state)
        covered += length * height
        row, time = (row, segment.times.stop) if segment.times.stop < seq_len else (
            segment.rows.stop, 0)  # fmt: skip
    assert covered == batch * seq_len
    saved_states = sum(s.chunks * (s.rows.stop - s.rows.start) for s in plan) * d_state
    # No more than u, but for one state at the end of each row.
    assert saved_states <= batch * (seq_len + 2 * d_state)


# The CPU backend against the definition in float64.


def assert_cpu_equals_definition(operands: dict[str, Tensor], **options: object) -> None:
    """float32 in, compared with the definition of the very same numbers in float64."""
    rounded = {k: v.detach().float().requires_grad_() for k, v in operands.items()}
    widened = {k: v.detach().double().requires_grad_() for k, v in rounded.items()}
    found = scan_with_gradients(rounded, backend="cpu", **options)
    expected = scan_with_gradients(widened, backend="reference", **options)
    assert_all_close(found, expected, torch.float32)


@pytest.mark.parametrize("seq_len", [1, 2, 15, 16, 17, 63, 64, 65, 1000])
@pytest.mark.parametrize("channels", [1, 3, 8, 16, 31, 96])
def test_cpu_equals_definition(channels, seq_len):
    batch = 1 if seq_len == 1000 else 2
    assert_cpu_equals_definition(draw_operands(batch, seq_len, channels, 5))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(("channels", "d_state", "seq_len"), [(512, 16, 65), (8, 16, 4097)])
def test_cpu_equals_definition_wide_and_long(channels, d_state, seq_len, reverse):
    assert_cpu_equals_definition(draw_operands(1, seq_len, channels, d_state), reverse=reverse)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("d_state", [1, 2, 5, 16, 17, 64])
def test_cpu_any_number_of_states(d_state, reverse):
    assert_cpu_equals_definition(draw_operands(2, 35, 19, d_state), reverse=reverse)


@pytest.mark.parametrize(("channels", "groups"), [(6, 1), (6, 6), (40, 2), (102, 3)])
def test_cpu_groups_need_not_fill_vectors(channels, groups):
    assert_cpu_equals_definition(draw_operands(2, 33, channels, 4, groups=groups))


def test_cpu_different_groups_for_B_and_C_equals_definition():
    operands = draw_operands(groups=2)
    operands["C"] = draw_operands(groups=3)["C"].detach().requires_grad_()
    assert_cpu_equals_definition(operands)


@pytest.mark.parametrize("missing", ["none", "D", "z", "delta_bias", "initial_state", "all"])
@pytest.mark.parametrize("delta_softplus", [False, True])
def test_cpu_without_optional_operands_equals_definition(missing, delta_softplus):
    operands, optional = draw_operands(), ("D", "z", "delta_bias", "initial_state")
    for name in optional:
        if missing in (name, "all"):
            del operands[name]
    if not delta_softplus:
        # Negative steps grow without bound, beyond float32 before the end.
        operands["delta"] = operands["delta"].detach().abs().requires_grad_()
        if "delta_bias" in operands:
            operands["delta_bias"] = operands["delta_bias"].detach().abs().requires_grad_()
    assert_cpu_equals_definition(operands, delta_softplus=delta_softplus)


def test_cpu_takes_views_of_projections_without_copies():
    """u and z as halves of one tensor, B and C as columns of another: rows lie apart."""
    operands = {k: v.detach() for k, v in draw_operands(2, 40, 24, 4, torch.float32).items()}
    expected = selective_scan(**operands, delta_softplus=True, backend="cpu")
    u_and_z = torch.cat([operands["u"], operands["z"]], -1)
    all_weights = torch.cat([operands["B"][..., :2], operands["B"], operands["C"]], -1)
    operands["u"], operands["z"] = u_and_z.chunk(2, -1)
    operands["B"], operands["C"] = all_weights.split([2, 4, 4], -1)[1:]
    assert torch.equal(selective_scan(**operands, delta_softplus=True, backend="cpu"), expected)


def test_cpu_takes_any_strides():
    operands = draw_operands(2, 40, 24, 4, torch.float32)
    expected = scan_with_gradients(operands, backend="cpu")
    turned = {
        name: x.detach().mT.contiguous().mT.requires_grad_() if x.dim() == 3 else x
        for name, x in operands.items()
    }
    found = scan_with_gradients(turned, backend="cpu")
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("delta", [-1e4, -80.0, -20.0, 0.0, 20.0, 90.0, 1e4])
def test_cpu_extreme_step_sizes(delta):
    """Softplus from nothing to the identity; decays from 1 to less than float32 can hold."""
    operands = draw_operands(1, 50, 17, 3)
    operands["delta"] = (operands["delta"].detach() * 0.1 + delta).requires_grad_()
    assert_cpu_equals_definition(operands)


@pytest.mark.parametrize(("name", "value"), [("delta", 1e3), ("A", math.nan), ("u", math.nan)])
def test_cpu_says_nan_where_the_definition_is_not_finite(name, value):
    """Growth beyond float32 too: exp2's polynomial must not make a number of it."""
    operands = draw_operands(1, 5, 3, 2, torch.float32)
    operands = {key: tensor.detach().clone() for key, tensor in operands.items()}
    operands["A"].abs_()
    operands[name][0] = value
    expected = selective_scan(**operands, backend="reference")
    assert not expected.isfinite().all(), "the test would not notice"
    found = selective_scan(**operands, backend="cpu")
    assert not found[~expected.isfinite()].isfinite().any()


@pytest.mark.parametrize("reverse", [False, True])
def test_cpu_goes_on_from_a_state(reverse):
    operands = {k: v.detach() for k, v in draw_operands(2, 50, 20, 4, torch.float32).items()}
    options = {"delta_softplus": True, "return_last_state": True, "backend": "cpu"}
    whole, whole_state = selective_scan(**operands, **options, reverse=reverse)
    state, outs = operands["initial_state"], []
    for start in (0, 7, 8, 40)[:: -1 if reverse else 1]:
        stop = {0: 7, 7: 8, 8: 40, 40: 50}[start]
        part = {name: operands[name][:, start:stop] for name in ("u", "delta", "B", "C", "z")}
        part = {**operands, **part, "initial_state": state}
        out, state = selective_scan(**part, **options, reverse=reverse)
        outs.append(out)
    assert torch.equal(torch.cat(outs[:: -1 if reverse else 1], 1), whole)
    assert torch.equal(state, whole_state)


def test_cpu_writes_every_entry_and_does_not_depend_on_threads():
    """Fresh memory is NaN here; one thread and two add up in the same order."""
    operands = draw_operands(3, 70, 40, 16, torch.float32)
    n_threads, results = torch.get_num_threads(), []
    torch.use_deterministic_algorithms(True)
    try:
        for count in (1, 2, 2, 5):
            torch.set_num_threads(count)
            results.append(scan_with_gradients(operands, backend="cpu"))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(n_threads)
    for name, value in results[0].items():
        assert value.isfinite().all(), name
        for other in results[1:]:
            assert torch.equal(other[name], value), name


def test_cpu_on_python_threads_gives_the_same(monkeypatch):
    """What is used where torch has no GNU OpenMP."""
    operands = draw_operands(3, 70, 40, 16, torch.float32)
    expected = scan_with_gradients(operands, backend="cpu")
    monkeypatch.setattr(launch, "_openmp", lambda: None)
    found = scan_with_gradients(operands, backend="cpu")
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize(
    ("features", "lanes"), [("+sse2", 4), ("+avx,+avx2,+fma", 8), ("+avx2,+fma,+avx512f", 16)]
)
def test_cpu_kernels_for_narrower_machines(monkeypatch, tmp_path, features, lanes):
    """Code for less than this CPU offers runs on it too."""
    host = find_host()
    if not set(features.split(",")) <= set(host.features.split(",")):
        pytest.skip(f"this CPU does not have {features}")
    narrow = replace(host, cpu="x86-64", features=features)
    assert narrow.lanes == lanes
    monkeypatch.setattr(cpu, "find_host", lambda: narrow)
    assert_cpu_equals_definition(draw_operands(2, 37, 21, 17))


def test_cpu_without_llvmlite_is_refused_and_auto_says_what_it_takes(caplog, monkeypatch):
    monkeypatch.setattr(backend_module, "_taken", {})
    monkeypatch.setattr(cpu, "why_no_host", lambda: "llvmlite is not installed; install it")
    operands = {k: v.detach() for k, v in draw_operands(dtype=torch.float32).items()}
    with pytest.raises(RuntimeError, match="'cpu' cannot run this: llvmlite is not installed"):
        selective_scan(**operands, backend="cpu")
    with caplog.at_level(logging.INFO, logger="dnamamba.kernels"):
        selective_scan(**operands)
    assert "auto takes 'chunked' (plain PyTorch and slow; 'cpu' cannot: llvmlite" in caplog.text


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [("u", torch.float64, "got float64"), ("A", torch.complex64, "A is complex")],
)
def test_cpu_refuses_what_it_cannot_compute(name, dtype, message):
    operands = {k: v.detach() for k, v in draw_operands(dtype=torch.float32).items()}
    changed = ("A", "B", "C", "initial_state") if name == "A" else (name,)
    operands |= {key: operands[key].to(dtype) for key in changed}
    with pytest.raises(RuntimeError, match=message):
        selective_scan(**operands, backend="cpu")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_cpu_does_not_depend_on_torchs_default_dtype(dtype):
    operands = draw_operands(2, 40, 19, 4, torch.float32)
    del operands["initial_state"]

    def run() -> tuple[Tensor, ...]:
        out = selective_scan(**operands, delta_softplus=True, backend="cpu")
        return (out, *torch.autograd.grad(out.sum(), list(operands.values())))

    expected = run()
    torch.set_default_dtype(dtype)
    try:
        found = run()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, found, expected))


def test_cpu_leaves_tensors_without_memory_to_others():
    operands = {k: v.detach() for k, v in draw_operands(dtype=torch.float32).items()}
    with FakeTensorMode() as mode:
        fake = {name: mode.from_tensor(tensor) for name, tensor in operands.items()}
        assert selective_scan(**fake).shape == operands["u"].shape
        with pytest.raises(RuntimeError, match="plain tensors, got a FakeTensor"):
            selective_scan(**fake, backend="cpu")


@pytest.mark.slow
def test_compiled_code_scans_as_before():
    operands = {k: v.detach() for k, v in draw_operands(dtype=torch.float32).items()}
    compiled = torch.compile(
        lambda: selective_scan(**operands, delta_softplus=True), backend="eager"
    )
    expected = selective_scan(**operands, delta_softplus=True)
    torch.testing.assert_close(compiled(), expected, rtol=1e-4, atol=1e-5)


def test_cpu_keeps_states_only_where_gradients_are_wanted():
    operands = draw_operands(1, 512, 64, 16, dtype=torch.float32)
    made = []
    real = cpu.new_tensor
    with (
        torch.no_grad(),
        mock.patch.object(
            cpu, "new_tensor", lambda *shape: made.append(math.prod(shape)) or real(*shape)
        ),
    ):
        selective_scan(**operands, backend="cpu")
    assert max(made) == operands["u"].numel()


def test_operands_on_two_devices_are_an_error():
    operands = {k: v.detach() for k, v in draw_operands(dtype=torch.float32).items()}
    operands["z"] = operands["z"].to("meta")
    with pytest.raises(ValueError, match=r"z is on meta, u on cpu; move one"):
        selective_scan(**operands)


def test_cpu_refuses_constant_weights_and_many_states():
    operands = {k: v.detach() for k, v in draw_operands(dtype=torch.float32).items()}
    constant = {**operands, "B": operands["A"]}
    with pytest.raises(RuntimeError, match="constant over time; use backend='chunked'"):
        selective_scan(**constant, backend="cpu")
    many = {k: v.detach() for k, v in draw_operands(d_state=65, dtype=torch.float32).items()}
    with pytest.raises(RuntimeError, match="1 to 64 states, A has 65"):
        selective_scan(**many, backend="cpu")


# The choice of a backend and the checks.


def test_backends_share_one_signature():
    for backend in op.BACKENDS:
        assert inspect.signature(backend.run) == inspect.signature(reference.selective_scan)


def test_auto_logs_its_choice_once_and_records_it(caplog, monkeypatch):
    monkeypatch.setattr(backend_module, "_taken", {})
    operands = {name: tensor.detach() for name, tensor in draw_operands().items()}
    with caplog.at_level(logging.INFO, logger="dnamamba.kernels"):
        selective_scan(**operands)
        selective_scan(**operands)
    assert len(caplog.records) == 1
    assert "'chunked'" in caplog.text
    assert "slow; 'cpu' cannot: it computes in float32 and got float64" in caplog.text
    assert backend_module.describe_choices() == {"selective_scan on cpu": ["chunked"]}


def test_backend_that_cannot_be_had_is_an_error():
    operands = {name: tensor.detach() for name, tensor in draw_operands().items()}
    with pytest.raises(ValueError, match="auto, cpu, triton, chunked, reference, got 'cuda'"):
        selective_scan(**operands, backend="cuda")
    for name in ("A", "B", "C", "initial_state"):
        operands[name] = operands[name].to(torch.complex128)
    with pytest.raises(RuntimeError, match="'chunked' cannot run this: A is complex; use backend="):
        selective_scan(**operands, backend="chunked")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("u", (2, 20), r"u must be \(B, L, D\)"),
        ("u", (2, 0, 6), "with no size of 0"),
        ("delta", (2, 20, 5), r"delta must be \(2, 20, 6\).*got \(2, 20, 5\)"),
        ("A", (5, 4), r"A must be \(D, N\) with D = 6"),
        ("A", (6, 0), "N >= 1"),
        ("B", (2, 19, 4), r"B must be \(2, 20, 4\) or .* or constant \(6, 4\), got \(2, 19, 4\)"),
        ("C", (2, 20, 4, 4), "4 groups of C must divide the 6 channels"),
        ("z", (2, 20, 7), "z must be"),
        ("D", (5,), r"D must be \(6,\)"),
        ("delta_bias", (1, 6), "delta_bias must be"),
        ("initial_state", (2, 4, 6), r"initial_state must be \(2, 6, 4\)"),
    ],
)
def test_wrong_shapes_are_named(name, shape, message):
    operands = {key: tensor.detach() for key, tensor in draw_operands().items()}
    operands[name] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        selective_scan(**operands)


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        ("u", torch.int64, "u must be real floating, got torch.int64"),
        ("z", torch.complex64, "z must be real"),
        ("A", torch.int32, "A must be floating"),
        ("B", torch.complex64, "all real or all complex; A is torch.float64, B is torch.complex64"),
    ],
)
def test_wrong_dtypes_are_named(name, dtype, message):
    operands = {key: tensor.detach() for key, tensor in draw_operands().items()}
    operands[name] = operands[name].to(dtype)
    with pytest.raises(TypeError, match=message):
        selective_scan(**operands)


# The official code's numbers.

CASES = {
    "selective_scan_a": (
        "full no_z no_D_no_bias_no_softplus L1 groups2 const_BC bare extreme_delta h0 h0_L1"
    ),
    "selective_scan_b": (
        "long_odd complex_var complex_const B_var_C_const B_const_C_groups groups_eq_d n1 "
        "bias_no_softplus h0_groups_no_z"
    ),
}
SPLIT_CASES = {"selective_scan_a": "full no_z groups2", "selective_scan_b": "long_odd"}
STEP_CASES = {"selective_scan_a": "step_mamba1", "selective_scan_b": "step_heads_groups"}


def can_run(backend: str, case: str, dtype: torch.dtype) -> bool:
    if backend == "cpu":
        return dtype == torch.float32 and not ("complex" in case or "const" in case)
    return backend == "reference" or not case.startswith("complex")


def in_every_variant(cases: dict[str, str]) -> pytest.MarkDecorator:
    """Each case with each backend that can run it, in float64 and float32."""
    variants = [
        (item, case, backend, dtype)
        for item, names in cases.items()
        for case in names.split()
        for backend in ALL_BACKENDS
        for dtype in TOLERANCES
        if can_run(backend, case, dtype)
    ]
    return pytest.mark.parametrize(("item", "case", "backend", "dtype"), variants)


@pytest.fixture(scope="module")
def goldens() -> dict[str, Golden]:
    return {name: load_golden(name) for name in ("selective_scan_a", "selective_scan_b")}


def read_case(golden: Golden, case: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """The case's inputs as leaves, in the file's layout (L last)."""
    inputs = golden.group(f"{case}/in")
    return {name: tensor.to(dtype).requires_grad_() for name, tensor in inputs.items()}


def to_our_layout(leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """Channels last, complex where the file has pairs; differentiable back to the leaves."""
    operands = {name: leaves[name].mT for name in ("u", "delta", "z") if name in leaves}
    operands |= {name: leaves[name] for name in ("D", "delta_bias") if name in leaves}
    is_complex = "A_real" in leaves
    for name in ("A", "B", "C"):
        if f"{name}_real" in leaves:
            operands[name] = torch.complex(leaves[f"{name}_real"], leaves[f"{name}_imag"])
            continue
        weights = leaves[name]
        if weights.dim() > 2:
            if is_complex:
                weights = torch.view_as_complex(weights.unflatten(-1, (-1, 2)))
            weights = weights.movedim(-1, 1)
        operands[name] = weights
    if "h0" in leaves:
        operands["initial_state"] = leaves["h0"]
    return operands


def run_case(golden: Golden, case: str, leaves: dict[str, Tensor], backend: str):
    settings = golden.info["cases"][case]
    return selective_scan(
        **to_our_layout(leaves),
        delta_softplus=settings["softplus"],
        return_last_state=True,
        backend=backend,
    )


@pytest.mark.parametrize("item", CASES)
def test_every_golden_case_is_tested(goldens, item):
    tested = f"{CASES[item]} {STEP_CASES[item]}".split()
    assert sorted(tested) == sorted(goldens[item].info["cases"])
    with_splits = [name for name, case in goldens[item].info["cases"].items() if "splits" in case]
    assert SPLIT_CASES[item].split() == with_splits


@in_every_variant(CASES)
def test_golden_values_and_gradients(goldens, item, case, backend, dtype):
    golden = goldens[item]
    leaves = read_case(golden, case, dtype)
    out, last_state = run_case(golden, case, leaves, backend)
    tolerance = TOLERANCES[dtype]
    expected = golden.group(f"{case}/out_f64")
    assert_close(out.mT, expected["out"], **tolerance, what="out")
    if last_state.is_complex():
        state = torch.complex(expected["last_state_real"], expected["last_state_imag"])
    else:
        state = expected["last_state"]
    assert_close(last_state, state, **tolerance, what="last state")

    out_loss = (leaves["w_out"] * out.mT).sum()
    state_loss = (leaves["w_state"] * last_state.real).sum()
    if last_state.is_complex():
        state_loss = state_loss + (leaves["w_state_imag"] * last_state.imag).sum()
    losses = {"grad_outstate": out_loss + state_loss}
    if "h0" not in leaves:  # no gradients of the output alone were computed from an initial state
        losses["grad_out"] = out_loss
    for kind, loss in losses.items():
        gradients = golden.group(f"{case}/{kind}_f64")
        if "loss" in gradients:
            assert_close(loss, gradients.pop("loss"), **tolerance, what=f"{kind} loss")
        names = [name for name in gradients if name in leaves]
        assert names == list(gradients)
        found = torch.autograd.grad(
            loss, [leaves[name] for name in names], retain_graph=True, materialize_grads=True
        )
        for name, gradient in zip(names, found, strict=True):
            assert_close(gradient, gradients[name], **tolerance, what=f"{kind} {name}")


@in_every_variant(SPLIT_CASES)
def test_golden_split_states(goldens, item, case, backend, dtype):
    golden = goldens[item]
    leaves = {name: leaf.detach() for name, leaf in read_case(golden, case, dtype).items()}
    expected = golden.group(f"{case}/out_f64")
    over_time = [name for name in ("u", "delta", "z", "B", "C") if name in leaves]
    for split in golden.info["cases"][case]["splits"]:
        first = {**leaves, **{name: leaves[name][..., :split] for name in over_time}}
        _, state = run_case(golden, case, first, backend)
        wanted = golden.tensors[f"{case}/split{split}/state_f64"]
        assert_close(state, wanted, **TOLERANCES[dtype], what=f"state after {split}")
        rest = {**leaves, **{name: leaves[name][..., split:] for name in over_time}, "h0": state}
        out, last_state = run_case(golden, case, rest, backend)
        wanted = expected["out"][..., split:]
        assert_close(out.mT, wanted, **TOLERANCES[dtype], what=f"out after {split}")
        wanted = expected["last_state"]
        assert_close(last_state, wanted, **TOLERANCES[dtype], what="last state")


@in_every_variant(STEP_CASES)
def test_golden_single_steps(goldens, item, case, backend, dtype):
    """One step is a scan of length 1; heads of channels are channels."""
    golden = goldens[item]
    inputs = {name: tensor.to(dtype) for name, tensor in golden.group(f"{case}/in").items()}
    batch, d_state = inputs["x"].shape[0], inputs["A"].shape[-1]
    u, delta, z = (inputs[name].reshape(batch, 1, -1) for name in ("x", "dt", "z"))
    out, state = selective_scan(
        u,
        delta,
        inputs["A"].reshape(-1, d_state),
        inputs["B"].unsqueeze(1),
        inputs["C"].unsqueeze(1),
        inputs["D"].flatten(),
        z=z,
        delta_bias=inputs["dt_bias"].flatten(),
        delta_softplus=True,
        initial_state=inputs["state"].reshape(batch, -1, d_state),
        return_last_state=True,
        backend=backend,
    )
    expected = golden.group(f"{case}/out_f64")
    out, state = out.reshape(inputs["x"].shape), state.reshape(inputs["state"].shape)
    assert_close(out, expected["out"], **TOLERANCES[dtype], what="out")
    assert_close(state, expected["state"], **TOLERANCES[dtype], what="state")
