"""A job in half precision does not start on CPUs that are slower in it than in float32."""

import pytest

from pipeline.config.job import JobConfig
from pipeline.errors import ConfigError
from pipeline.job.precision import require_fast_precision


def job(*precisions: str) -> JobConfig:
    return JobConfig.model_validate(
        {
            "source": {"uri": "x"},
            "clip": {"frames": 17, "height": 128, "width": 128},
            "tokenizers": [
                {"name": f"t{n}", "model": "m", "precision": precision}
                for n, precision in enumerate(precisions)
            ],
            "output": {"uri": "out"},
        }
    )


def none_is_slow(precision: str) -> list[str]:
    return []


def two_are_slow(precision: str) -> list[str]:
    assert precision != "float32"
    return ["10.0.0.1 (aa)", "10.0.0.2 (bb)"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_nodes_that_are_slower_in_a_precision_are_named(precision: str) -> None:
    with pytest.raises(ConfigError) as found:
        require_fast_precision(job("float32", precision), "cpu", two_are_slow)
    assert str(found.value) == (
        f"tokenizers.1.precision = {precision}: slower than float32 on the CPU of node"
        " 10.0.0.1 (aa), 10.0.0.2 (bb); set it to float32, or tokenize on GPUs"
    )


def test_float32_gpus_and_fast_cpus_take_every_job() -> None:
    require_fast_precision(job("float32"), "cpu", two_are_slow)
    require_fast_precision(job("bf16", "fp16"), "cuda", two_are_slow)
    require_fast_precision(job("bf16"), "cpu", none_is_slow)
