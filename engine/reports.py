"""`gieok status` and `gieok doctor`: what is held and what would be, what this machine is, lacks and runs."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from engine import ConfigError, EngineError
from engine.console import opened, show
from engine.instructions import Language
from engine.quantities import bytes_text

if TYPE_CHECKING:
    from engine import Engine

Facts = dict[str, Any]
_SAID: dict[str, tuple[str, str]] = {
    # status
    "profile": ("profile", "프로필"),
    "home": ("home", "기억 폴더"),
    "folder": ("models", "모델 폴더"),
    "budget": ("budget", "메모리 예산"),
    "budget is": ("{budget}, of which {held} is held", "{budget}, 그중 {held} 사용"),
    "resident": ("resident", "실제 메모리"),
    "resident is": (
        "{resident}: {anonymous} anonymous, {file_backed} file-backed",
        "{resident}: 익명 {anonymous}, 파일 {file_backed}",
    ),
    "waiting": ("waiting", "대기"),
    "waiting is": ("{waiting} requests wait for a model", "모델을 기다리는 요청 {waiting}개"),
    "parts": ("held, by part", "부분별 사용"),
    "mapped": ("{mapped} of it pages of files", "그중 파일 {mapped}"),
    "loaded": ("loaded", "올라온 모델"),
    "nothing": ("nothing", "없음"),
    "cpu": ("CPU", "CPU"),
    "gpu layers": ("{n_gpu_layers} layers on the GPU, {vram} there", "GPU에 {n_gpu_layers}층, {vram}"),
    "idle": ("idle {idle} s", "{idle}초째 쉼"),
    "busy": ("{requests} requests", "요청 {requests}개"),
    "kv": ("KV {kv_used} of {kv_cells} tokens", "KV {kv_cells} 중 {kv_used} 토큰"),
    "rate": ("{rate} tokens/s", "초당 {rate} 토큰"),
    "took": ("loaded in {load_seconds} s", "{load_seconds}초 만에 올라옴"),
    "replaced": ("replaced", "대신한 모델"),
    "replaced is": ("{role}: {by} answers instead of {wanted}: {why}", "{role}: {wanted} 대신 {by}: {why}"),
    "would": ("to load", "올리려면"),
    "measured": ("measured here", "이 컴퓨터에서 측정"),
    "estimated": ("estimated", "추정"),
    "weights": ("weights {weights}", "가중치 {weights}"),
    "kv part": ("KV cache {kv}", "KV 캐시 {kv}"),
    "compute": ("compute {compute}", "계산 {compute}"),
    "other": ("other {other}", "기타 {other}"),
    "verdict loaded": ("loaded", "올라와 있음"),
    "verdict fits": ("fits", "들어감"),
    "verdict evicts": ("fits once these are unloaded: {evicts}", "다음을 내리면 들어감: {evicts}"),
    "verdict waits": ("waits for running requests", "실행 중인 요청을 기다림"),
    "verdict too large": ("TOO LARGE for the budget", "예산보다 큼"),
    "verdict unknown": ("not known whether it fits", "들어가는지 알 수 없음"),
    "instead": ("{fallback} answers instead", "대신 {fallback}"),
    "not here": ("NOT INSTALLED: gieok models pull {model}", "설치 안 됨: gieok models pull {model}"),
    # doctor
    "system": ("machine", "컴퓨터"),
    "system is": (
        "{processor}, {cores} cores, {ram} RAM ({ram_free} free), Python {python}, {platform}",
        "{processor}, 코어 {cores}개, 메모리 {ram} (여유 {ram_free}), Python {python}, {platform}",
    ),
    "libraries": ("libraries", "라이브러리"),
    "checks": ("checks", "점검"),
    "ok": ("[ ok ]", "[정상]"),
    "not ok": ("[ NO ]", "[문제]"),
    "unsure": ("[ ?  ]", "[확인]"),
    "profiles": ("profiles on this machine", "이 컴퓨터에서의 프로필"),
    "runs": ("runs with every model loaded", "모든 모델을 올리고 실행 가능"),
    "runs, one model at a time": ("runs, one chat model at a time", "대화 모델을 하나씩 올리며 실행 가능"),
    "too large": ("TOO LARGE for the memory it may use ({room})", "쓸 수 있는 메모리({room})보다 큼"),
    "unknown": ("not known: the catalogue lacks numbers", "알 수 없음: 목록에 수치가 없음"),
    "needs": (
        (
            "memory {ram} with all loaded and the Korean analyser, {ram_least} at least · download {download} · "
            "disk {disk}"
        ),
        "메모리: 한국어 분석기까지 모두 {ram}, 최소 {ram_least} · 내려받기 {download} · 디스크 {disk}",
    ),
    "no room": ("THE DISK HAS TOO LITTLE ROOM", "디스크 공간 부족"),
    "sold": ("commercial use allowed", "상업적 이용 가능"),
    "not sold": ("NOT for commercial use", "상업적 이용 불가"),
    "maybe sold": ("commercial use: not known", "상업적 이용: 알 수 없음"),
    "consent": ("asks for consent on its page: {gated}", "페이지에서 동의 필요: {gated}"),
    "take": ("recommended: {name} (gieok models pull {name})", "추천: {name} (gieok models pull {name})"),
    "take none": (
        "no profile fits the memory and the disk that may be used",
        "쓸 수 있는 메모리와 디스크에 들어가는 프로필이 없습니다",
    ),
    "speed": ("speed", "속도"),
    "models": ("models", "모델"),
    "target": ("{what}: {measured}, wanted: at most {target}", "{what}: {measured}, 목표 {target} 이하"),
    "not measured": ("not measured", "측정 못 함"),
    "over": ("with {over}", "{over}"),
    "first chat token": ("first chat token", "대화 첫 토큰"),
    "classification": ("classification", "분류"),
    "embedding": ("embedding", "임베딩"),
    "memory search": ("memory search", "기억 검색"),
    "compiler flags": ("compiler flags", "컴파일 옵션"),
    "gpu": ("GPU", "GPU"),
    "threads": ("threads", "스레드"),
    "ram": ("memory", "메모리"),
    "disk of models": ("disk of models", "모델 디스크"),
    "disk of home": ("disk of home", "기억 디스크"),
    "models folder": ("models folder", "모델 폴더"),
    "home folder": ("home folder", "기억 폴더"),
    "temporary folder": ("temporary folder", "임시 폴더"),
    "database": ("database", "데이터베이스"),
    "index": ("index", "색인"),
    "versions": ("versions", "버전"),
    "no tuning": ("not measured yet: measured at first load", "아직 측정 안 함: 처음 올릴 때 측정"),
    "installed": ("installed", "설치됨"),
    "tuned": (
        "threads {n_threads}, for batches {n_threads_batch}; {repack}; micro-batch {n_ubatch}",
        "스레드 {n_threads}, 묶음 {n_threads_batch}; {repack}; 마이크로배치 {n_ubatch}",
    ),
    "speeds": (
        "tokens/s: prefill {prefill} ({prefill_busy} beside a busy host), decode {decode} ({decode_busy})",
        "초당 토큰: 읽기 {prefill} (바쁠 때 {prefill_busy}), 쓰기 {decode} ({decode_busy})",
    ),
    "repacked": ("repacked", "재배열함"),
    "not repacked": ("not repacked", "재배열 안 함"),
}  # fmt: skip


def status(arguments: argparse.Namespace) -> None:
    """Print what is held, and what the models of the profile would take."""
    with opened(arguments) as engine:
        found = engine.status().to_dict()
        planned, problems = plans(engine)
    lines = [*status_lines(found, planned, arguments.language), *(f"  {role}\t{why}" for role, why in problems.items())]
    show(arguments, {**found, "plans": planned, "problems": problems}, lines)


def doctor(arguments: argparse.Namespace) -> None:
    """Print what this machine is, whether it is fit, and which profiles it runs."""
    with opened(arguments) as engine:
        found = engine.doctor(retune=arguments.retune, speed=arguments.speed)
    show(arguments, found, list(doctor_lines(found, arguments.language)))


def plans(engine: Engine) -> tuple[list[Facts], dict[str, str]]:
    """Return the plan of every model of the profile, with its roles, and why others have none."""
    from engine.config import ROLES

    found: dict[str, Facts] = {}
    problems: dict[str, str] = {}
    for role in ROLES:
        try:
            plan = engine.plan(role).to_dict()
        except ConfigError:  # a profile need not name every role
            continue
        except EngineError as error:
            problems[role] = str(error)
            continue
        found.setdefault(plan["model"], {**plan, "roles": []})["roles"].append(role)
    return list(found.values()), problems


# ---- status


def status_lines(found: Facts, plans: Iterable[Facts], language: Language) -> Iterator[str]:
    """Yield what `status` prints of a `Status` and of plans, both as dicts."""
    told = {"profile": found["profile"], "home": found["home"], "folder": found["models"]}
    for what in ("budget", "resident", "waiting"):
        told[what] = _said(f"{what} is", language, **_sized(found))
    yield from (f"{_said(what, language)}\t{value}" for what, value in told.items())
    yield from _section("parts", (_part(part, language) for part in found["parts"]), language)
    yield from _section("loaded", (_loaded(model, language) for model in found["loaded"]), language)
    if found["replaced"]:
        yield from _section("replaced", (_said("replaced is", language, **one) for one in found["replaced"]), language)
    yield from _section("would", (line for plan in plans for line in _plan(plan, language)), language)


def _part(part: Facts, language: Language) -> str:
    mapped = f" ({_said('mapped', language, mapped=bytes_text(part['mapped']))})" if part["mapped"] else ""
    return f"{part['name']}\t{bytes_text(part['bytes'])}{mapped}"


def _loaded(model: Facts, language: Language) -> str:
    values = {**_sized(model), "idle": f"{model['idle']:.0f}", "load_seconds": f"{model['load_seconds']:.1f}"}
    busy = "busy" if model["requests"] else "idle"
    told = [
        _said("gpu layers" if model["n_gpu_layers"] else "cpu", language, **values),
        _said(busy, language, **values),
    ]
    if model["kind"] == "embedding":
        told.append(model["backend"])
    if model["adapters"]:
        told.append(f"LoRA {', '.join(model['adapters'])}")
    if model["kv_cells"]:
        told.append(_said("kv", language, **values))
    if model["tokens_per_second"] is not None:
        told.append(_said("rate", language, rate=f"{model['tokens_per_second']:.1f}"))
    told.append(_said("took", language, **values))
    mapped = f" ({_said('mapped', language, **values)})" if model["mapped"] else ""
    return f"{_named(model['name'], model['roles'])}\t{values['ram']}{mapped}\t{' · '.join(told)}"


def _plan(plan: Facts, language: Language) -> Iterator[str]:
    ram = plan["ram"]
    how = _said("measured" if plan["measured"] else "estimated", language)
    verdict = _said(f"verdict {plan['verdict']}", language, evicts=", ".join(plan["evicts"]))
    instead = f"; {_said('instead', language, **plan)}" if plan["fallback"] else ""
    if plan["verdict"] == "too large":
        verdict += instead
    yield f"{_named(plan['model'], plan['roles'])}\t{bytes_text(ram['total'])} ({how})\t{verdict}"
    parts = {"weights": "weights", "kv": "kv part", "compute": "compute", "other": "other"}
    sizes = {name: bytes_text(ram[name]) for name in parts}
    told = [_said(said, language, **sizes) for name, said in parts.items() if ram[name] != 0]
    if plan["n_gpu_layers"]:
        told.append(_said("gpu layers", language, n_gpu_layers=plan["n_gpu_layers"], vram=bytes_text(plan["vram"])))
    if plan["adapters"]:
        told.append(f"LoRA {', '.join(plan['adapters'])}")
    yield f"  {' · '.join(told)}"
    if not plan["installed"]:
        yield f"  {_said('not here', language, **plan)}{'' if plan['verdict'] == 'too large' else instead}"


# ---- doctor


def doctor_lines(found: Facts, language: Language) -> Iterator[str]:
    """Yield what `doctor` prints of its facts."""
    system = {**found, "ram": bytes_text(found["ram"]), "ram_free": bytes_text(found["ram_free"])}
    yield f"{_said('system', language)}\t{_said('system is', language, **system)}"
    versions = ", ".join(f"{name} {there or '-'}" for name, there in found["versions"].items())
    yield f"{_said('libraries', language)}\t{versions}"
    yield f"{_said('profile', language)}\t{found['profile']}"
    yield from _section("checks", (line for one in found["checks"] for line in _check(one, language)), language)
    yield from _section("models", (_model(one, language) for one in found["models"]), language)
    yield from _section("profiles", _fits(found, language), language)
    if "speed" in found:
        yield from _section("speed", (line for one in found["speed"] for line in _speed(one, language)), language)


def _check(check: Facts, language: Language) -> Iterator[str]:
    yield f"{_mark(check['ok'], language)} {_said(check['name'], language)}: {check['found']}"
    yield from _step(check["step"])


def _fits(found: Facts, language: Language) -> Iterator[str]:
    for fit in found["profiles"]:
        yield f"{fit['profile']}: {_said(fit['verdict'] or 'unknown', language, **_sized(fit))}"
        yield f"  {_said('needs', language, **_sized(fit))}"
        licences = ", ".join(f"{model} {licence or '?'}" for model, licence in fit["licenses"].items())
        sold = {True: "sold", False: "not sold", None: "maybe sold"}[fit["commercial"]]
        yield f"  {licences} · {_said(sold, language)}"
        if fit["gated"]:
            yield f"  {_said('consent', language, gated=', '.join(fit['gated']))}"
        if fit["disk_enough"] is False:
            yield f"  {_said('no room', language)}"
    name = found["recommended"]
    yield _said("take", language, name=name) if name else _said("take none", language)


def _speed(line: Facts, language: Language) -> Iterator[str]:
    taken = line["measured"]
    measured = _said("not measured", language) if taken is None else _seconds(taken)
    said = _said(
        "target", language, what=_said(line["what"], language), measured=measured, target=_seconds(line["target"])
    )
    over = f" ({_said('over', language, over=line['over'])})" if line["over"] else ""
    yield f"{_mark(line['met'], language)} {said}{over} · {line['model'] or '-'}"
    yield from _step(line["step"])


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _model(model: Facts, language: Language) -> str:
    return f"{_named(model['name'], model['roles'])}\t{_state(model, language)}"


def _state(model: Facts, language: Language) -> str:
    if not model["installed"]:
        return _said("not here", language, model=model["name"])
    if model["kind"] != "llm":
        return _said("installed", language)
    if model["tuning"] is None:
        return _said("no tuning", language)
    tuning = model["tuning"]
    speeds = {name: "?" if speed is None else speed for name, speed in tuning["tokens_per_second"].items()}
    repack = _said("repacked" if tuning["repack"] else "not repacked", language)
    return f"{_said('tuned', language, **{**tuning, 'repack': repack})}; {_said('speeds', language, **speeds)}"


# ---- what they share


def _section(title: str, lines: Iterable[str], language: Language) -> Iterator[str]:
    yield f"{_said(title, language)}:"
    empty = True
    for line in lines:
        empty = False
        yield f"  {line}"
    if empty:
        yield f"  {_said('nothing', language)}"


def _step(step: str) -> Iterator[str]:
    if step:
        yield f"    → {step}"


def _mark(ok: bool | None, language: Language) -> str:
    return _said({True: "ok", False: "not ok", None: "unsure"}[ok], language)


def _named(name: str, roles: Iterable[str]) -> str:
    told = ", ".join(roles)
    return f"{name} ({told})" if told else name


_SIZES = (
    "budget", "held", "resident", "anonymous", "file_backed", "ram", "ram_least", "mapped", "vram", "download", "disk",
    "room",
)  # fmt: skip


def _sized(facts: Facts) -> Facts:
    """Return the facts with numbers of bytes as people say them."""
    return {**facts, **{name: bytes_text(facts[name]) for name in _SIZES if name in facts}}


def _said(what: str, language: Language, /, **values: object) -> str:
    return _SAID[what][language == "ko"].format_map(values)
