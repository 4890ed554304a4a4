"""dnamamba: long-context DNA language models, from FASTA to a trained model.

The public names below are loaded on first use, so `import dnamamba` stays fast and free of torch.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "ClassifyConfig": "dnamamba.classification.config",
    "DataConfig": "dnamamba.data.window_dataset",
    "DnaClassifier": "dnamamba.models.classifier",
    "DnaModel": "dnamamba.models",
    "EmbedConfig": "dnamamba.embedding.config",
    "FineTuneConfig": "dnamamba.classification.config",
    "InputError": "dnamamba.errors",
    "Interval": "dnamamba.intervals",
    "LabelTable": "dnamamba.probing.labels",
    "MambaConfig": "dnamamba.models",
    "Mixer": "dnamamba.models",
    "MixerConfig": "dnamamba.models",
    "ModelConfig": "dnamamba.models",
    "PretrainConfig": "dnamamba.pretraining.config",
    "ProbeConfig": "dnamamba.probing.problem",
    "RecordsConfig": "dnamamba.data.labelled.config",
    "RegionsConfig": "dnamamba.data.labelled.config",
    "RunFolder": "dnamamba.training.run_folder",
    "RunOptions": "dnamamba.training.config",
    "SpeciesConfig": "dnamamba.data.species.dataset",
    "SpeciesFiles": "dnamamba.data.species.dataset",
    "SplitConfig": "dnamamba.data.splits",
    "TableConfig": "dnamamba.data.labelled.config",
    "TrainConfig": "dnamamba.pretraining.config",
    "VOCABULARY": "dnamamba.tokenizer",
    "WindowConfig": "dnamamba.data.windows",
    "count_flops": "dnamamba.models",
    "count_parameters": "dnamamba.models",
    "decode": "dnamamba.tokenizer",
    "embed_regions": "dnamamba.embedding.run",
    "embed_sequences": "dnamamba.embedding.embedder",
    "encode": "dnamamba.tokenizer",
    "open_genome": "dnamamba.data_prep.genomes.genome",
    "parse_size": "dnamamba.intervals",
    "plan_pretraining": "dnamamba.pretraining.run",
    "predict_sequences": "dnamamba.classification.predict",
    "preset": "dnamamba.models",
    "preset_names": "dnamamba.models",
    "pretrain": "dnamamba.pretraining.run",
    "probe_embeddings": "dnamamba.probing.run",
    "read_embeddings": "dnamamba.embedding.reader",
    "register_mixer": "dnamamba.models",
    "resume": "dnamamba.pretraining.run",
    "resume_classifier": "dnamamba.classification.run",
    "reverse_complement": "dnamamba.tokenizer",
    "train_classifier": "dnamamba.classification.run",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'dnamamba' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
