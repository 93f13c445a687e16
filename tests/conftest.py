"""Shared fixtures. Tests that need real weights use the starter models; `scripts/dev.py test` fetches them."""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Two workers share the cores: a thread that spins while it waits for its like takes them from who works. Before llama.cpp.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from engine import Engine, config, layout
from engine.llama import Model

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # started in the background by a shell: Ctrl-C is tested all the same
    signal.signal(signal.SIGINT, signal.default_int_handler)


# no test is decided by time; scripts/mutation_plugin.py has settings of its own, which come later
settings.register_profile("gieok", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gieok")


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep a developer's own settings and memories out of the tests; in children libraries may open files as they do."""
    for name in ("GIEOK_CONFIG", "GIEOK_PROFILE", "PYTHONWARNDEFAULTENCODING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIEOK_HOME", str(tmp_path / "default-home"))


@pytest.fixture(autouse=True)
def _own_log_level() -> Iterator[None]:
    """Keep what a script under test says to the log from tests behind it."""
    logger = logging.getLogger("engine")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture(autouse=True, scope="module")
def _old_objects_are_left_alone() -> None:
    """An unload collects garbage: not among a million objects of torch and of earlier files, every time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def starter_gguf() -> Path:
    """The file of the starter chat model."""
    return layout.locate(config.load().model("smollm2-135m-instruct"))


@pytest.fixture(scope="session")
def starter(starter_gguf: Path) -> Iterator[Model]:
    """The starter chat model's weights and vocabulary, without a context."""
    model = Model(starter_gguf)
    yield model
    model.close()


@pytest.fixture(scope="session")
def vocab_folder() -> Path:
    """llama.cpp's vocabulary-only GGUF files."""
    return Path(os.environ.get("GIEOK_TEST_VOCAB", Path(__file__).parents[1] / ".venv/share/vocab"))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine on the starter models, shared by the tests of one file."""
    with Engine(profile="starter", home=tmp_path_factory.mktemp("home")) as opened:
        yield opened
