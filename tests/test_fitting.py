"""Whether a profile runs on this PC, told before a download."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import fitting
from engine.fitting import Fit, Room
from engine.footprint import ANALYSER, Footprint
from engine.library import FilePlan, ModelPlan

GB = 10**9


def plan(model: str, ram: int | None, kind: str = "llm") -> ModelPlan:
    """Return a model of so many bytes of RAM; its file takes half of that."""
    size = None if ram is None else ram // 2
    return ModelPlan(
        model=model, kind=kind, source="org/x", license="MIT", commercial=True, gated=False, note=None,
        installed=False, files=(FilePlan("f", size, False),), download=size, disk=size, ram=Footprint(ram, 0, 0, 0),
    )  # fmt: skip


BIG, SMALL, EMBEDDER = plan("big", 6 * GB), plan("small", 3 * GB), plan("e", 2 * GB, "embedding")
WHOLE, LEAST = 11 * GB + ANALYSER, 8 * GB + ANALYSER


def test_every_model_and_the_largest_alone_are_counted_with_the_analyser() -> None:
    fit = fitting.fit("p", [BIG, SMALL, EMBEDDER], Room(16 * GB, 50 * GB))
    assert (fit.ram, fit.ram_least, fit.room) == (WHOLE, LEAST, 16 * GB)
    assert (fit.download, fit.disk, fit.disk_enough) == (5_500_000_000, 5_500_000_000, True)
    assert fit.models == ("big", "small", "e")
    assert json.loads(json.dumps(fit.to_dict()))["verdict"] == "runs"


@pytest.mark.parametrize(
    ("room", "verdict"),
    [
        (WHOLE, "runs"),
        (WHOLE - 1, "runs, one model at a time"),
        (LEAST, "runs, one model at a time"),
        (LEAST - 1, "too large"),
        (0, "too large"),
    ],
)
def test_the_verdict_turns_at_the_byte(room: int, verdict: str) -> None:
    assert fitting.fit("p", [BIG, SMALL, EMBEDDER], Room(room, 50 * GB)).verdict == verdict


def test_what_the_catalogue_does_not_know_is_not_guessed() -> None:
    unknown = plan("own", None)
    fit = fitting.fit("p", [unknown, SMALL, EMBEDDER], Room(100 * GB, 100 * GB))
    assert (fit.ram, fit.ram_least, fit.verdict) == (None, None, None)
    assert (fit.download, fit.disk, fit.disk_enough) == (None, None, None)
    embedder = replace(EMBEDDER, ram=Footprint(None, 0, 0, 0))
    assert fitting.fit("p", [BIG, embedder], Room(100 * GB, 100 * GB)).verdict is None


def test_a_profile_without_a_chat_model_counts_what_it_has() -> None:
    fit = fitting.fit("p", [EMBEDDER], Room(16 * GB, GB))
    assert fit.ram == fit.ram_least == 2 * GB + ANALYSER


def test_what_is_here_already_needs_no_disk() -> None:
    here = replace(BIG, installed=True, download=0)
    half = replace(
        SMALL,
        files=(FilePlan("a", GB, True), FilePlan("b", GB // 2, False)),
        download=GB // 2,
        disk=3 * GB // 2,
    )
    fit = fitting.fit("p", [here, half], Room(16 * GB, GB // 2))
    assert (fit.download, fit.disk, fit.disk_enough) == (GB // 2, GB // 2, True)
    assert fitting.fit("p", [here, half], Room(16 * GB, GB // 2 - 1)).disk_enough is False


@pytest.mark.parametrize(("download", "disk", "taken"), [(100, 250, 250), (300, 250, 300)])
def test_an_archive_needs_room_for_what_is_larger(download: int, disk: int, taken: int) -> None:
    assert fitting.fit("p", [replace(SMALL, download=download, disk=disk)], Room(0, 0)).disk == taken


@pytest.mark.parametrize(
    ("commercial", "told"),
    [((True, True), True), ((True, None), None), ((None, False), False), ((False, True), False)],
)
def test_licences_and_consent_are_told(commercial: tuple[bool | None, bool | None], told: bool | None) -> None:
    first = replace(BIG, license=None, commercial=commercial[0], gated=True)
    second = replace(SMALL, license="Qwen Research", commercial=commercial[1])
    fit = fitting.fit("p", [first, second], Room(0, 0))
    assert fit.commercial is told
    assert fit.licenses == {"big": None, "small": "Qwen Research"}
    assert fit.gated == ("big",)


def fits(*verdicts: tuple[str, str | None, bool | None]) -> list[Fit]:
    blank = Fit("", (), 1, 1, 1, 1, {}, True, (), None, None, 1)
    return [replace(blank, profile=n, verdict=v, disk_enough=d) for n, v, d in verdicts]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("there", "name"),
    [
        ([("mine", "runs", True), ("starter", "runs", True), ("default", "runs", True)], "default"),
        ([("default", "runs, one model at a time", True), ("starter", "runs", True)], "default"),
        ([("default", "too large", True), ("starter", "runs", True), ("commercial", "runs", True)], "commercial"),
        ([("default", "runs", False), ("mine", "runs", True), ("starter", "runs", True)], "starter"),
        ([("default", None, None), ("mine", "runs", None)], "mine"),
        ([("default", "too large", True), ("starter", None, True)], None),
        ([], None),
    ],
)
def test_the_first_that_runs_is_recommended(there: list[tuple[str, str | None, bool | None]], name: str | None) -> None:
    assert fitting.recommended(fits(*there)) == name


@given(st.lists(st.integers(0, 20 * GB), min_size=1, max_size=5), st.integers(0, 60 * GB), st.integers(0, GB))
def test_more_room_never_makes_a_verdict_worse(rams: list[int], room: int, more: int) -> None:
    models = [plan(str(number), ram) for number, ram in enumerate(rams)]
    order = ("too large", "runs, one model at a time", "runs")
    less, larger = (fitting.fit("p", models, Room(ram, 0)) for ram in (room, room + more))
    assert less.verdict is not None
    assert larger.verdict is not None
    assert order.index(larger.verdict) >= order.index(less.verdict)
    assert less.ram is not None
    assert less.ram_least is not None
    assert less.ram_least <= less.ram
