"""What every reader does: checks of names and settings, and a model that the weights fill."""

import math
import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch

from dnamamba.configs import require_number, require_whole
from dnamamba.errors import InputError
from dnamamba.models.config import ModelConfig
from dnamamba.models.interop.formats import Settings, Weights
from dnamamba.models.language_model import HEAD_WEIGHT, DnaModel
from dnamamba.models.mixers.protocol import MixerConfig
from dnamamba.models.model_folder import check_weights, load_weights

EMBEDDING = "backbone.embedding.weight"
SOURCE = "the given state_dict"

M = TypeVar("M", bound=MixerConfig)
T = TypeVar("T", bool, int, float)


def build_model(config: ModelConfig, weights: Weights, source: str = SOURCE) -> DnaModel:
    """The model, float32, or float64 if the embedding is. weights: by our names. Raises InputError
    naming `source` if they do not fit, before the model takes memory."""
    check_weights(partial(DnaModel, config), weights, source)
    model = DnaModel(config)
    if weights[EMBEDDING].dtype == torch.float64:
        model = model.double()
    load_weights(model, weights, source)
    return model


def find_mixer(config: ModelConfig, config_class: type[M], layout: str) -> M:
    """The mixer of every block. Raises InputError for a hybrid and for another class."""
    if not isinstance(config.mixer, config_class):
        raise InputError(
            f"{layout}'s layout needs {config_class.__name__.removesuffix('Config')} in every "
            f"block, the model's blocks are {config.mixer_kind!r}"
        )
    return config.mixer


def rename_parts(name: str, parts: Iterable[tuple[str, str]]) -> str:
    """Replace the first occurrence of each part, in order."""
    for old, new in parts:
        name = name.replace(old, new, 1)
    return name


def require_names(weights: Weights, names: Iterable[str], what: str) -> None:
    """Raises InputError naming the weights that a model of this kind lacks."""
    if missing := [name for name in names if name not in weights]:
        raise InputError(
            f"not the weights of a {what} language model: there is no {', '.join(missing)}"
        )


def count_layers(weights: Weights, prefix: str = "backbone") -> int:
    """Layers by the largest number in the names."""
    found = (re.match(rf"{prefix}\.layers\.(\d+)\.", name) for name in weights)
    return 1 + max(int(match[1]) for match in found if match)


def check_settings(given: Settings, expected: Mapping[str, object], where: str) -> None:
    """Raises InputError for settings that differ from the weights; null is not given."""
    problems = [
        f"{key} is {given[key]!r}, expected {value!r}"
        for key, value in expected.items()
        if given.get(key) not in (None, value)
    ]
    if problems:
        raise InputError(f"{where} does not fit the weights: {'; '.join(problems)}")


def read_tied(weights: Weights, embedding: str, given: bool | None = None) -> bool:
    """Whether the head is the embedding: what the settings say, else what the weights are."""
    head = weights.get(HEAD_WEIGHT)
    is_same = head is None or torch.equal(head, weights[embedding])
    if given and not is_same:
        raise InputError(
            "config.json does not fit the weights: it ties the head to the embedding, but "
            f"{HEAD_WEIGHT} is not {embedding}; set tie_embeddings (Hugging Face: "
            "tie_word_embeddings) to false"
        )
    return is_same if given is None else given


def read_setting(settings: Settings, name: str, default: T, above: float = -math.inf) -> T:
    """A setting of the default's type: true or false, a whole number >= 1, or a finite number above
    `above`. Raises InputError for another value."""
    value: Any = settings.get(name, default)
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise InputError(f"{name} must be true or false, got {value!r}")
        return value
    if isinstance(default, int):
        return require_whole(name, value)
    return require_number(name, value, above)


def read_mapping(settings: Settings, name: str) -> Mapping[str, Any]:
    """Settings within settings; empty if null or absent."""
    value = settings.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(f"{name} must be a JSON object, got {value!r}")
    return value
