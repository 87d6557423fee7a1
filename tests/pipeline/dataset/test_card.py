"""The card is one that the Hub takes, says what is there, and leaves a person's edits alone."""

import json
import re
from dataclasses import replace
from importlib.resources import files
from inspect import signature
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from huggingface_hub import DatasetCard, DatasetCardData

from pipeline.dataset.card import PATH, size_category, write_card
from pipeline.dataset.cells import clip_rows, latent_values
from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.metadata import new_dataset, read_dataset
from pipeline.dataset.part_writer import PartWriter
from pipeline.dataset.quantized import quantize
from pipeline.dataset.schema import clip_schema
from pipeline.dataset.tally import Tally
from pipeline.formatting import format_bytes
from pipeline.operations.compact import compact
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import IDENTITY, commit, sound, write_log
from tests.pipeline.units import FSQ, KL, SMALL, WIDE, decoded_back, deliver, make_cells, make_clip


def write(store: Store) -> str:
    write_card(store, read_dataset(store), Tally.of(read_manifest(store)))
    return store.read(PATH).decode()


def test_the_hub_reads_its_front_matter(local: Store) -> None:
    sound(local)
    card = DatasetCard(write(local))
    data = card.data.to_dict()
    assert data["size_categories"] == ["n<1K"]
    assert data["task_categories"] == ["text-to-video"]
    assert data["tags"] == ["video", "video-tokens", "indices", "latents"]
    assert data["configs"] == [{"config_name": "default", "data_files": "data/*/*.parquet"}]
    assert card.text.lstrip().startswith("# Video tokens")


def test_it_says_what_is_there(local: Store) -> None:
    sound(local)
    text = write(local)
    assert re.search(r"^\| `5x16x16` \| 12 \| \d+\.\d kB \|$", text, re.MULTILINE)
    assert "From 18 videos and images: 12 gave clips, 3 were filtered, 3 quarantined." in text
    assert "The clips are 105 frames, 10.5 s of source; 13 have a caption." in text
    assert "| `kl` | vidtok_kl_causal_488_16chn | posterior means (log-variances in" in text
    assert not re.search(r"[{}]\w*[{}]", text), "a place of the template was not filled"


def test_it_says_how_good_the_tokens_are(local: Store) -> None:
    sound(local)
    assert "PSNR" not in write(local)
    write_log(local, [commit(local, decoded_back(deliver("v"), 30.5, None, 20.5))])
    told = "2 of them, decoded back from `fsq`, have a PSNR of 25.5 dB on average."
    assert told in write(local).splitlines()


def test_a_merged_part_is_counted_once(local: Store) -> None:
    sound(local)
    compact(local)
    sizes = {part.bucket: part.bytes for part in read_manifest(local).parts()}
    assert f"| `5x16x16` | 12 | {format_bytes(sizes['5x16x16'])} |" in write(local)


def test_its_program_reads_a_clip(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sound(local)
    [program] = re.findall(r"```python\n(.*?)```", write(local), re.DOTALL)
    monkeypatch.chdir(local.uri)
    names: dict[str, object] = {}
    exec(program, names)
    assert getattr(names["fsq"], "shape", None) == (2, 2, 2)


def test_its_program_reads_latents_with_a_scale(
    local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    column = replace(KL, dtype="uint8", bits=8, logvar=False)
    clips = [make_clip("u", 0)]
    cells, scales = quantize(make_cells(clips, SMALL)["kl"].astype(np.float32), 8)
    schema = clip_schema([column])
    rows = clip_rows(clips, {"kl": cells, "kl_scale": scales}, schema)
    with PartWriter(local, schema, unit="u", bucket=SMALL.name) as writer:
        writer.add(pa.Table.from_batches([rows]))
        writer.publish()
    write_log(local, [], new_dataset((column,), IDENTITY))
    text = write(local)
    assert "posterior means (low and step of each channel in `kl_scale`) | uint8" in text
    [program] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(local.uri)
    names: dict[str, object] = {}
    exec(program, names)
    np.testing.assert_array_equal(names["kl"], latent_values(rows.to_pylist()[0], column))


def test_it_follows_the_dataset_until_somebody_edits_it(local: Store) -> None:
    record = commit(local, deliver("a"))
    log = write_log(local, [record])
    assert "| 5 |" in write(local)
    log.append([commit(local, deliver("b"))])
    assert "| 10 |" in write(local)
    edited = write(local).replace("# Video tokens", "# My dataset").encode()
    for card in (edited, b"", b"mine"):
        local.write(PATH, card)
        log.append([commit(local, deliver(f"c{len(card)}"))])
        assert write(local).encode() == card


def test_sizes_are_words_of_the_hub() -> None:
    words = {0: "n<1K", 999: "n<1K", 1000: "1K<n<10K", 10**6: "1M<n<10M", 10**12: "n>1T"}
    assert {rows: size_category(rows) for rows in words} == words
    assert size_category(10**12 - 1) == "100B<n<1T"


def test_its_words_are_those_of_the_hub(local: Store) -> None:
    sound(local)
    data = DatasetCard(write(local)).data.to_dict()
    fields = signature(DatasetCardData).parameters
    assert set(data) - {"tags", "configs"} <= set(fields), "the others are in no signature"
    words = files("datasets.utils.resources").joinpath("size_categories.json").read_text()
    assert {size_category(10**power) for power in range(14)} < set(json.loads(words))


def test_datasets_finds_each_bucket_by_its_name(
    local: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import get_dataset_config_names, load_dataset

    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    shapes = [{"frames": b.frames, "height": b.height, "width": b.width} for b in (SMALL, WIDE)]
    identity = {**IDENTITY, "clip": {"buckets": shapes, "fps": 8.0, "short": "drop"}}
    write_log(local, [commit(local, deliver("u"))], new_dataset((FSQ, KL), identity))
    write(local)
    rows = {"default": 8, "5x16x16": 5, "9x16x32": 3}
    assert set(get_dataset_config_names(local.uri)) == set(rows)
    for name, count in rows.items():
        loaded = load_dataset(local.uri, name, split="train", cache_dir=str(tmp_path / "cache"))
        assert loaded.num_rows == count
