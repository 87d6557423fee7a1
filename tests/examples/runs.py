"""What the tests of the generators train: both of them, small."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from examples import latent_flow, token_transformer
from examples.generators.training import Settings

AR, FLOW = ("indices", token_transformer.build), ("latents", latent_flow.build)


def settings(corpus: str, out: str | Path, **changes: Any) -> Settings:
    values = Settings(
        corpus=corpus,
        out=str(out),
        steps=60,
        batch=4,
        patch=2,
        width=64,
        depth=2,
        lr=3e-3,
        ema=0.9,
        held_out=0.0,
        samples=2,
        seed=0,
        save_every=1000,
        loaders=0,
        workers=0,
    )
    return replace(values, **changes)
