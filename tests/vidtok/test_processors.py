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
NUMERIC = (
    "test_batches.py",
    "test_fsq.py",
    "test_goldens.py",
    "test_kl.py",
    "test_winograd.py",
    "evaluation/test_fidelity.py",
    "evaluation/test_frechet.py",
    "training/test_discriminator.py",
    "training/test_entropy.py",
    "training/test_regularizers.py",
)
LEAST = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
}


@pytest.mark.slow
def test_numbers_hold_on_the_least_processor() -> None:
    arguments = ["-q", "-p", "no:cacheprovider", "-k", "not 32x48 and not tiled"]
    files = [str(FOLDER / name) for name in NUMERIC]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, *files],
        env=os.environ | LEAST,
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
