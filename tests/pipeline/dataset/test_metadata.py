import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.format_version import FORMAT_VERSION
from pipeline.dataset.metadata import fingerprint_of, new_dataset, open_dataset, read_dataset
from pipeline.errors import ConfigError, DatasetMismatch, StoreError
from pipeline.records import to_json
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import IDENTITY
from tests.pipeline.s3 import S3Server
from tests.pipeline.units import FSQ, KL

CONFIG = {"source": {"uris": ["s3://in"]}}
DATASET = new_dataset((FSQ, KL), IDENTITY, CONFIG)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


def test_fingerprint_is_pinned() -> None:
    """Another hash of the same identity would lock every dataset ever written."""
    clip = {"fps": 24.0, "frames": 17}
    identity = {"clip": clip, "weights": {"fsq": "abc"}, "resize": "uint8"}
    assert fingerprint_of(identity) == "b5f96c9b9306d4dd978a794753d2677d"


@given(st.dictionaries(st.text(max_size=3), json_values), st.randoms())
def test_fingerprint_does_not_depend_on_the_order_of_keys(identity: Any, random: Any) -> None:
    names = list(identity)
    random.shuffle(names)
    assert fingerprint_of({name: identity[name] for name in names}) == fingerprint_of(identity)


@given(json_values, json_values)
def test_fingerprint_tells_values_apart(one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (fingerprint_of({"a": one}) == fingerprint_of({"a": other})) == same


def test_first_run_writes_and_later_runs_go_on(local: Store) -> None:
    assert open_dataset(local, DATASET) == DATASET
    before = local.read("dataset.json")
    later = new_dataset((FSQ, KL), IDENTITY, {"workers": 99})
    assert open_dataset(local, later) == DATASET
    assert local.read("dataset.json") == before
    assert read_dataset(local) == DATASET
    assert local.list() == ["dataset.json"]


def test_several_rates_are_a_column(local: Store) -> None:
    plain = DATASET.schema.names
    windows = {"fps": [8.0, None], "stride_s": 0.5, "every_bucket": True}
    identity = {**IDENTITY, "clip": {**IDENTITY["clip"], **windows}}
    dataset = open_dataset(local, new_dataset((FSQ, KL), identity, CONFIG))
    assert read_dataset(local) == dataset
    assert [name for name in dataset.schema.names if name not in plain] == ["fps"]
    assert str(dataset.schema.field("fps").type) == "double"


def test_head_is_plain_json_with_the_schema(local: Store) -> None:
    open_dataset(local, DATASET)
    head = json.loads(local.read("dataset.json"))
    assert head["format_version"] == FORMAT_VERSION
    assert head["columns"]["clip_id"] == "string"
    assert head["columns"]["kl_logvar"] == "binary"
    assert head["tokenizers"][0]["codebook_size"] == 32768


def test_mismatch_names_both_fingerprints_and_what_differs(local: Store) -> None:
    open_dataset(local, DATASET)
    identity = {**IDENTITY, "clip": {**IDENTITY["clip"], "fps": 12.0}, "new": "kl"}
    del identity["preprocessing"]
    run = new_dataset((FSQ, KL), identity)
    with pytest.raises(DatasetMismatch) as caught:
        open_dataset(local, run)
    text = str(caught.value)
    assert text.startswith(f"output = {local.uri}: ")
    assert DATASET.fingerprint in text
    assert run.fingerprint in text
    assert text.splitlines()[1:] == [
        "  clip.fps: 8.0 in the dataset, 12.0 in this run",
        '  new: "(absent)" in the dataset, "kl" in this run',
        '  preprocessing: 1 in the dataset, "(absent)" in this run',
    ]


def test_same_fingerprint_with_other_columns_is_refused(local: Store) -> None:
    open_dataset(local, DATASET)
    with pytest.raises(DatasetMismatch, match=r"fsq \(uint16\), kl \(float16\) there, fsq"):
        open_dataset(local, new_dataset((FSQ,), IDENTITY))


def test_drivers_that_start_together_agree_on_one_head(store: Store) -> None:
    heads = [new_dataset((FSQ, KL), IDENTITY, {"driver": n}) for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        standing = list(pool.map(lambda head: open_dataset(store, head), heads))
    assert standing[0] in heads
    assert all(head == standing[0] for head in standing)


@pytest.mark.s3
def test_lost_reply(s3: S3Server, s3_store: Store) -> None:
    with s3.faults.times("lose_reply", 1, part="dataset.json"):
        assert open_dataset(s3_store, DATASET) == DATASET
    assert read_dataset(s3_store) == DATASET


def test_no_dataset(local: Store) -> None:
    with pytest.raises(ConfigError, match=r"no dataset: dataset\.json is missing"):
        read_dataset(local)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"format_version": "x"}', b"\xff"])
def test_damaged_head(local: Store, data: bytes) -> None:
    local.write("dataset.json", data)
    with pytest.raises(StoreError, match=r"dataset\.json: not the head of a dataset"):
        read_dataset(local)


@pytest.mark.parametrize(
    ("changes", "valid"),
    [
        ({"dtype": "uint8", "bits": 8}, True),
        ({"dtype": "uint8", "bits": 5}, True),
        ({"dtype": "bfloat16", "logvar": True}, True),
        ({"dtype": "uint8"}, False),
        ({"dtype": "uint8", "bits": 4}, False),
        ({"dtype": "uint8", "bits": 9}, False),
        ({"dtype": "uint8", "bits": 8, "logvar": True}, False),
        ({"dtype": "uint16", "bits": 8}, False),
        ({"dtype": "float16", "bits": 8}, False),
    ],
)
def test_types_that_latents_have(local: Store, changes: dict[str, Any], valid: bool) -> None:
    kl = dataclasses.replace(KL, **{"logvar": False, **changes})
    head = new_dataset((FSQ, kl), IDENTITY)
    local.write("dataset.json", to_json(head))
    if valid:
        assert read_dataset(local) == head
        return
    with pytest.raises(StoreError, match=r"dataset\.json: not the head of a dataset: tokenizers"):
        read_dataset(local)


def test_indices_have_no_bits(local: Store) -> None:
    fsq = dataclasses.replace(FSQ, bits=8)
    local.write("dataset.json", to_json(new_dataset((fsq, KL), IDENTITY)))
    with pytest.raises(StoreError, match="fsq does not agree with its settings"):
        read_dataset(local)


@pytest.mark.parametrize("version", [0, 2])
def test_another_format(local: Store, version: int) -> None:
    local.write("dataset.json", to_json(dataclasses.replace(DATASET, format_version=version)))
    with pytest.raises(ConfigError, match=rf"dataset\.json: format version {version}: .* only;"):
        open_dataset(local, DATASET)
