"""One step of the selective scan: what the scan itself gives, from a state updated in place."""

import inspect
import logging

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from dnamamba.kernels import backend as backend_module
from dnamamba.kernels import selective_scan, selective_scan_step
from golden_files import Golden, assert_close, load_golden

# Relative to each entry and to the largest. float64: sums in another order; float32: 2^-24 an
# operation.
TOLERANCES = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-12},
    torch.float32: {"rtol": 2e-6, "atol": 2e-6},
}

TIMED = ("u", "delta", "B", "C", "z")


def draw_operands(
    batch: int = 2,
    channels: int = 6,
    d_state: int = 4,
    groups: int | None = None,
    dtype: torch.dtype = torch.float64,
    seq_len: int | None = None,
) -> dict[str, Tensor]:
    """Operands of one step, or of a sequence; the state is that before it."""
    generator = torch.Generator().manual_seed(11)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    time = () if seq_len is None else (seq_len,)
    middle = () if groups is None else (groups,)
    return {
        "u": draw(batch, *time, channels),
        "delta": draw(batch, *time, channels) - 1,
        "A": -draw(channels, d_state).exp(),
        "B": draw(batch, *time, *middle, d_state),
        "C": draw(batch, *time, *middle, d_state),
        "D": draw(channels),
        "z": draw(batch, *time, channels),
        "delta_bias": draw(channels),
        "state": draw(batch, channels, d_state).to(torch.promote_types(dtype, torch.float32)),
    }


def scan_one_step(operands: dict[str, Tensor], **options: object) -> tuple[Tensor, Tensor]:
    """The same by the definition of the whole scan in float64: output and new state."""
    wide = {
        name: tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
        for name, tensor in operands.items()
    }
    wide = {name: t.unsqueeze(1) if name in TIMED else t for name, t in wide.items()}
    state = wide.pop("state")
    options = {**options, "return_last_state": True, "backend": "reference"}
    out, last_state = selective_scan(**wide, **options, initial_state=state)
    return out.squeeze(1), last_state


def check(operands: dict[str, Tensor], **options: object) -> None:
    options = {"delta_softplus": True, **options}
    expected, expected_state = scan_one_step(operands, **options)
    out = selective_scan_step(**operands, **options)
    assert out.dtype == operands["u"].dtype
    tolerance = TOLERANCES[out.dtype]
    assert_close(out, expected, **tolerance, what="y")
    assert_close(operands["state"], expected_state, **tolerance, what="state")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("groups", [None, 1, 2, 6])
@pytest.mark.parametrize(("batch", "d_state"), [(1, 1), (3, 5), (2, 16), (1, 70)])
def test_step_is_one_step_of_the_scan(batch, d_state, groups, dtype):
    check(draw_operands(batch, 6, d_state, groups, dtype))


@pytest.mark.parametrize("missing", ["D", "z", "delta_bias", "all"])
@pytest.mark.parametrize("delta_softplus", [False, True])
def test_step_without_optional_operands(missing, delta_softplus):
    operands = draw_operands()
    for name in ("D", "z", "delta_bias"):
        if missing in (name, "all"):
            del operands[name]
    check(operands, delta_softplus=delta_softplus)


@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_step_with_complex_A(dtype, groups):
    operands = draw_operands(groups=groups, dtype=dtype.to_real())
    for name in ("A", "B", "C", "state"):
        operands[name] = torch.complex(operands[name], operands[name].flip(-1))
    check(operands)


def test_step_with_different_groups_for_B_and_C():
    operands = draw_operands(groups=2)
    operands["C"] = draw_operands(groups=3)["C"]
    check(operands)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_step_rounds_half_precision_once_and_keeps_a_float32_state(dtype):
    """Also under autocast. Operands are widened exactly; only the result is rounded."""
    narrow = draw_operands(dtype=dtype)
    wide = {name: tensor.to(torch.float32, copy=True) for name, tensor in narrow.items()}
    with torch.autocast("cpu", torch.bfloat16):
        out = selective_scan_step(**narrow, delta_softplus=True)
    expected = selective_scan_step(**wide, delta_softplus=True)
    assert torch.equal(out, expected.to(dtype))
    assert torch.equal(narrow["state"], wide["state"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_steps_one_after_another_are_the_scan(dtype):
    operands = draw_operands(2, 6, 4, dtype=dtype, seq_len=40)
    state = operands.pop("state")
    whole, last_state = selective_scan(
        **operands, delta_softplus=True, initial_state=state, return_last_state=True
    )
    outs = []
    for t in range(40):
        step = {name: x[:, t] if name in TIMED else x for name, x in operands.items()}
        outs.append(selective_scan_step(**step, delta_softplus=True, state=state))
    tolerance = TOLERANCES[dtype]
    assert_close(torch.stack(outs, 1), whole, **tolerance, what="y")
    assert_close(state, last_state, **tolerance, what="state")


def test_step_takes_views_of_projections_and_a_state_of_any_strides():
    operands = draw_operands()
    expected = {name: tensor.clone() for name, tensor in operands.items()}
    expected_out = selective_scan_step(**expected)
    operands["u"], operands["z"] = torch.cat([operands["u"], operands["z"]], -1).chunk(2, -1)
    operands["B"], operands["C"] = torch.cat([operands["B"], operands["C"]], -1).chunk(2, -1)
    operands["state"] = operands["state"].permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert torch.equal(selective_scan_step(**operands), expected_out)
    assert torch.equal(operands["state"], expected["state"])


def test_step_changes_the_state_and_nothing_else():
    operands = draw_operands()
    before = {name: tensor.clone() for name, tensor in operands.items()}
    place = operands["state"].data_ptr()
    selective_scan_step(**operands, delta_softplus=True)
    assert operands["state"].data_ptr() == place
    changed = {name for name, tensor in operands.items() if not torch.equal(tensor, before[name])}
    assert changed == {"state"}


def test_step_of_parameters_without_gradients_wanted():
    operands = draw_operands()
    operands["A"] = torch.nn.Parameter(operands["A"])
    with torch.no_grad():
        assert not selective_scan_step(**operands).requires_grad
    with pytest.raises(RuntimeError, match=r"A requires grad: .*no_grad.*use selective_scan$"):
        selective_scan_step(**operands)


def test_step_sees_fake_tensors():
    with FakeTensorMode() as mode:
        fake = {name: mode.from_tensor(tensor) for name, tensor in draw_operands().items()}
        assert selective_scan_step(**fake).shape == (2, 6)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"u": torch.zeros(2, 1, 6)}, ValueError, r"u must be \(B, D\) with no size of 0"),
        ({"A": torch.zeros(5, 4)}, ValueError, r"A must be \(D, N\) with D = 6 .* got \(5, 4\)"),
        ({"z": torch.zeros(2, 5)}, ValueError, r"z must be \(2, 6\) to fit u \(2, 6\), got \(2, 5"),
        ({"D": torch.zeros(5)}, ValueError, r"D must be \(6,\) to fit u"),
        ({"B": torch.zeros(2, 3)}, ValueError, r"B must be \(2, 4\) or \(2, 'groups', 4\), got"),
        ({"C": torch.zeros(2, 4, 4)}, ValueError, "the 4 groups of C must divide the 6 channels"),
        ({"state": torch.zeros(2, 6, 5)}, ValueError, r"state must be \(2, 6, 4\) to fit u"),
        (
            {"state": torch.zeros(1, 6, 4).expand(2, 6, 4)},
            ValueError,
            r"entries of state share memory.* give state.contiguous\(\)",
        ),
        (
            {"state": torch.zeros(2, 6, 4).bfloat16()},
            TypeError,
            r"state must be torch.float32 for u in torch.float32 .* got torch.bfloat16",
        ),
        ({"u": torch.zeros(2, 6).double()}, TypeError, "state must be torch.float64 for u in"),
        ({"delta": torch.zeros(2, 6).int()}, TypeError, "delta must be real floating, got torch.i"),
        ({"A": torch.zeros(6, 4).int()}, TypeError, "A must be floating, got torch.int32"),
        ({"B": torch.zeros(2, 4).cfloat()}, TypeError, "A is torch.float32, B is torch.complex64"),
        ({"D": torch.zeros(6, device="meta")}, ValueError, "D is on meta, u on cpu; move one"),
    ],
)  # fmt: skip
def test_wrong_operands_are_named_before_the_state_is_touched(changes, error, message):
    operands = draw_operands(dtype=torch.float32)
    before = operands["state"].clone()
    with pytest.raises(error, match=message):
        selective_scan_step(**{**operands, **changes})
    assert torch.equal(operands["state"], before)


def test_unknown_and_unable_backends_are_refused():
    operands = draw_operands(dtype=torch.float32)
    with pytest.raises(
        ValueError, match="backend must be one of auto, triton, reference, got 'cpu'"
    ):
        selective_scan_step(**operands, backend="cpu")
    with pytest.raises(RuntimeError, match="'triton' cannot run this: it needs a CUDA device"):
        selective_scan_step(**operands, backend="triton")
    with pytest.raises(RuntimeError, match="takes at most 64 states, A has 65"):
        selective_scan_step(**draw_operands(d_state=65, dtype=torch.float32), backend="triton")
    operands["A"], operands["B"] = operands["A"].cfloat(), operands["B"].cfloat()
    operands["C"], operands["state"] = operands["C"].cfloat(), operands["state"].cfloat()
    with pytest.raises(RuntimeError, match="A is complex; use backend='reference'"):
        selective_scan_step(**operands, backend="triton")


def test_auto_says_what_it_takes(caplog, monkeypatch):
    monkeypatch.setattr(backend_module, "_taken", {})
    with caplog.at_level(logging.INFO, logger="dnamamba.kernels"):
        selective_scan_step(**draw_operands())
    assert "selective_scan_step on cpu: auto takes 'reference' (plain PyTorch, a doz" in caplog.text


def test_step_has_the_scans_arguments():
    step = list(inspect.signature(selective_scan_step).parameters)
    scan = list(inspect.signature(selective_scan).parameters)
    assert [*scan[: scan.index("initial_state")], "state", "backend"] == step


# The official code's numbers.


def golden_step(golden: Golden, case: str, dtype: torch.dtype) -> tuple[dict[str, Tensor], ...]:
    """Operands and results; heads of channels, where there are any, side by side."""
    given = {name: x.to(dtype) for name, x in golden.group(f"{case}/in").items()}
    given["u"], given["delta"] = given.pop("x"), given.pop("dt")
    given["delta_bias"] = given.pop("dt_bias")
    expected = golden.group(f"{case}/out_f64")
    if given["u"].dim() == 3:
        given = {
            name: x if name in ("B", "C") else _without_heads(name, x) for name, x in given.items()
        }
        expected = {name: x.flatten(1, 2) for name, x in expected.items()}
    return given, expected


def _without_heads(name: str, x: Tensor) -> Tensor:
    return x.flatten(0, 1) if name in ("A", "D", "delta_bias") else x.flatten(1, 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("item", "case"),
    [("selective_scan_a", "step_mamba1"), ("selective_scan_b", "step_heads_groups")],
)
def test_golden_step(item, case, dtype):
    operands, expected = golden_step(load_golden(item), case, dtype)
    out = selective_scan_step(**operands, delta_softplus=True)
    tolerance = TOLERANCES[dtype]
    assert_close(out, expected["out"], **tolerance, what="out")
    assert_close(operands["state"], expected["state"], **tolerance, what="state")
