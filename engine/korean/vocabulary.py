"""The words that tell how a life changes: times, degrees, verbs of change and end, what slots are called."""

from __future__ import annotations


def words_of(words: str) -> frozenset[str]:
    """Return the words of a list that blanks part."""
    return frozenset(words.split())


TIMES = words_of(
    "오늘 어제 내일 그제 모레 작년 올해 내년 재작년 금년 지난 다음 이번 올 주 달 해 년 월 봄 여름 가을 겨울 "
    "올봄 올여름 올가을 올겨울 지난달 지난주 지난해 이달 아침 점심 저녁 밤 새벽 낮 오전 오후 주말 평일 매일 "
    "매주 매달 매년 월요일 화요일 수요일 목요일 금요일 토요일 일요일 초 말 전 후 부터 뒤 이후 하루 일주일 때 날 "
    "요일 시간 시 반 얼마 지난번 며칠 얼마전 엊그제 그저께 연초 연말 상반기 하반기 학기 당분간 원래"
)
ONCE = words_of(
    "오늘 어제 그제 엊그제 그저께 이번 하루 당분간 잠깐 잠시 며칠 아침 점심 저녁 밤 낮 주말 평일 한동안 가끔"
)
DEGREES = words_of(
    "많이 잘 자주 가끔 늘 보통 조금 별로 거의 전혀 하나 더 제일 절대 이상 매일 꼭 씩 한참 오래 오랫동안 이미 "
    "벌써 결국 다 아예 점점 더이상 이제 꾸준히 열심히 먼저 갑자기 모두 같이 혼자 직접 요즘 지금"
)
LIGHT = words_of(
    "음식 것 날짜 시간 장소 일정 시각 요일 예정 계획 약속 가격 금액 중 행선지 목적지 관계 하다 있다 되다 편 쪽"
)
ENDS = words_of(
    "그만두다 끊다 포기 해지 탈퇴 팔다 처분 헤어지다 취소 자퇴 휴학 졸업 퇴사 은퇴 중단 완치 낫다 죽다 "
    "폐업 버리다 무산 접다 중지 해약 반납 퇴원 완쾌 회복 없애다 잃다 잃어버리다 엎어지다 물거품 철회 깨지다 "
    "사라지다 넘기다 손절 파투 하차 관두다"
)
CHANGES = words_of(
    "바꾸다 변경 옮기다 미루다 당기다 당겨지다 앞당기다 앞당겨지다 갈아타다 오르다 내리다 빼다 빠지다 찌다 늘다 "
    "줄다 줄이다 늘리다 갱신 조정 확정 결정 수정 늘어나다 줄어들다 올리다 낮추다 넘어가다 떨어지다 전환 재발급 "
    "새로 교환 업그레이드 인상 인하 밀리다 자라다 바뀌다 내려가다 올라가다 틀다 돌리다 정하다"
)
_SHIFTS = {  # verbs that by themselves tell of which slot something changed
    "home": "이사 이민 입주 독립 분가 귀농 귀국 귀촌 상경 합가 전입 정착 자취",
    "work": "전환 이직 퇴사 입사 전근 발령 승진 진급 전직 은퇴 해고 퇴직 실직 복직 전향 창업 개업 폐업 합격 짤리다 "
    "잘리다 스카우트 전보",
    "school": "졸업 자퇴 전학 편입 입학 휴학 복학 전과 진학 수료 중퇴",
    "name": "개명",
}
SHIFT = {verb: slot for slot, verbs in _SHIFTS.items() for verb in verbs.split()}
BEGAN = words_of(
    "분양 분양받다 들여놓다 생기다 사다 입양 장만 뽑다 구하다 얻다 따다 낳다 마련 키우다 시작 데려오다 들이다 "
    "취득 배우다 다니다 만나다 개통"
)
TURNED = (  # past in form, but it says how things are now
    ENDS
    | CHANGES
    | BEGAN
    | frozenset(SHIFT)
    | words_of(
        "잡히다 정해지다 걸리다 삐다 부러지다 들다 미혼 결혼 이혼 재혼 약혼 파혼 사귀다 별거 합치다 질리다 반하다 "
        "임신 늙다 다치다 마르다 지나다 식다 친하다 나다"
    )
)
BOUGHT = words_of("헬스장 회원권 표 티켓 수영장 학원 비행기 기차 요가 필라테스")  # 끊다 is also to buy
_NAMES = {
    "home": "집 주소 거처 방 자취방 전셋집 거주지 보금자리 동네 사는",
    "work": "회사 일 직업 직급 직책 직함 부서 팀 소속 근무지 업종 알바 일자리 근무 보직 자리",
    "school": "학교 전공 학과 학년 과",
    "status": "여친 남친 애인 연애 결혼 이혼 부인 남편 사람 연인",
    "name": "이름 별명 닉네임 호칭 활동명 필명 예명 간판 상호",
    "age": "나이 연세",
    "contact": "번호 전화번호 메일 주소 계정 아이디 비밀번호 계좌 계좌번호 와이파이 집 전화 회사",
    "measure": "키 몸무게 체중 월세 연봉 월급 시급 용돈 최고점 점수 시력 혈압 등급 "
    "사이즈 허리둘레 체지방 신발 급여 기록",
    "phone": "휴대폰 통신사 기기 기종 폰",
    "vehicle": "차 자전거 오토바이 차종",
    "device": "노트북 컴퓨터 카메라 태블릿 패드 이어폰",
    "plan": "날짜 시간 장소 일정 약속 예약",
}
NAMED = {slot: words_of(names) for slot, names in _NAMES.items()}
STANDS_FOR = {  # the word for what fills the slot, whatever it was called before
    "home": "집", "work": "회사", "school": "학교", "name": "이름", "phone": "휴대폰", "vehicle": "차",
}  # fmt: skip
PARTS = words_of("오늘 내일 모레 주말 오전 오후 아침 점심 저녁")  # of days
COUNTERS = words_of("개 명 마리 대 장 권 군데 곳 켤레 벌")
CALLED = frozenset().union(*NAMED.values())
ONE_VALUE = frozenset("home work school name age contact measure favourite phone vehicle".split())
LIVES = words_of("살다 거주 사다 자취 하숙 머무르다")  # 사세요 is read as of 사다
WORKS = words_of("다니다 일 근무 출근 재직 알바 하다 일하다")
LIKED = words_of("좋아하다 좋다 맛있다 빠지다 반하다 재밌다 재미있다 편하다 즐겁다 사랑 꽂히다 중독 팬 당기다")
DISLIKED = words_of(
    "싫어하다 질리다 맛없다 물리다 꺼리다 거르다 굶다 지겹다 지루하다 식다 시들하다 시들해지다 별로 미워하다 지치다"
)
ENJOYED = words_of("먹다 마시다 보다 듣다 읽다")
SAVOURED = ENJOYED | words_of("맛있다 맛없다 빠지다 질리다 당기다 재밌다 재미있다")
MEALS = words_of("먹다 챙기다 거르다 챙겨먹다 굶다")
DOES = words_of("하다 있다 다니다 시작 배우다 피우다 쓰다 타다 구독 가지다 키우다 차리다 챙기다 가다")
VERBS = LIKED | DISLIKED | ENJOYED | DOES | ENDS | MEALS | BEGAN
DONE = words_of("나다 되다 하다 당하다 받다 들다 내다 가다 오다 성공 짓다")  # make a verb of a noun
HOUSES = words_of(
    "아파트 원룸 투룸 빌라 주택 오피스텔 기숙사 전세 월세 자취 하숙 고시원 쓰리룸 반지하 옥탑방 단독주택 방 "
    "부모 본가 룸 고시텔 사택 관사 셰어하우스 혼자 독립 자취방 전셋집 친정 처가 시댁"
)
IDLE = words_of("백수 무직 취준생 구직 실업자 입사")
TOGETHER = words_of("약혼 약혼자 연애 사귀다 여친 남친 애인 만나다 재결합")
APART = words_of("솔로 헤어지다 파혼 차이다 결별 이별 혼자 모태솔로")
MARRIED = words_of("결혼 기혼 부인 남편 신혼 부부 재혼 합치다")
DIVORCED = words_of("미혼 이혼 별거 사별 돌싱")
FOCUS = words_of("은 는 이 가 을 를 도 ᆫ ᆯ 라면")
NOWADAYS = words_of("올해 이번 오늘 지금 이제 요즘 최근 얼마전 현재 지난달 지난주 되다 다시")
MANY = words_of(
    "약 취미 특기 관심사 장점 단점 매력 알레르기 친구 습관 버릇 소원 꿈 목표 좋아하다 싫어하다 첫 문제 점"
)  # of which there are several
GIVES = words_of(
    "나가다 잡히다 찍다 타다 쓰다 다니다 하다 맡다 정하다 받다 빼다 모으다 몰다 있다 살다 오르다"
)  # whose object or target is a value
ORDERS = words_of("번 호 호선 월 일 년 시 층 반 차 위 회")  # units of what is no amount
SAID = words_of("정정 아까 말 아니 잘못 실수 착각 헷갈리다 다시 사실 하다 알다 말하다")
OVER = (  # what ends a state or a role by its meaning
    ("퇴원", "입원"),
    ("제대 전역", "군대 복무 군인 입대 병사"),
    ("복직", "휴직 휴가"),
    ("복학", "휴학"),
    ("낳다 출산", "임신"),
    ("돌아오다 귀국 복귀", "출장 유학 파견 연수"),
    ("폐업 접다 망하다", "가게 식당 운영 사업 장사 카페"),
    ("물러나다 사임 사퇴 내려놓다", "회장 반장 팀장 대표 총무 위원"),
    ("합격 붙다", "수험생 재수생 고시생 재수"),
    ("입사 출근", "백수 취준생 구직 무직"),
    ("출소", "교도소 수감"),
)
HELD = words_of("있다 하다 운영 맡다 가다 떠나다 나가다 들어가다 입원 임신 휴직 휴학 복무")  # predicates of a state
OFTEN = words_of("자주 매일 매주 매달 매년 가끔 늘 씩 주말 평일 보통")
SINGLE = words_of("제일 최애 생일 나이 키 몸무게 체중 월급 연봉 시급 이름 직급 직책 소속")  # of which there is one
HELD_LIGHT = words_of("약속 시간 일정 시각 요일 날짜 장소 예약 계획")
BRANDS = (
    words_of("아이폰 갤럭시 픽셀 샤오미 폴드 플립"),
    words_of(
        "소나타 쏘나타 아반떼 그랜저 제네시스 모닝 레이 캐스퍼 스파크 투싼 싼타페 산타페 팰리세이드 코나 쏘렌토 "
        "스포티지 카니발 셀토스 테슬라 벤츠 아우디 볼보 k3 k5 k7 k8 k9 qm6 sm5 bmw"
    ),
)  # fmt: skip
