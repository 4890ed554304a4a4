"""Both strands of what a model predicts.

`rc` says everywhere what the reverse complement of a sequence is read for: `none`, `average` (the
mean of both strands), or `concat` (embeddings: one after the other). `rc_augment`: training reads
either strand. `both_strands`: words are counted on both.
"""

from collections.abc import Callable

from torch import Tensor

from dnamamba.models.strands import complement_ids, flip
from dnamamba.tokenizer import TOKEN_MASK


def predict_reverse(
    predict: Callable[[Tensor, Tensor | None], Tensor],
    token_ids: Tensor,
    lengths: Tensor | None,
    *,
    per_base: bool = False,
) -> Tensor:
    """Predictions for the reverse complements of a batch; per base in the order of the batch.

    predict: (token ids (B, L), lengths (B,) or None) -> (B, ...). token_ids: any integer dtype,
    without soft-mask, padded on the right.
    """
    complement = complement_ids(TOKEN_MASK + 1).to(token_ids.device)
    predicted = predict(complement[flip(token_ids.long(), lengths)], lengths)
    return flip(predicted, lengths) if per_base else predicted
