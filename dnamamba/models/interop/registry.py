"""The known layouts of weights, and which of them a source has."""

from dnamamba.errors import InputError
from dnamamba.models.interop import caduceus, hyena, llama, mamba, mamba2
from dnamamba.models.interop.formats import Format, Settings, Weights

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
    """The format of a name. Raises InputError, listing the names, for any other."""
    for one in FORMATS:
        if one.name == name:
            return one
    raise InputError(f"no format is called {name!r}; there are {', '.join(format_names())}")


def recognise(weights: Weights, settings: Settings, source: str) -> Format:
    """The one format of weights and settings. Raises InputError, naming `source` and the formats,
    if none or several fit."""
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
