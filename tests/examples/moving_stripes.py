"""A dataset of stripes that move, made by the bundled tokenizers: small, and sound in all it says.

Clips are 5 frames of 32×32 pixels: 2×4×4 cells of each tokenizer.
"""

from collections.abc import Collection

import pyarrow as pa
import torch

from pipeline.config.job import JobConfig
from pipeline.dataset.cells import clip_rows
from pipeline.dataset.metadata import code_levels
from pipeline.dataset.part_writer import PartWriter
from pipeline.dataset.records import Counts, UnitRecord
from pipeline.dataset.row_statistics import row_statistics
from pipeline.dataset.schema import clip_schema
from pipeline.job.setup import open_tokenizers
from pipeline.storage.store import Store
from pipeline.tokenizers.models import open_tokenizer
from tests.pipeline.made_datasets import write_log
from tests.pipeline.units import make_clip

CLIPS = 8
BUCKET = "5x32x32"


def write_stripes(store: Store, unit: str = "u-0", *, others: Collection[int] = ()) -> None:
    """Write the dataset, or add a unit to it.

    Args:
        store: its root.
        unit: of its clips.
        others: clips that show something else than they do otherwise.
    """
    config = JobConfig.model_validate(
        {
            "source": {"uri": "videos/*.mp4"},
            "clip": {"frames": 5, "height": 32, "width": 32, "fps": 8},
            "tokenizers": [
                {"name": "kl", "model": "vidtok_kl_causal_488_8chn_tiny", "precision": "float32"},
                {"name": "fsq", "model": "vidtok_fsq_causal_488_262144_tiny"},
            ],
            "output": {"uri": store.uri},
        }
    )
    tokenizers = open_tokenizers(config)
    columns = tokenizers.columns
    models = {spec.name: open_tokenizer(spec) for spec in config.tokenizers}
    videos = torch.stack([-stripes(n) if n in others else stripes(n) for n in range(CLIPS)])
    cells = {
        "kl": models["kl"].encode(videos).latent.numpy().astype("<f2"),
        "fsq": models["fsq"].encode(videos).indices.numpy().astype("<u4"),
    }
    schema = clip_schema(columns)
    clips = [make_clip(unit, n) for n in range(CLIPS)]
    rows = pa.Table.from_batches([clip_rows(clips, cells, schema)])
    with PartWriter(store, schema, unit=unit, bucket=BUCKET) as writer:
        writer.add(rows)
        parts = writer.publish()
    dataset = tokenizers.dataset(config)
    statistics = row_statistics(rows, columns, code_levels(dataset.identity))
    record = UnitRecord(
        unit=unit,
        sources=(unit,),
        parts=parts,
        quarantine=None,
        counts=Counts(clips_seen=CLIPS, clips_written=CLIPS),
        reasons={},
        statistics={BUCKET: statistics},
    )
    write_log(store, [record], dataset)


def stripes(n: int) -> torch.Tensor:
    """Return a clip [3, 5, 32, 32] in [-1, 1] with stripes that move by 4 pixels a frame."""
    t, y, x = torch.meshgrid(*(torch.arange(size) for size in (5, 32, 32)), indexing="ij")
    across = (x, y, x + y, x - y)[n % 4]
    bright = torch.sin((across + 4 * t) * (0.2 if n < 4 else 0.4))
    return torch.stack([bright, bright.roll(1, -1) * 0.5, -bright])
