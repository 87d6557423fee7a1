"""`python -m pipeline VERB`: run the corpus job, or look at a dataset."""

import json
import sys
from collections.abc import Callable
from typing import Annotated, Any, Protocol

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


Uri = Annotated[str, typer.Argument(help="the dataset: a folder, or s3://bucket/prefix")]


AsJson = Annotated[bool, typer.Option("--json", help="one JSON object")]


@app.command()
def tokenize(
    config: Annotated[str, typer.Argument(help="YAML file of the job")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="e.g. output.uri=out/x")
    ] = None,
) -> None:
    """Tokenize a corpus; running it again goes on where it stopped."""
    from pipeline.commands import tokenize as run

    raise typer.Exit(run(config, overrides or ()))


@app.command("plan")
def plan_command(
    config: Annotated[str, typer.Argument(help="YAML file of the job")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="e.g. output.uri=out/x")
    ] = None,
    look: Annotated[int, typer.Option(min=0, help="read N of the units left", metavar="N")] = 4,
    seconds: Annotated[
        float, typer.Option(min=0, help="to decode and tokenize in; 0 only counts samples")
    ] = 60,
    price_cpu_hour: Annotated[float | None, typer.Option(min=0, help="of one CPU")] = None,
    price_gpu_hour: Annotated[float | None, typer.Option(min=0, help="of one GPU")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a job would do, write and take, without doing it."""
    from pipeline.job.config_checks import load_config

    def act() -> _Outcome:
        settings = load_config(config, overrides or ())
        from pipeline.operations.plan.plan import (
            plan_job,  # torch takes seconds: a typing error need not wait
        )

        return plan_job(
            settings,
            probes=look,
            seconds=seconds,
            price_cpu_hour=price_cpu_hour,
            price_gpu_hour=price_gpu_hour,
        )

    _show(act, as_json)


@app.command()
def status(uri: Uri, as_json: AsJson = False) -> None:
    """Tell what a dataset holds, while a job runs or afterwards."""
    from pipeline.operations.status import status as read
    from pipeline.storage.store import Store

    _show(lambda: read(Store(uri)), as_json)


@app.command()
def verify(
    uri: Uri,
    sample: Annotated[
        int | None, typer.Option(min=0, help="look into N random files only", metavar="N")
    ] = None,
    retokenize: Annotated[
        int, typer.Option(min=0, help="make N random clips again, compare bits", metavar="N")
    ] = 0,
    decode: Annotated[
        int, typer.Option(min=0, help="decode N random clips, measure PSNR", metavar="N")
    ] = 0,
    seed: Annotated[int, typer.Option(help="of what is drawn")] = 0,
    as_json: AsJson = False,
) -> None:
    """Check a dataset: log, files, rows, cells, and some clips against their source."""
    from pipeline.operations.verify.verify import verify as check
    from pipeline.storage.store import Store

    _show(
        lambda: check(Store(uri), sample=sample, retokenize=retokenize, decode=decode, seed=seed),
        as_json,
    )


@app.command()
def vacuum(
    uri: Uri,
    older_than_hours: Annotated[float, typer.Option(min=0, help="leave younger files alone")] = 24,
    delete: Annotated[bool, typer.Option("--delete", help="delete what is listed")] = False,
    uncommitted: Annotated[
        bool,
        typer.Option(
            "--uncommitted", help="also files of units that are not committed; no job may run"
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List files that no record names, and delete them if asked to."""
    from pipeline.operations.vacuum import vacuum as clean
    from pipeline.storage.store import Store

    _show(
        lambda: clean(
            Store(uri), older_than_hours=older_than_hours, delete=delete, uncommitted=uncommitted
        ),
        as_json,
    )


@app.command()
def compact(
    uri: Uri,
    part_mb: Annotated[int, typer.Option(min=1, help="MiB at which a merged part ends")] = 128,
    small_share: Annotated[
        float, typer.Option(min=0, max=1, help="of that: parts below it are merged")
    ] = 0.5,
    as_json: AsJson = False,
) -> None:
    """Merge small parts into larger ones, rows as they are."""
    from pipeline.operations.compact import compact as merge
    from pipeline.storage.store import Store

    _show(
        lambda: merge(Store(uri), part_bytes=part_mb << 20, small_share=small_share),
        as_json,
    )


@app.command()
def publish(
    uri: Uri,
    table_format: Annotated[str, typer.Option("--format", help="delta or iceberg")],
    as_json: AsJson = False,
) -> None:
    """Make the parts that count a Delta or Iceberg table, in place."""
    from pipeline.operations.publish.publish import publish as register
    from pipeline.storage.store import Store

    _show(lambda: register(Store(uri), table_format), as_json)


@app.command()
def retry(
    uri: Uri,
    reason: Annotated[
        list[str], typer.Option(help="a reason of the quarantine; can be given several times")
    ],
    key: Annotated[str, typer.Option(help="pattern of the samples' keys", metavar="GLOB")] = "*",
    as_json: AsJson = False,
) -> None:
    """Have the next run of the job do units again in which samples were quarantined."""
    from pipeline.operations.retry import retry as reopen
    from pipeline.storage.store import Store

    _show(lambda: reopen(Store(uri), reason, key), as_json)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="a dataset")],
    b: Annotated[str, typer.Argument(help="another one")],
    as_json: AsJson = False,
) -> None:
    """Compare two datasets: settings, units, clips, tokens, quarantine."""
    from pipeline.operations.diff import diff as compare
    from pipeline.storage.store import Store

    _show(lambda: compare(Store(a), Store(b)), as_json)


@app.command()
def report(
    uri: Uri,
    html: Annotated[
        str | None, typer.Option(help="write one HTML file, with charts", metavar="FILE")
    ] = None,
    pairs: Annotated[
        int,
        typer.Option(
            min=0, help="with --html: decode 4 N random clips, show N worst and N best", metavar="N"
        ),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Write a page about a dataset, in Markdown or HTML: counts, quarantine, files, runs."""
    from pipeline.storage.store import Store

    if html is None and not pairs:
        from pipeline.operations.report.page import report as read

        _show(lambda: read(Store(uri)), as_json)
    if html is None:
        print("error: --pairs: moving pictures need --html FILE", file=sys.stderr)
        raise typer.Exit(2)
    from pipeline.operations.report.html import write_html

    _show(lambda: write_html(Store(uri), html, pairs), as_json)


@app.command()
def stats(
    uri: Uri,
    codes: Annotated[
        bool, typer.Option("--codes", help="read all parts, and count every code of the codebooks")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Tell what a trainer asks: latents' mean and deviation, codes, lengths, sizes, captions."""
    from pipeline.dataset.totals import read_statistics
    from pipeline.storage.store import Store

    _show(lambda: read_statistics(Store(uri), codes=codes), as_json)


@app.command()
def show(
    uri: Uri,
    clip: Annotated[str | None, typer.Option(help="clip_id of one row", metavar="ID")] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="with --clip: write original and decoded clip, side by side", metavar="MP4"
        ),
    ] = None,
    picture: Annotated[
        str | None,
        typer.Option(help="write frames of some clips above their decoded frames", metavar="PNG"),
    ] = None,
    clips: Annotated[
        int, typer.Option(min=1, help="with --picture: number of clips", metavar="N")
    ] = 3,
    as_json: AsJson = False,
) -> None:
    """Show one clip's row, and decoded tokens beside their source as a video or a picture."""
    from pipeline.errors import ConfigError
    from pipeline.operations.show import show_clip, show_picture
    from pipeline.storage.store import Store

    def act() -> _Outcome:
        if (clip is None) == (picture is None) or (out is not None and clip is None):
            raise ConfigError("show: use either --clip ID, with or without --out, or --picture PNG")
        if clip is not None:
            return show_clip(Store(uri), clip, out)
        assert picture is not None
        return show_picture(Store(uri), picture, clips)

    _show(act, as_json)


class _Outcome(Protocol):
    """What a verb returns."""

    @property
    def exit_code(self) -> int: ...
    def to_dict(self) -> dict[str, Any]: ...
    def lines(self) -> list[str]: ...


def _show(act: Callable[[], _Outcome], as_json: bool) -> None:
    """Run a verb, print what it returns, and exit.

    Exit codes: 0 all is well; 1 something is wrong with the dataset or its store; 2 the command is
    wrong.
    """
    from pipeline.errors import ConfigError, PipelineError

    try:
        outcome = act()
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None
    if as_json:
        print(json.dumps(outcome.to_dict(), indent=1, ensure_ascii=False))
    else:
        print("\n".join(outcome.lines()))
    raise typer.Exit(outcome.exit_code)


if __name__ == "__main__":
    app()
