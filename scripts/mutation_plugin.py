"""What scripts/mutation.py has pytest do in its children: note which tests reach which lines, or run some in an order.

`GIEOK_MUTATION` names a JSON file: `record`, the module whose lines are noted, or `tests`, the ids to run, in their
order, each with the seconds after which it hangs; and `outcome`, the file to write.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

_STARTS = {"subprocess.Popen", "os.fork", "os.posix_spawn"}


class _Reach:
    """The lines of one module that each test runs, in any thread, and which tests start processes."""

    def __init__(self, module: str) -> None:
        self._module, self._test = module, ""
        self.lines: dict[str, set[int]] = defaultdict(set)
        self.starters: set[str] = set()

    def begin(self) -> None:
        sys.addaudithook(self._heard)
        threading.settrace(self._called)
        sys.settrace(self._called)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._test = item.nodeid
        sys.settrace(self._called)  # who traced meanwhile may have left none
        return (yield)

    def _heard(self, event: str, _: object) -> None:
        if event in _STARTS:
            self.starters.add(self._test)

    def _called(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        return self._stepped if frame.f_code.co_filename == self._module else None

    def _stepped(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        self.lines[self._test].add(frame.f_lineno)
        return self._stepped


class _Outcome:
    """How long each test took, and which failed first."""

    def __init__(self, plan: dict[str, Any], reach: _Reach | None) -> None:
        self._plan, self._reach = plan, reach
        self._seconds: dict[str, float] = defaultdict(float)
        self._failed = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if "tests" in self._plan:
            there = {item.nodeid: item for item in items}
            items[:] = [there[name] for name in self._plan["tests"]]
            for item in items:
                item.add_marker(pytest.mark.timeout(self._plan["tests"][item.nodeid], method="thread"))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += report.duration
        if report.failed and not self._failed:
            self._failed = report.nodeid

    def pytest_sessionfinish(self) -> None:
        sys.settrace(None)
        threading.settrace(None)
        found: dict[str, Any] = {"seconds": self._seconds, "failed": self._failed}
        if self._reach:
            found["lines"] = {test: sorted(lines) for test, lines in self._reach.lines.items()}
            found["starters"] = sorted(self._reach.starters)
        Path(self._plan["outcome"]).write_text(json.dumps(found), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    """Make examples the same in every run, and do as the plan says."""
    settings.register_profile(
        "mutation",
        derandomize=True,
        database=None,
        print_blob=False,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("mutation")
    plan = json.loads(Path(os.environ["GIEOK_MUTATION"]).read_text(encoding="utf-8"))
    reach = _Reach(plan["record"]) if "record" in plan else None
    if reach:
        config.pluginmanager.register(reach)
        reach.begin()
    config.pluginmanager.register(_Outcome(plan, reach))
