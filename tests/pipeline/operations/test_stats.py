"""The statistics of a dataset are the sum of what its units gathered, and what its parts hold."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.dataset.log.manifest import read_manifest, write_manifest
from pipeline.dataset.statistics import PsnrSums, clip_name
from pipeline.errors import ConfigError, StoreError
from pipeline.operations.compact import compact
from pipeline.operations.show import show_clip
from pipeline.operations.stats import Stats, stats
from pipeline.operations.status import status
from pipeline.records import to_json
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import commit, sound, write_log
from tests.pipeline.units import SMALL, WIDE, decoded_back, deliver


def test_all_units_are_in_it_and_agree_with_the_parts(local: Store) -> None:
    records = sound(local)
    found = stats(local)
    assert (found.tally.units, found.codebooks) == (3, None)
    assert list(found.tally.buckets) == [SMALL.name, WIDE.name]
    assert found.tally.total.clips == sum(record.counts.clips_written for record in records) == 21
    latents, codes = [], []
    for part in read_manifest(local).parts():
        with local.open(part.path) as file:
            table = pq.read_table(file)
        latents += [np.frombuffer(cells, "<f2").reshape(4, -1) for cells in table["kl"].to_pylist()]
        codes += np.frombuffer(b"".join(table["fsq"].to_pylist()), "<u2").tolist()
    values = np.concatenate(latents, 1).astype(np.float64)
    np.testing.assert_allclose(found.tally.total.latents["kl"].mean(), values.mean(1), rtol=1e-12)
    np.testing.assert_allclose(found.tally.total.latents["kl"].std(), values.std(1), rtol=1e-9)
    assert found.tally.total.levels["fsq"].cells == len(codes)
    use = stats(local, codes=True).codebooks["fsq"]
    assert (use.size, use.used) == (32768, len(set(codes)))
    shares = np.array(list(Counter(codes).values())) / len(codes)
    assert use.perplexity == pytest.approx(2 ** -(shares * np.log2(shares)).sum())


def test_codes_that_occur_more_than_once_weigh_more(local: Store) -> None:
    # The fake cells of "ab" and "ba" are the same.
    write_log(local, [commit(local, deliver(name, batches=(3,))) for name in ("ab", "ba", "c")])
    use = stats(local, codes=True).codebooks["fsq"]
    shares = [2 / 72] * 24 + [1 / 72] * 24
    assert use.used == 48
    assert use.perplexity == pytest.approx(2 ** -sum(p * np.log2(p) for p in shares))


def test_the_same_rows_in_other_batches_have_the_same_statistics(local: Store) -> None:
    record = commit(local, deliver("u"))
    again = commit(local, deliver("u"), row_group_bytes=1000)
    assert record.statistics == again.statistics
    assert len(to_json(replace(record, timings={}))) < 3000


def test_what_was_decoded_back_is_added_up_and_told(local: Store) -> None:
    made = [
        decoded_back(deliver("a"), 31.0004, 28.5, 35.25),
        decoded_back(deliver("b"), 9, None, 8),
    ]
    write_log(local, [commit(local, delivery) for delivery in made])
    write_manifest(local)
    found = stats(local)
    assert found.tally.buckets[WIDE.name].psnr == {
        "fsq": PsnrSums(
            clips=1,
            failed=1,
            millidecibels=28_500,
            counts={28: 1},
            worst=((28_500, clip_name("a/k1/1")),),
        )
    }
    assert found.tally.total.psnr["fsq"] == PsnrSums(
        clips=5,
        failed=1,
        millidecibels=111_750,
        counts={8: 1, 9: 1, 28: 1, 31: 1, 35: 1},
        worst=(
            (8000, clip_name("b/k3/0")),
            (9000, clip_name("b/k0/0")),
            (28_500, clip_name("a/k1/1")),
        ),
    )
    lines = found.lines()
    told = (
        "psnr       fsq: 22.35 dB on average over 5 clips decoded back; 8.00 at least, of"
        f" {clip_name('b/k3/0')};"
        " 1 could not be decoded back"
    )
    at = lines.index(told)
    assert told in status(local).lines()
    assert lines[at + 1] == "           8 dB: 1 · 9 dB: 1 · 28 dB: 1 · 31 dB: 1 · 35 dB: 1"
    assert status(local).to_dict()["psnr"] == found.to_dict()["all"]["psnr"]
    assert json.loads(json.dumps(found.to_dict()["all"]["psnr"]["fsq"])) == {
        "clips": 5,
        "failed": 1,
        "mean_db": 22.35,
        "counts": {"8": 1, "9": 1, "28": 1, "31": 1, "35": 1},
        "worst": [
            {"clip": clip_name("b/k3/0"), "psnr_db": 8.0},
            {"clip": clip_name("b/k0/0"), "psnr_db": 9.0},
            {"clip": clip_name("a/k1/1"), "psnr_db": 28.5},
        ],
    }
    assert show_clip(local, clip_name("a/k1/1")).row["clip_id"] == "a/k1/1"
    assert found.tally.total.psnr.keys() == {"fsq"}, "nothing is said of what was not decoded back"


def test_clips_that_all_failed_have_no_mean(local: Store) -> None:
    write_log(local, [commit(local, decoded_back(deliver("a"), None, None, None))])
    found = stats(local)
    assert found.to_dict()["all"]["psnr"]["fsq"]["mean_db"] is None
    [line] = [line for line in found.lines()[:10] if line.startswith("psnr")][:1]
    assert line == "psnr       fsq: 3 could not be decoded back"


def test_merged_parts_are_read_by_the_rows_of_each_unit(local: Store) -> None:
    records = [commit(local, deliver(f"u-{n}")) for n in range(3)]
    write_log(local, records)
    before = stats(local, codes=True)
    assert compact(local).files_after == 2
    after = stats(local, codes=True)
    assert (after.tally.buckets, after.codebooks) == (before.tally.buckets, before.codebooks)


def test_for_people_and_for_programs(local: Store) -> None:
    sound(local)
    done = CliRunner().invoke(app, ["stats", local.uri, "--codes"])
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == f"dataset    {local.uri}"
    assert "clips      21 · 105 frames (18 copies) · 10.5 s of source" in lines
    assert "rates      30 fps: 21" in lines
    assert "sources    ≤ 480 px: 21" in lines
    assert sum(line.startswith("codebook   fsq: ") for line in lines) == 1
    assert sum(line.startswith("  channel  0  mean ") for line in lines) == 3
    done = CliRunner().invoke(app, ["stats", local.uri, "--json"])
    found = json.loads(done.stdout)
    assert found["buckets"].keys() == {SMALL.name, WIDE.name}
    assert found["all"]["clips"] == 21
    assert found["all"]["seconds"] == 10.5
    total = stats(local).tally.total
    assert found["all"]["latents"]["kl"]["std"] == total.latents["kl"].std()
    assert sum(found["all"]["levels"]["fsq"]["counts"][0]) == total.levels["fsq"].cells


def test_an_empty_dataset(local: Store) -> None:
    write_log(local, [])
    found = stats(local, codes=True)
    assert isinstance(found, Stats)
    assert found.tally.buckets == {}
    assert found.codebooks["fsq"].perplexity == 0
    assert "clips      0 · 0 frames · 0.0 s of source" in found.lines()
    assert json.dumps(found.to_dict())


def test_what_is_wrong(local: Store) -> None:
    with pytest.raises(ConfigError, match="no dataset"):
        stats(local)
    [record, *_] = sound(local)
    local.delete(record.parts[0].path)
    assert stats(local).tally.total.clips == 21
    with pytest.raises(StoreError, match=r"u-0-0-.*verify"):
        stats(local, codes=True)
    local.write(record.parts[0].path, b"PAR1 or not")
    with pytest.raises(StoreError, match=r"u-0-0-.*verify"):
        stats(local, codes=True)


def test_a_single_bucket_is_printed_once(local: Store) -> None:
    write_log(local, [commit(local, deliver("u", batches=(3,)))])
    lines = stats(local).lines()
    assert sum(line.startswith("clips ") for line in lines) == 1
    assert f"bucket {SMALL.name}" in lines
    assert sum(line.startswith("kl: ") for line in lines) == 1
    write_log(Store(local.uri + "-2"), [commit(Store(local.uri + "-2"), deliver("u"))])
    lines = stats(Store(local.uri + "-2")).lines()
    assert sum(line.startswith("clips ") for line in lines) == 3
    assert sum(line.startswith("kl: ") for line in lines) == 3


def test_what_is_asked_for_and_is_not_there_is_said(local: Store) -> None:
    sound(local)
    says = "bits       none: no tokenizer has hold or channels, or there is no clip"
    assert says in stats(local, bits=True).lines()
    assert not [line for line in stats(local).lines() if line.startswith(("bits", "codebook"))]
