"""`dnamamba convert`: what comes in and goes out, and files that must do no harm."""

import json
import math
import os
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dnamamba.cli.main import main
from dnamamba.convert import build_folder
from dnamamba.models import (
    AttentionConfig,
    BiMambaConfig,
    DnaModel,
    HyenaConfig,
    Mamba2Config,
    MambaConfig,
    MlpConfig,
    ModelConfig,
    to_huggingface_mamba,
)
from dnamamba.models.interop import fingerprint, theirs
from dnamamba.models.interop.formats import Format
from dnamamba.models.interop.registry import find_format
from dnamamba.models.mixers.hyena import ImplicitFilter
from dnamamba.models.mixers.protocol import MixerConfig
from model_cases import build_model, tiny_model

CONFIG = ModelConfig(d_model=8, n_layers=2, mixer=MambaConfig(d_state=4))


def build_tiny() -> DnaModel:
    """A model with every parameter drawn at random, so that no two can be mixed up unnoticed."""
    return build_model(CONFIG, spread=0.2)


def their_weights() -> dict[str, Tensor]:
    weights = to_huggingface_mamba(build_tiny())
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


def logits_of(folder: Path) -> Tensor:
    return fingerprint.fixed_logits(DnaModel.from_pretrained(folder))


def our_logits() -> Tensor:
    return fingerprint.fixed_logits(build_tiny())


@pytest.fixture
def convert(tmp_path, monkeypatch, capsys) -> Callable[..., str]:
    """Run `dnamamba convert ...` in an empty folder; returns what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as end:
            main(["convert", *arguments])
        captured = capsys.readouterr()
        assert end.value.code == code, captured.err
        return captured.out if code == 0 else captured.err

    return run


@pytest.fixture
def refuse(convert, tmp_path) -> Callable[..., str]:
    """Run an import that fails: the one line it says, after a look that nothing was written."""

    def run(*arguments: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        error = convert("import", *arguments, "--out", "made/out", code=1)
        assert sorted(tmp_path.rglob("*")) == before, "something was written"
        lines = [line for line in error.splitlines() if "auto takes" not in line]
        assert len(lines) == 1, error
        return lines[0]

    return run


# What comes in.


def write_folder(weights: dict[str, Tensor], settings: dict | None = None) -> None:
    Path("theirs").mkdir()
    save_file(weights, "theirs/model.safetensors")
    if settings is not None:
        Path("theirs/config.json").write_text(json.dumps(settings))


def write_shards(names: tuple[str, ...] = ("one.safetensors", "two.safetensors")) -> None:
    """Every second tensor in another file."""
    Path("theirs").mkdir()
    weights = their_weights()
    shards = {name: dict(list(weights.items())[i :: len(names)]) for i, name in enumerate(names)}
    for name, shard in shards.items():
        if name.endswith(".bin"):
            torch.save(shard, f"theirs/{name}")
        else:
            save_file(shard, f"theirs/{name}")
    index = {"weight_map": {key: name for name, shard in shards.items() for key in shard}}
    stem = "pytorch_model.bin" if names[0].endswith(".bin") else "model.safetensors"
    Path(f"theirs/{stem}.index.json").write_text(json.dumps(index))


def write_lightning() -> None:
    """As training frameworks do: the model in an attribute, and settings of a foreign class."""
    state = {f"model.{name}": tensor for name, tensor in their_weights().items()}
    module = types.ModuleType("omegaconf")
    foreign = type("DictConfig", (), {"__module__": module.__name__})
    module.DictConfig = foreign  # type: ignore[attr-defined]
    settings = foreign()
    settings.content = {"lr": 1e-3}
    checkpoint = {
        "pytorch-lightning_version": "1.8.6",
        "state_dict": state,
        "hyper_parameters": settings,
    }
    sys.modules[module.__name__] = module
    try:
        torch.save(checkpoint, "theirs.ckpt")
    finally:
        del sys.modules[module.__name__]


SOURCES = {
    "folder": ("theirs", lambda: write_folder(their_weights())),
    "file": ("w.safetensors", lambda: save_file(their_weights(), "w.safetensors")),
    "shards": ("theirs", write_shards),
    "bin_shards": ("theirs", lambda: write_shards(("one.bin", "two.bin", "three.bin"))),
    "pickle": ("w.bin", lambda: torch.save(their_weights(), "w.bin")),
    "old_pickle": (
        "w.pt",
        lambda: torch.save(their_weights(), "w.pt", _use_new_zipfile_serialization=False),
    ),
    "state_dict": ("w.pth", lambda: torch.save({"state_dict": their_weights(), "n": 3}, "w.pth")),
    "lightning": ("theirs.ckpt", write_lightning),
    "state_spaces": ("w.pt", lambda: torch.save(build_tiny().state_dict(), "w.pt")),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_import_gives_the_same_model(convert, kind):
    source, write = SOURCES[kind]
    write()
    said = convert("import", source, "--out", "ours")
    name = "state-spaces-mamba" if kind == "state_spaces" else "huggingface-mamba"
    assert said.startswith(f"{source}: {name}\n")
    assert "written and read again: the same logits, bit for bit" in said
    # In their layouts no id is left out.
    assert torch.equal(logits_of(Path("ours"))[:, :12], our_logits())


def test_import_says_what_it_found(convert):
    weights = their_weights()
    del weights["lm_head.weight"]
    write_folder({name: tensor.bfloat16() for name, tensor in weights.items()})
    said = convert("import", "theirs", "--out", "made/ours")
    assert "mamba, d_model 8, 2 layers, 16 token ids in 16 rows, 1,592 parameters" in said
    assert f"weights: {len(weights)} bfloat16; widened to float32" in said
    assert "256 fixed bases: " in said
    assert said.endswith("made/ours: config.json, model.safetensors\n")
    kept = load_file("made/ours/model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}


def test_import_takes_settings_from_the_config(convert):
    write_folder(their_weights(), {"layer_norm_epsilon": 1e-3})
    convert("import", "theirs", "--out", "ours")
    assert DnaModel.from_pretrained("ours").config.norm_eps == 1e-3


def test_import_into_an_empty_folder(convert):
    write_folder(their_weights())
    Path("ours").mkdir()
    convert("import", "theirs", "--out", "ours")
    assert sorted(os.listdir("ours")) == ["config.json", "model.safetensors"]


# What must be refused: one line, exit code 1, nothing run, nothing written.


class CreatesFile:
    """A pickle of it makes a file when it is read by the usual means."""

    def __reduce__(self):
        return (open, ("executed", "w"))


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "old"])
@pytest.mark.parametrize("place", ["beside", "inside"])
def test_a_malicious_pickle_runs_nothing(refuse, archive, place):
    weights: dict = their_weights()
    content = {"state_dict": weights, "extra": CreatesFile()}
    if place == "inside":
        content = {**weights, "lm_head.weight": CreatesFile()}
    torch.save(content, "evil.pt", _use_new_zipfile_serialization=archive)
    error = refuse("evil.pt")
    assert "evil.pt is refused: reading it would run " in error
    assert "open, and weights need no code. Ask for a safetensors file" in error
    assert not Path("executed").exists()
    # The same file does make it where pickles are trusted.
    torch.load("evil.pt", weights_only=False)
    assert Path("executed").exists()


def test_a_bare_malicious_pickle_runs_nothing(refuse):
    Path("evil.ckpt").write_bytes(pickle.dumps(CreatesFile()))
    assert "evil.ckpt is" in refuse("evil.ckpt")
    assert not Path("executed").exists()


def test_a_blocked_module_is_named(refuse):
    class Removes:
        def __reduce__(self):
            return (os.mkdir, ("executed",))

    torch.save({"a": Removes()}, "evil.bin")
    assert "reading it would run posix.mkdir" in refuse("evil.bin")
    assert not Path("executed").exists()


def test_a_pickle_torch_does_not_know_is_refused_in_our_words(refuse):
    """torch's own message says how to trust the file."""
    Path("w.bin").write_bytes(pickle.dumps({"a": 1}, protocol=5))
    error = refuse("w.bin")
    assert "w.bin is refused: it holds other things than tensors, containers and numbers" in error
    assert "(Unsupported operand 149). Ask for a safetensors file" in error
    assert "weights_only" not in error


def test_wrong_shapes_are_listed(refuse):
    weights = their_weights()
    weights["backbone.layers.1.mixer.D"] = torch.ones(3)
    weights["backbone.norm_f.weight"] = torch.ones(9)
    write_folder(weights)
    error = refuse("theirs")
    assert "theirs as huggingface-mamba: " in error
    assert "backbone.layers.1.mixer.D is (3,), expected (16,)" in error
    assert "backbone.norm_f.weight is (9,), expected (8,)" in error


def test_missing_and_unknown_keys_are_listed(refuse):
    weights = their_weights()
    del weights["backbone.layers.1.norm.weight"]
    weights["classifier.bias"] = torch.ones(2)
    write_folder(weights)
    error = refuse("theirs")
    assert "missing backbone.layers.1.norm.weight; unknown classifier.bias" in error


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("backbone.layers.0.mixer.A_log", torch.ones(3), "shapes or settings that make no model"),
        ("backbone.layers.123456789.x", torch.ones(1), "but only 24 tensors in all"),
        (
            "backbone.layers.0.mixer.dt_proj.weight",
            torch.ones(16, 1, dtype=torch.int8),
            "dt_proj.weight is torch.int8, expected torch.float32",
        ),
        (
            "backbone.layers.0.norm.weight",
            torch.full((8,), torch.nan),
            "the model's logits are not finite",
        ),
    ],
    ids=["rank", "layer", "quantised", "nan"],
)
def test_odd_tensors_are_refused(refuse, name, tensor, message):
    write_folder({**their_weights(), name: tensor})
    assert message in refuse("theirs")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("kept", [0, 100, 3000])
def test_a_truncated_file_is_refused(refuse, suffix, kept):
    path = Path(f"w{suffix}")
    save = save_file if suffix == ".safetensors" else torch.save
    save(their_weights(), path)
    path.write_bytes(path.read_bytes()[:kept])
    error = refuse(str(path))
    assert "is not a whole" in error
    assert "copy or download it again" in error


@pytest.mark.parametrize("content", [b"hello", b"\x80\x02}q\x00.", b"PK\x03\x04"])
def test_a_file_without_a_model_is_refused(refuse, content):
    Path("w.bin").write_bytes(content)
    assert "w.bin is not a whole PyTorch file" in refuse("w.bin")


def test_other_things_than_tensors_are_refused(refuse):
    torch.save([1, 2], "list.pt")
    assert "list.pt holds a list: expected tensors by name" in refuse("list.pt")
    torch.save({"epoch": 3, "weights": {"a": torch.ones(1)}}, "deep.pt")
    assert "other things than tensors by name: epoch; weights" in refuse("deep.pt")
    torch.save({}, "none.pt")
    assert "none.pt holds no tensors" in refuse("none.pt")


def test_a_config_of_a_newer_format_is_refused(refuse):
    build_tiny().save_pretrained("ours")
    config = json.loads(Path("ours/config.json").read_text())
    Path("ours/config.json").write_text(json.dumps({**config, "format_version": 7}))
    error = refuse("ours")
    assert "config.json has format_version 7, this dnamamba reads 1 and 2; install" in error


def test_a_config_that_is_no_json_is_refused(refuse):
    write_folder(their_weights(), {})
    Path("theirs/config.json").write_text("{" * 3)
    assert "config.json is not JSON" in refuse("theirs")


def test_a_missing_shard_is_named(refuse):
    write_shards()
    os.remove("theirs/two.safetensors")
    assert "theirs lacks two.safetensors, of 2 shards" in refuse("theirs")


def test_a_shard_of_another_model_is_named(refuse):
    write_shards()
    save_file({"strange.weight": torch.ones(1)}, "theirs/two.safetensors")
    error = refuse("theirs")
    assert "two.safetensors is not what model.safetensors.index.json says: missing" in error
    assert "unknown strange.weight" in error or "more" in error


@pytest.mark.parametrize("name", ["../w.safetensors", "/etc/w.safetensors", ".."])
def test_a_shard_elsewhere_is_not_read(refuse, name):
    Path("theirs").mkdir()
    index = {"weight_map": {"a": name}}
    Path("theirs/model.safetensors.index.json").write_text(json.dumps(index))
    assert f"names {name!r}: shards lie in the folder of their index" in refuse("theirs")


def test_sources_without_weights_are_refused(refuse):
    assert "there is no nowhere" in refuse("nowhere")
    Path("empty").mkdir()
    assert "empty has no weights: expected model.safetensors" in refuse("empty")
    Path("notes.txt").write_text("hello")
    assert "notes.txt is no file of weights known here: expected .safetensors" in refuse(
        "notes.txt"
    )
    for name in ("a.pt", "b.ckpt"):
        torch.save(their_weights(), f"empty/{name}")
    assert "several files of weights (a.pt, b.ckpt): name one" in refuse("empty")


def test_a_device_is_no_source(refuse):
    assert "/dev/null is neither a file nor a folder" in refuse("/dev/null")


def test_a_small_file_cannot_ask_for_a_huge_model(refuse):
    """d_model 60,000 would take 57 GB; the tensors that say so have 1.2 MB."""
    wide = {
        "backbone.embeddings.weight": torch.zeros(1, 60_000),
        "backbone.layers.0.mixer.A_log": torch.zeros(60_000, 4),
    }
    write_folder({**their_weights(), **wide})
    assert "norm_f.weight is (8,), expected (60000,)" in refuse("theirs")
    build_tiny().save_pretrained("ours")
    config = json.loads(Path("ours/config.json").read_text())
    for d_model, message in [(60_000, "expected (60000,)"), (1 << 40, "no model can have the siz")]:
        config["model"]["d_model"] = d_model
        Path("ours/config.json").write_text(json.dumps(config))
        assert message in refuse("ours")


def test_unknown_formats_are_refused(refuse):
    write_folder(their_weights())
    error = refuse("theirs", "--format", "gpt")
    assert "no format is called 'gpt'; there are huggingface-mamba, state-spaces" in error
    save_file({"transformer.h.0.weight": torch.ones(1)}, "w.safetensors")
    error = refuse("w.safetensors")
    assert "w.safetensors is of no format known here (huggingface-mamba, state-sp" in error
    assert "its tensors are called transformer.h.0.weight" in error


def test_weights_of_two_formats_need_a_name(refuse, convert, monkeypatch):
    from dnamamba.models.interop import registry

    one = registry.FORMATS[0]
    twin = Format("twin", ("mamba",), one.recognises, one.read)
    monkeypatch.setattr(registry, "FORMATS", (one, twin))
    write_folder(their_weights())
    assert "theirs may be huggingface-mamba or twin: say which with --format" in refuse("theirs")
    assert "theirs: twin\n" in convert("import", "theirs", "--format", "twin", "--out", "ours")


def test_a_target_in_use_is_left_alone(convert):
    write_folder(their_weights())
    Path("ours").mkdir()
    Path("ours/mine.txt").write_text("precious")
    Path("file").write_text("precious")
    for command in ("import", "export"):
        error = convert(command, "theirs", "--out", "ours", code=1)
        assert "--out ours has files in it already: name a new folder" in error
        assert "--out file is a file" in convert(command, "theirs", "--out", "file", code=1)
    assert "--out file/in is to lie in file, which" in convert(
        "import", "theirs", "--out", "file/in", code=1
    )
    assert os.listdir("ours") == ["mine.txt"]
    assert Path("file").read_text() == "precious"


def test_a_target_that_is_a_link_is_left_alone(convert):
    write_folder(their_weights())
    Path("empty").mkdir()
    Path("link").symlink_to("empty")
    error = convert("import", "theirs", "--out", "link", code=1)
    assert "--out link is a link, which would be lost: name the folder itself" in error
    assert Path("link").is_symlink()


def test_nothing_stays_of_a_folder_that_was_not_finished(tmp_path):
    def fail() -> None:
        with build_folder(tmp_path / "deep" / "er" / "out") as building:
            (building / "half").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_other_logits_than_transformers_are_an_error(refuse, convert, monkeypatch):
    """As a wrong conversion would give."""
    pytest.importorskip("transformers", reason="needs transformers (the test extra)")
    build_tiny().save_pretrained("ours")
    convert("export", "ours", "--out", "theirs")
    original = DnaModel.forward
    monkeypatch.setattr(
        DnaModel, "forward", lambda *given, **options: 1.1 * original(*given, **options)
    )
    assert "transformers' MambaForCausalLM gives other logits (by" in refuse("theirs")


# Odd settings: somebody else's config.json, in which anything may stand.


def settings_and_weights(kind: str) -> tuple[dict, dict[str, Tensor]]:
    """What we would write for a tiny model of a kind, with random numbers."""
    torch.manual_seed(0)
    mixer = MIXERS[kind]
    mlp = {"hyenadna": MlpConfig(bias=True), "llama": MlpConfig(activation="swiglu", bias=False)}
    model = DnaModel(
        ModelConfig(
            d_model=8,
            n_layers=2,
            mixer=mixer,
            mlp=mlp.get(kind),
            norm="layer" if kind == "hyenadna" else "rms",
            strands="both" if kind == "caduceus" else "one",
        )
    )
    names = {"mamba": "huggingface-mamba", "mamba2": "huggingface-mamba2"}
    names |= {"llama": "huggingface-llama", "state-spaces": "state-spaces-mamba"}
    write = find_format(names.get(kind, kind)).write
    assert write is not None
    weights, settings = write(model)
    return settings, {name: tensor.detach().clone() for name, tensor in weights.items()}


MIXERS: dict[str, MixerConfig] = {
    "mamba": MambaConfig(d_state=4),
    "state-spaces": MambaConfig(d_state=4),
    "mamba2": Mamba2Config(d_state=4, d_head=8),
    "llama": AttentionConfig(n_heads=2),
    "hyenadna": HyenaConfig(l_max=300, filter_order=8),
    "caduceus": BiMambaConfig(d_state=4),
}
HUGE = pytest.param(10**400, id="beyond floats")
EPS_NAMES = {
    "mamba": "layer_norm_epsilon",
    "mamba2": "layer_norm_epsilon",
    "llama": "rms_norm_eps",
    "hyenadna": "layer_norm_epsilon",
    "caduceus": "norm_epsilon",
}


@pytest.mark.parametrize("kind", EPS_NAMES)
@pytest.mark.parametrize("value", ["abc", None, math.nan, math.inf, 0, -1e-5, True, HUGE])
def test_what_norms_add_is_a_number_above_0(kind, value, refuse):
    settings, weights = settings_and_weights(kind)
    write_folder(weights, {**settings, EPS_NAMES[kind]: value})
    assert f"{EPS_NAMES[kind]} must be a finite number > 0, got " in refuse("theirs")


ODD_SETTINGS = [
    ("mamba", {"residual_in_fp32": "x"}, "residual_in_fp32 must be true or false, got 'x'"),
    ("mamba", {"time_step_min": [1]}, "time_step_min must be a finite number, got [1]"),
    ("mamba", {"dnamamba": {"vocab_size": "x"}}, "vocab_size must be a whole number >= 1"),
    ("state-spaces", {"ssm_cfg": 3}, "ssm_cfg must be a JSON object, got 3"),
    (
        "state-spaces",
        {"pad_vocab_size_multiple": 0},
        "pad_vocab_size_multiple must be a whole number",
    ),
    ("mamba2", {"n_groups": "x"}, "n_groups must be a whole number >= 1, got 'x'"),
    ("mamba2", {"time_step_limit": 3}, "time_step_limit must be two numbers, got 3"),
    ("llama", {"rope_scaling": [1]}, "rope_scaling must be a JSON object, got [1]"),
    ("llama", {"rope_parameters": "x"}, "rope_parameters must be a JSON object, got 'x'"),
    ("llama", {"rope_theta": [1]}, "rope_theta must be a finite number, got [1]"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not read"),
    ("llama", {"mlp_bias": True}, "mlp_bias is True, expected False"),
    ("llama", {"attention_bias": True}, "attention_bias is True, expected False"),
    ("hyenadna", {"layer": {"shift": "x"}}, "shift must be a finite number, got 'x'"),
    ("hyenadna", {"shift": [1]}, "shift must be a finite number, got [1]"),
    ("hyenadna", {"layer": 3}, "layer must be a JSON object, got 3"),
    ("hyenadna", {"layer": {"l_max": 400}}, "l_max is 400, expected 300"),
    ("hyenadna", {"layer": {"l_max": -1}}, "l_max is -1, expected 300"),
    ("caduceus", {"ssm_cfg": 3}, "ssm_cfg must be a JSON object, got 3"),
    ("caduceus", {"complement_map": 3}, "complement_map must be a JSON object, got 3"),
    ("caduceus", {"fused_add_norm": "x"}, "fused_add_norm must be true or false, got 'x'"),
]


@pytest.mark.parametrize(("kind", "odd", "message"), ODD_SETTINGS)
def test_odd_settings_are_refused(kind, odd, message, refuse):
    settings, weights = settings_and_weights(kind)
    write_folder(weights, {**settings, **odd})
    assert message in refuse("theirs")


def test_biases_that_the_settings_deny_are_refused(refuse):
    settings, weights = settings_and_weights("llama")
    for name in [name for name in weights if "mlp." in name]:
        weights[name.replace("weight", "bias")] = torch.zeros(weights[name].shape[0])
    write_folder(weights, settings)
    assert "mlp_bias is False, expected True" in refuse("theirs")


@pytest.mark.parametrize(
    ("kind", "odd", "said"),
    [
        ("mamba", {"return_dict": False}, "MambaForCausalLM: logits differ by"),
        ("mamba2", {"chunk_size": 1 << 40}, "Mamba2ForCausalLM: logits differ by"),
        ("llama", {"pad_token_id": 99_999}, "transformers makes no model of this ("),
        ("llama", {"hidden_size": None}, "transformers makes no model of this ("),
    ],
)
def test_settings_that_only_transformers_minds(kind, odd, said, convert):
    pytest.importorskip("transformers", reason="needs transformers (the test extra)")
    settings, weights = settings_and_weights(kind)
    write_folder(weights, {**settings, **odd})
    assert said in convert("check", "theirs")


def test_sizes_left_out_are_not_transformers_own(convert):
    """Llama's, of 7 billion parameters, would take 27 GB."""
    pytest.importorskip("transformers", reason="needs transformers (the test extra)")
    _, weights = settings_and_weights("llama")
    write_folder(weights, {"model_type": "llama", "num_attention_heads": 2})
    said = convert("check", "theirs")
    assert "transformers makes no model of this (its model.embed_tokens.weight is (32000, " in said


@pytest.mark.parametrize("kind", theirs.MODEL_TYPES)
@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation"])
def test_no_setting_has_transformers_fetch_code(kind, name, convert, monkeypatch):
    """A kernel's name there is a repository, whose code transformers would run."""
    transformers = pytest.importorskip("transformers", reason="needs transformers (the test extra)")
    fetched: list[object] = []
    fetch = "load_and_register_attn_kernel"
    hub_kernels = pytest.importorskip("transformers.integrations.hub_kernels")
    flash = pytest.importorskip("transformers.modeling_flash_attention_utils")
    for place in (hub_kernels, flash):
        monkeypatch.setattr(place, fetch, lambda *given, **_: fetched.append(given), raising=False)
    passed: dict[str, object] = {}
    original = transformers.AutoConfig.for_model

    def note(model_type, **given):
        passed.update(given)
        return original(model_type, **given)

    monkeypatch.setattr(transformers.AutoConfig, "for_model", note)
    settings, weights = settings_and_weights(kind)
    odd = {name: "evil-owner/kernel", "auto_map": {"AutoModel": "evil--code.Evil"}}
    write_folder(weights, {**settings, **odd})
    assert "logits differ by" in convert("check", "theirs")
    assert fetched == []
    assert passed.keys() <= theirs.KNOWN_SETTINGS[kind]


def test_what_we_write_is_known_to_be_passed_on():
    for kind in theirs.MODEL_TYPES:
        settings, _ = settings_and_weights(kind)
        left_out = settings.keys() - theirs.KNOWN_SETTINGS[kind]
        assert left_out <= {"model_type", "architectures", "dtype", "chunk_size"}


def test_a_hyena_shorter_than_the_fixed_sequence(convert):
    tiny_model(HyenaConfig(l_max=100)).save_pretrained("m")
    assert "\n100 fixed bases: " in convert("check", "m")


def test_a_long_hyena_without_positions_computes_none(convert, monkeypatch):
    """Of 30 million positions they would take 3.3 GiB."""
    settings, weights = settings_and_weights("hyenadna")
    kept = {n: w for n, w in weights.items() if "pos_emb" not in n and "deltas" not in n}
    settings["layer"]["l_max"] = 30_000_000
    asked: list[int] = []
    original = ImplicitFilter.positions

    def note(self, seq_len):
        asked.append(seq_len)
        return original(self, seq_len)

    monkeypatch.setattr(ImplicitFilter, "positions", note)
    write_folder(kept, settings)
    convert("import", "theirs", "--out", "ours")
    assert max(asked) == 256


# What goes out.


def test_export_is_read_by_transformers(convert):
    transformers = pytest.importorskip("transformers", reason="needs transformers (the test extra)")
    build_tiny().save_pretrained("run/model")
    said = convert("export", "run", "--out", "theirs")
    assert "written as huggingface-mamba\n" in said
    assert "transformers' MambaForCausalLM: logits differ by " in said
    assert said.endswith("config.json, model.safetensors, tokenizer.json, tokenizer_config.json\n")
    model = transformers.AutoModelForCausalLM.from_pretrained("theirs")
    tokenizer = transformers.AutoTokenizer.from_pretrained("theirs")
    ids = tokenizer("ACGTacgtNN", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = build_tiny()(ids)[..., :12]
        torch.testing.assert_close(model(ids).logits[..., :12], expected, rtol=1e-4, atol=1e-5)
    config = model.config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (2, 1, 4)


def test_there_and_back_is_the_same_file(convert):
    build_tiny().save_pretrained("ours")
    convert("export", "ours", "--out", "theirs", "--format", "huggingface-mamba")
    convert("import", "theirs", "--out", "back")
    for name in ("config.json", "model.safetensors"):
        assert Path("back", name).read_bytes() == Path("ours", name).read_bytes()


def test_export_says_why_a_layout_does_not_do(convert):
    tiny_model(mlp=MlpConfig()).save_pretrained("ours")
    error = convert("export", "ours", "--out", "theirs", code=1)
    assert "no layout holds this model: huggingface-mamba: " in error
    assert "state-spaces-mamba: " in error
    assert os.listdir() == ["ours"]


def test_check_describes_and_writes_nothing(convert):
    build_tiny().save_pretrained("run/model")
    said = convert("check", "run").splitlines()
    assert said[0] == "run/model: dnamamba"
    assert said[1] == "mamba, d_model 8, 2 layers, 12 token ids in 16 rows, 1,592 parameters"
    assert said[2] == "weights: float32"
    assert "round trip by huggingface-mamba: exact" in said
    assert os.listdir() == ["run"]
    assert convert("check", "run/model/model.safetensors").splitlines() == said


def test_check_compares_with_nothing_where_transformers_is_absent(convert, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    write_folder(their_weights(), {"model_type": "mamba"})
    said = convert("check", "theirs")
    assert "transformers is not installed: the fingerprint is all there is to compare" in said


def test_check_goes_on_where_transformers_refuses_the_settings(convert):
    pytest.importorskip("transformers", reason="needs transformers (the test extra)")
    write_folder(their_weights(), {"model_type": "mamba", "pad_token_id": "many"})
    assert "transformers makes no model of this (" in convert("check", "theirs")


# The fingerprint.


def test_the_fixed_sequence_is_ever_the_same():
    ids = fingerprint.fixed_ids()
    assert ids.shape == (1, 256)
    assert ids[0, :12].tolist() == [8, 10, 10, 9, 7, 8, 9, 8, 7, 7, 10, 9]
    assert torch.bincount(ids[0])[7:].min() > 40


def test_the_fingerprint_tells_models_apart_and_not_their_rounding():
    one, again, other = build_tiny(), build_tiny(), DnaModel(CONFIG)
    with torch.no_grad():
        again.backbone.embedding.weight.mul_(1 + 1e-6)
    first = fingerprint.take_fingerprint(one)
    assert fingerprint.take_fingerprint(again).logits_hash == first.logits_hash
    assert fingerprint.take_fingerprint(again).bits_per_base == pytest.approx(
        first.bits_per_base, abs=1e-4
    )
    assert fingerprint.take_fingerprint(other) != first


def test_models_that_see_both_sides_are_asked_for_masked_bases(convert, monkeypatch):
    build_tiny().save_pretrained("ours")
    monkeypatch.setattr(MambaConfig, "reads_both_directions", True)
    ids = fingerprint.model_ids(build_tiny(), masked=True)[0]
    assert (ids == 3).nonzero().flatten().tolist() == list(range(0, 256, 8))
    assert "\nevery eighth of 256 fixed bases, masked: " in convert("check", "ours")


def test_a_small_vocabulary_is_said_to_be_another(convert):
    tiny_model(vocab_size=5).save_pretrained("ours")
    assert "another vocabulary than DNA's" in convert("check", "ours")


def test_only_architectures_without_remote_code_are_compared():
    assert set(theirs.MODEL_TYPES) == {"mamba", "mamba2", "llama"}
