"""Ids, codes, soft-mask and complement; HyenaDNA's own tokenizer is the judge of the ids."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from dnamamba.tokenizer import (
    IUPAC_AMBIGUOUS,
    N_ID,
    PAD_ID,
    UNK_ID,
    VOCABULARY,
    decode,
    encode,
    is_base,
    is_soft_masked,
    reverse_complement,
    token_ids,
)
from genomes import LETTERS, as_read
from golden_files import load_golden_json

anything = st.text(st.sampled_from(LETTERS))
known_letters = st.text(st.sampled_from("ACGTNacgtn"))


def test_the_vocabulary_is_hyenadnas():
    golden = load_golden_json("tokenizer_hyenadna")["repo"]["left"]["vocab"]
    assert {token: VOCABULARY.id(token) for token in VOCABULARY.tokens} == golden
    assert VOCABULARY.size == 12
    assert VOCABULARY.padded_size == 16
    assert VOCABULARY.base_ids == (7, 8, 9, 10)


def test_upper_case_texts_get_hyenadnas_ids():
    items = load_golden_json("tokenizer_hyenadna")["repo"]["left"]["items"]
    evaluated = [item for item in items if set(item["text"]) <= set("ACGTN")]
    assert len(evaluated) >= 4
    for item in evaluated:
        assert encode(item["text"]).tolist() == item["plain"]["input_ids"]


@given(known_letters)
@settings(deadline=None)
def test_lower_case_is_the_same_id_and_a_mask_bit(text):
    upper, lower = encode(text.upper()), encode(text.lower())
    assert (token_ids(lower) == upper).all()
    assert not is_soft_masked(upper).any()
    assert is_soft_masked(lower).all()


def test_letters_outside_the_vocabulary():
    assert (token_ids(encode("Uu")) == VOCABULARY.id("T")).all(), "U is T"
    assert (token_ids(encode(IUPAC_AMBIGUOUS + IUPAC_AMBIGUOUS.lower())) == N_ID).all()
    assert (token_ids(encode("-.*")) == N_ID).all(), "gaps are N"
    assert (encode("XEJ? 1\n\0\xe9\u20ac") == UNK_ID).all(), "unknown letters have no case"


@given(anything)
@settings(deadline=None)
def test_decode_gives_back_what_encode_kept(text):
    assert decode(encode(text)) == as_read(text)
    assert (encode(text) == encode(text.encode("latin-1"))).all(), "bytes read as text does"


def test_decode_shows_padding_and_takes_wide_integers():
    assert decode(np.array([PAD_ID, 7, 8, 9, 10, 11, UNK_ID], np.int64)) == "-ACGTNN"
    assert decode(encode("")) == ""


@given(anything)
@settings(deadline=None)
def test_only_a_c_g_t_and_u_are_bases(text):
    assert is_base(encode(text)).tolist() == [letter in "ACGTUacgtu" for letter in text]


def test_special_tokens_are_no_bases():
    assert not is_base(np.arange(7, dtype=np.uint8)).any()


def test_reverse_complement_of_a_known_sequence():
    assert decode(reverse_complement(encode("AACGTNgt"))) == "acNACGTT"


codes = np_st.arrays(
    np.uint8,
    np_st.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=9),
    elements=st.integers(0, 255),
)


@given(codes)
@settings(deadline=None)
def test_reverse_complement_undoes_itself_on_any_bytes(array):
    there = reverse_complement(array)
    assert there.shape == array.shape
    assert there.dtype == np.uint8
    assert (reverse_complement(there) == array).all()


@given(st.integers(0, 4), anything, st.integers(0, 4))
@settings(deadline=None)
def test_reverse_complement_moves_padding_to_the_other_side(left, text, right):
    """D2: HyenaDNA's loader pads after complementing, so bases end up in other places."""
    before, after = np.full(left, PAD_ID, np.uint8), np.full(right, PAD_ID, np.uint8)
    window = np.concatenate([before, encode(text), after])
    expected = np.concatenate([after, reverse_complement(encode(text)), before])
    assert (reverse_complement(window) == expected).all()


@given(anything)
@settings(deadline=None)
def test_soft_mask_moves_with_its_base(text):
    there = reverse_complement(encode(text))
    assert (is_soft_masked(there) == is_soft_masked(encode(text))[::-1]).all()


def test_reverse_complement_works_on_each_row():
    batch = np.stack([encode("AAC"), encode("GTT")])
    assert [decode(row) for row in reverse_complement(batch)] == ["GTT", "AAC"]


def test_reverse_complement_agrees_with_the_official_loaders_examples():
    examples = load_golden_json("loader_hg38_a")["string_reverse_complement"]
    assert examples
    for text, expected in examples.items():
        if set(text.upper()) <= set("ACGTN"):
            assert decode(reverse_complement(encode(text))) == expected


@pytest.mark.parametrize("letter", "ACGTacgt")
def test_complement_pairs(letter):
    partner = letter.translate(str.maketrans("ACGTacgt", "TGCAtgca"))
    assert decode(reverse_complement(encode(letter))) == partner
