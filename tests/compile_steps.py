"""Compiles the Triton kernels of a single step for an H100, without one; prints what they take.

    python tests/compile_steps.py

One JSON object, as that of compile_scan.py. A process of its own, as the tests' Triton interprets.
"""

import json

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from compile_scan import read_resources
from dnamamba.kernels.conv import step_gpu as conv
from dnamamba.kernels.scan import step_gpu as scan

INPUTS = {"u", "delta", "B", "C", "z", "x", "out"}
FLOATS = {"A", "D", "delta_bias", "state", "weight", "bias"}
# Entries of a row lie side by side: such arguments are compiled in.
SIDE_BY_SIDE = {"u_channel", "delta_channel", "z_channel", "x_channel", "B_n", "C_n", "state_n"}


def compile_kernel(kernel: object, dtype: str, constants: dict[str, object]) -> dict[str, int]:
    """Registers and stack; state of the convolution in float32, of the scan always."""
    ones = dict.fromkeys(SIDE_BY_SIDE & set(kernel.arg_names), 1)
    if "weight" in kernel.arg_names:
        ones["state_channel"] = 1
    signature, aligned = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in INPUTS or name in FLOATS:
            signature[name] = f"*{dtype}" if name in INPUTS else "*fp32"
        else:
            signature[name] = "constexpr" if name in {**constants, **ones} else "i32"
        if signature[name] != "constexpr":
            aligned[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, {**constants, **ones}, aligned)
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1})
    return read_resources(built.asm["cubin"])


def main() -> None:
    found = {}
    for dtype, on in (("bf16", True), ("fp16", True), ("fp32", False)):
        flags = dict.fromkeys(("HAS_D", "HAS_Z", "HAS_BIAS", "SOFTPLUS"), on)
        for d_state, width in ((16, 16), (5, 8), (64, 64)):
            constants = {**flags, "D_STATE": d_state, "BD": scan.TILE // width, "BN": width}
            name = f"scan {dtype} {d_state} states"
            found[name] = compile_kernel(scan._step_kernel, dtype, constants)
        for taps in (1, 2, 3, 4):
            constants = {"SILU": on, "HAS_BIAS": on, "K": taps, "BD": conv.CHANNELS}
            name = f"convolution {dtype} {taps} taps"
            found[name] = compile_kernel(conv._step_kernel, dtype, constants)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
