"""`README.md` of a dataset: what it is and how to read it, for whoever finds the folder."""

from typing import Final

from pipeline.dataset import Dataset
from pipeline.storage import Store

PATH: Final = "README.md"

_TEMPLATE = """---
configs:
  - config_name: default
    data_files: data/*/*.parquet
---
# Video tokens

One row per clip of {shapes} pixels. Columns beside those of the
tokenizers say which clip it is and where it comes from; `dataset.json` holds the whole
configuration and the fingerprint `{fingerprint}`.

| column | model | holds | dtype | axes |
|---|---|---|---|---|
{tokenizers}

Values are little-endian in C order; the shape of each row's stands in `<column>_shape`. The parts
that count are those that the newest `manifest/*.parquet` and the `log/` records after it name; what
could not be tokenized stands in `quarantine/`, with the reason.

```sql
SELECT clip_id, start_s, end_s, octet_length({first}) FROM 'data/*/*.parquet' LIMIT 5;
```
"""


def write_card(store: Store, dataset: Dataset) -> None:
    """Write the card if there is none; a person may have edited the one there."""
    store.settle(PATH, _card(dataset).encode())


def _card(dataset: Dataset) -> str:
    rows = [
        f"| `{c.name}` | {c.model} | {'code indices' if c.kind == 'fsq' else 'posterior means'}"
        f"{' (log-variances in `' + c.name + '_logvar`)' if c.logvar else ''}"
        f" | {c.dtype} | {' '.join(c.axes)} |"
        for c in dataset.tokenizers
    ]
    return _TEMPLATE.format(
        shapes=" or ".join(bucket.text for bucket in dataset.buckets),
        fingerprint=dataset.fingerprint,
        tokenizers="\n".join(rows),
        first=dataset.tokenizers[0].name,
    )
