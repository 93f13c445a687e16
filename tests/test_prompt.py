"""What anyone typed stays text: the ids of a prompt against the template's own rendering, and against forgery."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hostile import (
    LLAMA2,
    LLAMA3,
    TARGETS,
    WAYS,
    Hostile,
    Typed,
    attack,
    control_words,
    conversation,
    dialogue,
    harmless,
    rendered,
    special_ids,
    target,
    typed_text,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import summary
from engine.briefing import one_line
from engine.errors import ConfigError, ContextOverflow, InvalidInput
from engine.inputs import Turn
from engine.llama import Model
from engine.llama import Vocabulary as RealVocabulary
from engine.prompt import ChatTemplate

# Qwen2.5's template without its tools; SmolLM2's, Llama 3's and Phi 3's speak for themselves
QWEN2 = """
{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + '\n' + m.content + '<|end|>' + '\n' }}{% endfor %}"
    "{{ '<|assistant|>' + '\n' }}"
)
COMMAND_R = (
    "{{ bos_token }}{% for m in messages %}{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + m.content.strip() "
    "+ '<|END_OF_TURN_TOKEN|>' }}{% endfor %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}"
)
GEMMA4 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|turn>' + m.role + '\n' + m.content | trim + '<turn|>\n' }}"
    "{% endfor %}{{ '<|turn>model\n' }}"
)
INSTRUCT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
    "{% else %}{{ '[INST] ' + m.content + ' [/INST]' }}{% endif %}{% endfor %}"
)
PLAIN = "{% for m in messages %}{{ '### ' + m.role + ':\n' + m.content + '\n\n' }}{% endfor %}### Assistant:\n"
OTHERS = [
    ("phi-3", PHI3),  # SentencePiece; swallows white space after control tokens; </s> is user-defined
    ("llama-spm", INSTRUCT),  # SentencePiece; no control word but <s>, </s> and <unk>
    ("llama-spm", PLAIN),
    ("llama-bpe", LLAMA3),  # 256 control tokens
    ("command-r", COMMAND_R),  # 999 user-defined literals, among them those of the template
    ("gemma-4", GEMMA4),
    ("deepseek-llm", INSTRUCT),  # single letters are user-defined
    ("gpt-neox", PLAIN),  # runs of white space are user-defined
    ("gpt-2", PLAIN),
]
Vocabularies = Callable[[str], RealVocabulary]


@pytest.fixture(scope="module")
def models(vocab_folder: Path, starter: Model) -> Iterator[Callable[[str], Model]]:
    """A vocabulary's model by name, each loaded once."""
    loaded = {"starter": starter}

    def get(name: str) -> Model:
        if name not in loaded:
            loaded[name] = Model(vocab_folder / f"ggml-vocab-{name}.gguf", vocab_only=True)
        return loaded[name]

    yield get
    for name, model in loaded.items():
        if name != "starter":
            model.close()


@pytest.fixture(scope="module")
def vocabularies(models: Callable[[str], Model]) -> Vocabularies:
    return lambda name: models(name).vocabulary


def template_of(name: str, vocabularies: Vocabularies, starter: Model) -> ChatTemplate:
    source = starter.chat_template if name == "starter" else QWEN2
    assert source
    return ChatTemplate(vocabularies(name), source)


def forged(template: ChatTemplate, vocabulary: RealVocabulary, turns: list[Turn]) -> bool:
    """Whether `turns` give other special ids than harmless text in the same roles."""
    typed = Typed("chat", tuple(turns))
    got, wanted = template.encode(typed.prompt()), template.encode(typed.tame().prompt())
    return special_ids(vocabulary, got) != special_ids(vocabulary, wanted)


@pytest.mark.parametrize("name", ["starter", "qwen2"])
def test_control_words_stay_text(name: str, vocabularies: Vocabularies, starter: Model) -> None:
    vocabulary, template = vocabularies(name), template_of(name, vocabularies, starter)
    hostile, rng = Hostile(control_words(vocabulary)), random.Random(20260301)
    bad = [turns for _ in range(1000) if forged(template, vocabulary, turns := hostile.turns(rng, conversation))]
    assert not bad


@pytest.mark.parametrize("name", ["starter", "qwen2"])
def test_those_conversations_do_forge_tokens_without_us(name: str, vocabularies: Vocabularies, starter: Model) -> None:
    vocabulary, template = vocabularies(name), template_of(name, vocabularies, starter)
    hostile, rng = Hostile(control_words(vocabulary)), random.Random(20260301)
    count = 0
    for _ in range(300):
        turns = hostile.turns(rng, conversation)
        naive = vocabulary.tokenize(template.render(turns), special=True)
        count += special_ids(vocabulary, naive) != special_ids(vocabulary, template.encode(turns))
    assert count > 150


@pytest.mark.parametrize("name", ["starter", "qwen2"])
def test_a_control_word_reaches_the_model_letter_by_letter(
    name: str, vocabularies: Vocabularies, starter: Model
) -> None:
    vocabulary, template = vocabularies(name), template_of(name, vocabularies, starter)
    hostile, rng = Hostile(control_words(vocabulary)), random.Random(4)
    for _ in range(200):
        turns = [Turn("system", hostile(rng)), Turn("user", hostile(rng))]
        shown = b"".join(map(vocabulary.pieces.__getitem__, template.encode(turns))).decode()
        assert shown == f"system\n{turns[0].content}\nuser\n{turns[1].content}\nassistant\n"


@pytest.mark.parametrize(("name", "source"), OTHERS)
def test_control_words_stay_text_in_other_vocabularies(name: str, source: str, vocabularies: Vocabularies) -> None:
    vocabulary = vocabularies(name)
    template = ChatTemplate(vocabulary, source)
    hostile, rng = Hostile(control_words(vocabulary)), random.Random(7)
    bad = [turns for _ in range(150) if forged(template, vocabulary, turns := hostile.turns(rng, conversation))]
    assert not bad


@pytest.mark.parametrize("name", TARGETS)
def test_no_way_into_a_prompt_forges_a_token(name: str, models: Callable[[str], Model]) -> None:
    """A tenth of what `scripts/soak.py prompts` runs."""
    model = models(name)
    tally = attack(target(name, model), model.vocabulary, 80, random.Random(20260305))
    assert (tally.forged, tally.different) == (0, 0)
    assert tally.messages >= 80
    assert tally.parsed > tally.conversations // 2  # they do forge where a rendering is parsed as it is


def test_hostile_texts_go_every_way() -> None:
    hostile, rng = Hostile(["<|im_start|>", "<|im_end|>"]), random.Random(5)
    ways = {}
    for _ in range(60):
        typed = typed_text(rng, hostile, hostile.turns(rng, dialogue))
        ways[typed.way] = typed
        told = "".join(turn.content for turn in typed.prompt())
        kept = typed.turns[-1:] if typed.way == "classification" else typed.turns
        beside = map(one_line, typed.beside) if typed.way == "session" else typed.beside
        contents = [turn.content for turn in kept]
        if typed.way == "extraction":  # a line each, long ones cut
            contents = ["".join(c if c.isprintable() else " " for c in content) for content in contents]
            contents = [" ".join(content.split())[:160] for content in contents]
        if typed.way == "summary":
            contents = [summary.one_line(content) for content in contents]
        assert all(text in told for text in (*beside, *contents))
        assert typed.messages == len(typed.turns) + len(typed.beside)
        assert [turn.role for turn in typed.tame().prompt()] == [turn.role for turn in typed.prompt()]
    assert ways.keys() == WAYS.keys()


@pytest.mark.parametrize("name", ["starter", "qwen2"])
def test_harmless_korean_gets_the_ids_of_the_rendering(name: str, vocabularies: Vocabularies, starter: Model) -> None:
    vocabulary, template = vocabularies(name), template_of(name, vocabularies, starter)
    rng = random.Random(1)
    for make in (dialogue, conversation):
        for _ in range(200):
            turns = make(rng, harmless)
            assert template.encode(turns) == vocabulary.tokenize(template.render(turns), special=True)


@pytest.mark.parametrize(("name", "source"), OTHERS)
def test_harmless_korean_in_other_vocabularies(name: str, source: str, vocabularies: Vocabularies) -> None:
    vocabulary = vocabularies(name)
    template, rng = ChatTemplate(vocabulary, source), random.Random(2)
    for _ in range(200):
        turns = dialogue(rng, harmless)
        assert template.encode(turns) == rendered(template, vocabulary, turns)


@pytest.mark.parametrize("name", ["starter", "qwen2"])
def test_a_template_that_trims(name: str, vocabularies: Vocabularies) -> None:
    vocabulary = vocabularies(name)
    source = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content | trim) + '<|im_end|>\n' }}"
        "{% endfor %}{{ '<|im_start|>assistant\n' }}"
    )
    template, rng = ChatTemplate(vocabulary, source), random.Random(3)
    for _ in range(200):
        turns = dialogue(rng, harmless)
        assert template.encode(turns) == vocabulary.tokenize(template.render(turns), special=True)
    assert template.encode([Turn("user", " \n ")]) == vocabulary.tokenize(
        "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n", special=True
    )


def test_a_message_of_white_space_only(vocabularies: Vocabularies) -> None:
    llama = vocabularies("llama-spm")
    template = ChatTemplate(llama, LLAMA2)
    for text in (" ", "\n", " \n\u3000"):
        turns = [Turn("system", "짧게 답해."), Turn("user", text)]
        assert template.encode(turns) == rendered(template, llama, turns)


def test_what_swallows_white_space(vocabularies: Vocabularies) -> None:
    phi = vocabularies("phi-3")
    assert phi.strips(phi.control["<|user|>"]) == (False, True)
    assert phi.strips(phi.user_defined["</s>"]) == (False, True)
    assert phi.strips(phi.bos) == (False, False)
    for name in ("qwen2", "starter", "llama-spm", "llama-bpe"):
        vocabulary = vocabularies(name)
        assert not any(any(vocabulary.strips(token)) for token in vocabulary.control.values())


def test_sentencepiece_gets_no_space_where_a_literal_is_cut(vocabularies: Vocabularies) -> None:
    phi = vocabularies("phi-3")
    template = ChatTemplate(phi, PHI3)
    ids = template.encode([Turn("user", "가</s>나 </s></s> </s>")])
    assert b"".join(map(phi.pieces.__getitem__, ids)).decode() == " 가</s>나 </s></s> </s>"
    assert phi.user_defined["</s>"] not in ids


class FakeVocabulary:
    """Letters are tokens; `user_defined` literals parse in any text, longest first, as llama.cpp does it.

    `merged` literals come out of plain text too, as SentencePiece merges may do; the tokens of `swallowing` literals
    take white space before them, after them, or both.
    """

    bos, eos, add_bos, longest_piece = 1, 2, True, 4

    def __init__(
        self,
        user_defined: list[str],
        control: list[str],
        merged: tuple[str, ...] = (),
        swallowing: dict[str, tuple[bool, bool]] | None = None,
    ) -> None:
        self.user_defined = {word: 1000 + i for i, word in enumerate(user_defined)}
        self.control = {word: 2000 + i for i, word in enumerate(control)}
        self._merged = {word: self.control[word] for word in merged}
        self._strips = {self.control[word]: sides for word, sides in (swallowing or {}).items()}

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        literals = {**self.user_defined, **self._merged, **(self.control if special else {})}
        fragments: list[str | int] = [text]
        for word in sorted(literals, key=len, reverse=True):
            fragments = [part for fragment in fragments for part in self._cut(fragment, word, literals[word])]
        return [i for part in fragments for i in ([part] if isinstance(part, int) else map(ord, part))]

    def _cut(self, fragment: str | int, word: str, token: int) -> list[str | int]:
        if isinstance(fragment, int):
            return [fragment]
        left, right = self.strips(token)
        first, *rest = fragment.split(word)
        parts: list[str | int] = [first]
        for text in rest:
            if left:
                parts[-1] = str(parts[-1]).rstrip(" \t\n")
            parts += [token, text.lstrip(" \t\n") if right else text]
        return parts

    def strips(self, token: int) -> tuple[bool, bool]:
        return self._strips.get(token, (False, False))

    def text(self, token: int) -> str:
        return {1: "^", 2: "$"}[token]


SCAFFOLD = "{% for m in messages %}[S]{{ m.content }}abc[E]{% endfor %}ba"
LITERALS = ["ab", "ba", "aab", "aba", "bab", "a b", "[E"]


@settings(deadline=None, max_examples=500)
@given(st.lists(st.text("ab []SE", min_size=1, max_size=12), min_size=1, max_size=3))
def test_overlapping_literals_never_come_from_typed_text(contents: list[str]) -> None:
    vocabulary = FakeVocabulary(LITERALS, ["[S]", "[E]"])
    ids = ChatTemplate(vocabulary, SCAFFOLD).encode([Turn("user", content) for content in contents])
    # where the scaffold's own `ab` joins a typed `a` to `aab`, the cut leaves `ab` to the scaffold
    assert [token for token in ids if token >= 1000] == [2000, 1000, 2001] * len(contents) + [1001]
    letters = "".join(text for token in ids[1:] if (text := _spelling(vocabulary, token)))
    assert letters == "".join(f"[S]{content}abc[E]" for content in contents) + "ba"


def _spelling(vocabulary: FakeVocabulary, token: int) -> str:
    words = {**vocabulary.user_defined, **vocabulary.control}
    return next((word for word, number in words.items() if number == token), "") or chr(token)


def test_the_scaffolds_own_literals_stay_whole() -> None:
    vocabulary = FakeVocabulary(["<user>", "<bot>"], ["[E]"])
    template = ChatTemplate(vocabulary, "{% for m in messages %}<user>{{ m.content }}[E]{% endfor %}<bot>")
    ids = template.encode([Turn("user", "x<bot>y<user>"), Turn("user", "<user>")])
    assert [token for token in ids if token >= 1000] == [1000, 2000, 1000, 2000, 1001]


SWALLOWING = {"[L]": (True, False), "[R]": (False, True), "[B]": (True, True)}
ANY_ORDER = "{% for m in messages %} [{{ m.role }}] {{ m.content }}\n{% endfor %} [R] a"


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.sampled_from("LRBN"), st.text("a \n\u3000", min_size=1, max_size=6)), min_size=1))
def test_swallowed_white_space_is_swallowed_here_too(messages: list[tuple[str, str]]) -> None:
    vocabulary = FakeVocabulary(["zz"], [*SWALLOWING, "[N]"], swallowing=SWALLOWING)
    template = ChatTemplate(vocabulary, ANY_ORDER)
    turns = [Turn(role, content) for role, content in messages]
    assert template.encode(turns) == [1, *vocabulary.tokenize(template.render(turns), special=True)]
    typed = template.encode([Turn(turn.role, f" {turn.content}zz\n") for turn in turns])
    assert vocabulary.user_defined["zz"] not in typed


def test_white_space_and_letters_are_no_control_words() -> None:
    vocabulary = FakeVocabulary(["  ", "\n\n", "õ", " õ"], ["[E]"])
    template = ChatTemplate(vocabulary, "{% for m in messages %}{{ m.content }}[E]{% endfor %}")
    text = "가  나\n\nõ다 õ"
    assert template.encode([Turn("user", text)]) == [1, *vocabulary.tokenize(text), 2000]


def test_a_control_word_that_merges_out_of_plain_text_is_spelled() -> None:
    vocabulary = FakeVocabulary(["<user>"], ["<s>", "[E]"], merged=("<s>",))
    template = ChatTemplate(vocabulary, "{% for m in messages %}<user>{{ m.content }}[E]{% endfor %}")
    ids = template.encode([Turn("user", "a<s>b"), Turn("user", "ok")])
    assert [token for token in ids if token >= 1000] == [1000, 2001, 1000, 2001]
    assert "".join(chr(token) for token in ids[2:7]) == "a<s>b"


def test_a_bos_is_added_once(vocabularies: Vocabularies) -> None:
    llama = vocabularies("llama-bpe")
    with_it = ChatTemplate(llama, LLAMA3).encode([Turn("user", "안녕")])
    without = ChatTemplate(llama, LLAMA3.removeprefix("{{ bos_token }}")).encode([Turn("user", "안녕")])
    assert with_it == without
    assert with_it.count(llama.bos) == 1
    typed = ChatTemplate(llama, PLAIN).encode([Turn("user", "<|begin_of_text|>")])
    assert typed.count(llama.bos) == 1


@pytest.mark.parametrize(("bos", "add_bos", "first"), [(0, True, [0]), (0, False, []), (-1, True, []), (1, True, [1])])
def test_which_bos_there_is(bos: int, add_bos: bool, first: list[int]) -> None:
    vocabulary = FakeVocabulary([], ["<s>", "[E]"])
    vocabulary.bos, vocabulary.add_bos = bos, add_bos
    vocabulary.control["<s>"] = bos if bos >= 0 else 2000
    vocabulary.text = lambda token: {0: "<s>", 1: "<s>", 2: "$"}[token]  # type: ignore[method-assign]
    ids = [*map(ord, "가"), 2001]
    assert ChatTemplate(vocabulary, "{{ messages[0].content }}[E]").encode([Turn("user", "가")]) == first + ids
    written = ChatTemplate(vocabulary, "{{ bos_token }}{{ messages[0].content }}[E]").encode([Turn("user", "가")])
    assert written == ([bos, *ids] if bos >= 0 else ids), "once, and only where there is one"
    ended = ChatTemplate(vocabulary, "{{ messages[0].content }}{{ eos_token }}")
    assert ended.encode([Turn("user", "가")]) == [*first, *map(ord, "가$")]
    vocabulary.eos = -1
    assert ended.encode([Turn("user", "가")]) == [*first, *map(ord, "가")]


def test_a_control_word_that_begins_another_is_not_taken_for_it() -> None:
    vocabulary = FakeVocabulary([], ["<s>", "<s>>", "a"])
    template = ChatTemplate(vocabulary, "<s>>{{ messages[0].content }}<s>")
    assert template.encode([Turn("user", "x")]) == [1, 2001, ord("x"), 2000]


def test_a_control_word_of_several_lines_is_spelled() -> None:
    """Also where a line break and what follows it merge: each letter is then tokenised alone."""
    vocabulary = FakeVocabulary([], ["\n>", "[E]"], merged=("\n>",))
    template = ChatTemplate(vocabulary, "{{ messages[0].content }}[E]")
    assert template.encode([Turn("user", "a\n>b\n>")]) == [1, *map(ord, "a\n>b\n>"), 2001]


def test_a_literal_is_cut_only_where_it_reaches_into_what_was_typed() -> None:
    vocabulary = FakeVocabulary(["<u>", ">>", "ab"], ["[E]", "[L]"], swallowing={"[L]": (False, True)})
    template = ChatTemplate(vocabulary, "[L]  <u>{{ messages[0].content }}<u>[E]")
    assert template.encode([Turn("user", "가")]) == [1, 2001, 1000, ord("가"), 1000, 2000]
    assert template.encode([Turn("user", " ab ")]) == [1, 2001, 1000, *map(ord, " ab "), 1000, 2000]
    assert template.encode([Turn("user", ">")]) == [1, 2001, 1000, ord(">"), 1000, 2000]
    beside = ChatTemplate(vocabulary, "{{ messages[0].content }}b[L]{{ messages[1].content }}>[E]")
    assert beside.encode([Turn("user", "a"), Turn("user", ">")]) == [1, *map(ord, "ab"), 2001, *map(ord, ">>"), 2000]


def test_a_literal_that_begins_another_does_not_hide_it() -> None:
    vocabulary = FakeVocabulary(["ab", "abc"], ["[E]"])
    template = ChatTemplate(vocabulary, "ab{{ messages[0].content }}[E]")
    assert template.encode([Turn("user", "c")]) == [1, *map(ord, "abc"), 2000]
    assert template.encode([Turn("user", "d")]) == [1, 1000, ord("d"), 2000]


@pytest.mark.parametrize("word", ["m", "X", "İ", ""])
def test_white_space_is_no_message_to_be_kept(word: str) -> None:
    """Nor is it looked for: its place in the rendering may be trimmed away, whatever the template writes."""
    vocabulary = FakeVocabulary([], ["[E]"])
    template = ChatTemplate(vocabulary, "{% for m in messages %}{{ m.content | trim }}" + word + "[E]{% endfor %}")
    once = [*map(ord, word), 2000]
    assert template.encode([Turn("user", " \u3000"), Turn("user", "X"), Turn("user", "\n")]) == (
        [1, *once, ord("X"), *once, *once]
    )


def test_a_vocabulary_without_eos(vocabularies: Vocabularies) -> None:
    bert = vocabularies("bert-bge")
    assert bert.eos == -1
    assert ChatTemplate(bert, INSTRUCT).encode([Turn("user", "hi"), Turn("assistant", "yes")])


def test_no_mark_is_left_in_a_prompt(vocabularies: Vocabularies, starter: Model) -> None:
    template = template_of("starter", vocabularies, starter)
    text = "m" + "0123456789abcdef" * 2  # looks like a mark, and is text
    ids = template.encode([Turn("system", text), Turn("user", "mm" + text)])
    shown = b"".join(map(vocabularies("starter").pieces.__getitem__, ids)).decode()
    assert shown == f"system\n{text}\nuser\nmm{text}\nassistant\n"


def test_template_arguments_reach_the_template(vocabularies: Vocabularies) -> None:
    template = ChatTemplate(vocabularies("starter"), "{{ mood }}{{ messages[0].content }}", {"mood": "기쁨 "})
    assert template.render([Turn("user", "안녕")]) == "기쁨 안녕"


def test_a_broken_template_is_a_config_error(vocabularies: Vocabularies) -> None:
    with pytest.raises(ConfigError, match="cannot be compiled: Unexpected end of template"):
        ChatTemplate(vocabularies("starter"), "{% for m in messages %}")


@pytest.mark.parametrize(
    "source",
    ["{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "{% for m in messages %}" * 25 + "{% endfor %}" * 25],
)
def test_a_template_that_is_nested_too_deeply_is_a_config_error(source: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be compiled: (maximum recursion|too many)"):
        ChatTemplate(FakeVocabulary([], []), source)


def test_templates_are_written_as_transformers_reads_them() -> None:
    source = (
        "  {% for m in messages %}\n{{ m.content }};\n  {% if loop.first %}{% continue %}{% endif %}\n"
        "{% break %}\n  {% endfor %}\n{{ messages | tojson }} {{ {'a': '가'} | tojson(indent=2) }}"
    )
    template = ChatTemplate(FakeVocabulary([], []), source)
    assert template.render([Turn("user", word) for word in ("하나", "둘", "셋")]) == (
        '하나;\n둘;\n[{"role": "user", "content": "하나"}, {"role": "user", "content": "둘"}, '
        '{"role": "user", "content": "셋"}] {\n  "a": "가"\n}'
    )


def test_a_template_may_refuse_in_its_own_words_and_they_are_not_shown() -> None:
    template = ChatTemplate(
        FakeVocabulary([], []), "{% if messages[1] %}{{ raise_exception('one only') }}{% endif %}ok"
    )
    assert template.encode([Turn("user", "a")]) == [1, *map(ord, "ok")]
    with pytest.raises(InvalidInput, match=r"\(TemplateError\)"):
        template.encode([Turn("user", "a"), Turn("user", "b")])


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0].content.nothing.more }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ 1 / 0 }}",
        "{{ 'x' + 1 }}",
        "{{ messages | tojson(indent='x') | int(base=99) + messages }}",
        "{{ 'x'.index('y') }}",
        "{{ '{a}'.format() }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    ],
)
def test_a_template_that_refuses_says_so(source: str, vocabularies: Vocabularies) -> None:
    with pytest.raises(InvalidInput, match=r"chat template refuses .* \(\w+Error\); .* the user last") as caught:
        ChatTemplate(vocabularies("starter"), source).encode([Turn("user", "비밀")])
    assert "비밀" not in str(caught.value)


def test_what_has_nothing_to_do_with_the_conversation_is_not_blamed_on_it() -> None:
    def broken() -> None:
        raise OSError("the disk")

    template = ChatTemplate(FakeVocabulary([], []), "{{ read() }}", {"read": broken})
    with pytest.raises(OSError, match="the disk"):
        template.encode([Turn("user", "a")])


def test_too_long_is_refused_before_tokenising() -> None:
    class Untouchable(FakeVocabulary):
        def tokenize(self, text: str, *, special: bool = False) -> list[int]:
            raise AssertionError("tokenised")

    template = ChatTemplate(Untouchable([], []), "{{ messages[0].content }}")
    with pytest.raises(ContextOverflow) as caught:
        template.encode([Turn("user", "가" * 400)], limit=299)
    assert (caught.value.tokens, caught.value.limit) == (300, 299)
    assert "at least 300 tokens" in str(caught.value)


def test_the_size_estimate_is_never_too_high(vocabularies: Vocabularies) -> None:
    vocabulary = vocabularies("starter")
    template = ChatTemplate(vocabulary, "{{ messages[0].content }}")
    longest = max(vocabulary.pieces, key=len).decode()
    for count in (1, 3, 50):
        turns = [Turn("user", longest * count)]
        assert len(template.encode(turns, limit=len(vocabulary.tokenize(longest * count)))) >= 1


@pytest.mark.parametrize("change", ["| upper", "[:20]", "[:12]", "[20:]", "[21:]", "| replace('m', 'n')"])
def test_a_template_that_changes_what_is_said_is_refused(starter: Model, change: str) -> None:
    source = "{% for message in messages %}<|im_start|>user\n{{ message.content " + change + " }}<|im_end|>{% endfor %}"
    template = ChatTemplate(starter.vocabulary, source)
    with pytest.raises(
        ConfigError, match=r"changes what a message says .* set chat_template .* in models.toml"
    ) as caught:
        template.encode([Turn("user", "안녕하세요")])
    assert "안녕" not in str(caught.value)


def test_a_template_may_leave_messages_out_or_show_one_twice() -> None:
    template = ChatTemplate(FakeVocabulary([], ["[E]"]), "{% set m = messages[-1].content %}{{ m }}[E]{{ m }}")
    assert template.encode([Turn("user", "a"), Turn("user", "b")]) == [1, ord("b"), 2000, ord("b")]
