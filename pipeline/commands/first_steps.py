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

_PANEL = "Get started"


@verb(_PANEL, advice=RUN_AGAIN, needs_words=False)
def demo(overrides: Overrides = None, ray: Ray = None) -> int:
    """Tokenize the four bundled videos, and draw original frames above decoded ones.

    Writes the dataset and decoded.png to output.uri, by default out/demo. The same command
    continues an interrupted run.

    Exit codes: the same as those of `tokenize`.
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
    return show(show_picture(store_of(uri), picture, 4))


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
            help="Name of a VidTok model. The default is a model whose weights are bundled.",
            autocompletion=completes(list_models()),
        ),
    ] = None,
    out: Annotated[str, named("YAML", "File to write. An existing file is an error.")] = "job.yaml",
    look: Annotated[
        int, typer.Option(min=1, metavar="N", help="Maximum number of samples to open.")
    ] = 64,
    as_json: AsJson = False,
) -> int:
    """Look at some of the videos, and write the settings of a first job.

    Opens some of the videos, and decodes the first frame of each. Writes a YAML file with comments,
    and its JSON Schema beside it.

    Exit codes: 0 success; 1 the source cannot be read; 2 the source has no videos, the file exists,
    or there is no such model.
    """
    from pipeline.operations.init.first_job import write_first_job

    return show(write_first_job(source, model=model, out=out, look=look), as_json)


@verb(_PANEL, needs_words=False)
def doctor(
    source: Annotated[str | None, named("URI", "Source to check, with videos for a job.")] = None,
    output: Annotated[str | None, named("URI", "Output to check, which a job will write.")] = None,
    ray: Ray = None,
    as_json: AsJson = False,
) -> int:
    """Check this machine. Options add checks of a source, an output and a Ray cluster.

    With --output, it writes a temporary file there and deletes it. With --ray, it joins that
    cluster; `--ray local` starts one and stops it.

    Exit codes: 0 no check failed; 1 a check failed, and its line says what to do.
    """
    use_ray(ray)
    from pipeline.operations.doctor import examine

    return show(examine(source, output), as_json)


@verb(_PANEL)
def schema(
    kind: Annotated[
        Kind, typer.Argument(help="Kind of settings. `job` is for `tokenize` and `plan`.")
    ],
) -> int:
    """Print the JSON Schema of settings, for editors.

    If the first line of a YAML file is `# yaml-language-server: $schema=FILE`, an editor with a
    YAML language server completes and checks its settings.

    Exit codes: 0 success; 2 there is no such kind of settings.
    """
    print(json_text(schema_of(kind)))
    return 0
