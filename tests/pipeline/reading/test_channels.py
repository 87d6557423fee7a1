"""FSQ columns read as those of fewer channels."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import pipeline
from pipeline.config.job import JobConfig
from pipeline.dataset.metadata import new_dataset
from pipeline.errors import ConfigError
from pipeline.reading import Snapshot, TokenDataset, TokenMap
from pipeline.reading.token_clips import read_token_clips
from pipeline.storage.store import Store
from tests.assets import HIKER
from tests.pipeline.made_datasets import IDENTITY, commit, write_log
from tests.pipeline.tokenized import tokenized
from tests.pipeline.units import FSQ, KL, deliver
from vidtok import bundled_weights, channels
from vidtok.channels import ChannelOrder

BUNDLED = "vidtok_fsq_causal_488_262144_tiny"
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


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"b_kl": 2}, "column b_kl: holds no FSQ indices; columns that do: fsq, b_fsq$"),
        ({"other": 2}, "column other: holds no FSQ indices; columns that do: fsq, b_fsq$"),
        ({"b_fsq": (9, ORDER)}, "column b_fsq: channels = 9: must be 1 to 5"),
        ({"b_fsq": 2}, r"column b_fsq: .* no order of channels; .* pass channels={'b_fsq': \(k"),
    ],
)
def test_errors_of_a_join_have_its_names(snapshot: Snapshot, wanted: dict, says: str) -> None:
    joined = snapshot.join(snapshot, prefix="b_")
    with pytest.raises(ConfigError, match=says):
        TokenDataset(joined, ["b_fsq", "b_kl"], batch=3, channels=wanted)


def test_errors_of_a_side_have_the_names_of_the_join(snapshot: Snapshot) -> None:
    joined = snapshot.join(snapshot, prefix="b_")
    with pytest.raises(ConfigError, match="normalized = True: column b_kl: no normalisation of"):
        TokenDataset(joined, ["b_kl"], batch=3, normalized=True)
    with pytest.raises(ConfigError, match="frames = 1: column b_end_s: only the time of"):
        TokenDataset(joined, ["b_end_s"], batch=3, first_frame=True)


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


def test_columns_of_the_bundled_weights_have_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were made with `channels` have the digest of two files."""
    values = {
        "source": {"uri": [str(HIKER.path)]},
        "clip": {"frames": 5, "height": 32, "width": 32, "max_per_sample": 1},
        "tokenizers": [
            {"name": "plain", "model": BUNDLED},
            {"name": "fsq", "model": BUNDLED, "channels": {"max_loss_db": 1.0}},
            {"name": "hub", "model": BUNDLED, "weights": "hub"},
            {"name": "random", "model": BUNDLED, "weights": "random"},
        ],
        "output": {"uri": str(tmp_path / "out")},
    }
    snapshot = pipeline.open(tokenized(JobConfig.model_validate(values)).uri)
    weights = bundled_weights(BUNDLED)
    assert weights is not None
    order = channels.read(channels.beside(weights))
    assert order.weights, "else it would belong to any weights"
    for name in ("plain", "fsq", "hub"):
        [batch] = TokenDataset(snapshot, [name], batch=1, channels={name: 4})
        [whole] = TokenDataset(snapshot, [name], batch=1)
        assert torch.equal(batch[name], order.prefix_indices(whole[name], 4).long())
        assert read_token_clips(snapshot.store.uri, name, 1).weights == order.weights
    with pytest.raises(ConfigError, match=r"column random: .* has random weights, which are in no"):
        TokenDataset(snapshot, ["random"], batch=1, channels={"random": 4})
    refitted = replace(order, order=order.order[::-1])
    monkeypatch.setattr("vidtok.channels.read", lambda _: refitted)
    TokenDataset(snapshot, ["plain"], batch=1, channels={"plain": 4})
    with pytest.raises(ConfigError, match=r"another order than that in which fsq_channels counts"):
        TokenDataset(snapshot, ["fsq"], batch=1, channels={"fsq": 4})
    TokenDataset(snapshot, ["fsq"], batch=1, channels={"fsq": (4, refitted)})


def test_the_order_beside_weights_from_the_hub_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub")
    cached: list[str | None] = [None, str(tmp_path / "model.ckpt")]
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: cached.pop(0))
    snapshot = write(tmp_path / "out", "hub")
    channels.save(ORDER, channels.beside(tmp_path / "model.ckpt"))
    with pytest.raises(ConfigError, match=r"vidtok_fsq_causal_488_32768 has no order of channels"):
        TokenDataset(snapshot, ["fsq"], batch=3, channels={"fsq": 2})
    assert TokenDataset(snapshot, ["fsq"], batch=3, channels={"fsq": 2}).codebook_sizes["fsq"] == 64


@pytest.mark.parametrize("reader", [TokenDataset, TokenMap])
@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (4, r"^channels = 4: must give a number for each column, such as"),
        (["fsq"], r"^channels = \['fsq'\]: must give a number for each column"),
        ({"fsq": "4"}, r"^channels: column fsq: '4': must be a number of channels, such as 4, or"),
        ({"fsq": None}, r"column fsq: None: must be a number"),
        ({"fsq": 4.0}, r"column fsq: 4\.0: must be a number"),
        ({"fsq": True}, r"column fsq: True: must be a number"),
        ({"fsq": ORDER}, r"column fsq: .*: must be a number .* vidtok\.channels\.read\(FILE\)"),
        ({"fsq": (4, "m.channels.safetensors")}, r"\(4, 'm\.channels.*'\): must be a number"),
        ({"fsq": (4,)}, r"column fsq: \(4,\): must be a number"),
        ({"fsq": (True, ORDER)}, r"column fsq: \(True, .*\): must be a number"),
    ],
)
def test_refuses_channels_of_another_type(
    snapshot: Snapshot, reader: type, wanted: object, says: str
) -> None:
    options = {"batch": 3} if reader is TokenDataset else {}
    with pytest.raises(ConfigError, match=says) as raised:
        reader(snapshot, ["fsq"], channels=wanted, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ({"fsq": (2, ORDER)}, {"fsq": (3, ORDER)}),
        ({"fsq": (2, ORDER)}, {"fsq": (2, replace(ORDER, order=(3, 4, 0, 1, 2)))}),
        ({"fsq": (2, ORDER)}, None),
        (None, {"fsq": (2, ORDER)}),
    ],
)
def test_a_state_of_other_channels_is_refused(
    snapshot: Snapshot, then: dict | None, now: dict | None
) -> None:
    state = TokenDataset(snapshot, ["fsq"], batch=3, channels=then).state_dict()
    state = json.loads(json.dumps(state))
    with pytest.raises(ConfigError, match=r"^state: channels = .*, this dataset has .*"):
        TokenDataset(snapshot, ["fsq"], batch=3, channels=now).load_state_dict(state)
    TokenDataset(snapshot, ["fsq"], batch=3, channels=then).load_state_dict(state)


def test_a_state_has_the_channels_that_are_kept(snapshot: Snapshot) -> None:
    """Only these decide what the indices mean: what comes after them may be fitted again."""
    alone = TokenDataset(snapshot, ["fsq"], batch=3)
    assert "channels" not in alone.state_dict()["order"]
    state = TokenDataset(snapshot, ["fsq"], batch=3, channels={"fsq": (2, ORDER)}).state_dict()
    assert state["order"]["channels"] == {"fsq": [3, 0]}
    later = {"fsq": (2, replace(ORDER, order=(3, 0, 2, 1, 4)))}
    TokenDataset(snapshot, ["fsq"], batch=3, channels=later).load_state_dict(state)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"kl": 2}, "column kl: holds no FSQ indices; columns that do: fsq"),
        ({"none": 2}, "column none: holds no FSQ indices"),
        ({"fsq": 2}, "column fsq: vidtok_fsq_causal_488_32768.* has no order of channels"),
        ({"fsq": (6, ORDER)}, "column fsq: channels = 6: must be 1 to 5"),
        ({"fsq": (2, ChannelOrder((8, 8), (0, 1), {}))}, r"levels, those of the order \(8, 8\)"),
    ],
)
def test_refuses_what_cannot_be_read(snapshot: Snapshot, wanted: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        TokenDataset(snapshot, ["fsq", "kl"], batch=3, channels=wanted)


def test_a_uri_is_no_snapshot(snapshot: Snapshot) -> None:
    for reader in (partial(TokenDataset, batch=3), TokenMap):
        with pytest.raises(ConfigError, match=r"snapshot = '.*': must be what pipeline.open\(URI"):
            reader(snapshot.store.uri, ["fsq"])


def test_refuses_channels_of_a_column_that_is_not_read(snapshot: Snapshot) -> None:
    wanted = {"fsq": (2, ORDER)}
    for reader in (partial(TokenDataset, batch=3), TokenMap):
        with pytest.raises(ConfigError, match="column fsq: is not among the columns to read"):
            reader(snapshot, ["kl"], channels=wanted)
        with pytest.raises(ConfigError, match="columns = 'fsq': must be some of"):
            reader(snapshot, "fsq", channels=wanted)
