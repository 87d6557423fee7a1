import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from pipeline.dataset.format_version import FORMAT_VERSION
from pipeline.dataset.schema import (
    clip_schema,
    index_dtype,
    tokenizer_columns,
)
from pipeline.errors import ConfigError
from tests.pipeline.units import FSQ, KL, SCHEMA


class TestTokenizerColumn:
    @pytest.mark.parametrize(
        ("size", "dtype"),
        [
            (2, "uint8"),
            (256, "uint8"),
            (257, "uint16"),
            (65536, "uint16"),
            (65537, "uint32"),
            (262144, "uint32"),
        ],
    )
    def test_smallest_integer_that_holds_the_codebook(self, size: int, dtype: Any) -> None:
        assert index_dtype(size) == dtype
        assert np.iinfo(dtype).max >= size - 1

    @pytest.mark.parametrize("size", [0, 2**32 + 1])
    def test_no_integer_holds_other_codebooks(self, size: int) -> None:
        with pytest.raises(ConfigError, match=f"codebook_size = {size}"):
            index_dtype(size)


class TestSchema:
    def test_columns(self) -> None:
        types = {field.name: str(field.type) for field in SCHEMA}
        assert types == {
            "clip_id": "string",
            "unit": "string",
            "key": "string",
            "clip_index": "int32",
            "start_s": "double",
            "end_s": "double",
            "source_fps": "double",
            "source_height": "int32",
            "source_width": "int32",
            "crop": "list<item: float>",
            "num_frames": "int32",
            "padded_frames": "int32",
            "caption": "string",
            "meta": "string",
            "fsq": "binary",
            "fsq_shape": "list<item: int32>",
            "kl": "binary",
            "kl_shape": "list<item: int32>",
            "kl_logvar": "binary",
        }
        assert [field.name for field in SCHEMA if field.nullable] == ["caption", "meta"]

    def test_metadata_describes_the_tokenizers(self) -> None:
        assert tokenizer_columns(SCHEMA) == (FSQ, KL)
        assert SCHEMA.metadata[b"vidtok.fsq.dtype"] == b"uint16"
        assert SCHEMA.metadata[b"vidtok.kl.axes"] == b"c t h w"

        assert json.loads(SCHEMA.metadata[b"vidtok"])["format_version"] == FORMAT_VERSION

    @pytest.mark.parametrize("name", ["caption", "kl", "kl_shape", "kl_logvar"])
    def test_names_that_collide(self, name: str) -> None:
        with pytest.raises(ConfigError, match=f"named .*{name}"):
            clip_schema([KL, dataclasses.replace(FSQ, name=name)])
