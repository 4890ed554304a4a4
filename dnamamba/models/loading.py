"""What data and a pretrained model say about the head, the loss and the memory of a run."""

import hashlib
from pathlib import Path

from dnamamba.errors import InputError
from dnamamba.models import DnaModel, hub, preset, preset_names
from dnamamba.models.classifier import DnaClassifier
from dnamamba.models.model_folder import CONFIG_NAME, WEIGHTS_NAME, enter_run
from dnamamba.models.weight_files import read_json


def weights_of(model: str) -> str | None:
    """The sha256 of a pretrained model's weights, of a repository those in the Hub's cache, which
    must have been read; None of a preset."""
    folder = Path(model)
    if hub.is_repository(model):
        folder = hub.download(model, (WEIGHTS_NAME,), None, None, local_files_only=True)
    for each in (folder / "model", folder):
        if (file := each / WEIGHTS_NAME).is_file():
            with open(file, "rb") as opened:
                return hashlib.file_digest(opened, "sha256").hexdigest()
    return None


def read_model(source: str, seq_len: int | None = None) -> DnaModel | DnaClassifier:
    """The model of a run folder, a model folder, a repository, or a preset with random weights.

    seq_len: what a preset's Hyena filters are made for. Raises InputError where there is none.
    """
    path = Path(source)
    if source in preset_names() and not path.exists():
        return DnaModel(preset(source, seq_len))
    settings = enter_run(path) / CONFIG_NAME
    if settings.is_file() and "head" in read_json(settings):
        return DnaClassifier.from_pretrained(source)
    return DnaModel.from_pretrained(source)


def read_trained_model(source: str) -> DnaModel:
    """`read_language_model` of anything but a preset, whose weights are random."""
    if source in preset_names() and not Path(source).exists():
        raise InputError(
            f"{source} is a preset, a model with random weights: name a run of `dnamamba pretrain` "
            "or `classify train`, a model's folder, or a repository"
        )
    return read_language_model(source)


def read_language_model(source: str, seq_len: int | None = None) -> DnaModel:
    """The same, of a classifier the language model that it was made of."""
    model = read_model(source, seq_len)
    return model.model if isinstance(model, DnaClassifier) else model


def name_of_model(source: str | Path) -> str:
    """What a model is called by where it is: of the model in a run, the run's name."""
    path = Path(source)
    path = path.resolve() if path.exists() else path
    return path.parent.name if path.name == "model" else path.name
