"""A run is a folder: everything that is needed to continue it, read it or use its model.

config.json     the resolved settings; `--resume` starts from them
manifest.json   versions, device, kernel backend, genome checksums, how the run ended
metrics.jsonl   one object a line
baseline.json   Markov models on the same data
checkpoints/    training state, the newest ones
model/          safetensors and config, for use
report.html     the loss curve
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnamamba.errors import InputError
from dnamamba.metrics import MetricsFile


class RunFolder:
    """Paths inside a run folder, and its small JSON files."""

    def __init__(self, path: Path):
        self.path = path
        self.metrics = MetricsFile(path / "metrics.jsonl")
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"

    @classmethod
    def create(cls, path: Path, *, force: bool = False) -> "RunFolder":
        """Make a new one. Raises InputError where a run or anything else is in the way."""
        if path.exists() and not path.is_dir():
            raise InputError(f"--out {path} is a file; name a folder")
        if (path / "config.json").exists() and not force:
            raise InputError(
                f"{path} holds a run already: continue it with --resume {path}, choose another "
                "--out, or start over with --force"
            )
        if path.is_dir() and any(path.iterdir()) and not (path / "config.json").exists():
            raise InputError(f"--out {path} is a folder with other files in it; name a new one")
        run = cls(path)
        run._clear()
        path.mkdir(parents=True, exist_ok=True)
        return run

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing one. Raises InputError where there is no run."""
        if not (path / "config.json").exists():
            raise InputError(f"no run in {path} (it has no config.json)")
        return cls(path)

    def _clear(self) -> None:
        import shutil

        for name in ("config", "manifest", "baseline", "bad_batch"):
            (self.path / f"{name}.json").unlink(missing_ok=True)
        for file in (self.metrics.path, self.path / "report.html"):
            file.unlink(missing_ok=True)
        for folder in (self.checkpoints, self.model):
            shutil.rmtree(folder, ignore_errors=True)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write `name`.json whole or not at all."""
        building = self.path / f".{name}.building"
        building.write_text(json.dumps(content, indent=2) + "\n", encoding="utf8")
        os.replace(building, self.path / f"{name}.json")

    def read_json(self, name: str) -> dict[str, Any]:
        path = self.path / f"{name}.json"
        try:
            return json.loads(path.read_text(encoding="utf8"))
        except FileNotFoundError as error:
            raise InputError(f"{path} is missing") from error
        except json.JSONDecodeError as error:
            raise InputError(f"{path} is not valid JSON: {error}") from error

    def update_manifest(self, changes: Mapping[str, Any]) -> None:
        self.write_json("manifest", self.read_json("manifest") | dict(changes))
