"""The long convolution: FFTs against the definition, gradients, and what memory it keeps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dnamamba.kernels import long_conv
from dnamamba.kernels.longconv import fft
from golden_files import assert_close

GATES = ("bias", "gate_in", "gate_out")


def draw_operands(
    batch: int = 2,
    seq_len: int = 9,
    channels: int = 3,
    dtype: torch.dtype = torch.float64,
    names: tuple[str, ...] = GATES,
) -> dict[str, Tensor]:
    """Operands that require gradients, the same on every call."""
    generator = torch.Generator().manual_seed(3)
    shapes = {
        "x": (batch, seq_len, channels),
        "filter": (seq_len, channels),
        "bias": (channels,),
        "gate_in": (batch, seq_len, channels),
        "gate_out": (batch, seq_len, channels),
    }
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    kept = {name: drawn[name].to(dtype) for name in ("x", "filter", *names)}
    return {name: tensor.requires_grad_() for name, tensor in kept.items()}


def gradients(y: Tensor, operands: dict[str, Tensor]) -> dict[str, Tensor]:
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    found = torch.autograd.grad((y * weights).sum(), list(operands.values()))
    return dict(zip(operands, found, strict=True))


def test_the_definition_written_out():
    operands = draw_operands(batch=1, seq_len=3, channels=1)
    x, k, b, g, h = (tensor.flatten() for tensor in operands.values())
    u = g * x
    expected = h * torch.cat(
        [
            k[0] * u[0] + b * u[0],
            k[0] * u[1] + k[1] * u[0] + b * u[1],
            k[0] * u[2] + k[1] * u[1] + k[2] * u[0] + b * u[2],
        ]
    )
    for backend in ("reference", "fft"):
        torch.testing.assert_close(long_conv(**operands, backend=backend).flatten(), expected)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    seq_len=st.integers(1, 70),
    channels=st.integers(1, 5),
    names=st.sets(st.sampled_from(GATES)).map(lambda chosen: tuple(sorted(chosen))),
    block=st.sampled_from([1, 300, 1 << 20]),
)
def test_fft_equals_the_definition(batch, seq_len, channels, names, block):
    """block: so that channels go one by one, a few at a time and all at once."""
    operands = draw_operands(batch, seq_len, channels, names=names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(fft._BLOCK, "cpu", block)
        found = long_conv(**operands)
        d_found = gradients(found, operands)
    expected = long_conv(**operands, backend="reference")
    assert_close(found, expected, rtol=0, atol=1e-12, what="y")
    for name, gradient in gradients(expected, operands).items():
        assert_close(d_found[name], gradient, rtol=0, atol=1e-12, what=f"gradient of {name}")


@pytest.mark.parametrize("names", [(), ("bias",), ("gate_in",), ("gate_out",), GATES])
@pytest.mark.parametrize("seq_len", [1, 2, 7])
def test_gradcheck(seq_len, names):
    operands = draw_operands(seq_len=seq_len, channels=2, names=names)
    keys = list(operands)
    assert torch.autograd.gradcheck(
        lambda *tensors: long_conv(**dict(zip(keys, tensors, strict=True))),
        tuple(operands.values()),
    )


@pytest.mark.parametrize("name", ["x", "filter", *GATES])
def test_only_the_gradients_that_are_asked_for_are_made(name):
    operands = draw_operands()
    expected = gradients(long_conv(**operands), operands)[name]
    alone = {key: tensor.detach() for key, tensor in operands.items()}
    alone[name].requires_grad_()
    y = long_conv(**alone)
    assert torch.equal(gradients(y, {name: alone[name]})[name], expected)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_narrow_operands_are_summed_in_float32(dtype, tolerance):
    operands = draw_operands(seq_len=300, dtype=dtype)
    widened = {k: v.detach().double().requires_grad_() for k, v in operands.items()}
    found, expected = long_conv(**operands), long_conv(**widened, backend="reference")
    assert found.dtype == dtype
    assert_close(found, expected, rtol=0, atol=tolerance, what="y")
    wanted = gradients(expected, widened)
    for name, gradient in gradients(found, operands).items():
        assert gradient.dtype == dtype
        assert_close(gradient, wanted[name], rtol=0, atol=tolerance, what=f"gradient of {name}")


def test_a_float32_filter_of_bf16_inputs_is_not_rounded():
    operands = draw_operands(seq_len=50, dtype=torch.bfloat16, names=())
    k = torch.randn(50, 3, generator=torch.Generator().manual_seed(5))
    widened = operands["x"].double()
    expected = long_conv(widened, k.double(), backend="reference")
    assert_close(long_conv(operands["x"], k), expected, rtol=2**-8, atol=1e-6, what="y")


@pytest.mark.parametrize("backend", ["fft", "reference"])
def test_a_window_multiplies_the_filter(backend):
    operands = draw_operands(seq_len=30)
    decay = torch.tensor([0.0, 0.1, 2.0], dtype=torch.float64)
    window = torch.exp(-decay * torch.arange(30).unsqueeze(1)) + 0.05
    by_hand = {**operands, "filter": operands["filter"] * window}
    found = long_conv(**operands, decay=decay, shift=0.05, backend=backend)
    expected = long_conv(**by_hand, backend=backend)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, operands), gradients(expected, operands))


def test_operands_may_be_views_of_a_projection():
    operands = draw_operands(dtype=torch.float32)
    expected = long_conv(**operands)
    names = ("x", "gate_in", "gate_out")
    together = torch.cat([operands[name] for name in names], -1)
    views = dict(zip(names, together.chunk(3, -1), strict=True))
    assert torch.equal(long_conv(**{**operands, **views}), expected)


def test_the_future_is_not_seen_beyond_rounding():
    operands = draw_operands(seq_len=64)
    changed = {**operands, "x": operands["x"].detach().clone()}
    changed["x"][:, 40:] = 1e3
    y, y_changed = long_conv(**operands), long_conv(**changed)
    # An FFT rounds like the largest entry.
    assert (y - y_changed)[:, :40].abs().max() < 1e-11


@pytest.mark.parametrize("seq_len", [*range(1, 200), 1026, 32_770, 160_002, 450_002, 1 << 20])
def test_transforms_are_long_enough_and_not_by_much(seq_len):
    n_points = fft.transform_length(seq_len)
    assert 2 * seq_len - 1 <= n_points <= max(2, 1.25 * (2 * seq_len - 1) + 2)
    odd = n_points >> ((n_points & -n_points).bit_length() - 1)
    assert odd in (1, 3, 5, 9, 15)


def test_nothing_but_the_operands_is_kept_for_the_backward():
    operands = draw_operands(seq_len=100)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda nothing: nothing):
        long_conv(**operands)
    pointers = {tensor.data_ptr() for tensor in kept}
    assert pointers == {tensor.data_ptr() for tensor in operands.values()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(2, 9)}, r"x must be \(B, L, D\) with no size of 0, got \(2, 9\)"),
        (
            {"filter": torch.zeros(8, 3)},
            r"filter must be \(9, 3\) to fit x \(2, 9, 3\), got \(8, 3\)",
        ),
        ({"bias": torch.zeros(4)}, r"bias must be \(3,\) to fit .* got \(4,\)"),
        ({"gate_in": torch.zeros(2, 9, 1)}, r"gate_in must be \(2, 9, 3\) to fit"),
        (
            {"gate_out": torch.zeros(2, 9, 3).int()},
            "gate_out must be real floating, got torch.int32",
        ),
        ({"decay": torch.zeros(2)}, r"decay must be \(3,\) to fit .* got \(2,\)"),
        (
            {"decay": torch.zeros(3).requires_grad_()},
            r"decay must not require grad: give decay.detach",
        ),
        ({"bias": torch.zeros(3, device="meta")}, "bias is on meta, x on cpu; move one of them"),
        ({"backend": "cufft"}, "backend must be one of auto, triton, fft, reference, got 'cufft'"),
    ],
)
def test_operands_that_do_not_fit_are_refused(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        long_conv(**{**draw_operands(), **changes})


@pytest.mark.gpu
@pytest.mark.parametrize("seq_len", [1, 1000, 1026, 1 << 17])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_gpu_equals_float64_on_the_cpu(dtype, tolerance, seq_len):
    operands = draw_operands(seq_len=seq_len, dtype=dtype)
    widened = {k: v.detach().double().requires_grad_() for k, v in operands.items()}
    on_gpu = {k: v.detach().cuda().requires_grad_() for k, v in operands.items()}
    found, expected = long_conv(**on_gpu), long_conv(**widened)
    assert_close(found.cpu(), expected, rtol=0, atol=tolerance, what="y")
    wanted = gradients(expected, widened)
    d_y = torch.linspace(-1, 2, found.numel(), dtype=torch.float64).view_as(found)
    found.backward(d_y.to(found))
    for name, gradient in wanted.items():
        assert_close(on_gpu[name].grad.cpu(), gradient, rtol=0, atol=tolerance, what=name)


@pytest.mark.gpu
def test_gpu_memory_at_a_million_positions():
    """256 channels in bf16: 2.5 GiB of operands, as much of their gradients, and little more."""
    shape = (1, 1 << 20, 256)
    x, gate_in, gate_out = (
        torch.randn(shape, device="cuda", dtype=torch.bfloat16).requires_grad_() for _ in range(3)
    )
    taps = torch.randn(shape[1:], device="cuda").requires_grad_()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    y = long_conv(x, taps, None, gate_in, gate_out)
    y.backward(torch.ones_like(y))
    # y, the same before its gate, its gradient and those of four operands, and a few channels'
    # transforms.
    results = sum(t.numel() * t.element_size() for t in (y, y, y, x, gate_in, gate_out, taps))
    assert torch.cuda.max_memory_allocated() - before < results + (5 << 29)


@pytest.mark.gpu
def test_gpu_passes_are_recorded_as_cuda_graphs():
    operands = {k: v.detach().cuda() for k, v in draw_operands(dtype=torch.float32).items()}
    operands = {name: tensor.requires_grad_() for name, tensor in operands.items()}
    weights = torch.randn(2, 9, 3, device="cuda")
    values = list(operands.values())

    def run() -> tuple[Tensor, ...]:
        return torch.autograd.grad((long_conv(**operands) * weights).sum(), values)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
        expected = run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()
    graph.replay()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["fft", "reference"])
def test_autocast_does_not_reach_inside(backend):
    draw = torch.Generator().manual_seed(0)
    x, filter = (torch.randn(*shape, generator=draw) for shape in ((1, 33, 3), (33, 3)))
    expected = long_conv(x, filter, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        found = long_conv(x, filter, backend=backend)
    assert torch.equal(found, expected)
