"""Output folder of an evaluation.

scores.json           settings, versions, digests of weights, all scores
table.md              one row per candidate, missing metrics, videos that do not count
videos.csv            one row per video and candidate
pictures/<video>.png  originals, reconstructions and errors
rate_distortion.png   bits per pixel against PSNR
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from pipeline.formatting import counted
from pipeline.storage.store import Store

Row = Mapping[str, Any]
"""One candidate, as `pipeline.evaluation.results` makes it."""

_COLUMNS: Final = (
    ("psnr", "PSNR ↑", "{:.2f}"),
    ("ssim", "SSIM ↑", "{:.3f}"),
    ("lpips", "LPIPS ↓", "{:.3f}"),
    ("vmaf", "VMAF ↑", "{:.1f}"),
    ("fvd", "FVD ↓", "{:.1f}"),
    ("fd_transnetv2", "FD-TransNetV2 ↓", "{:.2f}"),
)

_MISSING: Final = "n/a"


def write(
    output: str, results: Mapping[str, Any], pictures: Sequence[tuple[str, bytes]]
) -> list[str]:
    """Write everything, and return the lines for a person.

    Args:
        output: a folder, or any prefix that fsspec opens.
        results: content of `scores.json`.
        pictures: key of a video and its PNG.
    """
    store = Store(output)
    _remove_pictures(store)
    lines = report_lines(results)
    store.write("scores.json", (json.dumps(results, indent=1, ensure_ascii=False) + "\n").encode())
    store.write("videos.csv", _csv(results["videos"]).encode())
    names = _picture_names([key for key, _ in pictures])
    for name, (_, png) in zip(names, pictures, strict=True):
        store.write(f"pictures/{name}.png", png)
    if rows := [row for row in results["candidates"] if row.get("psnr") is not None]:
        store.write("rate_distortion.png", rate_distortion(rows))
    store.write("table.md", ("\n".join(lines) + "\n").encode())
    return [*lines, "", f"results    {output}: scores.json, table.md, videos.csv, pictures"]


def _remove_pictures(store: Store) -> None:
    """Remove the pictures of an earlier evaluation, which can be of other videos."""
    if store.exists("scores.json"):
        old = [path for path in store.list("pictures") if path.endswith(".png")]
        for path in [*old, "rate_distortion.png"]:
            store.delete(path)


def rate_distortion(rows: Sequence[Row]) -> bytes:
    """Return a PNG: bits per pixel (logarithmic) against PSNR, a point per candidate.

    A line leads from the point to the coded bits.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for n, row in enumerate(rows):
        marker = "o" if row["model"] else ("s" if row["name"].startswith("shrink") else "^")
        point = (row["bits_per_pixel"], row["psnr"])
        axes.plot(*point, marker, color=f"C{n % 10}", label=row["name"], markersize=8)
        axes.plot([row["coded_bits_per_pixel"], point[0]], [point[1]] * 2, color=f"C{n % 10}")
    axes.set(xscale="log", xlabel="bits per pixel", ylabel="PSNR in dB, mean over frames")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def report_lines(results: Mapping[str, Any]) -> list[str]:
    """Return the table, then a line for everything that the table does not say."""
    rows, settings = results["candidates"], results["settings"]
    videos = len({(row["unit"], row["video"]) for row in results["videos"]})
    clip = settings["clip"]
    rate = "every frame" if clip["fps"] is None else f"{clip['fps']:g} frames per second"
    lines = [f"{counted(videos, 'video')} at {clip['height']}×{clip['width']}, {rate}", ""]
    if rows:
        lines += [*markdown_table(rows), ""]
    lines += [f"- {row['name']}: {row['what']}" for row in rows if _says_more(row)]
    lines += _legend(rows, results["versions"])
    lines += [
        f"- {row['name']}: untrained weights; its scores say nothing about the model"
        for row in rows
        if row["untrained"]
    ]
    if any("published" in row for row in rows):
        lines.append(f"- in brackets: published results for {settings['protocol']}")
    elif settings["protocol"] and not results["compares_with_published"]:
        lines.append(
            f"- {settings['protocol']} with other settings: not comparable with published results"
        )
    lines += [f"- {name}: {_MISSING}: {reason}" for name, reason in results["absent"].items()]
    lines += [f"- {row['name']}: {note}" for row in rows for note in _notes(row)]
    lines += [
        f"- not counted: {record['key']}: {record['stage']}: {record['reason']}: {record['detail']}"
        for record in results["broken"]
    ]
    lines += [f"- not counted: {video}: shorter than a clip" for video in results["too_short"]]
    return lines


def markdown_table(rows: Sequence[Row]) -> list[str]:
    """Return the lines of the table, with columns padded to one width.

    A published result is in brackets behind the measured one.
    """
    metrics = [column for column in _COLUMNS if any(column[0] in row for row in rows)]
    with_codebook = any("codebook" in row for row in rows)
    head = ["candidate", "clips", "bits/pixel", "coded", *(title for _, title, _ in metrics)]
    lines = [head + ["codes used", "code entropy"] * with_codebook]
    for row in rows:
        name = f"{row['name']} (untrained)" if row["untrained"] else row["name"]
        line = [name, str(row["clips"]), f"{row['bits_per_pixel']:.4f}"]
        line.append(f"{row['coded_bits_per_pixel']:.4f}")
        line += [_cell(row, key, form) for key, _, form in metrics]
        if with_codebook:
            line += _codebook(row.get("codebook"))
        lines.append(line)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    padded = ([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines)
    return [f"| {' | '.join(line)} |" for line in padded]


def _cell(row: Row, key: str, form: str) -> str:
    value, published = row.get(key), row.get("published", {})
    text = _MISSING if value is None else form.format(value)
    return f"{text} ({form.format(published[key])})" if key in published else text


def _codebook(use: Row | None) -> list[str]:
    if use is None:
        return ["", ""]
    used = f"{use['codes_used']} of {use['codebook_size']}"
    return [used, f"{use['entropy_bits']:.2f} of {use['entropy_ceiling_bits']:.2f} bits"]


def _legend(rows: Sequence[Row], versions: Mapping[str, str]) -> Iterator[str]:
    """Yield the explanations of the columns."""
    if rows:
        yield (
            "- bits/pixel: FSQ: log2 of the codebook per cell; KL: 16 bits per value, as stored;"
            " codecs: packets without headers"
        )
        yield (
            "- coded: bits/pixel after lossless adaptive coding of each channel, every clip by"
            " itself; packets of codecs are coded already"
        )
    if any(row.get("vmaf") is not None for row in rows):
        yield f"- VMAF: {versions['vmaf']}; made for 1080 lines, so at other sizes it only ranks"
    if any(row.get("fd_transnetv2") is not None for row in rows):
        yield "- FD-TransNetV2: comparable within this table only; it is not FVD"


def _says_more(row: Row) -> bool:
    return row["model"] is None or not str(row["model"]).endswith(row["name"])


def _notes(row: Row) -> Iterator[str]:
    """Yield the caveats of one row's numbers."""
    if note := row.get("fvd_note"):
        yield f"FVD: {note}"
    if note := row.get("fd_transnetv2_note"):
        yield f"FD-TransNetV2: {note}"
    if note := row.get("codebook", {}).get("note"):
        yield f"codes: {note}"


def _csv(rows: Sequence[Row]) -> str:
    file = io.StringIO()
    if rows:
        fields = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return file.getvalue()


def _picture_names(keys: Sequence[str]) -> list[str]:
    """Return a file name for each video from its key, numbered where two are equal."""
    names: list[str] = []
    for key in keys:
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(PurePosixPath(key).with_suffix("")))
        again = sum(1 for name in names if name == stem or name.startswith(f"{stem}~"))
        names.append(f"{stem}~{again + 1}" if again else stem)
    return names
