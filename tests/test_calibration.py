"""scripts/calibration.py: the figures, on numbers small enough to be done by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from script_module import load

calibration = load("calibration")
Judged, Coverage = calibration.Judged, calibration.Coverage

FOUR = [Judged("a", "a", 0.9), Judged("a", "b", 0.7), Judged("b", "b", 0.7), Judged("b", None, 0.2)]
JUDGED = st.builds(Judged, st.sampled_from("abc"), st.sampled_from(["a", "b", "c", None]), st.floats(0, 1))


def test_a_text_without_a_label_is_wrong() -> None:
    assert calibration.accuracy(FOUR) == 0.5


def test_macro_f1_counts_each_label_alike() -> None:
    many = [*[Judged("a", "a")] * 8, Judged("b", "a"), Judged("b", "b")]
    assert calibration.macro_f1(many) == pytest.approx((16 / 17 + 2 / 3) / 2)
    assert calibration.macro_f1(FOUR) == pytest.approx((2 / 3 + 1 / 2) / 2)
    # a label that nothing deserved counts as well
    assert calibration.macro_f1([Judged("a", "a"), Judged("a", "c")]) == pytest.approx((2 / 3 + 0) / 2)


def test_calibration_error_is_the_gap_in_each_bin() -> None:
    # 0.9 right: gap 0.1; 0.7, 0.7, one of them right: gap 0.4; 0.2 wrong: gap 0.2
    assert calibration.ece(FOUR) == pytest.approx((0.1 + 0.4 + 0.2) / 4)
    # in one bin, too much here makes up for too little there
    assert calibration.ece(FOUR, bins=1) == pytest.approx(abs(2 - 2.5) / 4)


def test_an_edge_belongs_to_the_bin_below() -> None:
    edge = [Judged("a", "a", 0.5), Judged("a", "b", 0.45), Judged("a", "a", 0.55)]
    assert calibration.ece(edge, bins=2) == pytest.approx((abs(1 - 0.95) + 0.45) / 3)


def test_confidence_that_is_always_right_or_never_is_known() -> None:
    assert calibration.ece([Judged("a", "a", 1.0)] * 5) == 0
    assert calibration.ece([Judged("a", "b", 1.0)] * 5) == 1


def test_what_remains_at_a_threshold() -> None:
    assert calibration.coverage(FOUR, [0, 0.7, 0.8, 0.95]) == [
        Coverage(0, 0.75, pytest.approx(2 / 3)),
        Coverage(0.7, 0.75, pytest.approx(2 / 3)),
        Coverage(0.8, 0.25, 1.0),
        Coverage(0.95, 0.0, None),
    ]


@pytest.mark.parametrize("figure", [calibration.accuracy, calibration.macro_f1, calibration.ece])
def test_of_nothing_there_is_no_figure(figure) -> None:
    with pytest.raises(ValueError, match="nothing"):
        figure([])


@given(st.lists(JUDGED, min_size=1, max_size=40))
def test_every_figure_is_a_part_of_one(judged) -> None:
    figures = [calibration.accuracy(judged), calibration.macro_f1(judged), calibration.ece(judged)]
    assert all(-1e-9 <= figure <= 1 + 1e-9 for figure in figures)
    kept = [one.coverage for one in calibration.coverage(judged, [0, 0.25, 0.5, 0.75, 1])]
    assert kept == sorted(kept, reverse=True)
