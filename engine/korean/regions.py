"""Where a place is: cities and districts that people say they live in, by province, and abroad by country."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

# A line a province or country; a line that begins with a blank goes on.
_REGIONS = """
서울 강남 강북 강서 강동 송파 서초 마포 용산 종로 중구 성동 광진 동대문 중랑 성북 도봉 노원 은평 서대문 양천
  구로 금천 영등포 동작 관악 홍대 신촌 잠실 여의도 이태원 망원동 합정동 강남구 강북구 강서구 강동구 송파구
  서초구 마포구 용산구 종로구 성동구 광진구 노원구 은평구 양천구 관악구 동작구
부산 해운대 서면 광안리 해운대구 수영구 사하구
대구 수성구 달서구
인천 송도 부평 청라 연수구
광주 상무지구
대전 유성 유성구 둔산동
울산
세종 세종시
경기 경기도 수원 성남 분당 판교 용인 고양 일산 안양 부천 안산 화성 동탄 평택 의정부 남양주 파주 김포 하남 광명
  군포 이천 오산 구리 과천 시흥 의왕 양주 수지
강원 강원도 춘천 원주 강릉 속초 동해
충북 충청북도 청주 충주 제천
충남 충청남도 천안 아산 공주 당진 서산
전북 전라북도 전주 군산 익산
전남 전라남도 여수 순천 목포 나주
경북 경상북도 포항 경주 구미 안동 경산
경남 경상남도 창원 진주 김해 통영 거제 양산
제주 제주도 서귀포
미국 뉴욕 시애틀
일본 도쿄 오사카
중국 베이징 상하이
캐나다 밴쿠버 토론토
독일 베를린
영국 런던
호주 시드니 멜버른
프랑스 파리
베트남 하노이
"""


def regions(places: Collection[str]) -> frozenset[int]:
    """Return the numbers of the provinces and countries that `places` lie in; of an unknown place nothing is told."""
    known = _known()
    return frozenset(known[place] for place in places if place in known)


@cache
def _known() -> dict[str, int]:
    lines = _REGIONS.strip().replace("\n  ", " ").splitlines()
    return {place: number for number, line in enumerate(lines) for place in line.split()}


def within(one: Collection[str], other: Collection[str]) -> bool | None:
    """Return whether the places `one` may lie in the places `other`, or they in it; None where that is unknown."""
    if frozenset(one) & frozenset(other):
        return True
    here, there = regions(one), regions(other)
    if not here or not there:
        return None
    wide = here & there and (_widest(one) or _widest(other))
    return bool(wide) or any(
        place.endswith(("동", "구")) for place in (*one, *other) if place in _known() and here & there
    )


def _widest(places: Collection[str]) -> bool:
    """Return whether one of `places` is a province or country as a whole."""
    return any(line.split()[0] in places for line in _REGIONS.strip().splitlines() if line[0] != " ")
