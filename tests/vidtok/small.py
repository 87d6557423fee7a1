"""Narrow networks of every kind, for tests of behaviour that need no released size."""

from tests.vidtok.deterministic import fill_weights
from vidtok import Tokenizer, TokenizerConfig, build


def small(network: str, regularizer: str = "fsq", **more: object) -> Tokenizer:
    """Return a network with drawn weights: every path matters, nothing is zero.

    It compresses 4×8×8 and has a width of 8, if `more` says nothing else.
    """
    levels = {"fsq_levels": (8, 8, 8)} if regularizer == "fsq" else {}
    fields = {"ch": 8, "num_res_blocks": 1, **levels, **more}
    config = TokenizerConfig(
        name=f"small_{regularizer}_{network}",
        network=network,
        regularizer=regularizer,
        z_channels=3,
        **fields,
    )
    model = build(config)
    fill_weights(model.state_dict())
    return model


TWO_LEVELS = {
    "ch_mult": (1, 1),
    "spatial_ds": (0,),
    "spatial_us": (1,),
    "tempo_ds": (0,),
    "tempo_us": (1,),
}
"""Half of the default's levels. One of them resamples space and time: every kind of layer."""


def shallow(network: str, regularizer: str = "fsq") -> Tokenizer:
    """Return a network of two levels, for tests of what uses a network."""
    return small(network, regularizer, **TWO_LEVELS)
