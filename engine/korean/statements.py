"""What a statement says, as far as two of them can be compared: its words and their particles, tense and mood.

It reads the morphemes of Kiwi. Words come in one form each (`wordings`), numerals as digits with their unit, and a
negation belongs to the word that it denies (안 마시다, 마시지 않다 and 마실 수 없다 deny 마시다). The speaker is not
named, nor is what says nothing: fillers, auxiliary verbs, bound nouns.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from engine.korean.numerals import read_count
from engine.korean.wordings import AGAIN, FILLERS, NOW, PHRASES, one_form

Kind = Literal["noun", "name", "foreign", "number", "verb", "adverb"]
Mood = Literal["question", "wish", "plan", "decided", "if", "hearsay", "unsure", "remote"]
Token = tuple[str, str]

_SPEAKER = frozenset("나 저 내 제 우리 저희 난 전 사용자".split())
_BOUND = frozenset("것 거 게 수 등 중 쪽 줄 씨 님 때문 정도 상태 편 채 데 바 지 겸 건".split())
_SUFFIXES_LEFT_OUT = frozenset("님 이 네 들 씨 쯤 째 씩".split())
_NAMES_OF_SIGNS = ("SL", "SH", "UN", "W_")
_SIGNS = frozenset("% ℃ ° ₩ $ € + - ~ /".split())
_TENS = {"스물": 20, "서른": 30, "마흔": 40, "쉰": 50, "예순": 60, "일흔": 70, "여든": 80, "아흔": 90}
_ONES = {
    "하나": 1, "한": 1, "둘": 2, "두": 2, "셋": 3, "세": 3, "석": 3, "서": 3, "넷": 4, "네": 4, "넉": 4, "너": 4,
    "다섯": 5, "여섯": 6, "일곱": 7, "여덟": 8, "아홉": 9, "열": 10, "스무": 20, **_TENS,
}  # fmt: skip
_SCHOOLS = {"고": "고등학교", "중": "중학교", "초": "초등학교", "대": "대학교"}  # 고3
_PAIRS = {
    ("최", "애"): "최애",
    ("여자", "친구"): "여친",
    ("남자", "친구"): "남친",
    ("비밀", "번호"): "비밀번호",
    ("제", "일"): "제일",
    ("혈액", "형"): "혈액형",
    ("하늘", "나라"): "하늘나라",
    ("아", "내"): "부인",
    ("아", "나"): "부인",  # Kiwi takes 아내 차 for 아 내 차
}
_COUNTED_ON = {"열", "스무", *_TENS}  # a one may follow: 서른 둘
_MYRIADS = {"만": 10**4, "억": 10**8, "조": 10**12}
_ENDS_QUESTION = r"(?:나요?|[ᆫ은는]가요?|니|냐|[ᆯ을]까요?|까요?|ᆸ니까|습니까|[ᆫ은는]지요?)/EF"
_MOODS: dict[Mood, str] = {
    "question": rf"\?/SF|(?:^| ){_ENDS_QUESTION}",
    "wish": r"싶/VX|(?:어|아|여)?야/EC (?:하|되)/V|꿈/NNG|목표/NNG|바라/VV"
    r"|(?:^| )(?:으?면|다면)/EC (?:참/\S+ |정말/\S+ )?좋/VA",
    "plan": r"(?:^| )[ᆯ을]/ETM (?:거|것|예정|계획|생각|참|테|터|건|걸)/N|겠/EP"
    r"|(?:예정|계획|고민)/NNG|(?:^| )(?:으?려고|으?려|으?려구|고자)/EC|(?:^| )(?:[ᆯ을]게요?|[ᆯ을]래요?)/E[FC]",
    "decided": r"기/ETN (?:로|으로)/JKB (?:[가-힣]+/JX )?(?:하|결정|정하)/",
    "if": r"(?:^| )(?:으?면|[ᆫ는]?다면|라면|거든|더라도|어도|아도)/EC (?!좋/VA)|만약/|만일/",
    "hearsay": r"(?:^| )(?:[ᆫ는]?대요?|래요?|[ᆫ는]?다던데|[ᆫ는]?다더라)/E[FC](?: \S+/S\S*)*$"
    r"|(?:^| )(?:[ᆫ는]?다고|라고|냐고|자고)/EC (?:하|들|듣|그러|말|얘기|이야기)/\S+(?: \S+/[EXVJS]\S*)*$",
    "unsure": r"(?:거|것)/NNB 같/VA|아마/|혹시/|지도/EC 모르/|모양/NNG|(?:뻔|척|체)하?/(?:NNB|VX|XS)"
    r"|[ᆫ은는ᆯ을]지/EC 모르/|헷갈리/V",
    "remote": r"었었/EP|았었/EP|던/ETM|더라고?요?/EF|예전/N|옛날/N|과거/N|한때/|당시/N|학창/N|어리/VA [ᆯ을었]"
    r"|(?<!얼마/NNG) (?<!며칠/NNG )(?<!조금/NNG )(?<!조금/MAG )전/NNG (?!부터)|그때/|왕년/N",
}  # fmt: skip
_DENIAL = re.compile(r"(?:안|못)/MAG|(?:않|못하|말)/VX|아니/VC|없/V|모르/V")
_DONE_TO = frozenset("을 를 ᆯ 에게 한테 께 보다 에게서 한테서 와 과 랑 이랑 하고 처럼 만큼".split())
_ABOUT = frozenset("은 는 ᆫ 이 가 께서 도".split())
_ACTED = frozenset(["", *"을 를 ᆯ 은 는 ᆫ 도".split()])
_REASONS = frozenset("어서 아서 여서 어 니까 으니까 라서 라 ᆫ대서 대서 는대서 느라 더니".split())
_LINKS = _REASONS | frozenset("고 며 으며 지만 ᆫ데 은데 는데 다가 면서 으면서".split())
_ABILITY = re.compile(r"(못/MAG \S+/V\S+) 겠/EP")  # 못 먹겠다 tells of now
_SINCE = frozenset("달 주 해 올해 오늘 어제 내일 전 학기 봄 여름 가을 겨울 올봄 올여름 올가을 올겨울 연초".split())
_NOT_ONE = frozenset("방울 모금 번 개 입 명 푼".split())


@dataclass(frozen=True, slots=True)
class Word:
    """A word in its one form; `particle` follows it, `denied` is 안 or 못, `past` that of a predicate."""

    form: str
    kind: Kind
    particle: str = ""
    denied: str = ""
    past: bool = False
    only: bool = False  # 만, 밖에
    clause: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """The words of a statement in their order, the marks of change among them, its moods, and its endings."""

    words: tuple[Word, ...]
    marks: frozenset[str]
    moods: frozenset[Mood]
    joined: bool = False  # whether it asserts more than one thing (…고, …지만), reasons left out
    denials: int = 0
    speaker: frozenset[str] = frozenset()  # particles of 저, 나: what is done to the speaker, or besides another

    @property
    def last(self) -> tuple[Word, ...]:
        """The words of the last clause."""
        return tuple(word for word in self.words if word.clause == self.words[-1].clause)

    @property
    def predicate(self) -> Word | None:
        """The last verb or adjective, if there is one."""
        return next((word for word in reversed(self.words) if word.kind == "verb"), None)

    @property
    def forms(self) -> frozenset[str]:
        """The words without what is denied and how."""
        return frozenset(word.form for word in self.words)


def read(tokens: Sequence[Token]) -> Reading:
    """Return what `tokens` say, (form, tag) as Kiwi gives them."""
    reader = _Reader(tokens)
    words = tuple(_phrased(_never(reader.words())))
    text = " ".join(f"{form}/{tag}" for form, tag in tokens)
    text = _ABILITY.sub(r"\1", text)
    moods = frozenset(mood for mood, pattern in _MOODS.items() if re.search(pattern, text))
    return Reading(
        words, frozenset(reader.marks), moods, reader.joined, len(_DENIAL.findall(text)), _speaker(tokens, words)
    )


def _speaker(tokens: Sequence[Token], words: Sequence[Word]) -> frozenset[str]:
    """Return the particles of the speaker that tell who does what to whom (민지는 저를, 민지는 제가)."""
    pairs = pairwise(tokens)
    said = [
        particle if kind[0] == "J" else "의"  # 우리 집
        for (form, tag), (particle, kind) in pairs
        if tag == "NP" and form in _SPEAKER and kind[0] in "JN"
    ]
    beside = any(word.particle in _ABOUT for word in words)
    telling = _DONE_TO | ({"이", "가", "의"} if beside else set())
    opening = bool(tokens) and tokens[0][0] in _SPEAKER and said[:1] == ["의"]  # 제 딸은 …
    return frozenset(said[1:] if opening else said) & telling


def _never(words: list[Word]) -> list[Word]:
    """Say 전혀 for 한 방울도 and its like where something is denied."""
    if not any(word.denied for word in words):
        return words
    return [
        replace(word, form="전혀", kind="adverb", particle="")
        if word.kind == "number" and word.particle == "도" and word.form[:1] == "1" and word.form[1:] in {"", *_NOT_ONE}
        else word
        for word in words
    ]


def _phrased(words: list[Word]) -> list[Word]:
    """Return `words` with each phrase that says what one word says as that word; ! is for what is denied."""
    for phrase, meaning in PHRASES:
        found = _find(phrase, words)
        if not found:
            continue
        *rest, form = meaning.split()
        last = max(found, key=words.index)
        denied = "안" if form.endswith("!") else "" if phrase[-1].endswith("!") else last.denied
        kept = [word for word in words if word is last or word.form in rest or not any(word is one for one in found)]
        words = [replace(last, form=form.rstrip("!"), denied=denied) if word is last else word for word in kept]
    return words


def _find(phrase: Sequence[str], words: Sequence[Word]) -> list[Word]:
    """Return the words of `phrase`, if they stand close together in one clause."""
    found = [
        next((word for word in words if word.form == part.rstrip("!") and (word.denied or part[-1] != "!")), None)
        for part in phrase
    ]
    there = [word for word in found if word is not None]
    if len(there) < len(phrase) or len({word.clause for word in there}) > 1:
        return []
    places = [next(place for place, word in enumerate(words) if word is one) for one in there]
    return there if max(places) - min(places) <= len(places) else []


class _Reader:
    """Goes once over the tokens; what is found is changed by what follows it."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = [(form, tag) for form, tag in tokens]
        self._found: list[Word] = []
        self._denied = ""  # 안 and 못 stand before what they deny
        self._prefix = ""
        self._clause = 0
        self._became = False  # 서른이 됐다 and 싫어졌다 tell how it is now
        self._open = False  # whether a particle belongs to the last word found
        self.joined = False
        self.marks: set[str] = set()

    def words(self) -> list[Word]:
        place = 0
        while place < len(self._tokens):
            count = self._number(place) or self._phrase(place)
            if not count:
                self._take(*self._tokens[place], place)
            place += count or 1
        return self._found

    def _number(self, place: int) -> int:
        """Take a numeral with its unit; return how many tokens that was."""
        stop = place
        while stop < len(self._tokens) and _numeral(*self._tokens[stop]):
            stop += 1
        if stop == place:
            return 0
        amount = _value([form for form, _ in self._tokens[place:stop]])
        form, tag = self._tokens[stop] if stop < len(self._tokens) else ("", "")
        unit = form if tag in {"NNB", "NNG", "SL"} or form in _SIGNS else ""
        unit = {"세": "살", "": ""}.get(unit, unit.lower())
        if not unit and self._found and self._found[-1].form in _SCHOOLS:
            self._found[-1] = replace(self._found[-1], form=_SCHOOLS[self._found[-1].form])
            unit = "학년"
        if not unit and place and self._tokens[place - 1][1] == "SL" and self._found:  # K5
            self._found[-1] = replace(self._found[-1], form=self._found[-1].form + amount)
        else:
            self._add(Word(amount + unit, "number"))
        return stop - place + bool(unit)

    def _phrase(self, place: int) -> int:
        """Take two tokens that are one word; return how many that was."""
        two = (self._tokens[place][0], self._tokens[place + 1][0] if place + 1 < len(self._tokens) else "")
        if two == ("더", "이상"):
            self.marks.add("더이상")
        elif two in _PAIRS:
            self._add(Word(_PAIRS[two], "noun"))
        else:
            return 0
        return 2

    def _take(self, form: str, tag: str, place: int) -> None:
        if tag.startswith("J"):
            self._particle(form, tag)
        elif tag in {"NNG", "XR", "NNB", "NP", "MM", "NNP", "NR"}:
            self._noun(form, tag)
        elif tag.startswith(_NAMES_OF_SIGNS) or form in _SIGNS:
            self._add(Word(form.lower(), "foreign"))
        elif tag.startswith(("VV", "VA", "VX", "VC", "XSV", "XSA")):
            self._predicate(form, tag, place)
        elif tag in {"MAG", "IC"}:
            self._adverb(form)
        elif tag == "EP" and form in {"었", "았", "였", "ᆻ", "었었", "았었"} and not self._became:
            self._change(past=True)
        elif tag == "XPN":
            self._prefix = form
        elif tag == "EC" or tag == "SF":
            self._link(form, tag, place)
        elif tag == "XSN" and form not in _SUFFIXES_LEFT_OUT and self._found:
            self._found[-1] = replace(self._found[-1], form=one_form(self._found[-1].form + form))

    def _link(self, form: str, tag: str, place: int) -> None:
        """Begin a clause after a connective ending, but not before an auxiliary verb."""
        following = self._tokens[place + 1] if place + 1 < len(self._tokens) else ("", "VX")
        if tag == "SF" or (
            form in _LINKS and not following[1].startswith(("VX", "SF", "J")) and following[0] != "다니"
        ):
            self._clause += 1
            self.joined = self.joined or (form not in _REASONS and place + 1 < len(self._tokens))

    def _add(self, word: Word) -> None:
        self._open = self._became = False
        if word.form in NOW or word.form in AGAIN:
            self.marks.add(word.form)
        elif word.form not in FILLERS:
            self._found.append(replace(word, clause=self._clause))
            self._open = word.kind not in {"verb", "adverb"}

    def _change(self, *, past: bool = False, denied: str = "") -> None:
        """Put what is said after a predicate to the word that it belongs to."""
        if self._found:
            last = self._found[-1]
            self._found[-1] = replace(last, past=past or last.past, denied=denied or last.denied)

    def _particle(self, form: str, tag: str) -> None:
        if not self._found or not self._open:
            return
        last = self._found[-1]
        if form == "부터" and (last.form in _SINCE or (last.kind == "number" and last.form[-1] in "월일년")):
            self.marks.add(form)
        only = last.only or form in {"만", "밖에", "뿐"}
        settled = last.particle and tag == "JX"  # 에서는 is 에서
        self._found[-1] = replace(last, particle=last.particle if settled else form, only=only)

    def _noun(self, form: str, tag: str) -> None:
        self._open = False
        if form == "때문" and self._found:
            self._found[-1] = replace(self._found[-1], particle=form)
        if (tag in {"NP", "MM", "NNG"} and form in _SPEAKER) or (tag == "NNB" and form in _BOUND):
            return
        if tag == "NP" and form == "네":
            form = "너"
        kind: Kind = "name" if tag == "NNP" else "noun"
        self._add(Word(one_form(self._prefix + form), kind))
        self._prefix = ""

    def _adverb(self, form: str) -> None:
        if form in {"안", "못"}:
            self._denied = form
        elif form in _SPEAKER:  # Kiwi takes some 저 for an adverb
            self._open = False
        else:
            self._add(Word(one_form(form), "adverb"))

    def _predicate(self, form: str, tag: str, place: int) -> None:
        denied, self._denied = self._denied, ""
        if form == "않" and self._tokens[place + 1 : place + 2] and self._tokens[place + 1][1].startswith("V"):
            self._denied = "안"  # 않 먹다, misspelt
        elif form in {"않", "못하", "말"} and tag.startswith("VX"):
            self._change(denied="못" if form == "못하" else "안")
        elif tag == "VCN":
            self._change(denied="안")
        elif (tag == "VX" and denied) or (form == "먹" and tag == "VX" and self._open):
            self._add_verb(form, denied)
        elif tag.startswith(("VX", "VCP")) or (form == "되" and self._turns(tag)):
            self._become(form, place)
        elif form == "하" and self._decides(place):
            self._became = True
        elif form == "없":
            self._deny_being(place)
        elif form == "있" and self._is_ability(place):
            return
        elif self._moves(form) or (form in {"하", "되", "드리"} and self._act(tag)):
            self._change(denied=denied)
        else:
            self._add_verb(form, denied)

    def _turns(self, tag: str) -> bool:
        """Return whether 되다 is to become: a verb of its own, or after a number (고3 됐어요)."""
        return tag == "VV" or bool(self._found and self._found[-1].kind == "number")

    def _become(self, form: str, place: int) -> None:
        if form in {"되", "지"}:
            self._became = True
            self.marks.add("되다")
        elif form in {"주", "드리"} and self._found:  # 빌려주다 is no 빌리다
            self._found[-1] = replace(self._found[-1], form=self._found[-1].form + " 주다")
        elif form == "하" and self._found and place and self._tokens[place - 1] in {("어", "EC"), ("아", "EC")}:
            self._found[-1] = replace(self._found[-1], form=self._found[-1].form + " 하다")  # 무서워하다

    def _decides(self, place: int) -> bool:
        """Return whether 하다 belongs to -기로 하다, which says nothing of its own."""
        return any(tag == "ETN" for _, tag in self._tokens[max(0, place - 3) : place])

    def _add_verb(self, form: str, denied: str) -> None:
        if form in {"그러", "이러"}:
            return
        self._add(Word(one_form(form + "다"), "verb", denied=denied))

    def _is_ability(self, place: int) -> bool:
        return any(token == ("수", "NNB") for token in self._tokens[max(0, place - 2) : place])

    def _deny_being(self, place: int) -> None:
        if self._is_ability(place):
            self._change(denied="못")
        else:
            self._add(Word("있다", "verb", denied="안"))

    def _moves(self, form: str) -> bool:
        """Make one verb of 이사 오다 and its like; return whether it is one."""
        if form not in {"오", "가"} or not self._found or self._found[-1].form not in {"이사", "이민", "유학"}:
            return False
        self._found[-1] = replace(self._found[-1], kind="verb")
        return True

    def _act(self, tag: str) -> bool:
        """Make a verb of the noun before 하다 and its like; return whether there is one."""
        for back, word in enumerate(reversed(self._found), start=1):
            if word.clause != self._clause or word.kind == "verb":
                return False
            if word.kind in {"noun", "foreign", "name"} and (word.particle in _ACTED or (back == 1 and tag != "VV")):
                self._found[-back] = replace(word, kind="verb")
                self._found.append(self._found.pop(-back))
                return True
            if not tag.startswith("VV"):
                return False
        return False


def _numeral(form: str, tag: str) -> bool:
    return tag in {"SN", "NR"} or (tag == "MM" and form in _ONES)


def _value(forms: Sequence[str]) -> str:
    """Return numerals that stand together as digits, or as they are where they make no number (2 3, 010)."""
    try:
        total = _plain(forms[0])
        for form, before in zip(forms[1:], forms, strict=False):
            if form in _MYRIADS:
                total *= _MYRIADS[form]
            elif before in _COUNTED_ON and 0 < _plain(form) < _ONES[before]:
                total += _plain(form)
            else:
                raise ValueError(form)
    except (KeyError, ValueError):
        return "_".join(forms).replace(",", "")
    return str(int(total)) if total == int(total) else str(total)


def _plain(form: str) -> float:
    if form in _ONES:
        return _ONES[form]
    bare = form.replace(",", "")
    if re.fullmatch(r"0|[1-9]\d*(?:\.\d+)?|0\.\d+", bare):
        return float(bare) if "." in bare or len(bare) < 16 else int(bare)
    if re.match(r"\d", bare):
        raise ValueError(form)  # 010 is no ten
    high, sign, low = next((bare.partition(sign) for sign in ("조", "억", "만") if sign in bare), ("", "", bare))
    return (_plain(high or "일") * _MYRIADS[sign] if sign else 0) + (read_count(low)[0] if low else 0)
