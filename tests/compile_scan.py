"""Compiles the selective scan's Triton kernels for an H100, without one; prints what they take.

    python tests/compile_scan.py

One JSON object: for each kernel and variant its registers and its stack in bytes, where spilled
registers go. A process of its own, as the tests' Triton interprets.
"""

import json
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dnamamba.kernels.scan import gpu_kernels

SEQUENCES = {"u", "delta", "B", "C", "z", "d_out", "out", "d_u", "d_delta", "d_z"}
SIZES = {"seq_len", "width", "blocks", "chunk", "n_chunks", "n_programs", "n_slots"}
LAYER = {
    "HAS_D": True,
    "HAS_Z": True,
    "HAS_BIAS": True,
    "SOFTPLUS": True,
    "REVERSE": False,
    "EVEN": True,
    "HAS_ADJOINT": True,
    "BACKWARD": True,
    "AHEAD": 8,
}
VARIANTS = {
    "bf16 layer": ("bf16", LAYER),
    "fp32 bare": (
        "fp32",
        LAYER
        | dict.fromkeys(("HAS_D", "HAS_Z", "HAS_BIAS", "SOFTPLUS", "EVEN"), False)
        | {"REVERSE": True},
    ),
}


def kind_of(name: str, dtype: str) -> str:
    """The type of a kernel's argument by its name."""
    if name in SEQUENCES:
        return f"*{dtype}"
    if name in SIZES or name == "first_program":
        return "i32"
    return "i64" if name.endswith("_batch") else "*fp32"


def compile_kernel(name: str, dtype: str, options: dict[str, object]) -> dict[str, int]:
    kernel = getattr(gpu_kernels, name)
    constants = {
        argument: options.get(argument, {"STEPS": 4, "D_STATE": 16}.get(argument, 512))
        for argument in kernel.arg_names
        if argument.isupper() and argument not in ("A", "B", "C", "D")
    }
    signature = {
        argument: "constexpr" if argument in constants else kind_of(argument, dtype)
        for argument in kernel.arg_names
    }
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, kind in enumerate(signature.values())
        if kind.startswith("*") or kind == "i64"
    }
    source = ASTSource(kernel, signature, constants, aligned)
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1})
    return read_resources(built.asm["cubin"])


def read_resources(binary: bytes) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [tool, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", text).groups()
    return {"registers": int(registers), "stack": int(stack)}


def main() -> None:
    found = {}
    for label, (dtype, options) in VARIANTS.items():
        for name in (
            "chunk_state_kernel",
            "pass_states_kernel",
            "chunk_scan_kernel",
            "chunk_adjoint_kernel",
        ):
            found[f"{name} {label}"] = compile_kernel(name, dtype, options)
    # A quarter of a minute for one variant, so the others are left to machines that run it.
    found["chunk_backward_kernel bf16 layer"] = compile_kernel(
        "chunk_backward_kernel", *VARIANTS["bf16 layer"]
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
