"""Whether a sentence is small talk: greetings, thanks, apologies, wishes, praise, farewells, interjections, laughter.

Three ways lead there: nothing but set phrases and filling stands in it; it does what it names (thanks, apologises,
congratulates, takes leave), whatever the reason given before; or it asks how the other one is.
"""

from __future__ import annotations

import re

_LEFT_OVER = 2  # letters; a name or a particle may stand beside a greeting
_LONGEST = 80  # characters; a longer sentence tells something
_AT = r"(?<![가-힣A-Za-z])"
_TO = r"(?![가-힣A-Za-z])"

_GREETS = (
    r"안녕|하이(?!킹)|헬로|반가|반갑|방가|고마|고맙|감사(?!원|팀|실)|땡큐|미안|죄송|사랑해|수고|고생\s?(?:많|하셨|했|하시)"
    r"|축하(?!금|\s?파티|\s?선물)"
    r"|잘\s?(?:자|가(?=$|[라요\s.!~])|쉬|있어|다녀)|푹\s?(?:쉬|자|주무)|주무(?:세|시|십)|굿\s?(?:모닝|나잇|밤)"
    r"|(?:좋은|즐거운|행복한|편안한|편한)\s?(?:아침|밤|하루|저녁|주말|꿈|오후|명절|연휴|한\s?주)|오랜만"
    r"|뵙게\s?되어|잘\s?(?:지냈|지내|있었|잤)|복\s?많이\s?받|메리\s?크리스마스|해피\s?(?:뉴이어|버스데이|추석)"
    r"|힘\s?내|기운\s?내|응원(?:할|해|합)|파이팅|화이팅|아자|넌\s?누구|너는\s?누구|누구세요|뭐\s?해|뭐하니|심심"
    r"|어서\s?(?:와|오)|환영|실례(?:했|합|할)|부끄럽|부끄러|쑥스|별말씀|천만에|괜찮아|괜찮습|다행"
)
_AGREES = (
    r"그렇구나|그렇군|그랬어|그랬군|그렇지|확인했|그러게|그러네|그러시군|그랬구나|그래|알겠|알았어|알았습|아하|오케이|오키|오냐|맞아|맞네|그치|인정"
    r"|물론이(?:지|죠)|당연하(?:지|죠)|좋아|좋네|좋다|좋습|대박|최고(?=$|[\s.!~]|[야다예입네])|최고(?:야|다|예|입|네)|짱"
)
_PRAISES = (
    r"대단|멋지|멋있|멋져|멋진|훌륭|똑똑|귀엽|귀여|예쁘|예뻐|착하|착해|친절하|친절해|다정|재밌|재미있|웃기|웃겨|웃긴"
    r"|잘했|잘하(?:네|는|시|셨)|든든|놀랍|놀라워|신기하|신기해|완벽|천재|센스|감동|깜짝|슬프|속상|짜릿"
)
_YES = (
    r"응|네|네네|응응|어이구|아이구|넵|넹|예|아니|아니요|아니에요|ㅇㅇ|ㅇㅋ|ㄴㄴ|ㄱㅅ|ㅎㅇ|ㅂㅂ|우와+|헐|헉|음+|흠+|어머|어머나|세상에|아이고|에구|에휴"
    r"|아이쿠|어이쿠|이야|캬|하하+|호호+|히히+|크크+|푸하하|얍|여어|어이"
)
_SET_PHRASE = re.compile(
    rf"{_AT}(?:{_GREETS}|{_AGREES})[가-힣]{{0,6}}|{_AT}(?:{_YES}){_TO}|^(?:와+|오+){_TO}|[ㅋㅎㅠㅜ]+"
    r"|(?i:\b(?:hi|hiya|hello|hey|thanks|thank you|thx|bye|goodbye|good (?:morning|night|evening|afternoon|job|work)"
    r"|how are you|how'?s it going|see (?:you|ya)|nice to meet you|take care|well done|congrat\w*|happy (?:birthday"
    r"|new year)"
    r"|merry christmas|welcome|cheers|sweet dreams|no (?:problem|worries)|my bad|bless you|good luck"
    r"|sorry|lol|(?:ha|he){2,}|you rock|best|sweet of you|omg|oh my god|wow|ok|okay|yes|yeah|yep|no|nope|great|cool"
    r"|awesome|amazing|nice|wonderful"
    r"|brilliant|hilarious|funny|perfect|love (?:it|you|this|that)|what'?s up)\b)"
)
_PRAISE = re.compile(rf"{_AT}(?:{_PRAISES})[가-힣]{{0,6}}")
_FILLER = re.compile(
    rf"{_AT}(?:정말|진짜|너무|참|아주|완전|역시|오늘도?|그동안|여러분|친구야|다들|모두|늘|항상|많이|넌|넌\s|너|너는|너도|네가|니가|당신"
    r"|너랑|얘기하니까|대화하니까|얘기하면|야|꼭|얼른|어서|조심히|다시|또|내일|다음에|나중에|이따가?|그럼|그래도|이만|이제|덕분에|새해|생일"
    r"|만나서|도와줘서|도와주셔서|말해\s?줘서|들어\s?줘서|들어가세요|들어가|되세요|보내세요|보내|하세요|놀아\s?줘|죽겠네|죽겠다"
    rf"|정도로|하루도|무지|엄청|되게|꽤|더|좀){_TO}"
    r"|(?i:\b(?:so|very|much|there|again|later|today|tomorrow|soon|you|your|for|the|a|an|all|help|doing|lot|it|that"
    r"|this"
    r"|its|thats|you're|it's|that's|is|was|are|oh|my|really|too|well|sleep|i'm|i|am|have|day|weekend|everyone|guys"
    r"|friend|to|and"
    r"|such|earlier|about|me|meet|met)\b)"
)
# What these do, they do by being said: at the end, or before a comma, in the present and of the speaker.
_PERFORMED = re.compile(
    r"(?:고마워|고맙다|고맙네|고맙습니다|고마워요|고맙구려|감사(?:해|해요|합니다|드려요|드립니다|할\s?따름(?:입니다|이에요))|미안|미안해|미안해요|미안합니다"
    r"|미안하다|죄송|죄송해요|죄송합니다|죄송하네요|죄송스럽네요|축하(?:해|해요|합니다|드려요|드립니다|한다|드릴게요?)|반가웠(?:어|어요|습니다)"
    r"|사과(?:할게|할게요|드립니다|드려요)|즐거웠(?:어|어요|습니다)|(?:수고|고생)\s?(?:많으셨|하셨|많았|했)[가-힣]{1,4}|(?:수고|고생)하세요)(?:[,\s]+(?:(?:정말|진짜"
    r"|너무)\s)?[가-힣]{1,4})?$"
)
_WISHED = re.compile(
    r"(?:잘|푹|조심히|조심해서|즐겁게|편히|편안히|무사히|따뜻하게)\s?(?:보내|쉬|자|다녀와|다녀오|들어가|가|주무|지내|있)"
    r"(?:고|[가-힣]{0,3}(?:세요|셔요|십시오|시길|길|라|렴|요|어|아|자|용|시게|게나))?$"
    r"|(?:하루|주말|밤|저녁|명절|연휴|시간|꿈|휴가)(?:도|를|을)?\s?(?:보내|되|꾸)[가-힣]{0,5}$|기운\s?내[가-힣]{0,4}$"
)
_FAREWELL = re.compile(
    r"(?:^|\s)(?:내일|모레|다음에|또|나중에|이따가?|다음\s?주에?|[월화수목금토일]요일에?|주말에|곧|그때|조만간)\s?(?:또|다시)?\s?"
    r"(?:봐|보자|봬|뵈|뵐|뵙|만나(?=$|요|자|용)|얘기하|이야기하|볼게|보는\s걸로)[가-힣]{0,4}$"
    r"|^(?:나|저|전|난)?\s?(?:그럼)?\s?(?:이만|이제|먼저|그만|슬슬)?\s?(?:가\s?볼|가\s?보겠|가야겠|들어가\s?(?:볼|보)|갈게|자러\s?갈|잘게|자러\s?[가간]|왔어$"
    r"|왔습니다$"
    r"|놀러\s?올|다녀오겠|다녀올|다녀왔|갔다\s?올|들어갈게|끊을게)[가-힣\s]{0,6}$"
)
_OWN_WORDS = re.compile(
    r"^(?:아이고|에구|앗|아|정말|진짜|제가|내가|너무|이런|어머)*\s?(?:미안|죄송|sorry)[가-힣]{0,5}[,\s].*"
    r"(?:말이|말을|말투|대답|답이|답을|답장|얘기가|실수|오해|늦|귀찮|방해|질문이|헷갈|잘못|시간을|번거)"
)
_HOW_ARE_YOU = re.compile(
    r"^(?:야|너|넌|너는|요즘|요새|오늘|그동안|다들|아침|간밤에|어젯밤에|거기는?|안녕)?\s?(?:요즘|오늘|잘|별일|좀|은|은요)?\s?"
    r"(?:어떻게\s?지내|어찌\s?지내|기분(?:이|은)?\s?(?:좀\s)?(?:어때|어떠|어떻)|컨디션(?:은)?\s?(?:어때|어떠)|별일\s?없|뭐\s?하고\s?(?:있|지내)|뭐하고\s?있"
    r"|살\s?만해)"
    r"[가-힣\s]{0,6}$|^(?:너|넌|너는)?\s?(?:오늘\s)?(?:밥|점심|저녁|아침|식사)(?:은|는)\s?(?:[가-힣]{1,4}\s)?(?:먹었|먹고|드셨|했|하셨"
    r"|챙겨)[가-힣\s]{0,8}$"
    r"|^밥\s?먹었[가-힣]{1,2}$"
)
_ENGLISH = re.compile(
    r"(?i)^(?:oh |hey |wow |well )?(?:thanks|thank you|many thanks|(?:i'?m )?(?:so |really |very )?sorry"
    r"|my apologies|congrat\w*"
    r"|happy birthday|good (?:night|morning)|see you)\b(?!.*\b(?:but|because|what|how|when|where|can|could)\b)"
)
_REPLIES = re.compile(
    r"^(?:네|응|예|그래)?[,\s]*(?:그렇게|그리)\s?(?:할게|하겠)[가-힣]{0,4}$|말씀을요?$|다음에\s?또\s?놀러\s?올게요?$"
    r"|덕분에\s.{0,12}(?:나아졌|좋아졌|풀렸|편해졌|살았|해결|즐거|잘\s?됐|힘이|웃)[가-힣\s]{0,6}$"
)
_MARVELS = re.compile(r"(?:천재|최고|대단한\s?거|대박|신)\s?아(?:니야|냐|니에요|님)$")
_REPORTED = re.compile(r"다고|라고|하다며|했다|해\s?줬|해\s?주셨|받았")
_HELLO = re.compile(r"안녕(?:하|들)?[가-힣]{0,4}")


def is_small_talk(sentence: str) -> bool:
    """Return whether the sentence is said for company's sake, and neither tells nor asks for anything."""
    words = sentence.strip().rstrip(" .?!~…^;,")
    if len(words) > _LONGEST:
        return False
    return _is_set(words, "?" in sentence) or _is_performed(words)


def without_greeting(sentence: str) -> str:
    """Return the sentence without a greeting in the form of a question, which asks for nothing (안녕하십니까)."""
    return _HELLO.sub(" ", sentence)


def _is_set(words: str, asked: bool) -> bool:
    """Return whether there are set phrases and hardly more; praise with a question mark asks for a judgement."""
    rest = _SET_PHRASE.sub(" ", words)
    if not asked:
        rest = _PRAISE.sub(" ", rest)
    if rest == words:
        return False
    left = len(re.findall(r"[^\W_]", _FILLER.sub(" ", rest)))
    return left <= (0 if asked else _LEFT_OVER)


def _is_performed(words: str) -> bool:
    plain = words.rstrip(" ㅋㅎㅠㅜ")
    if _REPORTED.search(plain):
        return False
    patterns = (_PERFORMED, _WISHED, _FAREWELL, _OWN_WORDS, _HOW_ARE_YOU, _MARVELS, _REPLIES, _ENGLISH)
    return any(pattern.search(plain) for pattern in patterns)
