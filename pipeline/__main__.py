"""`python -m pipeline VERB`: run the corpus job, or look at a dataset."""

import json
import sys
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@app.command()
def tokenize(
    config: Annotated[str, typer.Argument(help="YAML file of the job")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="e.g. output.uri=out/x")
    ] = None,
) -> None:
    """Tokenize a corpus; running it again goes on where it stopped."""
    from pipeline.command import tokenize as run

    raise typer.Exit(run(config, overrides or ()))


@app.command()
def status(
    uri: Annotated[str, typer.Argument(help="the dataset: a folder, or s3://bucket/prefix")],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """Tell what a dataset holds, while a job runs or afterwards."""
    from pipeline.errors import PipelineError
    from pipeline.status import status as read
    from pipeline.status import status_lines
    from pipeline.storage import Store

    try:
        if as_json:
            print(json.dumps(read(Store(uri)), indent=1, ensure_ascii=False))
        else:
            print("\n".join(status_lines(Store(uri))))
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    app()
