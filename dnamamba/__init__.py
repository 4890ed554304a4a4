"""dnamamba: long-context DNA language models, from FASTA to a trained model.

    import dnamamba

    model = dnamamba.DnaModel.from_pretrained("runs/human")
    vectors = dnamamba.embed(model, ["ACGTTG", "TTGACA"])           # (2, D) float32
    peaks = dnamamba.embed(model, regions, genome="hg38.fa")        # a DataFrame: chrom, start, end
    scores = dnamamba.score_variants(model, "variants.vcf.gz", genome="hg38.fa")["llr"]

    classifier = dnamamba.DnaClassifier.from_pretrained("runs/species")
    dnamamba.classify(classifier, ["ACGTTG", "TTGACA"]).labels      # (2,) str

Names below are loaded when they are used first: `import dnamamba` needs neither torch nor numpy.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Name -> module; the name of a module means the module.
_PUBLIC = {
    # Models
    "DnaModel": "dnamamba.models",  # language model: from_pretrained, from_config
    "DnaClassifier": "dnamamba.models",  # a language model with a trained head
    "ModelConfig": "dnamamba.models",  # width, layers and mixers of a model
    "MambaConfig": "dnamamba.models",  # a mixer; dnamamba.models has the others
    "preset": "dnamamba.models",  # the config of a named size
    "preset_names": "dnamamba.models",  # all names: mamba-7m, caduceus-ps-7m, ...
    "count_parameters": "dnamamba.models",  # of a config, without building the model
    "count_flops": "dnamamba.models",  # of a forward pass, by a config
    "Mixer": "dnamamba.models",  # base classes of a mixer of your own
    "MixerConfig": "dnamamba.models",
    "register_mixer": "dnamamba.models",  # makes it known to configs and saved models
    # Sequences
    "tokenize": "dnamamba.inference.inputs",  # str or list of str -> token ids, padded
    "encode": "dnamamba.tokenizer",  # str -> codes: token ids that keep the letters' case
    "decode": "dnamamba.tokenizer",  # token ids or codes -> str
    "reverse_complement": "dnamamba.tokenizer",  # of token ids or codes
    "VOCABULARY": "dnamamba.tokenizer",  # tokens by id
    # Run a model: on a str, several, or a table of regions
    "logits": "dnamamba.inference.inputs",  # (L, V)
    "embed": "dnamamba.embedding.embedder",  # vectors (N, D)
    "embed_regions": "dnamamba.embedding.run",  # of a file's rows, into a file
    "EmbedConfig": "dnamamba.embedding.config",  # its settings
    "score_sequences": "dnamamba.scoring.sequences",  # log-likelihoods (N,)
    "score_variants": "dnamamba.scoring.variants",  # likelihood ratios and distances of alleles
    "classify": "dnamamba.classification.classes",  # labels (N,) and probabilities (N, C)
    "predict_sequences": "dnamamba.classification.predict",  # what any classifier gives, one by one
    # Pretrain
    "pretrain": "dnamamba.pretraining.run",  # FASTA -> run folder with a model and report.html
    "resume": "dnamamba.pretraining.run",  # go on with a run
    "plan_pretraining": "dnamamba.pretraining.run",  # sizes and memory, without training
    "PretrainConfig": "dnamamba.pretraining.config",  # all settings of a run
    "TrainConfig": "dnamamba.pretraining.config",  # steps, learning rate, objective
    "RunOptions": "dnamamba.training.config",  # device, workers, memory
    "RunFolder": "dnamamba.training.run_folder",  # the files of a run
    # Train and evaluate classifiers
    "train_classifier": "dnamamba.classification.run",
    "resume_classifier": "dnamamba.classification.run",
    "evaluate_classifier": "dnamamba.classification.evaluate",  # on held-out or other sequences
    "ClassifyConfig": "dnamamba.classification.config",  # all settings of a run
    "FineTuneConfig": "dnamamba.classification.config",  # steps, learning rate, pooling
    # Data for training
    "DataConfig": "dnamamba.data.window_dataset",  # windows and splits of a genome
    "WindowConfig": "dnamamba.data.windows",
    "SplitConfig": "dnamamba.data.splits",
    "SpeciesConfig": "dnamamba.data.species.dataset",  # labels: which genome a window is from
    "SpeciesFiles": "dnamamba.data.species.dataset",
    "TableConfig": "dnamamba.data.labelled.config",  # labels: columns of a CSV or parquet
    "RecordsConfig": "dnamamba.data.labelled.config",  # labels: a FASTA for each class
    "RegionsConfig": "dnamamba.data.labelled.config",  # labels: regions of a BED
    # Evaluate embeddings
    "probe_embeddings": "dnamamba.probing.run",  # linear models on vectors, beside k-mers
    "ProbeConfig": "dnamamba.probing.problem",
    "LabelTable": "dnamamba.probing.labels",
    # Figures: functions of data and ax=None, as in reports
    "figures": "dnamamba.reports.figures",
    # Readers
    "open_genome": "dnamamba.data_prep.genomes.genome",  # FASTA or store, random access
    "open_regions": "dnamamba.data_prep.regions.readers",  # FASTA, BED, VCF, GTF, tables as rows
    "WindowRule": "dnamamba.data_prep.regions.rows",  # how much open_regions reads of a region
    "read_embeddings": "dnamamba.embedding.reader",  # the file that `dnamamba embed` wrote
    "Interval": "dnamamba.intervals",  # a stretch of a contig, 0-based and half-open
    "parse_size": "dnamamba.intervals",  # "8k" -> 8192
    # Errors
    "InputError": "dnamamba.errors",  # input that cannot be used; says what to do
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'dnamamba' has no attribute {name!r}")
    module = importlib.import_module(_PUBLIC[name])
    return module if _PUBLIC[name].endswith(f".{name}") else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
