"""Verbs that read a dataset and change nothing."""

from typing import Annotated

import typer

from pipeline.commands.verb import AsJson, Uri, count, flag, named, show, store_of, verb
from pipeline.errors import ConfigError

_PANEL = "Inspect"


@verb(_PANEL)
def status(uri: Uri, as_json: AsJson = False) -> int:
    """Show the contents of a dataset, also while a job writes it.

    Changes nothing.

    Exit codes: 0 every sample and clip is accounted for; 1 some are not, or the store failed; 2
    there is no dataset.
    """
    from pipeline.operations.status import status as read_status

    return show(read_status(store_of(uri)), as_json)


@verb(_PANEL)
def stats(
    uri: Uri,
    codes: Annotated[
        bool, flag("--codes", "Read all parts, and count each code of the codebooks.")
    ] = False,
    bits: Annotated[
        bool,
        flag(
            "--bits",
            "Read all parts, and show the bits per token of tokenizers with `hold` or `channels`.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Show statistics for training: latents, codes, lengths, sizes and captions.

    Changes nothing.

    Exit codes: 0 success; 1 the store failed; 2 there is no dataset.
    """
    from pipeline.operations.stats import stats as read_stats

    return show(read_stats(store_of(uri), codes=codes, bits=bits), as_json)


@verb(_PANEL)
def report(
    uri: Uri,
    html: Annotated[str | None, named("FILE", "Write one HTML file with charts.")] = None,
    pairs: Annotated[
        int, count("With --html: decode 4 × N random clips, and show the N worst and N best.")
    ] = 0,
    as_json: AsJson = False,
) -> int:
    """Write a page about a dataset: counts, quarantine, files and runs.

    Prints Markdown. With --html, it writes an HTML file instead. Changes nothing in the dataset.

    Exit codes: 0 every sample and clip is accounted for; 1 some are not, or the store failed; 2
    there is no dataset, or the options are wrong.
    """
    if html is not None:
        from pipeline.operations.report.html import write_html

        return show(write_html(store_of(uri), html, pairs), as_json)
    if pairs:
        raise ConfigError("--pairs: needs --html FILE, because Markdown cannot show videos")
    from pipeline.operations.report.page import report as read_report

    return show(read_report(store_of(uri)), as_json)


@verb(_PANEL, name="show")
def show_clips(
    uri: Uri,
    clip: Annotated[
        str | None, named("ID", "Show the clip with this clip_id. Default: the first.")
    ] = None,
    out: Annotated[
        str | None, named("MP4", "Write original and decoded clip, side by side.")
    ] = None,
    picture: Annotated[
        str | None, named("PNG", "Write frames of some clips, each above its decoded frame.")
    ] = None,
    clips: Annotated[
        int, typer.Option(min=1, metavar="N", help="With --picture: number of clips.")
    ] = 3,
    as_json: AsJson = False,
) -> int:
    """Show one clip: its row, and its decoded tokens beside the source as a video or picture.

    The default is the first clip of the first unit by name. --picture shows several clips, and
    starts with this one. Changes nothing in the dataset.

    Exit codes: 0 success; 1 the store failed; 2 there is no such clip, or the options are wrong.
    """
    from pipeline.operations.show import show_clip, show_picture

    if picture is None:
        return show(show_clip(store_of(uri), clip, out), as_json)
    if clip is not None or out is not None:
        raise ConfigError(
            "--picture: cannot be combined with --clip or --out; leave out one of them"
        )
    return show(show_picture(store_of(uri), picture, clips), as_json)


@verb(_PANEL)
def duplicates(
    uri: Uri,
    out: Annotated[str, named("PARQUET", "Table to write.")],
    distance: Annotated[
        int,
        typer.Option(min=0, metavar="BITS", help="Maximum number of differing bits, of 64."),
    ] = 6,
    samples: Annotated[
        bool,
        flag("--samples", "List samples instead: those whose clips all resemble other samples."),
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Find near-duplicate clips by their perceptual hash, and write them as a table.

    Needs the column `phash`, which the setting `clip.measure` adds. The table marks one clip of
    each group as kept. Changes nothing in the dataset. To leave duplicates out, join the table when
    you read, or pass the table of --samples to `forget`.

    Exit codes: 0 success; 1 a store failed; 2 there is no dataset, or it has no hashes.
    """
    from pipeline.operations.duplicates import duplicates as find

    return show(find(store_of(uri), out, distance=distance, samples=samples), as_json)


@verb(_PANEL)
def diff(
    a: Annotated[str, typer.Argument(help="First dataset.")],
    b: Annotated[str, typer.Argument(help="Second dataset, which is compared with the first.")],
    as_json: AsJson = False,
) -> int:
    """Compare two datasets: settings, units, clips, tokens and quarantine.

    Changes nothing.

    Exit codes: 0 the datasets are equal; 1 they differ, or a store failed; 2 one of them is not a
    dataset.
    """
    from pipeline.operations.diff import diff as compare

    return show(compare(store_of(a), store_of(b)), as_json)


@verb(_PANEL)
def verify(
    uri: Uri,
    sample: Annotated[
        int | None, count("Read only N random files. The default is all files.")
    ] = None,
    retokenize: Annotated[
        int, count("Tokenize N random clips again, and compare the result bit for bit.")
    ] = 0,
    decode: Annotated[
        int, count("Decode N random clips, and print their PSNR against the source.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Random seed for the sampled files and clips.")] = 0,
    forgotten: Annotated[
        bool, flag("--forgotten", "Search all files for forgotten samples, and list those files.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Check a dataset: log, files, rows and cells. Options also check clips against their source.

    Changes nothing. It can run while a job writes.

    Exit codes: 0 no findings; 1 findings, or the store failed; 2 there is no dataset, or its models
    are missing.
    """
    from pipeline.operations.verify.verify import verify as check

    checked = check(
        store_of(uri),
        sample=sample,
        retokenize=retokenize,
        decode=decode,
        seed=seed,
        forgotten=forgotten,
    )
    return show(checked, as_json)
