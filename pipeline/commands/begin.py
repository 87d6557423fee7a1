"""Verbs for the beginning: they look at this machine and at videos, and describe settings."""

from typing import Annotated

import typer

from pipeline.commands.settings import Kind, schema_of
from pipeline.commands.verb import verb
from pipeline.formatting import json_text

_PANEL = "Begin"


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
