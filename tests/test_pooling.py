"""Pooling against plain loops: of batches, of pieces, of either strand."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnamamba.errors import InputError
from dnamamba.models.pooling import Pooler, Pooling
from dnamamba.tokenizer import PAD_ID, encode, is_base, token_ids

KINDS = ["mean", "max", "last", "center", "bins:1", "bins:3", "bins:7"]
LETTERS = "ACGTacgtNnRYX-"


def pool_plainly(text, span, hidden, pooling):
    """One row (L, D) to (N, D) as the definition has it."""
    start, end = span
    bases = [i for i in range(start, end) if text[i] in "ACGTacgt"]
    nothing = np.full(hidden.shape[1], np.nan)
    if pooling.kind == "bins":
        size, n = end - start, pooling.n_bins
        edges = [start + i * size // n for i in range(n + 1)]
        parts = [[i for i in bases if low <= i < high] for low, high in pairwise(edges)]
        return np.stack([hidden[part].mean(0) if part else nothing for part in parts])
    if not bases:
        return nothing[None]
    if pooling.kind == "mean":
        return hidden[bases].mean(0)[None]
    if pooling.kind == "max":
        return hidden[bases].max(0)[None]
    if pooling.kind == "last":
        return hidden[bases[-1]][None]
    nearest = min(bases, key=lambda i: (abs(2 * i + 1 - start - end), -i))
    return hidden[nearest][None]


def tokens_of(texts):
    """Padded on the right, (B, L) uint8."""
    width = max(map(len, texts))
    ids = np.full((len(texts), width), PAD_ID, np.uint8)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = token_ids(encode(text))
    return torch.from_numpy(ids)


def draw_hidden(batch, seq_len, width=5, seed=0):
    return torch.randn(
        batch, seq_len, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def pool(pooling, texts, spans, hidden, cuts=(), reverse=False):
    """hidden: of each layer, in pieces that end at the cuts."""
    pooler = Pooler(pooling, np.array(spans, np.int64), reverse=reverse)
    ids = tokens_of(texts)
    edges = [0, *sorted(set(cuts)), ids.shape[1]]
    for low, high in pairwise(edges):
        if low < high:
            pooler.add(low, ids[:, low:high], [layer[:, low:high] for layer in hidden])
    return pooler.finish()


rows_of_text = st.lists(
    st.tuples(st.text(LETTERS, min_size=1, max_size=200), st.floats(0, 0.999), st.floats(0.001, 1)),
    min_size=1,
    max_size=4,
)


def spans_of(rows):
    spans = []
    for text, low, high in rows:
        start = int(low * len(text))
        spans.append((start, min(len(text), start + max(1, int(high * len(text))))))
    return spans


@settings(max_examples=100, deadline=None)
@given(
    rows=rows_of_text, text=st.sampled_from(KINDS), cuts=st.lists(st.integers(1, 200), max_size=5)
)
def test_batches_and_pieces_are_what_a_loop_gives(rows, text, cuts):
    pooling, texts, spans = Pooling.parse(text), [row[0] for row in rows], spans_of(rows)
    seq_len = max(map(len, texts))
    hidden = [draw_hidden(len(texts), seq_len, seed=i) for i in range(2)]
    # What lies in the padding must not matter.
    for layer in hidden:
        for row, one in zip(layer, texts, strict=True):
            row[len(one) :] = 1e3
    cuts = [cut for cut in cuts if cut < seq_len]
    for where in ((), cuts):
        vectors, n_bases = pool(pooling, texts, spans, hidden, where)
        assert vectors.shape == (len(texts), 2, pooling.n_vectors, 5)
        for i, (one, span) in enumerate(zip(texts, spans, strict=True)):
            for k, layer in enumerate(hidden):
                expected = pool_plainly(one, span, layer[i].numpy(), pooling)
                np.testing.assert_allclose(vectors[i, k].numpy(), expected, rtol=1e-12, atol=1e-12)
            assert ((n_bases[i] == 0) == torch.isnan(vectors[i, 0, :, 0])).all()
            if pooling.kind in ("mean", "max", "bins"):
                n = int(is_base(encode(one[span[0] : span[1]])).sum())
                assert n_bases[i].sum() == n


@settings(max_examples=60, deadline=None)
@given(
    rows=rows_of_text, text=st.sampled_from(KINDS), cuts=st.lists(st.integers(1, 200), max_size=3)
)
def test_the_other_strand_is_put_back_in_place(rows, text, cuts):
    """Hidden states and letters turned round: the same vectors, but for `last`."""
    pooling = Pooling.parse(text)
    if pooling.kind == "last":
        return
    one, span = rows[0][0], spans_of(rows)[0]
    hidden = draw_hidden(1, len(one))
    turned = (len(one) - span[1], len(one) - span[0])
    cuts = [cut for cut in cuts if cut < len(one)]
    ahead = pool(pooling, [one], [span], [hidden])
    back = pool(pooling, [one[::-1]], [turned], [hidden.flip(1)], cuts, reverse=True)
    torch.testing.assert_close(ahead.vectors, back.vectors, equal_nan=True)
    assert torch.equal(ahead.n_bases, back.n_bases)


def test_last_of_the_other_strand_is_the_last_that_is_read():
    hidden = draw_hidden(1, 6)
    back = pool(Pooling("last"), ["NACGTN"[::-1]], [(0, 6)], [hidden.flip(1)], reverse=True)
    assert torch.equal(back.vectors[0, 0, 0], hidden[0, 1])


@pytest.mark.parametrize(
    ("text", "span", "index"),
    [
        ("ACGTA", (0, 5), 2),
        ("ACGT", (0, 4), 2),
        ("ACNNT", (0, 5), 1),
        ("ANNNT", (0, 5), 4),
        ("AANNNNNNNN", (0, 10), 1),
        ("TTTTNACGN", (4, 9), 6),
        ("ACGT", (3, 4), 3),
    ],
)
def test_center(text, span, index):
    hidden = draw_hidden(1, len(text))
    assert torch.equal(
        pool(Pooling("center"), [text], [span], [hidden]).vectors[0, 0, 0], hidden[0, index]
    )


def test_long_sums_lose_no_digits():
    """Of a million float32 numbers near 1,000, in which a plain float32 sum would lose three."""
    n, piece = 1 << 20, 1 << 16
    pooler = Pooler(Pooling("mean"), np.array([[0, n]]))
    generator, total = torch.Generator().manual_seed(0), 0.0
    ids = tokens_of(["A" * piece])
    for start in range(0, n, piece):
        hidden = 1000 + torch.rand(1, piece, 2, generator=generator)
        total = total + hidden.double().sum(1)
        pooler.add(start, ids, [hidden])
    vectors, n_bases = pooler.finish()
    assert vectors.dtype == torch.float32
    assert n_bases.tolist() == [[n]]
    torch.testing.assert_close(vectors[:, 0, 0].double(), total / n, rtol=1e-7, atol=0)


def test_half_precision_is_added_up_in_full():
    hidden = torch.ones(1, 1000, 2, dtype=torch.bfloat16)
    vectors, _ = pool(Pooling("mean"), ["A" * 1000], [(0, 1000)], [hidden])
    assert vectors.dtype == torch.float32
    assert (vectors == 1).all()


def test_more_bins_than_bases():
    hidden = draw_hidden(1, 3)
    vectors, n_bases = pool(Pooling("bins", 5), ["ACG"], [(0, 3)], [hidden])
    assert n_bases.tolist() == [[0, 1, 0, 1, 1]]
    assert torch.equal(vectors[0, 0, [1, 3, 4]], hidden[0])


def test_padding_changes_no_bit():
    hidden = draw_hidden(1, 100).float()
    padded = torch.cat([hidden, torch.full((1, 60, 5), 7.0)], 1)
    alone = pool(Pooling("bins", 3), ["ACGTN" * 20], [(5, 90)], [hidden])
    both = pool(
        Pooling("bins", 3), ["ACGTN" * 20, "A" * 160], [(5, 90)] * 2, [padded.repeat(2, 1, 1)]
    )
    assert torch.equal(alone.vectors[0], both.vectors[0])


def test_names():
    for text in ("none", "mean", "last", "max", "center", "bins:16"):
        assert str(Pooling.parse(text)) == text
    assert Pooling.parse("bins:16") == Pooling("bins", 16)
    assert (Pooling("mean").n_vectors, Pooling("bins", 4).n_vectors) == (1, 4)
    for text in ("median", "bins", "bins:", "bins:x", "bins:-1", "mean:3", ""):
        with pytest.raises(InputError, match=r"pooling must be one of none, .* or bins:N"):
            Pooling.parse(text)
    with pytest.raises(InputError, match="bins:N needs N >= 1, got 0"):
        Pooling.parse("bins:0")
    with pytest.raises(InputError, match="only bins takes n_bins"):
        Pooling("mean", 3)
    with pytest.raises(InputError, match="or bins:N"):
        Pooling("bins", None)
    with pytest.raises(ValueError, match="nothing to pool"):
        Pooler(Pooling("none"), np.array([[0, 1]]))
    with pytest.raises(ValueError, match="nothing was added"):
        Pooler(Pooling("mean"), np.array([[0, 1]])).finish()
