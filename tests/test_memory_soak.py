"""What `scripts/soak.py` says of memory stores, each part run for a moment."""

from __future__ import annotations

import sys

import pytest
from script_module import load

soak = load("soak")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "memory-kills --cycles 2 --seed 3",
            ("aimed at (", "phases (", "ended before the kill came: ", "looked for: "),
        ),
        ("memory-damage --points 4", ("ends (4)", "acknowledged steps that were lost")),
        ("memory-crowd --seconds 1", ("calls (", "memories looked at: ")),
    ],
)
def test_a_part_tells_what_came_of_it(
    words: str, said: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["soak.py", *words.split()])
    assert soak.main() == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in said) and "seconds: " in printed and "FAILED" not in printed


@pytest.mark.slow
def test_faults_are_told_flow_by_flow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    faults = soak.from_tests("memory_faults")
    monkeypatch.setattr(faults, "FLOWS", {name: flow for name, flow in faults.FLOWS.items() if "batch" in name})
    monkeypatch.setattr(sys, "argv", ["soak.py", "memory-faults", "--every", "20"])
    assert soak.main() == 0
    printed = capsys.readouterr().out
    for how in ("broken once", "broken from then on", "full once", "full from then on"):
        assert f"remember a batch, {how}" in printed
    assert "a file system that is full" in printed or "no small file system could be mounted" in printed


def test_a_failure_is_told_and_is_the_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damage = soak.from_tests("memory_damage")
    monkeypatch.setattr(damage, "damage", lambda *_: damage.Tally(failures=["a mixture"]))
    monkeypatch.setattr(sys, "argv", ["soak.py", "memory-damage"])
    assert soak.main() == 1
    assert "FAILED a mixture" in capsys.readouterr().out
