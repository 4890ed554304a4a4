"""What data and a pretrained model say about the head, the loss and the memory of a run."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dnamamba.data.examples import Examples, LabelledDataset
from dnamamba.data.labelled import SequenceDataset
from dnamamba.errors import InputError
from dnamamba.label_loss import ClassWeights, class_weights_of
from dnamamba.models import DnaModel, hub, preset, preset_names
from dnamamba.models.classifier import DnaClassifier
from dnamamba.models.model_folder import CONFIG_NAME, WEIGHTS_NAME, enter_run
from dnamamba.models.weight_files import read_json
from dnamamba.task import Task
from dnamamba.tokenizer import FIRST_BASE_ID


def target_scaling(train_set: LabelledDataset) -> dict[str, tuple[float, ...]]:
    """Mean and spread of a regression's numbers in training; nothing for other tasks."""
    if train_set.task.kind != "regression":
        return {}
    assert isinstance(train_set, SequenceDataset)
    numbers = train_set.sequences.targets.astype(np.float64)
    scales = numbers.std(0)
    return {
        "target_means": tuple(numbers.mean(0).tolist()),
        "target_scales": tuple(np.where(scales > 0, scales, 1.0).tolist()),
    }


def class_weights(kind: ClassWeights, train_set: LabelledDataset) -> Tensor | None:
    """What the loss of each class is multiplied with; see label_loss.class_weights_of."""
    if not isinstance(train_set, SequenceDataset):
        return None  # species are drawn alike, so they are balanced
    targets = train_set.sequences.targets
    if targets.dtype == np.int8:
        targets = targets.astype(np.int64)
    return class_weights_of(targets, train_set.task, kind)


def probe_examples(task: Task, n_tokens: int, device: torch.device) -> Examples:
    """A sequence to weigh a forward pass with."""
    codes = torch.full((1, n_tokens), FIRST_BASE_ID, dtype=torch.uint8, device=device)
    if task.has_classes:
        shape = (1, n_tokens) if task.kind == "per_base" else (1,)
        targets = torch.zeros(shape, dtype=torch.int64, device=device)
    else:
        targets = torch.zeros((1, len(task.labels)), device=device)
    return Examples(codes, torch.full((1,), n_tokens, device=device), targets)


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
