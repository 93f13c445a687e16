"""The child of `engine.prepare`: a model → OpenVINO's files in 8 bits, compared with what torch makes of texts.

Runs as a process of its own only, since it takes twice the memory of the model and leaves libraries behind.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import re
import shutil
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import digests, fastpath, machine, transformer
from engine.config import ModelSpec
from engine.errors import ModelCorrupt
from engine.layout import weights
from engine.prepared import FILES, TOKENIZER, XML, Mark, Prepared, Probe, write
from engine.workplace import sync

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

LEAST = 0.99  # cosine of every vector to torch's; 8 bits leave 0.999 of it on average
_LIMIT = 512  # tokens of the longest text that is compared
_FULL = 1 << 20  # bytes free of a disk that is full
# Korean first, of every length and form; the first two are the probe of a load.
TEXTS = (
    "안녕하세요.",
    "오늘 점심은 회사 앞 식당에서 김치찌개를 먹었다.",
    "네",
    "다음 주 화요일 오후 3시에 치과 예약이 있어요.",
    "여동생은 부산에서 간호사로 일하고, 저는 서울에서 프로그래머로 일합니다.",
    "The quick brown fox jumps over the lazy dog.",
    "비가 올 것 같으니 우산을 챙기세요!",
    "2024년 3월 15일, 매출은 12.5% 늘어난 3,456만 원이었다.",
    "ㅋㅋㅋ 진짜 웃기다 😂😂",
    "제주도",
    "기계 학습은 데이터에서 규칙을 찾아내는 방법으로, 사람이 하나하나 규칙을 적어 주지 않아도 된다.",
    "def add(a, b): return a + b  # 두 수를 더한다",
    "어제 산 책을 아직 다 읽지 못했는데, 결말이 너무 궁금해서 잠이 오지 않는다.",
    "東京에서 열린 회의에 참석했습니다. 日本語も少し話せます。",
    "왜 하늘은 파란색인가요? 햇빛이 공기 속의 작은 알갱이에 부딪혀 흩어지기 때문입니다.",
    "옛날 어느 마을에 마음씨 착한 나무꾼이 늙은 어머니를 모시고 살았습니다. " * 12,
)
_PROBED = 2
_TOGETHER = 4  # texts of a pass, of unlike lengths: padding is compared as well


class _Refused(Exception):
    """What OpenVINO cannot do as torch does; the text says why."""


def main(folder: str, part: str, spec: str) -> None:
    """Prepare; the child's only duty. Ends with status 1 and a line of JSON, `[kind, why, errno]`, if it cannot."""
    threading.Thread(target=_end_with_parent, args=(part,), daemon=True).start()
    _step_back()
    try:
        _prepare(Path(folder), Path(part), ModelSpec.model_validate_json(spec))
        _say("done")
    except Exception as error:  # whatever three libraries make of a model that they do not know
        _say(*_explain(error, Path(part)))
        raise SystemExit(1) from error


def _end_with_parent(part: str) -> None:
    os.read(0, 1)  # nothing is ever written there: it returns when the parent's end closes
    shutil.rmtree(part, ignore_errors=True)
    os._exit(1)


def _step_back() -> None:
    """Leave no core file and the processor to who is waited for; say nothing but what `_Heard` reads."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # where memory ends, the system is to take this process, not the host
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    if hasattr(os, "nice"):
        os.nice(10)
    warnings.simplefilter("ignore")


def _say(*words: str) -> None:
    print("\n" + json.dumps(words), flush=True)


def _prepare(folder: Path, part: Path, spec: ModelSpec) -> None:
    model = transformer.open_folder(folder, spec, threads=None, device="cpu")
    width = _check_kind(model, folder, spec)
    wanted = _by_torch(model)
    _say("step")
    _write_files(model, part)
    files = {name: Mark((part / name).stat().st_size, digests.compute(part / name, lambda _: None)) for name in FILES}
    # What it was made from is known to the parent, which hashed that before.
    write(part, Prepared({}, fastpath.versions(), fastpath.machine(), files, wanted.most, width, wanted.probe, None))
    _say("step")
    model[0] = fastpath.open_cache(part)
    _compare(_vectors(transformer.Transformer(model), wanted.ids), wanted.vectors)
    model[0].close()


def _check_kind(model: SentenceTransformer, folder: Path, spec: ModelSpec) -> int:
    """Return the width of the hidden states. Raises `_Refused` for a model that is not a plain transformer."""
    if weights(folder)[0].parent != folder:
        raise _Refused("its transformer lies in a folder of its own")
    first = type(model[0]).__name__
    if first != "Transformer":
        raise _Refused(f"its first module is a {first}, not a transformer")
    if not hasattr(model.tokenizer, "backend_tokenizer"):
        raise _Refused("its tokenizer is one in Python")
    width = int(model[0].get_embedding_dimension())
    try:
        transformer.tail(folder, spec, width)
    except ModelCorrupt as error:  # torch has just loaded it
        raise _Refused(str(error)) from error
    return width


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What torch makes of `TEXTS`: (n, dim) vectors, the ids that they have, and the model's own limit of ids."""

    ids: list[list[int]]
    vectors: Any
    probe: Probe
    most: int | None


def _by_torch(model: SentenceTransformer) -> _Wanted:
    runs = transformer.Transformer(model)
    ids = [each[: min(runs.max_tokens or _LIMIT, _LIMIT)] for each in runs.tokenize(list(TEXTS))]
    states = runs.run(TEXTS[:_PROBED], ids[:_PROBED], dense=False, states=True).hidden or []
    first, mean = (
        tuple(_rounded(row) for row in rows) for rows in zip(*((s[0], s.mean(axis=0)) for s in states), strict=True)
    )
    return _Wanted(ids, _vectors(runs, ids), Probe(tuple(map(tuple, ids[:_PROBED])), first, mean), runs.max_tokens)


def _vectors(runs: transformer.Transformer, ids: Sequence[Sequence[int]]) -> Any:
    import numpy as np

    groups = [slice(at, at + _TOGETHER) for at in range(0, len(TEXTS), _TOGETHER)]
    return np.concatenate([runs.run(TEXTS[own], ids[own], dense=True, states=False).sentences for own in groups])


def _rounded(row: Any) -> tuple[float, ...]:
    return tuple(float(f"{number:.6g}") for number in row.tolist())


def _write_files(model: SentenceTransformer, part: Path) -> None:
    """Write the transformer and its tokenizer, and free torch's weights on the way."""
    openvino = fastpath.library()
    import nncf

    model.tokenizer.backend_tokenizer.save(str(part / TOKENIZER), pretty=False)  # neither pads nor cuts by now
    converted = _converted(model)
    _say("step")
    compressed = nncf.compress_weights(converted, mode=nncf.CompressWeightsMode.INT8_ASYM)
    _say("step")
    openvino.save_model(compressed, str(part / XML), compress_to_fp16=False)
    for name in FILES:
        sync(part / name)


def _converted(model: SentenceTransformer) -> Any:
    """Take the transformer out of `model` and return it as OpenVINO's, of any number of texts and tokens."""
    import torch

    class States(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.inner(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    openvino, example = fastpath.library(), torch.ones(2, 7, dtype=torch.long)
    names = ("input_ids", "attention_mask")
    with torch.no_grad():
        converted = openvino.convert_model(
            States(model[0].auto_model),
            example_input=dict.fromkeys(names, example),
            input=[(name, [-1, -1], openvino.Type.i64) for name in names],
        )
    model[0] = torch.nn.Identity()
    gc.collect()  # a module refers to itself
    machine.trim()  # what comes now is the peak
    return converted


def _compare(own: Any, wanted: Any) -> None:
    import numpy as np

    lengths = np.linalg.norm(own, axis=1) * np.linalg.norm(wanted, axis=1)
    least = float(((own * wanted).sum(axis=1) / lengths).min())
    if not least >= LEAST:  # a NaN is no better
        raise _Refused(f"in 8 bits its vectors are not those of torch (cosine {least:.3f} at worst)")


def _explain(error: Exception, part: Path) -> tuple[str, str, str]:
    """Return the kind of an error ("corrupt", "memory", "python", "disk", "refused"), its reason, and its errno."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ModelCorrupt):
        return "corrupt" if not isinstance(error, fastpath.CacheDamaged) else "refused", text, ""
    if isinstance(error, MemoryError) or machine.no_memory(text):
        return "memory", text, ""
    if isinstance(error, ImportError):
        return "python", text, ""
    code = re.search(r"\(os error (\d+)\)", text)  # of tokenizers, when it writes
    if number := int(code[1]) if code else getattr(error, "errno", None):
        return "disk", os.strerror(number), str(number)
    if "iostream error" in text or shutil.disk_usage(part).free < _FULL:  # all that OpenVINO says of a full disk
        return "disk", os.strerror(errno.ENOSPC), str(errno.ENOSPC)
    return "refused", f"{type(error).__name__}: {text}" if not isinstance(error, _Refused) else text, ""
