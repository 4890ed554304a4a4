"""State space duality: its definition, the chunked form against it, and the official numbers."""

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from dnamamba.kernels import selective_scan, state_space_duality
from dnamamba.kernels.ssd import chunked, op, reference
from golden_files import assert_close, load_golden, load_golden_json

BACKENDS = ("reference", "chunked")

# Relative to each entry plus relative to the largest of its tensor: sums in another order.
TOLERANCES = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-12},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
}


def draw_operands(
    batch: int = 2,
    seq_len: int = 20,
    heads: int = 4,
    d_head: int = 3,
    groups: int = 2,
    d_state: int = 5,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Operands of ordinary size, all requiring gradients; the same on every call."""
    generator = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    operands = {
        "x": draw(batch, seq_len, heads, d_head),
        "dt": draw(batch, seq_len, heads) - 1,
        "A": -draw(heads).abs() - 0.1,
        "B": draw(batch, seq_len, groups, d_state),
        "C": draw(batch, seq_len, groups, d_state),
        "D": draw(heads),
        "dt_bias": draw(heads),
        "initial_state": draw(batch, heads, d_head, d_state),
    }
    return {name: tensor.requires_grad_() for name, tensor in operands.items()}


def run_with_gradients(operands: dict[str, Tensor], **options: object) -> dict[str, Tensor]:
    """out, last_state and the gradient of every operand under a loss that uses both."""
    options = {"dt_softplus": True, "return_last_state": True, **options}
    out, last_state = state_space_duality(**operands, **options)
    weights = torch.linspace(-1, 1, out.numel()).reshape(out.shape)
    state_weights = torch.linspace(-1, 1, last_state.numel()).reshape(last_state.shape)
    loss = (out.double() * weights).sum() + (last_state.double() * state_weights).sum()
    gradients = torch.autograd.grad(loss, list(operands.values()))
    names = [f"gradient of {name}" for name in operands]
    return {"out": out, "last_state": last_state, **dict(zip(names, gradients, strict=True))}


def assert_all_close(found: dict[str, Tensor], expected: dict[str, Tensor], dtype) -> None:
    for name, value in expected.items():
        assert_close(found[name], value, **TOLERANCES[dtype], what=name)


# The definition, against other ways to say it.


@pytest.mark.parametrize("backend", BACKENDS)
def test_constant_operands_give_a_geometric_sum(backend):
    """With one state and nothing that changes, h_t = dt B x (1 + a + ... + a^t), a = exp(dt A)."""
    seq_len, dt, A, B, C, x = 50, 0.3, -0.7, 1.5, -2.0, 0.4
    one = torch.ones(1, seq_len, 1, 1, dtype=torch.float64)
    out, last_state = state_space_duality(
        x * one, dt * one[..., 0], A * one[0, 0, 0], B * one, C * one,
        return_last_state=True, chunk_size=16, backend=backend,
    )  # fmt: skip
    decay = math.exp(dt * A)
    t = torch.arange(seq_len, dtype=torch.float64)
    expected = dt * B * x * (1 - decay ** (t + 1)) / (1 - decay)
    torch.testing.assert_close(out.flatten(), C * expected)
    torch.testing.assert_close(last_state.flatten(), expected[-1:])


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_is_the_selective_scan_with_one_decay_a_head(backend):
    """Each of a head's P channels is a channel of the scan with all its N decays the same."""
    operands = draw_operands()
    d_head, d_state = operands["x"].shape[3], operands["B"].shape[3]
    out, last_state = state_space_duality(
        **operands, dt_softplus=True, return_last_state=True, chunk_size=8, backend=backend
    )
    expected, expected_state = selective_scan(
        operands["x"].flatten(2),
        operands["dt"].repeat_interleave(d_head, 2),
        operands["A"].repeat_interleave(d_head).unsqueeze(1).expand(-1, d_state),
        operands["B"],
        operands["C"],
        operands["D"].repeat_interleave(d_head),
        delta_bias=operands["dt_bias"].repeat_interleave(d_head),
        delta_softplus=True,
        initial_state=operands["initial_state"].flatten(1, 2),
        return_last_state=True,
    )
    torch.testing.assert_close(out.flatten(2), expected)
    torch.testing.assert_close(last_state.flatten(1, 2), expected_state)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("limited", [False, True])
def test_gradients_match_finite_differences(monkeypatch, backend, limited):
    monkeypatch.setitem(chunked.BLOCK_ELEMENTS, "cpu", 1)
    operands = draw_operands(batch=1, seq_len=5, heads=2, d_head=2, groups=1, d_state=2)

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return state_space_duality(
            **dict(zip(operands, tensors, strict=True)), dt_softplus=True,
            dt_limit=(0.2, 0.7) if limited else None,
            return_last_state=True, chunk_size=2, backend=backend,
        )  # fmt: skip

    assert torch.autograd.gradcheck(run, tuple(operands.values()))


# The chunked form against the definition.


@settings(deadline=None, max_examples=40)
@given(
    seq_len=st.integers(1, 80),
    chunk_size=st.integers(1, 96),
    groups=st.sampled_from([1, 2, 4]),
    d_state=st.integers(1, 6),
    block=st.sampled_from([1, 1000, 1 << 20]),
)
def test_any_length_chunk_and_block(seq_len, chunk_size, groups, d_state, block):
    operands = draw_operands(1, seq_len, groups=groups, d_state=d_state)
    expected = run_with_gradients(operands, backend="reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(chunked.BLOCK_ELEMENTS, "cpu", block)
        found = run_with_gradients(operands, chunk_size=chunk_size, backend="chunked")
    assert_all_close(found, expected, torch.float64)


def test_float32_keeps_its_tolerance():
    exact = draw_operands(seq_len=150)
    narrow = {name: x.detach().float().requires_grad_() for name, x in exact.items()}
    expected = run_with_gradients({name: x.double() for name, x in narrow.items()})
    found = run_with_gradients(narrow, chunk_size=32)
    assert found["out"].dtype == found["last_state"].dtype == torch.float32
    assert_all_close(found, expected, torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
def test_narrow_inputs_are_computed_in_float32(backend):
    operands = draw_operands(dtype=torch.bfloat16)
    found = run_with_gradients(operands, chunk_size=8, backend=backend)
    exact = {name: x.detach().float().requires_grad_() for name, x in operands.items()}
    expected = run_with_gradients(exact, chunk_size=8, backend=backend)
    assert found["last_state"].dtype == torch.float32
    assert_close(found["last_state"], expected["last_state"], rtol=1e-5, atol=1e-6, what="state")
    for name in ("x", "dt", "A", "B", "C", "D", "dt_bias", "initial_state"):
        assert found[f"gradient of {name}"].dtype == torch.bfloat16
    for name, tensor in expected.items():
        assert_close(found[name], tensor, rtol=2e-2, atol=2e-2, what=name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_changes_nothing(backend):
    operands = draw_operands(dtype=torch.float32)
    expected = state_space_duality(**operands, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(state_space_duality(**operands, backend=backend), expected)


@pytest.mark.parametrize("cut", [1, 7, 8, 19])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_state_carries_on(backend, cut):
    operands = draw_operands()
    over_time = ("x", "dt", "B", "C")
    options = {"dt_softplus": True, "return_last_state": True, "chunk_size": 8, "backend": backend}
    out, last_state = state_space_duality(**operands, **options)
    first = {n: x[:, :cut] if n in over_time else x for n, x in operands.items()}
    second = {n: x[:, cut:] if n in over_time else x for n, x in operands.items()}
    first_out, state = state_space_duality(**first, **options)
    second_out, state = state_space_duality(**{**second, "initial_state": state}, **options)
    torch.testing.assert_close(torch.cat([first_out, second_out], 1), out)
    torch.testing.assert_close(state, last_state)


def test_an_initial_state_is_not_written_to():
    operands = {name: x.detach() for name, x in draw_operands().items()}
    before = operands["initial_state"].clone()
    _, last_state = state_space_duality(**operands, return_last_state=True)
    last_state.zero_()
    assert torch.equal(operands["initial_state"], before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_that_forgets_everything_leaves_the_next_ones_exact(backend):
    """Sums of exponents then stand at -20000, where float32 is spaced by 2e-3."""
    operands = draw_operands(batch=1, seq_len=64, dtype=torch.float32)
    dt = 0.01 * functional.softplus(operands["dt"].detach())
    dt[:, 3] = 2e4
    operands = {**operands, "dt": dt.requires_grad_()}
    wide = {name: x.detach().double().requires_grad_() for name, x in operands.items()}
    expected = run_with_gradients(wide, dt_softplus=False, backend="reference")
    found = run_with_gradients(operands, dt_softplus=False, backend=backend)
    assert_close(found["out"][:, 4:], expected["out"][:, 4:], rtol=1e-4, atol=2e-6, what="out")
    assert_all_close(found, {"last_state": expected["last_state"]}, torch.float32)
    assert all(tensor.isfinite().all() for tensor in found.values())


def test_strong_decays_do_not_overflow():
    """Above the diagonal exponents reach +2000, more than exp can hold; they are masked before."""
    operands = draw_operands(batch=1, seq_len=64)
    operands = {**operands, "dt": (operands["dt"].detach() + 20).requires_grad_()}
    expected = run_with_gradients(operands, backend="reference")
    assert_all_close(run_with_gradients(operands), expected, torch.float64)


def test_optional_operands_may_be_left_out():
    operands = draw_operands()
    needed = {name: operands[name] for name in ("x", "dt", "A", "B", "C")}
    zeros = {n: torch.zeros_like(operands[n]) for n in ("D", "dt_bias", "initial_state")}
    expected = state_space_duality(**needed, **zeros, backend="reference")
    torch.testing.assert_close(state_space_duality(**needed, chunk_size=8), expected)


def test_gradients_are_only_made_for_what_wants_them():
    operands = {name: x.detach() for name, x in draw_operands().items()}
    operands["B"].requires_grad_()
    state_space_duality(**operands, chunk_size=8).sum().backward()
    assert operands["B"].grad is not None
    assert all(x.grad is None for name, x in operands.items() if name != "B")


# Memory.


def test_blocks_are_whole_chunks_and_a_rest():
    blocks = chunked.plan_blocks(seq_len=37, chunk_size=4, widest=3)
    assert blocks == [(0, 12, 4), (12, 24, 4), (24, 36, 4), (36, 37, 1)]
    assert chunked.plan_blocks(5, chunk_size=8, widest=3) == [(0, 5, 5)]
    # Not 500 chunks at once: they would meet in 500 x 500 decays.
    assert chunked.plan_blocks(1000, chunk_size=2, widest=10**6)[0] == (0, 4, 2)


def test_what_is_kept_for_the_backward_is_inputs_and_a_state_a_block(monkeypatch):
    """Four chunks a block."""
    monkeypatch.setitem(chunked.BLOCK_ELEMENTS, "cpu", 4 * 64 * 64)
    operands = draw_operands(batch=1, seq_len=512, heads=1, groups=1, dtype=torch.float32)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        state_space_duality(**operands, chunk_size=64)
    given = {x.data_ptr() for x in operands.values()}
    sizes = [x.untyped_storage().nbytes() for x in kept if x.data_ptr() not in given]
    state_bytes = operands["initial_state"].nbytes
    assert sizes == [state_bytes, state_bytes]


# The way in.


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": torch.zeros(2, 20, 4)}, ValueError, r"x must be \(B, L, H, P\) with no size of 0"),
        ({"dt": torch.zeros(2, 20, 3)}, ValueError, r"dt must be \(2, 20, 4\) to fit x"),
        ({"A": torch.zeros(4, 5)}, ValueError, r"A must be \(4,\) to fit x"),
        ({"B": torch.zeros(2, 20, 5)}, ValueError, r"B must be \(2, 20, 'groups', 'N'\), got"),
        ({"C": torch.zeros(2, 20, 2, 4)}, ValueError, r"C must be \(2, 20, 2, 5\) to fit"),
        ({"D": torch.zeros(5)}, ValueError, r"D must be \(4,\) or \(4, 3\), got \(5,\)"),
        ({"dt_bias": torch.zeros(1)}, ValueError, r"dt_bias must be \(4,\) to fit"),
        ({"initial_state": torch.zeros(2, 4, 5, 3)}, ValueError, r"initial_state must be \(2, 4, "),
        ({"A": torch.zeros(4, dtype=torch.int64)}, TypeError, "A must be real floating, got torch"),
        ({"D": torch.zeros(4, device="meta")}, ValueError, "D is on meta, x on cpu; move one"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be >= 1, got 0"),
        ({"dt_limit": (1.0, 0.5)}, ValueError, r"dt_limit must be \(smallest, largest\), got"),
        ({"backend": "triton"}, ValueError, "backend must be one of auto, chunked, reference, got"),
    ],
)  # fmt: skip
def test_operands_that_do_not_fit_are_refused(changes, error, message):
    with pytest.raises(error, match=f"state_space_duality: {message}"):
        state_space_duality(**{**draw_operands(), **changes})


def test_groups_must_divide_the_heads():
    three = torch.zeros(2, 20, 3, 5)
    with pytest.raises(ValueError, match="the 3 groups of B must divide the 4 heads"):
        state_space_duality(**{**draw_operands(), "B": three, "C": three})


def test_backends_have_one_signature():
    for backend in op.BACKENDS:
        assert inspect.signature(backend.run) == inspect.signature(reference.state_space_duality)


# The official code's numbers.

CASES = ["g1", "g2_odd", "L1", "dt_limit", "D_hp_no_z"]
OVER_TIME = ("x", "dt", "B", "C", "z")


def run_golden(tensors: dict[str, Tensor], case: dict, **options: object) -> tuple[Tensor, Tensor]:
    """The item's out and last state: here the gate is not part of the op."""
    tensors = dict(tensors)
    z = tensors.pop("z", None)
    limit = case.get("dt_limit")
    out, state = state_space_duality(
        **tensors, dt_softplus=True, dt_limit=tuple(limit) if limit else None,
        return_last_state=True, chunk_size=case["chunk"], **options,
    )  # fmt: skip
    return (out if z is None else out * functional.silu(z)), state


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_golden_outputs_states_and_gradients(backend, name, with_state, dtype):
    golden = load_golden("ssd_a")
    case, expected = golden.info["cases"][name], golden.group(f"{name}/out_f64")
    given = {key: x.to(dtype) for key, x in golden.group(f"{name}/in").items()}
    weights = [given.pop("w_out"), given.pop("w_state")]
    if not with_state:
        del given["initial_state"]
    given = {key: x.requires_grad_() for key, x in given.items()}
    results = run_golden(given, case, backend=backend)
    suffix = "_with_initial_state" if with_state else ""
    state_name = f"final_state{suffix or '_from_zero'}"
    tolerance = {
        torch.float64: {"rtol": 1e-9, "atol": 1e-12}, torch.float32: TOLERANCES[torch.float32]
    }[dtype]  # fmt: skip
    assert_close(results[0], expected[f"out{suffix}"], **tolerance, what="out")
    assert_close(results[1], expected[state_name], **tolerance, what=state_name)
    loss = (weights[0] * results[0]).sum()
    if with_state:
        loss = loss + (weights[1] * results[1]).sum()
    of = "grad_outstate_with_initial_state_f64" if with_state else "grad_out_f64"
    gradients = golden.group(f"{name}/{of}")
    found = torch.autograd.grad(loss, [given[key] for key in gradients])
    for (key, gradient), one in zip(gradients.items(), found, strict=True):
        assert_close(one, gradient, **tolerance, what=f"gradient of {key}")


def test_golden_cases_are_all_compared():
    assert list(load_golden_json("ssd_a")["cases"]) == CASES
