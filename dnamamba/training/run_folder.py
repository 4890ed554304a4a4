"""A run is a folder with all that continuing it, reading it or using its model needs.

config.json     resolved settings; `--resume` starts from them
manifest.json   versions, device, kernel backend, genome checksums, how the run ended
metrics.jsonl   one object a line
baseline.json   Markov models, or a k-mer classifier (with baseline.npz)
evaluation.json classifiers: model and baseline on validation and test
checkpoints/    training state, the newest ones
model/          safetensors and config, for use
report.html     figures and tables of the above
"""

import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from dnamamba import __version__
from dnamamba.configs import from_dict, to_dict
from dnamamba.errors import InputError
from dnamamba.files import read_json, write_json
from dnamamba.runtime import Compute, describe_machine
from dnamamba.training.metrics_log import MetricsFile

T = TypeVar("T")

FORMAT_VERSION = 1
COMMANDS = {"pretrain": "pretrain", "classify": "classify train"}
"""The purpose of a run in config.json -> the command that makes such runs."""


def describe_start(compute: Compute) -> dict[str, Any]:
    """Return the first entries of a manifest."""
    return {
        "dnamamba": __version__,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "device": str(compute.device),
        "ranks": compute.ranks.world_size,
    }


class RunFolder:
    """Paths inside a run folder, and its small JSON files."""

    def __init__(self, path: Path):
        self.path = path
        self.metrics = MetricsFile(path / "metrics.jsonl")
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"

    @classmethod
    def create(cls, path: Path, *, force: bool = False) -> "RunFolder":
        """Make a new run folder; `force` deletes an earlier run.

        Raises InputError if a run (without `force`) or anything else is in the way.
        """
        if path.exists() and not path.is_dir():
            raise InputError(f"--out {path} is a file; name a folder")
        run = cls(path)
        if path.is_dir() and any(path.iterdir()):
            if not run._is_run():
                raise InputError(f"--out {path} is a folder with other files in it; name a new one")
            if not force:
                raise InputError(
                    f"{path} holds a run already: continue it with --resume {path}, choose another "
                    "--out, or start over with --force"
                )
            run._clear()
        path.mkdir(parents=True, exist_ok=True)
        return run

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open a run folder. Raises InputError if there is no run."""
        if not (path / "config.json").exists():
            raise InputError(f"no run in {path} (it has no config.json)")
        return cls(path)

    def _is_run(self) -> bool:
        """Whether config.json is ours: other projects have files of that name."""
        try:
            return {"format_version", "train"} <= self.read_json("config").keys()
        except InputError:
            return False

    def _clear(self) -> None:
        for folder in (self.checkpoints, self.model):
            shutil.rmtree(folder, ignore_errors=True)
        # The config last: until then the folder is a run that --force may delete.
        names = ("metrics.jsonl", "report.html", "baseline.npz", "manifest.json", "baseline.json")
        for name in (*names, "evaluation.json", "bad_batch.json", "config.json"):
            (self.path / name).unlink(missing_ok=True)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write `name.json` whole or not at all."""
        write_json(self.path / f"{name}.json", content)

    def read_json(self, name: str) -> dict[str, Any]:
        """Read `name.json`; InputError if it is missing or damaged."""
        return read_json(self.path / f"{name}.json")

    def write_config(self, config: Any, purpose: str) -> None:
        """Write a config dataclass as config.json. purpose: a key of COMMANDS."""
        named = {} if purpose == "pretrain" else {"purpose": purpose}
        self.write_json("config", {"format_version": FORMAT_VERSION, **named, **to_dict(config)})

    def read_config(self, config_type: type[T], purpose: str) -> T:
        """Read what `write_config` wrote. Raises InputError for another purpose or format."""
        saved = self.read_json("config")
        version, found = saved.pop("format_version", None), saved.pop("purpose", "pretrain")
        if version != FORMAT_VERSION:
            raise InputError(
                f"{self.path} has config format_version {version}, this dnamamba reads "
                f"{FORMAT_VERSION}"
            )
        if found != purpose:
            command = COMMANDS.get(found, found)
            raise InputError(
                f"{self.path} is a run of `dnamamba {command}`, not of `dnamamba "
                f"{COMMANDS[purpose]}`; continue it with `dnamamba {command} --resume`, or give it "
                "as MODEL to classify with it"
            )
        return from_dict(config_type, saved)

    def update_manifest(self, changes: Mapping[str, Any]) -> None:
        self.write_json("manifest", self.read_json("manifest") | dict(changes))
