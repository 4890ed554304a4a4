"""Writer of LLVM IR: values with operators, loops as `with` blocks, variables.

A kernel is a Python function that calls an `Emitter`, which writes down what will run: a Python
`for` is unrolled, `emitter.loop` is a loop at run time. Numbers may stand for values wherever they
are unambiguous.

A *vector* holds `lanes` float32 channels, a *mask* says which of them exist.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

FLOAT, INT, POINTER = "float", "i64", "ptr"
FLOAT_BYTES = 4


class Value:
    """One IR value. + - * and unary - write the instruction of its type."""

    def __init__(self, emitter: "Emitter", kind: str, text: str) -> None:
        self.emitter, self.kind, self.text = emitter, kind, text

    def __str__(self) -> str:
        return f"{self.kind} {self.text}"

    def __add__(self, other: "Value | float") -> "Value":
        return self.emitter.binary("add", self, other)

    def __sub__(self, other: "Value | float") -> "Value":
        return self.emitter.binary("sub", self, other)

    def __rsub__(self, other: float) -> "Value":
        return self.emitter.constant(self.kind, other) - self

    def __mul__(self, other: "Value | float") -> "Value":
        return self.emitter.binary("mul", self, other)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> "Value":
        return self.emitter.write(self.kind, f"fneg {self}")

    def __truediv__(self, other: "Value") -> "Value":
        return self.emitter.binary("div", self, other)

    def __floordiv__(self, other: "Value | int") -> "Value":
        """Unsigned division: both integers must be >= 0."""
        return self.emitter.binary("udiv", self, other)


class Variable:
    """A value that changes in a loop; LLVM keeps it in a register."""

    def __init__(self, value: Value) -> None:
        self._emitter, self._kind = value.emitter, value.kind
        self._place = value.emitter.reserve(value.kind)
        self.set(value)

    def get(self) -> Value:
        return self._emitter.write(self._kind, f"load {self._kind}, {self._place}")

    def set(self, value: Value) -> None:
        self._emitter.write_line(f"store {value}, {self._place}")


class Emitter:
    """One kernel: `void name(ptr arguments)`, for vectors of `lanes` float32.

    arguments: names of the 64-bit integers and addresses it is called with, in this order.
    """

    def __init__(self, name: str, lanes: int, arguments: Sequence[str]) -> None:
        self.name, self.lanes = name, lanes
        self.vector, self.mask = f"<{lanes} x float>", f"<{lanes} x i1>"
        self.arguments = tuple(arguments)
        self._reserved: list[str] = []
        self._lines: list[str] = []
        self._declarations: set[str] = set()
        self._n_names = 0

    # Writing.

    def write(self, kind: str, instruction: str) -> Value:
        """Append an instruction whose result is a value of that type."""
        result = Value(self, kind, self._new_name())
        self.write_line(f"{result.text} = {instruction}")
        return result

    def write_line(self, line: str) -> None:
        self._lines.append(f"  {line}")

    def call(self, kind: str, function: str, *values: Value) -> Value:
        """Call one of LLVM's intrinsics."""
        kinds = ", ".join(value.kind for value in values)
        self._declarations.add(f"declare {kind} @{function}({kinds})")
        call = f"call {kind} @{function}({', '.join(map(str, values))})"
        if kind == "void":
            self.write_line(call)
            return Value(self, kind, "")
        return self.write(kind, call)

    def reserve(self, kind: str, count: int = 1) -> Value:
        """Reserve stack memory for `count` of a type, aligned to a cache line; not cleared."""
        address = Value(self, POINTER, self._new_name())
        self._reserved.append(f"  {address.text} = alloca {kind}, i64 {count}, align 64")
        return address

    def ir(self) -> str:
        """Return the finished module."""
        # AVX-512 CPUs get the full width only if a function insists on it.
        bits = 32 * self.lanes
        widths = f'"min-legal-vector-width"="{bits}" "prefer-vector-width"="{bits}"'
        return "\n".join(
            [
                *sorted(self._declarations),
                f"define void @{self.name}(ptr %arguments) nounwind {widths} {{",
                "entry:",
                *self._reserved,
                *self._lines,
                "  ret void",
                "}\n",
            ]
        )

    def _new_name(self) -> str:
        self._n_names += 1
        return f"%v{self._n_names}"

    # Values.

    def argument(self, name: str, kind: str = INT) -> Value:
        address = f"getelementptr i64, ptr %arguments, i64 {self.arguments.index(name)}"
        return self.write(kind, f"load {kind}, {self.write(POINTER, address)}")

    def constant(self, kind: str, number: float) -> Value:
        if not kind.startswith("<"):
            return Value(self, kind, _literal(kind, number))
        count, _, element = kind.strip("<>").partition(" x ")
        items = ", ".join([f"{element} {_literal(element, number)}"] * int(count))
        return Value(self, kind, f"<{items}>")

    def number(self, number: float) -> Value:
        """A vector of one number."""
        return self.constant(self.vector, number)

    def _like(self, a: Value, b: Value | float) -> Value:
        return b if isinstance(b, Value) else self.constant(a.kind, b)

    def binary(self, operation: str, a: Value, b: Value | float) -> Value:
        b = self._like(a, b)
        prefix = "f" if FLOAT in a.kind else ""
        return self.write(a.kind, f"{prefix}{operation} {a}, {b.text}")

    def fma(self, a: Value, b: Value | float, c: Value | float) -> Value:
        """a b + c, rounded once where the CPU can."""
        b, c = self._like(a, b), self._like(a, c)
        return self.call(a.kind, f"llvm.fmuladd.{_suffix(a.kind)}", a, b, c)

    def is_less(self, a: Value, b: Value | float) -> Value:
        """Compare a < b by element; False if one is NaN."""
        b = self._like(a, b)
        result = a.kind.replace(FLOAT, "i1").replace("i64", "i1").replace("i32", "i1")
        compare = "fcmp olt" if FLOAT in a.kind else "icmp slt"
        return self.write(result, f"{compare} {a}, {b.text}")

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        return self.write(a.kind, f"select {condition}, {a}, {b}")

    def minimum(self, a: Value, b: Value | float) -> Value:
        """Return the smaller; b if one is NaN."""
        b = self._like(a, b)
        return self.select(self.is_less(a, b), a, b)

    def maximum(self, a: Value, b: Value | float) -> Value:
        """Return the larger; a if one is NaN."""
        b = self._like(a, b)
        return self.select(self.is_less(a, b), b, a)

    def as_bits(self, vector: Value) -> Value:
        kind = vector.kind.replace(FLOAT, "i32")
        return self.write(kind, f"bitcast {vector} to {kind}")

    def as_floats(self, bits: Value) -> Value:
        kind = bits.kind.replace("i32", FLOAT)
        return self.write(kind, f"bitcast {bits} to {kind}")

    def shift_left(self, bits: Value, count: int) -> Value:
        return self.write(bits.kind, f"shl {bits}, {self.constant(bits.kind, count).text}")

    def spread(self, scalar: Value) -> Value:
        """A vector of one float."""
        first = self.write(self.vector, f"insertelement {self.vector} poison, {scalar}, i64 0")
        zeros = self.constant(f"<{self.lanes} x i32>", 0)
        return self.write(self.vector, f"shufflevector {first}, {self.vector} poison, {zeros}")

    def pick(self, a: Value, b: Value, positions: Sequence[int]) -> Value:
        """Return elements of a followed by b, at these positions."""
        element = a.kind.strip("<>").partition(" x ")[2]
        indices = ", ".join(f"i32 {position}" for position in positions)
        kind = f"<{len(positions)} x {element}>"
        return self.write(kind, f"shufflevector {a}, {b}, <{len(positions)} x i32> <{indices}>")

    def mask_of(self, count: Value) -> Value:
        """Return the mask of the first `count` lanes."""
        kind = f"<{self.lanes} x i32>"
        count = self.write("i32", f"trunc {count} to i32")
        first = self.write(kind, f"insertelement {kind} poison, {count}, i64 0")
        zeros = self.constant(kind, 0)
        counts = self.write(kind, f"shufflevector {first}, {kind} poison, {zeros}")
        lanes = ", ".join(f"i32 {lane}" for lane in range(self.lanes))
        return self.is_less(Value(self, kind, f"<{lanes}>"), counts)

    # Memory.

    def offset(self, address: Value, n_floats: Value | int) -> Value:
        """Return the address n floats further on."""
        index = n_floats if isinstance(n_floats, Value) else self.constant(INT, n_floats)
        return self.write(POINTER, f"getelementptr float, {address}, {index}")

    def load(self, address: Value, kind: str | None = None) -> Value:
        """Load a vector, or another type, from any address."""
        kind = kind or self.vector
        return self.write(kind, f"load {kind}, {address}, align {FLOAT_BYTES}")

    def load_spread(self, address: Value) -> Value:
        """Load one float into every lane."""
        return self.spread(self.load(address, FLOAT))

    def store(self, value: Value, address: Value) -> None:
        self.write_line(f"store {value}, {address}, align {FLOAT_BYTES}")

    def load_masked(self, address: Value, mask: Value) -> Value:
        """Load a vector with 0 in lanes off the mask, whose memory is not touched."""
        name = f"llvm.masked.load.{_suffix(self.vector)}.p0"
        return self.call(
            self.vector, name, address, self.constant("i32", 4), mask, self.number(0.0)
        )

    def store_masked(self, value: Value, address: Value, mask: Value) -> None:
        name = f"llvm.masked.store.{_suffix(self.vector)}.p0"
        self.call("void", name, value, address, self.constant("i32", 4), mask)

    def prefetch(self, address: Value) -> None:
        """Ask for the cache line of an address that is used soon; it need not be valid."""
        read, near, data = (self.constant("i32", number) for number in (0, 2, 1))
        self.call("void", "llvm.prefetch.p0", address, read, near, data)

    # Loops.

    @contextmanager
    def loop(self, stop: Value | int, backwards: bool = False) -> Iterator[Value]:
        """Run the block with 0, 1, ..., stop - 1, or these from the last to the first."""
        stop = stop if isinstance(stop, Value) else self.constant(INT, stop)
        count = Variable(self.constant(INT, 0))
        with self._while(lambda: self.is_less(count.get(), stop)):
            step = count.get()
            yield stop - 1 - step if backwards else step
            count.set(count.get() + 1)

    @contextmanager
    def tasks(self, next_task: Value, n_tasks: Value) -> Iterator[Value]:
        """Run the block with one task number after the other until all are taken.

        next_task: the address of a count that all threads share.
        """
        taken = Variable(self.constant(INT, 0))

        def take() -> Value:
            taken.set(self.write(INT, f"atomicrmw add {next_task}, i64 1 monotonic"))
            return self.is_less(taken.get(), n_tasks)

        with self._while(take):
            yield taken.get()

    @contextmanager
    def _while(self, condition: Callable[[], Value]) -> Iterator[None]:
        again, block, after = (self._new_name()[1:] for _ in range(3))
        self.write_line(f"br label %{again}")
        self._lines.append(f"{again}:")
        self.write_line(f"br {condition()}, label %{block}, label %{after}")
        self._lines.append(f"{block}:")
        yield
        self.write_line(f"br label %{again}")
        self._lines.append(f"{after}:")


def _literal(kind: str, number: float) -> str:
    if kind != FLOAT:
        return str(int(number))
    # A float is written as the double of the same value, in hexadecimal.
    (rounded,) = struct.unpack("f", struct.pack("f", number))
    return f"0x{struct.unpack('<Q', struct.pack('<d', rounded))[0]:016X}"


def _suffix(kind: str) -> str:
    """The type in an intrinsic's name: `v16f32` of `<16 x float>`."""
    count, _, _ = kind.strip("<>").partition(" x ")
    return "f32" if kind == FLOAT else f"v{count}f32"
