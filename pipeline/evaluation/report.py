"""The output folder of an evaluation.

scores.json           everything: settings, versions, digests of weights, all scores
table.md              one row per candidate, what is missing, which videos did not count
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
from typing import Any

from pipeline.evaluation.plot import rate_distortion
from pipeline.evaluation.table import markdown_table
from pipeline.storage import Store


def write(
    output: str, results: Mapping[str, Any], pictures: Sequence[tuple[str, bytes]]
) -> list[str]:
    """Write everything, and return the lines that a person should see.

    Args:
        output: a folder, or any prefix that fsspec opens.
        results: as `pipeline.evaluation.run` puts them together.
        pictures: key of a video and its PNG.
    """
    store = Store(output)
    lines = report_lines(results)
    store.write("scores.json", (json.dumps(results, indent=1, ensure_ascii=False) + "\n").encode())
    store.write("videos.csv", _csv(results["videos"]).encode())
    names = _picture_names([key for key, _ in pictures])
    for name, (_, png) in zip(names, pictures, strict=True):
        store.write(f"pictures/{name}.png", png)
    rows = [row for row in results["candidates"] if row.get("psnr") is not None]
    if rows:
        try:
            store.write("rate_distortion.png", rate_distortion(rows))
        except ImportError as error:
            lines.append(f"rate_distortion.png: not drawn: {error}")
    store.write("table.md", ("\n".join(lines) + "\n").encode())
    return [*lines, "", f"results    {output}: scores.json, table.md, videos.csv, pictures"]


def report_lines(results: Mapping[str, Any]) -> list[str]:
    """Return the table, then a line for everything that it does not say."""
    rows = results["candidates"]
    settings = results["settings"]
    counted = len({(row["unit"], row["video"]) for row in results["videos"]})
    clip = settings["clip"]
    rate = "every frame" if clip["fps"] is None else f"{clip['fps']:g} frames per second"
    lines = [f"{counted} videos at {clip['height']}×{clip['width']}, {rate}", ""]
    if rows:
        lines += [*markdown_table(rows), ""]
    lines += [f"- {row['name']}: {row['what']}" for row in rows if _says_more(row)]
    lines += _legend(rows, results["versions"])
    lines += [
        f"- {row['name']}: untrained weights; its scores say nothing of the model"
        for row in rows
        if row["untrained"]
    ]
    if any("published" in row for row in rows):
        lines.append(f"- in brackets: published results for {settings['protocol']}")
    elif settings["protocol"] and not results["compares_with_published"]:
        lines.append(f"- {settings['protocol']} with other settings: compares with no publication")
    lines += [f"- {name}: n/a: {reason}" for name, reason in results["absent"].items()]
    lines += [f"- {row['name']}: {note}" for row in rows for note in _notes(row)]
    lines += [
        f"- not counted: {record['key']}: {record['stage']}: {record['reason']}: {record['detail']}"
        for record in results["broken"]
    ]
    lines += [f"- not counted: {video}: shorter than a clip" for video in results["too_short"]]
    return lines


def _legend(rows: Sequence[Mapping[str, Any]], versions: Mapping[str, str]) -> Iterator[str]:
    """Yield what has to be known to read the columns."""
    if rows:
        yield (
            "- bits/pixel: FSQ: log2 of the codebook per cell; KL: 16 bits per value, as stored;"
            " codecs: their packets, without headers"
        )
    if any(row.get("vmaf") is not None for row in rows):
        yield f"- VMAF: {versions['vmaf']}; made for 1080 lines: at other sizes it only ranks"
    if any(row.get("fd_transnetv2") is not None for row in rows):
        yield "- FD-TransNetV2: compares within this table only; it is no FVD"


def _says_more(row: Mapping[str, Any]) -> bool:
    return row["model"] is None or not str(row["model"]).endswith(row["name"])


def _notes(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the caveats of one row's numbers."""
    if note := row.get("fvd_note"):
        yield f"FVD: {note}"
    if note := row.get("fd_transnetv2_note"):
        yield f"FD-TransNetV2: {note}"
    if note := row.get("codebook", {}).get("note"):
        yield f"codes: {note}"


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    file = io.StringIO()
    if rows:
        fields = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return file.getvalue()


def _picture_names(keys: Sequence[str]) -> list[str]:
    """Return a file name for each video, made of its key, with a number where two are alike."""
    names: list[str] = []
    for key in keys:
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(PurePosixPath(key).with_suffix("")))
        again = sum(1 for name in names if name == stem or name.startswith(f"{stem}~"))
        names.append(f"{stem}~{again + 1}" if again else stem)
    return names
