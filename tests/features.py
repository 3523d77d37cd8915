"""Which rows of `features.toml` have a passing test: `python -m tests.features REPORT [--missing]`.

The report is what `pytest --features-report=REPORT` wrote. A row is proven when a test that claims it passed and none
that claims it failed. Exit status 1 when a claimed row failed, or when a test claims a row that does not exist.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import sys
import tomllib
from pathlib import Path
from typing import cast

TABLE = Path(__file__).with_name("features.toml")


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One behaviour: its identifier, its priority (M, S or O), and what it says."""

    name: str
    priority: str
    text: str


def rows() -> list[Row]:
    """All rows, in the order of the file."""
    areas = cast("dict[str, dict[str, list[str]]]", tomllib.loads(TABLE.read_text(encoding="utf-8")))
    return [
        Row(f"{area}-{number}", priority, text)
        for area, content in areas.items()
        for number, (priority, text) in content.items()
    ]


def judge(tests: list[dict[str, object]]) -> dict[str, tuple[str, int]]:
    """Per claimed row: `proven`, `failed` or `not run`, and how many tests passed."""
    outcomes: dict[str, list[str]] = collections.defaultdict(list)
    for test in tests:
        for row in cast("list[str]", test["rows"]):
            outcomes[row].append(str(test["outcome"]))
    verdicts: dict[str, tuple[str, int]] = {}
    for row, seen in outcomes.items():
        word = "failed" if "failed" in seen else "proven" if "passed" in seen else "not run"
        verdicts[row] = (word, seen.count("passed"))
    return verdicts


def main() -> int:
    """Print the table and a summary."""
    parser = argparse.ArgumentParser(prog="python -m tests.features", description="Which features have a passing test.")
    parser.add_argument("report", type=Path, help="what pytest --features-report=FILE wrote")
    parser.add_argument("--missing", action="store_true", help="only rows that are not proven")
    options = parser.parse_args()
    verdicts = judge(json.loads(options.report.read_text(encoding="utf-8")))
    known = rows()
    tally: dict[str, collections.Counter[str]] = {priority: collections.Counter() for priority in "MSO"}
    for row in known:
        word, passed = verdicts.get(row.name, ("no test", 0))
        tally[row.priority][word] += 1
        if word != "proven" or not options.missing:
            count = f"{passed:3} " if passed else "    "
            print(f"{row.name:8} {row.priority}  {word:8}{count} {row.text}")
    print()
    for priority, title in zip("MSO", ("must", "should", "optional"), strict=True):
        counts = tally[priority]
        others = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()) if word != "proven")
        print(f"{title:9} {counts['proven']} of {counts.total()} proven" + (f" ({others})" if others else ""))
    unknown = sorted(set(verdicts) - {row.name for row in known})
    if unknown:
        print(f"claimed by tests, but not in {TABLE.name}: {', '.join(unknown)}")
    return 1 if unknown or any(word == "failed" for word, _ in verdicts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
