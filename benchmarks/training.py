"""One training step of a tokenizer on the CPU: forward and backward pass, in float32 and bfloat16.

    python -m benchmarks.training [--rounds 5]

Clips of 17×64×64, without perceptual and adversarial losses and without the optimizer. Seconds are
those of the CPU, with one thread, because other work can run. The precisions run in turns; the
table has the median. To compare two trees, run it in both with PYTHONPATH, in turns.
"""

import argparse
import statistics
import time
from collections import defaultdict

import torch

import vidtok
from tests.vidtok.deterministic import fill_weights, synthetic_video
from vidtok.training.network import TrainedTokenizer

PRECISIONS = {"float32": None, "bf16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    tiny = vidtok.build("vidtok_fsq_causal_488_262144_tiny").config
    wide = vidtok.TokenizerConfig(
        name="ch64",
        network="causal_v1_1",
        regularizer="kl",
        z_channels=8,
        ch=64,
        num_res_blocks=1,
    )
    for config, batch in ((tiny, 4), (wide, 1)):
        steps = {name: Step(config, batch, dtype) for name, dtype in PRECISIONS.items()}
        seconds = defaultdict(list)
        for number in range(asked.rounds + 1):
            for name, step in steps.items():
                took = step()
                if number:  # the first one warms up
                    seconds[name].append(took)
        for name, rounds in seconds.items():
            forward, backward = (statistics.median(column) for column in zip(*rounds, strict=True))
            print(
                f"{config.name:36} {batch} clips  {name:8}"
                f" forward {forward:6.2f} s  backward {backward:6.2f} s"
                f"  step {forward + backward:6.2f} s"
            )


class Step:
    """A tokenizer in training, and its clips."""

    def __init__(
        self, config: vidtok.TokenizerConfig, batch: int, dtype: torch.dtype | None
    ) -> None:
        tokenizer = vidtok.build(config).train()
        fill_weights(tokenizer.state_dict())
        self._network = TrainedTokenizer(tokenizer, autocast=dtype)
        video = synthetic_video(batch, 17, 64, 64)
        self._clips = ((video + 1) * 127.5).byte().permute(0, 2, 3, 4, 1).contiguous()

    def __call__(self) -> tuple[float, float]:
        """Return the CPU seconds of the forward and of the backward pass."""
        self._network.zero_grad()
        began = time.process_time()
        made = self._network(self._clips, 0)
        loss = (made.x_hat - made.x).abs().mean() + 1e-6 * made.regularizer
        between = time.process_time()
        loss.backward()
        return between - began, time.process_time() - between


if __name__ == "__main__":
    main()
