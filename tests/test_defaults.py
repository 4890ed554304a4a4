"""Defaults of training are the library's: Python and the command line get the same."""

from dataclasses import replace

import click
import pytest

from dnamamba.classification.config import ClassifyConfig, FineTuneConfig
from dnamamba.cli.classify_train import train
from dnamamba.cli.pretrain import pretrain
from dnamamba.data.labelled.config import TableConfig
from dnamamba.data.species.dataset import SpeciesConfig, SpeciesFiles
from dnamamba.data.splits import SplitConfig
from dnamamba.data.window_dataset import DataConfig
from dnamamba.data.windows import WindowConfig
from dnamamba.errors import InputError
from dnamamba.models import preset
from dnamamba.pretraining.config import PretrainConfig, TrainConfig

APES = SpeciesConfig(
    species=(SpeciesFiles("human", ("h.fa",)), SpeciesFiles("bonobo", ("b.fa",))), seq_len=512
)


@pytest.mark.parametrize(("command", "recipe"), [(pretrain, TrainConfig), (train, FineTuneConfig)])
def test_defaults_in_the_help_are_those_of_the_recipe(command, recipe):
    shown = {
        option.name: option.default
        for option in command.params
        if isinstance(option, click.Option) and option.show_default
    }
    fields = recipe.__dataclass_fields__
    both = {name: default for name, default in shown.items() if name in fields}
    assert {"weight_decay", "save_every", "seed"} <= set(both)
    assert both == {name: fields[name].default for name in both}


def test_pretraining_on_a_cpu_takes_minutes():
    config = PretrainConfig.with_defaults(device="cpu")
    assert config.genome == ("demo",)
    assert config.model == preset("mamba-demo", 1024)
    assert config.data == DataConfig(
        windows=WindowConfig(seq_len=1024),
        splits=SplitConfig(valid_contigs=("chr5",), test_contigs=("chr4",)),
    )
    assert config.train == TrainConfig(
        max_steps=300,
        batch_tokens=1 << 13,
        eval_tokens=1 << 17,
        eval_every=30,
        learning_rate=8e-3,
    )


def test_a_batch_is_at_least_one_window(tmp_path):
    data = DataConfig(windows=WindowConfig(seq_len=20_000))
    files = (tmp_path / "genome.fa",)
    config = PretrainConfig.with_defaults(files, data=data, device="cpu", max_steps=7)
    assert config.genome == (str(tmp_path / "genome.fa"),)
    assert (config.train.max_steps, config.train.batch_tokens) == (7, 20_000)


def test_hyena_has_a_lower_peak_unless_one_is_given():
    recipe = PretrainConfig.with_defaults(model="hyena-demo", device="cpu").train
    assert recipe.learning_rate == 2e-3
    given = PretrainConfig.with_defaults(model="hyena-demo", device="cpu", learning_rate=1e-4)
    assert given.train.learning_rate == 1e-4


def test_a_misspelt_setting_is_refused():
    with pytest.raises(TypeError, match="max_step"):
        PretrainConfig.with_defaults(device="cpu", max_step=7)


def test_a_demo_genome_beside_files_is_refused():
    with pytest.raises(InputError, match="'demo' must be the only genome"):
        PretrainConfig.with_defaults(("demo", "genome.fa"), device="cpu")


def test_an_epoch_of_species_is_a_number_of_batches():
    config = ClassifyConfig.with_defaults("mamba-demo", APES, device="cpu")
    assert (config.train.batch_size, config.train.epochs) == (16, 10)
    assert config.data.epoch_size == 64 * 16
    config = ClassifyConfig.with_defaults(
        "mamba-demo", APES, device="cpu", steps_per_epoch=3, batch_size=8
    )
    assert config.data.epoch_size == 24


def test_steps_take_the_place_of_epochs():
    table = TableConfig(train="train.csv")
    config = ClassifyConfig.with_defaults("mamba-demo", table, device="cpu", max_steps=5)
    assert (config.train.epochs, config.train.max_steps) == (None, 5)
    assert config.train.batch_size == 64
    assert config.train.for_examples(1000).eval_every == 5


def test_what_data_and_callers_name_is_kept(tmp_path):
    species = replace(APES, epoch_size=128)
    assert ClassifyConfig.with_defaults("mamba-demo", species).data == species
    with pytest.raises(InputError, match="give max_steps or epochs, not both"):
        ClassifyConfig.with_defaults("mamba-demo", species, max_steps=5, epochs=3)
    with pytest.raises(InputError, match="steps_per_epoch must come with species"):
        ClassifyConfig.with_defaults(
            "mamba-demo", TableConfig(train=str(tmp_path / "x.csv")), steps_per_epoch=5
        )
