"""Sound from the file to the batch: a dataset made by the stages of a job."""

import io
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

import pipeline
from pipeline.config.job import JobConfig
from pipeline.job.config_checks import check_job
from pipeline.operations.export.export import export
from pipeline.operations.verify.verify import verify
from pipeline.reading.columns import sounds
from pipeline.reading.token_dataset import TokenDataset
from tests.pipeline.decode.sounds import Form, clicks, flashing
from tests.pipeline.tokenized import VIDEOS, tokenized
from tests.pipeline.tokenizers.small_codecs import save

RATE = 16_000


def job(folder: Path, **audio: Any) -> JobConfig:
    values = {
        "source": {"uri": [str(folder / "in")]},
        "clip": {"frames": 5, "height": 32, "width": 32, "fps": 10.0},
        "tokenizers": [{"name": "fsq", "model": "vidtok_fsq_causal_488_262144_tiny"}],
        "audio": {"rate": RATE, "channels": 1, **audio},
        "output": {"uri": str(folder / "out")},
    }
    return JobConfig.model_validate(values)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two videos: one of two seconds with sound, one without."""
    (tmp_path / "in").mkdir()
    made = flashing(Form("mov", "libx264", "pcm_s16le"), 2, [0.4], clicks(2, [0.4]))
    (tmp_path / "in/click.mov").write_bytes(made)
    shutil.copy(VIDEOS / "hiker_tiny.mp4", tmp_path / "in/hiker.mp4")
    return tmp_path


def test_a_dataset_with_sound_reads_verifies_and_says_what_it_holds(folder: Path) -> None:
    store = tokenized(job(folder))
    snapshot = pipeline.open(store.uri)
    columns = ["fsq", "audio", "audio_silence", "audio_source_rate", "clip_id", "start_s"]
    reader = TokenDataset(snapshot, columns, 64, shuffle=False)
    [batch] = list(reader)
    count = len(batch["clip_id"])
    assert batch["audio"].shape == (count, 1, RATE // 2)
    assert batch["audio"].dtype == torch.float32
    loud = batch["audio"].abs().amax((1, 2)) > 0.3
    clicked = [batch["clip_id"][n] for n in loud.nonzero().flatten()]
    assert [name.rpartition("/")[0].rpartition("/")[2] for name in clicked] == ["click.mov"]
    silent = torch.tensor(["hiker" in name for name in batch["clip_id"]])
    assert 0 < silent.sum() < count
    assert (batch["audio"][silent] == 0).all()
    assert (batch["audio_silence"][silent] == -1).all()
    assert (batch["audio_silence"][~silent] == 0).all()
    assert (batch["audio_source_rate"][~silent] == 48_000).all()
    assert verify(store).findings == []
    assert export(store.uri, "webdataset", str(folder / "tars"), column="fsq").clips == count
    [part] = [part.path for part in snapshot.parts()]
    table = pq.read_table(Path(store.uri) / part)
    assert table.schema.field("audio").type == pa.binary()
    data = next(value for value in table["audio"].to_pylist() if value is not None)
    samples, rate = soundfile.read(io.BytesIO(data))
    assert (samples.shape, rate) == ((RATE // 2,), RATE)


def test_tokens_are_those_without_sound(folder: Path) -> None:
    with_sound = tokenized(job(folder))
    bare = job(folder).model_copy(update={"audio": None})
    without = tokenized(
        bare.model_copy(
            update={"output": bare.output.model_copy(update={"uri": str(folder / "b")})}
        )
    )
    rows = []
    for store in (with_sound, without):
        snapshot = pipeline.open(store.uri)
        table = pa.concat_tables(
            pq.read_table(Path(store.uri) / part.path) for part in snapshot.parts()
        )
        rows.append(table.select(["clip_id", "fsq", "start_s"]).sort_by("clip_id"))
    assert rows[0].equals(rows[1])
    heads = [pipeline.open(store.uri).dataset for store in (with_sound, without)]
    assert heads[0].fingerprint != heads[1].fingerprint
    assert "audio" not in heads[1].identity


def test_clips_without_the_sound_that_they_need_are_filtered(folder: Path) -> None:
    store = tokenized(job(folder, required=True))
    snapshot = pipeline.open(store.uri)
    [batch] = list(TokenDataset(snapshot, ["clip_id"], 64))
    assert {name.split("/")[-2] for name in batch["clip_id"]} == {"click.mov"}
    counts = snapshot.counts
    assert counts.imbalance() is None
    assert (counts.samples_filtered, counts.samples_quarantined) == (1, 0)
    [unit] = snapshot.manifest.units()
    assert unit.reasons == {"no_sound": 1}
    assert verify(store).findings == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"audio": {"codec": "opus", "rate": 44_100}}, "audio.rate = 44100: opus takes 8000"),
        (
            {"audio": {}, "clip": {"whole": True, "height": 32, "width": 32}},
            "audio: the sound of clips that are whole videos is not stored",
        ),
        (
            {"tokenizers": [{"name": "audio", "model": "vidtok_fsq_causal_488_262144_tiny"}]},
            "tokenizers.0.name = audio: every row already has a column audio",
        ),
    ],
)
def test_settings_that_do_not_fit(folder: Path, change: dict[str, Any], says: str) -> None:
    values = job(folder).model_dump() | change
    assert any(says in str(fault) for fault in check_job(JobConfig.model_validate(values)))


def test_codes_of_sound_are_a_column(folder: Path) -> None:
    weights = save(folder / "codec", "transformers:MimiModel")
    spec = {"name": "mimi", "model": "transformers:MimiModel", "weights": str(weights)}
    store = tokenized(job(folder, encoders=[spec]))
    snapshot = pipeline.open(store.uri)
    assert verify(store).findings == []
    [batch] = list(TokenDataset(snapshot, ["mimi", "audio_silence", "clip_id"], 64))
    with_sound = [n for n, silence in enumerate(batch["audio_silence"]) if silence >= 0]
    assert 0 < len(with_sound) < len(batch["clip_id"])
    for n, codes in enumerate(batch["mimi"]):
        assert (codes is not None) == (n in with_sound)
        assert codes is None or (codes.shape, codes.dtype) == ((4, 250), torch.int64)
    made = snapshot.dataset.identity["audio"]["encoders"]["mimi"]
    assert (made["rows"], made["dtype"]) == (4, "uint16")


def test_damaged_sound_is_told() -> None:
    with pytest.raises(ValueError, match="the stream of a clip's sound is damaged"):
        sounds([b"fLaC and no more"])
    assert sounds([None, None]) == [None, None]
