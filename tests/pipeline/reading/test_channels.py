"""FSQ columns read as those of fewer channels."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import pipeline
from pipeline.dataset.metadata import new_dataset
from pipeline.errors import ConfigError
from pipeline.reading import Snapshot, TokenDataset, TokenMap
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import IDENTITY, commit, write_log
from tests.pipeline.units import FSQ, KL, deliver
from vidtok import channels
from vidtok.channels import ChannelOrder

ORDER = ChannelOrder((8,) * 5, (3, 0, 4, 1, 2), {}, "a" * 32)


def write(folder: Path, weights: str | None = None) -> Snapshot:
    config = {"tokenizers": [{"name": "fsq", "weights": weights}, {"name": "kl"}]}
    store = Store(str(folder))
    records = [commit(store, deliver(f"u-{n}")) for n in range(2)]
    write_log(store, records, new_dataset((FSQ, KL), IDENTITY, config))
    return pipeline.open(store.uri)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return write(tmp_path_factory.mktemp("channels") / "corpus")


def rows(data: TokenDataset, workers: int = 0) -> dict[str, torch.Tensor]:
    loader = DataLoader(data, batch_size=None, num_workers=workers)
    return {
        clip: cells
        for batch in loader
        for clip, cells in zip(batch["clip_id"], batch["fsq"], strict=True)
    }


def test_batches_hold_prefixes(snapshot: Snapshot) -> None:
    whole = TokenDataset(snapshot, ["fsq", "clip_id"], batch=3, seed=1)
    fewer = TokenDataset(
        snapshot, ["fsq", "clip_id"], batch=3, channels={"fsq": (2, ORDER)}, seed=1
    )
    assert (whole.codebook_sizes, fewer.codebook_sizes) == ({"fsq": 32768}, {"fsq": 64})
    full, found = rows(whole), rows(fewer)
    assert list(full) == list(found)
    for clip, cells in full.items():
        digits = [cells // 8**channel % 8 for channel in ORDER.order[:2]]
        assert torch.equal(found[clip], digits[0] + 8 * digits[1])
        assert found[clip].dtype == torch.int64
    assert len(full) == len(snapshot)
    again = rows(fewer, workers=1)
    assert all(torch.equal(again[clip], found[clip]) for clip in found)


def test_first_frames_rows_by_number_and_joined_rows_hold_prefixes(
    snapshot: Snapshot, tmp_path: Path
) -> None:
    wanted = {"fsq": (3, ORDER)}
    names = ["fsq", "clip_id"]
    expected = rows(TokenDataset(snapshot, names, batch=3, channels=wanted))
    by_number = TokenMap(snapshot, names, channels=wanted)
    for n in range(len(by_number)):
        row = by_number[n]
        assert torch.equal(row["fsq"], expected[row["clip_id"]])
    joined = snapshot.join(write(tmp_path / "other"), prefix="b_")
    other = {"b_fsq": (3, ORDER)}
    both = TokenDataset(joined, ["fsq", "b_fsq", "clip_id"], batch=3, channels=other)
    assert both.codebook_sizes == {"fsq": 32768, "b_fsq": 512}
    for batch in both:
        assert torch.equal(batch["b_fsq"], ORDER.prefix_indices(batch["fsq"], 3).long())
        for clip, cells in zip(batch["clip_id"], batch["b_fsq"], strict=True):
            assert torch.equal(cells, expected[clip])


def test_the_order_beside_the_weights_is_found(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    snapshot = write(tmp_path / "out", str(weights))
    with pytest.raises(ConfigError, match=r"vidtok_fsq_causal_488.* has no order of channels"):
        TokenDataset(snapshot, ["fsq"], batch=3, channels={"fsq": 2})
    channels.save(ORDER, channels.beside(weights))
    assert TokenDataset(snapshot, ["fsq"], batch=3, channels={"fsq": 2}).codebook_sizes["fsq"] == 64
    channels.save(replace(ORDER, weights="b" * 32), channels.beside(weights))
    with pytest.raises(
        ConfigError, match="belongs to other weights than those that made the tokens"
    ):
        TokenDataset(snapshot, ["fsq"], batch=3, channels={"fsq": 2})


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"kl": 2}, "column kl: holds no FSQ indices; columns that do: fsq"),
        ({"none": 2}, "column none: holds no FSQ indices"),
        ({"fsq": 2}, "column fsq: vidtok_fsq_causal_488_32768 has no order of channels;"),
        ({"fsq": (6, ORDER)}, "column fsq: channels = 6: must be 1 to 5"),
        ({"fsq": (2, ChannelOrder((8, 8), (0, 1), {}))}, r"levels, those of the order \(8, 8\)"),
    ],
)
def test_refuses_what_cannot_be_read(snapshot: Snapshot, wanted: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        TokenDataset(snapshot, ["fsq", "kl"], batch=3, channels=wanted)


def test_refuses_channels_of_a_column_that_is_not_read(snapshot: Snapshot) -> None:
    with pytest.raises(ConfigError, match="column fsq: is not among the columns to read"):
        TokenDataset(snapshot, ["kl"], batch=3, channels={"fsq": (2, ORDER)})
