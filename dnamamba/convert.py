"""Convert models of other projects to ours and back.

A conversion is built beside its target, read again, compared, and renamed; a failed one leaves
nothing.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dnamamba.errors import InputError, WrongResultError
from dnamamba.files import read_json
from dnamamba.models import DnaModel, count_parameters
from dnamamba.models.interop.files import CONFIG_NAME, WeightFiles, read_source
from dnamamba.models.interop.fingerprint import fixed_logits, model_ids, take_fingerprint
from dnamamba.models.interop.formats import Format
from dnamamba.models.interop.registry import (
    FORMATS,
    OWN_SETTINGS,
    find_format,
    read_weights,
    recognise,
)
from dnamamba.models.interop.theirs import compare_with_theirs
from dnamamba.models.interop.tokenizer_files import special_token_ids, write_tokenizer
from dnamamba.models.model_folder import WEIGHTS_NAME, enter_run
from dnamamba.tokenizer import VOCABULARY

OWN_FORMAT = "dnamamba"


@dataclass(frozen=True)
class Opened:
    """A model and how it was stored. files: None for our own model folders."""

    model: DnaModel
    format: str
    source: Path
    files: WeightFiles | None

    def lines(self) -> list[str]:
        """Format, architecture, sizes, parameters and dtypes."""
        config = self.model.config
        parts = [
            f"{config.mixer_kind}, d_model {config.d_model}",
            f"{config.n_layers} layers",
            f"{config.vocab_size} token ids in {config.padded_vocab_size} rows",
            f"{count_parameters(config):,} parameters",
        ]
        if config.vocab_size not in (VOCABULARY.size, VOCABULARY.padded_size):
            parts.append("another vocabulary than DNA's, whose ids mean something else")
        dtypes = "float32"
        if self.files is not None:
            stored = self.files.dtypes
            dtypes = ", ".join(f"{count} {dtype}" for dtype, count in sorted(stored.items()))
            dtypes += "; widened to float32" * bool({"float16", "bfloat16"} & stored.keys())
            dtypes += "; float64 is rounded to float32" * ("float64" in stored)
        return [f"{self.source}: {self.format}", ", ".join(parts), f"weights: {dtypes}"]


def open_model(source: Path, format_name: str | None = None) -> Opened:
    """Read a model folder, a run, or weights of another project as a float32 model.

    format_name: the layout; None: by the names of the weights. Raises InputError for files that are
    missing, broken, of no known format or do not fit it.
    """
    named = None if format_name in (None, OWN_FORMAT) else find_format(str(format_name))
    if own := own_folder(source):
        if named is not None:
            raise InputError(f"{own} is a model of dnamamba, not {format_name}: leave --format out")
        return Opened(DnaModel.from_pretrained(own), OWN_FORMAT, own, None)
    if format_name == OWN_FORMAT:
        raise InputError(f"{source} is no model folder of dnamamba (config.json says so in ours)")
    files = read_source(source)
    found = named or recognise(files.weights, files.settings, str(source))
    model = read_weights(found, files.weights, files.settings, str(source))
    return Opened(model.float().eval(), found.name, source, files)


def own_folder(source: Path) -> Path | None:
    """Find the model folder of a folder, run or weights file; None if it is not ours."""
    if source.is_file() and source.name == WEIGHTS_NAME:
        source = source.parent
    path = enter_run(source) / CONFIG_NAME
    return path.parent if path.is_file() and "format_version" in read_json(path) else None


def import_model(source: Path, out: Path, format_name: str | None = None) -> list[str]:
    """Write weights of another project as a model folder; return lines to print.

    Raises InputError as `open_model` does and if `out` is in the way; WrongResultError if logits
    differ from those of transformers' class, or of the written folder.
    """
    check_target(out)
    opened = open_model(source, format_name)
    lines = _description(opened)
    with build_folder(out) as building:
        opened.model.save_pretrained(building)
        _check_same(opened.model, DnaModel.from_pretrained(building))
    return [*lines, *_listing(out)]


def export_model(source: Path, out: Path, format_name: str | None = None) -> list[str]:
    """Write a model in another project's layout; return lines to print.

    format_name: the layout; default the first that can hold the model. Raises as `import_model`.
    """
    check_target(out)
    opened = open_model(source)
    chosen, weights, settings = _choose_written(opened.model, format_name)
    lines = [*opened.lines(), fingerprint_line(opened.model), f"written as {chosen.name}"]
    with build_folder(out) as building:
        save_file(weights, building / WEIGHTS_NAME, metadata={"format": "pt"})
        text = json.dumps(settings, indent=2) + "\n"
        (building / CONFIG_NAME).write_text(text, encoding="utf-8")
        shutil.copymode(building / CONFIG_NAME, building / WEIGHTS_NAME)
        if opened.model.config.vocab_size in (VOCABULARY.size, VOCABULARY.padded_size):
            write_tokenizer(building)
        again = read_source(building)
        model = read_weights(chosen, again.weights, again.settings, str(out))
        _check_same(opened.model, model)
        lines.append(compare_with_theirs(model, again.weights, again.settings))
    return [*lines, *_listing(out)]


def check_model(source: Path, format_name: str | None = None) -> list[str]:
    """Describe a model, its fingerprint, and the layouts that it survives a round trip by."""
    opened = open_model(source, format_name)
    model = opened.model
    trips = [f"round trip by {one.name}: {_round_trip(model, one)}" for one in _suited(model)]
    return [*_description(opened), *trips]


def _description(opened: Opened) -> list[str]:
    if opened.files is None:
        compared = "a model of dnamamba: there is no other implementation to compare with"
    else:
        files = opened.files
        compared = compare_with_theirs(opened.model, files.weights, files.settings)
    return [*opened.lines(), fingerprint_line(opened.model), compared]


def fingerprint_line(model: DnaModel) -> str:
    """Describe the model's likelihood of a fixed sequence, to compare copies by."""
    taken = take_fingerprint(model)
    bases = f"{model_ids(model).shape[1]} fixed bases"
    which = bases if model.is_causal else f"every eighth of {bases}, masked"
    return f"{which}: {taken.bits_per_base:.6f} bits per base, logits {taken.logits_hash}"


def _suited(model: DnaModel) -> list[Format]:
    """Formats that can be written for a model's kind of mixer."""
    kind = model.config.mixer_kind
    return [one for one in FORMATS if one.write is not None and kind in one.kinds]


def _choose_written(
    model: DnaModel, name: str | None
) -> tuple[Format, dict[str, Tensor], dict[str, Any]]:
    candidates = _suited(model) if name is None else [find_format(name)]
    kind = model.config.mixer_kind
    reasons = [] if candidates else [f"none is known for models of kind {kind!r}"]
    for one in candidates:
        try:
            if one.write is None:
                raise InputError("can be read, not written")
            weights, settings = one.write(model)
        except InputError as error:
            reasons.append(f"{one.name}: {error}")
            continue
        return one, _apart(weights), _with_ours(settings, model)
    raise InputError(f"no layout holds this model: {'; '.join(reasons)}")


def _apart(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tied weights: strict readers want both, and safetensors takes no shared memory."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in weights.items():
        address = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.detach().clone() if address in seen else tensor.detach().contiguous()
        seen.add(address)
    return apart


def _with_ours(settings: Mapping[str, Any], model: DnaModel) -> dict[str, Any]:
    """Add our key to Hugging Face's settings; other projects' settings take none."""
    if "model_type" not in settings:
        return dict(settings)
    ours = {OWN_SETTINGS: {"vocab_size": model.config.vocab_size}}
    return {**settings, **special_token_ids(), **ours}


def _round_trip(model: DnaModel, one: Format) -> str:
    assert one.write is not None
    try:
        weights, settings = one.write(model)
        again = read_weights(one, weights, _with_ours(settings, model), "what was written")
    except InputError as error:
        return f"not possible ({error})"
    before, after = model.state_dict(), again.state_dict()
    differing = [
        name for name in before if name not in after or not torch.equal(before[name], after[name])
    ]
    if differing:
        return f"differs in {', '.join(differing[:3])}"
    return "exact" if again.config == model.config else "weights exact, another config"


def _check_same(model: DnaModel, again: DnaModel) -> None:
    if not torch.equal(fixed_logits(model), fixed_logits(again)):
        raise WrongResultError(
            "what was written and read again gives other logits; nothing is kept: please report it"
        )


def _listing(folder: Path) -> list[str]:
    names = ", ".join(sorted(path.name for path in folder.iterdir()))
    return ["written and read again: the same logits, bit for bit", f"{folder}: {names}"]


def check_target(out: Path) -> None:
    """Raise InputError unless `out` is an empty folder or does not exist."""
    if out.is_symlink():
        raise InputError(f"--out {out} is a link, which would be lost: name the folder itself")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; name a folder")
    if files := [parent for parent in out.parents if parent.exists() and not parent.is_dir()]:
        raise InputError(f"--out {out} is to lie in {files[0]}, which is a file; name a folder")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"--out {out} has files in it already: name a new folder, or empty it")


@contextmanager
def build_folder(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out`; rename it at the end, or delete it if anything fails."""
    out = out.absolute()
    made = [parent for parent in out.parents if not parent.exists()]
    building = out.parent / f".{out.name}.building-{os.getpid()}"
    try:
        building.mkdir(parents=True)
        yield building
        check_target(out)
        if out.is_dir():
            out.rmdir()
        building.rename(out)
    except BaseException:  # Ctrl-C too; it goes on from here
        shutil.rmtree(building, ignore_errors=True)
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise
