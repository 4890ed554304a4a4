"""The windows that a model is run on, and how long they may be."""

from dnamamba.data_prep.regions.rows import RegionEdge, WindowRule
from dnamamba.errors import InputError
from dnamamba.models.config import ModelConfig
from dnamamba.models.streaming import longest_sequence
from dnamamba.runtime import logger

DEFAULT_SEQ_LEN = 2048
"""Bases of a window if neither the command nor the model's run says how many."""


def why_too_long(config: ModelConfig, n_bases: int) -> str | None:
    """The reason why a model cannot read so many bases at once; None if it can."""
    most = longest_sequence(config)
    if most is None or n_bases <= most:
        return None
    return f"{n_bases:,} bases are more than the {most:,} that this model's filters were made for"


def check_seq_len(config: ModelConfig, seq_len: int, trained: int | None) -> None:
    """Raise InputError for windows longer than a Hyena's filters; warn about windows longer than
    those the model was trained on (`trained`)."""
    if reason := why_too_long(config, seq_len):
        raise InputError(f"{reason}: ask for shorter windows")
    if trained is not None and seq_len > trained:
        logger.warning(
            "windows of %s bases are longer than any that the model was trained on (%s)",
            f"{seq_len:,}",
            f"{trained:,}",
        )


def variant_rule(
    config: ModelConfig,
    seq_len: int | None = None,
    edge: RegionEdge = "shift",
    trained: int | None = None,
) -> WindowRule:
    """The windows that variants are read in.

    seq_len: bases of the longer allele's window. Default: `trained`, the length that the model was
    trained on, or 2,048 if that is unknown, but no more than a Hyena's filters. Raises InputError
    for a longer one than these.
    """
    if seq_len is None:
        wanted = trained or DEFAULT_SEQ_LEN
        seq_len = min(wanted, longest_sequence(config) or wanted)
    check_seq_len(config, seq_len, trained)
    return WindowRule(seq_len=seq_len, edge=edge)
