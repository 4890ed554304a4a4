"""Named sizes of models."""

from dnamamba.errors import InputError
from dnamamba.models import mamba
from dnamamba.models.config import ModelConfig

# (d_model, Mamba blocks): figure 5 of the Mamba paper, where a Transformer layer counts as two
# blocks, and a small one that trains within minutes on a CPU.
_SIZES = {
    "mamba-demo": (64, 4),
    "mamba-260k": (64, 8),
    "mamba-680k": (96, 10),
    "mamba-1.4m": (128, 12),
    "mamba-3.5m": (192, 14),
    "mamba-7m": (256, 16),
    "mamba-19m": (384, 20),
    "mamba-41m": (512, 24),
}


def preset_names() -> list[str]:
    """The names `preset` knows, small to large."""
    return list(_SIZES)


def preset(name: str) -> ModelConfig:
    """The config of a named model. Raises InputError, listing the names, for any other."""
    if name not in _SIZES:
        raise InputError(f"no model is called {name!r}; there are {', '.join(_SIZES)}")
    d_model, n_layers = _SIZES[name]
    return ModelConfig(d_model=d_model, n_layers=n_layers)


def count_parameters(config: ModelConfig) -> int:
    """Trainable parameters, a tied head counted once, in closed form."""
    block = mamba.count_parameters(config.d_model, config.mixer) + config.d_model
    embeddings = config.padded_vocab_size * config.d_model * (1 if config.tie_embeddings else 2)
    return config.n_layers * block + embeddings + config.d_model
