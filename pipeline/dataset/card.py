"""The card, `README.md` of a dataset: what it holds and how to read it, for people and for the Hub.

Every run that commits something rewrites the card, until a person edits it. The last line is a
digest of all lines before it; if the digest does not match, the card is left alone.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from omegaconf import OmegaConf

from pipeline.dataset.metadata import Dataset
from pipeline.dataset.schema import TokenizerColumn
from pipeline.dataset.tally import Tally
from pipeline.formatting import format_bytes, format_duration
from pipeline.storage.store import Store

PATH: Final = "README.md"


_TEMPLATE: Final = """---
{front}---
# Video tokens

One row per clip of {shapes} pixels. Besides the columns of the
tokenizers, columns say which clip a row is and where it comes from; `dataset.json` holds the whole
configuration and the fingerprint `{fingerprint}`. Rights in the clips are those of
their sources: add a line `license:` above before you publish this.

{counts}

| column | model | holds | dtype | axes |
|---|---|---|---|---|
{tokenizers}

## Reading

Values are little-endian in C order; `<column>_shape` holds their shape in each row. The parts
that count are those that the newest `manifest/*.parquet` and the `log/` records after it name.
`quarantine/` lists what could not be tokenized, with the reason.

```python
import numpy as np
import pyarrow.dataset as ds

[row] = ds.dataset("data", format="parquet").head(1).to_pylist()
{name} = np.frombuffer(row["{name}"], "{dtype}").reshape(row["{name}_shape"]){remark}
```

```sql
SELECT clip_id, start_s, end_s, octet_length({name}) FROM 'data/*/*.parquet' LIMIT 5;
```

## Statistics

The column `statistics` of the manifest and the log hold exact statistics of each unit: mean and
deviation of each channel of latents, use of code indices, lengths, sizes and captions.
`python -m pipeline stats .` adds them up; `--json` prints them for programs.

"""


_SIZES: Final = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")


def write_card(store: Store, dataset: Dataset, tally: Tally) -> None:
    """Write the card, unless a person edited the one there."""
    card = _signed(_card(dataset, tally).encode())
    standing = store.put_or_read(PATH, card)
    text, _, _ = standing.rpartition(b"<!-- ")
    if standing != card and standing == _signed(text):
        store.write(PATH, card)


def _signed(text: bytes) -> bytes:
    digest = hashlib.sha256(text).hexdigest()[:16]
    return text + f"<!-- written by the pipeline, {digest} -->\n".encode()


def _card(dataset: Dataset, tally: Tally) -> str:
    first = dataset.tokenizers[0]
    front = OmegaConf.to_yaml(OmegaConf.create(_front(dataset, tally)))
    remark = "  # bfloat16: the upper half of a float32" if first.dtype == "bfloat16" else ""
    for scale in first.scale_columns:
        remark = (
            f'\nlow, step = np.float32(row["{scale}"]).reshape(2, -1, 1, 1, 1)'
            f"\n{first.name} = low + step * {first.name}"
        )
    return _TEMPLATE.format(
        front=front,
        shapes=" or ".join(bucket.text for bucket in dataset.buckets),
        fingerprint=dataset.fingerprint,
        counts="\n".join(_counts(tally)),
        tokenizers="\n".join(map(_tokenizer, dataset.tokenizers)),
        name=first.name,
        dtype=first.stored_dtype.str.replace("|", "<"),
        remark=remark,
    )


def _front(dataset: Dataset, tally: Tally) -> dict[str, Any]:
    """Return the front matter that the Hub reads."""
    kinds = {column.kind for column in dataset.tokenizers}
    return {
        "pretty_name": "Video tokens",
        "tags": ["video", "video-tokens", *sorted(kinds)],
        **({"task_categories": ["text-to-video"]} if tally.total.captions else {}),
        "size_categories": [size_category(tally.counts.clips_written)],
        "configs": list(_configs(dataset)),
    }


def _configs(dataset: Dataset) -> Iterator[Mapping[str, Any]]:
    yield {"config_name": "default", "data_files": "data/*/*.parquet"}
    if len(dataset.buckets) > 1:
        for bucket in dataset.buckets:
            yield {"config_name": bucket.name, "data_files": f"data/{bucket.name}/*.parquet"}


def size_category(rows: int) -> str:
    """Return the Hub's word for a number of rows: `1M<n<10M`."""
    for power, mark in enumerate(_SIZES, 3):
        if rows < 10**power:
            return f"{_SIZES[power - 4]}<n<{mark}" if power > 3 else "n<1K"
    return "n>1T"


def _counts(tally: Tally) -> Iterator[str]:
    counts, total = tally.counts, tally.total
    yield "| bucket | clips | bytes |\n|---|---|---|"
    for bucket, rows in sorted(tally.rows.items()):
        yield f"| `{bucket}` | {rows} | {format_bytes(tally.bucket_bytes[bucket])} |"
    yield ""
    forgotten = f", {counts.samples_forgotten} forgotten" * bool(counts.samples_forgotten)
    yield (
        f"From {counts.samples_read} videos and images: {counts.samples_with_clips} gave clips,"
        f" {counts.samples_filtered} were filtered, {counts.samples_quarantined} quarantined"
        f"{forgotten}."
    )
    yield (
        f"The clips are {total.frames} frames, {format_duration(total.microseconds / 1e6)} of"
        f" source; {total.captions} have a caption."
    )
    for name, sums in total.psnr.items():
        if sums.mean_db is not None:
            yield (
                f"{sums.clips} of them, decoded back from `{name}`, have a PSNR of"
                f" {sums.mean_db:.1f} dB on average."
            )


def _tokenizer(column: TokenizerColumn) -> str:
    kinds = {"indices": "code indices", "latents": "posterior means"}
    holds = kinds.get(column.kind, f"text embeddings (token ids in `{column.name}_ids`)")
    logvar = f" (log-variances in `{column.name}_logvar`)" if column.logvar else ""
    for name in column.scale_columns:
        holds += f" (low and step of each channel in `{name}`)"
    axes = " ".join(column.axes)
    if column.input_text:
        holds += f" of the clip at {column.input_text}"
    return f"| `{column.name}` | {column.model} | {holds}{logvar} | {column.dtype} | {axes} |"
