"""What a statement is about, of what a life is made of: home, work, age …; by meaning, as the categories are told.

A slot is a description and examples. A text is near those whose mean vector it stands out to most, measured against a
cohort (`engine.cohort`), so that one threshold does for every embedding model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from engine import cohort

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Embed = Callable[[list[str]], NDArray[np.floating[Any]]]

SLOTS = {
    "home": "사는 곳, 집, 이사 | 서울에 살아요 | 본가에서 지내고 있어 | 저희 집은 수원에 있는 아파트예요 "
    "| 자취방을 옮겼어요 | 대구로 내려가서 살게 됐습니다",
    "work": "직장, 직업, 직책, 소속 | 삼성전자에 다녀요 | 저는 회계사예요 | 병원에서 물리치료사로 일해 "
    "| 새 직장을 구했어요 | 차장으로 승진했습니다",
    "school": "학교, 전공, 학년 | 대학교 3학년이에요 | 전공은 화학이야 | 부산대에 재학 중입니다 | 복학했어요 "
    "| 박사 과정을 밟고 있어",
    "status": "연애, 결혼, 배우자 | 여자친구가 있어요 | 아직 솔로야 | 결혼한 지 3년 됐습니다 | 남편과 이혼했어요 "
    "| 약혼했어",
    "name": "이름, 별명, 호칭 | 제 이름은 박지훈이에요 | 친구들은 저를 곰이라고 불러요 | 닉네임은 바람이야 "
    "| 개명했어요 | 강아지 이름은 콩이예요",
    "age": "나이, 연세, 몇 살 | 스물다섯 살이에요 | 아버지는 올해 환갑이세요 | 나 이제 마흔이야 | 딸이 세 살 됐어요 "
    "| 연세가 여든이십니다",
    "contact": "전화번호, 주소, 메일, 계정, 비밀번호 | 제 번호는 010-2345-6789예요 | 메일 주소가 바뀌었어요 "
    "| 계좌번호는 110-22-33이야 | 와이파이 비밀번호는 abcd1234 | 아이디를 새로 만들었습니다",
    "measure": "몸무게, 키, 점수, 가격, 수치 | 키가 170cm예요 | 몸무게가 5킬로 빠졌어 | 월급이 올랐습니다 "
    "| 혈압은 130이에요 | 시험 점수는 85점이야",
    "phone": "쓰는 휴대폰과 통신사 | 휴대폰은 갤럭시를 써요 | 아이폰 15 쓰고 있어 | 핸드폰을 새로 샀어요",
    "vehicle": "타는 차, 오토바이, 자전거 | 차는 소나타를 타요 | 아반떼 몰고 다녀 | 자전거를 팔았어요",
    "device": "쓰는 컴퓨터, 카메라, 전자기기 | 맥북을 쓰고 있어 | 노트북이 고장 났어요 | 카메라는 캐논이야",
    "pet": "반려동물, 강아지, 고양이 | 강아지를 키워요 | 고양이 두 마리와 살아 | 토끼를 입양했어요 "
    "| 우리 개가 세상을 떠났어요 | 햄스터를 기르고 있습니다",
    "plan": "약속, 예약, 일정, 여행 계획 | 다음 주에 건강검진 예약이 있어요 | 토요일에 친구랑 만나기로 했어 "
    "| 출장이 취소됐어요 | 결혼식은 9월이에요 | 모임이 금요일로 미뤄졌습니다",
    "taste": "좋아하거나 싫어하는 것, 입맛 | 고기를 좋아해요 | 단 음식은 별로야 | 이제 야구에 흥미가 없어요 "
    "| 락 음악을 즐겨 듣습니다 | 커피가 싫어졌어",
    "favourite": "가장 좋아하는 것 | 제일 좋아하는 영화는 인터스텔라예요 | 내 최애는 뉴진스야 "
    "| 가장 좋아하는 계절은 가을입니다 | 제일 아끼는 책은 어린 왕자예요",
    "habit": "습관, 운동, 술, 담배, 취미 활동 | 매일 아침 조깅해요 | 담배를 피워 | 술을 끊었어요 "
    "| 요가를 배우고 있습니다 | 밤 11시에 자요",
    "health": "건강, 병, 치료, 약 | 허리가 아파요 | 혈압약을 먹고 있어 | 수술을 받았어요 | 감기가 다 나았어요 "
    "| 당뇨가 있습니다",
    "other": "그 밖의 이야기 | 어제 비가 왔어요 | 영화를 봤어 | 저는 성격이 급한 편이에요 | 선물을 받았어요 "
    "| 길이 많이 막혔습니다",
}
NEAR = 0.3  # a slot is near that stands out less than the nearest by no more, in standard deviations
_KEPT = 64  # texts; one is compared with several


class Slots:
    """Tells the slots of texts by the vectors that `embed` returns, (n, d) of unit length."""

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self.near = lru_cache(maxsize=_KEPT)(self._near)

    def _near(self, text: str) -> frozenset[str]:
        """Return the slots that `text` is about, the nearest and what is hardly farther."""
        vectors, standing, cohort_vectors = self._known
        vector = self._embed([text])
        stands = cohort.standing(vector, cohort_vectors)[0]
        scores = cohort.likeness((vector @ vectors.T)[0], stands, standing)
        return frozenset(name for name, score in zip(SLOTS, scores, strict=True) if score >= scores.max() - NEAR)

    @cached_property
    def _known(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return the mean vector of each slot, its standing, and the cohort's vectors."""
        import numpy as np

        texts = [slot.split(" | ") for slot in SLOTS.values()]
        vectors = self._embed([*(text for slot in texts for text in slot), *cohort.SENTENCES])
        rows = np.split(vectors, np.cumsum([len(slot) for slot in texts]))
        means = np.stack([row.mean(axis=0) for row in rows[:-1]])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        return means, cohort.standing(means, rows[-1]), rows[-1]
