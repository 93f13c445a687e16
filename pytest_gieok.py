"""The pytest plugin of Gieok: the fixture `fake_engine`. It imports nothing of Gieok until a test asks for it.

A module of its own, not one of the package: pytest imports plugins before a project's own code, and a project may have
a package called `engine`, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from engine.testing import FakeEngine


@pytest.fixture
def fake_engine(tmp_path: Path) -> Iterator[FakeEngine]:
    """A `FakeEngine` with a home of its own; set its `replies` and `labels`, and look at `asked`."""
    from engine.testing import FakeEngine

    with FakeEngine(home=tmp_path / "gieok") as engine:
        yield engine
