"""IR to machine code for this CPU, kept in the cache folder between processes."""

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnamamba.kernels.codegen.emitter import Emitter
from dnamamba.runtime import cache_folder

# Lanes of float32 in a CPU's widest vectors, best first; four if nothing is known.
_LANES = (("avx512f", 16), ("avx2", 8), ("avx", 8))
_FEWEST_LANES = 4


@dataclass(frozen=True)
class Host:
    """The CPU that code is made for."""

    triple: str
    cpu: str
    features: str

    @property
    def lanes(self) -> int:
        """float32 numbers in a vector."""
        present = self.features.split(",")
        return next((n for name, n in _LANES if f"+{name}" in present), _FEWEST_LANES)

    @property
    def registers(self) -> int:
        """Vector registers: 16 on x86 before AVX-512, else 32."""
        return 16 if self.triple.startswith(("x86", "i686")) and self.lanes < 16 else 32


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel. run: calls it with its arguments' address, without Python's lock."""

    arguments: Sequence[str]
    run: Callable[[Any], None]
    address: int
    keep_alive: Any


@functools.cache
def why_no_host() -> str | None:
    """Return why no code can be made here and what to do, or None if it can."""
    if importlib.util.find_spec("llvmlite") is None:
        return "llvmlite is not installed; `pip install llvmlite`"
    try:
        find_host()
    except (ImportError, OSError, RuntimeError) as error:
        return f"llvmlite makes no code for this machine ({error}); use backend='chunked'"
    return None


@functools.cache
def find_host() -> Host:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    triple = llvm.get_process_triple()
    llvm.Target.from_triple(triple)
    return Host(triple, llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())


@functools.cache
def compile_kernel(write: Callable[[Any], Emitter], variant: Any, host: Host) -> Kernel:
    """Compile the kernel that `write` makes of a variant, once per process.

    Loads what an earlier process compiled from the same IR for the same CPU.
    """
    import llvmlite
    import llvmlite.binding as llvm

    emitter = write(variant)
    ir = emitter.ir()
    key = "\n".join([llvmlite.__version__, host.triple, host.cpu, host.features, ir])
    name = f"{emitter.name}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.o"
    path = _cache_path(name)
    code = None if path is None else _read_sealed(path)
    if code is None:
        code = _compile(ir, host)
        if path is not None:
            _write_sealed(path, code)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine(host))
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    address = engine.get_function_address(emitter.name)
    # ctypes lets go of Python's lock during the call.
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)
    return Kernel(emitter.arguments, run, address, engine)


def _cache_path(name: str) -> Path | None:
    """Return the file of compiled code; None in a process without a home."""
    try:
        return cache_folder() / "cpu-kernels" / name
    except RuntimeError:
        return None


def _target_machine(host: Host) -> Any:
    import llvmlite.binding as llvm

    target = llvm.Target.from_triple(host.triple)
    return target.create_target_machine(host.cpu, host.features, opt=3, jit=True)


def _compile(ir: str, host: Host) -> bytes:
    import llvmlite.binding as llvm

    machine, module = _target_machine(host), llvm.parse_assembly(ir)
    # The kernels are vectors already; unrolling them further only fills the instruction cache.
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_unrolling = options.loop_vectorization = options.slp_vectorization = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return machine.emit_object(module)


# A file of the cache begins with a checksum: half of one, after a crash, would be run otherwise.
_CHECKSUM_BYTES = 32


def _read_sealed(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    checksum, code = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
    return code if hashlib.sha256(code).digest() == checksum else None


def _write_sealed(path: Path, code: bytes) -> None:
    """Write whole or not at all; without a folder to write to, the next process compiles again."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, building = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(code).digest() + code)
            os.replace(building, path)
        except OSError:
            os.unlink(building)
