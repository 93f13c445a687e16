"""The facade: one class, sync, with async twins derived. It joins the worker, the models, the tasks and the memory."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack, overload

from engine.answers import Answers
from engine.classifier import Classifier
from engine.errands import Errands
from engine.errors import InvalidInput
from engine.inputs import CATEGORIES, Moment, TextKind, check_dialogue, check_text, check_texts
from engine.lending import Lender
from engine.metrics import ProgressCallback
from engine.sampling import Sampling
from engine.session import MemoryUse, Session
from engine.sessions import Sessions
from engine.stream import Stream
from engine.twins import Threads, twin
from engine.vectors import Embeddings, Vectors
from engine.views import HEADS, Head

if TYPE_CHECKING:
    from engine.bulk import Extractions
    from engine.library import Library
    from engine.records import Edit, Hit, Memory
    from engine.status import LoadPlan, Status
    from engine.tasks import Classification, ExtractedMemory, Reply, Summary, Understanding
    from engine.transfer import Imported
    from engine.worker import Worker

Messages = str | Sequence[Mapping[str, object]]
Categories = Iterable[str] | Mapping[str, str]


class Engine:
    """Chat, memory and understanding in this process; models load when first used.

    `config` is a models.toml laid over the packaged one, `profile` a profile of it, `home` the folder of this
    application's memories, `models` role → model name or path over the profile, `ram_budget` bytes or "12GB".
    `progress` is called with `Progress` from the thread that does the work; returning False cancels it. Raises
    `ConfigError`, `ModelNotFound`. May be shared between threads; not usable after `fork`.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | None = None,
        *,
        profile: str | None = None,
        home: str | os.PathLike[str] | None = None,
        models: Mapping[str, str] | None = None,
        ram_budget: int | str | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        from engine import config as configuration
        from engine.models import Models, resolve_roles
        from engine.pool import Pool

        self._config = configuration.load(config)
        self._profile = profile or os.environ.get("GIEOK_PROFILE") or "default"
        self._home = Path(home or os.environ.get("GIEOK_HOME") or configuration.user_home()).expanduser().absolute()
        self._progress = progress
        roles = resolve_roles(self._config, self._profile, models or {})
        self._models = Models(
            self._config, roles, named=models or (), progress=progress, prefixes=self._home / "prefixes"
        )
        table = self._config.engine
        budget = table.ram_budget if ram_budget is None else configuration.ram_bytes(ram_budget)
        self._pool = Pool(self._models, budget, table.keep_alive)
        self._worker = self._pool.worker
        self.threads = Threads(self._worker.check)
        self._answers = Answers(table.sampling, self._pool, self.threads.run)
        self._vectors = Vectors(self._pool, progress)
        self._classifier = Classifier(self._pool, self._vectors)
        self._errands = Errands(self._config.routing, self._pool, self._answers, self._classifier)
        self._lender = Lender(self._pool, self._vectors, self._errands, self._home)
        self._sessions = Sessions(self._pool, self._answers, self._errands, self._lender, self.threads)
        # also at interpreter exit, and when an engine is dropped without close
        self._release = weakref.finalize(self, _release, self._worker, self.threads, self._sessions, self._lender)

    # ---- chat

    def chat(
        self,
        messages: Messages,
        *,
        context: str | Sequence[str | Hit] | None = None,
        schema: Any = None,
        model: str | None = None,
        **sampling: Unpack[Sampling],
    ) -> Reply:
        """Answer a message or a conversation.

        `context` is quoted as data before the last user message. `schema` is a JSON Schema or a pydantic model that
        the answer follows, `Reply.parsed` its value; where `max_tokens` cuts it, at most 512 tokens that take no model
        time close it, or `parsed` is None. `model` is a role or a name. Raises `InvalidInput`, `ContextOverflow`,
        `SchemaError`, `ModelNotFound`, `ModelCorrupt`, `OutOfBudget`, `EngineClosed`.
        """
        return self.stream(messages, context=context, schema=schema, model=model, **sampling).reply

    def stream(
        self,
        messages: Messages,
        *,
        context: str | Sequence[str | Hit] | None = None,
        schema: Any = None,
        model: str | None = None,
        **sampling: Unpack[Sampling],
    ) -> Stream:
        """Answer like `chat`, piece by piece; errors of input and loading are raised here."""
        return self.astream(messages, context=context, schema=schema, model=model, **sampling).open()

    def astream(
        self,
        messages: Messages,
        *,
        context: str | Sequence[str | Hit] | None = None,
        schema: Any = None,
        model: str | None = None,
        **sampling: Unpack[Sampling],
    ) -> Stream:
        """Answer like `stream`, for `async for`; the model is loaded at the first piece, off the event loop."""
        from engine import tasks

        self._worker.check()
        turns = tasks.with_context(check_dialogue(messages, limit=None), context)
        return self._answers.stream(self._answers.question(turns, model or "chat", sampling, schema))

    def session(
        self, name: str = "default", *, user: str = "default", system: str | None = None, memory: MemoryUse = "auto"
    ) -> Session:
        """Return the conversation called `name`, which goes on where it was left; it is kept in `home`.

        With `memory` "auto" it is told the memories that matter and searched for new ones, in the background; with
        "read" only told, with "off" neither. `system` stands in for the usual instruction. It lives as long as the
        engine. Raises `InvalidInput`, `EngineClosed`.
        """
        self._worker.check()
        return Session(self._sessions, self._sessions.transcript(user, name), system, memory)

    def tokens(self, messages: Messages, *, model: str = "chat") -> list[int]:
        """Return the token ids that `model` would read for `messages`. Raises as `chat` does."""
        self._worker.check()
        turns = check_dialogue(messages, limit=None)
        return self._pool.call(model, lambda runner: runner.encode(turns), "llm")

    # ---- tasks

    def extract_memory(
        self, dialogue: Messages, *, at: Moment | None = None, store: bool = False, user: str = "default"
    ) -> ExtractedMemory:
        """Return what the user said that is worth remembering; every quote is verbatim in its user turn.

        `at` is when the dialogue took place (default: now), for days such as 어제. With `store` the items are
        remembered for `user`. Raises `InvalidInput`, `ContextOverflow`, `ModelNotFound`, `EngineClosed`.
        """
        self._worker.check()
        found = self._errands.extract(dialogue, at)
        if store:
            self._lender.keep(found, check_dialogue(dialogue), user)
        return found

    def extract_memories(
        self, dialogues: Iterable[Messages], *, at: Moment | None = None, store: bool = False, user: str = "default"
    ) -> Extractions:
        """Return an iterator of what `extract_memory` returns for each dialogue, or of the error it meets, in order.

        Several are under way at once; `dialogues` are read as they are needed. A wrong type is an `InvalidInput` among
        the results; `EngineClosed` and `Cancelled` are raised. With `store`, memories are there when a result comes.
        """
        from engine.bulk import Extractions

        self._worker.check()
        steps = self._errands.extractions(at, partial(self._lender.keep, user=user) if store else None)
        slots = self._models.spec("extraction").parallel or self._config.engine.parallel
        return Extractions(dialogues, steps, slots, self.threads)

    def aextract_memories(
        self, dialogues: Iterable[Messages], *, at: Moment | None = None, store: bool = False, user: str = "default"
    ) -> Extractions:
        """Return what `extract_memories` does, for `async for`."""
        return self.extract_memories(dialogues, at=at, store=store, user=user)

    @overload
    def classify(  # type: ignore[overload-overlap]  # a str is an iterable of str, but means one text
        self, texts: str, categories: Categories = CATEGORIES, *, abstain: float | None = None
    ) -> Classification: ...
    @overload
    def classify(
        self, texts: Iterable[str], categories: Categories = CATEGORIES, *, abstain: float | None = None
    ) -> list[Classification]: ...
    def classify(
        self, texts: str | Iterable[str], categories: Categories = CATEGORIES, *, abstain: float | None = None
    ) -> Classification | list[Classification]:
        """Say which category a text belongs to, or each of several; nothing is generated.

        `categories` are names, or name → description; below the confidence `abstain` the label is None. Raises
        `InvalidInput`, `ModelNotFound`, `EngineClosed`.
        """
        from engine.classification import check_categories

        self._worker.check()
        checked, single = check_texts(texts)
        labels = check_categories(categories)
        if abstain is not None and not 0 <= abstain <= 1:
            raise InvalidInput(f"abstain must be between 0 and 1, not {abstain}")
        found = self._classifier.classify(checked, labels, abstain) if checked else []
        return found[0] if single else found

    def summarize(self, dialogue: Messages, *, max_words: int | None = None) -> Summary:
        """Summarise a text or a dialogue of any length in its language.

        `max_words` bounds the words of the result. `usage` adds up all calls that it took. Raises `InvalidInput`,
        `ModelNotFound`, `EngineClosed`, `Cancelled`, and `ContextOverflow` where a context holds hardly a sentence.
        """
        self._worker.check()
        return self._errands.summarize(dialogue, max_words)

    def understand(self, text: str, *, at: Moment | None = None) -> Understanding:
        """Say what a user wants, by rules: intent, question or not, keywords, the days named, memory needed or not.

        `at` is when it was said (default: now). Raises `InvalidInput`, `EngineClosed`.
        """
        self._worker.check()
        return self._errands.understand(check_text(text), at)

    def process(self, task: str, text: str) -> Reply | ExtractedMemory | Classification | Summary:
        """Do a task with the light or the heavy model of `[routing]`, by how complex `text` is.

        `task` is "chat", "extraction", "classification" (always light) or "summary"; the result is that of `chat`,
        `extract_memory`, `classify` or `summarize`. Raises `InvalidInput`, and as these do.
        """
        self._worker.check()
        check_text(text)
        return self._errands.process(task, text)

    def embed(
        self,
        texts: str | Iterable[str],
        *,
        kind: TextKind = "passage",
        heads: Sequence[Head] = HEADS,
    ) -> Embeddings:
        """Return the vectors of n texts, of one string n = 1: `dense` is (n, d) float32, unit length, rows in order.

        `kind="query"` is for what is searched with, where the model tells the two apart. Only `heads` are computed;
        a multi-vector takes 4 KB a token. A text longer than the model reads at once is read in windows, to its end.
        Raises `InvalidInput`, `ModelNotFound`, `ModelCorrupt`, `OutOfBudget`, `EngineClosed`.
        """
        self._worker.check()
        checked, _ = check_texts(texts)
        if kind not in ("passage", "query"):
            raise InvalidInput(f"kind must be 'passage' or 'query', not {kind!r}")
        wanted = tuple(heads)
        if unknown := set(wanted) - set(HEADS):
            raise InvalidInput(f"{min(unknown)!r} is not a head; there are {', '.join(HEADS)}")
        return self._vectors.views(checked, kind, wanted)

    # ---- memory

    def remember(
        self,
        texts: str | Iterable[str],
        *,
        category: str | None = None,
        when: Moment | None = None,
        source: str | None = None,
        user: str = "default",
        judge: bool = True,
    ) -> list[Memory]:
        """Store each text as it is and return its memory, in order; they are on disk when this returns.

        A text that this user stored before gives the memory there is, reinforced. In the background each new one is
        compared with older ones, unless `judge` is False: the same is merged, a contradiction superseded (`history`).
        `when` is when it happened or holds. Raises `InvalidInput`, `ModelNotFound`, `StoreError`, `StoreLocked`,
        `EngineClosed`.
        """
        self._worker.check()
        checked, _ = check_texts(texts)
        return self._lender.store().remember(
            checked, category=category, when=when, source=source, user=user, judge=judge
        )

    def search(
        self,
        query: str,
        *,
        k: int = 5,
        category: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        source: str | None = None,
        user: str = "default",
        min_score: float | None = None,
        explain: bool = False,
    ) -> list[Hit]:
        """Return the at most `k` memories that answer `query` best, by meaning and by words, best first.

        `Hit.score`, from 0 to 1, is how likely a memory is what was asked for; `min_score` leaves out what is below,
        `explain` gives each hit its `parts`. `since` and `until` are inclusive and hold for `Memory.when`, else
        `created`. Raises `InvalidInput`, `ModelNotFound`, `StoreError`, `EngineClosed`.
        """
        self._worker.check()
        return self._lender.store().search(
            query, user=user, k=k, category=category, since=since, until=until, source=source,
            min_score=min_score, explain=explain,
        )  # fmt: skip

    def memories(
        self,
        *,
        user: str = "default",
        category: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        superseded: bool = False,
        limit: int | None = None,
    ) -> list[Memory]:
        """Return memories, the last stored first; with `superseded`, also those that no longer hold.

        Raises `InvalidInput`, `StoreError`, `EngineClosed`.
        """
        self._worker.check()
        return self._lender.store().memories(
            user=user, category=category, since=since, until=until, superseded=superseded, limit=limit
        )

    def memory(self, id: str) -> Memory:
        """Return the memory called `id`. Raises `MemoryNotFound`, `StoreError`, `EngineClosed`."""
        self._worker.check()
        return self._lender.store().memory(id)

    def history(self, id: str) -> list[Memory]:
        """Return what a memory superseded, itself, and what superseded it, in the order in which they were stored.

        Raises `MemoryNotFound`, `StoreError`, `EngineClosed`.
        """
        self._worker.check()
        return self._lender.store().history(id)

    def update(self, id: str, **fields: Unpack[Edit]) -> Memory:
        """Correct `text`, `category`, `kind`, `source`, `when` or `importance` of a memory in place, and return it.

        Raises `MemoryNotFound`, `InvalidInput`, also for the text of another memory, `StoreError`, `EngineClosed`.
        """
        self._worker.check()
        return self._lender.store().update(id, fields)

    def forget(self, id: str) -> None:
        """Remove a memory, and those merged into it, for good: text and vector are then in no file of `home`.

        Raises `MemoryNotFound`, `StoreError`, `EngineClosed`.
        """
        self._worker.check()
        self._lender.store().forget(id)

    def forget_all(self, user: str) -> int:
        """Remove every memory of `user` for good; return how many. Raises `StoreError`, `EngineClosed`."""
        self._worker.check()
        return self._lender.store().forget_all(user)

    def export(self, path: str | os.PathLike[str], *, user: str | None = None, vectors: bool = False) -> int:
        """Write the memories of `user`, or of all, to a file of JSON Lines outside of `home`; return how many.

        Raises `InvalidInput`, `StoreError`, `Cancelled`, `EngineClosed`.
        """
        self._worker.check()
        return self._lender.store().export(Path(path), user=user, vectors=vectors)

    def import_(self, path: str | os.PathLike[str]) -> Imported:
        """Add the memories of a file that `export` wrote, also elsewhere; those that are here already are skipped.

        Raises `InvalidInput` with file and line, `ModelNotFound`, `StoreError`, `Cancelled`, `EngineClosed`.
        """
        self._worker.check()
        return self._lender.store().import_(Path(path))

    def backup(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Copy the memories into one file while they are used; return where it is: in `home` unless it is named.

        Raises `InvalidInput`, `StoreError`, `Cancelled`, `EngineClosed`.
        """
        self._worker.check()
        return self._lender.store().backup(None if path is None else Path(path))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until background work on sessions and memories is done, at most `timeout` seconds; return whether it is.

        Raises `EngineClosed`.
        """
        self._worker.check()
        return self._sessions.wait(timeout)

    # ---- models

    @property
    def library(self) -> Library:
        """The models that can be had: plan, pull, verify, remove, take. Raises `EngineClosed`."""
        from engine.library import Library

        self._worker.check()
        return Library(self._config, self._models.wanted, self._worker.heed, self._pool.room, self._progress)

    def pull(self, name: str, *, progress: ProgressCallback | None = None) -> list[Path]:
        """Download the models of a profile, role or name; return where they are. Nothing else uses a network.

        What is there already is not fetched again. Raises `DownloadError`, `ModelNotFound`, `Cancelled`.
        """
        return self.library.pull(name, progress=progress)

    def catalogue(self) -> list[dict[str, Any]]:
        """Return every known model: what it is and needs, its licence, whether it is installed; `size`, `ram` in bytes.

        Raises `EngineClosed`.
        """
        return self.library.entries()

    def load(self, role: str) -> None:
        """Load the model of a role or name now, or the fallback of a role.

        Raises `ModelNotFound`, `ModelCorrupt`, `OutOfBudget`, `EngineClosed`.
        """
        with self._pool.leased(role):
            pass

    def unload(self, role: str) -> None:
        """Free the model of a role or name; its requests, running or waiting, end with `EngineClosed`."""
        self._pool.unload(role)

    def plan(self, role: str) -> LoadPlan:
        """Return what loading the model of a role or name would take of RAM, part by part in bytes, and would do.

        Nothing is loaded. Raises `ModelNotFound` for an unknown name, `ModelCorrupt`, `EngineClosed`.
        """
        self._worker.check()
        return self._pool.plan(role)

    def status(self) -> Status:
        """Return what is held and loaded, and the bytes of RAM that the process takes. Raises `EngineClosed`."""
        self._worker.check()
        return self._pool.status(self._profile, str(self._home))

    def doctor(self, *, retune: bool | str = False, speed: bool = False) -> dict[str, Any]:
        """Return what this machine is and lacks, which profiles it runs, and how models run best on it; JSON-ready.

        Sizes are bytes, times seconds. `retune` measures again, and unloads: all installed chat models, or that of a
        role or name. `speed` unloads all, and measures what a user waits for. Raises `ModelNotFound`, `InvalidInput`,
        `Cancelled`, `EngineClosed`.
        """
        from engine import doctor

        self._worker.check()
        for name in doctor.measurable(self._models, retune):
            self._pool.retune(name)
        budget = self._pool.budget
        patient = doctor.Patient(self._config, self._profile, self._models, self.library, self._home, budget.limit)
        found = doctor.report(patient)
        if speed:
            for loaded in self._models.loaded:
                self.unload(doctor.called(patient, loaded.spec))
            spare = budget.limit - budget.held  # what is left of it beside analyser and index
            found["speed"] = doctor.speeds(patient, Engine, self.search, self._progress, spare)
        return found

    def close(self) -> None:
        """Stop everything and free all memory; afterwards every method raises `EngineClosed`."""
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Async twin of `close`."""
        import asyncio

        await asyncio.to_thread(self.close)

    # ---- async twins

    achat, atokens, aextract_memory, aclassify = twin(chat), twin(tokens), twin(extract_memory), twin(classify)
    asummarize, aunderstand, aprocess, aembed = twin(summarize), twin(understand), twin(process), twin(embed)
    aremember, asearch, amemories, amemory = twin(remember), twin(search), twin(memories), twin(memory)
    ahistory, aupdate, aforget, aforget_all = twin(history), twin(update), twin(forget), twin(forget_all)
    aexport, aimport_, abackup, await_, apull = twin(export), twin(import_), twin(backup), twin(wait), twin(pull)
    acatalogue, aload, aplan, aunload, astatus = twin(catalogue), twin(load), twin(plan), twin(unload), twin(status)
    adoctor, asession = twin(doctor), twin(session)


def _release(worker: Worker, threads: Threads, sessions: Sessions, lender: Lender) -> None:
    worker.close()
    threads.close()
    sessions.close()
    lender.close()
