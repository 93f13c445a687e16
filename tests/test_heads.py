"""The three heads of a small random model of BGE-M3's form, against the published formulas.

The formulas are written out here once more, from their authors' paper (Chen et al. 2024, arXiv 2402.03216, section 3.2)
and code (FlagEmbedding), one text at a time and token by token, over what transformers makes of the text by itself.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_embedder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tiny_embedder import MULTI, WIDTH, WINDOW, spec

from engine.embedder import Embedder
from engine.errors import EngineError, ModelCorrupt
from engine.heads import HeadDamaged, Heads
from engine.views import HEADS, Head, Views

SPARSE, COLBERT = "sparse_linear.safetensors", "colbert_linear.safetensors"
FILES: dict[Head, str] = {"sparse": SPARSE, "multi": COLBERT}
LONG = "오늘 서울 날씨가 맑습니다. 나는 hello 김치 the 김치, 산책을 가요! " * 9
TEXTS = [
    "안녕하세요, 나는 서울에서 김치를 먹습니다.",
    "a",
    "hello hello 안녕 hello 안녕",
    " ",
    "🍚🍚?",
    "가" * 40,
    "오늘 <mask> 날씨 </s> 어때 <unk> 맑아 <s>",
    LONG,
    "the 김치 the 김치",
]
WORDS = [
    "안녕",
    "나는 ",
    "서울",
    " ",
    "  ",
    "김치",
    "hello",
    "the",
    "The",
    "a",
    "?",
    ". ",
    "\n",
    "🍚",
    "뷁",
    "한글",
    "3.14",
]
WILD = st.one_of(
    st.lists(st.sampled_from([*WORDS, "<mask>", "</s>"]), min_size=1, max_size=100).map("".join),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=100),
)
WANTED = st.lists(st.sampled_from(HEADS), unique=True)
EXAMPLES = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Reference:
    """What the paper says that a text's views are."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer, XLMRobertaModel

        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = XLMRobertaModel.from_pretrained(folder, local_files_only=True).eval()
        self.dropped = {self.tokenizer.convert_tokens_to_ids(t) for t in ("<s>", "</s>", "<pad>", "<unk>", "<mask>")}
        tensors = tiny_embedder.heads()
        self.lexical, self.multi = tensors[SPARSE], tensors[COLBERT]

    def hidden(self, ids: list[int]) -> list[Any]:
        """Return a text's hidden states, one a token; it is alone, so that nothing is padded."""
        import torch

        with torch.no_grad():
            states = self.model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        return [np.array(state, np.float64) for state in states.tolist()]

    def views(self, text: str) -> Views:
        """Return the three views of a text that fits the window."""
        ids = self.tokenizer(text)["input_ids"]
        assert len(ids) <= WINDOW
        states = self.hidden(ids)
        dense = states[0] / math.sqrt(float(states[0] @ states[0]))
        sparse: dict[int, float] = {}
        for token, state in zip(ids, states, strict=True):
            weight = max(0.0, float(self.lexical["weight"][0] @ state) + float(self.lexical["bias"][0]))
            if weight > 0 and token not in self.dropped:
                sparse[token] = max(weight, sparse.get(token, 0.0))
        multi = []
        for state in states[1:]:
            vector = self.multi["weight"] @ state + self.multi["bias"]
            multi.append(vector / math.sqrt(float(vector @ vector)))
        return Views(dense, sparse, np.array(multi))

    def long(self, windows: list[str]) -> Views:
        """Return the views of a text that is read in these windows, as issue 6 says: mean, maximum, in a row."""
        parts = [self.views(window) for window in windows]
        total: Any = np.zeros(WIDTH)
        sparse: dict[int, float] = {}
        for window, part in zip(windows, parts, strict=True):
            assert part.sparse is not None
            total = total + part.dense * max(1, len(self.tokenizer(window)["input_ids"]) - 2)
            for token, weight in part.sparse.items():
                sparse[token] = max(weight, sparse.get(token, 0.0))
        multi = [row for part in parts for row in list(np.array(part.multi))]
        return Views(total / math.sqrt(float(total @ total)), sparse, np.array(multi))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_embedder.once(tmp_path_factory, tiny_embedder.bge)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder)


@pytest.fixture(scope="module")
def embedder(folder: Path) -> Iterator[Embedder]:
    opened = Embedder(folder, spec())
    yield opened
    opened.close()


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def expected(reference: Reference, embedder: Embedder, text: str) -> Views:
    pieces = [piece.text for piece in embedder.reader.pieces([text], "passage")]
    assert "".join(pieces) == text
    return reference.views(text) if len(pieces) == 1 else reference.long(pieces)


def same(found: Views, wanted: Views, heads: Sequence[Head] = HEADS) -> None:
    """Compare to 1e-5; what is not in `heads` must not be there."""
    assert (found.dense is not None, found.sparse is not None, found.multi is not None) == tuple(
        head in heads for head in HEADS
    )
    if found.dense is not None:
        assert found.dense.dtype == np.float32
        np.testing.assert_allclose(found.dense, wanted.dense, rtol=0, atol=1e-5)
    if found.sparse is not None and wanted.sparse is not None:
        same_weights(found.sparse, wanted.sparse)
    if found.multi is not None and wanted.multi is not None:
        assert found.multi.dtype == np.float32
        assert found.multi.shape == wanted.multi.shape
        np.testing.assert_allclose(found.multi, wanted.multi, rtol=0, atol=1e-5)


def same_weights(found: dict[int, float], wanted: dict[int, float]) -> None:
    for token in found.keys() | wanted.keys():  # where one rounds to nothing, the other is next to nothing
        assert found.get(token, 0.0) == pytest.approx(wanted.get(token, 0.0), rel=1e-5, abs=1e-5)
    assert all(type(token) is int and type(weight) is float and weight > 0 for token, weight in found.items())


# The formulas


@pytest.mark.parametrize("text", TEXTS)
def test_each_view_is_that_of_the_paper(embedder: Embedder, reference: Reference, text: str) -> None:
    (found,) = embedder.embed([text], "passage", HEADS)
    same(found, expected(reference, embedder, text))
    if text != LONG:
        same(found, reference.views(text))  # whatever the engine says that its pieces are


def test_what_the_texts_above_are_there_for(embedder: Embedder, reference: Reference) -> None:
    """A reference in which nothing is dropped, cut to zero or repeated would agree with a wrong head, too."""
    repeated = reference.tokenizer("hello hello 안녕 hello 안녕")["input_ids"]
    assert len(repeated) > len(set(repeated)) + 2
    views = [expected(reference, embedder, text) for text in TEXTS]
    tokens = {token for text in TEXTS for token in reference.tokenizer(text, verbose=False)["input_ids"]}
    weighty = {token for each in views for token in each.sparse or ()}
    assert tokens & reference.dropped == reference.dropped - {reference.tokenizer.pad_token_id}
    assert 5 < len(weighty) < len(tokens - reference.dropped) - 5
    for token in reference.dropped:  # a marker would weigh something, were it not dropped
        states = reference.hidden([0, token, *repeated[1:]])
        assert any((reference.lexical["weight"][0] @ state + reference.lexical["bias"]).item() > 0 for state in states)


@EXAMPLES
@given(texts=st.lists(WILD, min_size=1, max_size=5), wanted=WANTED)
def test_any_texts_in_any_company(
    embedder: Embedder, reference: Reference, texts: list[str], wanted: list[Head]
) -> None:
    found = embedder.embed(texts, "passage", wanted)
    assert len(found) == len(texts)
    for text, views in zip(texts, found, strict=True):
        same(views, expected(reference, embedder, text), wanted)


def test_company_and_order_change_nothing(embedder: Embedder) -> None:
    alone = [embedder.embed([text], "passage", HEADS)[0] for text in TEXTS]
    for seed in range(5):
        order = random.Random(seed).choices(range(len(TEXTS)), k=25)
        for at, found in zip(order, embedder.embed([TEXTS[at] for at in order], "passage", HEADS), strict=True):
            same(found, alone[at])


@pytest.mark.parametrize("others", [["가" * 60], ["a"] * 7, ["가" * 60, "a", "나" * 30]])
def test_padding_changes_nothing_in_one_pass(embedder: Embedder, others: list[str]) -> None:
    """`embed` puts texts of like length together; a pass that is made by hand does not."""
    text = "안녕하세요 나는 서울"
    (alone,) = embedder.encode(list(embedder.reader.pieces([text], "query")), HEADS)
    for at in range(len(others) + 1):
        texts = [*others[:at], text, *others[at:]]
        found = embedder.encode(list(embedder.reader.pieces(texts, "query")), HEADS)
        same(found[at], alone)
        assert found[at].multi is not None
        assert len(found[at].multi) == len(embedder.reader._tokenize([text])[0]) - 1


def test_no_texts_are_no_views(embedder: Embedder) -> None:
    assert embedder.embed([], "query", HEADS) == []


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64"])
def test_weights_are_read_as_the_numbers_that_they_are(copy: Path, name: str) -> None:
    """The authors publish half precision."""
    import torch
    from safetensors.torch import save_file as save

    kinds = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
    embedded = []
    for kind in (kinds[name], torch.float32):
        for file, tensors in tiny_embedder.heads().items():
            rounded = {part: torch.from_numpy(numbers).to(kinds[name]).to(kind) for part, numbers in tensors.items()}
            save(rounded, copy / file)
        embedded.append(Embedder(copy, spec()).embed(TEXTS, "query", HEADS))
    for found, wanted in zip(*embedded, strict=True):
        same(found, wanted)


# Which heads are there, and which are computed


@pytest.mark.parametrize("wanted", [(), ("dense",), ("sparse",), ("multi",), ("multi", "sparse"), HEADS[::-1]])
def test_only_what_is_asked_for_is_computed(
    copy: Path, monkeypatch: pytest.MonkeyPatch, wanted: tuple[Head, ...]
) -> None:
    """Whatever else is asked of the model fails: its other heads raise, and its pooling, too."""
    opened = Embedder(copy, spec())
    whole = opened.embed(TEXTS, "passage", HEADS)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("computed without being asked for")

    for head in FILES:
        if head not in wanted:
            monkeypatch.setattr(Heads, head, fail)
    if "dense" not in wanted:
        monkeypatch.setattr("sentence_transformers.sentence_transformer.modules.Pooling.forward", fail)
    for found, views in zip(opened.embed(TEXTS, "passage", wanted), whole, strict=True):
        same(found, views, wanted)
    missing: list[Head] = [head for head in HEADS if head not in wanted]
    for head in missing:
        with pytest.raises(AssertionError, match="without being asked for"):
            opened.embed(TEXTS[:1], "passage", [head])


@pytest.mark.parametrize("there", [(), ("sparse",), ("multi",), ("sparse", "multi")])
def test_the_heads_are_those_whose_files_are_there(copy: Path, embedder: Embedder, there: tuple[Head, ...]) -> None:
    for head, file in FILES.items():
        if head not in there:
            (copy / file).unlink()
    opened = Embedder(copy, spec())
    assert opened.heads == ("dense", *there)
    found, whole = (each.embed(TEXTS, "passage", HEADS) for each in (opened, embedder))
    for views, wanted in zip(found, whole, strict=True):
        same(views, wanted, ("dense", *there))


def test_the_entry_may_leave_heads_out(folder: Path, embedder: Embedder) -> None:
    opened = Embedder(folder, spec(heads=["dense", "multi"]))
    assert opened.heads == ("dense", "multi")
    (found,), (whole,) = (each.embed(["서울"], "passage", HEADS) for each in (opened, embedder))
    same(found, whole, ("dense", "multi"))


def test_what_is_known_of_the_model(embedder: Embedder) -> None:
    assert (embedder.heads, embedder.dim, embedder.max_tokens) == (HEADS, WIDTH, WINDOW)
    (found,) = embedder.embed(["서울"], "passage", HEADS)
    assert found.multi is not None
    assert found.multi.shape == (2, MULTI)  # one syllable pair is one token; the end is the other


def mean(folder: Path) -> Path:
    """Write a model of E5's form."""
    return tiny_embedder.plain(folder, "mean")


def test_a_model_without_heads_gives_its_own_dense_vectors(
    tmp_path_factory: pytest.TempPathFactory, reference: Reference
) -> None:
    """The mean over all tokens, the prefix's and the markers included, as E5 has it."""
    opened = Embedder(tiny_embedder.once(tmp_path_factory, mean), spec(query_prefix="query: ", passage_prefix="글: "))
    assert opened.heads == ("dense",)
    prefixes: dict[Any, str] = {"query": "query: ", "passage": "글: "}
    for kind, prefix in prefixes.items():
        texts = [text for text in TEXTS if text != LONG]
        for text, found in zip(texts, opened.embed(texts, kind, HEADS), strict=True):
            states = reference.hidden(reference.tokenizer(prefix + text)["input_ids"])  # the weights are the same
            total = sum(states) / len(states)
            same(found, Views(total / math.sqrt(float(total @ total))), ("dense",))


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_embedder.once(tmp_path_factory, tiny_embedder.static)


@pytest.mark.parametrize("place", ["", "0_StaticEmbedding"])
def test_a_model_that_only_looks_tokens_up_gives_dense_alone(tmp_path: Path, place: str) -> None:
    opened = Embedder(tiny_embedder.static(tmp_path, place), spec(max_tokens=WINDOW))
    assert (opened.heads, opened.dim) == (("dense",), WIDTH)
    table = load_file(tmp_path / place / "model.safetensors")["embedding.weight"]
    texts = ["안녕하세요 서울", "a", "김치 김치 the"]
    for text, found in zip(texts, opened.embed(texts, "query", HEADS), strict=True):
        ids = tiny_embedder.tokenizer().encode(text, add_special_tokens=False).ids
        total = sum(table[token].astype(np.float64) for token in ids)
        same(found, Views(total / math.sqrt(float(total @ total))), ("dense",))


def test_a_model_that_only_looks_tokens_up_reads_a_text_whole(static: Path) -> None:
    opened = Embedder(static, spec())
    assert len(list(opened.reader.pieces([LONG * 40], "passage"))) == 1
    (found,), (wanted,) = opened.embed([LONG * 40], "passage"), opened.embed([LONG], "passage")
    same(found, wanted, ("dense",))  # it is the mean, wherever the tokens stand


# What is not a number, and what is not a head


@pytest.mark.parametrize("head", FILES)
@pytest.mark.parametrize("part", ["weight", "bias"])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_head_that_holds_what_is_no_number(copy: Path, head: Head, part: str, number: float) -> None:
    """Also where relu would hide it: of minus infinity it makes an ordinary nothing."""
    tensors = load_file(copy / FILES[head])
    tensors[part].flat[-1] = number
    save_file(tensors, copy / FILES[head])
    with pytest.raises(ModelCorrupt, match=r"Point source\.path at"):
        Embedder(copy, spec()).embed(["오늘 서울"], "query", [head])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_hidden_states_that_are_no_numbers(copy: Path, embedder: Embedder, head: Head, number: float) -> None:
    """One token's row is spoilt, which the load does not read; the texts beside it have done nothing."""
    weights = load_file(copy / "model.safetensors")
    (token,) = tiny_embedder.tokenizer().encode("뷁", add_special_tokens=False).ids[1:]
    weights["embeddings.word_embeddings.weight"][token, 0] = number
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    opened = Embedder(copy, spec())
    for texts in (["뷁"], ["서울", "오늘 뷁 김치"], [LONG + "뷁"]):
        with pytest.raises(ModelCorrupt, match=r"Point source\.path at"):
            opened.embed(texts, "passage", [head])
    (after,), (wanted,) = (each.embed(["서울"], "passage", [head]) for each in (opened, embedder))
    same(after, wanted, [head])


@pytest.mark.parametrize("head", FILES)
def test_a_head_too_large_for_its_numbers(copy: Path, head: Head) -> None:
    tensors = load_file(copy / FILES[head])
    tensors["weight"][:] = 3e38
    save_file(tensors, copy / FILES[head])
    with pytest.raises(ModelCorrupt):
        Embedder(copy, spec()).embed(["오늘 서울"], "query", [head])


def test_token_vectors_without_a_direction(copy: Path) -> None:
    save_file({name: np.zeros_like(numbers) for name, numbers in load_file(copy / COLBERT).items()}, copy / COLBERT)
    save_file({name: np.zeros_like(numbers) for name, numbers in load_file(copy / SPARSE).items()}, copy / SPARSE)
    opened = Embedder(copy, spec())
    with pytest.raises(ModelCorrupt, match="no direction"):
        opened.embed(["서울"], "query", ["multi"])
    assert opened.embed(["서울"], "query", ["sparse"])[0].sparse == {}  # to weigh nothing is an answer


def tensors(weight: tuple[int, ...], bias: tuple[int, ...], kind: str = "float32") -> dict[str, Any]:
    return {"weight": np.ones(weight, kind), "bias": np.ones(bias, kind)}


@pytest.mark.parametrize(
    ("head", "content"),
    [
        ("sparse", tensors((2, WIDTH), (2,))),
        ("sparse", tensors((WIDTH, 1), (1,))),
        ("sparse", tensors((1, WIDTH - 1), (1,))),
        ("sparse", tensors((WIDTH,), (1,))),
        ("sparse", tensors((1, WIDTH), (2,))),
        ("sparse", tensors((1, WIDTH), ())),
        ("multi", tensors((WIDTH, MULTI), (MULTI,))),
        ("multi", tensors((MULTI, WIDTH), (1,))),
        ("multi", tensors((MULTI, WIDTH), (WIDTH,))),
        ("multi", tensors((MULTI, WIDTH), (MULTI, 1))),
        ("multi", tensors((1, MULTI, WIDTH), (MULTI,))),
        ("multi", tensors((0, WIDTH), (0,))),
        ("multi", tensors((), ())),
        *[(head, tensors((1, WIDTH), (1,), kind)) for head in FILES for kind in ("int64", "int8", "bool", "uint16")],
        *[(head, {name: np.ones((1, WIDTH), np.float32)}) for head in FILES for name in ("weight", "bias", "linear")],
        *[(head, {}) for head in FILES],
    ],
)
def test_a_head_of_another_form(copy: Path, head: Head, content: dict[str, Any]) -> None:
    save_file(content, copy / FILES[head])
    with pytest.raises(ModelCorrupt, match=rf"{FILES[head]}.*Point source\.path at") as caught:
        Embedder(copy, spec())
    assert caught.value.path == str(copy)


@pytest.mark.parametrize("head", FILES)
@pytest.mark.parametrize("size", [0, 4, 8, 40, -1])
def test_a_truncated_head(copy: Path, head: Head, size: int) -> None:
    whole = (copy / FILES[head]).read_bytes()
    (copy / FILES[head]).write_bytes(whole[:size])
    with pytest.raises(ModelCorrupt, match=rf"{FILES[head]}.*gieok models pull tiny"):
        Embedder(copy, spec(source={"repo": "a/b"}))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), head=st.sampled_from(["sparse", "multi"]))
def test_a_damaged_head_is_refused_or_read(folder: Path, tmp_path: Path, data: st.DataObject, head: Head) -> None:
    """Whatever a file holds, reading it ends with a head or with the one error that says that it is damaged."""
    content = bytearray((folder / FILES[head]).read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    for at in data.draw(st.lists(st.integers(0, header - 1), min_size=1, max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    (tmp_path / FILES[head]).write_bytes(content)
    with contextlib.suppress(HeadDamaged):
        assert Heads(tmp_path, WIDTH, lambda weight, bias: lambda rows: rows @ weight.T + bias).names == (head,)


def test_a_head_whose_header_promises_more_than_there_is(copy: Path) -> None:
    table = {"weight": {"dtype": "F32", "shape": [1, WIDTH], "data_offsets": [0, 1 << 40]}}
    header = json.dumps(table).encode("utf-8")
    (copy / SPARSE).write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelCorrupt, match=SPARSE):
        Embedder(copy, spec())


# What the entry can spoil


def test_a_prefix_that_fills_the_window_is_an_error_that_says_so(folder: Path) -> None:
    """There is no room for a text behind it; nothing may be cut, and the table of positions ends."""
    with pytest.raises(EngineError, match="query_prefix"):
        Embedder(folder, spec(query_prefix="가" * WINDOW)).embed(["안녕하세요"], "query")


@pytest.mark.parametrize("blank", [" " * 4000, "\n" * 4000])
def test_windows_of_white_space_are_no_damage_of_the_model(static: Path, blank: str) -> None:
    """Where only tokens are looked up, white space has none, and the mean of none has no direction."""
    opened = Embedder(static, spec(max_tokens=WINDOW))
    whole = "서울 김치 오늘 " * 100
    (found,), (wanted,) = opened.embed([blank + whole + blank], "passage"), opened.embed([whole], "passage")
    assert found.dense is not None
    assert wanted.dense is not None
    assert float(found.dense @ wanted.dense) > 0.99
