"""Everything that a job decides before its first pass: paths, plan, models, output, what remains.

Opening the models takes seconds, most of them for importing torch. Ray starts meanwhile.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pipeline.config.embed import EmbedConfig
from pipeline.config.job import JobConfig, OutputConfig
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.metadata import PATH, Dataset, Digest, new_dataset, open_dataset
from pipeline.dataset.schema import TokenizerColumn
from pipeline.errors import ConfigError
from pipeline.formatting import counted
from pipeline.job.config_checks import facts_faults
from pipeline.job.remaining import is_done, subtract, take_slice
from pipeline.records import WorkUnit
from pipeline.sources.planning import plan_units
from pipeline.storage.access import require_writable
from pipeline.storage.files import canonical_uri
from pipeline.storage.store import Store
from pipeline.threads import in_thread
from pipeline.tokenizers.checks import absolute_path, is_foreign, is_untrained
from pipeline.tokenizers.facts import Description, describe_bundled
from pipeline.tokenizers.identity import identity, tokenizer_column

_RAY_JOB_FOLDER: Final = "/runtime_resources/"
"""Part of the path of the temporary folder in which Ray runs a submitted job."""


@dataclass(frozen=True, slots=True)
class Tokenizers:
    """What the driver keeps of the models after it has loaded each of them once."""

    columns: tuple[TokenizerColumn, ...]
    digests: tuple[Digest, ...]
    """Digest of each tokenizer."""
    identity: dict[str, object]
    """All that changes the tokens; the fingerprint is its hash."""

    def dataset(self, config: JobConfig | EmbedConfig) -> Dataset:
        """Return the head of the dataset that the tokenizers write."""
        probes = {
            column.name: list(digest.probe)
            for column, digest in zip(self.columns, self.digests, strict=True)
            if digest.probe
        }
        return new_dataset(self.columns, self.identity, config.public(), probes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job that is ready to run."""

    config: JobConfig | EmbedConfig
    """Settings of the job, with absolute paths."""
    run: str
    """Name of this run: the UTC time and four random digits."""
    plan: Sequence[WorkUnit]
    """All units of the job's slice, committed or not."""
    tokenizers: Tokenizers
    store: Store
    """The output."""
    dataset: Dataset
    """Head of the dataset in the output."""
    log: CommitLog
    committed_before: int
    """Number of planned units that the log covered when the job was opened."""
    untrained: Sequence[str]
    """Names of the tokenizers without trained weights."""
    notes: Sequence[str]
    """Lines about the job for the user."""

    def remaining(self) -> list[WorkUnit]:
        """Plan the units that the log, as far as this driver has read it, does not cover."""
        self.log.plan()
        files = self.config.source.files_per_unit if isinstance(self.config, JobConfig) else None
        return subtract(self.plan, self.log.committed, files_per_unit=files)


def open_job(config: JobConfig, beside: Callable[[], object] | None = None) -> Job:
    """Decide everything that can be decided before the first pass.

    The output gets its `dataset.json` if it has none; nothing else is written.

    Args:
        config: the job; relative paths start at the working directory.
        beside: called while a thread opens the models, if the output is new: then units remain.

    Raises:
        ConfigError: the configuration does not fit the sources, the models or the output.
        StoreError: the output or a source cannot be read.
    """
    notes = []
    if _is_relative(config.output.uri) and _RAY_JOB_FOLDER in str(Path.cwd()):
        notes.append(
            f"warning    output.uri = {config.output.uri}: a submitted job runs in a temporary"
            " folder, which Ray deletes; set an absolute path or a URI"
        )
    config = with_absolute_paths(config)
    aside: list[str] = []
    plan = planned_units(config, aside)
    notes += [f"left aside {line}" for line in aside]
    store = open_output(config.output)
    untrained = [spec.name for spec in config.tokenizers if is_untrained(spec)]
    if beside is None or store.exists(PATH):
        tokenizers = open_tokenizers(config)
    else:
        opened = in_thread(lambda: _open_all(config))
        beside()
        tokenizers = opened.result()
    dataset = open_dataset(store, tokenizers.dataset(config))
    run = run_name()
    log = CommitLog(store, fingerprint=dataset.fingerprint, run=run)
    committed_before = sum(is_done(unit, log.committed) for unit in plan)
    notes += [
        f"untrained  tokenizer {name} has no trained weights: it runs on a seeded initialisation,"
        " and its tokens carry no meaning"
        for name in untrained
    ]
    notes.append(
        f"plan       {counted(len(plan), 'unit')} · {committed_before} committed · fingerprint"
        f" {dataset.fingerprint} · {config.output.uri}"
    )
    return Job(
        config=config,
        run=run,
        plan=plan,
        tokenizers=tokenizers,
        store=store,
        dataset=dataset,
        log=log,
        committed_before=committed_before,
        untrained=untrained,
        notes=notes,
    )


def _open_all(config: JobConfig) -> Tokenizers:
    """Load each tokenizer once, and import what a pass needs."""
    tokenizers = open_tokenizers(config)
    from pipeline.job import graph  # noqa: F401  # Ray Data takes a second

    return tokenizers


def run_name() -> str:
    """Return a new name of a run: the UTC time and four random digits."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:4]}"


def open_output(output: OutputConfig) -> Store:
    """Return the output, after it was tried.

    Raises:
        ConfigError: it cannot be written, or its store ignores conditional writes.
    """
    store = Store(output.uri, output.storage_options)
    require_writable(store, "output.uri", "output.storage_options")
    if not output.alone:
        store.require_put_if_absent()
    return store


def _is_relative(uri: str) -> bool:
    return "://" not in uri and not Path(uri).is_absolute()


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
    audio = config.audio
    if audio is not None:
        encoders = [
            spec.model_copy(update={"weights": absolute_path(spec.weights)})
            for spec in audio.encoders
        ]
        audio = audio.model_copy(update={"encoders": encoders})
    return config.model_copy(
        update={
            "source": config.source.model_copy(update={"lists": lists}),
            "output": output.model_copy(update={"uri": uri}),
            "tokenizers": specs,
            "audio": audio,
        }
    )


def open_tokenizers(config: JobConfig) -> Tokenizers:
    """Load each tokenizer once, for its column and its digest; of this package's weights the file.

    A tokenizer of another package also encodes and decodes a small clip of each length.

    Raises:
        ConfigError: weights are missing, belong to another model, or do not take the clips.
    """
    described: dict[str, Description] = {}
    for n, spec in enumerate(config.tokenizers):
        if (bundled := describe_bundled(spec)) is not None:
            described[spec.name] = bundled
            continue
        from pipeline.tokenizers.models import describe, open_tokenizer
        from pipeline.tokenizers.probe import prove_lengths

        tokenizer = open_tokenizer(spec)
        described[spec.name] = describe(tokenizer, spec)
        if is_foreign(spec):  # the facts of others are known since the configuration's check
            if faults := list(facts_faults(config, n, tokenizer.facts)):
                raise ConfigError("\n".join(map(str, faults)))
            lengths = {config.clip.frames, *(bucket.frames for bucket in config.clip.buckets)}
            left = (-(-frames // spec.every) for frames in lengths if frames)
            prove_lengths(tokenizer, spec.model, left)
    columns = [
        tokenizer_column(spec, described[spec.name], config.clip) for spec in config.tokenizers
    ]
    digests = [one.digest for one in described.values()]
    sounds = None
    if config.audio is not None and config.audio.encoders:
        from pipeline.tokenizers.sound_encoders import sound_identities

        sounds = sound_identities(config.audio)
    return Tokenizers(tuple(columns), tuple(digests), identity(config, described, sounds))


def planned_units(config: JobConfig, notes: list[str] | None = None) -> list[WorkUnit]:
    """Return the units of the job's slice of its sources, committed or not.

    Args:
        config: the job.
        notes: gets a line about the files that are left aside, if there are any.

    Raises:
        ConfigError: a source matches nothing that can be tokenized.
    """
    plan = plan_units(config.source, images=config.clip.takes_images, notes=notes)
    return sliced(plan, config.slice)


def sliced(plan: list[WorkUnit], text: str | None) -> list[WorkUnit]:
    """Return the units of a slice `index/of`, or all for None."""
    if text is None:
        return plan
    index, of = map(int, text.split("/"))
    return take_slice(plan, index, of)
