"""Sentences about the user's own memories: commands to keep or forget, questions for what is known."""

from __future__ import annotations

import re

_DO = r"(?:줘|줘요|줄래|줄\s?수|주세요|주라|주십시오|두라|둬|둬요|두세요|두고|놔|놔요|놓아|놓으세요|달라)"
_NO_FILE = "".join(f"(?<!{thing} )(?<!{thing}을 )(?<!{thing}를 )" for thing in ("파일", "사진", "메일", "문서"))
_COMMAND = (
    rf"기억\s?(?:좀\s)?해\s?{_DO}|(?:잊|까먹)지\s?(?:마|말)|외워\s?{_DO}"
    rf"|(?:메모|기록)\s?(?:좀\s)?해\s?(?:{_DO}|$)|메모(?:\s좀)?\s부탁|적어\s?(?:둬|둬요|두|놔)"
    rf"|{_NO_FILE}저장\s?(?:좀\s)?해\s?(?:둬|둬요|두|놔|줘|주세요)"
    rf"|잊어\s?(?:줘|주세요|버려|버려줘|줄래|라|달라)|잊어$|기억(?:에서|을|도)?\s?(?:지워|삭제|없애)"
    rf"|(?:한|했던|말한|말했던)\s?(?:말|거|건|것|얘기|이야기)(?:은|는|을|를)?\s?(?:다\s|모두\s"
    rf"|전부\s)?(?:지워|삭제해|잊어)\s?{_DO}"
)
_BARE_COMMAND = r"기억\s?(?:좀\s)?(?:해|해라|하고\s있어|하세요)$"  # with a question mark it asks
_COMMAND_EN = (
    r"(?i)^(?:please |hey |ok(?:ay)?,? |and |also,? )*(?:(?:can|could|will|would) you )?(?:please )?"
    r"(?:remember (?!when\b)(?:that|this|my|me|i\b|to|:)|(?:don'?t|do not|never) forget|forget (?!it\b"
    r"|about it\b)(?:that|what|everything|my|about|all|i\b)"
    r"|(?:make a |take a )?note (?:that|of|down|this|:)|memori[sz]e|keep in mind|save (?:that|this)\b)"
)

_I = (
    r"(?:나|난|나는|나도|내|내가|나의|저|전|저는|저도|제|제가|저의|우리|우린|우리가|우리는|저희|저희가"
    r"|나한테|나에게|내게|저한테|저에게|나랑|저랑)"
)
_SELF = rf"(?:^|[\s,]){_I}(?=\s)"
_POINTING = r"(?:^|\s)(?:저\s(?:사람|분|것|거|쪽|집|차|남자|여자|아이|애|건물)|우리\s나라)"
_OWN = r"(?:^|[\s,])(?:내|나의|제|저의|우리|저희)\s+[가-힣A-Za-z]"
_WHAT = r"뭐|뭘|뭔|뭣|무엇|무슨|언제|누구|누가|어디|어딨|몇|며칠|얼마|어느|어떤"
_KNOWN = r"알아|알고\s?있|알지|아니$|아세요|아시나|아십니까|알려|말해|말씀해|얘기해|이야기해"
_REMEMBER = r"기억\s?(?:나|해|하|안\s?나|이\s?안)|뭐라고|뭐랬|말했|말한\s|얘기했|이야기했|까먹"
_TASTE = r"좋아하|좋아해|좋아했|싫어하|싫어해|못\s?먹|알레르기|취미|특기|취향|무서워하"
_RECALL_END = r"(?:[았었였했갔왔봤샀됐났렸졌]|[가-힣])(?:지|죠|지요|더라|더라고|드라|던가)(?:요)?$"
_PAST_END = r"(?P<tense>[가-힣])(?:지|죠|어|어요|니|냐|나|나요|더라|던가|지요|는지|습니까)$"
_PAST_TIME = r"어제|그저께|그제|엊그제|지난|저번|아까|전에|그때|예전|옛날|작년"
_ADVICE = (
    r"(?i)[을까]까|해야|좋을|좋지|어떡|어떻|왜(?:\s|$)|(?:먹|하|입|가|보|사)지$|면\s?(?:될|되|좋)|할지"
    r"|\b(?:why|how (?:do|can|should)|should)\b"
)
_QUERY_EN = (
    r"(?i)\b(?:what|when|where|who|which|how old|how many|how much)(?:'s|'re| \w+)? (?:is |are |was |were "
    r"|did |do |have |kind of \w+ do )*(?:my|i|we|our)\b"
    r"|\b(?:do|did|can) you (?:still )?(?:remember|recall|know) (?:my|what i|where i|when i|who i|me|our"
    r"|if i|i)\b|\bdid i\b"
    r"|\bhave i (?:told|said|mentioned|ever)\b|\b(?:know|remember) about me\b|\b(?:tell me"
    r"|remind me) (?:what|when|where|who) (?:i|my|is my|are my)\b"
)
_OWN_EN = r"(?i)\b(?:my|our|mine)\b|\b(?:am i|should i|do i like)\b"
_FINAL_SS = 20


def tells_to_remember(sentence: str) -> bool:
    """Return whether the sentence is a command to keep, or to forget, something."""
    words = _bare(sentence)
    if re.search(_BARE_COMMAND, words):
        return "?" not in sentence[-3:]
    return bool(re.search(_COMMAND, words) or re.search(_COMMAND_EN, words))


def asks_about_user(sentence: str) -> bool:
    """Return whether a question asks for what the user has said, has, likes or did.

    It names the speaker and asks for a thing of theirs, a taste, or something past; or, naming nobody, it
    ends as one who tries to recall speaks (뭐라고 했지, 어디였더라) and points at an earlier time. Questions
    for advice (뭐 먹을까) and for reasons (왜) are none.
    """
    words = _bare(sentence)
    if re.search(_QUERY_EN, words) and not re.search(_ADVICE, words):
        return True
    if re.search("기억\\s?(?:나|해|하)", words):
        return True
    recalls = _is_past_question(words)
    if re.search(_ADVICE, words) and not recalls:
        return False
    if not speaks_of_self(words):
        return recalls and bool(
            re.search(_WHAT, words) and re.search(_PAST_TIME, words) and re.search(_RECALL_END, words)
        )
    if re.search(_REMEMBER, words) or recalls or re.search(r"(?:나|저|우리)에\s대해", words):
        return True
    return bool(
        (re.search(_OWN, words) or re.search(_TASTE, words)) and (re.search(_WHAT, words) or re.search(_KNOWN, words))
    )


def speaks_of_self(sentence: str) -> bool:
    """Return whether the sentence names the speaker: 나, 내, 저, 제, 우리, my, our and their forms."""
    words = re.sub(_POINTING, " ", _bare(sentence))
    return bool(
        re.search(_SELF, words) or re.search(_OWN_EN, words) or re.search(r"(?:^|\s)(?:나|저|우리)에\s대해", words)
    )


def _bare(sentence: str) -> str:
    return sentence.strip().rstrip(" .?!~…ㅋㅎㅠㅜ^;,\"'”’")


def _is_past_question(words: str) -> bool:
    end = re.search(_PAST_END, words)
    if end is None:
        return False
    char = end["tense"]
    return ((ord(char) - 0xAC00) % 28 == _FINAL_SS and char not in "있겠") or words.endswith(("더라", "던가"))
