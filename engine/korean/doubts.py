"""What makes a statement none of its speaker's life, or one that rules cannot be sure of.

Each is asked of a sentence without its closing marks, which `candidates` would else be sure of.
"""

from __future__ import annotations

import re

from engine.korean import selves

# of the talk itself: 내가 다시 설명할게, I tried your code
_CHAT = re.compile(
    r"그렇게\s?생각|(?:^|\s)몰라요?$|이해가\s(?:안|잘|돼|됐|되)|(?:잘못|다시)\s?(?:눌|보냈|보낼|쳤|물|설명|말)|"
    r"^(?:내|제)가\s\S+(?:\s\S+)?\s(?:건|게|거|말은)\s|"
    r"(?:내|제)가\s보기|오타|(?:이해했|이해됐)\S{0,3}$|(?:나는|난|저는|전)\s(?:그냥\s)?궁금|^(?:나|저|난|"
    r"전)[는도]?\s(?:\d+번|(?:첫|두|세|네)\s?번째)|^(?:나|저|난|전)[는도]?\s(?:좋아요?|괜찮아요?|됐어요?)$|"
    r"(?i:\bI\s(?:agree|tried|(?:got|get)\s(?:an?|the)\s\w*\s?(?:error|message)|meant|see\swhat|just\sran|"
    r"don'?t\s(?:understand|get|know)|want\syou)|"
    r"\bI'll\s(?:try|do|check|see)\b|\bI'm\snot\ssure|\bmy\s(?:code|script|program|query|question)\b)"
)
_SUPPOSED = re.compile(
    r"[가-힣]다면(?=[\s,])|[었았였했갔]더라면|텐데|다고\s?(?:쳐|치자|치고)|[었았였했]으면\s|[었았였했갔왔겠](?:겠|"
    r"을\s?거)|"
    r"라고\s?(?:해\s?보|생각해)|(?:너|네가|니가|당신)이?라면|(?:^|\s)(?:혹시\s내|다시\s태어나|로또\S*\s\S*면)|"
    r"(?i:\bif\si\b.{0,200}\b(?:would|could)\b)"
)
_FICTION = re.compile(
    r"꿈에서|꿈에\s(?!그리)|꿈속|게임에서|드라마에서|영화에서|소설에서|만화에서|점쟁이|챗봇이|노래\s?제목|외계인|"
    r"^(?:나는|난)\s\S+\s하는\s부분"
)
_TOLD_OF_TEXT = re.compile(  # 일기장에 … 적혀 있었어, 이렇게 왔어
    r"(?:일기|편지|쪽지|문자|카톡|메일|메시지|책|기사|웹\s?페이지|게시판|글|가사|대본)\S{0,2}에\s.{0,200}(?:적혀|"
    r"쓰여|써\s?있|써져|나와|나온)|"
    r"이렇게\s(?:왔|적|써|쓰여|썼|보냈)"
)
# another says it, or it is denied, or meant to be funny
_HEARD = re.compile(
    r"(?:[가-힣](?:대|래)요?|다는데|라는데|[다자냐]고\s?(?:했|그랬|하더|하셨|하시|해|말했|말하|알고)\S*|"
    r"라고\s?(?:했|하셨|불|나와|말)\S*)$|"
    r"[다라]고\s?(?:하셨|했|그랬)는데|그러는데\s|(?:보냈|왔)는데\s(?:나|난|나는|내|저|저는)\s|소문|농담|적\s없|"
    r"말\s한\s적|라는\s거야$|(?:아니야|아니에요|틀렸\S*)$"
)
_TAUGHT = re.compile(r"배웠|알게\s?[됐되]")
_AT_ITS_END = re.compile(r"못\s?\S{0,3}겠(?:어|다|네)요?$|죽겠")  # 더워서 못 하겠어
_THEIRS = re.compile(
    r"(?:사장|부장|팀장|과장|선생님?|친구|동료|이웃|옆집)(?:님)?(?:의|네)?\s(?:아들|딸|남편|아내|와이프|친구|동생|"
    r"형|누나|언니|오빠|엄마|아빠)(?=[\s이가은는도])"
)
_WILL = re.compile(r"([가-힣])래요?$")  # 그걸로 할래: no hearsay
_FINAL_L = 8
_THIRD = re.compile(
    r"(?:^|\s)(?:걔|쟤|얘|그\s?(?:사람|분|형|애|녀석|언니|오빠|누나|친구|배우|가수|선수|친구의)|저\s사람|이\s사람|"
    r"(?:옆|앞|윗|아랫)집(?!에)|"
    r"새로\s온|대통령|연예인|[가-힣]{2,3}\s?씨(?=[은는이가도의\s]|$)|"
    r"[가-힣]{1,3}\s?(?:과장|부장|대리|차장|사장|교수|회장|의원|선생)님?(?:은|는|이|가|도|께서)?\s)"
)
_OWN_TOPIC = (  # what nobody need be named with: 취미는 등산이에요; and times, places: 주말에는
    r"이름|별명|본명|생일|취미|고향|전공|직업|직장|학교|회사|집|혈액형|MBTI|키|몸무게|나이|목표|꿈|종교|성격|입맛|"
    r"취향|특기|주량|시력|이메일|번호|"
    r"주소|아이디|학번|연봉|월급|가족|차|첫째|둘째|동생|형제|면접|결혼식|휴가|재택|출근|퇴근|아침|점심|저녁|회식|"
    r"연차|예정일|부모님|이번|올해|내년|"
    r"작년|요즘|요새|원래|평소|주말|오늘|내일|어제|지금|사실|월요일|화요일|수요일|목요일|금요일|토요일|일요일|달|"
    r"해|년|월|때|후|뒤|전|에|서|까지|"
    r"부터|마다|지|건|게|것|거|적"
)
_TOPIC = re.compile(
    rf"^(?:\S+\s){{0,2}}?(?!(?:\S*(?:{_OWN_TOPIC})|우리|나|저|\S*(?:하|사|먹|있|없|가|오|니|쓰|보|드|키우|배우|"
    rf"지내|되|맡))(?:은|는)\s)"
    r"\S*[가-힣](?:은|는)\s(?!지\s|적|후|뒤|게\s|것|거\s|건\s|데\s|채\s|편|사람)"
    r"(?!(?:아직\s|별로\s|전혀\s|이제\s|절대\s)?(?:없|안\s(?!돼|된|되|좋)|못\s)|하루에\s)",  # 운전면허는 아직 없어요
    re.IGNORECASE,
)
_DONE = re.compile(  # with a past: 담배는 끊었어
    r"(?:^|\s)(?:담배|술|커피|군대|대학교?|고등학교|학교|운전|운동|피아노|기타|수영|요가|영어|일본어|중국어|"
    r"치료)(?:은|는)\s"
)
_TASTE_OF_OTHERS = re.compile(
    r"^(?:\S+\s)?(?!나|저|우리|요즘|원래|평소|이제|올해|\S+에|"
    r"\S+때)\S+[은는]\s(?:\S+(?<![데고만니,])\s){0,2}?(?:\S+[을를]|거|것|걸)\s"
)
_CONDITION = re.compile(r"(?:으면|[가-힣]면|려면)\s")
_PREDICATE = re.compile(
    r"[다요어아야해지음함임됨네죠게고서데래려대와가봐워여자쳐쪄녀셔켜펴텨져혀겨껴춰줘둬꿔든니까유라나께a-zA-Z0-9]$"
)
_GENERAL = re.compile(
    r"(?:는|은)\s(?:게|것이)\s(?:좋|나[아을]|낫|정확)|야\s?(?:해|돼|한다|합니다|함)요?$|(?:안\s돼|안\s된다|"
    r"하지\s마|지\s마)요?$"
)
_NEWS = re.compile(
    r"(?:국회|정부|대통령|증시|주가|물가|금리|환율|최저임금|노조|예산|법안|선거|경찰|검찰|올림픽|월드컵|국가대표)"
)


def is_no_life(words: str) -> bool:
    """Return whether a statement is of the talk itself, supposed, dreamt or played, or tells what a text says."""
    return any(rule.search(words) for rule in (_CHAT, _SUPPOSED, _FICTION, _TOLD_OF_TEXT))


def is_doubtful(words: str, mine: bool, near: bool, dated: bool) -> bool:
    """Return whether a model is to decide on a statement; `mine`, `near`: it names its speaker, or someone close."""
    if selves.LEARNT.search(words) and _TAUGHT.search(words):
        return bool(_THIRD.search(words))
    if (_HEARD.search(words) and not _is_will(words)) or _AT_ITS_END.search(words) or _THEIRS.search(words):
        return True
    if mine:
        return False
    if _THIRD.search(words) or _NEWS.search(words):
        return True
    if near:
        return bool(_GENERAL.search(words))
    return _is_general(words) or not (_PREDICATE.search(words) or (dated and selves.OCCASION.search(words)))


def _is_will(words: str) -> bool:
    ending = _WILL.search(words)
    return ending is not None and (ord(ending[1]) - ord("가")) % 28 == _FINAL_L


def _is_general(words: str) -> bool:
    """Return whether a statement that names nobody may be one of the world."""
    if _GENERAL.search(words) or (_CONDITION.search(words) and not selves.PAST.search(words)):
        return True
    if selves.TASTE.search(words):
        return bool(_TASTE_OF_OTHERS.search(words))
    return bool(_TOPIC.search(words)) and not (_DONE.search(words) and selves.PAST.search(words))
