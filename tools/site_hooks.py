"""Hooks of the site's build: pages from outside `docs/`, and links that leave it.

README.md and its kind are pages of the site, too. A link to code has
no target on the site, so its text alone stays.
"""

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Any, Final

from mkdocs.structure.files import File, Files

ROOT: Final = Path(__file__).parents[1]
OUTSIDE: Final = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security-policy.md",
    "benchmarks/README.md": "benchmarks.md",
}
"""Page of the site by the path of a file outside `docs/`."""

LINK: Final = re.compile(r"(!?)\[((?:[^][]|\[[^]]*\])*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
"""A link or a picture with a relative path."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside `docs/`."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links at pages of the site, and take away those that leave it."""
    if page.is_homepage:
        page.meta["hide"] = ["navigation"]  # README has no front matter: GitHub would show it
    own = {page: source for source, page in OUTSIDE.items()}
    source = PurePosixPath(own.get(page.file.src_uri, f"docs/{page.file.src_uri}"))
    depth = "../" * page.file.src_uri.count("/")

    def rewritten(found: re.Match[str]) -> str:
        mark, text, link, anchor = found.groups(default="")
        target = normpath((source.parent / link).as_posix())
        if target in OUTSIDE:
            return f"{mark}[{text}]({depth}{OUTSIDE[target]}{anchor})"
        if target.startswith("docs/"):
            return f"{mark}[{text}]({depth}{target.removeprefix('docs/')}{anchor})"
        if not (ROOT / target).exists():
            raise ValueError(f"{source}: link to {link}, which does not exist")
        return text

    return LINK.sub(rewritten, markdown)
