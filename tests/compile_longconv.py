"""Compiles the long convolution's Triton kernels for an H100, without one; prints what they take.

    python tests/compile_longconv.py

One JSON object, as that of compile_scan.py. A process of its own, as the tests' Triton interprets.
"""

import json

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from compile_scan import read_resources
from dnamamba.kernels.longconv import gpu_kernels

OPERANDS = {"x", "gate", "gate_in", "gate_out", "d_y", "y", "d_x", "d_gate_in", "d_gate_out"}
NUMBERS = {"angle", "shift"}
# Each with its flags, compiled once with all of them and once with none.
KERNELS = {
    "gather_kernel": ("HAS_GATE",),
    "gather_filter_kernel": ("HAS_DECAY",),
    "scatter_kernel": ("HAS_BIAS", "HAS_GATE_IN", "HAS_GATE_OUT", "KEEPS_SUMS"),
    "gradients_kernel": ("HAS_BIAS", "HAS_GATE_IN", "HAS_GATE_OUT"),
    "filter_gradient_kernel": ("HAS_DECAY",),
    "products_kernel": ("HAS_D_FILTER",),
}


def kind_of(kernel: str, name: str, dtype: str) -> str:
    """The type of a kernel's argument by its name."""
    if kernel == "products_kernel":
        return "i32" if name in ("batch", "n_numbers") else "*i64"
    if name in NUMBERS:
        return "fp32"
    if name in OPERANDS or name == "sums":
        return f"*{dtype}"
    if name in ("z", "filter", "d_filter", "bias", "decay", "partials"):
        return "*i64" if name == "z" else "*fp32"
    return "i32"


def compile_kernel(name: str, dtype: str, is_on: bool) -> triton.compiler.CompiledKernel:
    kernel = getattr(gpu_kernels, name)
    constants = {"BT": 32, "BC": 64, **dict.fromkeys(KERNELS[name], is_on), "BLOCK": 1024}
    constants["filter_step" if is_on else "filter_channel"] = 1
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    signature = {
        argument: "constexpr" if argument in constants else kind_of(name, argument, dtype)
        for argument in kernel.arg_names
    }
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, kind in enumerate(signature.values())
        if kind not in ("constexpr", "fp32")
    }
    source = ASTSource(kernel, signature, constants, aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})


def main() -> None:
    found = {}
    for dtype, is_on in (("bf16", True), ("fp32", False)):
        for name in KERNELS:
            built = compile_kernel(name, dtype, is_on)
            found[f"{name} {dtype}"] = read_resources(built.asm["cubin"])

    print(json.dumps(found))


if __name__ == "__main__":
    main()
