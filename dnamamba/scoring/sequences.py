"""How likely sequences are to a causal language model."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import torch

from dnamamba.configs import require_choice
from dnamamba.data_prep.regions.rows import RegionRow
from dnamamba.errors import InputError
from dnamamba.inference.inputs import GenomeLike, read_inputs
from dnamamba.inference.likelihood import log_probabilities, reduce_log_probs
from dnamamba.inference.options import InferenceOptions, RcMode
from dnamamba.models.language_model import DnaModel
from dnamamba.tokenizer import Codes, reverse_complement

Reduction = Literal["sum", "mean", "none"]


def score_sequences(
    model: DnaModel,
    data: Any,
    *,
    genome: GenomeLike | None = None,
    reduction: Reduction = "sum",
    rc: RcMode = "none",
    batch_tokens: int | None = None,
    autocast_dtype: torch.dtype | None = None,
) -> Any:
    """Log-likelihood of each sequence or region in nats, (N,) float64; of one sequence a float.

    data, genome: as in `embed`. reduction: `sum` (default) over the bases; `mean`, of which -1/ln 2
    is bits per base; or `none`, a float32 array (L,) for each sequence, log p of each base given
    those before it. The first base, N and other letters have no likelihood: NaN in arrays, left out
    of sums and means, which are NaN if no base is left.
    rc: `none` (default), or `average` for the mean of both strands' sums or means.
    batch_tokens: tokens in one pass, default 1M on a GPU and 64k on a CPU; it changes rounding
    alone. autocast_dtype: dtype of matrix products, default the parameters' own.

        dnamamba.score_sequences(model, ["ACGTTG", "TTGACA"], reduction="mean")   # (2,)

    Raises InputError for a model that reads both ways, and as `embed` for data.
    """
    options = InferenceOptions(batch_tokens=batch_tokens, autocast_dtype=autocast_dtype)
    require_choice("reduction", reduction, Reduction)
    require_choice("rc", rc, Literal["none", "average"])
    if reduction == "none" and rc != "none":
        raise InputError(f"rc must be none with reduction 'none', got {rc!r}")
    rows, is_single = read_inputs(data, genome)
    both = rc == "average" and model.config.strands == "one"
    found = log_probabilities(model, _strands(rows, both), options)
    if reduction == "none":
        return next(found) if is_single else list(found)
    scores = np.array([reduce_log_probs(one, reduction) for one in found], np.float64)
    if both:
        scores = scores.reshape(-1, 2).mean(1)
    return float(scores[0]) if is_single else scores


def _strands(rows: Iterable[RegionRow], both: bool) -> Iterator[Codes]:
    """The sequence of each row, or each followed by its reverse complement."""
    for row in rows:
        codes = row.read(0, row.length)
        yield codes
        if both:
            yield reverse_complement(codes)
