"""Whether a sentence asks for information, by its ending, its question words and its verb.

What counts is whether an answer in words is expected: "날씨 알려 줘" is a question, "불 꺼 줄래?" is none.
Rhetorical questions look the same and count as questions. Korean shows mood at the end of the sentence, so
the rules read endings first; an ending that serves both moods (-지, -어) asks when a question word stands in
the sentence, or when nothing, a full stop say, speaks against it.
"""

from __future__ import annotations

import re

_GIVE = r"(?:줘|줄래|줄\s?수|줄\s?순|주라|주세|주십|주시|주실|주겠|주렴|줬으면|주면|주길|달라|다오|다구|줄\s?거)"
_TELL = (
    rf"(?:알려|가르쳐|갈쳐|말해|말씀해|얘기해|이야기해|설명해|나열해|대답해|답해|일러)\s?(?:좀\s?)?(?:{_GIVE}|봐)"
    rf"|알려$|궁금|알고\s?싶|(?:설명|안내|답변|답|대답)(?:을|도)?\s?(?:좀\s?)?(?=부탁)(?!부탁(?:했|받|하더))"
)
# Asked as a favour, now and by the speaker: 부탁했어 tells of one.
_FAVOUR = r"부탁(?:해|해요|드려요?|드립니다|드릴게요?|드려도\s\S+|합니다|할게요?|한다|이에요|이야|좀)?$"
_ADVISE = (
    rf"(?i)(?:추천|소개|제안|조언|골라|알아봐|알아봐서)\s?(?:좀\s?)?(?:해\s?)?(?:좀\s?)?(?:{_GIVE}|봐)|추천해?(?:요|$)"
    rf"|(?:추천|제안|조언|의견|아이디어|팁|꿀팁)(?:을|를|도|이라도)?\s?(?:좀|하나만?|몇\s?개만?)?\s?(?:{_GIVE}|가능|바라|바랍|좀$|$|{_FAVOUR})"
    rf"|\b(?:recommend|suggest|suggestions?|advise|recommendations?)\b"
)
_MANNER = r"(?:천천히|크게|작게|조용히)\s(?:좀\s)?(?:말|얘기|이야기)"  # how to speak, not what to say
# A question that something is to be done about: 문이 잠겼는지 확인해 줘, 뭘 사야 할지 모르겠어
_INNER = (
    r"(?:[는은을던]지|[가-힣]지|냐고|나|까)[를가는도]?\s(?:좀\s)?(?:확인|체크|봐\s?줘|찾아|알아|아니|아냐"
    r"|아세|아시|모르|말해|보여|비교|요약|정리|계산|맞혀|맞춰\s?봐)"
)
_DO_FOR_ME = r"(?:줄래|줄\s?수\s?있|줄\s?수\s?없|줄\s?순\s?없|주겠|주실|주시겠|주면\s?안|주시면|줬으면|주지\s?않을)"
_COMMAND_END = (
    r"(?<![못안잠]\s)(?<!잠을\s)(?:줘|줘요|줘라|주련|주세요|주라|주십시오|하세요|주세용|으세요|십시오|해라|어라|아라|[켜꺼겨려쳐져춰써서워]라|거라|렴|합시다|자"
    r"|자고|달라|도록|바라|바랍니다|마|마세요|(?:[아여해워려켜춰써쳐꿔]|(?<!물)어)\s?봐요?|[어아여해워려켜춰써쳐꿔겨]\s?(?:놔|둬)[라요]?)$"
)
# The bare form of a verb for what a machine can do, which a habit has too: 불 다 꺼, but not 나는 일찍 불을 꺼
_DEVICE = (
    r"(?:^|\s)(?:(?:(?:\S*[로게]|좀|더|소리|볼륨|음량|온도|밝기)\s)(?:올려|내려|바꿔|돌려)|(?:모드|타이머|녹음|촬영|게임|퀴즈)\s시작해"
    r"|켜|꺼|틀어|멈춰|줄여|높여|낮춰"
    r"|닫아|띄워|꺼놔|맞춰|고쳐|(?:재생|번역|요약|검색|정지|종료|실행|예약|주문|취소|전송|설정|추가|삭제|확인|변경|이동)\s?해)$"
)
_DEVICE_NOT = (
    r"[은는이가]\s(?!다\s)|마다\s"
    r"|(?:^|\s)(?:난|전|나도|저도|매일|요즘|요새|가끔|자주|보통|늘|항상|벌써|이미|어제|아까|방금|안|못)\s"
)
_NOTIFY = r"(?:면|때|전에|[뒤후]에)\s(?:나한테\s|꼭\s|바로\s|좀\s)?(?:알려|말해)\s?(?:줘|줘요|주세요|주라|줄래)$"
# Asked before the end of the sentence: 틀어 줘, 그 노래 말이야
_ASKED_BEFORE = (
    r"(?:[어아해여]\s?봐|줘|줘요|주세요|주라|줄래|줄래요|주십시오)(?:,\s|:\s|\s[\"“'‘「])"
    r"(?!.*(?:라고|래|했|어|다)$)"
)

_WH = (
    r"(?:^|\s)(?:왜|뭐|뭔|뭘|뭣|무엇|무슨|누구|누가|누굴|뉘|언제|어디|어딘|어딜|어딨|어느|어떤|어떻|어떡"
    r"|어때|어떠|어땠|어째|어쩌|어쩐|어찌|어쩜"
    r"|얼마|몇|며칠|웬|웬일)|뭐[야니예지죠였라]|[이가]\s?뭐|언제[야니예지죠였인]|어디[야니예지죠였인]"
    r"|누구[야니예지죠였인]|얼마[야니예지죠였인]"
)
_INDEFINITE = (
    r"(?:\S{1,9}\s)?\S{0,9}냐고들?\s(?:물|묻|했|하|그)\S{0,9}|왜냐\S{0,9}|(?:뭐|무엇|누구|언제|어디|어느\s?\S{1,9}|얼마(?!나)|어떤\s\S{1,9}"
    r"|무슨\s\S{1,9})(?:에서"
    r"|에|한테)?(?:이?든지?|이?나(?=\s|$)|이?라도)|아무\S{0,9}"
    r"|지\s뭐(?:야|예요)$|누가\s뭐래도|누구도|어느새|어느덧|어떻게든|얼마나마|몇몇|웬만\S{0,9}|어쩌다\S{0,9}|어쩌면|언젠가\S{0,9}|어디선가"
    r"|누군가\S{0,9}|뭔가|무언가\S{0,9}|무엇인가\S{0,9}"
)
_STATING_END = (
    r"(?:[^까]다|습니다|입니다|[가-힣]게|게요|네요?|군요?|구나|구만|거든요?|더라고요?|답니다|대요?"
    r"|것\s?같아요?|니까요?|려고요?|음|함|임|기|알겠어요?|알았어요?)$"
)

_ASKING_END = (
    r"(?:냐|냐고|냐구|냐구요|나요|나여|까요?|까여|던가|련|데니|대니|니\s?응|[으을]?라나|려나|되나|(?:뭐|누구|어디|언제|얼마|몇\s?\S{1,3})이?게|[어아여해]도\s?[돼되][나요까]*"
    r"|[은는인]가|라며|다며|자며|다면서요?|라면서요?|냐면서|[다라]니요?|[는은인을]지요?)$"
)
_ASKING_NOT = (
    r"(?:달래요?|니까|으니|더니|다니다니|아니|언니|어머니|할머니|아주머니|주머니|후니|휴가|친구가"
    r"|(?:만|떠|일어|태어|혼|신|화|빛|생각이?\s?|기억이?\s?)나요)$"
)
_KNOW_END = (
    r"(?:[을를은는지걸거건줄]\s(?:아니|알아요?|아냐|알지|알죠|아시죠|아시지요?|아세요|아십니까|알고\s?있지"
    r"|몰라|모르지|모르니|모르냐))$"
)
_TAG_END = (
    r"(?:잖아요?|[^으]지\s?않[아나냐니]요?|지\s?않을까요?|지\s?않[았겠]\S{1,2}|거\s?아[니냐]\S{0,2}"
    r"|[는은인]\s?거야|[는은]\s?거지|[^알모르좋]겠어요?)$"
)
_ENGLISH = (
    r"(?i)^(?:(?:so|and|but|well|hey|ok|okay|please)[, ]+)*(?:(?:what|who|whom|whose|where|when|why|how"
    r"|which)\b|(?:do|does|did|is|are|am|was|were|has"
    r"|have|had|should|would|will|could|can|may)\s(?:i|you|we|they|he|she|it|there|this|that|the|my|your)\b)"
)
_ENGLISH_TELL = (
    r"(?i)\b(?<!to )(?:tell me|let me know|show me|explain|describe|i wonder|remind me (?:what|who|when|where|how))\b"
)
_ENGLISH_DO = r"(?i)^(?:please\s)?(?:can|could|would|will)\syou\s(?!tell|explain|say|show|describe|remember|know)"
_ENGLISH_IMPERATIVE = (
    r"(?i)^(?:please |hey,? |ok(?:ay)?,? |now |just |then |and )*(?:turn (?:on|off|up|down|it)|switch (?:on|off)"
    r"|play|stop|pause|open|close|start|set"
    r"|send|call|text|write|draft|make|create|translate|summari[sz]e|rewrite|fix|correct|proofread|check|find|search"
    r"|book|order|schedule|cancel|add"
    r"|remove|delete|move|rename|convert|calculate|compute|draw|generate|list|give me|get me|bring|show|read|put|dim"
    r"|mute|wake me|help me|let'?s)\s"
    r"|,? please$"
)
_WOULD_YOU = r"(?i)^(?:please\s)?(?:would|do) you mind\b|\bi(?:'d| would) like you to\b|\bi need you to\b"
_ACTIONS = (_DO_FOR_ME, _COMMAND_END, _ENGLISH_DO, _WOULD_YOU, _FAVOUR, _ASKED_BEFORE)
_PERHAPS = r"(?:^|\s)혹시\s.*(?:세요|[어아해]요?|지요?|죠)$"
_REPORTED = r"달라고\s?(?:했|그랬|하더|하셨|하네|하길|부탁했|졸)"
_HONOURED = r"(?:께서는?|[가-힣]님[이가은는도]|(?:어머니|아버지|할머니|할아버지|엄마|아빠)[가는도]|분들?[이은도])\s"
_MUST = r"[어아여해워려]야\s.*지요?$"  # 먹어야 힘이 나지 tells
MOOD = 300  # characters at the end of a sentence, where Korean shows what it wants
_FINAL_B = 17
_EITHER_OR = r"(야|예요|이에요|나아|맞아|좋아),?\s(?:아니면\s|아님\s)?\S+\1$"  # 3일이야 4일이야
_FINALS_BEFORE = {"가": (4,), "나": (18, 20), "래": (8,)}  # 받침 before an asking end: 큰가, 없나, 했나, 갈래


def asks_for_action(sentence: str) -> bool:
    """Return whether the sentence asks, in whatever mood, that something be done (꺼 줘, 꺼 줄래?)."""
    words = sentence.strip().rstrip(" .?!~…")[-MOOD:]
    if _notifies(words):
        return True
    if re.search(_TELL, words) or re.search(_INNER, words):
        return bool(re.search(_MANNER, words))
    if _tells_of_elders(words):
        return False
    return any(re.search(asked, words) for asked in _ACTIONS) or _commands_a_machine(words)


def _notifies(words: str) -> bool:
    """Return whether something is to be told later, when it has come about: 다 되면 알려 줘."""
    return bool(re.search(_NOTIFY, words)) and not re.search(_WH, words)


def _tells_of_elders(words: str) -> bool:
    """Return whether -세요 honours who is spoken of: 어머니가 좋아하세요."""
    return words.endswith("세요") and not words.endswith("주세요") and bool(re.search(_HONOURED, words))


def _commands_a_machine(words: str) -> bool:
    if re.search(_ENGLISH_IMPERATIVE, words):
        return not re.search(_ENGLISH, words)
    return bool(re.search(_DEVICE, words)) and not re.search(_DEVICE_NOT, words)


def asks_for_advice(sentence: str) -> bool:
    """Return whether the sentence asks for a recommendation: a request whose result is an answer in words."""
    return bool(re.search(_ADVISE, sentence)) and not re.search(_REPORTED, sentence)


def asks(sentence: str) -> bool:
    """Return whether the sentence expects information back."""
    stripped = sentence.strip().rstrip("\"'”’)」』")
    words = stripped.rstrip(" .?!~…ㅋㅎㅠㅜ^;,")
    marked, stated = "?" in stripped[len(words) :], stripped.endswith(".")
    words = words[-MOOD:]
    if _notifies(words):
        return False
    if re.search(_TELL, words) or re.search(_INNER, words) or re.search(_ENGLISH_TELL, words):
        return not re.search(_MANNER, words)
    if asks_for_advice(words):
        return True
    marked = marked or bool(re.search(_PERHAPS, words))
    polite = marked and words.endswith("세요") and not words.endswith("주세요")  # 좋아하세요? asks
    if asks_for_action(words) and not polite:
        return False
    return _is_in_asking_mood(words, marked, stated)


def _is_in_asking_mood(words: str, marked: bool, stated: bool) -> bool:
    if stated and words.endswith("래"):
        return False  # 그걸로 할래. tells what one will
    if marked or re.search(_ENGLISH, words) or _asking_end(words):
        return True
    return not stated and _could_ask(words)


def _final(char: str) -> int:
    return (ord(char) - 0xAC00) % 28 if "가" <= char <= "힣" else 0


def _asking_end(words: str) -> bool:
    """Return whether the ending serves questions only."""
    if len(words) > 2 and words.endswith("니까"):
        return _final(words[-3]) == _FINAL_B  # 합니까 asks, 하니까 gives a reason
    if len(words) < 2 or re.search(_ASKING_NOT, words):
        return bool(re.search(_KNOW_END, words))
    bare = words.removesuffix("요") if words.endswith("가요") else words
    finals = _FINALS_BEFORE.get(bare[-1])
    if finals and len(bare) > 1 and not words.endswith(("라나", "려나", "되나")):
        return _final(bare[-2]) in finals and not words.endswith("줄래")
    return words[-1] == "니" or bool(re.search(_ASKING_END, words) or re.search(_KNOW_END, words))


def _could_ask(words: str) -> bool:
    """Return whether a sentence without a mark is a question all the same: a question word, a tag, a -지."""
    plain = re.sub(_INDEFINITE, " ", words)
    if re.search(_WH, plain) and not re.search(_STATING_END, words):
        return True
    if re.search(_MUST, words):
        return False
    if re.search(_EITHER_OR, words):
        return True
    return bool(re.search(_TAG_END, words))
