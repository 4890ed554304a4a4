"""Our vocabulary as tokenizer files for transformers' AutoTokenizer, without code of ours.

Every character is one token with the ids of `dnamamba.tokenizer.encode`; nothing is added at either
end. HyenaDNA's and Caduceus's tokenizers add [SEP] and read other letters than upper-case A, C, G,
T and N differently. A special token's name in a text, e.g. [MASK], is that token.
"""

import json
from pathlib import Path
from typing import Any

from dnamamba.tokenizer import FIRST_BASE_ID, GAPS, IUPAC_AMBIGUOUS, VOCABULARY

TOKENIZER_NAMES = ("tokenizer.json", "tokenizer_config.json")

SPECIAL_IDS = {"bos_token_id": "[BOS]", "eos_token_id": "[SEP]", "pad_token_id": "[PAD]"}


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    for name, content in zip(TOKENIZER_NAMES, (_tokenizer(), _tokenizer_config()), strict=True):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def special_token_ids() -> dict[str, int]:
    """bos_token_id, eos_token_id and pad_token_id, for a model's settings."""
    return {key: VOCABULARY.id(token) for key, token in SPECIAL_IDS.items()}


def _tokenizer() -> dict[str, Any]:
    letters = f"{IUPAC_AMBIGUOUS}{IUPAC_AMBIGUOUS.lower()}"
    # A character for a character, so that positions are those of the text.
    replaced = {"a": "A", "c": "C", "g": "G", "[tuU]": "T", f"[{letters}{_escaped(GAPS)}]": "N"}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _special_token(token_id, token)
            for token_id, token in enumerate(VOCABULARY.tokens[:FIRST_BASE_ID])
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Replace", "pattern": {"Regex": pattern}, "content": letter}
                for pattern, letter in replaced.items()
            ],
        },
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": r"[\s\S]"},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {token: token_id for token_id, token in enumerate(VOCABULARY.tokens)},
            "unk_token": "[UNK]",
        },
    }


def _escaped(characters: str) -> str:
    return "".join(f"\\{character}" for character in characters)


def _special_token(token_id: int, token: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": token, **flags, "special": True}


def _tokenizer_config() -> dict[str, Any]:
    roles = {f"{role}_token": f"[{role.upper()}]" for role in ("bos", "cls", "mask", "pad", "sep")}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 10**30,  # transformers' way to say that there is no limit
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        **roles,
        "eos_token": "[SEP]",
        "unk_token": "[UNK]",
    }
