"""What a machine has, from the texts that say it."""

from pathlib import Path

import pytest

from pipeline.operations.machine import (
    Gpu,
    cpu_features,
    free_memory,
    gpus,
    parse_gpus,
    usable_cores,
)


def test_gpus_are_read_from_the_table_of_the_driver() -> None:
    text = "NVIDIA H200, 143771, 143000, 570.1\nOld card, [N/A], 10, 570.1\nnonsense\n"
    assert parse_gpus(text) == [
        Gpu(name="NVIDIA H200", total_bytes=143771 << 20, free_bytes=143000 << 20, driver="570.1"),
        Gpu(name="Old card", total_bytes=0, free_bytes=10 << 20, driver="570.1"),
    ]


@pytest.mark.parametrize(
    ("script", "count"), [("echo A, 1, 1, 5", 1), ("exit 9", 0), ("echo; echo 'No devices'", 0)]
)
def test_a_driver_that_fails_shows_none(
    script: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == []
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    assert len(gpus()) == count


def test_features_are_whole_words() -> None:
    assert cpu_features("flags : avx2 avx512f avx512_bf16") == ["AVX2", "AVX-512", "AVX-512 bf16"]
    assert cpu_features("flags : avx amx_bf16") == ["AMX"]
    assert cpu_features("flags : avx2x xavx512f") == []


def test_this_machine_has_memory_and_cores() -> None:
    assert free_memory() > 1 << 20
    assert usable_cores() >= 1
