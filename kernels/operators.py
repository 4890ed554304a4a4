"""Operators of our own for torch.library."""

from collections.abc import Callable, Sequence
from typing import Any

import torch


def operator(name: str, mutates_args: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Any]:
    """Make a function of tensors an operator, with the schema that its annotations give.

    name: "dnamamba::op". mutates_args: names of the arguments it writes to. Returns the OpOverload;
    `torch.library.register_fake` takes its name.

    What `torch.library.custom_op` would do, but for its search, at every call, for outputs that
    share memory with inputs: that takes 0.3 to 0.8 ms (torch 2.11), ten times the launches. So an
    operator has to return tensors of its own; `torch.library.opcheck` in the tests sees to it.
    """

    def define(run: Callable[..., Any]) -> Any:
        schema = torch.library.infer_schema(run, mutates_args=mutates_args)
        torch.library.define(name, schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(name, ("cpu", "cuda"), run)
        namespace, op = name.split("::")
        return getattr(getattr(torch.ops, namespace), op).default

    return define


def differentiable(
    op: Any, differentiate: Callable[..., Any], setup_context: Callable[..., None]
) -> Callable[..., Any]:
    """An operator with its derivative, to be called with all its arguments, by position.

    differentiate, setup_context: as `torch.library.register_autograd` takes them.

    Compiled code sees the operator. Other calls go through `torch.autograd.Function`: what
    register_autograd makes of an operator looks through its schema at every call, 0.15 ms for the
    scan's twelve arguments where a Function takes 0.015 (torch 2.11, an H100's host).
    """
    torch.library.register_autograd(op, differentiate, setup_context=setup_context)
    methods = {
        "forward": staticmethod(lambda *arguments: op(*arguments)),
        "setup_context": staticmethod(setup_context),
        "backward": staticmethod(differentiate),
    }
    function: Any = type(f"{op._opname}_function", (torch.autograd.Function,), methods)

    def call(*arguments: Any) -> Any:
        return op(*arguments) if torch.compiler.is_compiling() else function.apply(*arguments)

    return call
