"""The native layer on the starter model: what is broken, closed, aborted or shared."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from numpy.typing import NDArray

from engine.abort import AbortFlag
from engine.errors import EngineClosed, EngineError, ModelCorrupt
from engine.llama import Context, ContextParams, Model, Sampler
from engine.llama.library import errors, lib, no_memory
from engine.sampling import SamplingParams
from engine.scheduler import Chunk, Job

# one thread: two wait for each other where the machine is busy
SIZES = ContextParams(n_ctx=256, n_batch=128, n_seq=4, n_threads=1, n_threads_batch=1)
PLAIN = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, repeat_penalty=1.0, max_tokens=8)
GREEDY = replace(PLAIN, temperature=0)
# one prompt in batches of other shapes, or in other cells, rounds differently: up to 0.66 was measured, over
# logits from -13 to 25
OTHER_SHAPES = 1.5


@pytest.fixture
def context(starter: Model) -> Iterator[Context]:
    context = Context(starter, SIZES)
    yield context
    context.close()


@pytest.fixture(scope="module")
def ids(starter: Model) -> list[int]:
    text = "The quick brown fox jumps over the lazy dog. 오늘 점심은 무엇을 먹을까요? "
    return starter.vocabulary.tokenize(text * 10)[:100]


def chunk(sequence: int, start: int, tokens: list[int], rows: int = 1) -> Chunk:
    return Chunk(Job([1], 0), sequence, start, tokens, rows)


def last_logits(context: Context, *chunks: Chunk) -> NDArray[np.float32]:
    """Decode and return the logits of the last entry."""
    assert context.decode(chunks)
    return context.logits(sum(len(chunk.tokens) for chunk in chunks) - 1).copy()


def fresh_logits(model: Model, ids: list[int]) -> NDArray[np.float32]:
    context = Context(model, SIZES)
    try:
        return last_logits(context, chunk(0, 0, ids))
    finally:
        context.close()


def run_child(code: str, *args: Path) -> subprocess.CompletedProcess[str]:
    """Run Python code in a child process, which may crash."""
    command = [sys.executable, "-X", "utf8", "-c", textwrap.dedent(code), *map(str, args)]
    root = Path(__file__).parents[1]
    return subprocess.run(
        command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, encoding="utf-8",
        check=False, timeout=120,
    )  # fmt: skip


# a damaged file


def test_a_batch_is_never_larger_than_llama_cpp_takes(starter: Model) -> None:
    """It cuts the batch to the context that was asked for and rounds that one up: a batch between the two aborts."""
    context = Context(starter, ContextParams(n_ctx=400, n_batch=512, n_seq=1, n_threads=1, n_threads_batch=1))
    try:
        assert context.params.n_batch < context.n_ctx
        context.decode([Chunk(Job([1], 0), 0, 0, [5] * context.params.n_batch, 1)])
        with pytest.raises(EngineError, match="does not fit"):
            context.decode([Chunk(Job([1], 0), 0, 0, [5] * (context.params.n_batch + 1), 1)])
    finally:
        context.close()


def test_a_truncated_file_is_corrupt_wherever_it_ends(starter_gguf: Path, tmp_path: Path) -> None:
    """In a child: a crash would take the tests along."""
    copy = tmp_path / "cut.gguf"
    shutil.copyfile(starter_gguf, copy)
    code = """
        import sys
        from pathlib import Path
        from engine.errors import ModelCorrupt
        from engine.llama import Model
        path = Path(sys.argv[1])
        size = path.stat().st_size
        metadata = [4, 5, 8, 16, 23, 24, 32, 100, 1_000, 5_000, 100_000, 1_000_000, 1_700_000]
        weights = [1_800_000, 2_000_000, 5_000_000, size // 2, size - 33, size - 32, size - 1]
        for end in sorted({0, 1, 3, *metadata, *weights}, reverse=True):
            with path.open("r+b") as file:
                file.truncate(end)
            for vocab_only in (False, True):
                if vocab_only and end in weights:
                    continue  # the vocabulary is whole
                try:
                    Model(path, vocab_only=vocab_only).close()
                except ModelCorrupt as error:
                    assert error.path == str(path) and path.name in str(error), error
                else:
                    print("loaded", end, vocab_only)
        print("done")
    """
    result = run_child(code, copy)
    assert (result.stdout, result.stderr, result.returncode) == ("done\n", "", 0)


def test_what_is_no_gguf_is_corrupt(tmp_path: Path) -> None:
    empty, text = tmp_path / "빈 파일.gguf", tmp_path / "x.gguf"
    empty.touch()
    text.write_text("<html>404 Not Found</html>", encoding="utf-8")
    for path in (empty, text, tmp_path, tmp_path / "missing.gguf"):
        with pytest.raises(ModelCorrupt) as caught:
            Model(path)
        assert caught.value.path == str(path)


def test_a_chat_template_that_is_no_text_is_corrupt(tmp_path: Path) -> None:
    path = tiny_models.attention(tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes().replace(b"{% for", b"{%\xff\xff\xffr"))
    model = Model(path)
    with pytest.raises(ModelCorrupt, match=r"chat template of model\.gguf"):
        _ = model.chat_template
    model.close()


def test_a_vocabulary_without_weights_is_no_model(vocab_folder: Path) -> None:
    with pytest.raises(ModelCorrupt):
        Model(vocab_folder / "ggml-vocab-qwen2.gguf")


def test_a_path_of_any_letters_loads(vocab_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "홍길동" / "내 문서 😀.gguf"
    path.parent.mkdir()
    shutil.copyfile(vocab_folder / "ggml-vocab-llama-spm.gguf", path)
    model = Model(path, vocab_only=True)
    assert model.vocabulary.size == 32_000
    model.close()


# no memory


LIMITED = """
    import resource, sys
    from dataclasses import replace
    from pathlib import Path
    from engine.llama import Context, ContextParams, Model
    def room(size):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + size, resource.RLIM_INFINITY))
    sizes = ContextParams(n_ctx=256, n_batch=128, n_seq=4, n_threads=1, n_threads_batch=1)
    model = Model(Path(sys.argv[1]))
    assert model.n_gpu_layers == 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of address space is Linux's")
@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("room(400_000_000); Context(model, replace(sizes, n_ctx=1 << 20))", "a context of 1048576 tokens of "),
        ("model.close(); room(50_000_000); Model(Path(sys.argv[1]), repack=True)", "the weights of "),
        ("model.close(); room(50_000_000); Model(Path(sys.argv[1]), repack=False)", "the weights of "),
    ],
)
def test_where_there_is_no_memory_it_is_said(starter_gguf: Path, code: str, wanted: str) -> None:
    """In a child, which may have little; it goes on working."""
    tried = f"""
    try:
        {code}
    except MemoryError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    Context(Model(Path(sys.argv[1])), sizes)
    print("done")
    """
    result = run_child(textwrap.dedent(LIMITED) + textwrap.dedent(tried), starter_gguf)
    said = result.stdout.splitlines()
    assert (said[1:], result.returncode) == (["done"], 0), result.stderr
    assert said[0].startswith(f"there was no memory for {wanted}{starter_gguf.name}")
    assert "llama.cpp: " in said[0]


@pytest.mark.parametrize(
    ("line", "memory"),
    [
        ("ggml_backend_cuda_buffer_type_alloc_buffer: allocating 4679.55 MiB on device 0: cudaMalloc failed: out of memory", True),
        ("ggml_vulkan: Device memory allocation of size 1029081088 failed.", True),
        ("ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory", True),
        ("llama_model_load: error loading model: unable to allocate CUDA0 buffer", True),
        ("ggml_gallocr_reserve_n_impl: failed to allocate CUDA0 buffer of size 2629828608", True),
        ("llama_model_load: error loading model: mmap failed: Cannot allocate memory", True),
        ("llama_model_load: error loading model: missing tensor 'token_embd.weight'", False),
        ("ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected", False),
    ],
)  # fmt: skip
def test_what_llama_cpp_says_where_there_is_no_memory(line: str, memory: bool) -> None:
    found = no_memory("a thing", ["something else", line, "llama_model_load_from_file_impl: failed to load model"])
    assert (found is not None) is memory
    assert found is None or line in str(found)


def test_errors_are_kept_of_this_thread_alone_and_not_for_ever(vocab_folder: Path) -> None:
    def fail() -> None:
        with contextlib.suppress(ModelCorrupt):
            Model(vocab_folder / "ggml-vocab-qwen2.gguf")

    with errors() as said:
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        assert list(said) == []
    fail()
    assert list(said) == []


# what is printed


def test_loading_prints_nothing(starter_gguf: Path, vocab_folder: Path) -> None:
    """In a program that sets up no logging, where Python itself writes warnings to stderr."""
    code = """
        import sys
        from pathlib import Path
        from engine.errors import ModelCorrupt
        from engine.llama import Context, ContextParams, Model
        model = Model(Path(sys.argv[1]))
        Context(model, ContextParams(n_ctx=64, n_batch=32, n_seq=2, n_threads=1, n_threads_batch=1))
        model.close()
        for path in sorted(Path(sys.argv[2]).glob("ggml-vocab-[abf]*.gguf")):
            Model(path, vocab_only=True).close()  # several warn
        try:
            Model(path)
        except ModelCorrupt:
            pass
    """
    result = run_child(code, starter_gguf, vocab_folder)
    assert (result.stdout, result.stderr, result.returncode) == ("", "", 0)


def test_llama_cpp_logs_to_ours(
    starter_gguf: Path, vocab_folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "engine.llama"):
        Model(starter_gguf, vocab_only=True).close()
        assert any("general.architecture" in record.message for record in caplog.records)
        assert {record.levelno for record in caplog.records} <= {logging.DEBUG, logging.INFO}
        caplog.clear()
        with pytest.raises(ModelCorrupt):
            Model(vocab_folder / "ggml-vocab-qwen2.gguf")
    errors = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert any("error loading model" in record.message for record in errors)
    assert {record.name for record in caplog.records} == {"engine.llama"}
    assert capfd.readouterr() == ("", "")


# use after close


def test_everything_says_that_the_model_was_closed(vocab_folder: Path) -> None:
    model = Model(vocab_folder / "ggml-vocab-llama-spm.gguf", vocab_only=True)
    vocabulary = model.vocabulary
    model.close()
    model.close()
    for use in (
        lambda: vocabulary.tokenize("a"),
        lambda: vocabulary.pieces,
        lambda: vocabulary.control,
        lambda: vocabulary.user_defined,
        lambda: vocabulary.eog,
        lambda: vocabulary.raw,
        lambda: vocabulary.text(1),
        lambda: vocabulary.strips(1),
        lambda: model.size,
        lambda: model.context_length,
        lambda: model.chat_template,
        lambda: Context(model, SIZES),
    ):
        with pytest.raises(EngineClosed):
            use()


def test_a_closed_model_closes_its_contexts(starter_gguf: Path, ids: list[int]) -> None:
    """In whatever order they are closed: freeing a context of freed weights would crash."""
    model = Model(starter_gguf)
    first, second = Context(model, SIZES), Context(model, SIZES)
    assert first.decode([chunk(0, 0, ids[:4])])
    sampler = Sampler(GREEDY, 1, first.n_vocab)
    second.close()
    model.close()
    for use in (
        lambda: first.decode([chunk(0, 0, ids[:4])]),
        lambda: first.logits(0),
        lambda: first.fork(0, 1, 2),
        lambda: first.cut(0, 1),
        lambda: first.handle,
        lambda: sampler.sample(first, 3),
    ):
        with pytest.raises(EngineClosed):
            use()
    sampler.close()
    first.close()
    second.close()


def test_a_closed_sampler(context: Context, ids: list[int]) -> None:
    assert context.decode([chunk(0, 0, ids[:4])])
    sampler = Sampler(PLAIN, 1, context.n_vocab)
    sampler.close()
    sampler.close()
    with pytest.raises(EngineClosed):
        sampler.sample(context, 3)
    with pytest.raises(EngineClosed):
        sampler.accept(5)


# batches


def test_what_a_batch_cannot_hold(context: Context, ids: list[int]) -> None:
    with pytest.raises(EngineError, match="129 tokens does not fit n_batch = 128"):
        context.decode([chunk(0, 0, ids), chunk(1, 0, ids[:29])])
    assert context.decode([chunk(0, 0, ids[:2])])
    for bad in (
        chunk(0, 0, [context.n_vocab]),
        chunk(0, 0, [-1]),
        chunk(SIZES.n_seq, 0, ids[:2]),
        chunk(-1, 0, ids[:2]),
        chunk(0, 5, ids[:2]),  # a gap before it
        chunk(0, 0, []),
    ):
        with pytest.raises(EngineError, match="could not decode"):
            context.decode([bad])
    assert context.decode([chunk(0, 2, ids), chunk(1, 0, ids[:28])]), "it goes on working"


def test_a_full_cache_is_refused_and_goes_on(context: Context, ids: list[int]) -> None:
    assert context.decode([chunk(0, 0, ids)])
    assert context.decode([chunk(1, 0, ids)])
    with pytest.raises(EngineError, match="status 1"):
        context.decode([chunk(2, 0, ids[: context.n_ctx - 199])])
    assert context.decode([chunk(2, 0, ids[: context.n_ctx - 200])])
    context.cut(1, 0)
    assert context.decode([chunk(3, 0, ids)])


def test_only_wanted_logits_can_be_had(context: Context, ids: list[int]) -> None:
    with pytest.raises(EngineError):
        context.logits(0)
    assert context.decode([chunk(0, 0, ids[:8], rows=2), chunk(1, 0, ids[:3])])
    assert {context.logits(row).shape for row in (6, 7, 10)} == {(context.n_vocab,)}
    for row in (0, 5, 8, 9, 11, 500):
        with pytest.raises(EngineError, match="no logits"):
            context.logits(row)


def test_a_context_that_cannot_be_made(starter: Model) -> None:
    with pytest.raises(EngineError, match="lower n_ctx"):
        Context(starter, replace(SIZES, n_seq=1000))


# abort


def test_an_aborted_prefill_leaves_no_trace(starter: Model, context: Context, ids: list[int]) -> None:
    started = threading.Event()

    def interrupt() -> None:
        started.wait()
        context.abort.set()

    finished = True
    while finished:  # should the other thread be late, once more
        started.clear()
        context.abort.clear()
        thread = threading.Thread(target=interrupt)
        thread.start()
        started.set()
        finished = context.decode([chunk(0, 0, ids)])
        thread.join()
        context.cut(0, 0)
    assert not context.decode([chunk(1, 0, ids)]), "the flag stays set until it is cleared"
    context.cut(1, 0)
    context.abort.clear()
    assert np.array_equal(last_logits(context, chunk(0, 0, ids)), fresh_logits(starter, ids))


def test_an_abort_spares_what_was_computed_before(starter: Model, context: Context, ids: list[int]) -> None:
    assert context.decode([chunk(0, 0, ids[:60])])
    context.abort.set()
    assert not context.decode([chunk(0, 60, ids[60:]), chunk(1, 0, ids[:30])])
    context.abort.clear()
    context.cut(0, 60)
    context.cut(1, 0)
    again = last_logits(context, chunk(0, 60, ids[60:]))
    other = Context(starter, SIZES)
    assert other.decode([chunk(0, 0, ids[:60])])
    assert np.array_equal(again, last_logits(other, chunk(0, 60, ids[60:])))
    other.close()


def test_the_flag_is_what_llama_cpp_asks_for() -> None:
    flag = AbortFlag()
    function, data = flag.callback(ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p))
    assert not function(data)
    flag.set()
    assert function(data)
    flag.clear()
    assert not function(data)


# sequences that share cells


def test_a_fork_goes_on_exactly_like_its_source(starter: Model, context: Context, ids: list[int]) -> None:
    assert context.decode([chunk(0, 0, ids[:60])])
    own = last_logits(context, chunk(0, 60, ids[60:]))
    other = Context(starter, SIZES)
    assert other.decode([chunk(0, 0, ids[:60])])
    other.fork(0, 1, 60)
    forked = last_logits(other, chunk(1, 60, ids[60:]))
    other.close()
    assert np.array_equal(own, forked)


def test_forks_of_any_length_are_like_fresh_prompts(starter: Model, context: Context, ids: list[int]) -> None:
    assert context.decode([chunk(0, 0, ids[:80])])
    context.fork(0, 1, 80)
    context.fork(0, 2, 30)
    wanted = fresh_logits(starter, ids)
    for sequence, start in ((1, 80), (2, 30), (0, 80)):
        logits = last_logits(context, chunk(sequence, start, ids[start:]))
        assert np.abs(logits - wanted).max() < OTHER_SHAPES
        assert logits.argmax() == wanted.argmax()


def test_a_fork_outlives_its_source(context: Context, ids: list[int]) -> None:
    assert context.decode([chunk(0, 0, ids[:60])])
    context.fork(0, 1, 60)
    wanted = last_logits(context, chunk(1, 60, ids[60:]))
    context.cut(1, 60)
    context.cut(0, 0)
    assert np.array_equal(wanted, last_logits(context, chunk(1, 60, ids[60:])))


def test_a_cut_sequence_goes_another_way(starter: Model, context: Context, ids: list[int]) -> None:
    other = list(reversed(ids[60:90]))
    assert context.decode([chunk(0, 0, ids[:60])])
    assert context.decode([chunk(0, 60, ids[60:])])
    context.cut(0, 60)
    logits, wanted = last_logits(context, chunk(0, 60, other)), fresh_logits(starter, ids[:60] + other)
    assert np.abs(logits - wanted).max() < OTHER_SHAPES
    assert logits.argmax() == wanted.argmax()
    assert np.abs(logits - fresh_logits(starter, ids[:90])).max() > OTHER_SHAPES, "the two ways do differ"


def test_sequences_in_one_batch_do_not_see_each_other(starter: Model, context: Context, ids: list[int]) -> None:
    first, second = ids[:50], ids[30:90]
    assert context.decode([chunk(0, 0, first), chunk(1, 0, second)])
    for row, alone in ((49, first), (109, second)):
        wanted = fresh_logits(starter, alone)
        assert np.abs(context.logits(row) - wanted).max() < OTHER_SHAPES
        assert context.logits(row).argmax() == wanted.argmax()


# sampling


@pytest.fixture
def decoded(context: Context, ids: list[int]) -> Context:
    """A context whose row 9 has logits."""
    assert context.decode([chunk(0, 0, ids[:10])])
    return context


def draws(context: Context, params: SamplingParams, seed: int, count: int = 30) -> list[int]:
    sampler = Sampler(params, seed, context.n_vocab)
    try:
        return [sampler.sample(context, 9) for _ in range(count)]
    finally:
        sampler.close()


def test_greedy_takes_the_largest(decoded: Context) -> None:
    before = decoded.logits(9).copy()
    assert set(draws(decoded, GREEDY, 1)) == {int(before.argmax())}
    assert np.array_equal(decoded.logits(9), before), "drawing changes no logits"


def test_one_candidate_is_the_largest(decoded: Context) -> None:
    assert set(draws(decoded, replace(PLAIN, top_k=1, temperature=5.0), 1)) == {int(decoded.logits(9).argmax())}
    assert set(draws(decoded, replace(PLAIN, top_p=0.0), 1)) == {int(decoded.logits(9).argmax())}
    assert set(draws(decoded, replace(PLAIN, min_p=1.0), 1)) == {int(decoded.logits(9).argmax())}


def test_a_seed_makes_it_repeatable(decoded: Context) -> None:
    first, again, other = (draws(decoded, PLAIN, seed) for seed in (7, 7, 8))
    assert first == again
    assert first != other
    assert len(set(first)) > 3


def test_top_k_draws_from_the_k_largest(decoded: Context) -> None:
    best = set(np.argsort(decoded.logits(9))[-5:].tolist())
    assert set(draws(decoded, replace(PLAIN, top_k=5, temperature=10.0), 3, count=200)) == best


def test_masked_tokens_are_never_drawn(decoded: Context) -> None:
    logits = decoded.logits(9)
    allowed = np.argsort(logits)[:3].tolist()  # the three worst
    kept = logits[allowed].copy()
    logits[:] = -np.inf
    logits[allowed] = kept
    for params in (GREEDY, PLAIN, replace(PLAIN, repeat_penalty=1.3, top_k=40, top_p=0.9, min_p=0.1)):
        assert set(draws(decoded, params, 1)) <= set(allowed)


def test_the_penalty_remembers_drawn_and_forced_tokens(decoded: Context) -> None:
    best, second = np.argsort(decoded.logits(9))[:-3:-1].tolist()
    penalty = replace(GREEDY, repeat_penalty=10.0)
    assert draws(decoded, penalty, 1, count=2)[0] == best
    assert draws(decoded, penalty, 1, count=2)[1] != best
    sampler = Sampler(penalty, 1, decoded.n_vocab)
    sampler.accept(best)
    assert sampler.sample(decoded, 9) == second
    sampler.close()


# the vocabulary


def test_no_token_that_ends_a_generation_is_plain_text(vocab_folder: Path) -> None:
    for file in sorted(vocab_folder.glob("*.gguf")):
        model = Model(file, vocab_only=True)
        vocabulary = model.vocabulary
        assert vocabulary.eog == {
            token for token in range(vocabulary.size) if lib().llama_vocab_is_eog(model.vocabulary._live, token)
        }, file.name
        model.close()


def test_what_ends_a_generation(starter: Model, vocab_folder: Path) -> None:
    assert {starter.vocabulary.text(token) for token in starter.vocabulary.eog} >= {"<|im_end|>", "<|endoftext|>"}
    wanted = {
        "llama-bpe": {"<|end_of_text|>", "<|eot_id|>"}, "qwen2": {"<|im_end|>", "<|endoftext|>", "</s>"},
        "llama-spm": {"</s>"}, "bert-bge": {"[PAD]"},
    }  # fmt: skip
    for name, words in wanted.items():
        model = Model(vocab_folder / f"ggml-vocab-{name}.gguf", vocab_only=True)
        assert {model.vocabulary.text(token) for token in model.vocabulary.eog} == words
        model.close()


def test_tokenize_without_special_knows_no_control_words(starter: Model) -> None:
    vocabulary = starter.vocabulary
    assert vocabulary.tokenize("<|im_end|>", special=True) == [vocabulary.control["<|im_end|>"]]
    assert vocabulary.control["<|im_end|>"] not in vocabulary.tokenize("<|im_end|>")
    assert vocabulary.tokenize("") == []
    assert len(vocabulary.tokenize("가" * 50_000)) >= 50_000
    assert vocabulary.longest_piece == max(len(piece) for piece in vocabulary.pieces)


def test_facts_about_the_starter_model(starter: Model, starter_gguf: Path) -> None:
    assert 0 < starter.size < starter_gguf.stat().st_size
    assert starter.context_length == 8192
    assert "<|im_start|>" in (starter.chat_template or "")
    assert starter.vocabulary.size == 49_152
