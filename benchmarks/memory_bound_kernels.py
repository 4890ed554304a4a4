"""The convolution's and add + norm's kernels on this GPU: right against float64, then how fast.

    python benchmarks/memory_bound_kernels.py --json memory-bound-h100.json
    python benchmarks/memory_bound_kernels.py --sweep

Both move every number once, so their speed is a share of the bandwidth of a copy, measured in the
same run. --sweep times other settings of the kernels than those they ship with. Stops with exit
code 1 where a result is wrong. About half a minute (--sweep: two minutes), 40 GiB at most.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnamamba.bench.checks import worst_error
from dnamamba.bench.floors import measure_copy
from dnamamba.bench.results import describe_setup
from dnamamba.bench.timing import median_ms
from dnamamba.kernels import add_norm, causal_conv1d
from dnamamba.kernels.conv import gpu as conv_gpu
from dnamamba.kernels.conv import reference as conv_reference
from dnamamba.kernels.norm import gpu as norm_gpu
from dnamamba.kernels.norm import reference as norm_reference

# batch x seq_len x width. The convolution's width is d_inner, the norm's is half of it, d_model.
SHAPES = [(8, 131_072, 512), (1, 1_048_576, 512), (64, 16_384, 256), (8, 2_048, 1_536)]
DTYPE = torch.bfloat16
DEVICE = torch.device("cuda", 0)
# Error over the largest entry: results stored in bfloat16 are rounded by 2^-9 of themselves; sums
# over a million steps are float32.
LIMITS = {"bf16": 2**-8, "fp32": 1e-4}
SWEEP: list[tuple[Any, str, list[Any]]] = [
    (conv_gpu, "FORWARD_BYTES", [256, 512, 1024]),
    (conv_gpu, "BACKWARD_CHANNELS", [64, 128, 256]),
    (conv_gpu, "CHUNK_STEPS", [(32, 64), (32, 128), (32, 256), (32, 512), (32, 1024)]),
    (conv_gpu, "PROGRAMS", [4096, 8192, 16384]),
    (norm_gpu, "TILE", [1024, 2048, 4096, 8192]),
    (norm_gpu, "PROGRAMS", [1024, 2048, 8192, 32768]),
]


def draw(*shape: int, dtype: torch.dtype = DTYPE) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=dtype)


def draw_conv(batch: int, seq_len: int, channels: int) -> dict[str, Tensor]:
    """x as in the Mamba block: half of a projection's output."""
    return {
        "x": draw(batch, seq_len, 2 * channels)[..., :channels],
        "weight": draw(channels, 4, dtype=torch.float32),
        "bias": draw(channels, dtype=torch.float32),
        "d_out": draw(batch, seq_len, channels),
    }


def draw_norm(batch: int, seq_len: int, d_model: int) -> dict[str, Tensor]:
    rows = (batch, seq_len, d_model)
    return {
        "x": draw(*rows),
        "residual": draw(*rows, dtype=torch.float32),
        "weight": draw(d_model, dtype=torch.float32),
        "d_normed": draw(*rows),
        "d_total": draw(*rows, dtype=torch.float32),
    }


def run_conv_backward(o: dict[str, Tensor], d_x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return conv_gpu.backward(
        d_x, o["d_out"], None, o["x"], o["weight"], o["bias"], None, True, False
    )


def run_norm_backward(o: dict[str, Tensor], total: Tensor) -> tuple[Tensor, ...]:
    dtypes = (o["x"].dtype, o["residual"].dtype)
    return norm_gpu.backward(
        o["d_normed"], o["d_total"], total, o["weight"], None, 1e-5, True, *dtypes
    )


# --- right?


def check_conv(o: dict[str, Tensor]) -> dict[str, float]:
    """On some channels, which know nothing of the others, at every step."""
    out = causal_conv1d(o["x"], o["weight"], o["bias"], "silu", backend="triton")
    d_x = torch.full_like(o["d_out"], torch.nan)
    d_weight, d_bias, _ = run_conv_backward(o, d_x)
    channels = o["x"].shape[2]
    some = torch.tensor([0, 1, channels // 2, channels - 1], device="cuda")
    wide = {name: o[name].double() for name in ("weight", "bias")}
    x = o["x"][..., some].double().requires_grad_()
    leaves = [x, *(wide[name][some].requires_grad_() for name in ("weight", "bias"))]
    expected = conv_reference.causal_conv1d(*leaves, "silu")
    assert isinstance(expected, Tensor)
    gradients = torch.autograd.grad(expected, leaves, o["d_out"][..., some].double())
    return {
        "out": worst_error(out[..., some], expected.detach()),
        "d_x": worst_error(d_x[..., some], gradients[0]),
        "d_weight": worst_error(d_weight[some], gradients[1]),
        "d_bias": worst_error(d_bias[some], gradients[2]),
    }


def check_norm(o: dict[str, Tensor]) -> dict[str, float]:
    """In stretches of rows, which know nothing of the others but in the weight's gradient."""
    forward = (o["x"], o["residual"], o["weight"])
    normed, total = add_norm(*forward, out_dtype=DTYPE, backend="triton")
    d_x, d_residual, d_weight, _ = run_norm_backward(o, total)
    wide, worst = o["weight"].double().requires_grad_(), dict.fromkeys(("normed", "d_x"), 0.0)
    worst.update(total=0.0, d_residual=0.0)
    sums = torch.zeros_like(wide)
    found = {"normed": normed, "total": total, "d_x": d_x, "d_residual": d_residual}
    rows = {
        name: tensor.flatten(0, 1) for name, tensor in {**o, **found}.items() if tensor.dim() > 1
    }
    for start in range(0, len(rows["x"]), 2**16):
        part = {name: tensor[start : start + 2**16] for name, tensor in rows.items()}
        x = part["x"].double().requires_grad_()
        options = (None, 1e-5, "rms", torch.float64, torch.float64)
        outs = norm_reference.add_norm(x, part["residual"].double(), wide, *options)
        d_outs = (part["d_normed"].double(), part["d_total"].double())
        d_expected, d_wide = torch.autograd.grad(outs, (x, wide), d_outs)
        sums += d_wide
        expected = {"normed": outs[0], "total": outs[1], "d_x": d_expected}
        expected["d_residual"] = d_expected
        for name, tensor in expected.items():
            worst[name] = max(worst[name], worst_error(part[name], tensor.detach()))
    return {**worst, "d_weight": worst_error(d_weight, sums)}


# --- how fast?


def passes(
    conv: dict[str, Tensor], norm: dict[str, Tensor]
) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    """(name, bytes that have to move, what to time)."""
    x, weight, bias = conv["x"], conv["weight"], conv["bias"]
    d_x = torch.empty_like(conv["d_out"])
    bytes_x = x.numel() * x.element_size()
    yield "conv forward", 2 * bytes_x, lambda: conv_gpu.forward(x, weight, bias, None, True, False)
    yield "conv backward", 3 * bytes_x, lambda: run_conv_backward(conv, d_x)
    stream = (norm["x"], norm["residual"], norm["weight"], None, 1e-5, True)
    total = norm_gpu.forward(*stream, torch.float32, DTYPE)[1]
    n = total.numel()
    forward, backward = n * (2 + 4 + 4 + 2), n * (2 + 4 + 4 + 4 + 2)
    yield "norm forward", forward, lambda: norm_gpu.forward(*stream, torch.float32, DTYPE)
    yield "norm backward", backward, lambda: run_norm_backward(norm, total)


def time_passes(shape: tuple[int, int, int], copy: float, only: str = "") -> list[dict[str, Any]]:
    batch, seq_len, width = shape
    rows = []
    conv, norm = draw_conv(*shape), draw_norm(batch, seq_len, width // 2)
    for name, n_bytes, run in passes(conv, norm):
        if name.startswith(only):
            ms = median_ms(run, DEVICE)
            speed = n_bytes / ms / 1e9
            row = {"pass": name, "batch": batch, "seq_len": seq_len, "width": width, "ms": ms}
            rows.append({**row, "tb_per_s": speed, "of_copy": speed / copy})
    return rows


def host_microseconds() -> dict[str, float]:
    """What a call costs the CPU, forward and backward: seen where kernels are short."""
    conv, norm = draw_conv(1, 64, 64), draw_norm(1, 64, 64)
    x, d_out = conv["x"].detach().requires_grad_(), conv["d_out"]
    stream = norm["x"].requires_grad_()

    def run_conv() -> None:
        out = causal_conv1d(x, conv["weight"], conv["bias"], "silu", backend="triton")
        torch.autograd.grad([out], [x], [d_out])

    def run_norm() -> None:
        outs = add_norm(stream, norm["residual"], norm["weight"], backend="triton")
        torch.autograd.grad(outs, [stream], [norm["d_normed"], norm["d_total"]])

    found = {}
    for name, run in (("conv", run_conv), ("norm", run_norm)):
        for repeats in (20, 300):  # the first to warm up
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(repeats):
                run()
            found[name] = (time.perf_counter() - began) / repeats * 1e6
    return found


def describe(row: dict[str, Any]) -> str:
    shape = f"{row['batch']} x {row['seq_len']:,} x {row['width']:,}"
    return (
        f"{row['pass']:14} {shape:22} {row['ms']:8.3f} ms {row['tb_per_s']:6.2f} TB/s "
        f"{row['of_copy']:5.0%} of a copy"
    )


def sweep(copy: float) -> None:
    for module, constant, values in SWEEP:
        shipped = getattr(module, constant)
        for value in values:
            setattr(module, constant, value)
            print(f"{constant} = {value}" + (" (as shipped)" if value == shipped else ""))
            for row in time_passes(SHAPES[1], copy, "conv" if module is conv_gpu else "norm"):
                print("  " + describe(row))
        setattr(module, constant, shipped)


def check_all() -> tuple[dict[str, Any], bool]:
    errors, is_right = {}, True
    for batch, seq_len, width in SHAPES:
        shape = f"{batch} x {seq_len:,} x {width:,}"
        found = {"conv": check_conv(draw_conv(batch, seq_len, width))}
        found["norm"] = check_norm(draw_norm(batch, seq_len, width // 2))
        errors[shape] = found
        for op, by_name in found.items():
            text = ", ".join(f"{name} {value:.1e}" for name, value in by_name.items())
            print(f"{op} {shape}: {text}")
            for name, value in by_name.items():
                limit = LIMITS["bf16" if name in ("out", "d_x", "normed") else "fp32"]
                is_right &= value <= limit
    return errors, is_right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sweep", action="store_true", help="time other settings of the kernels")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("memory_bound_kernels.py times Triton kernels; it needs a CUDA device")
    torch.manual_seed(0)
    errors, is_right = check_all()
    if not is_right:
        sys.exit("an error above is too large")
    copy = measure_copy(DEVICE)
    print(f"{torch.cuda.get_device_name(DEVICE)}: a copy moves {copy:.2f} TB/s")
    rows = [row for shape in SHAPES for row in time_passes(shape, copy)]
    print("\n".join(map(describe, rows)))
    host = host_microseconds()
    print("host time, forward + backward: " + ", ".join(f"{k} {v:.0f} us" for k, v in host.items()))
    if arguments.sweep:
        sweep(copy)
    if arguments.json:
        result = {
            **describe_setup(DEVICE),
            "copy_tb_per_s": copy,
            "rows": rows,
            "host_us": host,
            "errors": errors,
        }
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
