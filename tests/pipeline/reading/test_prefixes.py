"""Shorter clips from the beginning of stored ones: what encoding them alone gives."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import pipeline
import vidtok
from pipeline.config.job import JobConfig
from pipeline.dataset.cells import clip_rows
from pipeline.dataset.part_writer import PartWriter
from pipeline.dataset.schema import Normalize, TokenizerColumn, clip_schema
from pipeline.dataset.side_columns import track_columns
from pipeline.decode import ClipRule, Decoder
from pipeline.errors import ConfigError
from pipeline.reading import Snapshot, TokenDataset
from pipeline.reading.columns import Columns
from pipeline.reading.row_groups import RowGroups
from pipeline.reading.spans import Prefix, prefix_of
from pipeline.records import Sample
from pipeline.storage.store import Store
from pipeline.tokenizers.diffusers_adapter import NOT_CAUSAL, Diffusers
from pipeline.tokenizers.facts import vidtok_facts
from pipeline.tokenizers.identity import tokenizer_column
from pipeline.tokenizers.models import describe, encoder_of, open_tokenizer
from pipeline.tokenizers.vidtok_adapter import VidTok
from tests.assets import VIDEOS
from tests.pipeline.tokenized import tokenized
from tests.pipeline.tokenizers.small_vaes import SMALL, make
from tests.pipeline.units import make_clip
from vidtok.presets import named_config

KL = "vidtok_kl_causal_488_8chn_tiny"
SPECS: list[dict[str, Any]] = [
    {"name": "fsq", "model": "vidtok_fsq_causal_488_262144_tiny"},
    {"name": "kl", "model": KL, "logvar": True},
    {"name": "kl8", "model": KL, "dtype": "uint8"},
    {"name": "slow", "model": KL, "every": 2, "dtype": "float32"},
]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> JobConfig:
    """Clips of 17 frames, the last of which is padded."""
    values = {
        "source": {"uri": [str(VIDEOS / "hiker_tiny.mp4")]},
        "clip": {"frames": 17, "height": 32, "width": 40, "fps": 7.0, "short": "pad"},
        "tokenizers": SPECS,
        "output": {"uri": str(tmp_path_factory.mktemp("prefixes") / "out")},
    }
    return JobConfig.model_validate(values)


@pytest.fixture(scope="module")
def snapshot(config: JobConfig) -> Snapshot:
    return pipeline.open(tokenized(config).uri)


@pytest.fixture(scope="module")
def clips(config: JobConfig) -> list[np.ndarray]:
    """The frames of the stored clips."""
    path = VIDEOS / "hiker_tiny.mp4"
    with Decoder(ClipRule(frames=17, height=32, width=40, fps=7.0, short="pad")) as decoder:
        sample = Sample(key="hiker", video=str(path), video_name=path.name)
        return [frames for _, frames in decoder.decode(sample, "u")]


def in_order(snapshot: Snapshot, columns: list[str], **options: Any) -> dict[str, Any]:
    """Return all rows as one batch."""
    options = {"shuffle": False, "strands": 1, **options}
    [batch] = TokenDataset(snapshot, columns, len(snapshot), **options)
    return batch


def encoded(config: JobConfig, name: str, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Return what the column of a tokenizer holds of one clip, encoded alone."""
    spec = next(spec for spec in config.tokenizers if spec.name == name)
    tokenizer = open_tokenizer(spec)
    column = tokenizer_column(spec, describe(tokenizer, spec), config.clip)
    return {
        name: cells[0]
        for name, cells in encoder_of(tokenizer, spec, column, "cpu")(frames[np.newaxis])[0].items()
    }


@pytest.mark.parametrize("frames", [1, 5, 9, 13, 17])
def test_a_prefix_is_what_its_frames_alone_are_encoded_to(
    config: JobConfig, snapshot: Snapshot, clips: list[np.ndarray], frames: int
) -> None:
    read = in_order(snapshot, ["fsq", "kl", "kl_logvar", "kl8"], frames=frames)
    assert tuple(read["fsq"].shape) == (len(clips), 1 + (frames - 1) // 4, 4, 5)
    for n, clip in enumerate(clips):
        fsq = encoded(config, "fsq", clip[:frames])["fsq"]
        assert np.array_equal(read["fsq"][n].numpy(), fsq), "no index differs"
        for column, cells in encoded(config, "kl", clip[:frames]).items():  # rounded to float16
            np.testing.assert_allclose(read[column][n].numpy(), cells, rtol=1e-3, atol=1e-4)
        # 255 levels span the range of the whole clip, not of the shorter one.
        kl = encoded(config, "kl", clip)["kl"].astype(np.float32)
        half_step = (kl.max((1, 2, 3)) - kl.min((1, 2, 3))).reshape(-1, 1, 1, 1) / 255 / 2
        gap = np.abs(read["kl8"][n].numpy() - kl[:, : read["kl8"].shape[2]])
        assert (gap < half_step * 1.01 + 0.002).all()


def test_a_prefix_of_every_second_frame(
    config: JobConfig, snapshot: Snapshot, clips: list[np.ndarray]
) -> None:
    read = in_order(snapshot, ["slow", "fsq"], frames=9)
    assert (read["slow"].shape[2], read["fsq"].shape[1]) == (2, 3)
    for n, clip in enumerate(clips):
        cells = encoded(config, "slow", clip[:9])["slow"]
        np.testing.assert_allclose(read["slow"][n].numpy(), cells, atol=1e-4)
    with pytest.raises(ConfigError, match=r"column slow has 8 frames per latent .* use 9 or 17"):
        TokenDataset(snapshot, ["slow"], 2, frames=13)


def test_sequences_of_prefixes(snapshot: Snapshot) -> None:
    alone = in_order(snapshot, ["fsq", "num_frames", "clip_id"], frames=9)
    pairs = in_order(snapshot, ["fsq", "num_frames", "clip_id"], frames=9, sequence=2)
    assert len(snapshot) == 3
    assert torch.equal(pairs["fsq"], alone["fsq"][:2].unsqueeze(0))
    assert pairs["num_frames"].tolist() == [[9, 9]]
    assert pairs["clip_id"] == [alone["clip_id"][:2]]


def test_a_slice_from_the_middle_is_other_latents(
    config: JobConfig, snapshot: Snapshot, clips: list[np.ndarray]
) -> None:
    whole = in_order(snapshot, ["fsq", "kl"])
    alone = encoded(config, "fsq", clips[0][8:])["fsq"]
    assert (whole["fsq"][0, 2:].numpy() != alone).mean() > 0.3
    alone = encoded(config, "kl", clips[0][8:])["kl"]
    assert np.abs(whole["kl"][0, :, 2:].numpy() - alone).max() > 0.1


def test_counts_of_frames_are_those_of_the_prefix(snapshot: Snapshot) -> None:
    columns = ["num_frames", "padded_frames", "fsq", "start_s", "clip_id"]
    whole, short = (in_order(snapshot, columns, frames=frames) for frames in (17, 13))
    assert whole["num_frames"].tolist() == [17] * len(snapshot)
    assert short["num_frames"].tolist() == [13] * len(snapshot)
    copies = whole["padded_frames"].tolist()
    assert copies[:-1] == [0] * (len(snapshot) - 1)
    assert short["padded_frames"].tolist() == [max(0, n - 4) for n in copies]
    assert max(copies) > 4, "or this tests nothing"
    assert torch.equal(short["start_s"], whole["start_s"])
    assert short["clip_id"] == whole["clip_id"]
    image = in_order(snapshot, columns, first_frame=True)
    assert image["num_frames"].tolist() == [1] * len(snapshot)
    assert torch.equal(image["fsq"], whole["fsq"][:, :1])


@pytest.mark.parametrize(
    ("columns", "options", "text"),
    [
        (["fsq"], {"frames": 10}, "frames = 10: column fsq has 4 .* after the first: use 9 or 13"),
        (["fsq"], {"frames": 0}, "frames = 0: must be 1 or more"),
        (["fsq"], {"frames": 21}, "17x32x40 holds clips of 17 frames; .* long enough: none"),
        (["fsq", "end_s"], {"frames": 9}, "column end_s: only the time of the whole stored clip"),
        (["fsq"], {"frames": 9, "first_frame": True}, "frames, first_frame and window: set one"),
        (["fsq"], {"window": 2}, "window = 2: bucket 17x32x40 holds clips of one length"),
    ],
)
def test_what_is_not_stored_is_refused(
    snapshot: Snapshot, columns: list[str], options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        TokenDataset(snapshot, columns, 2, **options)


def test_columns_that_are_not_causal_are_refused(snapshot: Snapshot) -> None:
    columns = snapshot.video_columns(["fsq", "kl"])
    assert [column.causal_factor for column in columns.values()] == [4, 4]
    columns["kl"] = replace(columns["kl"], causal_factor=None)
    with pytest.raises(ConfigError, match=r"column kl: .* not known to be causal.*columns: fsq"):
        prefix_of(9, columns, ["17x32x40"])
    assert prefix_of(17, columns, ["17x32x40"]) is None, "these are all frames"
    with pytest.raises(ConfigError, match=r"clips of bucket 16x32x40 do not have 1 \+ 4k"):
        prefix_of(9, {"fsq": columns["fsq"]}, ["17x32x40", "16x32x40"])
    with pytest.raises(ConfigError, match='holds whole videos; use window=… and start="first"'):
        prefix_of(9, columns, ["allx32x40"])
    with pytest.raises(ConfigError, match=r"5x8x8 holds clips of 5 frames; .*: 9x8x8, 17x8"):
        prefix_of(9, columns, ["5x8x8", "9x8x8", "17x8x8"])


def kind(**changes: Any) -> TokenizerColumn:
    return replace(
        TokenizerColumn(
            name="n",
            kind="latents",
            dtype="float32",
            axes=("c", "t", "h", "w"),
            model="m",
            fingerprint="0",
            causal_factor=4,
        ),
        **changes,
    )


def made_rows(column: TokenizerColumn, side: dict[str, Any] | None = None) -> pa.Table:
    """Return two rows of 9 frames; channel c of latent frame t of row n is 100n + 10c + t."""
    cells = np.add.outer(np.add.outer([0, 100], [0, 10]), np.arange(3))
    cells = cells.astype("f4").reshape(2, 2, 3, 1, 1)
    clips = [replace(make_clip("u", n), num_frames=9) for n in range(2)]
    columns = track_columns(["pose"]) if side else ()
    schema = clip_schema([column], columns)
    beside = pa.RecordBatch.from_pydict(side) if side else None
    return pa.Table.from_batches([clip_rows(clips, {"n": cells}, schema, beside)])


def test_normalisation_by_latent_frame_is_that_of_the_first() -> None:
    shift = (0.0, 1.0, 2.0, 10.0, 11.0, 12.0)
    column = kind(normalize=Normalize(shift=shift, scale=(2.0,) * 6))
    table = made_rows(column)
    columns = Columns([column], ["n"], normalize=True, span=Prefix(5))
    batch = columns.batch([(columns.rows(table, columns.shapes(table)), 1)])
    assert batch["n"].flatten().tolist() == [200.0] * 4


def test_tracks_are_cut_to_the_frames() -> None:
    column, tracks = kind(), track_columns(["pose"])
    pose = np.arange(18, dtype="<f4").reshape(9, 2)
    side = {"pose": [pose.tobytes(), None], "pose_outside": pa.array([1, None], pa.int32())}
    table = made_rows(column, side)
    columns = Columns([column], ["n", "pose"], side=tracks, span=Prefix(5))
    batch = columns.batch([(columns.rows(table, columns.shapes(table)), n) for n in (0, 1)])
    assert torch.equal(batch["pose"][0], torch.from_numpy(pose[:5]))
    assert batch["pose"].shape == (2, 5, 2)
    assert batch["pose"][1].isnan().all()
    assert batch.keys() == {"n", "pose"}
    for name, what in (("pose_outside", "number"), ("end_s", "time")):
        with pytest.raises(ConfigError, match=f"column {name}: only the {what} of the whole"):
            Columns([column], ["n", name], side=tracks, span=Prefix(5))


def test_tracks_of_every_row_group_are_read(tmp_path: Path) -> None:
    column, tracks = kind(), track_columns(["pose"])
    pose = np.arange(18, dtype="<f4").reshape(9, 2)
    side = {"pose": [pose.tobytes(), pose[::-1].tobytes()], "pose_outside": [0, 0]}
    table = made_rows(column, side | {"pose_outside": pa.array([0, 0], pa.int32())})
    store = Store(str(tmp_path))
    with PartWriter(store, table.schema, unit="u", bucket="9x8x8", row_group_bytes=1) as writer:
        for n in range(2):
            writer.add(table.slice(n, 1))
        [part] = writer.publish()
    reader = RowGroups(store, Columns([column], ["n", "pose"], side=tracks))
    assert reader.sizes(part) == [1, 1]
    first, second = reader.read(part, [0, 1]).values()
    poses = reader.batch([(first, 0), (second, 0)])["pose"]
    assert torch.equal(poses, torch.from_numpy(np.stack([pose, pose[::-1]])))


SMALL_CONFIG = {"ch": 8, "ch_mult": (1, 1, 1, 1), "num_res_blocks": 1}


@pytest.mark.parametrize(
    "model",
    ["vidtok_fsq_causal_488_32768", "vidtok_kl_causal_488_4chn", "vidtok_kl_causal_288_8chn_v1_1"],
)
def test_every_causal_network_of_vidtok(model: str) -> None:
    small = VidTok(vidtok.build(replace(named_config(model), **SMALL_CONFIG), seed=0))
    assert small.facts.causal
    f = small.facts.temporal_factor
    clip = torch.rand(1, 3, 1 + 3 * f, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        whole, short = small.encode(clip), small.encode(clip[:, :, : 1 + f])
    # Clips of other lengths take other kernels, which round in another order.
    torch.testing.assert_close(whole.latent[:, :, :2], short.latent, rtol=0, atol=1e-5)
    if whole.indices is not None:
        assert torch.equal(whole.indices[:, :2], short.indices)


@pytest.mark.parametrize("name", SMALL)
def test_classes_of_diffusers_are_causal_as_recorded(name: str) -> None:
    model = Diffusers(make(name))
    f = model.facts.temporal_factor
    clip = torch.rand(1, 3, 1 + 2 * f, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole, short = model.encode(clip).latent, model.encode(clip[:, :, :1]).latent
    assert model.facts.causal == (name not in NOT_CAUSAL)
    gap = (whole[:, :, :1] - short).abs().max()
    assert gap < 1e-5 if model.facts.causal else gap > 1e-2


def test_networks_that_look_ahead_are_not_causal() -> None:
    for name in ("vidtok_kl_noncausal_488_4chn", "vidtok_fsq_noncausal_488_262144"):
        assert not vidtok_facts(named_config(name)).causal
    vae = make("AutoencoderKLLTXVideo", encoder_causal=False)
    assert not Diffusers(vae).facts.causal
