"""A dataset of stripes that move, made by the bundled tokenizers: small, and sound in all it says.

Clips are 5 frames of 32×32 pixels: 2×4×4 cells of each tokenizer.
"""

import pyarrow as pa
import torch

from pipeline.config import JobConfig
from pipeline.dataset import new_dataset
from pipeline.fingerprint import identity, tokenizer_column
from pipeline.models import open_model, weights_digest
from pipeline.part_writer import PartWriter
from pipeline.parts import clip_rows, clip_schema
from pipeline.records import Counts, UnitRecord
from pipeline.storage import Store
from tests.pipeline.made_datasets import write_log
from tests.pipeline.units import make_clip

CLIPS = 8
BUCKET = "5x32x32"


def write_stripes(store: Store) -> None:
    """Write the dataset."""
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
    models = {spec.name: open_model(spec) for spec in config.tokenizers}
    digests = {name: weights_digest(model) for name, model in models.items()}
    columns = tuple(
        tokenizer_column(spec, models[spec.name].config, config.clip, digests[spec.name])
        for spec in config.tokenizers
    )
    videos = torch.stack([stripes(n) for n in range(CLIPS)])
    cells = {
        "kl": models["kl"].encode(videos).latent.numpy().astype("<f2"),
        "fsq": models["fsq"].encode(videos).indices.numpy().astype("<u4"),
    }
    schema = clip_schema(columns)
    clips = [make_clip("u-0", n) for n in range(CLIPS)]
    with PartWriter(store, schema, unit="u-0", bucket=BUCKET) as writer:
        writer.add(pa.Table.from_batches([clip_rows(clips, cells, schema)]))
        parts = writer.publish()
    counts = Counts(clips_seen=CLIPS, clips_written=CLIPS)
    record = UnitRecord(
        unit="u-0", sources=("u-0",), parts=parts, quarantine=None, counts=counts, reasons={}
    )
    known = {name: model.config for name, model in models.items()}
    write_log(
        store,
        [record],
        new_dataset(columns, identity(config, known, digests), config.public()),
    )


def stripes(n: int) -> torch.Tensor:
    """Return a clip [3, 5, 32, 32] in [-1, 1] with stripes that move by 4 pixels a frame."""
    t, y, x = torch.meshgrid(*(torch.arange(size) for size in (5, 32, 32)), indexing="ij")
    across = (x, y, x + y, x - y)[n % 4]
    bright = torch.sin((across + 4 * t) * (0.2 if n < 4 else 0.4))
    return torch.stack([bright, bright.roll(1, -1) * 0.5, -bright])
