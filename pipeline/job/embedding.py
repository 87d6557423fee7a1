"""Everything that a run of `embed` decides before Ray starts: parent, encoders, output, plan.

The units of a sibling are those of its parent, under the same names. A unit's source names a state
of the parent's unit, so a unit that was done again there is done again here. Merging parts changes
no row, and no state.
"""

from pipeline.config.embed import EmbedConfig
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.manifest import Manifest, read_manifest
from pipeline.dataset.metadata import Dataset, Digest, open_dataset, read_dataset
from pipeline.dataset.records import Reopened, UnitRecord, state_of
from pipeline.formatting import counted
from pipeline.job.setup import Job, Tokenizers, open_output, run_name, sliced
from pipeline.records import ParentRows, WorkUnit, to_json, unit_sources
from pipeline.storage.files import canonical_uri
from pipeline.storage.store import Store
from pipeline.tokenizers.text_encoder import absolute_paths, open_text_encoder


def open_embedding(config: EmbedConfig) -> Job:
    """Decide everything that can be decided before Ray starts.

    The output gets its `dataset.json` if it has none. Its log gets a record if the parent did units
    again that the output holds: they are reopened.

    Args:
        config: the run; relative paths start at the working directory.

    Raises:
        ConfigError: the configuration does not fit the parent, the encoders or the output.
        StoreError: the parent or the output cannot be read.
    """
    parent = config.parent
    theirs = Store(parent.uri, parent.storage_options)
    head = read_dataset(theirs)
    manifest = read_manifest(theirs, parent.version)
    config = _fixed(config, manifest)
    plan = sliced([_unit(record) for record in manifest.units()], config.slice)
    store = open_output(config.output)
    embedders = open_embedders(config, head)
    dataset = open_dataset(store, embedders.dataset(config))
    run = run_name()
    log = CommitLog(store, fingerprint=dataset.fingerprint, run=run)
    again = _reopen(store, log, plan)
    done = sum(unit.unit in log.committed.units for unit in plan)
    units = f"{counted(len(plan), 'unit')} · {done} committed"
    notes = [
        f"from       {config.parent.uri} · version {manifest.number}",
        f"plan       {units} · fingerprint {dataset.fingerprint} · {config.output.uri}",
    ]
    if again:
        units = counted(again, "unit was", "units were")
        notes.append(f"again      {units} done again in the dataset in from")
    return Job(
        config=config,
        run=run,
        plan=plan,
        tokenizers=embedders,
        store=store,
        dataset=dataset,
        log=log,
        committed_before=done,
        untrained=(),
        notes=notes,
    )


def open_embedders(config: EmbedConfig, parent: Dataset) -> Tokenizers:
    """Load each text encoder once, for its column and its digest.

    Raises:
        ConfigError: an encoder cannot be loaded.
    """
    opened = [open_text_encoder(spec) for spec in config.embedders]
    identity = {
        "from": parent.fingerprint,
        "clip": parent.identity["clip"],
        "tokenizers": {},
        "embedders": {each.column.name: each.identity for each in opened},
    }
    columns = tuple(each.column for each in opened)
    return Tokenizers(columns, tuple(Digest(each.digest) for each in opened), identity)


def _fixed(config: EmbedConfig, manifest: Manifest) -> EmbedConfig:
    """Return settings that mean the same in every process, and name the parent's version."""
    parent, output = config.parent, config.output
    uri = canonical_uri(parent.uri, parent.storage_options)
    version = manifest.number or None
    return config.model_copy(
        update={
            "parent": parent.model_copy(update={"uri": uri, "version": version}),
            "output": output.model_copy(
                update={"uri": canonical_uri(output.uri, output.storage_options)}
            ),
            "embedders": [absolute_paths(spec) for spec in config.embedders],
        }
    )


def _unit(record: UnitRecord) -> WorkUnit:
    rows = ParentRows(source=state_of(record), parts=to_json(record.parts).decode())
    return WorkUnit(unit=record.unit, parent=rows)


def _reopen(store: Store, log: CommitLog, plan: list[WorkUnit]) -> int:
    """Reopen the units of the output that were made from another state; return their number."""
    wanted = {
        unit.unit: unit_sources(unit)
        for unit in plan
        if unit.unit in log.committed.units and log.committed.sources.isdisjoint(unit_sources(unit))
    }
    if not wanted:
        return 0
    stale = [
        Reopened(unit=record.unit, sources=record.sources)
        for record in read_manifest(store).units()
        if record.unit in wanted
    ]
    return len(log.reopen(stale))
