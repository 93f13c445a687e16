"""What `gieok status` and `gieok doctor` print, in both languages, of engines as they may be found."""

from __future__ import annotations

import json
import re
import string
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from engine import reports
from engine.checks import Check
from engine.fitting import Fit
from engine.fitting import Verdict as FitVerdict
from engine.footprint import Footprint
from engine.instructions import Language
from engine.speed import Line
from engine.status import LoadedModel, LoadPlan, Part, Replaced, Status, Verdict

GB = 10**9
CHECKS = (
    "compiler flags", "gpu", "threads", "ram", "disk of models", "disk of home", "models folder", "home folder",
    "temporary folder", "embedding", "database", "index", "versions",
)  # fmt: skip
LANGUAGES: tuple[Language, ...] = ("en", "ko")
BIG = LoadedModel(
    name="qwen2.5-7b-instruct", kind="llm", roles=("chat", "summary"), load_seconds=11.26, ram=5_600_000_000,
    mapped=4_600_000_000, vram=0, n_gpu_layers=0, idle=75.4, requests=0, kv_used=812, kv_cells=8192,
    tokens_per_second=7.53, backend="llama.cpp",
)  # fmt: skip
BUSY = LoadedModel(
    name="qwen2.5-3b-instruct", kind="llm", roles=("classification",), load_seconds=5.0, ram=GB, mapped=0,
    vram=2 * GB, n_gpu_layers=36, idle=0.0, requests=3, kv_used=0, kv_cells=4096, tokens_per_second=None, backend="llama.cpp",
)  # fmt: skip
EMBEDDER = LoadedModel(
    name="bge-m3", kind="embedding", roles=(), load_seconds=2.0, ram=2 * GB, mapped=0, vram=0, n_gpu_layers=0,
    idle=3.0, requests=0, kv_used=0, kv_cells=0, tokens_per_second=None, backend="openvino",
)  # fmt: skip
STATUS = Status(
    profile="default", home="/홈", models="/모델", budget=16 * GB, held=9 * GB, resident=8 * GB, anonymous=3 * GB,
    file_backed=5 * GB, parts=(Part("qwen2.5-7b-instruct", 5_600_000_000, 4_600_000_000), Part("index", GB, 0)),
    loaded=(BIG, BUSY, EMBEDDER), waiting=2,
    replaced=(Replaced("chat", "qwen2.5-14b-instruct", "llama-3.2-3b-instruct", "it does not fit"),),
)  # fmt: skip
RAM = Footprint(weights=4_700_000_000, kv=470_000_000, compute=300_000_000, other=90_000_000)


def plan(verdict: Verdict, **given: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "model": "big", "kind": "llm", "installed": True, "verdict": verdict, "ram": RAM, "measured": False,
        "n_ctx": 8192, "n_gpu_layers": 0, "vram": 0, "budget": 16 * GB, "held": 0, "evicts": (), "fallback": None,
    }  # fmt: skip
    return {**LoadPlan(**{**fields, **given}).to_dict(), "roles": ["chat"]}


def of_status(status: Status, *plans: dict[str, Any], language: Language = "en") -> list[str]:
    return list(reports.status_lines(status.to_dict(), plans, language))


def test_status_tells_all_that_is_held() -> None:
    chat = "qwen2.5-7b-instruct (chat, summary)\t5.6 GB (4.6 GB of it pages of files)"
    light = "qwen2.5-3b-instruct (classification)\t1.0 GB"
    assert of_status(STATUS) == [
        "profile\tdefault",
        "home\t/홈",
        "models\t/모델",
        "budget\t16.0 GB, of which 9.0 GB is held",
        "resident\t8.0 GB: 3.0 GB anonymous, 5.0 GB file-backed",
        "waiting\t2 requests wait for a model",
        "held, by part:",
        "  qwen2.5-7b-instruct\t5.6 GB (4.6 GB of it pages of files)",
        "  index\t1.0 GB",
        "loaded:",
        f"  {chat}\tCPU · idle 75 s · KV 812 of 8192 tokens · 7.5 tokens/s · loaded in 11.3 s",
        f"  {light}\t36 layers on the GPU, 2.0 GB there · 3 requests · KV 0 of 4096 tokens · loaded in 5.0 s",
        "  bge-m3\t2.0 GB\tCPU · idle 3 s · openvino · loaded in 2.0 s",
        "replaced:",
        "  chat: llama-3.2-3b-instruct answers instead of qwen2.5-14b-instruct: it does not fit",
        "to load:",
        "  nothing",
    ]


@pytest.mark.parametrize(
    ("one", "head", "last"),
    [
        (plan("fits"), "5.6 GB (estimated)\tfits", "other 90 MB"),
        (plan("loaded", measured=True), "5.6 GB (measured here)\tloaded", "other 90 MB"),
        (plan("evicts", evicts=("a", "b")), "\tfits once these are unloaded: a, b", "other 90 MB"),
        (plan("waits"), "\twaits for running requests", "other 90 MB"),
        (plan("too large"), "\tTOO LARGE for the budget", "other 90 MB"),
        (plan("too large", fallback="small"), "budget; small answers instead", "other 90 MB"),
        (plan("fits", n_gpu_layers=28, vram=5 * GB), "\tfits", "28 layers on the GPU, 5.0 GB there"),
        (plan("fits", installed=False), "\tfits", "NOT INSTALLED: gieok models pull big"),
        (plan("fits", installed=False, fallback="small"), "\tfits", "gieok models pull big; small answers instead"),
        (plan("waits", fallback="small"), "\twaits for running requests", "other 90 MB"),
        (plan("too large", installed=False, fallback="small"), "; small answers instead", "gieok models pull big"),
        (plan("unknown", ram=Footprint(None, None, None, 0)), "? (estimated)\tnot known whether it fits", "compute ?"),
        (plan("fits", ram=Footprint(None, None, None, 5)), "? (estimated)\tfits", "other 0 kB"),
    ],
)
def test_a_plan_tells_its_parts_and_what_would_happen(one: dict[str, Any], head: str, last: str) -> None:
    lines = of_status(STATUS, one)
    place = lines.index("to load:")
    assert lines[place + 1].startswith("  big (chat)\t")
    assert lines[place + 1].endswith(head)
    assert lines[place + 2].startswith("    weights ")
    assert lines[-1].endswith(last)


# ---- doctor

FITS = [
    Fit(
        "default",
        ("a", "b"),
        11 * GB,
        8 * GB,
        9 * GB,
        9 * GB,
        {"a": "MIT", "b": None},
        None,
        ("a",),
        "runs",
        False,
        12 * GB,
    ),
    Fit(
        "commercial", ("a",), 11 * GB, 8 * GB, 0, 0, {"a": "MIT"}, True, (), "runs, one model at a time", True, 12 * GB
    ),
    Fit("mine", ("c",), None, None, None, None, {"c": "Qwen Research"}, False, (), None, None, 12 * GB),
]
TUNING = {"n_threads": 1, "n_threads_batch": 2, "repack": False, "n_ubatch": 256, "tokens_per_second": {
    "prefill": 72.5, "prefill_busy": 41.0, "decode": 12.8, "decode_busy": None,
}}  # fmt: skip
FOUND: dict[str, Any] = {
    "python": "3.11.9", "platform": "Linux-6", "processor": "AMD EPYC", "cores": 2, "ram": 16 * GB,
    "ram_free": 12 * GB, "versions": {"torch": "2.13.0", "apsw": None}, "profile": "default",
    "checks": [
        Check("gpu", ok=True, found="none").to_dict(),
        Check("threads", ok=None, found="not measured", step="gieok doctor --retune").to_dict(),
        Check("database", ok=False, found="damaged", step="put a backup there").to_dict(),
    ],
    "models": [
        {"name": "a", "kind": "llm", "roles": ["chat", "summary"], "installed": True, "tuning": TUNING},
        {"name": "b", "kind": "llm", "roles": ["extraction"], "installed": True, "tuning": None},
        {"name": "e5", "kind": "embedding", "roles": ["embedding"], "installed": True, "tuning": None},
        {"name": "away", "kind": "llm", "roles": ["fallback"], "installed": False, "tuning": None},
    ],
    "profiles": [fit.to_dict() for fit in FITS],
    "recommended": "commercial",
    "speed": [
        Line("first chat token", 3.0, "a", 4.567, met=False, over="a prompt of 120 tokens", step="be patient").to_dict(),
        Line("embedding", 0.1, "e5", 0.0123, met=True).to_dict(),
        Line("memory search", 0.2, step="gieok models pull bge-m3").to_dict(),
    ],
}  # fmt: skip


def test_doctor_tells_what_is_wrong_and_what_to_do_without_colour() -> None:
    tuned = "threads 1, for batches 2; not repacked; micro-batch 256"
    assert list(reports.doctor_lines(FOUND, "en")) == [
        "machine\tAMD EPYC, 2 cores, 16.0 GB RAM (12.0 GB free), Python 3.11.9, Linux-6",
        "libraries\ttorch 2.13.0, apsw -",
        "profile\tdefault",
        "checks:",
        "  [ ok ] GPU: none",
        "  [ ?  ] threads: not measured",
        "      → gieok doctor --retune",
        "  [ NO ] database: damaged",
        "      → put a backup there",
        "models:",
        f"  a (chat, summary)\t{tuned}; tokens/s: prefill 72.5 (41.0 beside a busy host), decode 12.8 (?)",
        "  b (extraction)\tnot measured yet: measured at first load",
        "  e5 (embedding)\tinstalled",
        "  away (fallback)\tNOT INSTALLED: gieok models pull away",
        "profiles on this machine:",
        "  default: runs with every model loaded",
        "    memory 11.0 GB with all loaded and the Korean analyser, 8.0 GB at least · download 9.0 GB · disk 9.0 GB",
        "    a MIT, b ? · commercial use: not known",
        "    asks for consent on its page: a",
        "    THE DISK HAS TOO LITTLE ROOM",
        "  commercial: runs, one chat model at a time",
        "    memory 11.0 GB with all loaded and the Korean analyser, 8.0 GB at least · download 0 MB · disk 0 MB",
        "    a MIT · commercial use allowed",
        "  mine: not known: the catalogue lacks numbers",
        "    memory ? with all loaded and the Korean analyser, ? at least · download ? · disk ?",
        "    c Qwen Research · NOT for commercial use",
        "  recommended: commercial (gieok models pull commercial)",
        "speed:",
        "  [ NO ] first chat token: 4.6 s, wanted: at most 3.0 s (with a prompt of 120 tokens) · a",
        "      → be patient",
        "  [ ok ] embedding: 12 ms, wanted: at most 100 ms · e5",
        "  [ ?  ] memory search: not measured, wanted: at most 200 ms · -",
        "      → gieok models pull bge-m3",
    ]


def test_doctor_says_so_where_nothing_runs() -> None:
    small = replace(FITS[0], verdict="too large", room=250_000_000).to_dict()
    found = {**FOUND, "profiles": [small], "recommended": None}
    lines = list(reports.doctor_lines(found, "en"))
    assert "  default: TOO LARGE for the memory it may use (250 MB)" in lines
    assert "  no profile fits the memory and the disk that may be used" in lines
    assert "  default: 쓸 수 있는 메모리(250 MB)보다 큼" in reports.doctor_lines(found, "ko")


def test_korean_says_the_same_in_korean() -> None:
    english, korean = (list(reports.doctor_lines(FOUND, language)) for language in LANGUAGES)
    english += of_status(STATUS, plan("evicts", evicts=("a",)))
    korean += of_status(STATUS, plan("evicts", evicts=("a",)), language="ko")
    assert len(english) == len(korean)
    told = [line for line in korean if not line.startswith("      →")]
    assert sum(bool(re.search("[가-힣]", line)) for line in told) > 0.8 * len(told)
    for one, other in zip(english, korean, strict=True):
        assert [n for n in re.findall(r"\d[\d.]*", one) if n not in other] == []  # no number is lost


@pytest.mark.parametrize("what", reports._SAID)
def test_both_languages_name_the_same_values(what: str) -> None:
    english, korean = (
        {name for _, name, _, _ in string.Formatter().parse(said) if name} for said in reports._SAID[what]
    )
    assert english == korean


def test_every_name_and_verdict_there_is_can_be_said() -> None:
    verdicts = [verdict for part in get_args(Verdict) for verdict in get_args(part) or (part,)]
    assert {"fits", "loaded", "unknown"} < set(verdicts)
    for verdict in verdicts:
        assert f"verdict {verdict}" in reports._SAID
    for name in (*CHECKS, *get_args(FitVerdict)):
        assert name in reports._SAID


def test_status_tells_why_a_model_has_no_plan_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "models.toml"
    own.write_text(
        '[profiles.starter]\nsummary = "gone"\n[models.gone]\nkind = "llm"\nsource.path = "/no/where.gguf"\n'
    )
    arguments = SimpleNamespace(profile="starter", home=str(tmp_path), quiet=True, json=True, language="en")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIEOK_CONFIG", str(own))
        reports.status(arguments)  # type: ignore[arg-type]
    told = json.loads(capsys.readouterr().out)
    assert list(told["problems"]) == ["summary"] and "/no/where.gguf" in told["problems"]["summary"]
    assert {role for plan in told["plans"] for role in plan["roles"]} >= {"chat", "embedding"}
