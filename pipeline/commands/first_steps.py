"""Verbs for the beginning: they look at this machine and at videos, and describe settings."""

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.settings import Kind, completes, schema_of
from pipeline.commands.verb import (
    RUN_AGAIN,
    AsJson,
    Overrides,
    Ray,
    named,
    show,
    store_of,
    use_ray,
    verb,
)
from pipeline.formatting import json_text
from vidtok.presets import list_models

_PANEL = "Begin"


@verb(_PANEL, advice=RUN_AGAIN, needs_words=False)
def demo(overrides: Overrides = None, ray: Ray = None) -> int:
    """Tokenize the three videos of the package, and draw frames above their decoded tokens.

    Writes the dataset and decoded.png to output.uri, by default out/demo. The same command
    continues an interrupted run.

    Exit codes: those of tokenize.
    """
    from pipeline.job.config_checks import load_config
    from pipeline.job.progress import ConsoleProgress

    folder = Path(str(resources.files("pipeline"))) / "demo"
    videos = f"source.uri={folder}/videos/*.mp4"
    settings = load_config(str(folder / "job.yaml"), [videos, *(overrides or ())])
    use_ray(ray)
    from pipeline.job.driver import run  # loads torch: only after the configuration is read
    from pipeline.operations.show import show_picture

    if code := show(run(settings, ConsoleProgress())):
        return code
    uri = settings.output.uri
    picture = "decoded.png" if "://" in uri else f"{uri}/decoded.png"
    return show(show_picture(store_of(uri), picture, 3))


@verb(_PANEL)
def init(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Videos: a folder, tar, file, pattern or list, local or s3://bucket/prefix.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Model of VidTok. Default: one whose weights are in the package.",
            autocompletion=completes(list_models()),
        ),
    ] = None,
    out: Annotated[str, named("YAML", "File to write. An existing file is an error.")] = "job.yaml",
    look: Annotated[
        int, typer.Option(min=1, metavar="N", help="Maximum number of samples to look at.")
    ] = 64,
    as_json: AsJson = False,
) -> int:
    """Write the settings of a first job, after a look at its videos.

    Opens a sample of the videos, and decodes one picture of each. Writes a YAML file with comments,
    and its JSON Schema beside it.

    Exit codes: 0 success; 1 the source cannot be read; 2 the source has no videos, the file exists,
    or there is no such model.
    """
    from pipeline.operations.init.first_job import write_first_job

    return show(write_first_job(source, model=model, out=out, look=look), as_json)


@verb(_PANEL, needs_words=False)
def doctor(
    source: Annotated[str | None, named("URI", "Videos that a job will read.")] = None,
    output: Annotated[str | None, named("URI", "Dataset that a job will write.")] = None,
    ray: Ray = None,
    as_json: AsJson = False,
) -> int:
    """Check this machine, and with options also a source, an output and a Ray cluster.

    With --output, writes and deletes a temporary file there. With --ray, joins that Ray; `local`
    starts and stops one.

    Exit codes: 0 nothing is broken; 1 something is, and its line says what to do.
    """
    use_ray(ray)
    from pipeline.operations.doctor import examine

    return show(examine(source, output), as_json)


@verb(_PANEL)
def schema(
    kind: Annotated[Kind, typer.Argument(help="Settings to describe; a job is for `tokenize`.")],
) -> int:
    """Print the JSON Schema of settings, for editors.

    A first line `# yaml-language-server: $schema=FILE` in a YAML file tells an editor to complete
    and check it.

    Exit codes: 0 success; 2 there is no such kind of settings.
    """
    print(json_text(schema_of(kind)))
    return 0
