"""Layouts of other projects' weights: recognise, read and write."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dnamamba.models.language_model import DnaModel

Weights = Mapping[str, Tensor]
"""A state_dict: tensors by the names they have there."""

Settings = Mapping[str, Any]
"""A config.json as read; empty if there is none."""


@dataclass(frozen=True)
class Format:
    """One project's layout of one architecture.

    name: its name on the command line, e.g. "huggingface-mamba".
    kinds: kinds of mixers that it may hold.
    recognises: whether weights and settings are of this layout, by names alone.
    read: the model; raises InputError for what does not fit.
    write: the state_dict and the settings of a model; None: we cannot write it. Raises InputError
    for a model that the layout cannot hold.
    """

    name: str
    kinds: tuple[str, ...]
    recognises: Callable[[Weights, Settings], bool]
    read: Callable[[Weights, Settings], DnaModel]
    write: Callable[[DnaModel], tuple[dict[str, Tensor], dict[str, Any]]] | None = None
