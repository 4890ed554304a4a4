"""Weights as safetensors, which run no code when they are read."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dnamamba.errors import InputError


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Raises InputError for a file that is not whole."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(
            f"{path} is not a whole safetensors file ({error}); copy or download it again"
        ) from error
