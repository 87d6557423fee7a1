"""A column whose indices follow the scene, beside one of the same model that does not."""

import re
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import pipeline
import vidtok
from pipeline.config.job import JobConfig, TokenizerSpec
from pipeline.dataset.log.manifest import Manifest, read_manifest
from pipeline.dataset.metadata import read_dataset
from pipeline.dataset.part_reader import open_parquet
from pipeline.dataset.row_sampling import draw_rows
from pipeline.errors import ConfigError
from pipeline.operations.recompute import Recomputer, SourceClip
from pipeline.operations.report.html import write_html
from pipeline.operations.scene_bits import Group, scene_bits
from pipeline.operations.stats import stats
from pipeline.operations.verify.verify import verify
from pipeline.reading import TokenDataset
from pipeline.storage.store import Store
from pipeline.tokenizers.arithmetic import job_arithmetic
from pipeline.tokenizers.bits_by_scene import BitsByScene, fewest_channels
from pipeline.tokenizers.encoder import ClipEncoder
from pipeline.tokenizers.models import describe, open_tokenizer
from tests.assets import HIKER
from tests.pipeline.fakes import FSQ, FakeModel, frames
from tests.pipeline.stages.test_decode_back import by_hand
from tests.pipeline.tokenized import tokenized
from vidtok import channels
from vidtok.channels import ChannelOrder, Fill
from vidtok.repeats import hold_repeats, repeat_share

MODEL = "vidtok_fsq_causal_488_262144_tiny"
ORDER = (0, 1, 2, 3, 5, 4)
MAX_LOSS_DB = 0.2
MAX_CHANNELS_DB = 3.0
LEVELS = (8,) * 6


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model, with a file of channels in which those that are dropped become 0."""
    bundled = vidtok.bundled_weights(MODEL)
    assert bundled is not None
    path = tmp_path_factory.mktemp("weights") / f"{MODEL}.safetensors"
    shutil.copy(bundled, path)
    fills = {k: Fill(torch.zeros(6 - k, k, 1, 1, 1), torch.zeros(6 - k)) for k in (4, 5)}
    channels.save(ChannelOrder(LEVELS, ORDER, fills), channels.beside(path))
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Store:
    """Clips of the hiker with their indices as they are, and held; tests must not write to it."""
    values = {
        "source": {"uri": [str(HIKER.path)]},
        "clip": {
            "frames": 9,
            "height": 32,
            "width": 48,
            "max_per_sample": 2,
            "measure": ["motion", "phash"],
        },
        "tokenizers": [
            {"name": "plain", "model": MODEL},
            {
                "name": "fsq",
                "model": MODEL,
                "weights": str(weights),
                "hold": {"max_loss_db": MAX_LOSS_DB},
                "channels": {"max_loss_db": MAX_CHANNELS_DB},
            },
        ],
        "output": {"uri": str(tmp_path_factory.mktemp("held"))},
    }
    return tokenized(JobConfig.model_validate(values))


@pytest.fixture(scope="module")
def rows(store: Store) -> list[dict[str, Any]]:
    [part] = read_manifest(store).parts()
    with open_parquet(store, part.path) as parquet:
        found: list[dict[str, Any]] = parquet.read().to_pylist()
    return found


def indices(row: dict[str, Any], name: str) -> torch.Tensor:
    cells = np.frombuffer(row[name], "<u4").reshape(row[f"{name}_shape"]).astype(np.int64)
    return torch.from_numpy(cells)[None]


def test_the_columns_say_what_was_done(store: Store, rows: list[dict[str, Any]]) -> None:
    dataset = read_dataset(store)
    fields = {name: dataset.schema.field(name).type for name in dataset.schema.names}
    assert (fields["fsq_hold"], fields["fsq_repeats"]) == (pa.uint8(), pa.float32())
    assert fields["fsq_channels"] == pa.uint8()
    assert {"plain_hold", "plain_channels"}.isdisjoint(fields)
    plain, ours = (dict(dataset.identity["tokenizers"][name]) for name in ("plain", "fsq"))
    assert ours.pop("hold") == {"max_loss_db": MAX_LOSS_DB}
    assert ours.pop("channels") == {"max_loss_db": MAX_CHANNELS_DB, "order": list(ORDER)}
    assert ours.pop("weights").startswith(plain.pop("weights") + "+")
    assert ours == plain
    for row in rows:
        exact, held = indices(row, "plain"), indices(row, "fsq")
        assert torch.equal(held, hold_repeats(exact, LEVELS, row["fsq_hold"]))
        assert row["fsq_repeats"] == float(repeat_share(held))
    assert any(row["fsq_hold"] for row in rows), "else nothing was tried"


def test_more_would_lose_too_much(store: Store, weights: Path) -> None:
    model = vidtok.load(weights)
    order = model.channels
    assert order is not None
    drawn = draw_rows(read_manifest(store), 1, seed=0)
    with (
        job_arithmetic(1),
        closing(Recomputer(store, read_dataset(store), retokenize=False, decode=False)) as source,
    ):
        [found] = source.clips(drawn)
        assert isinstance(found, SourceClip)
        assert isinstance(found.frames, np.ndarray)
        exact, held = (indices(found.row, name) for name in ("plain", "fsq"))
        further = hold_repeats(exact, LEVELS, found.row["fsq_hold"] + 1)
        psnr_db = [by_hand(model, one[0], found.frames) / 1000 for one in (exact, held, further)]
        assert psnr_db[0] - psnr_db[1] <= MAX_LOSS_DB + 0.001
        assert psnr_db[0] - psnr_db[2] > MAX_LOSS_DB - 0.001
        for k in (5, 4):
            codes = order.codes(order.prefix_indices(held, k), k).movedim(-1, 1)
            lost_db = psnr_db[1] - by_hand(model, codes[0], found.frames) / 1000
            assert (lost_db <= MAX_CHANNELS_DB) == (k >= found.row["fsq_channels"])


class DecodesToNaN(FakeModel):
    """A decoder that overflows, as one in half precision can."""

    def decode(self, cells: torch.Tensor, num_frames: int) -> torch.Tensor:
        return super().decode(cells, num_frames) * torch.nan


def test_a_clip_that_decodes_to_nan_is_not_held() -> None:
    """Otherwise all indices look as good as each other, and all frames become the first."""
    rule = BitsByScene(levels=(8,) * 4, max_hold_db=0.2, max_channels_db=None, fewer=())
    model = DecodesToNaN("fsq")
    encoder = ClipEncoder(model, FSQ, batch=1, by_scene=rule)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="NaN or infinity among the decoded values"):
        encoder(frames(1))
    sound = ClipEncoder(FakeModel("fsq"), FSQ, batch=1, by_scene=rule)  # type: ignore[arg-type]
    assert sound(frames(1))[1].tolist() == [True]


def test_the_fewest_channels_are_the_last_before_the_loss_is_too_large() -> None:
    lost_db = {5: 0.1, 4: 0.3, 3: 0.9, 2: 0.2}
    asked = []

    def psnr_db(k: int | None) -> float:
        asked.append(k)
        return 30 - (0 if k is None else lost_db[k])

    assert fewest_channels(6, lost_db, 0.4, psnr_db) == 4
    assert asked == [None, 5, 4, 3]
    assert fewest_channels(6, lost_db, 0.0, psnr_db) == 6
    assert fewest_channels(6, lost_db, 1.0, psnr_db) == 2


def test_rows_are_verified_and_read(store: Store, rows: list[dict[str, Any]]) -> None:
    found = verify(store, retokenize=1)
    assert found.findings == []
    assert found.clips_retokenized == 1
    names = ["fsq_repeats", "fsq_hold", "fsq_channels"]
    [batch] = TokenDataset(pipeline.open(store.uri), ["fsq", *names], batch=2)
    for name in names:
        assert sorted(batch[name]) == sorted(row[name] for row in rows)


def test_stats_say_how_many_bits_a_token_takes(store: Store, rows: list[dict[str, Any]]) -> None:
    assert stats(store).bits is None
    result = stats(store, bits=True)
    [(name, found)] = result.bits.items()
    bits = []
    for row in rows:
        t, h, w = row["fsq_shape"]
        tokens, each = t * h * w, 3 * row["fsq_channels"]
        repeats = round(row["fsq_repeats"] * tokens)
        bits.append(min(each, ((tokens - repeats) * each + (t - 1) * h * w) / tokens))
    assert (name, found.fixed) == ("fsq", 18)
    assert (found.least, found.most) == (pytest.approx(min(bits)), pytest.approx(max(bits)))
    assert found.bits == pytest.approx(sum(bits) / len(bits))
    slow, fast = sorted(zip([row["motion"] for row in rows], bits, strict=True))
    groups = [Group(most=motion, clips=1, bits=pytest.approx(one)) for motion, one in (slow, fast)]
    assert found.by == {"motion": groups}
    [line] = [line for line in result.lines() if line.startswith("bits")]
    assert f"fsq: {found.bits:.2f} of 18.00 bits a token (" in line


def test_the_page_shows_how_many_bits_a_token_takes(store: Store, tmp_path: Path) -> None:
    found = stats(store, bits=True).bits["fsq"]
    write_html(store, str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    _, section = page.split("<h2>Bits per token by clip</h2>")
    section, _ = section.split("<h2>", 1)
    assert re.findall(r"<h3>(\w+)</h3>", section) == ["fsq"]
    assert f"{found.bits:.2f} of 18.00 bits, the mean over 2 clips" in section
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", section)
    [slow, fast] = found.by["motion"]
    assert cells[2::4] == ["1", "1"]
    assert cells[3::4] == [f"{slow.bits:.2f}", f"{fast.bits:.2f}"]


def test_a_number_of_parts_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, manifest = read_dataset(store), read_manifest(store)
    parts = manifest.parts() * 5
    monkeypatch.setattr(Manifest, "parts", lambda _: parts)
    assert scene_bits(store, dataset, manifest)["fsq"].clips == 10
    assert scene_bits(store, dataset, manifest, most_parts=2)["fsq"].clips == 4


def test_a_model_without_a_file_of_channels_is_refused(weights: Path, tmp_path: Path) -> None:
    alone = shutil.copy(weights, tmp_path / weights.name)
    specs = [
        TokenizerSpec.model_validate(
            {"name": "fsq", "model": MODEL, "weights": str(path), "channels": {"max_loss_db": 0.2}}
        )
        for path in (weights, alone)
    ]
    assert describe(open_tokenizer(specs[0]), specs[0]).channel_order == ORDER
    with pytest.raises(
        ConfigError, match="tokenizer fsq: channels: there is no channels file beside"
    ):
        describe(open_tokenizer(specs[1]), specs[1])
