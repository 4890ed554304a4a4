"""Checks of settings that configs share. Each raises InputError naming the owner and the field."""

import math
from typing import Any

from dnamamba.errors import InputError


def check_choice(owner: str, name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{owner}: {name} must be one of {', '.join(choices)}, got {value!r}")


def check_positive(owner: str, name: str, value: object) -> None:
    """A whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{owner}: {name} must be a whole number >= 1, got {value!r}")


def check_finite(owner: str, name: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"{owner}: {name} must be a finite number, got {value!r}")


def check_above_zero(owner: str, name: str, value: Any) -> None:
    check_finite(owner, name, value)
    if value <= 0:
        raise InputError(f"{owner}: {name} must be > 0, got {value!r}")


def check_step_sizes(owner: str, dt_min: float, dt_max: float, dt_init_floor: float) -> None:
    """The range of initial step sizes of a state space model."""
    if not 0 < dt_min <= dt_max or dt_init_floor <= 0:
        raise InputError(
            f"{owner} needs 0 < dt_min <= dt_max and dt_init_floor > 0, got dt_min {dt_min}, "
            f"dt_max {dt_max}, dt_init_floor {dt_init_floor}"
        )
