"""The CPU backend: is it right, how fast are scan, layer and model, and what memory do they take.

    python benchmarks/cpu.py [--threads 2] [--json benchmarks/results/cpu.json]

Times of the scan and the layer are of forward and backward, of the model of whole training steps.
Layer and model stand beside mambapy (`pip install mambapy`;
without it ours stand alone). Every measurement runs in a process of its own with malloc
as it is, ours and theirs in turns: compare them within one run, as other work on the machine shows.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from dnamamba.bench.checks import check_scan
from dnamamba.bench.operators import Where, scan_case
from dnamamba.bench.results import checkout_commit, cpu_name
from dnamamba.bench.shapes import ScanShape
from dnamamba.bench.timing import time_calls
from dnamamba.errors import WrongResultError
from dnamamba.models import DnaModel, MambaConfig, ModelConfig
from dnamamba.models.recompute import DESCRIPTIONS, RECOMPUTE

VOCABULARY = 16
SCAN_SHAPES = ((1, 1024, 256), (8, 1024, 256), (1, 8192, 512), (1, 65536, 256))
LAYER_SHAPES = ((1, 1024, 128), (8, 1024, 128), (1, 8192, 256))
MODEL_LAYERS, MODEL_WIDTH, MODEL_BATCH, MODEL_LENGTH = 4, 128, 8, 1024
LONG = 131_072
SCAN = Where(torch.device("cpu"), torch.float32, "cpu")


def measure_scan(batch: int, seq_len: int, channels: int) -> dict[str, float]:
    shape = ScanShape(batch, channels, seq_len)
    case, size = scan_case(shape, SCAN), shape.n_elements * 16
    both = seconds_of(lambda: case.backward(case.forward()), 11)
    with torch.no_grad():
        alone = seconds_of(case.forward, 11)
    return {
        "forward_ns": statistics.median(alone) / size * 1e9,
        "forward_backward_ns": statistics.median(both) / size * 1e9,
        "forward_backward_best_ns": min(both) / size * 1e9,
    }


def seconds_of(call: Callable[[], object], count: int) -> list[float]:
    """Seconds of each call, after one that is not counted."""
    time_calls(call, SCAN.device, 1)
    return [ms / 1e3 for ms in time_calls(call, SCAN.device, count)]


class MambapyModel(nn.Module):
    """Embedding, mambapy's blocks and a head: what DnaModel is, but for the final norm."""

    def __init__(self, d_model: int, n_layers: int) -> None:
        from mambapy.mamba import Mamba, MambaConfig

        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, d_model)
        self.blocks = Mamba(MambaConfig(d_model=d_model, n_layers=n_layers))
        self.head = nn.Linear(d_model, VOCABULARY, bias=False)

    def forward(self, token_ids: Tensor) -> Tensor:
        return self.head(self.blocks(self.embedding(token_ids)))


def build(library: str, d_model: int, n_layers: int) -> nn.Module:
    torch.manual_seed(0)
    if library == "mambapy":
        return MambapyModel(d_model, n_layers)
    config = ModelConfig(
        d_model=d_model, n_layers=n_layers, vocab_size=VOCABULARY, mixer=MambaConfig()
    )
    return DnaModel(config)


def measure_step(
    library: str, n_layers: int, batch: int, seq_len: int, d_model: int, options: dict[str, str]
) -> dict[str, float]:
    """Steps of next-token training, of more than one layer with AdamW; memory is the process's."""
    model = build(library, d_model, n_layers)
    optimiser = torch.optim.AdamW(model.parameters())
    tokens = torch.randint(0, VOCABULARY, (batch, seq_len + 1))

    def step() -> None:
        optimiser.zero_grad()
        logits = model(tokens[:, :-1], **options).flatten(0, 1)
        functional.cross_entropy(logits, tokens[:, 1:].flatten()).backward()
        if n_layers > 1:
            optimiser.step()

    count = 1 if seq_len == LONG else 4 if library == "mambapy" else 20
    seconds = seconds_of(step, count)
    return {
        "seconds": statistics.median(seconds),
        "best_seconds": min(seconds),
        "tokens_per_s": batch * seq_len / statistics.median(seconds),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


MEASUREMENTS = {"scan": measure_scan, "step": measure_step}


def in_own_process(threads: int, name: str, *arguments: object) -> dict[str, float]:
    command = [sys.executable, __file__, "--threads", str(threads), "--measure"]
    command.append(json.dumps([name, *arguments]))
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(threads: int, has_mambapy: bool, *shape: int) -> dict[str, object]:
    """A step of ours and of mambapy's, twice in turns; of each the better run."""
    row: dict[str, object] = {}
    libraries = ["dnamamba", "mambapy"] if has_mambapy else ["dnamamba"]
    for library in libraries * 2:
        found = in_own_process(threads, "step", library, *shape, {})
        known = row.get(library)
        if not isinstance(known, dict) or found["seconds"] < known["seconds"]:
            row[library] = found
    if has_mambapy:
        ours, theirs = row["dnamamba"], row["mambapy"]
        assert isinstance(ours, dict)
        assert isinstance(theirs, dict)
        row["times_faster"] = theirs["seconds"] / ours["seconds"]
    return row


def describe(row: dict[str, object]) -> str:
    text = []
    for library in ("dnamamba", "mambapy"):
        if isinstance(found := row.get(library), dict):
            text.append(
                f"{library} {found['seconds'] * 1e3:,.0f} ms, "
                f"{found['tokens_per_s']:,.0f} tokens/s, {found['peak_gib']:.2f} GiB"
            )
    if "times_faster" in row:
        text.append(f"{row['times_faster']:.1f}x")
    return "; ".join(text)


def describe_run(threads: int) -> dict[str, object]:
    return {
        "cpu": cpu_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        # Other work on the machine slows two threads far more than it slows one.
        "load_before": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "llvmlite": importlib.metadata.version("llvmlite"),
        "commit": checkout_commit(),
    }


def run_all(threads: int) -> dict[str, object]:
    has_mambapy = importlib.util.find_spec("mambapy") is not None
    if not has_mambapy:
        print("mambapy is not installed (`pip install mambapy`): ours stand alone")
    results: dict[str, object] = {**describe_run(threads)}
    results["max_error"] = check_scan(SCAN, ScanShape(2, 96, 1000))
    print(f"worst relative error against float64: {results['max_error']:.1e}")
    results["scan"] = []
    for shape in SCAN_SHAPES:
        found = in_own_process(threads, "scan", *shape)
        results["scan"].append({"shape": shape, **found})
        times = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
        print(f"scan {' x '.join(map(str, shape))} x 16 states: {times}")
    results["layer"] = []
    for batch, seq_len, d_model in LAYER_SHAPES:
        row = compare(threads, has_mambapy, 1, batch, seq_len, d_model)
        results["layer"].append({"shape": (batch, seq_len, d_model), **row})
        print(f"one layer, {batch} x {seq_len:,}, d_model {d_model}: {describe(row)}")
    shape = (MODEL_LAYERS, MODEL_BATCH, MODEL_LENGTH, MODEL_WIDTH)
    results["model"] = compare(threads, has_mambapy, *shape)
    print(f"{MODEL_LAYERS} layers, d_model {MODEL_WIDTH}: {describe(results['model'])}")
    results["long"] = []
    for n_layers, options in ((1, {}), *((4, {"recompute": way}) for way in RECOMPUTE)):
        found = in_own_process(threads, "step", "dnamamba", n_layers, 1, LONG, 128, options)
        results["long"].append({"n_layers": n_layers, **options, **found})
        how = f", {DESCRIPTIONS[options['recompute']]}" if options else ""
        print(f"1 x {LONG:,}, {n_layers} layers{how}: {describe({'dnamamba': found})}")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure:
        name, *arguments = json.loads(options.measure)
        print(json.dumps(MEASUREMENTS[name](*arguments)))
        return
    try:
        results = run_all(options.threads)
    except WrongResultError as error:
        sys.exit(str(error))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
