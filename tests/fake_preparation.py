"""Preparations without a child: all of `engine.prepare` but what the child does, which takes seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from engine import digests, fastpath, prepare, prepared
from engine.prepared import Mark, Prepared, Probe

REFUSAL = "in 8 bits its vectors are not those of torch"


class Preparations:
    """Each that runs is counted, and does what `act` says before it ends well, or with a refusal.

    What it leaves has a true record, of files that OpenVINO could not read.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = 0
        self.refuses = False
        self.act: Callable[[Any], object] = lambda _job: None
        self.began = threading.Event()
        monkeypatch.setattr(prepare, "_work", self._work)
        monkeypatch.setattr(prepare, "memory", lambda _folder: self.needs)
        self.needs = 5  # bytes

    def fails(self, error: BaseException) -> None:
        """Let each one from now on end with an error."""

        def fail(_job: Any) -> None:
            raise error

        self.act = fail

    def waits(self) -> threading.Event:
        """Let each one from now on go on telling how far it is, until the event is set."""
        go = threading.Event()

        def wait(job: Any) -> None:
            self.began.set()
            while not go.wait(0.01):
                job.tell(1)

        self.act = wait
        return go

    def _work(self, job: Any) -> None:
        self.made += 1
        self.act(job)
        versions, machine = fastpath.versions(), fastpath.machine()
        record = Prepared(job.made_from, versions, machine, {}, None, 0, None, REFUSAL)
        if not self.refuses:
            files = {}
            for name in prepared.FILES:
                (job.part / name).write_bytes(b"no model")
                files[name] = Mark(8, digests.compute(job.part / name, lambda _: None))
            probe = Probe(((0, 2),), ((1.0, 0.0),), ((1.0, 0.0),))
            record = Prepared(job.made_from, versions, machine, files, 64, 2, probe, None)
        prepared.write(job.part, record)
