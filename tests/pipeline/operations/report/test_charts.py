"""Charts show the numbers that they are given."""

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.statistics import LatentSums
from pipeline.operations.report.latent_histograms import EDGES
from pipeline.storage.store import Store
from tests.lazy import charts
from tests.pipeline.made_datasets import commit, write_log
from tests.pipeline.units import deliver


def test_rates_by_stage_follow_the_commits(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_log(store, [commit(store, deliver(f"u-{n}", batches=(2,))) for n in range(65)])
    rates = charts.stage_rates(read_manifest(store))
    assert set(rates) == {"decode", "tokenize", "commit"}
    assert len(rates["decode"]) == 33, "65 units in groups of two"
    assert rates["decode"] == pytest.approx([2 / 1.5] * 33)
    assert rates["tokenize"] == pytest.approx([2 / 0.25] * 33)


def test_figures_stand_degenerate_numbers() -> None:
    one = LatentSums(cells=1, sums=(0,), squares=(0,))
    for figure in (
        charts.latents_figure(one),
        charts.histogram_figure(np.zeros(len(EDGES) + 1, np.int64)),
        charts.levels_figure((0, 0)),
        charts.rates_figure({"a": [5.0]}),
        charts.rates_figure({"a": [0.0, 3.0], "b": [0.0, 0.0]}),
    ):
        assert figure is not None
        ET.fromstring(charts.inline_svg(figure, "a chart"))
    assert charts.rates_figure({}) is charts.rates_figure({"a": [0.0]}) is None
    assert charts.beyond(np.zeros(43, np.int64)) == 0


def test_a_bar_is_as_high_as_its_level_is_frequent() -> None:
    [axes] = charts.levels_figure((30, 10)).axes
    assert [bar.get_height() for bar in axes.patches] == [30, 10]
    assert list(axes.lines[0].get_ydata()) == [20, 20]


def test_a_bar_spans_one_standard_deviation_to_either_side() -> None:
    # Of values 1 and 3 in one channel, and of 2 and 2 in the other.
    unit, square = 1 << 24, 1 << 32
    sums = LatentSums(cells=2, sums=(4 * unit, 4 * unit), squares=(10 * square, 8 * square))
    [axes] = charts.latents_figure(sums).axes
    assert [(bar.get_y(), bar.get_height()) for bar in axes.patches] == [(1, 2), (2, 0)]


def test_a_histogram_is_as_high_as_its_bin_is_full() -> None:
    """The steps follow the normal distribution if the counts do."""
    shares = np.diff([0.5 * (1 + math.erf(edge / math.sqrt(2))) for edge in EDGES])
    [axes] = charts.histogram_figure(np.array([0, *np.rint(1e6 * shares), 0], np.int64)).axes
    steps, edges, _ = axes.patches[0].get_data()
    curve = axes.lines[0].get_ydata()
    assert steps == pytest.approx((curve[1:] + curve[:-1]) / 2, abs=2e-3)
    assert list(edges) == list(axes.lines[0].get_xdata()) == list(EDGES)
    assert charts.beyond(np.array([500, *[0] * 40, 1500, 0])) == 0.25


def test_a_line_leaves_out_where_a_stage_did_nothing() -> None:
    figure = charts.rates_figure({"a": [1.0, 0.0, 100.0], "b": [10.0, 10.0, 10.0]})
    assert figure is not None
    [axes] = figure.axes
    assert np.array(axes.lines[0].get_ydata()) == pytest.approx([1, math.nan, 100], nan_ok=True)
    assert axes.get_ylim() == (1, 100)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_black_follows_the_colour_scheme_of_the_page() -> None:
    svg = charts.inline_svg(charts.levels_figure((30, 10)), 'use of "levels" <1>')
    root = ET.fromstring(svg)
    assert root.get("aria-label") == 'use of "levels" <1>'
    assert "currentColor" in svg
    assert "#000000" not in svg
    assert svg == charts.inline_svg(charts.levels_figure((30, 10)), 'use of "levels" <1>')
