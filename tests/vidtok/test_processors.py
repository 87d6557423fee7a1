"""The numeric tests hold on processors that lack the vector units of this one.

Libraries choose their kernels by the processor, and each kernel rounds in another order. The
environment limits them to what every processor has.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
GOLDENS = (
    "vidtok_fsq_noncausal_488_262144--t19--ch16",
    "vidtok_fsq_causal_488_32768_v1_1--t18--ch16",
    "vidtok_kl_causal_288_8chn--t17--ch16",
)
"""One of each network, and of each regularizer."""
NUMERIC = (
    *(f"test_goldens.py::test_equals_the_reference[{golden}]" for golden in GOLDENS),
    "test_batches.py::test_a_batch_equals_its_clips[causal_v1_0]",
    "test_batches.py::test_gradients_of_a_batch_are_the_sums_of_its_clips[noncausal]",
    "test_batches.py::test_a_batch_of_wide_layers_equals_its_clips[causal_v1_1]",
    "test_fsq.py",
    "test_kl.py",
    "test_winograd.py",
    "evaluation/test_fidelity.py",
    "evaluation/test_frechet.py",
    "training/test_discriminator.py",
    "training/test_entropy.py",
    "training/test_regularizers.py",
)
"""Whole files where they are quick, else one case of each kind of arithmetic."""
LEAST = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
}


@pytest.mark.slow
def test_numbers_hold_on_the_least_processor() -> None:
    tests = [str(FOLDER / name) for name in NUMERIC]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        env=os.environ | LEAST,
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
