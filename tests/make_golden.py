"""Write `tests/golden/` from the whole golden files: `python tests/make_golden.py`.

The tests read what it wrote and need neither this script nor the whole files.
"""

import json
import shutil
from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from golden_files import PART, WHOLE

INFO = ("source", "path", "commit", "versions", "how")
"""Of every item with tensors, beside what its tests read."""

MODEL = ("params/*", "grad_f64/*", "out_f64/loss*", "out_f64/seq0/*logits")
MAMBA = (*MODEL, "gen/*", "in/labels_masked", "in/prompt", "in/seq[012]/ids", "out_f64/seq[12]/*")


def of_cases(*cases: str) -> tuple[str, ...]:
    """Weights, inputs, float64 results, gradients and states of these cases."""
    parts = ("params", "in", "out_f64", "grad_*", "split*")
    return tuple(f"{case}/{part}/*" for case in cases for part in parts)


TENSORS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "mamba_lm_a": (("config", "hf_config"), MAMBA),
    "mamba2_lm_a": (("config", "hf_config"), MAMBA),
    "hyenadna_a": (
        ("config",),
        (
            *MODEL, "in/seq[014]/ids", "out_f64/seq[14]/*", "out_f64_shift0/*", "filter/*",
        ),
    ),
    "hyena_operator_a": (("cases",), of_cases("order2_L1", "order3")),
    "caduceus_a": (
        ("config",),
        (
            *MODEL, "params_cls/*", "in/mlm_*", "in/loss_weights", "in/seq[01]/*",
            "out_f64/mlm_*", "out_f64/seq0/logits_of_rc", "out_f64/seq1/*",
            "out_f64_fused_add_norm/seq[01]/*",
        ),
    ),
    "s4d_a": (("cases", "kernel_cases"), (*of_cases("t", "kernel_*"), "init/*")),
    "transformer_llama_a": (
        ("config",),
        (
            *MODEL, "params_interleaved/*", "gen/*", "in/prompt", "in/seq[01]/ids",
            "out_f64/seq0/cos", "out_f64/seq0/sin", "out_f64/seq0/layer0/*_rope",
            "out_f64/seq0/layer*/attn_norm", "out_f64/seq0/layer*/attn_out", "out_f64/seq1/*",
        ),
    ),
    "ssd_a": (("cases",), of_cases("g2_odd", "L1", "dt_limit")),
    "selective_scan_a": (
        ("cases",),
        of_cases("full", "no_z", "L1", "bare", "h0", "h0_L1", "step_mamba1"),
    ),
    "selective_scan_b": (
        ("cases",),
        of_cases("complex_var", "h0_groups_no_z", "step_heads_groups"),
    ),
}  # fmt: skip
"""Of each item, what the tests read of its .json and the tensors taken, as patterns."""

FILES = ("loader_hg38_a.fa", "loader_hg38_a.bed")
"""Taken as they are."""


def take_tensors(item: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    keys, patterns = TENSORS[item]
    tensors = load_file(WHOLE / f"{item}.safetensors")
    taken = {n: x for n, x in tensors.items() if any(fnmatch(n, p) for p in patterns)}
    return pick(read_whole(item), *INFO, *keys), taken


def take_json() -> dict[str, dict[str, Any]]:
    """The items without tensors: of each, what the tests read."""
    loader, species = read_whole("loader_hg38_a"), read_whole("loader_species_a")
    hyenadna, caduceus = read_whole("tokenizer_hyenadna"), read_whole("tokenizer_caduceus")
    provenance = ("source", "path", "commit", "versions")
    plain_runs = [
        run
        for run in loader["dataset"]
        if not (run["add_eos"] or "pad_interval" in run or "replace_N_token" in run)
    ]
    return {
        "loader_hg38_a": {
            **pick(loader, *provenance, "chromosome_lengths", "string_reverse_complement"),
            "fasta_interval": [
                pick(row, "chr", "start", "end", "max_length", "padded")
                for row in loader["fasta_interval"]
            ],
            "dataset": plain_runs,
        },
        "loader_species_a": pick(species, *provenance, "splits"),
        "tokenizer_hyenadna": {
            **pick(hyenadna, *provenance),
            "repo": {side: take_ids(hyenadna["repo"][side]) for side in ("left", "right")},
        },
        "tokenizer_caduceus": {
            **pick(caduceus, *provenance),
            "caduceus": {"right": take_ids(caduceus["caduceus"]["right"])},
        },
    }


def take_ids(tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """The vocabulary, and the ids of each text without and with special tokens."""
    items = [
        {"text": item["text"], **{n: pick(item[n], "input_ids") for n in ("plain", "special")}}
        for item in tokenizer["items"]
    ]
    return {"vocab": tokenizer["vocab"], "items": items}


def read_whole(item: str) -> dict[str, Any]:
    return json.loads((WHOLE / f"{item}.json").read_text(encoding="utf-8"))


def pick(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: values[key] for key in keys}


def main() -> None:
    PART.mkdir(exist_ok=True)
    infos = take_json()
    for item in TENSORS:
        infos[item], tensors = take_tensors(item)
        save_file(tensors, PART / f"{item}.safetensors")
    for item, info in infos.items():
        text = json.dumps(info, separators=(",", ":"))
        (PART / f"{item}.json").write_text(f"{text}\n", encoding="utf-8")
    for name in FILES:
        shutil.copyfile(WHOLE / name, PART / name)


if __name__ == "__main__":
    main()
