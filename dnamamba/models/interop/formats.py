"""Layouts of other projects' weights: recognise, read and write."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dnamamba.models.language_model import DnaModel

Weights = Mapping[str, Tensor]
"""A state_dict."""

Settings = Mapping[str, Any]
"""A config.json; empty if there is none."""


@dataclass(frozen=True)
class Format:
    """One project's layout of one architecture.

    name: on the command line, e.g. "huggingface-mamba". kinds: of mixers that it may hold.
    recognises: whether weights and settings are of this layout, by names alone. read: the model.
    write: the state_dict and settings of a model; None: not written. Both raise InputError for what
    does not fit.
    """

    name: str
    kinds: tuple[str, ...]
    recognises: Callable[[Weights, Settings], bool]
    read: Callable[[Weights, Settings], DnaModel]
    write: Callable[[DnaModel], tuple[dict[str, Tensor], dict[str, Any]]] | None = None
