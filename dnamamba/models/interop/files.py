"""Read weights of other projects without running code, from a folder in Hugging Face's layout or
one file.

torch.load(weights_only=True) reads PyTorch's pickles: tensors, containers and numbers. Empty
objects stand in for what training frameworks store beside them.
"""

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnamamba.errors import InputError
from dnamamba.files import read_json
from dnamamba.models.model_folder import read_safetensors

CONFIG_NAME = "config.json"
# In the order in which transformers looks for them.
STANDARD_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
_INDEX_SUFFIX = ".index.json"

# Where training frameworks keep a model's weights among other things.
_INNER = ("state_dict", "model_state_dict")

# Objects beside the weights that empty ones stand in for.
_IGNORED_PACKAGES = {"omegaconf", "lightning", "pytorch_lightning", "lightning_fabric", "numpy"}
_IGNORED_NAMES = {
    *("typing.Any", "argparse.Namespace", "collections.defaultdict", "_codecs.encode"),
    *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str", "tuple")),
    *("pathlib.Path", "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.WindowsPath"),
}

# Errors of the readers of pickles and archives for missing or wrong bytes.
_BROKEN = (
    *(pickle.UnpicklingError, EOFError, LookupError, OSError, RuntimeError, ValueError),
    *(TypeError, AttributeError, AssertionError, ArithmeticError, struct.error),
    zipfile.BadZipFile,
)


@dataclass(frozen=True)
class WeightFiles:
    """Content of a source.

    weights: tensors by name, float16 and bfloat16 widened to float32. settings: config.json, or
    empty. file: the weights, or the index of several. dtypes: number of tensors by stored dtype.
    """

    weights: dict[str, Tensor]
    settings: dict[str, Any]
    file: Path
    dtypes: dict[str, int]


def read_source(source: Path) -> WeightFiles:
    """Read a folder (config.json and weights, sharded or not) or a single file of weights. Raises
    InputError for files that are missing, broken, hold no weights or would run code."""
    file = find_weights(source)
    settings_path = file.parent / CONFIG_NAME
    settings = read_json(settings_path) if settings_path.is_file() else {}
    weights = _read_index(file) if file.name.endswith(_INDEX_SUFFIX) else _read_file(file)
    dtypes: dict[str, int] = {}
    for tensor in weights.values():
        name = str(tensor.dtype).removeprefix("torch.")
        dtypes[name] = dtypes.get(name, 0) + 1
    _check_numbers(file, weights)
    return WeightFiles(_widen(weights), settings, file, dtypes)


def find_weights(source: Path) -> Path:
    """The file of weights, or the index of several, of a source."""
    if not source.exists():
        raise InputError(f"there is no {source}: give a folder with weights, or a file of weights")
    if source.is_file():
        if source.suffix not in SUFFIXES and not source.name.endswith(_INDEX_SUFFIX):
            raise InputError(
                f"{source} is no file of weights known here: expected {', '.join(SUFFIXES)}, or a "
                "folder"
            )
        return source
    if not source.is_dir():
        raise InputError(f"{source} is neither a file nor a folder: give a folder with weights")
    for name in STANDARD_NAMES:
        if (source / name).is_file():
            return source / name
    others = sorted(path for path in source.iterdir() if path.suffix in SUFFIXES)
    if len(others) == 1:
        return others[0]
    if others:
        names = ", ".join(path.name for path in others)
        raise InputError(f"{source} has several files of weights ({names}): name one of them")
    raise InputError(
        f"{source} has no weights: expected {', '.join(STANDARD_NAMES[:3])} or one file that ends "
        f"in {', '.join(SUFFIXES)}"
    )


def _read_file(path: Path) -> dict[str, Tensor]:
    weights = read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if not weights:
        raise InputError(f"{path} holds no tensors")
    return weights


def _read_index(path: Path) -> dict[str, Tensor]:
    shard_of = read_json(path).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise InputError(f"{path} has no weight_map: it should name the file of each tensor")
    names = sorted({str(name) for name in shard_of.values()})
    # A path could lead to other files.
    if strange := [name for name in names if Path(name).name != name or name in (".", "..")]:
        raise InputError(f"{path} names {strange[0]!r}: shards lie in the folder of their index")
    if missing := [name for name in names if not (path.parent / name).is_file()]:
        raise InputError(
            f"{path.parent} lacks {_shown(missing)}, of {len(names)} shards; copy or download "
            "the rest"
        )
    weights: dict[str, Tensor] = {}
    for name in names:
        shard = _read_file(path.parent / name)
        expected = {key for key, file in shard_of.items() if file == name}
        problems = [f"missing {key}" for key in sorted(expected - shard.keys())]
        problems += [f"unknown {key}" for key in sorted(shard.keys() - expected)]
        if problems:
            raise InputError(
                f"{path.parent / name} is not what {path.name} says: {_shown(problems)}"
            )
        weights |= shard
    return weights


def _read_pickle(path: Path) -> dict[str, Tensor]:
    loaded = _load_without_code(path)
    is_lightning = isinstance(loaded, Mapping) and "pytorch-lightning_version" in loaded
    for key in _INNER:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping):
        raise InputError(
            f"{path} holds a {type(loaded).__name__}: expected tensors by name (a state_dict)"
        )
    others = [str(key) for key, value in loaded.items() if not _is_weight(key, value)]
    if others:
        raise InputError(
            f"{path} holds other things than tensors by name: {_shown(others)}; save the "
            "state_dict alone, or under the key state_dict"
        )
    # Lightning's modules keep the model they train in an attribute, mostly of this name.
    prefix = "model."
    if is_lightning and all(name.startswith(prefix) for name in loaded):
        return {name.removeprefix(prefix): tensor for name, tensor in loaded.items()}
    return dict(loaded)


def _is_weight(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor) and value.layout == torch.strided


class _Ignored:
    """Stands in for an object of a checkpoint; takes any arguments and keeps nothing."""

    def __new__(cls, *args: Any) -> "_Ignored":
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _load_without_code(path: Path) -> Any:
    try:
        # Only archives can be mapped, and asked what they would import.
        is_archive = zipfile.is_zipfile(path)
        needed = torch.serialization.get_unsafe_globals_in_checkpoint(path) if is_archive else []
        if refused := [name for name in needed if not _is_ignored(name)]:
            raise _refusal(path, refused)
        ignored = set(needed) | _IGNORED_NAMES
        # Named strings, so that nothing of these packages is imported.
        stand_ins: list[Any] = [(_Ignored, name) for name in sorted(ignored)]
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            # About the pickle's protocol, which nobody here can change.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except InputError:
        raise
    except _BROKEN as error:
        found = re.search(r"GLOBAL (\S+) (?:was not|whose module)", str(error))
        if found:
            raise _refusal(path, [found[1]]) from error
        # What comes before is advice to trust the file.
        _, is_refused, reason = str(error).partition("WeightsUnpickler error:")
        if is_refused:
            raise InputError(
                f"{path} is refused: it holds other things than tensors, containers and numbers, "
                f"or is damaged ({_first_line(reason)}). Ask for a safetensors file"
            ) from error
        reason = _first_line(str(error)) or type(error).__name__
        raise InputError(
            f"{path} is not a whole PyTorch file of tensors ({reason}); copy or download it "
            "again, or ask for safetensors"
        ) from error


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:200]


def _is_ignored(name: str) -> bool:
    return name in _IGNORED_NAMES or name.split(".")[0] in _IGNORED_PACKAGES


def _refusal(path: Path, names: Sequence[str]) -> InputError:
    return InputError(
        f"{path} is refused: reading it would run {_shown(names)}, and weights need no code. Ask "
        "for a safetensors file; if you trust this one, load it where it was made and save its "
        "state_dict alone"
    )


def _check_numbers(file: Path, weights: Mapping[str, Tensor]) -> None:
    """Layer numbers decide how many layers are built: a small file must not ask for many."""
    for name in weights:
        for number in re.findall(r"(?:^|\.)(\d+)(?:\.|$)", name):
            if len(number) > 9 or int(number) >= len(weights):
                raise InputError(f"{file} has {name}, but only {len(weights)} tensors in all")


def _widen(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    narrow = (torch.float16, torch.bfloat16)
    return {
        name: tensor.float() if tensor.dtype in narrow else tensor
        for name, tensor in weights.items()
    }


def _shown(names: Iterable[str], most: int = 8) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return "; ".join(names[:most]) + more
