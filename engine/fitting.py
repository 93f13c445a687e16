"""Does it run on this PC? What each profile takes of RAM and disk, told before anything is downloaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from engine.footprint import ANALYSER

if TYPE_CHECKING:
    from engine.library import ModelPlan

Verdict = Literal["runs", "runs, one model at a time", "too large"]
_FIRST = ("default", "commercial", "starter")  # the order in which profiles are recommended


@dataclass(frozen=True, slots=True)
class Room:
    """What a profile may take: bytes of RAM, and of the disk that models lie on."""

    ram: int
    disk: int


@dataclass(frozen=True, slots=True)
class Fit:
    """A profile and this machine; what the catalogue does not know is None, never a guess.

    `ram` is with every model loaded, `ram_least` with the largest chat model, the embedding model and the Korean
    analyser alone; the fallback counts nowhere, since it comes in place of the chat model. `download` and `disk` are
    bytes that are still missing, `room` those of RAM that may be used. `commercial` is whether every model may be used
    so; `gated` ones ask for consent.
    """

    profile: str
    models: tuple[str, ...]
    ram: int | None
    ram_least: int | None
    download: int | None
    disk: int | None
    licenses: dict[str, str | None]
    commercial: bool | None
    gated: tuple[str, ...]
    verdict: Verdict | None
    disk_enough: bool | None
    room: int

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {**asdict(self), "models": list(self.models), "gated": list(self.gated)}


def fit(profile: str, models: Sequence[ModelPlan], room: Room) -> Fit:
    """Return how a profile with these models fits."""
    chat = [plan.ram.total for plan in models if plan.kind == "llm"]
    others = [ANALYSER, *(plan.ram.total for plan in models if plan.kind != "llm")]
    largest = None if None in chat else max((size or 0 for size in chat), default=0)
    whole, least = _sum([*chat, *others]), _sum([largest, *others])
    disk = _sum(_missing(plan) for plan in models)
    allowed = [plan.commercial for plan in models]
    return Fit(
        profile=profile,
        models=tuple(plan.model for plan in models),
        ram=whole,
        ram_least=least,
        download=_sum(plan.download for plan in models),
        disk=disk,
        licenses={plan.model: plan.license for plan in models},
        commercial=False if False in allowed else None if None in allowed else True,
        gated=tuple(plan.model for plan in models if plan.gated),
        verdict=_verdict(whole, least, room.ram),
        disk_enough=None if disk is None else disk <= room.disk,
        room=room.ram,
    )


def recommended(fits: Iterable[Fit]) -> str | None:
    """Return the first profile that runs and that the disk has room for: the guide's own first."""
    able = [one.profile for one in fits if one.verdict not in (None, "too large") and one.disk_enough is not False]
    return next((name for name in _FIRST if name in able), able[0] if able else None)


def _verdict(whole: int | None, least: int | None, room: int) -> Verdict | None:
    if whole is None or least is None:
        return None
    if whole <= room:
        return "runs"
    return "runs, one model at a time" if least <= room else "too large"


def _missing(plan: ModelPlan) -> int | None:
    """Return how many bytes a model still takes of the disk: an archive lies beside what is taken out of it."""
    if plan.installed:
        return 0
    return None if plan.download is None or plan.disk is None else max(plan.download, plan.disk - _here(plan))


def _here(plan: ModelPlan) -> int:
    return sum(file.size or 0 for file in plan.files if file.installed)


def _sum(sizes: Iterable[int | None]) -> int | None:
    found = list(sizes)
    return None if None in found else sum(size or 0 for size in found)
