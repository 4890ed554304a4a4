"""dnamamba: long-context DNA language models, from FASTA to a trained model.

The public names below are loaded on first use, so `import dnamamba` stays fast and free of torch.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "DataConfig": "dnamamba.data.dataset",
    "DnaModel": "dnamamba.models",
    "InputError": "dnamamba.errors",
    "Interval": "dnamamba.intervals",
    "MambaConfig": "dnamamba.models",
    "ModelConfig": "dnamamba.models",
    "PretrainConfig": "dnamamba.pretraining",
    "RunFolder": "dnamamba.run_folder",
    "RunOptions": "dnamamba.pretraining",
    "SplitConfig": "dnamamba.data.splits",
    "TrainConfig": "dnamamba.recipe",
    "VOCABULARY": "dnamamba.tokenizer",
    "WindowConfig": "dnamamba.data.windows",
    "count_parameters": "dnamamba.models",
    "decode": "dnamamba.tokenizer",
    "encode": "dnamamba.tokenizer",
    "open_genome": "dnamamba.data_prep.genome",
    "parse_size": "dnamamba.intervals",
    "plan_pretraining": "dnamamba.pretraining",
    "preset": "dnamamba.models",
    "preset_names": "dnamamba.models",
    "pretrain": "dnamamba.pretraining",
    "resume": "dnamamba.pretraining",
    "reverse_complement": "dnamamba.tokenizer",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'dnamamba' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
