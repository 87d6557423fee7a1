"""Narrow networks of every kind, for tests of behaviour that need no released size."""

from tests.vidtok.deterministic import fill_weights
from vidtok import Tokenizer, TokenizerConfig, build


def small(network: str, regularizer: str = "fsq", **more: object) -> Tokenizer:
    """Return a 4×8×8 network of width 8 with drawn weights: every path matters, nothing is zero."""
    levels = {"fsq_levels": (8, 8, 8)} if regularizer == "fsq" else {}
    config = TokenizerConfig(
        name=f"small_{regularizer}_{network}",
        network=network,
        regularizer=regularizer,
        z_channels=3,
        ch=8,
        num_res_blocks=1,
        **levels,
        **more,
    )
    model = build(config)
    fill_weights(model.state_dict())
    return model
