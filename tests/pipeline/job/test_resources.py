"""Actors fit the cluster, whatever its size: one that never starts would stop the job."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.config.job import JobConfig
from pipeline.errors import ConfigError
from pipeline.job.resources import allocate


def job(**sections: dict[str, object]) -> JobConfig:
    base = {
        "source": {"uri": "x"},
        "clip": {"frames": 17, "height": 128, "width": 128},
        "tokenizers": [{"name": "fsq", "model": "m"}],
        "output": {"uri": "out"},
    }
    return JobConfig.model_validate({**base, **sections})


def test_two_cpus_are_one_decoder_and_one_tokenizer() -> None:
    made = allocate(job(), cpus=2, gpus=0, units=100)
    assert (made.decode_actors, made.tokenize_actors) == (1, 1)
    assert (made.decode_cpus, made.tokenize_cpus, made.commit_cpus) == (1, 1, 0)


def test_it_says_what_a_pass_starts() -> None:
    made = allocate(job(decode={"actors": 2}), cpus=2, gpus=0, units=100)
    assert made.starts("fsq, kl") == (
        "2 decode actors and 1 tokenize actor on cpu, which load fsq, kl"
    )


def test_gpus_hold_the_tokenizers_and_cpus_decode() -> None:
    made = allocate(job(), cpus=32, gpus=4, units=1000)
    assert (made.device, made.tokenize_actors, made.tokenize_gpus) == ("cuda", 4, 1.0)
    assert made.tokenize_cpus == 0
    assert made.decode_actors == 32 - 8 * 0.25
    shared = job(tokenize={"gpus_per_actor": 0.5})
    assert allocate(shared, cpus=32, gpus=4, units=1000).tokenize_actors == 8


def test_no_more_decoders_than_units() -> None:
    assert allocate(job(), cpus=64, gpus=0, units=3).decode_actors == 3


def test_gpus_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"tokenize\.device = cuda: the cluster has 0 GPUs"):
        allocate(job(tokenize={"device": "cuda"}), cpus=8, gpus=0, units=1)
    growing = allocate(job(tokenize={"device": "cuda"}), cpus=8, gpus=0, units=1, may_grow=True)
    assert growing.tokenize_actors == 1


def test_an_autoscaler_is_asked_for_what_the_settings_say() -> None:
    wide = job(decode={"actors": 200}, tokenize={"actors": 8, "device": "cuda"})
    made = allocate(wide, cpus=4, gpus=0, units=1000, may_grow=True)
    assert (made.decode_actors, made.decode_cpus, made.tokenize_actors) == (200, 1, 8)


def test_a_cluster_of_one_cpu_that_was_started_by_somebody_else() -> None:
    made = allocate(job(), cpus=1, gpus=0, units=9, may_grow=True)
    assert made.cpus <= 1
    empty = allocate(job(), cpus=0, gpus=0, units=9, may_grow=True)
    assert (empty.decode_cpus, empty.tokenize_cpus) == (1, 1), "its nodes have not come yet"


@example(cpus=8, decode=7, tokenize=1, threads=1, units=99)
@given(
    cpus=st.integers(1, 300),
    decode=st.none() | st.integers(1, 500),
    tokenize=st.none() | st.integers(1, 50),
    threads=st.integers(1, 16),
    units=st.integers(1, 1000),
)
def test_everything_fits_a_cluster_that_does_not_grow(
    cpus: int, decode: int | None, tokenize: int | None, threads: int, units: int
) -> None:
    config = job(decode={"actors": decode}, tokenize={"actors": tokenize, "threads": threads})
    made = allocate(config, cpus=cpus, gpus=0, units=units)
    assert 1 <= made.decode_actors <= units
    assert made.tokenize_actors >= 1
    assert made.decode_cpus > 0
    assert made.tokenize_cpus > 0
    assert made.cpus <= cpus + 1e-9
    if made.commit_cpus:
        assert made.cpus + made.commit_cpus <= cpus + 1e-9, "a commit could never start"
