import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.schema import TokenizerColumn, index_dtype
from pipeline.errors import StoreError
from pipeline.formatting import counted
from pipeline.operations.verify.cell_check import check_cells
from pipeline.tokenizers.identity import expected_shape
from tests.pipeline.made_datasets import DATASET
from tests.pipeline.units import FSQ, KL


def fsq(codebook_size: int) -> TokenizerColumn:
    return dataclasses.replace(FSQ, dtype=index_dtype(codebook_size), codebook_size=codebook_size)


def table(name: str, rows: list[bytes], shape: list[int]) -> pa.Table:
    return pa.table(
        {
            "clip_id": [f"u/k/{n}" for n in range(len(rows))],
            name: pa.array(rows, pa.binary()),
            f"{name}_shape": pa.array([shape] * len(rows), pa.list_(pa.int32())),
        }
    )


@given(
    codebook_size=st.sampled_from([2, 255, 256, 257, 32768, 65536, 65537, 262144, 2**32]),
    places=st.sets(st.tuples(st.integers(0, 4), st.integers(0, 7))),
)
def test_every_index_beyond_the_codebook_is_found(
    codebook_size: int, places: set[tuple[int, int]]
) -> None:
    column = fsq(codebook_size)
    cells = np.full((5, 8), codebook_size - 1, column.stored_dtype)
    can_be_wrong = codebook_size <= np.iinfo(column.stored_dtype).max
    for place in places if can_be_wrong else ():
        cells[place] = codebook_size
    rows = table("fsq", [row.tobytes() for row in cells], [2, 2, 2])
    found = list(check_cells(rows, column, [[2, 2, 2]] * 5, "p"))
    wrong = {row for row, _ in places} if can_be_wrong else set()
    assert [(f.kind, f.where) for f in found] == [("range", "p")] * bool(wrong)
    if wrong:
        rows_wrong = counted(len(wrong), "row")
        text = f"{rows_wrong}, first u/k/{min(wrong)}: fsq: index {codebook_size},"
        assert found[0].detail.startswith(text)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@given(
    value=st.floats(width=32, allow_subnormal=False)
    | st.sampled_from([1e5, np.nan, np.inf, -np.inf]),
    place=st.integers(0, 15),
)
def test_a_latent_is_finite_or_found(dtype: str, value: float, place: int) -> None:
    column = dataclasses.replace(KL, dtype=dtype, logvar=False)
    cells = torch.zeros(16)
    cells[place] = value
    stored = cells.to(getattr(torch, dtype))
    finite = bool(torch.isfinite(stored).all())
    data = stored.view(torch.uint8).numpy().tobytes()
    rows = table("kl", [data], [4, 1, 2, 2])
    found = list(check_cells(rows, column, [[4, 1, 2, 2]], "p"))
    assert [f.kind for f in found] == ([] if finite else ["non_finite"])


def test_latents_of_6_bits_and_their_scales() -> None:
    column = dataclasses.replace(KL, dtype="uint8", bits=6, logvar=False)
    shape = [2, 1, 1, 2]
    rows = table("kl", [bytes([0, 1, 62, 63]), bytes([0, 64, 255, 0])], shape)

    def found(*scales: list[float]) -> list[tuple[str, str]]:
        given = rows.append_column("kl_scale", pa.array(scales, pa.list_(pa.float32())))
        return [(f.kind, f.detail) for f in check_cells(given, column, [shape] * 2, "p")]

    cells = ("range", "1 row, first u/k/1: kl: cell 64, the most of 6 bits is 63")
    good = [0.0, 0.0, 1.0, 0.0]
    assert found(good, good) == [cells]
    rows = rows.slice(0, 1).take([0, 0])
    assert found(good, good) == []
    for scale, fault in (
        (good[1:], "3 numbers, 2 channels take 4"),
        ([np.nan, *good[1:]], "NaN or infinity"),
        ([0.0, 0.0, 1.0, -2.0], "the step -2.0 is negative"),
    ):
        assert found(scale, good) == [("scale", f"1 row, first u/k/0: kl_scale: {fault}")]


def test_rows_of_a_wrong_shape_do_not_hide_others() -> None:
    good, bad = np.zeros(8, "<u2"), np.full(8, 40000, "<u2")
    rows = table("fsq", [good.tobytes()[2:], good.tobytes(), bad.tobytes()], [2, 2, 2])
    found = list(check_cells(rows, FSQ, [[2, 2, 2]] * 3, "p"))
    assert [f.kind for f in found] == ["shape", "range"]
    assert found[0].detail == "1 row, first u/k/0: fsq: 14 bytes, [2, 2, 2] uint16 take 16"
    assert found[1].detail.startswith("1 row, first u/k/2: ")


def test_shape_follows_from_the_bucket() -> None:
    assert expected_shape(DATASET, FSQ, "17x256x384", 17) == [5, 32, 48]
    assert expected_shape(DATASET, KL, "5x16x16", 5) == [4, 2, 2, 2]
    assert expected_shape(DATASET, KL, "allx16x16", 21) == [4, 6, 2, 2]


def test_rows_of_several_lengths() -> None:
    """As whole videos are: each row by its own shape, and the rows after it are not mistaken."""
    column = dataclasses.replace(KL, dtype="float32", logvar=False)
    shapes = [[4, 1, 2, 2], [4, 3, 2, 2], [4, 2, 2, 2]]
    cells = [np.zeros(shape, "<f4") for shape in shapes]
    cells[1][3, 2, 1, 1] = np.nan
    rows = table("kl", [c.tobytes() for c in cells], shapes[0])
    lengths = pa.array(shapes, pa.list_(pa.int32()))
    rows = rows.set_column(2, "kl_shape", lengths)
    [found] = check_cells(rows, column, shapes, "p")
    assert found.detail == "1 row, first u/k/1: kl: NaN or infinity in 1 of 48 cells"
    [found] = check_cells(rows, column, [*shapes[:1], [4, 2, 2, 2], *shapes[2:]], "p")
    assert found.detail == "1 row, first u/k/1: kl_shape [4, 3, 2, 2], the model gives [4, 2, 2, 2]"


@pytest.mark.parametrize("bucket", ["5x16", "6x16x16", "a bucket"])
def test_a_bucket_that_no_clip_has(bucket: str) -> None:
    with pytest.raises(StoreError, match=r"identity\.tokenizers\.fsq\.facts and bucket"):
        expected_shape(DATASET, FSQ, bucket, 5)
