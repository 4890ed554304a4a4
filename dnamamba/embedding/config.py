"""Settings of `dnamamba embed`, with their defaults: how vectors are made, and their file."""

from dataclasses import dataclass, field
from typing import Literal

from dnamamba.configs import require_choice
from dnamamba.data_prep.regions.rows import RegionEdge
from dnamamba.data_prep.regions.text_input import RegionFormat
from dnamamba.embedding.format import StoredDtype
from dnamamba.inference.options import InferenceOptions
from dnamamba.models.pooling import Pooling

Allele = Literal["ref", "alt"]
OutputFormat = Literal["h5", "npz", "parquet", "tsv"]


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(InferenceOptions):
    """How vectors are made from a model's hidden states."""

    layers: tuple[int, ...] | Literal["all"] = (-1,)
    """Hidden states by number: 0 is the embedding, k the stream after block k, n_layers + 1 or -1
    the final norm."""

    pooling: Pooling = field(default_factory=lambda: Pooling("mean"))
    """How the positions of a span become a vector."""

    @property
    def directions(self) -> tuple[bool, ...]:
        """Whether each pass reads the reverse complement."""
        return (False,) if self.rc == "none" else (False, True)

    def width(self, d_model: int) -> int:
        """Numbers in a vector."""
        return d_model * (2 if self.rc == "concat" else 1)


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(EmbedOptions):
    """What `dnamamba embed` reads and writes."""

    context: int | None = None
    """Bases of the window that the model reads around a shorter region, which alone is pooled.
    Default: the region; around variants as many as in training, or 2,048."""

    edge: RegionEdge = "shift"
    """Windows past a contig's end are moved inside (`shift`), filled with N (`pad`) or cut
    (`clip`)."""

    allele: Allele = "ref"
    """Which allele of a variant is read."""

    dtype: StoredDtype = "float32"
    """Dtype of vectors in the file."""

    output_format: OutputFormat | None = None
    """Default: by the file's name."""

    input_format: RegionFormat | None = None
    """Default: by how the input begins."""

    sequence_column: str | None = None
    """Column of a table. Default: `sequence`."""

    name_column: str | None = None
    """Column of a table. Default: `name` if there is one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("allele", self.allele, Allele)
        require_choice("edge", self.edge, RegionEdge)
        require_choice("dtype", self.dtype, StoredDtype)
        if self.output_format is not None:
            require_choice("output_format", self.output_format, OutputFormat)
