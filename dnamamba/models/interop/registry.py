"""The known layouts of weights, and which of them a source has."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from dnamamba.errors import InputError
from dnamamba.models.interop import caduceus, hyena, llama, mamba, mamba2
from dnamamba.models.interop.files import read_source
from dnamamba.models.interop.formats import Format, Settings, Weights
from dnamamba.models.language_model import DnaModel
from dnamamba.models.model_folder import load_weights

OWN_SETTINGS = "dnamamba"
"""Our key in their settings, which mask no logits of padding ids: the size of the vocabulary."""

# What code raises that trusts another project's shapes and settings.
_ODD = (ValueError, TypeError, LookupError, RuntimeError, AttributeError, ArithmeticError)

# Hugging Face's before others of the same architecture: exports take the first that holds a model.
FORMATS: tuple[Format, ...] = (
    *mamba.FORMATS,
    *mamba2.FORMATS,
    *llama.FORMATS,
    *hyena.FORMATS,
    *caduceus.FORMATS,
)


def format_names() -> list[str]:
    return [one.name for one in FORMATS]


def find_format(name: str) -> Format:
    for one in FORMATS:
        if one.name == name:
            return one
    raise InputError(f"no format is called {name!r}; there are {', '.join(format_names())}")


def recognise(weights: Weights, settings: Settings, source: str) -> Format:
    """The one format of weights and settings. Raises InputError if none or several fit."""
    found = [one for one in FORMATS if one.recognises(weights, settings)]
    if len(found) == 1:
        return found[0]
    if found:
        names = " or ".join(one.name for one in found)
        raise InputError(f"{source} may be {names}: say which with --format")
    some = ", ".join(list(weights)[:3])
    raise InputError(
        f"{source} is of no format known here ({', '.join(format_names())}); its tensors are "
        f"called {some} and so on. If it is one of these, say which with --format"
    )


def read_folder(folder: Path) -> DnaModel:
    """The model in a folder of another project's layout, such as `convert export` writes: float32,
    in evaluation mode. Raises InputError for files that are missing, broken or of no layout."""
    files = read_source(folder)
    found = recognise(files.weights, files.settings, str(folder))
    return read_weights(found, files.weights, files.settings, str(folder)).float().eval()


def read_weights(chosen: Format, weights: Weights, settings: Settings, source: str) -> DnaModel:
    """The model that weights and settings of a format hold. Raises InputError, naming `source`."""
    what = f"{source} as {chosen.name}"
    try:
        model = chosen.read(weights, settings)
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    except _ODD as error:
        raise InputError(f"{what} has shapes or settings that make no model: {error}") from error
    ours = settings.get(OWN_SETTINGS)
    vocab_size = ours.get("vocab_size") if isinstance(ours, Mapping) else None
    if vocab_size in (None, model.config.vocab_size):
        return model
    narrowed = DnaModel(replace(model.config, vocab_size=vocab_size)).to(model.lm_head.weight.dtype)
    load_weights(narrowed, model.state_dict(), what)
    return narrowed
