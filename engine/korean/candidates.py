"""Which sentences of a user can be memories, by rule: surely, perhaps, or not at all.

A memory is what a user states of themselves, in their own voice (`voice`). Questions, requests, play, suppositions,
passing moods and what is told of the world are none. What rules cannot tell is left to a model.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from engine.korean import doubts, selves
from engine.korean.dates import find_dates
from engine.korean.intent import understand_rules
from engine.korean.pasted import points_to_last_turn, shows_a_text, treats_a_text
from engine.korean.questions import asks, asks_for_action
from engine.korean.recall import tells_to_remember
from engine.korean.sentences import sentences
from engine.korean.voice import BLOT, OWN_HEAD, is_own_form, own_words

if TYPE_CHECKING:
    from engine.inputs import Turn

Verdict = Literal["must", "may", "never"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sentence that can be a memory: `content[begin:stop]` of a turn, of which `quote` says it.

    `sure` where rules can tell; else a model decides.
    """

    turn: int
    begin: int
    stop: int
    quote: tuple[int, int]
    sure: bool


_TAIL = " \t.?!~…‥ㅋㅎㅠㅜ^;,♡♥☆★" + BLOT
_PICTURES = "\u2190-\u2bff\u3030\ufe0f\u200d\U0001f000-\U0001faff"
_LAUGH = r"[ㅋㅎㅠㅜ]{1,}|\^\^|~+"
# 사셔 ㅋㅋ 아빠는 …: nothing else ends the first sentence
_CUT = re.compile(rf"(?<=[다요어아야음됨함죠지네셔해임까줘])[ \t]*(?:{_LAUGH}|[{_PICTURES}]+)[ \t]+(?=\S)")
_LEAD = re.compile(
    rf"^(?:(?:{_LAUGH}|[{_PICTURES}]+|(?:아|앗|오|응|네|예|음|헐|참|와|어|아니|아뇨|아니요|그래|맞아)[,!. ]+|"
    r"(?:안녕(?:하세요|하십니까|하신가요)?|반가워요?|반갑습니다|처음\s뵙겠습니다)[,!.~ ]+)\s*)+"
)
_BEFORE = re.compile(rf"(?:\s|{_LAUGH}|[{_PICTURES}]|{BLOT}+(?=\s))*")
_PICTURED = re.compile(rf"(?<![\s{_PICTURES}{BLOT}])[\s{_PICTURES}{BLOT}]++$")
_PLAY = re.compile(
    r"(?i)역할\s?(?:극|놀이|연습)|수수께끼|스무고개|끝말잇기|나는\s누구(?:게|일까)|롤\s?플레이|상황극|(?:대화|주문|"
    r"면접|회화|영어|토론|발표|전화)\s?연습|(?:연극|대본|대사)\s?연습(?:을\s)?(?:하자|할|해\s?(?:줘|보)|시작)|"
    r"역할(?:을|로)?\s(?:좀\s)?(?:해\s?(?:줘|줄|주|볼)|맡아)|"
    r"(?:이제|지금|다음|앞)(?:부터|으로)는?\s.{0,12}(?:문장|글|말|텍스트|내용|메시지|거|것|"
    r"걸)\S{0,2}\s.{0,12}(?:번역|영어로|고쳐|바꿔|옮겨|교정|요약)|(?:너|넌|"
    r"네가|니가|당신)\S{0,2}\s.{1,24}"
    r"(?:이?고|역)[,\s]+(?:나|난|내가|나는|저는)\s.{1,24}|(?:쓰면|말하면|보내면|적으면|주면)\s.{0,20}(?:번역|영어로|"
    r"고쳐|바꿔|요약)"
    r"|\b(?:role[- ]?play|pretend|act as|imagine (?:that )?(?:i|you))\b|\byou are (?:a|an|the|"
    r"my) \w+.{0,20}\bi(?:'m| am)\b"
)
_PLAY_OVER = re.compile(
    r"(?:역할극|연습|놀이|상황극|번역|교정)\S{0,2}\s?(?:끝|그만|여기까지)|이제\s?(?:진짜|실제로)|\b(?:stop|"
    r"end) (?:the )?(?:role|play)"
)
_SUPPOSED = re.compile(
    r"(?:^|\s)만(?:약|일)(?=[\s에]|$)|(?:[였었았했갔인린은는한간]|이|아니)(?:다|라)면(?:[,\s]|$)|나라면|"
    r"라고\s?(?:가정|치고|치면|상상|생각해\s?보)"
    r"|가정하|인\s?척|예를\s?들|예문|예시|가령|(?i:\bif i (?:were|was|had)\b|\bsuppose\b|\bi wish\b|\bhypothetical)"
)
_STORY = re.compile(
    r"(?:소설|드라마|영화|게임|웹툰|만화|동화)\s?속|꿈(?:에서|속|\s속)|(?:내|제)\s캐릭터|설정(?:은|이|으로)\s|"
    r"(?:주인공|등장인물|캐릭터|화자|작가|감독|배우)(?:은|는|이|가)?(?=\s)|일인칭|1인칭"
)
_YOU = re.compile(
    r"(?:^|[\s,])(?:너|넌|너는|너도|너희|네가|니가|당신|당신은|AI|ai|챗봇|사용자|유저|이용자)(?:님)?(?:은|는|이|가|"
    r"도|의)?(?=[\s,]|$)|(?i:\byou\b|"
    r"\byour\b|\bthe user\b)"
)
_THAT = re.compile(
    r"^(?:그건|그게|그거|이건|이게|이거|그것|이것|저건|저게|그렇게|그럼|그러|그런|정말|진짜|역시|다시|완벽|대박|"
    r"아하|오케이|"
    r"(?i:that|this|it|good|great|nice|thanks|thank|ok|okay|sure|got it|wow|cool)\b)"
)
_EXCLAIMED = re.compile(
    r"(?:네|네요|군|군요|구나|구만|는걸|더라|더라고|더라고요|더라구요|지|죠|지요|잖아|잖아요|나\s?봐|가\s?봐|"
    r"나\s?보다)$"
    r"|^\S+\s(?:참\s|진짜\s|너무\s|정말\s)?(?:좋다|멋지다|재밌다|재미있다|웃기다|대단하다|예쁘다|귀엽다|신기하다|"
    r"최고다|맛있다|좋아|최고야)$"
)
_RECOUNTED = re.compile(r"(?:었|았|였|[했갔왔됐셨렸졌났탔])(?:지|죠|지요)(?:\s뭐야)?$")
_CITING = re.compile(  # 그가 "…"라고 했다
    rf":\s*{BLOT}|{BLOT}\s?(?:이?라고|라며|라면서|하고|이?란다|이?래)\s?(?:\S+\s)?(?:했|하더|하던|말|그랬|그러|전|"
    rf"쓰여|쓴|적혀|적어|답|묻|물|외|했)"
)
_GUESSED = re.compile(
    r"(?:것|거|건)\s?같(?:아|아요|다|습니다|은데|애)$|(?:[ㄹ을할될갈]|인|는)지도\s?(?:몰라|모르)|(?i:\b(?:maybe|"
    r"perhaps|i think|seems)\b)"
)
_HEARD = re.compile(r"(?:다던데|라던데|다며|라며|다더라|라더라|당께|대더라|다던데요|라던데요)$")
_NOW = re.compile(
    r"(?:^|\s)(?:지금(?!\s\S+[는은]\s\S+[은는이가]\s)|방금|이제\s막|막\s)|(?:배고|배불|졸려|졸리|졸음|목말|목마|"
    r"심심|피곤하|피곤해|더워|덥다|더운|추워|춥다|잠이\s?안|"
    r"잠\s?안|지루|귀찮|짜증|답답|어지러|힘들(?:다|어)$|지친다|기분|행복하다|신난다|설렌다|바쁘다$)|"
    r"(?i:\b(?:right now|hungry|tired|"
    r"sleepy|bored|thirsty)\b)"
)
_RESOLVED_NOW = re.compile(
    r"(?:야지|야겠다|야겠어|야겠어요|야겠네|[ㄹ을할갈볼줄올]게|[ㄹ을할갈볼줄올]게요|하자|보자|가자|먹자|쓰자|으자|"
    r"자고)$"
)
_WANTED = re.compile(
    r"(?:(?:만|개|줄|번)\s더$|(?:생각|기억)(?:이|은|도)?\s?(?:잘\s)?안\s?나|필요해|필요합니다|필요해요|원해|원해요|"
    r"원합니다|부탁|궁금|알고\s?싶|찾고\s?있|모르겠|이해가|플리즈|plz|please)|"
    r"(?i:\bi(?:'d like| need| want to know| would like)\b|\bquestion\b)"
)
_NOUNAL = re.compile(
    r"[가-힣]{2,}(?:이?야|이?에요|예요|입니다|이?었어|였어|했어요?|했습니다|간다|가요)$"
)  # 접이식이야, 이사했어
_POLITE = re.compile(
    r"고생\s?많|수고|반갑|반가워|축하[해드합]|힘내|파이팅|화이팅|바랍니다$|길\s?바라|(?:었|았|했)으면\s?좋겠"
)
_TOLD_TO = re.compile(  # bare commands to an assistant: 일정 추가해
    r"(?:추가|확인|삭제|설정|등록|재생|검색|실행|전송|조회|체크|정지|중지)\s?(?:해|해라|하자)?$|"
    r"(?<![가-힣])(?:보여|알려|틀어|켜|꺼|옮겨|열어|닫아|읽어|불러)(?:라|봐)?$"
)
_GENERAL = re.compile(r"(?:기\s?마련이?다|[ㄴ은는]\s?법이다|[ㄴ은는]\s?것이다|[ㄴ은는]다고\s?한다|라고\s?한다)$")
_DENIED_TOPIC = re.compile(r"잊어|지워|삭제|까먹어\s?(?:줘|도)|(?i:\bforget\b)")
_KEEP = re.compile(
    r"(?i)[,\s]*(?:(?:이|그|저|이거|그거|이것|그것|이건|그건|것|거|걸|점|사실|말|얘기)\S?\s|꼭|좀|잘|제발|앞으로|"
    r"나중에|please|remember|that|"
    r"this|don't|forget|기억|메모|기록|저장|외워|적어|잊지|해|둬|줘|주세요|줄래|두|놔|놓|마|말|고|부탁|드려요|해요|"
    r"\s|[.!~?])++"  # possessive: what it can be parted into grows as a power of its length
)
_ORDERED = re.compile(  # by a text to whoever reads it, not by the user
    r"(?:사용자|유저|이용자|user)(?:님)?(?:가|는|이|은|의|를|을|에게|도)(?=\s)|웹\s?페이지|(?:써|적혀|쓰여)\s?있|"
    r"AI(?:는|가|에게|야)(?=[\s:,])",
    re.IGNORECASE,
)
_KEEPING = re.compile(r"기억하고\s?있어\s?(?:줘|주)")
_CLAUSE = re.compile(r"(?:[가-힣]데|[가-힣]데요|니까|[어아여해라워려]서|거든|거든요|지만)[,\s]+")
# what looks like a question or a request and is none: 병원에 가요, 30권으로 할래, 어머니가 좋아하세요, 갔었지
_STATES = re.compile(
    r"(?:(?:나|올라|내려|들어|넘어|돌아|[\s러에로])가요|까지|[을할갈볼올쓸탈칠살될줄먹킬]래요?|(?:었|았|였|했|갔|왔|"
    r"됐|[가-힣]셨|[가-힣]렸|[가-힣]졌)(?:지|죠|지요)(?:\s?뭐야)?|야지|"
    r"(?:하|계|사|드|지내|다니|주무|으|않|일하|아프|모르)세요|[가-힣](?:죠|지요))$"
)
_ASKED = re.compile(r"(?:^|\s)(?:뭐|뭘|무슨|무엇|누가|누구|언제|어디|어느|어떤|어떻게|왜|몇|얼마)")
_FLAT_SUBJECT = re.compile(
    r"(?:^|\s)(?!같이|많이|굳이|높이|깊이|가까이|일찍이|아이|나이|고양이|차이|이번|우리)(\S*[가-힣])(?:이|가|"
    r"께서)(?=\s)"
)
_PLEASED = re.compile(r"[이가]\s(?:\S+\s)?(?:좋(?:아|은데|습|더)|싫|무섭|편해|취향)")  # 체육이 제일 좋아
_OWN_SUBJECT = re.compile(
    r"(?:이름|취미|생일|전공|직업|알레르기|꿈|목표|자격증|약속|회의|면접|시험|고향|나이|키|집|회사|학교|방|눈|귀|목|"
    r"허리|무릎|머리|배|"
    r"어깨|손목|발목|이|몸|살|혈압|당|일정|계획|예약|수술|여행|출장|휴가|월급|연봉|시력|기|종교|관심|경험|적|일|수|"
    r"줄|것|게|남편|아내|"
    r"딸|아들|동생|친구|엄마|아빠|언니|누나|오빠|형|취향|입맛|성격|재주|손|버릇|습관|마리|명|데|때|사람|디스크|공부|"
    r"운동|담배|술|수업|과제|발표|마감)$"
)
_LETTERS = re.compile("[\u1100-\u1112][\u1161-\u1175][\u11a8-\u11c2]?")  # of a syllable that is written as letters
_LONG = 300  # letters of a sentence that rules read; longer ones say more than one thing
_ANY = datetime(2026, 1, 15, 12)  # whether a sentence names a day does not depend on when it was said


def candidates(turns: Sequence[Turn]) -> list[Candidate]:
    """Return the sentences of user turns that can be memories, in order."""
    found: list[Candidate] = []
    playing, last = False, -1
    for number, turn in enumerate(turns):
        if turn.role != "user":
            continue
        content, places = _composed(turn.content)
        own = own_words(content)
        playing = bool(_PLAY.search(own)) or (playing and not _PLAY_OVER.search(own))
        if points_to_last_turn(own):  # whose words these were, a model is to tell
            found = [replace(one, sure=one.sure and one.turn != last) for one in found]
        if not playing and not _is_delivery(turns, number):
            found += [_placed(one, places) for one in _of_turn(number, content, own)]
        last = number
    return found


def _composed(text: str) -> tuple[str, Sequence[int]]:
    """Return a text with Hangul in whole syllables, and where in `text` each place of it is."""
    parts, places, at = [], [], 0
    for match in _LETTERS.finditer(text):
        parts += [text[at : match.start()], unicodedata.normalize("NFC", match[0])]
        places += [*range(at, match.start()), match.start()]
        at = match.end()
    if not at:
        return text, range(len(text) + 1)
    return "".join([*parts, text[at:]]), [*places, *range(at, len(text) + 1)]


def _placed(one: Candidate, places: Sequence[int]) -> Candidate:
    quote = places[one.quote[0]], places[one.quote[1]]
    return replace(one, begin=places[one.begin], stop=places[one.stop], quote=quote)


def _is_delivery(turns: Sequence[Turn], number: int) -> bool:
    """Return whether the turn brings a text that something was to be done with, as the assistant asked."""
    before = [turn for turn in turns[:number] if turn.role != "system"]
    if len(before) < 2 or before[-1].role != "assistant":
        return False
    wants = re.search(r"(?i)보내|붙여|입력|올려|적어|알려|주시면|주세요|paste|send|share", before[-1].content)
    asked = next((turn for turn in reversed(before) if turn.role == "user"), None)
    if asked is None or not wants or len(before[-1].content) > 80:
        return False
    own = own_words(asked.content)
    treated = any(treats_a_text(own[a:b]) for a, b in sentences(own))
    return treated and BLOT not in own and not re.search(r"[?？]\s*$", turns[number].content)


def _of_turn(number: int, content: str, own: str) -> list[Candidate]:
    found: list[Candidate] = []
    if is_own_form(own):
        return [
            Candidate(number, *span, span, True) for span in _spans(own) if not OWN_HEAD.fullmatch(own[slice(*span)])
        ]
    judged = lru_cache(None)(_judged)  # for this turn alone: what is said a thousand times is read once
    for begin, stop in _spans(own):
        if _is_bare_keeping(own[begin:stop]):
            if found and found[-1].turn == number:  # 내 생일은 5월 3일이야. 기억해 줘.
                last = found.pop()
                found.append(Candidate(number, last.begin, last.stop, last.quote, True))
            continue
        verdict, (a, b) = judged(own[begin:stop])
        if verdict != "never":
            found.append(Candidate(number, begin, stop, (begin + a, begin + b), verdict == "must"))
    return found


def _spans(text: str) -> list[tuple[int, int]]:
    """Return where sentences stand, without what is no word before and behind them."""
    spans = []
    for begin, stop in sentences(text):
        cuts = [begin, *(begin + cut.end() for cut in _CUT.finditer(text[begin:stop])), stop]
        for a, b in pairwise(cuts):
            piece = _PICTURED.sub("", text[a:b])
            begun = a + _end(_BEFORE.match(piece))
            if begun < a + len(piece):
                spans.append((begun, a + len(piece)))
    return spans


def _is_bare_keeping(sentence: str) -> bool:
    return bool(_KEEP.fullmatch(sentence)) and tells_to_remember(sentence) and not _DENIED_TOPIC.search(sentence)


def _judged(sentence: str) -> tuple[Verdict, tuple[int, int]]:
    """Return what a sentence is and where in it the statement stands."""
    begin = _end(_LEAD.match(sentence))
    words = sentence[begin:].rstrip(_TAIL)
    whole = begin, begin + len(words)
    if sum(map(str.isalnum, words)) < 2 or words.endswith(":") or _is_blotted(sentence):
        return "never", whole
    if len(words) > _LONG:
        return ("never" if _is_asking(sentence[-_LONG:], words[-_LONG:]) else "may"), whole
    if tells_to_remember(words) or _KEEPING.search(words):
        return _to_keep(words, begin)
    if _is_asking(sentence, words):
        return _before_question(sentence, begin)
    return weigh(words), whole


def _is_asking(sentence: str, words: str) -> bool:
    """Return whether a sentence, or its head before a colon or comma, wants an answer or an action."""
    if "?" in sentence[begin_of_tail(sentence) :]:
        return True
    heads = re.split(r"[:：](?!\d)|(?<=[줘요])[,.]\s", words)[:-1]
    if any(asks_for_action(head) for head in heads):
        return True
    states = _STATES.search(words) and not _ASKED.search(words)
    if states and words.endswith("세요"):
        return not selves.KIN.search(words)
    return not states and (asks(sentence) or asks_for_action(sentence))


def begin_of_tail(sentence: str) -> int:
    """Return where the closing marks of a sentence begin."""
    return len(sentence.rstrip(_TAIL))


def _end(match: re.Match[str] | None) -> int:
    return match.end() if match else 0


def _is_blotted(sentence: str) -> bool:
    """Return whether what is left of a sentence without its quotations says nothing, or hides an order."""
    blots = sentence.count(BLOT)
    if _CITING.search(sentence):
        return True
    return blots > 30 or (blots > 0 and sum(map(str.isalnum, sentence)) < 6)


def _to_keep(words: str, begin: int) -> tuple[Verdict, tuple[int, int]]:
    if _DENIED_TOPIC.search(words) or _ORDERED.search(words) or asks(words.partition(",")[0]):
        return "never", (0, 0)
    return "must", (begin, begin + len(words))


def _before_question(sentence: str, begin: int) -> tuple[Verdict, tuple[int, int]]:
    """Look for what is stated before a question or a request: 저 채식하는데, 뭐 먹을까요?"""
    if _SUPPOSED.search(sentence):
        return "never", (0, 0)
    for clause in reversed(list(_CLAUSE.finditer(sentence, begin))):
        said = sentence[begin : clause.end()].rstrip(" ,")
        if weigh(said) == "must" and not _ASKED.search(said):
            return "must", (begin, begin + len(said))
    return "never", (0, 0)


def weigh(words: str) -> Verdict:
    """Return what a statement is, given without its closing marks."""
    if _is_never(words):
        return "never"
    mine = bool(selves.SELF.search(words)) and not selves.NOT_SELF.search(words)
    near = bool(selves.KIN.search(words))
    verdict = _weighed(words, mine, near)
    if verdict == "must" and doubts.is_no_life(words):
        return "never"
    doubtful = verdict == "must" and doubts.is_doubtful(words, mine, near, _is_dated(words))
    return "may" if doubtful else verdict


def _weighed(words: str, mine: bool, near: bool) -> Verdict:
    if _GENERAL.search(words) or _WANTED.search(words):
        return "may" if mine and not _WANTED.search(words) else "never"
    if _HEARD.search(words):
        return "may" if mine or near else "never"
    if _GUESSED.search(words) or (_EXCLAIMED.search(words) and not _RECOUNTED.search(words)):
        return _weak(words, mine, near)
    if mine or near or selves.LEARNT.search(words):
        return "must"
    clauses = [words, *re.split(r"(?<=[고데서만니])(?:까|요)?,?\s", words)[:-1]]
    return "must" if any(map(_tells_life, clauses)) else "may"


def _is_never(words: str) -> bool:
    if any(rule.search(words) for rule in (_POLITE, _TOLD_TO, _PLAY_OVER, _SUPPOSED, _STORY)) or shows_a_text(words):
        return True
    if understand_rules(words).intent == "small_talk":
        return True
    mine = bool(selves.SELF.search(words))
    if not mine and (_YOU.search(words) or (_THAT.search(words) and not selves.KIN.search(words))):
        return True
    return _passes(words) or _is_scrap(words, mine)


def _passes(words: str) -> bool:
    """Return whether a sentence tells of a moment: a mood, or what is to be done at once."""
    dated = _is_dated(words)
    if _RESOLVED_NOW.search(words) and not dated:
        return True
    lasts = (dated and "오늘" not in words) or selves.HABIT.search(words) or _has_topic(words)
    return bool(_NOW.search(words)) and not lasts


def _is_scrap(words: str, mine: bool) -> bool:
    """Return whether a sentence is a single word that states nothing, a head, or English about nobody."""
    if OWN_HEAD.fullmatch(words):
        return True
    if len(words.split()) == 1 and not _NOUNAL.search(words):
        return True
    return not (mine or re.search("[가-힣]", words) or _is_dated(words))


def _weak(words: str, mine: bool, near: bool) -> Verdict:
    """Weigh an exclamation or a guess."""
    if selves.LEARNT.search(words):
        return "must"
    told = selves.PAST.search(words) or words.endswith("야지")
    return "may" if mine or near or (told and (_is_dated(words) or _has_topic(words))) else "never"


def _has_topic(words: str) -> bool:
    return any(topic.search(words) for topic in selves.TOPICS)


def _tells_life(words: str) -> bool:
    """Return whether a statement without a subject, or with one of the speaker's own, tells of their life."""
    if selves.TASTE.search(words) and (not _has_other_subject(words) or _PLEASED.search(words)):
        return True
    if _has_other_subject(words):
        return False
    done, planned = bool(selves.PAST.search(words)), bool(selves.PLAN.search(words))
    if _is_dated(words) and (done or planned or selves.OCCASION.search(words)):
        return True
    if selves.ONCE.search(words) and done:
        return True
    return _has_topic(words) or (bool(selves.HABIT.search(words)) and not done)


def _has_other_subject(words: str) -> bool:
    return any(not _OWN_SUBJECT.search(match[1]) for match in _FLAT_SUBJECT.finditer(words))


def _is_dated(words: str) -> bool:
    return bool(find_dates(words, _ANY))
