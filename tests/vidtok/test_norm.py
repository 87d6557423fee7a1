"""Which norms are fused, and the fused ones in processes and for processors that they need."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vidtok import ops
from vidtok.norm import NormAct, add, kernels, split_bias

HERE = Path(__file__)


def test_a_cpu_and_meta_compute_norms_by_torch() -> None:
    for device in ("cpu", "meta"):
        x = torch.ones(1, 2, 3, 4, 8, device=device)
        assert kernels(x) is None
        assert split_bias(x, x[0, 0, 0, 0])[1] is None


@pytest.mark.parametrize("on_cpu", [True, False])
def test_without_kernels_a_bias_that_is_left_is_added(
    on_cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "is_cpu", lambda _: on_cpu)
    layer = NormAct(8)
    x, bias = torch.randn(2, 3, 4, 8), torch.randn(8)
    with torch.no_grad():
        torch.testing.assert_close(layer(x, bias), layer(x + bias))
        torch.testing.assert_close(add(x, x, bias), x + x + bias)


def test_the_kernels_hold_in_the_interpreter() -> None:
    pytest.importorskip("triton", reason="Triton exists for Linux alone")
    tests = str(HERE.with_name("interpreted_norms.py"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


COMPILED = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from vidtok import norm_kernels

vectors = ("x", "shift", "weight", "bias", "out", "branch", "grad", "dx")
sizes = {"C": 128, "COLUMNS": 128, "ROWS": 16}
flags = {"SHIFTED": True, "KEEP": True, "FRONT": 2, "BEHIND": 1, "FILL": "first"}
for kernel in (norm_kernels.norm_forward, norm_kernels.norm_backward, norm_kernels.add_forward):
    constants = {n: v for n, v in (sizes | flags).items() if n in kernel.arg_names}
    types = dict.fromkeys(kernel.arg_names, "i32") | dict.fromkeys(constants, "constexpr")
    for name in types:
        if name in (*vectors, "mean", "rstd", "sums"):
            types[name] = "*fp16" if name in vectors else "*fp32"
        elif name.endswith("_clip"):
            types[name] = "i64"
        elif name == "eps":
            types[name] = "fp32"
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, (name, type) in enumerate(types.items())
        if type.startswith("*") or name.endswith(("_clip", "_frame"))
    }
    source = ASTSource(kernel, types, constants, aligned)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    print(kernel.__name__, "ld.global.v4" in made.asm["ptx"], len(made.asm["cubin"]) > 0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Triton exists for Linux alone")
def test_the_kernels_compile_for_a_gpu_and_move_16_bytes_at_a_time(tmp_path: Path) -> None:
    """Triton's compiler and NVIDIA's assembler need no GPU."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILED],
        env=os.environ | {"TRITON_CACHE_DIR": str(tmp_path)},
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kernels = ("norm_forward", "norm_backward", "add_forward")
    assert done.stdout.splitlines() == [f"{name} True True" for name in kernels]
