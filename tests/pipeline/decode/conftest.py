from collections.abc import Iterator

import pytest

from pipeline.decode import ClipRule, DecodeLimits, Decoder

SMALL = ClipRule(frames=17, height=64, width=64, fps=8, short="pad")


@pytest.fixture(scope="session")
def decoder() -> Iterator[Decoder]:
    """One Decoder for all tests that only decode."""
    with Decoder(SMALL, DecodeLimits(timeout_s=30)) as decoder:
        yield decoder
