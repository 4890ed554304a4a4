"""Config dataclasses to plain dictionaries and back, strictly.

Reading refuses what writing would not have written: unknown keys, missing ones without a default,
and values of another type, each named with its path.
"""

import dataclasses
import math
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dnamamba.errors import InputError
from dnamamba.files import is_number

T = TypeVar("T")

OMIT_DEFAULT = {"omit_default": True}
"""Metadata of a field that is written only if it is not its default, so that older versions, which
do not know the field, read all other files."""


def to_dict(config: Any) -> dict[str, Any]:
    """A config dataclass as JSON-ready values; tuples become lists."""
    values = [(field, getattr(config, field.name)) for field in dataclasses.fields(config)]
    return {
        field.name: _plain(value)
        for field, value in values
        if "omit_default" not in field.metadata or value != field.default
    }


def _plain(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def from_dict(config_class: type[T], values: Any, path: str = "") -> T:
    """Build a config dataclass from what `to_dict` wrote.

    A class with a `from_dict` of its own reads itself; a base class with `kinds()` is read as the
    one of these classes that `kind` names. Raises InputError with the path of the key.
    """
    own = getattr(config_class, "from_dict", None)
    if own is not None:
        return own(values)
    if "kinds" in vars(config_class):
        return _read_kind(config_class.kinds(), values, path)  # type: ignore[attr-defined]
    name = path or config_class.__name__
    if not isinstance(values, dict):
        raise InputError(f"{name}: expected a group of settings, got {values!r}")
    hints = get_type_hints(config_class)
    fields = {field.name: field for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(fields)):
        raise InputError(f"{name}: unknown setting {unknown[0]!r}; there are {', '.join(fields)}")
    required = {
        key
        for key, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - set(values)):
        raise InputError(f"{name}: setting {missing[0]!r} is missing")
    read = {key: _read(hints[key], value, f"{name}.{key}") for key, value in values.items()}
    return config_class(**read)


def _read(hint: Any, value: Any, path: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in get_args(hint):
            return None
        choices = [choice for choice in get_args(hint) if choice is not type(None)]
        if all(dataclasses.is_dataclass(choice) for choice in choices):
            return _read_kind(choices, value, path)
        return _read(choices[0], value, path) if len(choices) == 1 else value
    if origin is tuple:
        return _read_tuple(get_args(hint), value, path)
    if origin is Literal:
        if value not in get_args(hint):
            raise InputError(f"{path}: expected one of {get_args(hint)}, got {value!r}")
        return value
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, path)  # type: ignore[arg-type]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise InputError(f"{path}: expected {hint.__name__}, got {value!r}")
    return value


def _read_kind(choices: list[Any], value: Any, path: str) -> Any:
    """One of several config classes, told by the default of its `kind`; the first without one."""
    if len(choices) == 1 or not isinstance(value, dict) or "kind" not in value:
        return _read(choices[0], value, path)
    kinds = {choice.kind: choice for choice in choices}
    if not isinstance(value["kind"], str) or value["kind"] not in kinds:
        raise InputError(f"{path}.kind: expected one of {', '.join(kinds)}, got {value['kind']!r}")
    return _read(kinds[value["kind"]], value, path)


def _read_tuple(hints: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise InputError(f"{path}: expected a list, got {value!r}")
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(hints) != len(value):
        raise InputError(f"{path}: expected {len(hints)} values, got {len(value)}")
    return tuple(
        _read(hint, item, f"{path}[{i}]")
        for i, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def require_choice(name: str, value: object, choices: Any) -> None:
    """Raise InputError unless a setting has one of the values of a Literal type."""
    if value not in get_args(choices):
        raise InputError(f"{name} must be one of {', '.join(get_args(choices))}, got {value!r}")


def require_whole(name: str, value: object, least: int = 1) -> int:
    """The value. Raises InputError unless it is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} must be a whole number >= {least}, got {value!r}")
    return value


def require_number(name: str, value: Any, above: float = -math.inf) -> float:
    """The value. Raises InputError unless it is a finite number > above."""
    if not is_number(value) or value <= above:
        limit = "" if above == -math.inf else f" > {above:g}"
        raise InputError(f"{name} must be a finite number{limit}, got {value!r}")
    return float(value)


def require_fields(config: Any) -> None:
    """Check a dataclass by the types of its fields: int is a whole number >= 1, float a finite
    number, Literal one of its values. Raises InputError naming class and field."""
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        name, value = f"{type(config).__name__}: {field.name}", getattr(config, field.name)
        hint = hints[field.name]
        is_union = get_origin(hint) in (Union, types.UnionType)
        choices = get_args(hint) if is_union else (hint,)
        literals = [choice for choice in choices if get_origin(choice) is Literal]
        if value is None and type(None) in choices:
            continue
        if int in choices and not any(value in get_args(literal) for literal in literals):
            require_whole(name, value)
        elif float in choices:
            require_number(name, value)
        elif literals and int not in choices:
            require_choice(name, value, literals[0])


def require_range(
    name: str, value: float, low: float, high: float = math.inf, unit: str = ""
) -> None:
    """Raise InputError unless low <= value <= high. unit: after the limits in the message."""
    if not low <= value <= high:
        limits = f">= {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise InputError(f"{name} must be {limits}{unit and ' '}{unit}, got {value}")


def require_seed(seed: int, name: str = "seed") -> None:
    """Raise InputError unless a seed is from 0 to 2^63 - 1."""
    if not 0 <= seed < 1 << 63:
        raise InputError(f"{name} must be >= 0 and below 2^63, got {seed}")
