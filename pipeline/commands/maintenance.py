"""Verbs that change a dataset, or write it in another form."""

from typing import Annotated

import typer

from pipeline.commands.settings import completes
from pipeline.commands.verb import (
    RUN_AGAIN,
    AsJson,
    Uri,
    amount,
    flag,
    named,
    show,
    store_of,
    verb,
)
from pipeline.quarantine import REASONS

_PANEL = "Maintain"


@verb(_PANEL)
def retry(
    uri: Uri,
    reason: Annotated[
        list[str],
        typer.Option(
            help="Reason as `report` shows it, such as corrupt. Can be given several times.",
            autocompletion=completes(REASONS),
        ),
    ],
    key: Annotated[str, named("GLOB", "Pattern that a sample's key must match.")] = "*",
    as_json: AsJson = False,
) -> int:
    """Mark units with quarantined samples for reprocessing by the next job run.

    Appends to the log. The rows of a unit stay in the dataset until the job replaces them.

    Exit codes: 0 success; 1 the store failed; 2 there is no dataset or no such reason.
    """
    from pipeline.operations.retry import retry as reopen

    return show(reopen(store_of(uri), reason, key), as_json)


@verb(_PANEL, advice=RUN_AGAIN)
def forget(
    uri: Uri,
    key: Annotated[
        list[str] | None, named("KEY", "Key of a sample, in any unit. Can be given several times.")
    ] = None,
    source: Annotated[
        list[str] | None,
        named("URI", "Tar, video file or list. Can be given several times."),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="TABLE",
            help="Parquet, CSV, TSV or JSON Lines. Columns: key, key and unit, or source.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Exclude samples permanently: readers no longer see them, and later runs skip them.

    This cannot be undone. Appends to the log. The bytes stay on disk until
    `compact --small-share 0` has rewritten the parts without these rows, and `vacuum --delete` has
    deleted the old files. `verify --forgotten` lists the files that still hold them.

    Exit codes: 0 success; 1 the store failed; 2 there is no dataset, or no sample is named.
    """
    from pipeline.operations.forget.forget import forget as leave_out
    from pipeline.operations.forget.requests import read_requests

    requests = read_requests(key or (), source or (), table)
    return show(leave_out(store_of(uri), requests), as_json)


@verb(_PANEL)
def compact(
    uri: Uri,
    part_mb: Annotated[
        int, typer.Option(min=1, help="Size in MiB at which a merged part ends.")
    ] = 128,
    small_share: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Merge parts that are smaller than this fraction of --part-mb. With 0, only"
            " parts with forgotten rows are rewritten.",
        ),
    ] = 0.5,
    as_json: AsJson = False,
) -> int:
    """Merge small parts (Parquet files) into larger ones, and rewrite parts with forgotten rows.

    Writes new parts and appends to the log. No row of the dataset changes. `vacuum` later deletes
    the old parts. It can run while a job writes.

    Exit codes: 0 success; 1 the store failed; 2 there is no dataset.
    """
    from pipeline.operations.compact import compact as merge

    merged = merge(store_of(uri), part_bytes=part_mb << 20, small_share=small_share)
    return show(merged, as_json)


@verb(_PANEL)
def publish(
    uri: Uri,
    table_format: Annotated[
        str,
        typer.Option(
            "--format",
            help="Table format: delta or iceberg.",
            autocompletion=completes(("delta", "iceberg")),
        ),
    ],
    as_json: AsJson = False,
) -> int:
    """Register the current parts as a Delta or Iceberg table, in place.

    Writes table metadata into the dataset's folder. No part is copied.

    Exit codes: 0 success; 1 the store failed; 2 there is no dataset, or the format's library is
    not installed.
    """
    from pipeline.operations.publish.publish import publish as register

    return show(register(store_of(uri), table_format), as_json)


@verb(_PANEL, advice=RUN_AGAIN)
def export(
    uri: Uri,
    format_name: Annotated[
        str,
        typer.Option(
            "--as",
            help="Format to write: fastvideo, musubi, ltx2 or webdataset.",
            autocompletion=completes(("fastvideo", "musubi", "ltx2", "webdataset")),
        ),
    ],
    out: Annotated[str, named("URI", "Folder or object prefix to write to.")],
    text: Annotated[
        str | None, named("URI", "Dataset of text embeddings that `embed` made from this one.")
    ] = None,
    column: Annotated[
        str | None, named("NAME", "Column to export. Required if several fit the format.")
    ] = None,
    shard_mb: Annotated[
        int, typer.Option(min=1, help="Size in MiB at which a file of many clips ends.")
    ] = 256,
    as_json: AsJson = False,
) -> int:
    """Write a dataset in the format that another trainer reads.

    Changes nothing in the dataset. The same command continues an interrupted export. It also adds
    units that were committed since then.

    Exit codes: 0 every row is exported, or counted as left out; 1 rows are missing, or a store
    failed; 2 there is no dataset, or the format cannot hold it.
    """
    from pipeline.operations.export.export import export as write

    written = write(uri, format_name, out, text=text, column=column, shard_bytes=shard_mb << 20)
    return show(written, as_json)


@verb(_PANEL)
def vacuum(
    uri: Uri,
    older_than_hours: Annotated[float, amount("Minimum age in hours of the files to list.")] = 24,
    delete: Annotated[bool, flag("--delete", "Delete the listed files.")] = False,
    alone: Annotated[
        bool,
        flag(
            "--alone",
            "Confirm that no other process writes there. For stores without conditional writes.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> int:
    """List orphaned files, which no log record names, and optionally delete them.

    Changes nothing without --delete.

    Exit codes: 0 success; 1 the store failed; 2 there is no dataset.
    """
    from pipeline.operations.vacuum import vacuum as clean

    cleaned = clean(store_of(uri), older_than_hours=older_than_hours, delete=delete, alone=alone)
    return show(cleaned, as_json)
