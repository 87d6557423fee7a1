"""What a job knows before it begins: where things are, its models, and the units that it plans."""

from dataclasses import dataclass

from pipeline.config.job import JobConfig
from pipeline.dataset.metadata import Dataset, new_dataset
from pipeline.dataset.schema import TokenizerColumn
from pipeline.job.remaining import take_slice
from pipeline.records import WorkUnit
from pipeline.sources.planning import plan_units
from pipeline.storage.files import canonical_uri
from pipeline.tokenizers.identity import identity, tokenizer_column
from pipeline.tokenizers.models import absolute_path, open_model, weights_digest


def with_absolute_paths(config: JobConfig) -> JobConfig:
    """Return the job with paths that mean the same in every process."""
    output, lists = config.output, config.source.lists
    uri = canonical_uri(output.uri, output.storage_options)
    if lists.root is not None:
        root = canonical_uri(lists.root, config.source.storage_options)
        lists = lists.model_copy(update={"root": root})
    specs = [
        spec.model_copy(update={"weights": absolute_path(spec.weights)})
        for spec in config.tokenizers
    ]
    return config.model_copy(
        update={
            "source": config.source.model_copy(update={"lists": lists}),
            "output": output.model_copy(update={"uri": uri}),
            "tokenizers": specs,
        }
    )


@dataclass(frozen=True, slots=True)
class Tokenizers:
    """What the driver has to know of the models, after it has looked into them and let them go."""

    columns: tuple[TokenizerColumn, ...]
    weights: tuple[str, ...]
    identity: dict[str, object]

    def dataset(self, config: JobConfig) -> Dataset:
        """Return the head of the dataset that they write."""
        return new_dataset(self.columns, self.identity, config.public())


def open_tokenizers(config: JobConfig) -> Tokenizers:
    """Load each model once, for the digest of its weights.

    Raises:
        ConfigError: weights are not there, or are those of another model.
    """
    columns, digests, configs = [], {}, {}
    for spec in config.tokenizers:
        model = open_model(spec)
        digests[spec.name], configs[spec.name] = weights_digest(model), model.config
        columns.append(tokenizer_column(spec, model.config, config.clip, digests[spec.name]))
    whole = identity(config, configs, digests)
    return Tokenizers(tuple(columns), tuple(digests.values()), whole)


def planned_units(config: JobConfig) -> list[WorkUnit]:
    """Return the units of the job's slice of its sources, committed or not.

    Raises:
        ConfigError: a source matches nothing that is to be tokenized.
    """
    source = config.source
    plan = plan_units(
        source.uri,
        storage_options=source.storage_options,
        files_per_unit=source.files_per_unit,
        lists=source.lists,
        images=config.clip.takes_images,
    )
    if config.slice is None:
        return plan
    index, of = map(int, config.slice.split("/"))
    return take_slice(plan, index, of)
