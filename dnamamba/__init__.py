"""dnamamba: long-context DNA language models, from FASTA to embeddings.

The public names below are loaded on first use, so `import dnamamba` stays fast and free of torch.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Interval": "dnamamba.intervals",
    "parse_size": "dnamamba.intervals",
    "VOCABULARY": "dnamamba.tokenizer",
    "decode": "dnamamba.tokenizer",
    "encode": "dnamamba.tokenizer",
    "reverse_complement": "dnamamba.tokenizer",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'dnamamba' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
