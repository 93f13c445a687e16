"""Sentences about the user's own memories: commands to keep or forget, questions for what is known."""

from __future__ import annotations

import re

# How one is told to do something: after a verb in -아/-어, or at the end of the sentence.
_DO = (
    r"(?:줘|줄래|줄\s?수|주라|주세|주십|주시|주실|주겠|주면|주렴|주길|줬으면|달라|다오|두라|두세|두십|두시|두렴|두고|두면|둬|둘래"
    r"|뒀으면|두길|두기|둬야|버려|부탁|놔|놓아|놓으|놓을래|놓고|놓자)"
)
_NOW = rf"(?:\s?(?:버려\s?)?{_DO}|(?:라|요|야\s?해|야\s?돼|도\s?[돼되])?$)"
# How one is told to keep something in writing or in mind; 적어 두는 버릇 and 적어 놓았어 tell of it.
_SET = (
    r"(?:둬(?!도)|놔(?!도)|(?:둘|놓을)래|두(?:라|세|십|시|렴|자$|길)|놓(?:아|으세|으십|으시|으렴|으라|자$|길)"
    r"|(?:두|놓으)면\s?(?:좋겠|고맙|감사|[돼됩]))"
)
_ASKED = rf"(?:{_SET}|줘|줄래|주세|주십|주시|주라|주렴|달라|다오|부탁|해(?:라|요)?$)"
_NOT = r"지\s?(?:좀\s)?(?:마|말아|말고|말|않아도|않았으면)"
_FILES = (
    r"(?:파일|사진|메일|문서|영상|이미지|화면|링크|엑셀|페이지|장바구니|앱|노래|스크린샷|배경|폴더|알림|알람|일정|스케줄|캘린더|달력|목록을|재생\s?목록"
    r"|플레이리스트|즐겨찾기|문단|문장|글자|코드|댓글|칸|행|열|슬라이드)"
)
_SAID = r"[다라자냐]고\s"  # what is to be kept: …한다고 저장해
_KEEP = (
    rf"(?:기억|명심|유념)\s?(?:좀\s)?해\s?{_DO}|기억\s?좀?\s?하고\s?(?:있어|계셔|계세|있으)\s?{_DO}|(?:잊|까먹){_NOT}|외워\s?{_DO}"
    rf"|새겨\s?(?:둬|두|놔)"
    rf"|(?:알아|참고\s?해|적어)\s?{_SET}|(?:잊|까먹)으면\s?안\s?(?:돼|된다|됩니다|되지|되니까)\S{{0,2}}$"
    rf"|(?:잊|까먹)지\s?않(?:게|도록)(?:$|\s(?:\S{{1,9}}\s){{0,3}}\S{{0,5}}{_ASKED})"
    rf"|(?:메모|기록)(?:을|도)?\s?(?:좀\s)?(?:해|남겨){_NOW}|메모(?:\s좀)?\s부탁|적어\s?주면\s?[돼됩]"
    rf"|{_SAID}(?:꼭\s|좀\s)?(?:적어|써|저장해|입력해|등록해|추가해|업데이트해|수정해|남겨){_NOW}"
    r"|^(?:메모|기억|기록)\s?:"
)
_SAVE = (
    rf"(?:저장|입력|등록)\s?(?:을\s)?(?:좀\s)?(?:부탁|좀$)|저장\s?(?:좀\s)?해{_NOW}"
    rf"|(?:입력|등록)\s?(?:좀\s)?해\s?(?:두|둬|놔|놓)|^(?:입력|등록)\s?(?:좀\s)?해{_NOW}"
)
_UPDATE = rf"(?:추가|반영|업데이트|수정|변경|갱신)\s?(?:좀\s)?해{_NOW}"
_UPDATED = r"기억|메모에|기록|프로필|취향|내\s정보|제\s정보|(?:바뀌었|바뀌|변경됐|틀렸|달라졌)\S{0,5}\s"
_FIX = rf"(?:고쳐|바꿔|바로잡아){_NOW}"
_TO_FIX = (
    r"(?:내|제|우리|저희)\s(?:(?:정보|프로필|기록|기억)|[^,]{1,15}(?:바뀌었|바뀌어|바뀐|달라졌|변경됐))"
    r"|(?:나이|이름|생일|주소|번호|직업|직장|전공)[가이]?\s?(?:틀렸|잘못)"
)
_REPORTED = r"달래요?$|달라(?:고|며)\s?(?:했|하셨|하네|하더|그랬|그러)(?!\S?잖)\S{0,4}$"  # what another asked for
_FORGET = (
    rf"잊어\s?(?:줘|주|버려|줄래|라|달라)|잊어$|잊으(?:세요|셔도|시면|렴|라)|(?:없던|못\s?들은|안\s?들은|안\s?한)\s?(?:걸|일|것)로\s?(?:해|하|쳐)"
    rf"|(?:기억|저장|기록|메모)(?:은|을|도)?\s?(?:하)?{_NOT}|(?:적어\s?두|외우|담아\s?두|(?:기억|기록|메모)에\s?(?:남기|담|넣)){_NOT}"
)
_ERASE = rf"삭제\s?(?:좀$|부탁)|(?:지워|삭제해|없애|빼|제거해|폐기해|취소해|날려){_NOW}"
_ERASED = (
    r"기억|기록|메모|저장|정보|프로필|얘기|이야기|(?:한|했던|말한|말했던)\s?(?:말|거|건|것)|관련|관한|대한|대해|내용|아는|알고\s?있|데이터|알려\s?[준줬]"
    r"|틀렸|잘못\s?말"
)
_FROM_NOW = r"(?:^|\s)(?:앞으로는?|이제부터는?|지금부터는?|다음부터는?)\s"
_TREAT_ME = (
    r"(?:불러|부르|꺼내|묻|언급하|얘기하|말하|말해|말하|대하|답해|대답해|호칭)\S{0,3}\s?(?:줘|주|마|말|라|달라|해|$)"
)
_BARE_COMMAND = r"기억\s?(?:좀\s)?(?:해|해라|하고\s?있어|하세요)$"  # with a question mark it asks
_REMEMBERING = r"(?:^|\s)(?:혹시|나는|난|나도|저는|전|저도|아직도?|생생\S*)\s"
_NARRATES = r"(?:^|\s)(?:나는|난|저는|전|매일|항상|늘|자주|요즘)\s"  # 나는 매일 가계부를 기록해
_KEEPS = r"(?<![다라]고\s)(?:메모|기록|저장)\s?해요?$"
_COMMAND_EN = (
    r"(?i)^(?:please |hey |ok(?:ay)?,? |and |also,? )*(?:(?:can|could|will|would) you )?(?:please )?"
    r"(?:remember (?!when\b)(?:that|this|my|me|i\b|to|:)|(?:don'?t|do not|never) forget|forget (?!it\b"
    r"|about it\b)(?:that|what|everything|my|about|all|i\b)|(?:don'?t|do not|never) (?:remember|save|store|keep"
    r"|record|mention)\b"
    r"|(?:make a |take a )?note (?:that|of|down|this|:)|memori[sz]e|keep in mind|save (?:that|this)\b"
    r"|(?:delete|erase|remove|wipe|clear) (?:what|everything|anything|all|my|that|the)\b.*"
    r"\b(?:know|told|said|remember|about (?:me|my)|memory|memories|notes?)\b"
    r"|add (?:this |that )?to (?:your|my) (?:notes?|memory|profile)|write (?:down|this down|that down)"
    r"|from now on,? (?:call|address) me|call me \w+ from now on|update my \w+)"
)

_I = (
    r"(?:나|난|나는|나도|내|내가|나의|저|전|저는|저도|제|제가|저의|우리|우린|우리가|우리는|저희|저희가"
    r"|나처럼|저처럼|나보고|내겐|제겐|제게|나한테|나에게|내게|저한테|저에게|나랑|저랑)"
)
_SELF = rf"(?:^|[\s,]){_I}(?=\s)"
_POINTING = r"(?:^|\s)(?:저\s(?:사람|분|것|거|쪽|집|차|남자|여자|아이|애|건물|나무|꽃|배우|가수|새|별)|우리\s나라)"
_OWN = r"(?:^|[\s,])(?:내|나의|제|저의|우리|저희)\s+[가-힣A-Za-z]"
_WHAT = r"뭐|뭘|뭔|뭣|무엇|무슨|언제|누구|누가|어디|어딨|몇|며칠|얼마|어느|어떤"
_KNOWN = r"알아|알고\s?있|알지|아니$|아세요|아시나|아십니까|알려|말해|말씀해|얘기해|이야기해"
_REMEMBER = r"기억\s?(?:나|해|하|안\s?나|이\s?안)|뭐라고|뭐랬|말했|말한\s|얘기했|이야기했|까먹"
_TASTE = r"좋아하|좋아해|좋아했|싫어하|싫어해|못\s?먹|알레르기|취미|특기|취향|무서워하"
_ABOUT_ME = r"(?:나|저|우리)에\s?(?:대해|대한|관해|관한)"
_KEPT = r"(?:저장|기록|등록|입력|메모)(?:돼|되어|이\s돼|해\s?(?:놨|뒀))\s?(?:있)?|알고\s있"
_QUIZ = rf"(?:{_WHAT}).*(?:게$|[는은인을한된할]지\s(?:혹시\s)?(?:알|아[니냐세시나]|기억|말해|맞혀|맞춰|요약|정리|찾아))"
_MY_THING = (
    rf"(?:내가|제가|우리가)\s.*(?:다고|라고|다는|던|하는|[다니가사쓰보먹타키]는|[한간산본쓴탄준]|은)\s.*(?:{_WHAT}|말해|알려|나열)"
    r"|(?:나한테|나에게|저한테|저에게|내게)\s.*(?:알아|알고|아[니세시]|있다고|기억)"
)
_RECALL_END = r"(?:[았었였했갔왔봤샀됐났렸졌]|[가-힣])(?:지|죠|지요|더라|더라고|드라|던가)(?:요)?$"
_PAST_END = r"(?P<tense>[가-힣])(?:지|죠|어|어요|니|냐|나|나요|더라|던가|지요|는지|습니까)$"
_PAST_TIME = r"어제|그저께|그제|엊그제|지난|저번|아까|전에|그때|예전|옛날|작년"
_ADVICE = (
    r"(?i)(?<![니일뭘굴])까요?$|만한|적당|적절|(?:추천|조언|골라)\S{0,3}(?:\s\S{1,5}){0,3}$|해야|좋을|좋지|어떡|어떻|왜(?:\s|$)|(?:먹|하|입|가|보|사)지$"
    r"|면\s?(?:될|되|좋)|할지"
    r"|\b(?:why|how (?:do|can|should)|should)\b"
)
_QUERY_EN = (
    r"(?i)\b(?:what|when|where|who|which|how old|how many|how much)(?:'s|'re| \w+)? (?:is |are |was |were "
    r"|did |do |have |kind of \w+ do )*(?:my|i|we|our)\b"
    r"|\bwhat(?:'s| is| was) the \w+ of my\b|\b(?:do|did|can) you (?:still )?(?:remember|recall|know) (?:my|what i"
    r"|where i|when i|who i|me|our"
    r"|if i|i)\b|\bdid i\b"
    r"|\bhave i (?:told|said|mentioned|ever)\b|\b(?:know|remember) about me\b|\b(?:tell me"
    r"|remind me) (?:what|when|where|who) (?:i|my|is my|are my)\b"
)
_OWN_EN = r"(?i)\b(?:my|our|mine)\b|\b(?:am i|should i|do i like)\b"
_FINAL_SS = 20


def tells_to_remember(sentence: str) -> bool:
    """Return whether the sentence is a command to keep, or to forget, something."""
    words = _bare(sentence)
    if re.search(_REPORTED, words):
        return False
    if re.search(_BARE_COMMAND, words):
        return "?" not in sentence[-3:] and not re.search(_REMEMBERING, words)
    if re.search(_KEEPS, words) and re.search(_NARRATES, words):
        return False
    if re.search(_COMMAND_EN, words) or re.search(_KEEP, words) or re.search(_FORGET, words):
        return True
    if re.search(_FROM_NOW, words) and re.search(_TREAT_ME, words):
        return True
    return not re.search(_FILES, words) and (_keeps(words) or _erases(words))


def _keeps(words: str) -> bool:
    """Return whether something that is no file is to be written down."""
    if re.search(_SAVE, words):
        return True
    if re.search(_FIX, words) and re.search(_TO_FIX, words):
        return True
    return bool(re.search(_UPDATE, words) and re.search(_UPDATED, words))


def _erases(words: str) -> bool:
    return bool(re.search(_ERASE, words) and re.search(_ERASED, words))


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
    if recalls or any(re.search(known, words) for known in (_REMEMBER, _ABOUT_ME, _KEPT, _QUIZ, _MY_THING)):
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
