"""Two steps of the demo: no memory is lost when a process is killed, and none is left in a file when it is forgotten.

Both have a home of their own and no model: their embedder counts pairs of letters.
"""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
import time
import zlib
from contextlib import closing
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from engine.faculties import Embedded, Faculties, Space
from engine.inputs import TextKind
from engine.interpreter import interpreter
from engine.proof import occurrences, pieces, written
from engine.quantities import bytes_text

if TYPE_CHECKING:
    from engine import Engine
    from engine.memory import MemoryStore

SECRET = "제 일기장은 옷장 둘째 서랍 안쪽에 숨겨 두었어요"
USER = "default"
KILLS = 3
_FEWEST, _MOST = 20, 60  # memories that a process has acknowledged when it is killed
_BOOT = "import sys; sys.path.append(sys.argv[1]); from engine.demo_memory import main; main(*sys.argv[2:])"
_SPACE, _DIM = Space("letter pairs", "letter pairs"), 64


class Told(Protocol):
    """What a step needs of the demo."""

    def say(self, english: str, korean: str) -> None: ...

    def step(self, number: int, english: str, korean: str) -> None: ...

    def check(self, right: bool) -> str: ...


def kill(number: int, demo: Told, _engine: Engine) -> None:
    """Kill processes that remember, in the midst of it, and look whether all that they acknowledged is there."""
    demo.step(number, "kill -9 — in the midst of remembering", "강제 종료 — 기억하는 도중에")
    python = interpreter()
    if python is None:
        demo.say("  Not shown: there is no Python to run and kill.", "  실행하고 종료할 파이썬이 없어 못 보여 줍니다.")
        return
    with tempfile.TemporaryDirectory(prefix="gieok-demo-") as home:
        acknowledged = [one for _ in range(KILLS) for one in _remembered_until_killed(python, home)]
        there, problems, took = _reopened(Path(home))
    order = [one for one in there if one in set(acknowledged)]
    kept = demo.check(order == acknowledged and len(acknowledged) >= KILLS * _FEWEST)
    sound = demo.check(not problems)
    demo.say(
        f"  {KILLS} processes killed; {len(acknowledged)} memories acknowledged, {len(order)} of them there, in order "
        f"{kept}  the database is sound {sound}  reopened in {took * 1000:.0f} ms",
        f"  프로세스 {KILLS}개 강제 종료. 저장했다고 알린 기억 {len(acknowledged)}개 중 {len(order)}개가 순서대로 있음 "
        f"{kept}  데이터베이스 정상 {sound}  다시 여는 데 {took * 1000:.0f} ms",
    )


def forgetting(number: int, demo: Told, engine: Engine) -> None:
    """Search every file of a home for a memory, before and after it is forgotten among those of the demo."""
    demo.step(number, "forget — in every file, byte by byte", "잊기 — 모든 파일의 모든 바이트에서")
    needles = [needle for piece in pieces(SECRET) for needle in written(piece)]
    with tempfile.TemporaryDirectory(prefix="gieok-demo-") as folder:
        home = Path(folder)  # not the demo's: while files are searched, no connection to them may be open here
        with _store(home) as store:
            store.remember([one.text for one in engine.memories()], user=USER)
            [memory] = store.remember([SECRET], user=USER)
            store.backup()  # forgetting reaches copies, too
            store.wait()
        before = occurrences(home, needles)
        with _store(home) as store:
            began = time.perf_counter()
            store.forget(memory.id)
            took = (time.perf_counter() - began) * 1000
            found = {hit.memory.id for hit in store.search(SECRET, user=USER, k=50)}
        after = occurrences(home, needles)
    names = ", ".join(path.relative_to(home).as_posix() for path in before.in_files())
    stood, gone, lost = demo.check(bool(names)), demo.check(not after.places), demo.check(memory.id not in found)
    print(f"  {SECRET}")
    demo.say(f"  before: {names} {stood}", f"  지우기 전: {names} {stood}")
    left, files, size = len(after.in_files()), after.files, bytes_text(after.size)
    demo.say(
        f"  after: in {left} of {files} files, {size} {gone}  found by no search {lost}  {took:.0f} ms",
        f"  지운 뒤: 파일 {files}개({size}) 중 {left}개 {gone}  찾아지지 않음 {lost}  {took:.0f} ms",
    )


def main(home: str) -> None:
    """Remember one sentence after the other, and print the id of each when it is on the disk; ends by being killed."""
    with _store(Path(home)) as store:
        for number in count():
            [memory] = store.remember([f"{os.getpid()}번 프로세스의 {number}번째 기억"], user=USER)
            print(memory.id, flush=True)


def faculties() -> Faculties:
    """Return what a store needs, made of letters and white space."""
    return Faculties(lambda: _SPACE, _embed, lambda texts: [tuple(text.split()) for text in texts], "white space")


def _embed(texts: list[str], kind: TextKind, space: Space) -> Embedded:
    import numpy as np

    dense = np.zeros((len(texts), _DIM), dtype=np.float32)
    for row, text in zip(dense, texts, strict=True):
        for pair in zip(f" {text}", f"{text} ", strict=True):
            row[zlib.crc32("".join(pair).encode("utf-8")) % _DIM] += 1
    return Embedded(dense / np.linalg.norm(dense, axis=1, keepdims=True))


def _remembered_until_killed(python: str, home: str) -> list[str]:
    """Return the ids that a process printed before it was killed without warning."""
    root = str(Path(__file__).absolute().parents[1])
    child = subprocess.Popen(
        [python, "-P", "-c", _BOOT, root, home],
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,  # a Ctrl-C at the terminal is the demo's, which then ends the child
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )
    with child:
        try:
            assert child.stdout
            wanted = random.randint(_FEWEST, _MOST)
            said = list(islice(child.stdout, wanted))
            child.kill()
            said += child.stdout  # what it had acknowledged and was not yet read
        finally:
            child.kill()
    return [line.strip() for line in said if line.endswith("\n")]


def _reopened(home: Path) -> tuple[list[str], list[str], float]:
    """Return the ids in a home, oldest first, what is wrong with its database, and the seconds it took to open."""
    began = time.perf_counter()
    with _store(home) as store:
        there = [memory.id for memory in store.memories(user=USER)][::-1]
        took = time.perf_counter() - began
        return there, store.problems(), took


def _store(home: Path) -> closing[MemoryStore]:
    from engine.memory import MemoryStore

    return closing(MemoryStore(home, faculties()))
