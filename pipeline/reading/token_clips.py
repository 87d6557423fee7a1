"""The code indices of some clips, evenly spread over a dataset, a Parquet file or a folder of them.

`python -m vidtok channels` fits an order of channels to them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.dataset as ds
from torch import Tensor

from pipeline.dataset import metadata
from pipeline.dataset.metadata import code_levels
from pipeline.dataset.schema import TokenizerColumn, tokenizer_columns
from pipeline.errors import ConfigError, one_line
from pipeline.reading.columns import row_tensors
from pipeline.reading.snapshot import open_snapshot
from pipeline.reading.token_map import TokenMap

_NEITHER: Final = "neither a dataset nor Parquet files"

_GIVE: Final = "give a dataset, or Parquet files that the pipeline wrote"


@dataclass(frozen=True, slots=True)
class TokenClips:
    """Clips of one column of code indices."""

    column: TokenizerColumn
    """The column."""
    clips: list[Tensor]
    """Code indices int64 `[t, h, w]` of each clip."""
    levels: tuple[int, ...] | None = None
    """Levels of the channels; None if only Parquet is known, whose schema does not have them."""
    weights: str | None = None
    """Digest of the weights that made them; None if only Parquet is known."""


def read_token_clips(source: str, name: str | None, most: int) -> TokenClips:
    """Read clips at equal distances in the order of commits, or of the files' names.

    Args:
        source: root of a dataset, or path of a Parquet file or of a folder of Parquet files that
            the pipeline wrote.
        name: name of the column of code indices; None takes the only one.
        most: maximum number of clips.

    Raises:
        ConfigError: there is no such dataset or column.
        StoreError: a part cannot be read.
    """
    if "://" in source or (Path(source) / metadata.PATH).is_file():
        snapshot = open_snapshot(source)
        column = _chosen(snapshot.tokenizers, name, source)
        rows = TokenMap(snapshot, [column.name])
        clips = [rows[n][column.name] for n in _spread(len(rows), most)]
        levels = code_levels(snapshot.dataset.identity).get(column.name, ())
        return TokenClips(column, clips, levels, snapshot.dataset.digest(column.name).tensors)
    try:
        files = ds.dataset(source, format="parquet", exclude_invalid_files=True)
        count = files.count_rows()
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"{source}: {_NEITHER}: {one_line(error)}; {_GIVE}") from error
    if not files.files:
        raise ConfigError(f"{source}: {_NEITHER}; {_GIVE}")
    column = _chosen(tokenizer_columns(files.schema, source), name, source)
    names = [column.name, f"{column.name}_shape"]
    table = files.take(pa.array(list(_spread(count, most)), pa.int64()), columns=names)
    found: list[dict[str, Any]] = table.to_pylist()
    return TokenClips(column, [row_tensors(row, [column])[column.name] for row in found])


def _chosen(
    tokenizers: tuple[TokenizerColumn, ...], name: str | None, source: str
) -> TokenizerColumn:
    indices = [column for column in tokenizers if column.kind == "indices"]
    found = [column for column in indices if name in (None, column.name)]
    if len(found) != 1:
        known = ", ".join(column.name for column in indices) or "none"
        several = "several columns hold code indices; name one"
        what = several if found else f"no column of code indices {name or ''}".rstrip()
        raise ConfigError(f"{source}: {what}; columns of code indices: {known}")
    return found[0]


def _spread(count: int, most: int) -> list[int]:
    num = min(count, most)
    return [n * count // num for n in range(num)]
