"""Configs as JSON and back; what is read is what was written, or an error that names the key."""

import json
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnamamba.configs import from_dict, require_fields, to_dict
from dnamamba.data.splits import SplitConfig
from dnamamba.data.window_dataset import DataConfig
from dnamamba.data.windows import WindowConfig
from dnamamba.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Part:
    size: int
    name: str = "part"


@dataclass(frozen=True, kw_only=True)
class Machine:
    part: Part
    parts: tuple[Part, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    speed: float = 1.0
    is_on: bool = False
    mode: Literal["slow", "fast"] = "slow"
    limit: int | None = None
    spare: Part | None = None
    tags: tuple[str, ...] = field(default_factory=tuple)


FULL = Machine(
    part=Part(size=3),
    parts=(Part(size=1), Part(size=2, name="b")),
    pair=(4, 0.5),
    speed=2.5,
    is_on=True,
    mode="fast",
    limit=9,
    spare=Part(size=0),
    tags=("x", "y"),
)


@pytest.mark.parametrize("config", [Machine(part=Part(size=1)), FULL])
def test_a_config_survives_json(config):
    text = json.dumps(to_dict(config))
    assert from_dict(Machine, json.loads(text)) == config


data_configs = st.builds(
    DataConfig,
    windows=st.builds(
        WindowConfig,
        seq_len=st.integers(2, 1 << 20),
        rule=st.sampled_from(["tile", "mamba", "hyenadna", "caduceus"]),
        edge=st.sampled_from(["shift", "pad", "skip"]),
        max_n_fraction=st.floats(0, 1),
        drop_overlap=st.booleans(),
    ),
    splits=st.just(SplitConfig(bed="splits.bed"))
    | st.builds(SplitConfig, bed=st.just("splits.bed"), valid_fraction=st.floats(0, 0.25)),
    rc_augment=st.booleans(),
    seed=st.integers(0, 1 << 62),
)


@given(data_configs)
@settings(deadline=None, max_examples=50)
def test_a_data_config_survives_json(config):
    assert from_dict(DataConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_whole_numbers_are_read_as_floats_where_floats_are_meant():
    read = from_dict(Part, {"size": 1})
    assert read == Part(size=1)
    machine = from_dict(Machine, {"part": {"size": 1}, "speed": 3, "pair": [1, 2]})
    assert isinstance(machine.speed, float)
    assert isinstance(machine.pair[1], float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "Machine: setting 'part' is missing"),
        ({"part": {"size": 1}, "sped": 2}, "Machine: unknown setting 'sped'; there are part, "),
        ({"part": {}}, "Machine.part: setting 'size' is missing"),
        ({"part": {"size": "3"}}, "Machine.part.size: expected int, got '3'"),
        ({"part": {"size": True}}, "Machine.part.size: expected int, got True"),
        ({"part": {"size": 1.0}}, "Machine.part.size: expected int, got 1.0"),
        ({"part": 5}, "Machine.part: expected a group of settings, got 5"),
        ({"part": {"size": 1}, "parts": [{"size": None}]}, r"Machine.parts\[0\].size: expected"),
        ({"part": {"size": 1}, "parts": "ab"}, "Machine.parts: expected a list, got 'ab'"),
        ({"part": {"size": 1}, "pair": [1]}, "Machine.pair: expected 2 values, got 1"),
        ({"part": {"size": 1}, "mode": "medium"}, "Machine.mode: expected one of"),
        ({"part": {"size": 1}, "speed": True}, "Machine.speed: expected float, got True"),
        ({"part": {"size": 1}, "is_on": 1}, "Machine.is_on: expected bool, got 1"),
        ({"part": {"size": 1}, "limit": "many"}, "Machine.limit: expected int, got 'many'"),
        ({"part": {"size": 1}, "spare": {"bulk": 1}}, "Machine.spare: unknown setting 'bulk'"),
        ({"part": {"size": 1}, "name": None}, "Machine: unknown setting 'name'"),
        ([1], "Machine: expected a group of settings"),
    ],
)
def test_mistakes_are_named_with_their_path(values, message):
    with pytest.raises(InputError, match=message):
        from_dict(Machine, values)


def test_what_a_config_checks_is_checked_on_reading():
    with pytest.raises(InputError, match="seq_len must be >= 2"):
        from_dict(DataConfig, {"windows": {"seq_len": 1}})


@dataclass(frozen=True)
class Grid:
    """Writes and reads itself: a square by its side."""

    cells: int

    def to_dict(self):
        return {"side": int(self.cells**0.5)}

    @classmethod
    def from_dict(cls, values):
        return cls(values["side"] ** 2)


@dataclass(frozen=True, kw_only=True)
class Board:
    grid: Grid


def test_a_class_may_read_and_write_itself():
    assert to_dict(Board(grid=Grid(9))) == {"grid": {"side": 3}}
    assert from_dict(Board, {"grid": {"side": 3}}) == Board(grid=Grid(9))


@dataclass(frozen=True, kw_only=True)
class Layer:
    width: int = 4
    rank: int | Literal["auto"] = "auto"
    scale: float | None = None
    rule: Literal["add", "multiply"] = "add"

    def __post_init__(self) -> None:
        require_fields(self)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 0}, "Layer: width must be a whole number >= 1, got 0"),
        ({"width": True}, "Layer: width must be a whole number >= 1, got True"),
        ({"rank": "big"}, "Layer: rank must be a whole number >= 1, got 'big'"),
        ({"scale": float("inf")}, "Layer: scale must be a finite number, got inf"),
        ({"rule": "mean"}, "Layer: rule must be one of add, multiply, got 'mean'"),
    ],
)
def test_a_field_that_is_not_of_its_type_is_refused(values, message):
    assert Layer(rank=3, scale=0.5, rule="multiply").rank == 3
    with pytest.raises(InputError, match=message):
        Layer(**values)
