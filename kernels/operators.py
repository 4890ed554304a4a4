"""Operators of our own for torch.library."""

from collections.abc import Callable, Sequence
from typing import Any

import torch


def operator(name: str, mutates_args: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Any]:
    """Make a function of tensors an operator, with the schema that its annotations give.

    name: "dnamamba::op". mutates_args: names of the arguments it writes to. Returns the OpOverload;
    `torch.library.register_fake` and `register_autograd` take its name.

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
