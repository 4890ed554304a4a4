"""Embedding: streamed against one pass, its memory, and its speed against the bare model's.

    python benchmarks/embed.py genome.h5 [more.h5 ...] [--parts check,speed,hf] [--json out.json]

check: mamba-7m in float32 on real bases, in pieces of several sizes; then 16 M bases by the same
pieces as a million. speed: BED to a finished HDF5, in this process by what `dnamamba embed` calls,
beside forward passes of the same batches that lie on the device already. hf: the same vectors by
transformers' Mamba in plain PyTorch, on a CPU. Numbers of a run whose check fails are not written.
"""

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnamamba.bench.results import describe_setup
from dnamamba.bench.timing import time_calls
from dnamamba.data_prep.genomes.genome import Genome, open_genome
from dnamamba.data_prep.regions.readers import open_regions
from dnamamba.data_prep.regions.rows import WindowRule
from dnamamba.embedding.config import EmbedOptions
from dnamamba.embedding.embedder import Embedder
from dnamamba.embedding.format import EmbeddingInfo
from dnamamba.embedding.forward import EmbedInput
from dnamamba.embedding.reader import read_embeddings
from dnamamba.embedding.run import LAZY_FROM, division, embed_rows
from dnamamba.embedding.writer import EmbeddingWriter
from dnamamba.errors import WrongResultError
from dnamamba.models import DnaModel, preset, to_huggingface_mamba
from dnamamba.models.pooling import Pooling
from dnamamba.runtime import choose_device
from dnamamba.tokenizer import Codes, token_ids

TOLERANCE = 1e-5
MIB = 2**20


def bases_of(genome: Genome, n_bases: int) -> Codes:
    """The genome's contigs one after another, again and again."""
    parts, found = [], 0
    while found < n_bases:
        for contig, length in genome.contigs.items():
            parts.append(genome.read(contig, 0, min(length, n_bases - found)))
            found += len(parts[-1])
            if found == n_bases:
                break
    return np.concatenate(parts)


def build(name: str, device: torch.device) -> DnaModel:
    torch.manual_seed(0)
    return DnaModel(preset(name)).to(device).eval()


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


# --- streamed against one pass


@torch.inference_mode()
def check_length(model: DnaModel, codes: Codes, chunks: Sequence[int]) -> dict[str, Any]:
    device = next(model.parameters()).device
    layers = (model.config.n_layers // 2, model.config.n_layers + 1)
    ids = torch.from_numpy(token_ids(codes)).unsqueeze(0)
    reset_peak(device)
    whole = model.hidden_at(ids.to(device), layers)
    row: dict[str, Any] = {"length": len(codes), "one_pass_mib": peak_mib(device), "chunks": []}
    for size in chunks:
        worst = [0.0] * len(layers)
        scales = [layer.abs().max().item() for layer in whole]
        for chunk in model.stream(ids, layers=layers, chunk_tokens=size):
            for i, hidden in enumerate(chunk.hidden):
                part = whole[i][:, chunk.start : chunk.start + hidden.shape[1]]
                worst[i] = max(worst[i], (hidden - part).abs().max().item() / scales[i])
        row["chunks"].append({"tokens": size, "middle_layer": worst[0], "final_norm": worst[1]})
    del whole
    pooled = [
        torch.from_numpy(np.stack(embed_one(model, codes, size)[0]))
        for size in (*chunks, len(codes))
    ]
    row["pooled"] = max(relative_error(one, pooled[-1]) for one in pooled[:-1])
    return row


def embed_one(model: DnaModel, codes: Codes, chunk_tokens: int) -> tuple[Any, float]:
    """Vectors of one sequence, mean of the final norm, and the peak of the device's memory."""
    device = next(model.parameters()).device
    options = EmbedOptions(pooling=Pooling.parse("mean"), chunk_tokens=chunk_tokens)
    reset_peak(device)
    (found,) = Embedder(model, options)([EmbedInput.of(codes)])
    if isinstance(found, str):
        raise WrongResultError(f"{len(codes):,} bases were not embedded: {found}")
    return found, peak_mib(device)


def check(model: DnaModel, genome: Genome, quick: bool) -> dict[str, Any]:
    lengths = (4096, 10_000, 16_384) if quick else (1 << 16, 1 << 18, 1 << 20)
    chunks = (1000, 4096) if quick else (100_003, 1 << 15, 1 << 17)
    codes = bases_of(genome, lengths[-1] * (2 if quick else 16))
    rows = [check_length(model, codes[:length], chunks) for length in lengths]
    errors = [one[key] for row in rows for one in row["chunks"] for key in list(one)[1:]]
    errors += [row["pooled"] for row in rows]
    size = chunks[-1]
    _, short = embed_one(model, codes[: lengths[-1]], size)
    started = time.perf_counter()
    _, long = embed_one(model, codes, size)
    found = {
        "largest_relative_error": max(errors),
        "rows": rows,
        "streamed": {
            "chunk_tokens": size,
            "bases": [lengths[-1], len(codes)],
            "peak_mib": [short, long],
            "bases_per_s": len(codes) / (time.perf_counter() - started),
            "host_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        },
    }
    if max(errors) > TOLERANCE or long > 1.01 * short:
        raise WrongResultError(f"streaming is not as it should be: {json.dumps(found)}")
    return found


# --- speed


def write_bed(path: Path, genome: Genome, n_rows: int, length: int) -> None:
    rng = np.random.default_rng(0)
    contigs = [name for name, size in genome.contigs.items() if size >= length]
    with path.open("w") as file:
        for i in range(n_rows):
            contig = contigs[int(rng.integers(len(contigs)))]
            start = int(rng.integers(genome.contigs[contig] - length + 1))
            file.write(f"{contig}\t{start}\t{start + length}\tr{i}\t0\t{'+-'[i % 2]}\n")


def embed_bed(model: DnaModel, genome: Genome, bed: Path, batch_tokens: int) -> float:
    """Seconds from a BED to a finished file of mean-pooled vectors."""
    device = next(model.parameters()).device
    info = EmbeddingInfo(
        model="mamba", model_sha256=None, layers=(model.config.n_layers + 1,),
        d_out=model.config.d_model, pooling="mean", rc="none", context=None, edge="shift",
        dtype="float32", precision="bf16", source_sha256="", genome=(),
        columns=("chrom", "start", "end", "name", "score", "strand"),
    )  # fmt: skip
    options = EmbedOptions(
        pooling=Pooling.parse("mean"),
        batch_tokens=batch_tokens,
        chunk_tokens=max(batch_tokens, 1 << 16),
        autocast_dtype=torch.bfloat16 if device.type == "cuda" else None,
    )
    out = bed.with_suffix(".h5")
    started = time.perf_counter()
    writer = EmbeddingWriter(out, info, force=True, division=division(device))
    rule = WindowRule(cut=False, lazy_from=LAZY_FROM)
    with open_regions(bed, genome=genome, rule=rule) as table:
        n_parts = embed_rows(table, Embedder(model, options), writer)
    writer.finish(n_parts)
    seconds = time.perf_counter() - started
    with read_embeddings(out) as found:
        if not found.ok.all() or not np.isfinite(found.vectors[:]).all():
            raise WrongResultError(f"{out} has rows without vectors")
    out.unlink()
    return seconds


@torch.inference_mode()
def forward_rate(model: DnaModel, length: int, batch_tokens: int, seconds: float) -> float:
    """Bases a second of forward passes of batches that lie on the device, as `embed` makes them."""
    device = next(model.parameters()).device
    ids = torch.randint(7, 11, (max(1, batch_tokens // length), length), device=device)
    ids = ids.to(torch.uint8)
    dtype = torch.bfloat16 if device.type == "cuda" else None
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        # As many as fill the time. Nothing waits between them, as nothing does in `embed`.
        _, one = time_calls(lambda: model.hidden_at(ids, (-1,)), device, 2)
        n = max(1, round(1e3 * seconds / one))

        def passes() -> None:
            for _ in range(n):
                model.hidden_at(ids, (-1,))

        (milliseconds,) = time_calls(passes, device, 1)
    return n * ids.numel() / milliseconds * 1e3


def speed(
    model: DnaModel, genome: Genome, batch_sizes: Sequence[int], quick: bool
) -> list[dict[str, Any]]:
    cases = ((200, 512), (4, 8192)) if quick else ((100_000, 2048), (1000, 131_072))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n_rows, length in cases:
            bed = Path(folder) / f"{length}.bed"
            write_bed(bed, genome, n_rows, length)
            for batch_tokens in batch_sizes:
                bare = forward_rate(model, length, batch_tokens, 0.5 if quick else 3.0)
                rate = n_rows * length / embed_bed(model, genome, bed, batch_tokens)
                rows.append(
                    {
                        "regions": n_rows,
                        "length": length,
                        "batch_tokens": batch_tokens,
                        "bases_per_s": rate,
                        "forward_bases_per_s": bare,
                        "ratio": rate / bare,
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
    return rows


# --- beside transformers' slow path


def hugging_face(model: DnaModel, codes: Codes, rounds: int, quick: bool) -> list[dict[str, Any]]:
    """Mean-pooled vectors by us and by transformers' Mamba in plain PyTorch, in turns."""
    theirs = load_huggingface(model)
    options = EmbedOptions(pooling=Pooling.parse("mean"))
    embedder, rows = Embedder(model, options), []
    for n_rows, length in ((4, 512),) if quick else ((64, 2048), (2, 16_384)):
        sequences = [codes[i * length : (i + 1) * length] for i in range(n_rows)]
        seconds: dict[str, list[float]] = {"ours": [], "transformers": []}
        for _ in range(rounds):
            started = time.perf_counter()
            ours = embedder([EmbedInput.of(one) for one in sequences])
            seconds["ours"].append(time.perf_counter() - started)
            started = time.perf_counter()
            expected = theirs(sequences)
            seconds["transformers"].append(time.perf_counter() - started)
        error = relative_error(torch.from_numpy(np.stack([one[0] for one in ours])), expected)
        if error > 1e-4:
            raise WrongResultError(f"transformers' vectors differ by {error}")
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        row = {"regions": n_rows, "length": length, "relative_error": error, **medians}
        rows.append(row | {"ratio": medians["transformers"] / medians["ours"]})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def load_huggingface(model: DnaModel) -> "SlowPath":
    """transformers' class with the model's weights."""
    # transformers looks for a package called kernels and would take our folder for it.
    root = Path(__file__).resolve().parents[1]
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != root]
    from transformers import MambaConfig, MambaForCausalLM

    config, mixer = model.config, model.config.mixer
    theirs = MambaForCausalLM(
        MambaConfig(
            vocab_size=config.padded_vocab_size,
            hidden_size=config.d_model,
            num_hidden_layers=config.n_layers,
            state_size=mixer.d_state,
            conv_kernel=mixer.d_conv,
            expand=mixer.expand,
            time_step_rank=mixer.dt_rank,
            layer_norm_epsilon=config.norm_eps,
            use_cache=False,
        )
    )
    found = theirs.load_state_dict(to_huggingface_mamba(model), strict=False)
    if set(found.missing_keys) - {"lm_head.weight"} or found.unexpected_keys:
        raise WrongResultError(f"transformers' model is another: {found}")
    return SlowPath(theirs.eval().backbone)


class SlowPath:
    """Vectors of sequences of one length, as many at a time as in a batch of ours."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        self.backbone = backbone

    @torch.inference_mode()
    def __call__(self, sequences: Sequence[Codes]) -> Tensor:
        ids = torch.from_numpy(np.stack([token_ids(one) for one in sequences])).long()
        batch = max(1, (1 << 16) // ids.shape[1])
        found = [self.backbone(some).last_hidden_state.mean(1) for some in ids.split(batch)]
        return torch.cat(found)


# --- the device


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_mib(device: torch.device) -> float | None:
    if device.type != "cuda":
        return 0.0
    return torch.cuda.max_memory_allocated(device) / MIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("genomes", type=Path, nargs="+", help="stores or FASTA files")
    parser.add_argument("--parts", default="check,speed")
    parser.add_argument("--model", default="mamba-7m")
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[1 << 20, 1 << 18])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try it")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = choose_device()
    genome = open_genome(arguments.genomes)
    model = build(arguments.model, device)
    found: dict[str, Any] = {**describe_setup(device), "model": arguments.model}
    if "check" in arguments.parts:
        found["check"] = check(model, genome, arguments.quick)
        print(json.dumps(found["check"], indent=1), flush=True)
    if "speed" in arguments.parts:
        found["speed"] = speed(model, genome, arguments.batch_tokens, arguments.quick)
    if "hf" in arguments.parts:
        codes = bases_of(genome, 1 << 17)
        rounds = 1 if arguments.quick else 3
        found["hf"] = hugging_face(model, codes, rounds, arguments.quick)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
