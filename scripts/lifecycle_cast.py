"""What a lifecycle runs on: models of true shape, a models.toml that points at them, and many memories.

The weights are random, and so are the memories' vectors: what is measured depends on shapes and counts only.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import resident
import shapes

from engine import config, identity, layout, spaces
from engine.backfill import put_words
from engine.faculties import Embedded, Space
from engine.korean.morphemes import version
from engine.lexical import ROWS
from engine.records import Draft, add
from engine.store import Store

SHORT = 8  # tokens of an answer: a 14B model writes one or two a second on two cores
USER = "default"
_BATCH = 10_000  # memories of one transaction
WHO = (
    "나는|민지는|아버지는|어머니는|동생은|수진이는|김 팀장님은|옆집 할머니는|우리 반 지훈이는|고등학교 친구들은"
).split("|")
WHEN = (
    "어제|지난주 금요일에|작년 여름에|오늘 아침에|매주 화요일 저녁에|3월 초에|설날에|퇴근하고|주말마다|비 오던 날"
).split("|")
WHERE = (
    "집에서|회사 앞에서|부산에서|강릉 바다에서|도서관에서|병원 근처에서|시장에서|지하철에서|학교에서|제주도에서"
).split("|")
WHAT = (
    "비빔밥을 먹었어요|책을 두 권 읽었어요|자전거를 탔어요|커피를 마셨어요|영화를 봤어요|수영을 배웠어요|"
    "사진을 찍었어요|생일 선물을 샀어요|허리가 아팠어요|토익 공부를 했어요|김치를 담갔어요|노래를 불렀어요|"
    "길을 잃었어요|화분을 샀어요|면접을 봤어요|강아지를 산책시켰어요|감기에 걸렸어요|회의를 했어요|편지를 썼어요|"
    "눈사람을 만들었어요"
).split("|")


@dataclass(frozen=True, slots=True)
class Cast:
    """Who plays: the profile, its roles' models and a larger one by their names in models.toml, their files."""

    profile: str
    chat: str
    light: str
    embedding: str
    large: str
    files: dict[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """The models, each once."""
        return tuple(dict.fromkeys((self.chat, self.light, self.embedding, self.large)))


def true_shapes(folder: Path, vocabularies: Path) -> Cast:
    """Return the default profile and a 14B model; what `folder` lacks is written there. Raises `shapes.CannotWrite`."""
    folder.mkdir(parents=True, exist_ok=True)
    known = config.load()
    names = {shape: known.model(shape).name for shape in ("qwen2.5-7b", "qwen2.5-3b", "qwen2.5-14b")}
    files = {name: str(_shape(shape, folder, vocabularies)) for shape, name in names.items()}
    files[resident.EMBEDDING] = str(_embedding(folder))
    chat, light, large = names.values()
    return Cast("default", chat, light, resident.EMBEDDING, large, files)


def starters() -> Cast:
    """Return the starter profile, and its chat model once more under another name. Raises `ModelNotFound`."""
    known = config.load()
    roles = known.profile("starter")
    chat, embedding = (layout.locate(known.model(roles[role])) for role in ("chat", "embedding"))
    files = {roles["chat"]: str(chat), roles["embedding"]: str(embedding), "another": str(chat)}
    return Cast("starter", roles["chat"], roles["classification"], roles["embedding"], "another", files)


def _shape(shape: str, folder: Path, vocabularies: Path) -> Path:
    path = (folder / f"{shape}.gguf").absolute()
    if not path.is_file():
        _tell(path)
        shapes.write(shape, path, vocabularies)
    return path


def _embedding(folder: Path) -> Path:
    path = (folder / resident.EMBEDDING).absolute()
    if not path.is_dir():
        _tell(path)
        part = path.with_name(f"{path.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        resident.write_embedding(part).replace(path)
    return path


def _tell(path: Path) -> None:
    print(f"writing {path}; it is kept for the next run", file=sys.stderr, flush=True)


def lay(cast: Cast, budget: int, folder: Path) -> Path:
    """Write a models.toml over the packaged one: these files, this budget, short answers."""
    known = config.load()
    lines = ["[engine]", f"ram_budget = {budget}", "[engine.sampling]", f"max_tokens = {SHORT}"]
    for name, file in cast.files.items():
        lines += [f"[models.{json.dumps(name)}]", f"source = {{ path = {json.dumps(file)} }}"]
        lines += [f"size = {size_of(Path(file))}"] + ([] if known.knows(name) else ['kind = "llm"'])
    path = folder / "models.toml"
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path


def parts_of(model: Path) -> list[Path]:
    """Return the files of a model."""
    return [model] if model.is_file() else sorted(file for file in model.rglob("*") if file.is_file())


def size_of(model: Path) -> int:
    """Return the bytes of a model's files."""
    return sum(file.stat().st_size for file in parts_of(model))


def sentence(number: int) -> str:
    """Return one of the short Korean texts; each number has its own."""
    rest, words = number, []
    for choices in (WHAT, WHERE, WHEN, WHO):
        rest, chosen = divmod(rest, len(choices))
        words.append(choices[chosen])
    return " ".join(reversed(words)) + (f" ({rest + 1}번째)" if rest else "")


def write_memories(home: Path, count: int, space: Space, dim: int) -> None:
    """Write memories into the store of `home`, as the model of `space` might have embedded them: random vectors.

    What stands between white space is taken for their morphemes, so that nothing is left to be done in the background.
    """
    store, random = Store(home), np.random.default_rng(0)
    draft = Draft(USER, None, None, None, None)
    try:
        for first in range(0, count, _BATCH):
            vectors = random.standard_normal((min(_BATCH, count - first), dim), np.float32)
            with store.write() as db:
                db.execute("INSERT OR REPLACE INTO meta VALUES ('analyser', ?)", (f"{version()}, rows {ROWS}",))
                place = spaces.made(db, space, dim)
                for number, vector in enumerate(spaces.coded(Embedded(spaces.unit(vectors))), first):
                    text = sentence(number)
                    seq, _ = add(db, draft, text)
                    spaces.put(db, place, seq, vector)
                    put_words(db, seq, text, tuple(text.split()))
    finally:
        store.close()


def space_of(cast: Cast, laid: Path) -> Space:
    """Return what tells the vectors of the embedding model from those of others. Its files are read once."""
    spec = config.load(laid).model(cast.embedding)
    return Space(identity.of_embedder(spec, lambda: None), spec.name)


def dimension(cast: Cast, laid: Path) -> int:
    """Return how many numbers a vector of the embedding model has, which the catalogue says."""
    dim = config.load(laid).model(cast.embedding).dim
    if dim is None:
        raise ValueError(f"the entry of {cast.embedding} does not say its dim")
    return dim
