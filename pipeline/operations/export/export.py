"""Exports a dataset into the folder that a trainer of video generators reads.

    manifest ─► units without a record ─► groups of units ─► files of each bucket ─► a record

A group is some units in the order of commits. Its files depend on their rows alone. So an export
that was killed continues with the first group without a record, and gives the same files; a later
export adds the units that were committed meanwhile.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.dataset.records import Part, UnitRecord, state_of
from pipeline.dataset.schema import TokenizerColumn
from pipeline.errors import BALANCED, UNBALANCED, ConfigError
from pipeline.formatting import counted, format_bytes, labelled
from pipeline.operations.export.fastvideo import FASTVIDEO
from pipeline.operations.export.formats import Format, Target
from pipeline.operations.export.items import Item, ItemReader
from pipeline.operations.export.ledger import GroupRecord, Ledger
from pipeline.operations.export.ltx2 import LTX2
from pipeline.operations.export.musubi import MUSUBI
from pipeline.operations.export.webdataset import WEBDATASET
from pipeline.operations.outcome import Outcome
from pipeline.reading.snapshot import Snapshot, open_snapshot
from pipeline.storage.store import Store

FORMATS: Final = {
    "fastvideo": FASTVIDEO,
    "musubi": MUSUBI,
    "ltx2": LTX2,
    "webdataset": WEBDATASET,
}
"""Formats by the value of `--as`."""

REFUSED: Final = {
    "diffusion-pipe": "its cache is valid only with a hash that it computes from the media files"
    " and its own Python functions, and it deletes a cache with another hash",
}
"""Formats that cannot be written, and the reasons."""

SHARD_BYTES: Final = 256 << 20
"""Size in bytes at which a file of many clips, and a group of units, ends."""

NO_TEXT: Final = "no_text"
"""Reason of a row whose clip has no text embedding."""

_log: Final = logging.getLogger(__name__)

Pair = tuple[UnitRecord, UnitRecord | None]
"""A unit, and the unit of that name in the dataset of text embeddings."""


@dataclass(slots=True, kw_only=True)
class Exported(Outcome):
    """What an export holds."""

    output: str
    format: str
    column: str
    rows: int
    """Number of rows of the dataset."""
    clips: int = 0
    """Number of clips in the export."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Number of rows that are not in the export, by reason."""
    files: int = 0
    bytes: int = 0
    units: int = 0
    """Number of units in the export."""
    units_now: int = 0
    """Number of units that this call exported."""
    units_waiting: int = 0
    """Number of units whose text embeddings are missing; a later export takes them."""

    @property
    def exit_code(self) -> int:
        """Exit code: 0 when every row is in the export or has a reason, else 1."""
        accounted = self.clips + sum(self.left_out.values())
        return BALANCED if accounted == self.rows else UNBALANCED

    def lines(self) -> list[str]:
        """Return the lines to print."""
        held = f"{counted(self.clips, 'clip')} of {counted(self.rows, 'row')}"
        files = f"{counted(self.files, 'file')}, {format_bytes(self.bytes)}"
        lines = [
            labelled("export", f"{self.output} · {self.format} · column {self.column}"),
            labelled("holds", f"{held} · {counted(self.units, 'unit')} · {files}"),
            labelled("now", f"{counted(self.units_now, 'unit')} exported"),
        ]
        for reason, count in sorted(self.left_out.items()):
            lines.append(labelled("left out", f"{counted(count, 'row')}: {reason}"))
        if self.units_waiting:
            text = f"{counted(self.units_waiting, 'unit')} without current text embeddings"
            lines.append(labelled("waiting", f"{text}; run `embed`, then this command again"))
        if self.exit_code:
            lines.append(labelled("IMBALANCE", "rows are neither in the export nor left out"))
        return lines


def export(
    uri: str,
    format_name: str,
    out: str,
    *,
    text: str | None = None,
    column: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Exported:
    """Export what is committed; units that an earlier call exported are skipped.

    Args:
        uri: the dataset.
        format_name: name of the format, one of `FORMATS`.
        out: folder or object prefix to write to.
        text: dataset of text embeddings, made from this one by `embed`.
        column: column to export; None takes the only one that the format can hold.
        shard_bytes: size in bytes at which a file of many clips, and a group of units, ends.

    Raises:
        ConfigError: there is no dataset, the format cannot hold the column or the text, or the
            output holds another export or an earlier state of a unit.
        StoreError: a part cannot be read, or the store refuses.
    """
    form = _format(format_name)
    snapshot = open_snapshot(uri)
    chosen = _column(snapshot, format_name, form, column)
    texts = _text(snapshot, format_name, form, chosen, text)
    store = Store(out)
    settings = _settings(snapshot, format_name, form, chosen, texts) | {"shard_bytes": shard_bytes}
    ledger = Ledger(store, settings)
    exported = {unit: state for group in ledger.groups for unit, state in group.units.items()}
    units = list(snapshot.manifest.units())
    _require_unchanged(units, exported, out)
    _require_nothing_forgotten(units, ledger, out)
    remaining, waiting = _pairs(units, exported, texts)
    reader = ItemReader(snapshot, chosen, form.normalized, texts)
    for group in _groups(remaining, shard_bytes):
        ledger.add(_export_group(store, form, reader, group, shard_bytes))
    left_out = Counter[str]()
    for record in ledger.groups:
        left_out.update(record.left_out)
    left_out[NO_TEXT] += sum(_rows(unit) for unit in waiting)
    return Exported(
        output=out,
        format=format_name,
        column=chosen.name,
        rows=sum(map(_rows, units)),
        clips=sum(record.clips for record in ledger.groups),
        left_out={reason: count for reason, count in left_out.items() if count},
        files=sum(record.files for record in ledger.groups),
        bytes=sum(record.bytes for record in ledger.groups),
        units=sum(len(record.units) for record in ledger.groups),
        units_now=len(remaining),
        units_waiting=len(waiting),
    )


def _export_group(
    store: Store, form: Format, reader: ItemReader, group: Sequence[Pair], shard_bytes: int
) -> GroupRecord:
    """Write the files of a group, and return its record."""
    states = {unit.unit: state_of(unit) for unit, _ in group}
    name = hashlib.sha256(json.dumps(states).encode()).hexdigest()[:16]
    count = Counter[str]()

    def counted_items(items: Iterable[Item | None]) -> Iterator[Item]:
        for item in items:
            if item is None:
                count[NO_TEXT] += 1
            else:
                count["clips"] += 1
                yield item

    for bucket in sorted({part.bucket for unit, _ in group for part in unit.parts}):
        target = Target(store, bucket, name, shard_bytes)
        for size in form.write(target, counted_items(reader.items(bucket, group))):
            count["files"] += 1
            count["bytes"] += size
    _log.info("group %s: %d units, %d clips", name, len(group), count["clips"])
    return GroupRecord(
        group=name,
        units=states,
        rows=sum(_rows(unit) for unit, _ in group),
        clips=count["clips"],
        left_out={NO_TEXT: count[NO_TEXT]} if count[NO_TEXT] else {},
        files=count["files"],
        bytes=count["bytes"],
    )


def _format(name: str) -> Format:
    if name in REFUSED:
        raise ConfigError(
            f"--as {name}: cannot be written: {REFUSED[name]}; see docs/reference/trainers.md"
        )
    if name not in FORMATS:
        raise ConfigError(f"--as {name}: must be one of {', '.join(FORMATS)}")
    return FORMATS[name]


def _column(
    snapshot: Snapshot, format_name: str, form: Format, name: str | None
) -> TokenizerColumn:
    """Return the column to export."""
    columns = {column.name: column for column in snapshot.tokenizers}
    if name is not None and name not in columns:
        raise ConfigError(
            f"--column {name}: the dataset has no such column; it has {', '.join(columns)}"
        )
    asked = [columns[name]] if name is not None else list(columns.values())
    fitting = [column for column in asked if not form.models or column.model in form.models]
    if not fitting:
        held = ", ".join(f"{column.name} ({column.model}, {column.kind})" for column in asked)
        raise ConfigError(
            f"--as {format_name}: takes latents of {', '.join(form.models)}; {snapshot.store.uri}"
            f" has {held}; tokenize with such a model, or use --as webdataset"
        )
    if len(fitting) > 1:
        names = ", ".join(column.name for column in fitting)
        raise ConfigError(
            f"--as {format_name}: can hold only one of {names}; name it with --column"
        )
    [column] = fitting
    if form.normalized and column.normalize is None:
        raise ConfigError(
            f"--as {format_name}: holds normalised latents, and the normalisation of {column.name}"
            f" ({column.model}) is not known; tokenize with weights whose config has one"
        )
    return column


def _text(
    snapshot: Snapshot, format_name: str, form: Format, column: TokenizerColumn, uri: str | None
) -> tuple[Snapshot, TokenizerColumn] | None:
    """Return the dataset of text embeddings and its column."""
    wanted = form.models.get(column.model)
    if uri is None:
        if wanted is not None:
            raise ConfigError(
                f"--as {format_name}: needs text embeddings of {wanted}; make them with"
                " `python -m pipeline embed` and name their dataset with --text"
            )
        return None
    if form.models and wanted is None:
        raise ConfigError(f"--text: --as {format_name} takes no text: {form.why_no_text}")
    texts = open_snapshot(uri)
    if texts.dataset.identity.get("from") != snapshot.fingerprint:
        raise ConfigError(
            f"--text {uri}: was not made by `embed` from {snapshot.store.uri}; make text embeddings"
            " of this dataset with `python -m pipeline embed`"
        )
    fitting = [each for each in texts.tokenizers if wanted in (None, each.model)]
    if len(fitting) != 1:
        held = ", ".join(f"{each.name} ({each.model})" for each in texts.tokenizers)
        raise ConfigError(
            f"--text {uri}: must have one column of {wanted or 'text embeddings'}; it has {held}"
        )
    return texts, fitting[0]


def _settings(
    snapshot: Snapshot,
    format_name: str,
    form: Format,
    column: TokenizerColumn,
    texts: tuple[Snapshot, TokenizerColumn] | None,
) -> dict[str, Any]:
    """Return everything that changes the files, as JSON."""
    settings: dict[str, Any] = {
        "as": format_name,
        "dataset": snapshot.fingerprint,
        "column": column.name,
        "kind": column.kind,
        "model": column.model,
        "normalized": form.normalized,
        "text": None,
    }
    if (rule := column.normalize) is not None:
        settings["normalize"] = {"shift": list(rule.shift), "scale": list(rule.scale)}
    if texts is not None:
        embedded, text = texts
        about = {"dataset": embedded.fingerprint, "column": text.name, "model": text.model}
        settings["text"] = about
    return settings


def _require_unchanged(units: Iterable[UnitRecord], exported: dict[str, str], out: str) -> None:
    """Refuse to continue if a unit was done again after it was exported."""
    for unit in units:
        if exported.get(unit.unit, state := state_of(unit)) != state:
            raise ConfigError(
                f"--out {out}: holds unit {unit.unit}, which was repeated since then; export to an"
                " empty folder"
            )


def _require_nothing_forgotten(units: Iterable[UnitRecord], ledger: Ledger, out: str) -> None:
    """Refuse to continue if samples were forgotten after their units were exported."""
    rows = {unit.unit: _rows(unit) for unit in units}
    for group in ledger.groups:
        if sum(rows[unit] for unit in group.units) != group.rows:
            raise ConfigError(
                f"--out {out}: some of its clips were forgotten since then; export to an empty"
                " folder, and delete this one"
            )


def _pairs(
    units: Iterable[UnitRecord],
    exported: dict[str, str],
    texts: tuple[Snapshot, TokenizerColumn] | None,
) -> tuple[list[Pair], list[UnitRecord]]:
    """Return the units to export, and those whose text embeddings are missing or outdated."""
    rest = [unit for unit in units if unit.unit not in exported]
    if texts is None:
        return [(unit, None) for unit in rest], []
    known = {unit.unit: unit for unit in texts[0].manifest.units()}
    pairs: list[Pair] = []
    waiting: list[UnitRecord] = []
    for unit in rest:
        text_unit = known.get(unit.unit)
        if text_unit is not None and text_unit.sources == (state_of(unit),):
            pairs.append((unit, text_unit))
        else:
            waiting.append(unit)
    return pairs, waiting


def _groups(pairs: Sequence[Pair], num_bytes: int) -> Iterator[list[Pair]]:
    """Yield the units that are exported together, in order."""
    group: list[Pair] = []
    size = 0
    for pair in pairs:
        group.append(pair)
        size += sum(_share(part) for part in pair[0].parts)
        if size >= num_bytes:
            yield group
            group, size = [], 0
    if group:
        yield group


def _share(part: Part) -> int:
    """Return the number of bytes of a part, of a merged one those of the unit's rows."""
    return part.bytes * part.rows // part.place.of_rows if part.place else part.bytes


def _rows(unit: UnitRecord) -> int:
    return sum(part.rows for part in unit.parts)
