"""Models: loading, encoding, decoding, identity."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import vidtok
    from pipeline.dataset.metadata import Dataset


def open_models(dataset: "Dataset") -> "dict[str, vidtok.Tokenizer]":
    """Open the models that made a dataset; see `pipeline.tokenizers.models.open_models`."""
    # torch takes seconds to import, and the checks of a configuration do not need it.
    from pipeline.tokenizers import models

    return models.open_models(dataset)


__all__ = ["open_models"]
