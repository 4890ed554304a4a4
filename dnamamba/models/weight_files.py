"""The two kinds of file that a model folder has, ours or another project's: neither runs code."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dnamamba.errors import InputError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises InputError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} should hold a JSON object, got {content!r:.40}")
    return content


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Raises InputError for a file that is not whole."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(
            f"{path} is not a whole safetensors file ({error}); copy or download it again"
        ) from error
