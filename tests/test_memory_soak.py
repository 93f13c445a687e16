"""What `scripts/soak.py` says of memory stores, each part run for a moment."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from script_module import load

soak, suite = load("soak"), load("soak_suite")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "memory-kills --cycles 2 --seed 3",
            ("aimed at (", "phases (", "killed in (", "looked for (", "acknowledged"),
        ),
        ("memory-damage --points 4", ("ends (4)", "acknowledged steps that were lost")),
        ("memory-crowd --seconds 1", ("calls (", "memories (", "looked at")),
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
    faults = suite.from_tests("memory_faults")
    monkeypatch.setattr(faults, "FLOWS", {name: flow for name, flow in faults.FLOWS.items() if "batch" in name})
    monkeypatch.setattr(sys, "argv", ["soak.py", "memory-faults", "--every", "20"])
    assert soak.main() == 0
    printed = capsys.readouterr().out
    for how in ("broken once", "broken from then on", "full once", "full from then on"):
        assert f"failed: remember a batch, {how}" in printed
    assert "a file system that is full" in printed or "no small file system could be mounted" in printed


def test_a_failure_is_told_and_is_the_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, output = suite.from_tests("memory_damage"), tmp_path / "found.json"
    ordered: list[tuple[int, int]] = []

    def fail(_: Path, points: int, seed: int) -> Any:
        ordered.append((points, seed))
        return damage.Tally(failures=["a mixture"])

    monkeypatch.setattr(damage, "damage", fail)
    monkeypatch.setattr(sys, "argv", ["soak.py", "memory-damage", "--seed", "3", "--output", str(output)])
    assert soak.main() == 1
    assert "FAILED a mixture" in capsys.readouterr().out
    assert ordered == [(500, 3)], "alone, all of it, with the seed itself"
    assert set(json.loads(output.read_text(encoding="utf-8"))) == {"ends", "acknowledged steps that were lost"}
