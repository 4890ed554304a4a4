"""The tokenizer that exports carry, read by transformers: the ids of `encode`."""

import random

import pytest
import torch

from dnamamba.models.interop.tokenizer_files import TOKENIZER_NAMES, write_tokenizer
from dnamamba.tokenizer import VOCABULARY, encode, token_ids
from golden_files import load_golden_json

transformers = pytest.importorskip("transformers", reason="needs transformers (the test extra)")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(TOKENIZER_NAMES)
    return transformers.AutoTokenizer.from_pretrained(folder)


def ours(text: str) -> list[int]:
    return token_ids(encode(text)).tolist()


def theirs(tokenizer, text: str) -> list[int]:
    return tokenizer(text)["input_ids"]


@pytest.mark.parametrize(
    "text",
    [
        "ACGTN",
        "acgtnu",
        "ACGURYSWKMBDHVN",
        "ryswkmbdhvn-.*",
        "A C\n\tG  T ",
        "".join(map(chr, range(256))),
        "\u65e5\u672cA\U0001f9ec" + "e\u0301",
        "",
    ],
    ids=["bases", "lower", "iupac", "lower_iupac", "white", "all_bytes", "beyond_latin", "nothing"],
)
def test_ids_are_those_of_encode(tokenizer, text):
    assert theirs(tokenizer, text) == ours(text)


def test_ids_are_those_of_encode_on_random_sequences(tokenizer):
    draw = random.Random(0)
    for length in (1, 2, 63, 1000, 5000):
        text = "".join(draw.choices("ACGTNacgtnURYKM-xZ?", k=length))
        assert theirs(tokenizer, text) == ours(text)
        assert len(theirs(tokenizer, text)) == length, "one token a base"


def test_special_tokens_have_our_ids(tokenizer):
    assert tokenizer.get_vocab() == {token: i for i, token in enumerate(VOCABULARY.tokens)}
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "bos", "eos")}
    assert ids == {"cls": 0, "sep": 1, "bos": 2, "eos": 1}
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("mask", "pad", "unk")}
    assert ids == {"mask": 3, "pad": 4, "unk": 6}


def test_a_special_token_in_a_text_is_one_token(tokenizer):
    """Here `encode` reads letters."""
    assert theirs(tokenizer, "A[MASK]c[PAD]") == [7, 3, 8, 4]
    assert len(ours("A[MASK]c[PAD]")) == 13


def test_a_batch_is_padded_on_the_right(tokenizer):
    batch = tokenizer(["ACGT", "t"], padding=True, return_tensors="pt")
    assert batch["input_ids"].tolist() == [[7, 8, 9, 10], [10, 4, 4, 4]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert batch["input_ids"].dtype == torch.int64


def test_decoding_gives_the_letters(tokenizer):
    assert tokenizer.decode(theirs(tokenizer, "acgtnRU")) == "ACGTNNT"


@pytest.mark.parametrize(
    ("name", "kind", "differs"),
    [
        # Lower case is [UNK] there, and no special token is found in a text.
        ("tokenizer_hyenadna", "repo", lambda text: text.upper() != text or "[" in text),
        ("tokenizer_caduceus", "caduceus", lambda text: False),
    ],
)
def test_upper_case_bases_have_the_ids_of_other_tokenizers(tokenizer, name, kind, differs):
    golden = load_golden_json(name)[kind]["right"]
    assert golden["vocab"] == tokenizer.get_vocab()
    compared = 0
    for item in golden["items"]:
        text = item["text"]
        if differs(text) or set(text) - set("ACGTNacgtn"):
            continue
        assert theirs(tokenizer, text) == item["plain"]["input_ids"]
        assert [*theirs(tokenizer, text), 1] == item["special"]["input_ids"], "they add [SEP]"
        compared += 1
    assert compared > 2
