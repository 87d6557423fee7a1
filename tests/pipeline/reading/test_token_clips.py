"""Clips of code indices, and the verb that fits an order of channels to them."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import pipeline
from pipeline.dataset.metadata import new_dataset
from pipeline.errors import ConfigError
from pipeline.reading import TokenMap
from pipeline.reading.token_clips import read_token_clips
from pipeline.storage.store import Store
from pipeline.tokenizers.facts import vidtok_facts
from tests.pipeline.made_datasets import IDENTITY, commit, sound, write_log
from tests.pipeline.units import FSQ, KL, deliver
from tests.vidtok.small import small
from vidtok import Tokenizer, build, checkpoint
from vidtok.__main__ import main
from vidtok.digest import weights_digest


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    store = Store(str(tmp_path_factory.mktemp("clips") / "out"))
    sound(store)
    return store.uri


def test_clips_are_evenly_spread_over_committed_rows(dataset: str) -> None:
    rows = TokenMap(pipeline.open(dataset), ["fsq"])
    found = read_token_clips(dataset, None, 4)
    assert (found.column.name, found.levels, found.weights) == ("fsq", (8,) * 5, "a" * 32)
    for n, clip in enumerate(found.clips):
        assert torch.equal(clip, rows[n * len(rows) // 4]["fsq"])
    assert len(found.clips) == 4
    assert len(read_token_clips(dataset, "fsq", 1000).clips) == len(rows)


def test_parquet_files_are_read_without_a_log(dataset: str, tmp_path: Path) -> None:
    files = sorted(Path(dataset).glob("data/5x16x16/*.parquet"))
    folder = tmp_path / "files"
    folder.mkdir()
    for file in files:
        shutil.copy(file, folder)
    everything = read_token_clips(str(folder), "fsq", 1000)
    assert (everything.levels, everything.weights) == (None, None)
    one = read_token_clips(str(files[0]), None, 1000)
    assert 0 < len(one.clips) < len(everything.clips)
    for clip, same in zip(one.clips, everything.clips, strict=False):
        assert torch.equal(clip, same)
        assert clip.shape == (2, 2, 2)


@pytest.mark.parametrize(
    ("source", "name", "says"),
    [
        ("{}", "kl", "no column of code indices kl; columns of code indices: fsq"),
        ("{}/none.parquet", None, "neither a dataset nor Parquet files"),
        ("{}/dataset.json", None, "neither a dataset nor Parquet files"),
    ],
)
def test_refuses_what_holds_no_tokens(
    dataset: str, source: str, name: str | None, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        read_token_clips(source.format(dataset), name, 10)


def made(model: Tokenizer, folder: Path, units: int = 2, **identity: object) -> str:
    """Write a dataset of random tokens of a model of 5 channels."""
    own = {
        "model": model.config.name,
        "facts": vidtok_facts(model.config).to_dict(),
        "weights": weights_digest(model.state_dict()),
    }
    fsq = own | identity
    tokenizers = {"fsq": fsq, "kl": IDENTITY["tokenizers"]["kl"]}
    store = Store(str(folder))
    records = [commit(store, deliver(f"u-{n}")) for n in range(units)]
    column = replace(FSQ, model=model.config.name)
    write_log(store, records, new_dataset((column, KL), IDENTITY | {"tokenizers": tokenizers}))
    return store.uri


def model_of(folder: Path) -> tuple[Tokenizer, Path]:
    model = build(replace(small("causal_v1_0").config, z_channels=5, fsq_levels=(8,) * 5), seed=0)
    path = folder / "model.safetensors"
    checkpoint.save(model, path)
    return model, path


def test_the_verb_writes_the_file_beside_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, path = model_of(tmp_path)
    tokens = made(model, tmp_path / "out")
    assert main(["channels", str(path), tokens, "--clips", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    target = tmp_path / "model.channels.safetensors"
    assert lines[-1] == str(target)
    order = checkpoint.load(path).channels
    assert order is not None
    assert lines[0].endswith(", ".join(map(str, order.order)))
    table = [line.split() for line in lines[-6:-1]]
    assert [row[:3] for row in table[:2]] == [["5", "32,768", "15.00"], ["4", "4,096", "12.00"]]
    assert table[0][3] == "all"
    assert float(table[1][3]) > float(table[4][3])
    again = tmp_path / "again.safetensors"
    assert main(["channels", str(path), tokens, "--clips", "8", "--out", str(again)]) == 0
    assert again.read_bytes() == target.read_bytes()


@pytest.mark.parametrize(
    ("changes", "more", "says"),
    [
        ({"weights": "c" * 32}, [], "column fsq: was made with other weights than"),
        ({"facts": {"levels": [32, 32, 32]}}, [], "levels (32, 32, 32); small_fsq_causal_v1_0 has"),
        ({"units": 0}, [], "column fsq: has 0 clips; 8 are needed"),
        ({}, ["--clips", "7"], "--clips 7: must be 8 or more"),
        ({}, ["--column", "kl"], "no column of code indices kl"),
    ],
)
def test_the_verb_refuses_tokens_in_one_line(
    changes: dict,
    more: list[str],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, path = model_of(tmp_path)
    if "facts" in changes:
        changes["facts"] = vidtok_facts(model.config).to_dict() | changes["facts"]
    assert main(["channels", str(path), made(model, tmp_path / "out", **changes), *more]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert says in line


def test_the_verb_refuses_a_kl_model(dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["channels", "vidtok_kl_causal_488_8chn_tiny", dataset]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == (
        "error: vidtok_kl_causal_488_8chn_tiny is a KL tokenizer and has no code indices; give an"
        " FSQ model"
    )
