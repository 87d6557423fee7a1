from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.log.committed import RowRanges
from pipeline.records import parse_range, range_name

URI = "s3://bucket/a #rows=b.csv"

spans = st.tuples(st.integers(0, 60), st.integers(1, 12)).map(lambda pair: (pair[0], sum(pair)))


def disjoint(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    taken: set[int] = set()
    kept = []
    for start, stop in ranges:
        if taken.isdisjoint(range(start, stop)):
            taken.update(range(start, stop))
            kept.append((start, stop))
    return kept


def test_a_name_is_read_back() -> None:
    assert parse_range(range_name(URI, 7, 19)) == (URI, 7, 19)
    assert parse_range("/a.tar") is None
    assert parse_range(f"{URI}#rows=1-x") is None


@given(st.lists(spans).map(disjoint), spans, st.data())
def test_gaps_are_what_no_range_covers(
    known: list[tuple[int, int]], asked: tuple[int, int], data: st.DataObject
) -> None:
    ranges = RowRanges([range_name(URI, *span) for span in known] + ["/other.tar"])
    for span in data.draw(st.lists(st.sampled_from(known), unique=True)) if known else []:
        ranges.discard([range_name(URI, *span)])
        known = [other for other in known if other != span]
    covered = {row for span in known for row in range(*span)}
    gaps = list(ranges.gaps(URI, *asked))
    assert [row for span in gaps for row in range(*span)] == sorted({*range(*asked)} - covered)
    assert all(first[1] < second[0] for first, second in pairwise(gaps))
    assert ranges.overlaps([range_name(URI, *asked)]) == (not covered.isdisjoint(range(*asked)))
    assert not ranges.overlaps([range_name("/other.csv", *asked), "/x.tar"])


def test_equal_whatever_way_they_came_about() -> None:
    ranges = RowRanges([range_name(URI, 0, 4)])
    ranges.discard([range_name(URI, 0, 4)])
    assert ranges == RowRanges()
