"""The windows that a model is run on."""

from dnamamba.errors import InputError
from dnamamba.runtime import logger


def check_seq_len(seq_len: int, trained: int | None, most: int | None) -> None:
    """Raises InputError for more bases than a Hyena's filters were made for (`most`); says where
    windows are longer than those trained on."""
    if most is not None and seq_len > most:
        raise InputError(
            f"windows of {seq_len:,} bases were asked for, but this model's filters were made for "
            f"{most:,}: use a --seq-len up to that"
        )
    if trained is not None and seq_len > trained:
        logger.warning(
            "windows of %s bases are longer than any that the model was trained on (%s)",
            f"{seq_len:,}",
            f"{trained:,}",
        )
