"""The long convolution's Triton kernels, with torch's FFTs between them, against the definition."""

import pytest
import torch

from dnamamba.kernels import long_conv
from dnamamba.kernels.longconv.reference import ConvOperands
from dnamamba.kernels.longconv.reference import long_conv as definition
from golden_files import assert_close
from triton_cases import (
    DEVICE,
    TRITON_TEST,
    Draw,
    Named,
    assert_all_close,
    assert_identical,
    assert_nothing_spills,
    compile_for_an_h100,
    outputs_and_gradients,
)

pytest.importorskip("triton", reason="needs triton")
gpu = pytest.importorskip(
    "dnamamba.kernels.longconv.gpu", reason="needs triton", exc_type=ImportError
)

pytestmark = TRITON_TEST


def gpu_conv(**given):
    return gpu.long_conv(ConvOperands(**given))


def reference_conv(**given):
    return definition(ConvOperands(**given))


FLOAT32 = {"rtol": 0.0, "atol": 2e-6}
"""Of the largest entry, as FFTs round."""

BFLOAT16 = {"rtol": 2**-6, "atol": 1e-5}
"""The output before gate_out is kept rounded, and its product with a gradient is rounded again."""


def draw_operands(
    batch: int, seq_len: int, channels: int, dtype: torch.dtype = torch.float32
) -> Named:
    """x and the gates are thirds of one projection, as in the Hyena block."""
    draw = Draw(seed=seq_len, dtype=dtype)
    gate_out, gate_in, x = draw(batch, seq_len, 3 * channels).chunk(3, -1)
    return {
        "x": x,
        "filter": draw(seq_len, channels, dtype=torch.float32) / seq_len**0.5,
        "bias": draw(channels, dtype=torch.float32),
        "gate_in": gate_in,
        "gate_out": gate_out,
    }


def check(operands: Named, tolerance: dict[str, float], **options: object) -> None:
    found = outputs_and_gradients(gpu_conv, operands, **options)
    expected = outputs_and_gradients(reference_conv, operands, dtype=torch.float64, **options)
    assert_all_close(found, expected, **tolerance)


@pytest.mark.parametrize(
    ("batch", "seq_len", "channels"),
    [(1, 1, 1), (2, 2, 3), (1, 31, 5), (3, 33, 2), (2, 64, 65), (1, 130, 3)],
)
def test_every_length_and_width(batch, seq_len, channels):
    check(draw_operands(batch, seq_len, channels), FLOAT32)


@pytest.mark.parametrize(
    "without",
    [
        ("bias",),
        ("gate_in",),
        ("gate_out",),
        ("bias", "gate_in"),
        ("gate_in", "gate_out"),
        ("bias", "gate_in", "gate_out"),
    ],
    ids=" ".join,
)
def test_without_what_is_optional(without):
    check({**draw_operands(2, 35, 3), **dict.fromkeys(without)}, FLOAT32)


@pytest.mark.parametrize("kept", [0, 1 << 30])
@pytest.mark.parametrize("points", [1, 200, 1 << 20])
def test_blocks_of_channels_with_spectra_kept_and_made_again(monkeypatch, points, kept):
    """One channel at a time, a few, and all at once."""
    monkeypatch.setattr(gpu, "BLOCK_POINTS", points)
    monkeypatch.setattr(gpu, "KEPT_BYTES", kept)
    check(draw_operands(2, 37, 5), FLOAT32)


def test_the_filters_window():
    operands = draw_operands(2, 70, 5)
    decay = torch.linspace(0, 0.2, 5, dtype=torch.float64, device=DEVICE)
    check(operands, FLOAT32, decay=decay, shift=0.05)


def test_a_filter_with_time_side_by_side_gets_such_a_gradient():
    operands = draw_operands(1, 37, 5)
    expected = outputs_and_gradients(gpu_conv, operands)
    turned = {**operands, "filter": operands["filter"].t().contiguous().t()}
    found = outputs_and_gradients(gpu_conv, turned)
    assert_identical(found, expected)
    assert found["d filter"].stride() == turned["filter"].stride()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_computed_in_float32(dtype):
    check(draw_operands(2, 37, 33, dtype=dtype), BFLOAT16)


def test_operands_and_gradients_of_any_strides():
    operands = draw_operands(2, 9, 5)
    expected = outputs_and_gradients(gpu_conv, operands)
    turned = dict(operands)
    for name in ("x", "gate_in", "gate_out"):
        turned[name] = operands[name].mT.contiguous().mT
    turned["bias"] = operands["bias"].repeat_interleave(2)[::2]
    assert_identical(outputs_and_gradients(gpu_conv, turned), expected)
    x = operands["x"].detach().requires_grad_()
    (found,) = torch.autograd.grad(gpu_conv(**{**operands, "x": x}).sum(), [x])
    (wanted,) = torch.autograd.grad(reference_conv(**{**operands, "x": x}).sum(), [x])
    assert_close(found, wanted, **FLOAT32, what="gradient of an expanded sum")


@pytest.mark.parametrize("name", ["x", "filter", "bias", "gate_in", "gate_out"])
def test_one_operand_alone_has_the_same_gradient(name):
    operands = draw_operands(2, 35, 3)
    expected = outputs_and_gradients(gpu_conv, operands)[f"d {name}"]
    leaf = operands[name].detach().requires_grad_()
    out = gpu_conv(**{**operands, name: leaf})
    d_out = Draw(seed=1)(*out.shape).bfloat16().to(out)
    assert torch.equal(torch.autograd.grad(out, leaf, d_out)[0], expected)


def test_two_runs_are_identical():
    operands = draw_operands(3, 65, 16, dtype=torch.bfloat16)
    assert_identical(*(outputs_and_gradients(gpu_conv, operands) for _ in "12"))


@pytest.mark.parametrize("kept", [0, 1 << 30])
def test_what_is_kept_for_the_backward(monkeypatch, kept):
    monkeypatch.setattr(gpu, "KEPT_BYTES", kept)
    operands = draw_operands(2, 37, 5, dtype=torch.bfloat16)
    stored = {tensor.untyped_storage().data_ptr() for tensor in operands.values()}
    operands["x"].requires_grad_()
    beside: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in stored:
            beside.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        gpu_conv(**operands)
    assert len(beside) == (3 if kept else 1)
    sums, *spectra = beside
    assert (sums.shape, sums.dtype) == ((2, 37, 5), torch.bfloat16)
    assert [s.shape for s in spectra] == ([(2, 5, 40), (5, 40)] if kept else [])
    assert sum(s.nbytes for s in spectra) in (0, 8 * 3 * 5 * 40)


def test_spectra_are_kept_up_to_a_gibibyte():
    assert gpu.keeps_spectra(1, 1 << 17, 256)
    assert not gpu.keeps_spectra(1, 1 << 20, 256)
    beside: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(beside.append, lambda nothing: nothing):
        gpu_conv(**draw_operands(1, 5, 2))
    assert not beside, "nothing is kept where nothing needs a gradient"


@pytest.mark.slow
def test_kernels_compile_for_an_h100_into_registers():
    """Types that the interpreter does not check; nothing spills."""
    found = compile_for_an_h100("compile_longconv.py")
    assert len(found) == 12
    assert_nothing_spills(found)


@pytest.mark.skipif(DEVICE == "cuda", reason="says what happens without a CUDA device")
def test_tensors_of_the_cpu_are_refused():
    with pytest.raises(RuntimeError, match="needs a CUDA device, the tensors are on cpu"):
        long_conv(**draw_operands(1, 9, 2), backend="triton")


@pytest.mark.gpu
def test_auto_takes_the_kernels_and_what_they_refuse_goes_elsewhere():
    operands = draw_operands(1, 100, 8)
    expected = gpu_conv(**operands)
    assert torch.equal(long_conv(**operands), expected)
    assert torch.equal(long_conv(**operands, backend="triton"), expected)
    wide = {name: tensor.double() for name, tensor in operands.items()}
    with pytest.raises(RuntimeError, match="it takes float32, bfloat16 and float16"):
        long_conv(**wide, backend="triton")
    assert_close(long_conv(**wide), expected.double(), **FLOAT32, what="y")


@pytest.mark.gpu
def test_more_than_two_billion_elements():
    """The last sequence of many is as alone."""
    batch, seq_len, channels = 2**31 // (4096 * 128) + 2, 4096, 128
    operands = draw_operands(1, seq_len, channels, dtype=torch.bfloat16)
    expected = gpu_conv(**operands)
    x = torch.zeros(batch, seq_len, channels, dtype=torch.bfloat16, device=DEVICE)
    x[-1:] = operands["x"]
    many = {name: operands[name].expand(batch, -1, -1) for name in ("gate_in", "gate_out")}
    out = gpu_conv(**{**operands, **many, "x": x})
    assert_close(out[-1:].float(), expected.float(), rtol=2**-8, atol=1e-5, what="y")
