"""The table of an evaluation as Markdown, for a terminal as for a page."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

_COLUMNS: Final = (
    ("psnr", "PSNR ↑", "{:.2f}"),
    ("ssim", "SSIM ↑", "{:.3f}"),
    ("lpips", "LPIPS ↓", "{:.3f}"),
    ("vmaf", "VMAF ↑", "{:.1f}"),
    ("fvd", "FVD ↓", "{:.1f}"),
    ("fd_transnetv2", "FD-TransNetV2 ↓", "{:.2f}"),
)
MISSING: Final = "n/a"


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of the table, columns padded to one width.

    A published result, where there is one, stands in brackets behind ours.
    """
    metrics = [column for column in _COLUMNS if any(column[0] in row for row in rows)]
    with_codebook = any("codebook" in row for row in rows)
    head = ["candidate", "clips", "bits/pixel", *(title for _, title, _ in metrics)]
    lines = [head + ["codes used", "code entropy"] * with_codebook]
    for row in rows:
        line = [_name(row), str(row["clips"]), f"{row['bits_per_pixel']:.4f}"]
        line += [_cell(row, key, form) for key, _, form in metrics]
        if with_codebook:
            line += _codebook(row.get("codebook"))
        lines.append(line)
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    text = [_row(line, widths) for line in lines]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [text[0], f"| {' | '.join(rule)} |", *text[1:]]


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['name']} (untrained)" if row["untrained"] else str(row["name"])


def _cell(row: Mapping[str, Any], key: str, form: str) -> str:
    value, published = row.get(key), row.get("published", {})
    text = MISSING if value is None else form.format(value)
    return f"{text} ({form.format(published[key])})" if key in published else text


def _codebook(use: Mapping[str, Any] | None) -> list[str]:
    if use is None:
        return ["", ""]
    share = f"{use['codes_used']} of {use['codebook_size']}"
    return [share, f"{use['entropy_bits']:.2f} of {use['entropy_ceiling_bits']:.2f} bits"]


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = zip(cells, widths, strict=True)
    padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
    return f"| {' | '.join(padded)} |"
