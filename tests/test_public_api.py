"""The public names and the options of every command: a change here is a change for users."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

import dnamamba
from dnamamba import kernels
from dnamamba.cli.main import cli

# fmt: off
PUBLIC_NAMES = [
    "ClassifyConfig", "DataConfig", "DnaClassifier", "DnaModel", "EmbedConfig", "FineTuneConfig",
    "InputError", "Interval", "LabelTable", "MambaConfig", "Mixer", "MixerConfig", "ModelConfig",
    "PretrainConfig", "ProbeConfig", "RecordsConfig", "RegionsConfig", "RunFolder", "RunOptions",
    "SpeciesConfig", "SpeciesFiles", "SplitConfig", "TableConfig", "TrainConfig", "VOCABULARY",
    "WindowConfig", "WindowRule", "__version__", "classify", "count_flops", "count_parameters",
    "decode", "embed", "embed_regions", "encode", "evaluate_classifier", "figures", "logits",
    "open_genome", "open_regions", "parse_size", "plan_pretraining", "predict_sequences", "preset",
    "preset_names", "pretrain", "probe_embeddings", "read_embeddings", "register_mixer", "resume",
    "resume_classifier", "reverse_complement", "score_sequences", "score_variants", "tokenize",
    "train_classifier",
]
# fmt: on

JOBS = [
    *("tokenize", "logits", "embed", "score_sequences", "score_variants", "classify"),
    *("open_genome",),
]

WINDOWS = """
    --seq-len --bed --windows --valid-contigs --test-contigs --valid-fraction --test-fraction
    --edge --max-n-fraction --keep-overlap --data-seed
"""
RECIPE = """
    --steps --batch-tokens --learning-rate --min-learning-rate --warmup-fraction --weight-decay
    --grad-clip --softmask-weight --no-rc-augment --objective --eval-every --eval-tokens
    --save-every --log-every --seed --precision
"""
LABELLED = """
    --species --split --bed --valid-contigs --test-contigs --chromosomes --max-n-fraction
    --eval-windows --table --sequence-column --label-columns --records --regions --genome
    --label-column --seq-len --data-seed
"""
FINE_TUNING = """
    --tune --pool --epochs --steps-per-epoch --steps --batch-size --learning-rate
    --min-learning-rate --warmup-fraction --weight-decay --grad-clip --extend-filters --dropout
    --class-weights --rc
    --eval-every --eval-examples --patience --keep --save-every --log-every --seed --precision
    --no-length-warmup
"""
OPTIONS = {
    "classify train": f"""
        MODEL --out --force --resume --dry-run {LABELLED} --task --group-by --valid-table
        --test-table --split-column --group-column --valid-fraction --test-fraction --rc-augment
        --no-rc-augment --mutation-rate {FINE_TUNING} --device --workers --micro-batch --recompute
    """,
    "classify eval": f"RUN --out --lengths {LABELLED} --rc --device --micro-batch",
    "classify predict": """
        MODEL SOURCE --out --force --genome --format --seq-len --edge --sequence-column --rc
        --per-base --batch-tokens --device --precision
    """,
    "pretrain": f"""
        DATA --model --out --force --resume --dry-run {WINDOWS} {RECIPE} --device --workers
        --micro-batch --recompute
    """,
    "embed": """
        MODEL --regions --genome --out --force --layers --pooling --rc --context --edge --allele
        --dtype --format --input-format --sequence-column --name-column --track --batch-tokens
        --device --precision
    """,
    "probe": """
        EMBEDDINGS --labels --task --label-column --join --name-column --group-column --group-by
        --split-column --folds --model --layer --genome --sequences --max-k --seed --out --force
    """,
    "score": """
        MODEL SOURCE --genome --out --force --format --seq-len --edge --rc --batch-tokens
        --device --precision
    """,
    "data info": "FILES --contigs",
    "data prepare": "FILES --out --aliases --force",
    "data check": f"FILES {WINDOWS} --species --split",
    "data fetch": "NAMES --out --mirror --force --assembly --species --list",
    "data demo": "--out",
    "convert import": "SOURCE --out --format",
    "convert export": "MODEL --out --format",
    "convert check": "SOURCE --format",
    "bench scan": """
        --min-len --max-len --d-inner --batch --limit --plot --shape --backend --dtype --device
        --json
    """,
    "bench train": """
        --run --steps --micro-batch --recompute --precision --device
        --json
    """,
    "doctor": "--device --out",
}


def commands(group: click.Group, prefix: str = "") -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= commands(command, f"{prefix}{name} ")
        else:
            found[f"{prefix}{name}"] = command
    return found


def test_public_names():
    assert sorted(dnamamba.__all__) == sorted(PUBLIC_NAMES)
    for name in PUBLIC_NAMES:
        assert getattr(dnamamba, name) is not None


def test_import_needs_neither_torch_nor_numpy():
    script = (
        "import sys, dnamamba; dir(dnamamba)\n"
        "assert not {'torch', 'numpy', 'pandas'} & set(sys.modules), 'loaded too much'"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", JOBS)
def test_a_job_shows_an_example_and_its_errors(name):
    text = getattr(dnamamba, name).__doc__
    assert f"    dnamamba.{name}(" in text or f"= dnamamba.{name}(" in text
    assert "Raises " in text


def test_public_kernels():
    assert sorted(kernels.__all__) == [
        "add_norm",
        "causal_conv1d",
        "causal_conv1d_step",
        "long_conv",
        "selective_scan",
        "selective_scan_step",
        "state_space_duality",
    ]


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'dnamamba' has no attribute 'mamba2'"):
        dnamamba.mamba2  # noqa: B018


def test_every_command_has_exactly_these_options():
    found = {
        name: {
            text
            for parameter in command.params
            for text in (
                [*parameter.opts, *parameter.secondary_opts]
                if isinstance(parameter, click.Option)
                else [(parameter.name or "").upper()]
            )
        }
        for name, command in commands(cli).items()
    }
    assert found == {name: set(options.split()) for name, options in OPTIONS.items()}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_command_shows_an_example(name):
    help_text = commands(cli)[name].help or ""
    assert f"dnamamba {name}" in help_text


def test_help_needs_neither_torch_nor_numpy():
    script = (
        "import sys; from dnamamba.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'numpy', 'h5py', 'rich'} & set(sys.modules), 'loaded too much'"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pretrain" in done.stdout


def test_the_ways_to_recompute_are_those_of_the_models():
    """Written twice, as the command line does not load torch."""
    from dnamamba.cli.pretrain import pretrain
    from dnamamba.models.recompute import RECOMPUTE

    (option,) = (one for one in pretrain.params if one.name == "recompute")
    assert tuple(option.type.choices) == RECOMPUTE
