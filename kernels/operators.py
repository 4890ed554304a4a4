"""Our own operators for torch.library, and their derivatives."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable


def operator(
    name: str, fake: Callable[..., Any], mutates_args: Sequence[str] = ()
) -> Callable[[Callable[..., Any]], Any]:
    """Make a function of tensors an operator, with the schema of its annotations.

    name: "dnamamba::op". fake: takes the same arguments and returns empty outputs, for tracing.
    mutates_args: names of the arguments it writes to. Returns the OpOverload.

    Unlike `torch.library.custom_op`, it does not search each call's outputs for memory shared with
    inputs: 0.3 to 0.8 ms (torch 2.11), ten times the launches. So an operator must return tensors
    of its own, which `torch.library.opcheck` checks in the tests.
    """

    def define(run: Callable[..., Any]) -> Any:
        schema = torch.library.infer_schema(run, mutates_args=mutates_args)
        torch.library.define(name, schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(name, ("cpu", "cuda"), run)
        torch.library.register_fake(name, fake)
        namespace, op = name.split("::")
        return getattr(getattr(torch.ops, namespace), op).default

    return define


def differentiable(
    op: Any, save: Callable[..., None], differentiate: Callable[..., Iterable[Any]]
) -> Callable[..., Any]:
    """Return an operator with its derivative, to be called with all arguments by position.

    save: (ctx, inputs, output), what the backward needs. differentiate: (ctx, *gradients of the
    outputs, None if unused) to the gradients of the leading arguments, in order; that of an
    argument that is None is dropped.

    Compiled code sees the operator. Other calls take a `torch.autograd.Function`: an operator with
    register_autograd reads its schema at every call, 0.15 ms for the scan's twelve arguments
    against 0.015 (torch 2.11, an H100's host).
    """

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        save(ctx, inputs, output)
        ctx.are_given = [x is not None for x in inputs]
        ctx.set_materialize_grads(False)

    @once_differentiable
    def backward(ctx: Any, *d_outputs: Any) -> tuple[Any, ...]:
        found = [*differentiate(ctx, *d_outputs)]
        found += [None] * (len(ctx.are_given) - len(found))
        return tuple(
            gradient if is_given else None
            for gradient, is_given in zip(found, ctx.are_given, strict=True)
        )

    torch.library.register_autograd(op, backward, setup_context=setup_context)
    methods = {
        "forward": staticmethod(lambda *arguments: op(*arguments)),
        "setup_context": staticmethod(setup_context),
        "backward": staticmethod(backward),
    }
    function: Any = type(f"{op._opname}_function", (torch.autograd.Function,), methods)

    def call(*arguments: Any) -> Any:
        return op(*arguments) if torch.compiler.is_compiling() else function.apply(*arguments)

    return call
