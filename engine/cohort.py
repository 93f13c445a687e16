"""Everyday sentences that have nothing to do with each other: what any text is likened to, to tell how like two are.

A cosine means little by itself: one model gives unrelated texts 0.8, another 0.3. Against the cosines of the same text
with a cohort it can be read alike for every model: by how many standard deviations it stands out (symmetric score
normalisation, as in speaker verification: Auckenthaler, Carey and Lloyd-Thomas 2000, Shum et al. 2010).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]

SENTENCES = (
    "화분에 물을 주는 것을 깜빡했어요",
    "지하철 첫차는 다섯 시 반에 있어요",
    "이 서랍은 잘 안 열려요",
    "도서관은 월요일마다 쉬어요",
    "새로 산 우산이 벌써 고장 났어요",
    "국이 조금 싱거운 것 같아요",
    "그 영화는 결말이 아쉬웠어요",
    "우체국에 들러서 소포를 부쳤어요",
    "창문을 열어 두면 시끄러워요",
    "물은 백 도에서 끓어요",
    "옆집에서 피아노 소리가 들려요",
    "비밀번호를 자꾸 틀려요",
    "올해는 눈이 많이 왔어요",
    "엘리베이터가 점검 중이에요",
    "달력을 한 장 넘겼어요",
    "세탁기에 양말이 한 짝 남았어요",
    "버스 카드를 충전해야 해요",
    "저 나무는 백 년이 넘었대요",
    "전등이 깜빡거려요",
    "계란이 두 개밖에 안 남았어요",
    "시장에 사람이 무척 많았어요",
    "이 신발은 굽이 너무 높아요",
    "안개 때문에 앞이 잘 안 보였어요",
    "오늘 뉴스에서 금리 이야기가 나왔어요",
    "회의실을 두 시간 빌렸어요",
    "휴지통을 비워야겠어요",
    "라디오에서 옛날 노래가 나와요",
    "그 가게는 현금만 받아요",
    "지도를 보니 멀지 않더라고요",
    "택배가 문 앞에 와 있어요",
    "바닥이 미끄러우니 조심하세요",
    "커튼 색을 바꾸고 싶어요",
    "축구 경기가 연장전까지 갔어요",
    "이 문장은 무슨 뜻이에요?",
    "프린터 잉크가 떨어졌어요",
    "거북이는 오래 살아요",
    "안경을 어디에 뒀는지 모르겠어요",
    "학교 운동장이 넓어요",
    "빵 굽는 냄새가 좋아요",
    "다리 공사가 가을에 끝난대요",
    "배터리가 십 퍼센트 남았어요",
    "수업이 삼십 분 늦게 시작했어요",
    "바다색이 유난히 파랬어요",
    "냉장고 소리가 커졌어요",
    "전시회 표를 두 장 받았어요",
    "할 말을 잊어버렸어요",
    "단추가 하나 떨어졌어요",
    "고속도로가 막혀서 돌아갔어요",
    "사진을 정리하다가 잠들었어요",
    "이 책은 글씨가 작아요",
    "약속 시간을 착각했어요",
    "감나무에 까치가 앉았어요",
    "회원 가입이 너무 복잡해요",
    "종이컵을 덜 쓰기로 했어요",
    "강물이 많이 불었어요",
    "손님이 오기 전에 청소했어요",
    "의자 다리가 흔들려요",
    "설명서는 세 쪽이에요",
    "별이 잘 보이는 밤이었어요",
    "통장 정리를 미뤘어요",
    "김치가 알맞게 익었어요",
    "The museum closes at six on weekdays.",
    "The train was ten minutes late this morning.",
    "He left the keys on the kitchen table.",
)


def standing(vectors: Floats, cohort: Floats) -> Floats:
    """Return (n, 2): mean and standard deviation of the cosines of each of n unit vectors with a cohort (m, d)."""
    import numpy as np

    cosines = vectors @ cohort.T
    return np.stack([cosines.mean(axis=1), np.maximum(cosines.std(axis=1), 1e-4)], axis=1)


def prominence(cosines: Floats, one: Floats) -> Floats:
    """Return (n,): by how many standard deviations `cosines` of one text stand out among its own; `one` is (2,).

    It keeps the order of the cosines, as a search wants it; `likeness` finds less (DECISIONS).
    """
    above: Floats = (cosines - one[0]) / one[1]
    return above


def likeness(cosines: Floats, one: Floats, others: Floats) -> Floats:
    """Return (n,): by how many standard deviations `cosines` of one text with n others stand out, from both sides.

    `one` is (2,) and `others` (n, 2), as `standing` tells.
    """
    theirs = (cosines - others[:, 0]) / others[:, 1]
    symmetric: Floats = (prominence(cosines, one) + theirs) / 2
    return symmetric
