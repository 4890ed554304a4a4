"""The short causal convolution against torch's own, and its states."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dnamamba.kernels import causal_conv1d
from dnamamba.kernels.conv import cpu
from golden_files import assert_close


def draw_operands(
    batch: int = 2,
    seq_len: int = 9,
    channels: int = 5,
    d_conv: int = 4,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Operands that require gradients, the same on every call."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    operands = {
        "x": draw(batch, seq_len, channels),
        "weight": draw(channels, d_conv),
        "bias": draw(channels),
        "initial_state": draw(batch, d_conv - 1, channels),
    }
    return {name: tensor.requires_grad_() for name, tensor in operands.items()}


def convolve_with_torch(operands: dict[str, Tensor], activation: str | None) -> Tensor:
    """The same by `conv1d` over all inputs, those before the first included."""
    weight = operands["weight"]
    inputs = torch.cat([operands["initial_state"], operands["x"]], 1).mT
    out = functional.conv1d(
        inputs, weight.unsqueeze(1), operands["bias"], groups=weight.shape[0]
    ).mT
    return functional.silu(out) if activation else out


def gradients(out: Tensor, operands: dict[str, Tensor]) -> tuple[Tensor, ...]:
    # Not symmetric about 0: the bias's gradient, their sum, would be what rounding leaves of it.
    weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
    return torch.autograd.grad((out * weights).sum(), list(operands.values()))


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("d_conv", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("seq_len", [1, 2, 3, 64, 65])
def test_reference_equals_torch(seq_len, d_conv, activation):
    operands = draw_operands(seq_len=seq_len, d_conv=d_conv)
    found = causal_conv1d(**operands, activation=activation)
    expected = convolve_with_torch(operands, activation)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, operands), gradients(expected, operands))


def assert_cpu_equals_reference(operands: dict[str, Tensor], **options: object) -> None:
    """float32 in, compared with plain PyTorch on the very same numbers in float64."""
    rounded = {k: v.detach().float().requires_grad_() for k, v in operands.items()}
    widened = {k: v.detach().double().requires_grad_() for k, v in rounded.items()}
    found = causal_conv1d(**rounded, backend="cpu", **options)
    expected = causal_conv1d(**widened, backend="reference", **options)
    # Rounding, 2^-24 an operation, and sums over time and batch.
    tolerance = {"rtol": 1e-4, "atol": 1e-5}
    assert_close(found, expected, **tolerance, what="y")
    pairs = zip(gradients(found, rounded), gradients(expected, widened), strict=True)
    for name, (gradient, wanted) in zip(rounded, pairs, strict=True):
        if wanted.numel():  # one tap has no history
            assert_close(gradient, wanted, **tolerance, what=f"gradient of {name}")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("d_conv", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("seq_len", [1, 2, 3, 64, 65, 300])
def test_cpu_equals_reference(seq_len, d_conv, activation, reverse):
    operands = draw_operands(seq_len=seq_len, d_conv=d_conv, channels=7)
    assert_cpu_equals_reference(operands, activation=activation, reverse=reverse)


@pytest.mark.parametrize("channels", [1, 8, 16, 31, 33, 96, 512])
def test_cpu_any_number_of_channels(channels):
    assert_cpu_equals_reference(draw_operands(channels=channels, seq_len=20), activation="silu")


def test_cpu_without_bias_and_state_equals_reference():
    operands = draw_operands()
    assert_cpu_equals_reference({name: operands[name] for name in ("x", "weight")})


def test_cpu_long_sequence_sums_without_losing_digits():
    assert_cpu_equals_reference(draw_operands(1, 4097, 3), activation="silu")


def test_cpu_takes_views_of_a_projection():
    operands = {k: v.detach() for k, v in draw_operands(dtype=torch.float32).items()}
    expected = causal_conv1d(**operands, backend="cpu")
    both = torch.cat([operands["x"], operands["x"] + 1], -1)
    operands["x"] = both.chunk(2, -1)[0]
    assert torch.equal(causal_conv1d(**operands, backend="cpu"), expected)


def test_cpu_writes_every_entry_and_does_not_depend_on_threads():
    """Fresh memory is NaN here."""
    operands = draw_operands(3, 70, 40, dtype=torch.float32)
    n_threads, results = torch.get_num_threads(), []
    torch.use_deterministic_algorithms(True)
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            out = causal_conv1d(**operands, activation="silu", backend="cpu")
            results.append([out, *gradients(out, operands)])
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(n_threads)
    for other in results:
        for value, first in zip(other, results[0], strict=True):
            assert value.isfinite().all()
            assert torch.equal(value, first)


def test_cpu_refuses_what_it_cannot_compute(monkeypatch):
    operands = {k: v.detach() for k, v in draw_operands().items()}
    with pytest.raises(RuntimeError, match="'cpu' cannot run this: it computes in float32"):
        causal_conv1d(**operands, backend="cpu")
    operands = {k: v.detach() for k, v in draw_operands(d_conv=9, dtype=torch.float32).items()}
    with pytest.raises(RuntimeError, match="up to 8 taps, weight has 9"):
        causal_conv1d(**operands, backend="cpu")
    monkeypatch.setattr(cpu, "why_no_host", lambda: "llvmlite is not installed")
    operands = {k: v.detach() for k, v in draw_operands(dtype=torch.float32).items()}
    with pytest.raises(RuntimeError, match="llvmlite is not installed"):
        causal_conv1d(**operands, backend="cpu")


def test_causal_conv1d_gradients_match_finite_differences():
    operands = draw_operands(seq_len=3, channels=2)

    def convolve(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        named = dict(zip(operands, tensors, strict=True))
        return causal_conv1d(**named, activation="silu", return_last_state=True)

    assert torch.autograd.gradcheck(convolve, tuple(operands.values()))


def test_causal_conv1d_of_an_impulse_is_the_kernel_read_backwards():
    x = torch.zeros(1, 6, 1)
    x[0, 2] = 1
    out = causal_conv1d(x, torch.tensor([[1.0, 2.0, 3.0]]))
    assert out[0, :, 0].tolist() == [0, 0, 3, 2, 1, 0]
    out = causal_conv1d(x, torch.tensor([[1.0, 2.0, 3.0]]), reverse=True)
    assert out[0, :, 0].tolist() == [1, 2, 3, 0, 0, 0]


def test_causal_conv1d_without_bias_and_state():
    operands = draw_operands()
    x, weight = operands["x"].detach(), operands["weight"].detach()
    zeros = {"bias": torch.zeros(5).double(), "initial_state": torch.zeros(2, 3, 5).double()}
    assert torch.equal(causal_conv1d(x, weight), causal_conv1d(x, weight, **zeros))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [(5, 4), (1, 8), (1, 1, 1, 6), (8, 1)])
def test_causal_conv1d_goes_on_from_a_state(lengths, reverse, dtype):
    operands = {name: tensor.detach() for name, tensor in draw_operands(dtype=dtype).items()}
    options = {"activation": "silu", "return_last_state": True, "reverse": reverse}
    whole, whole_state = causal_conv1d(**operands, **options)
    parts, outs = operands["x"].split(lengths, 1), []
    state = operands["initial_state"]
    for x in reversed(parts) if reverse else parts:
        out, state = causal_conv1d(**{**operands, "x": x, "initial_state": state}, **options)
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs[::-1] if reverse else outs, 1), whole)
    assert torch.equal(state, whole_state)


def test_causal_conv1d_state_shorter_than_the_kernel_starts_with_zeros():
    x, weight = torch.ones(1, 2, 1), torch.ones(1, 5)
    _, state = causal_conv1d(x, weight, return_last_state=True)
    assert state[0, :, 0].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("d_conv", [1, 4])
@pytest.mark.parametrize("reverse", [False, True])
def test_causal_conv1d_state_does_not_keep_the_inputs_alive(d_conv, reverse):
    operands = draw_operands(seq_len=1000, d_conv=d_conv)
    _, state = causal_conv1d(**operands, return_last_state=True, reverse=reverse)
    assert state.untyped_storage().nbytes() == state.numel() * state.element_size()


def test_causal_conv1d_computes_bf16_in_float32():
    operands = {name: t.detach() for name, t in draw_operands(dtype=torch.bfloat16).items()}
    widened = {name: tensor.float() for name, tensor in operands.items()}
    out = causal_conv1d(**operands, activation="silu")
    assert torch.equal(out, causal_conv1d(**widened, activation="silu").bfloat16())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(2, 9)}, r"x must be \(B, L, D\)"),
        ({"x": torch.zeros(2, 0, 5)}, "with no size of 0"),
        (
            {"weight": torch.zeros(4, 5)},
            r"weight must be \(D, K\) with D = 5 as in x, got \(4, 5\)",
        ),
        ({"bias": torch.zeros(4)}, r"bias must be \(5,\) to fit x \(2, 9, 5\), got \(4,\)"),
        ({"activation": "relu"}, "activation must be None or 'silu', got 'relu'"),
        ({"initial_state": torch.zeros(2, 4, 5)}, r"initial_state must be \(2, 3, 5\)"),
    ],
)
def test_wrong_operands_are_named(changes, message):
    operands = {name: tensor.detach().float() for name, tensor in draw_operands().items()}
    with pytest.raises(ValueError, match=message):
        causal_conv1d(**{**operands, **changes})
