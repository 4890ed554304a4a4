"""dnamamba: long-context DNA language models, from FASTA to a trained model.

The public names below are loaded on first use, so `import dnamamba` stays fast and free of torch.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "ClassifyConfig": "dnamamba.classify_config",
    "DataConfig": "dnamamba.data.dataset",
    "DnaClassifier": "dnamamba.models.classifier",
    "DnaModel": "dnamamba.models",
    "FineTuneConfig": "dnamamba.classify_config",
    "InputError": "dnamamba.errors",
    "Interval": "dnamamba.intervals",
    "MambaConfig": "dnamamba.models",
    "ModelConfig": "dnamamba.models",
    "PretrainConfig": "dnamamba.pretraining",
    "RecordsConfig": "dnamamba.data.label_configs",
    "RegionsConfig": "dnamamba.data.label_configs",
    "RunFolder": "dnamamba.run_folder",
    "RunOptions": "dnamamba.pretraining",
    "SpeciesConfig": "dnamamba.data.species",
    "SpeciesFiles": "dnamamba.data.species",
    "SplitConfig": "dnamamba.data.splits",
    "TableConfig": "dnamamba.data.label_configs",
    "TrainConfig": "dnamamba.recipe",
    "VOCABULARY": "dnamamba.tokenizer",
    "WindowConfig": "dnamamba.data.windows",
    "count_parameters": "dnamamba.models",
    "decode": "dnamamba.tokenizer",
    "embed_sequences": "dnamamba.embedding",
    "encode": "dnamamba.tokenizer",
    "open_genome": "dnamamba.data_prep.genome",
    "parse_size": "dnamamba.intervals",
    "plan_pretraining": "dnamamba.pretraining",
    "predict_sequences": "dnamamba.prediction",
    "preset": "dnamamba.models",
    "preset_names": "dnamamba.models",
    "pretrain": "dnamamba.pretraining",
    "read_embeddings": "dnamamba.embedding_reader",
    "resume": "dnamamba.pretraining",
    "resume_classifier": "dnamamba.classification",
    "reverse_complement": "dnamamba.tokenizer",
    "train_classifier": "dnamamba.classification",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'dnamamba' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
