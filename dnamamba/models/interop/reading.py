"""What every reader does: settings of the right type, and a model that the weights fill."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch

from dnamamba.errors import InputError
from dnamamba.files import is_number
from dnamamba.models.config import ModelConfig
from dnamamba.models.interop.formats import Settings, Weights
from dnamamba.models.language_model import DnaModel, check_sizes
from dnamamba.models.mixers.protocol import MixerConfig
from dnamamba.models.model_folder import load_weights

EMBEDDING = "backbone.embedding.weight"
M = TypeVar("M", bound=MixerConfig)

SOURCE = "the given state_dict"


def build_model(config: ModelConfig, weights: Weights, source: str = SOURCE) -> DnaModel:
    """The model, float32, or float64 if the embedding is. weights: by our names.

    Raises InputError naming `source` where they do not fit, before the model takes memory.
    """
    check_sizes(config, weights, source)
    model = DnaModel(config)
    if weights[EMBEDDING].dtype == torch.float64:
        model = model.double()
    load_weights(model, weights, source)
    return model


def find_mixer(config: ModelConfig, config_class: type[M], layout: str) -> M:
    """The mixer of every block. Raises InputError for a hybrid and for a mixer of another class."""
    if not isinstance(config.mixer, config_class):
        raise InputError(
            f"{layout}'s layout needs {config_class.__name__.removesuffix('Config')} in every "
            f"block, the model's blocks are {config.mixer_kind!r}"
        )
    return config.mixer


def read_eps(settings: Settings, name: str, default: float = 1e-5) -> float:
    """What a norm adds. Raises InputError unless it is a finite number above 0."""
    value = settings.get(name, default)
    if not is_number(value) or value <= 0:
        raise InputError(f"{name} is a number above 0, got {value!r}")
    return float(value)


def read_number(name: str, value: object) -> float:
    """Raises InputError unless it is a finite number."""
    if not is_number(value):
        raise InputError(f"{name} is a number, got {value!r}")
    return float(value)  # type: ignore[arg-type]


def read_flag(settings: Settings, name: str, default: bool) -> bool:
    """Raises InputError unless it is true or false."""
    value = settings.get(name, default)
    if not isinstance(value, bool):
        raise InputError(f"{name} is true or false, got {value!r}")
    return value


def read_mapping(settings: Settings, name: str) -> Mapping[str, Any]:
    """Settings within settings; none where there is null or nothing."""
    value = settings.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(f"{name} is a JSON object, got {value!r}")
    return value


def read_count(settings: Settings, name: str, default: int) -> int:
    """Raises InputError unless it is a whole number of at least 1."""
    value = settings.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} is a whole number of at least 1, got {value!r}")
    return value
