"""Settings of `embed`, which writes the text embeddings of a dataset's captions into a sibling."""

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, Field, PositiveInt

from pipeline.config.job import CommitConfig, ModelActors, OutputConfig, Precision
from pipeline.config.section import Seconds, Section

ROW_CLIPS: Final = 16
"""Number of clips in a row between the actors that read and those that embed."""


def _as_parent(value: Any) -> Any:
    return {"uri": value} if isinstance(value, str) else value


class ParentConfig(Section):
    """Dataset whose captions are embedded. Its URI alone is enough."""

    uri: Annotated[str, Field(min_length=1)]
    """Folder of the dataset, or any prefix that fsspec can open."""
    version: PositiveInt | None = None
    """Version of the dataset: the number of its last log record that counts. null: the newest one
    when the run begins."""
    storage_options: dict[str, Any] = Field(default={})
    """Options for fsspec, such as endpoint and credentials. They are never written to disk."""


class EmbedderSpec(Section):
    """Text encoder, which writes one column of the output."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """Name of the column: a-z, 0-9 and _, starting with a letter."""
    model: Annotated[str, Field(pattern=r"^transformers:\w+$")]
    """Class of the encoder in the package transformers, for example
    `transformers:UMT5EncoderModel`, `transformers:T5EncoderModel` or `transformers:CLIPTextModel`.
    Any class works if its output has a `last_hidden_state`."""
    weights: str
    """Folder with the weights that every node can read, or the id of a model on the Hub.
    `org/model/text_encoder` names a folder of the model `org/model`."""
    tokenizer: str | None = None
    """Folder of the tokenizer, or an id on the Hub. null: the folder of the weights or its folder
    `tokenizer`; for `text_encoder_2` of a pipeline of diffusers, `tokenizer_2` beside it."""
    max_tokens: PositiveInt = 512
    """Maximum number of tokens of a caption, special tokens included. Longer captions are cut. The
    default is that of Wan; CLIP takes 77."""
    precision: Precision = "float32"
    """Arithmetic of the encoder. Half precisions are faster and change the last digits."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Data type of the stored embeddings. T5 was trained in bfloat16 and can exceed float16."""
    pooled: bool = False
    """Whether one vector is stored for each caption (the model's `pooler_output`) instead of one
    for each token."""


class ReadConfig(Section):
    """Actors that read the rows of the dataset in `from`."""

    actors: PositiveInt | None = None
    """Number of actors. Each is one process on one CPU. null: one for each CPU that encoders and
    commits leave free."""


class EmbedConfig(Section):
    """A run of `embed`. Sections that a tokenize job also has mean the same."""

    parent: Annotated[
        ParentConfig, BeforeValidator(_as_parent, json_schema_input_type=str | ParentConfig)
    ] = Field(alias="from")
    """Dataset with the captions: its URI, or a section. The output gets the same rows."""
    embedders: Annotated[list[EmbedderSpec], Field(min_length=1)]
    output: OutputConfig
    decode: ReadConfig = ReadConfig()
    tokenize: ModelActors = ModelActors()
    commit: CommitConfig = CommitConfig()
    max_wait_s: Seconds = 600.0
    """Maximum time in seconds that a stage can be without a running actor. Then the run ends with
    exit code 1."""
    slice: Annotated[str, Field(pattern=r"^\d+/\d+$")] | None = None
    """Part of the units in `from` that this driver works on: `3/16` is the fourth of 16 parts. All
    drivers write to one output. null: all units."""

    row_clips: ClassVar[int] = ROW_CLIPS
    max_quarantine_rate: ClassVar[float] = 1.0
    max_alike_units: ClassVar[int | None] = None
    """Nothing is quarantined: a sibling has every row of its parent, or the unit fails."""
