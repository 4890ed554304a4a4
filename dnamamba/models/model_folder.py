"""A saved model is a folder: model.safetensors and config.json.

Weights are float32 under their names, tied ones once. config.json has `format_version`, `model`
and, for a classifier, `head`.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dnamamba.errors import InputError
from dnamamba.files import building, read_json
from dnamamba.models import hub
from dnamamba.models.presets import preset_names

# 2: the model is a hybrid (`layers`). All others stay 1, which older versions read.
FORMAT_VERSIONS = (1, 2)
WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
WEIGHT_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class SavedModel(nn.Module):
    """A module that is saved to a folder; subclasses decide the content of config.json."""

    def _settings(self) -> dict[str, Any]:
        """Content of config.json beside format_version."""
        raise NotImplementedError

    @classmethod
    def _builder(cls, settings: Mapping[str, Any], source: str) -> Callable[[], Self]:
        """Builder of the model that `_settings` described. Raises InputError, naming `source`."""
        raise NotImplementedError

    @classmethod
    def _from_other(cls, folder: Path) -> Self:
        """The model in a folder of another project's layout. Raises InputError if it is none."""
        raise InputError(
            f"{folder} is no classifier of dnamamba: config.json has no format_version"
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model.safetensors and config.json, each whole or not at all."""
        folder = Path(folder)
        tied = _tied_names(self)
        weights = {
            name: tensor.contiguous()
            for name, tensor in self.state_dict().items()
            if name not in tied
        }
        content = self._settings()
        config = {"format_version": 2 if "layers" in content["model"] else 1, **content}
        with building(folder / CONFIG_NAME) as settings, building(folder / WEIGHTS_NAME) as path:
            settings.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            save_file(weights, path, metadata={"format": "pt"})

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Read what `save_pretrained` wrote, from a folder or from the Hugging Face Hub.

        folder: a model folder or a run's or, for a language model, what `dnamamba convert export`
        wrote, without network; or a str "owner/name" that is no such folder, a repository on the
        Hub (needs huggingface_hub, the extra `hub`). Nothing is unpickled and no code of a
        repository runs. revision: its branch, tag or commit; default the main branch. cache_dir:
        folder of downloads; default huggingface_hub's. local_files_only: use no network.

        Returns the model in evaluation mode. Raises InputError if a file is missing, broken or of
        another format_version or kind, if weights do not fit the config, and if a repository cannot
        be read.
        """
        if hub.is_repository(folder):
            names = (CONFIG_NAME, WEIGHTS_NAME)
            found = hub.download(str(folder), names, revision, cache_dir, local_files_only)
        elif revision is not None:
            raise InputError(
                f"{folder} is no repository on the Hugging Face Hub, so it has no revision "
                f"{revision!r}: leave revision out, or give owner/name"
            )
        elif folder in preset_names() and not Path(folder).exists():
            raise InputError(
                f"{folder} is a preset, which has no weights: name a run's or a model's folder "
                f"or a repository, or take random weights by DnaModel.from_config({folder!r})"
            )
        else:
            found = enter_run(Path(folder))
            _check_files(found)
            if "format_version" not in read_json(found / CONFIG_NAME):
                return cls._from_other(found)
        _check_files(found)
        settings = _read_settings(found / CONFIG_NAME)
        build = cls._builder(settings, str(found / CONFIG_NAME))
        weights, source = read_safetensors(found / WEIGHTS_NAME), str(found / WEIGHTS_NAME)
        check_weights(build, weights, source)
        model = build()
        load_weights(model, weights, source)
        return model.eval()

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload a dnamamba model",
    ) -> str:
        """Save to a repository "owner/name" on the Hugging Face Hub; returns the commit's address.

        private: of a newly made repository; default the owner's setting. revision: the branch;
        default the main one. The login is huggingface_hub's (`hf auth login`). Raises InputError if
        that package is missing or the Hub refuses.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return hub.upload(Path(folder), repo_id, private, revision, commit_message)


def enter_run(folder: Path) -> Path:
    """The model/ folder of a run, which has a config.json of its own; else the folder itself."""
    inner = folder / "model"
    is_run = (inner / CONFIG_NAME).is_file() and not (folder / WEIGHTS_NAME).is_file()
    return inner if is_run else folder


def _check_files(folder: Path) -> None:
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} has no {name}: a saved model is a folder with {CONFIG_NAME} and "
                f"{WEIGHTS_NAME}, as in the model/ folder of a run"
            )


def _read_settings(path: Path) -> dict[str, Any]:
    saved = read_json(path)
    version = saved.get("format_version")
    if version is None:
        raise InputError(
            f"{path} has no format_version, so it is no config of dnamamba; for models of other "
            "projects there is `dnamamba convert import`"
        )
    if version not in FORMAT_VERSIONS:
        raise InputError(
            f"{path} has format_version {version}, this dnamamba reads "
            f"{' and '.join(map(str, FORMAT_VERSIONS))}; install the dnamamba that wrote it, or a "
            "newer one"
        )
    return saved


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Raises InputError for a file that is not whole."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(
            f"{path} is not a whole safetensors file ({error}); copy or download it again"
        ) from error


def check_weights(
    build: Callable[[], nn.Module], weights: Mapping[str, Tensor], source: str
) -> None:
    """Raise InputError as `load_weights` would, before a model takes memory: a few bytes of
    config.json may ask for any amount."""
    try:
        with torch.device("meta"):
            model = build()
    except (RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{source}: no model can have the sizes asked for ({reason})") from error
    _select_weights(model, weights, source)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy weights by name into a model; tied ones may be left out. Raises InputError naming
    `source` and every key that is missing, unknown, of another shape or quantised."""
    model.load_state_dict(_select_weights(model, weights, source), strict=False)


def _select_weights(
    model: nn.Module, weights: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    tied = _tied_names(model)
    weights = {name: tensor for name, tensor in weights.items() if name not in tied}
    own = model.state_dict()
    expected = {name: tensor.shape for name, tensor in own.items() if name not in tied}
    problems = [f"missing {name}" for name in sorted(expected.keys() - weights.keys())]
    problems += [f"unknown {name}" for name in sorted(weights.keys() - expected.keys())]
    for name in sorted(expected.keys() & weights.keys()):
        # Copying would make floats of quantised weights, which mean something else.
        if own[name].is_floating_point() and weights[name].dtype not in WEIGHT_DTYPES:
            problems.append(f"{name} is {weights[name].dtype}, expected torch.float32")
        if weights[name].shape != expected[name]:
            got, wanted = tuple(weights[name].shape), tuple(expected[name])
            problems.append(f"{name} is {got}, expected {wanted}")
    if problems:
        raise InputError(f"{source} does not fit the model: {'; '.join(problems)}")
    return weights


def _tied_names(model: nn.Module) -> set[str]:
    """Second names of parameters."""
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return every - {name for name, _ in model.named_parameters()}
