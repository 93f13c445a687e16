"""What was found of the tasks, as a table in Markdown: a row for each figure, a column for each profile.

    python scripts/task_table.py FILE|PROFILE ...

FILE is what `scripts/evaluate.py tasks --json FILE` wrote; a profile that was not measured gets an empty column, and
below the table stands the command that fills it. Exit status 0; 2: a file cannot be read.

`ROWS` also tells scripts/task_plot.py what to draw, and what it is called in Korean.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Unit = Literal["%", "seconds", "words", "count", "a second", "GB"]
Figures = Mapping[str, Any]
Columns = Mapping[str, Mapping[str, Figures]]  # profile → section → figures
FILLS = "python scripts/evaluate.py tasks --profile {profile} --json {profile}.json"


@dataclass(frozen=True, slots=True)
class Row:
    """A figure: where it stands in those of its section, what it is called, and whether it is drawn."""

    key: str
    english: str
    korean: str
    unit: Unit = "%"
    drawn: bool = False


TIMES = (
    Row("seconds.p50", "latency, p50", "지연 시간 p50", "seconds"),
    Row("seconds.p95", "latency, p95", "지연 시간 p95", "seconds"),
    Row("peak", "most memory of the process", "최대 메모리", "GB"),
)
OF_MEMORIES = (
    Row("of_matched.when", "right time, of matched", "시간이 맞는 비율", drawn=True),
    Row("of_matched.when_dated", "right time, of matched that have one", "시간이 맞는 비율(시간이 있는 것)"),
    Row("of_matched.kind", "right kind, of matched", "종류가 맞는 비율"),
    Row("memories.unmatched", "memories that match none", "맞는 것이 없는 기억", "count"),
    Row("false_memories.memories", "memories where there are none", "없는 데서 찾은 기억", "count"),
    Row("never.all", "memories that hold what none may", "기억해서는 안 될 것", "count"),
    Row("never.hostile", "such in hostile dialogues", "그중 적대적 대화", "count"),
)
ROWS: Mapping[str, tuple[Row, ...]] = {
    "classification": (
        Row("accuracy", "accuracy", "정확도", drawn=True),
        Row("macro_f1", "macro-F1", "매크로 F1", drawn=True),
        Row("ece", "expected calibration error", "보정 오차(ECE)"),
        Row("confident.coverage", "coverage where confident", "확신하는 비율"),
        Row("confident.accuracy", "accuracy where confident", "확신할 때 정확도", drawn=True),
    ),
    "extraction": (
        Row("valid", "valid results", "유효한 결과", drawn=True),
        Row("json", "JSON that parses", "올바른 JSON"),
        Row("sources", "quotes that stand in their turn", "출처가 맞는 인용", drawn=True),
        Row("any_category.precision", "precision", "정밀도", drawn=True),
        Row("any_category.recall", "recall", "재현율", drawn=True),
        Row("any_category.f1", "F1", "F1", drawn=True),
        Row("same_category.precision", "precision, same category", "정밀도(같은 범주)"),
        Row("same_category.recall", "recall, same category", "재현율(같은 범주)"),
        Row("same_category.f1", "F1, same category", "F1(같은 범주)", drawn=True),
        Row("by_meaning.any_category.precision", "precision, matched by meaning", "정밀도(의미로 비교)"),
        Row("by_meaning.any_category.recall", "recall, matched by meaning", "재현율(의미로 비교)"),
        Row("by_meaning.any_category.f1", "F1, matched by meaning", "F1(의미로 비교)", drawn=True),
        Row("by_meaning.same_category.precision", "precision, by meaning, same category", "정밀도(의미·범주)"),
        Row("by_meaning.same_category.recall", "recall, by meaning, same category", "재현율(의미·범주)"),
        Row("by_meaning.same_category.f1", "F1, by meaning, same category", "F1(의미·범주)", drawn=True),
        *OF_MEMORIES,
    ),
    "rules": (
        Row("any_category.precision", "precision", "정밀도", drawn=True),
        Row("any_category.recall", "recall", "재현율", drawn=True),
        Row("any_category.f1", "F1", "F1", drawn=True),
        *OF_MEMORIES,
    ),
    "times": (
        Row("halves.dev.share", "right (dev)", "정답(dev)", drawn=True),
        Row("halves.test.share", "right (test)", "정답(test)", drawn=True),
    ),
    "understanding": (
        Row("intent.accuracy", "intent: accuracy", "의도 정확도", drawn=True),
        Row("intent.macro_f1", "intent: macro-F1", "의도 매크로 F1", drawn=True),
        Row("is_question", "question or not", "질문 여부", drawn=True),
        Row("when", "time", "시간", drawn=True),
        Row("needs_memory", "needs memories or not", "기억 필요 여부", drawn=True),
        Row("accuracy", "question or not", "질문 여부", drawn=True),
        Row("questions", "of questions", "질문 가운데"),
        Row("others", "of what is none", "질문이 아닌 것 가운데"),
    ),
    "summary": (
        Row("coverage", "facts kept", "남은 사실", drawn=True),
        Row("language", "in the dialogue's language", "대화의 언어", drawn=True),
        Row("stray", "with stray Han or kana", "한자·가나 혼입"),
        Row("words.p50", "length, p50", "길이 p50", "words"),
        Row("words.p95", "length, p95", "길이 p95", "words"),
    ),
    "conversation": (
        Row("korean", "in Korean", "한국어 답변", drawn=True),
        Row("stray", "with stray Han or kana", "한자·가나 혼입"),
        Row("empty", "empty answers", "빈 답변", "count"),
        Row("ttft.p50", "time to first token, p50", "첫 토큰까지 p50", "seconds"),
        Row("ttft.p95", "time to first token, p95", "첫 토큰까지 p95", "seconds"),
        Row("tokens_per_second.p50", "tokens a second, p50", "초당 토큰 p50", "a second"),
    ),
}


def rows_of(found: Figures) -> Iterator[tuple[Row, Any]]:
    """Yield the rows of a section and their values; rows that it does not have are left out."""
    for row in (*ROWS[found["task"]], *TIMES):
        value: Any = found
        for key in row.key.split("."):
            if not isinstance(value, Mapping) or key not in value:
                break
            value = value[key]
        else:
            yield row, value


def table(columns: Columns) -> Iterator[str]:
    """Yield the table: a row a figure, a column a profile; and one of the precisions of the first's intents."""
    yield f"| task | figure | {' | '.join(columns)} |"
    yield "|---|---|" + "---|" * len(columns)
    for name in dict.fromkeys(name for sections in columns.values() for name in sections):
        yield from _section(name, [sections.get(name) for sections in columns.values()])
    every = (found for sections in columns.values() for found in sections.values())
    intents = next((found["intent"]["precision"] for found in every if "precision" in found.get("intent", {})), None)
    if intents is not None:
        yield from ("", *_intents(intents))


def _section(name: str, columns: Sequence[Figures | None]) -> Iterator[str]:
    """Yield the rows of a section; the first tells how many were asked, of each profile where that differs."""
    cells = [dict(rows_of(found)) if found else {} for found in columns]
    counts = dict.fromkeys(asked(found) for found in columns if found)
    task = f"{name} ({' / '.join(counts)})"
    for row in dict.fromkeys(row for column in cells for row in column):
        values = (said(column[row], row.unit) if row in column else "" for column in cells)
        yield f"| {task} | {row.english} | {' | '.join(values)} |"
        task = name


def asked(found: Figures) -> str:
    """Return how many were asked, of how many where not all were, and how many failed, by error."""
    errors = "".join(f", {count} {code}" for code, count in found["errors"].items())
    done, of = found["done"], found["of"]
    return f"{done:,}{'' if done == of else f' of {of:,}'}{errors}"


def _intents(precisions: Mapping[str, Figures]) -> Iterator[str]:
    yield "| intent | precision | found | to be found |"
    yield "|---|---|---|---|"
    for label, row in precisions.items():
        yield f"| {label} | {said(row['precision'], '%')} | {row['found']} | {row['gold']} |"


def said(value: float | None, unit: Unit) -> str:
    """Return a value with its unit, – for none; times below a second in milliseconds."""
    if value is None:
        return "–"
    if unit == "seconds":
        return f"{value:.1f} s" if value >= 1 else f"{1000 * value:.{0 if value >= 0.01 else 1}f} ms"
    forms = {"%": f"{100 * value:.1f} %", "words": f"{value:.0f} words", "a second": f"{value:.1f}"}
    return forms.get(unit) or (f"{value / 1e9:.2f} GB" if unit == "GB" else f"{value:,.0f}")


def read(argument: str) -> tuple[str, Mapping[str, Figures]]:
    """Return the name and the sections of a column: of a file of JSON, or of a profile that was not measured.

    Raises `OSError`, `ValueError`.
    """
    if not argument.endswith(".json"):
        return argument, {}
    try:
        report = json.loads(Path(argument).read_text(encoding="utf-8"))
        return report["profile"], report["sections"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{argument} is not what evaluate.py tasks --json writes.") from None


def columns_of(arguments: Sequence[str]) -> Columns:
    """Return the columns that are named. Raises `OSError`, `ValueError`."""
    columns = dict(map(read, arguments))
    if len(columns) < len(arguments):
        raise ValueError("Two columns are of one profile; name each profile once.")
    return columns


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script and return its exit status."""
    parser = argparse.ArgumentParser(description="Show what evaluate.py tasks found, profiles side by side.")
    parser.add_argument("columns", nargs="+", metavar="FILE|PROFILE", help="a .json of evaluate.py tasks, or a name")
    try:
        columns = columns_of(parser.parse_args(arguments).columns)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(table(columns)))
    for profile in (name for name, sections in columns.items() if not sections):
        print(f"\nThe column {profile} is filled by `{FILLS.format(profile=profile)}`.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
