"""From a run, model folder, repository or preset to a model, and what its files say of it."""

from pathlib import Path
from typing import Any

from dnamamba.configs import from_dict
from dnamamba.errors import InputError
from dnamamba.files import describe_file, read_json
from dnamamba.models import DnaModel, hub, preset, preset_names
from dnamamba.models.classifier import DnaClassifier
from dnamamba.models.model_folder import CONFIG_NAME, WEIGHTS_NAME, enter_run
from dnamamba.task import Task


def is_preset(source: str | Path) -> bool:
    """Whether a name means a preset: nothing of that name lies here."""
    return source in preset_names() and not Path(source).exists()


def read_model(source: str, seq_len: int | None = None) -> DnaModel | DnaClassifier:
    """The model of a run folder, a model folder, a repository, or a preset with random weights.

    seq_len: length in bases that a preset's Hyena filters are made for. Raises InputError if there
    is no such model.
    """
    if is_preset(source):
        return DnaModel(preset(source, seq_len))
    if "head" in _read_settings(enter_run(Path(source))):
        return DnaClassifier.from_pretrained(source)
    return DnaModel.from_pretrained(source)


def read_language_model(source: str, seq_len: int | None = None) -> DnaModel:
    """`read_model`; of a classifier the language model that it was made of."""
    model = read_model(source, seq_len)
    return model.model if isinstance(model, DnaClassifier) else model


def read_trained_model(source: str) -> DnaModel:
    """`read_language_model`, but a preset, whose weights are random, is refused."""
    if is_preset(source):
        raise InputError(
            f"{source} is a preset, a model with random weights: name a run of `dnamamba pretrain` "
            "or `classify train`, a model's folder, or a repository"
        )
    return read_language_model(source)


def task_of_model(source: str | Path) -> Task | None:
    """The task of a classifier, without its weights; None of a language model."""
    head = _read_settings(_folder_of(source)).get("head")
    return from_dict(Task, head["task"]) if isinstance(head, dict) and "task" in head else None


def trained_seq_len(source: str | Path) -> int | None:
    """Length in bases of the longest sequences a model was trained on; None if no file says so.

    source: as of `read_model`; a repository must have been read before. A classifier's head says
    it, a language model's run does.
    """
    folder = _folder_of(source)
    head = _read_settings(folder).get("head")
    if isinstance(head, dict):
        length = head.get("trained_seq_len")
    else:
        run = folder.parent if folder.name == "model" else folder
        length = _entry(_read_settings(run), "data", "windows", "seq_len")
    return length if isinstance(length, int) else None


def weights_of(source: str | Path) -> str | None:
    """The sha256 of a model's weights, of a repository those in the Hub's cache, which must have
    been read; None of a preset."""
    weights = _folder_of(source) / WEIGHTS_NAME
    return str(describe_file(weights)["sha256"]) if weights.is_file() else None


def name_of_model(source: str | Path) -> str:
    """What a model is called by where it is; the model in a run by the run's name."""
    path = Path(source)
    path = path.resolve() if path.exists() else path
    return path.parent.name if path.name == "model" else path.name


def _folder_of(source: str | Path) -> Path:
    """Where a model's files are; nowhere of a preset."""
    if hub.is_repository(source):
        names = (CONFIG_NAME, WEIGHTS_NAME)
        return hub.download(str(source), names, None, None, local_files_only=True)
    return enter_run(Path(source))


def _read_settings(folder: Path) -> dict[str, Any]:
    """config.json of a model or a run; {} if there is none."""
    path = folder / CONFIG_NAME
    return read_json(path) if path.is_file() else {}


def _entry(settings: Any, *keys: str) -> Any:
    for key in keys:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings
