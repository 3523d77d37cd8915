"""The language of scenarios: a file becomes declarations and directives.

What lives here: the syntax, checked. What must not: threads and objects.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Declaration", "Directive", "Scenario", "ScenarioError", "parse", "parse_text"]

KINDS = ("event", "mutex", "semaphore", "timer", "pipe", "port")


class ScenarioError(Exception):
    """The file is no scenario; says which line and why."""


@dataclass(frozen=True)
class Declaration:
    """An object: its kind, its name and what follows."""

    kind: str
    name: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Directive:
    """One line for the coordinator: `thread`, `pause`, or a step for the thread `name`."""

    kind: str
    name: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        head = (self.name,) if self.kind == "step" else (self.kind, self.name)
        return " ".join((*head, *self.words))


@dataclass
class Scenario:
    """A whole file."""

    name: str
    declarations: list[Declaration] = field(default_factory=list)
    routines: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    directives: list[Directive] = field(default_factory=list)


def parse(path: Path) -> Scenario:
    """Read a file."""
    return parse_text(path.read_text(), str(path))


def parse_text(text: str, path: str = "scenario") -> Scenario:
    """Read what is in a file; `path` is for the error."""
    scenario = Scenario(Path(path).stem)
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if words:
            try:
                _take(scenario, words)
            except (IndexError, ValueError) as error:
                raise ScenarioError(f"{path}:{number}: {line!r}: {error}") from error
    return scenario


def _take(scenario: Scenario, words: list[str]) -> None:
    first, *rest = words
    if first == "apc":
        body: list[tuple[str, ...]] = []
        if len(rest) > 1:
            if rest[1] != ":":
                raise ValueError("a body begins with ':'")
            body = [tuple(step.split()) for step in " ".join(rest[2:]).split(" ; ")]
        scenario.routines[rest[0]] = body
    elif first in KINDS:
        scenario.declarations.append(Declaration(first, rest[0], tuple(rest[1:])))
    elif first in ("thread", "pause"):
        scenario.directives.append(Directive(first, rest[0], tuple(rest[1:])))
    elif not rest:
        raise ValueError("a step is missing")
    else:
        scenario.directives.append(Directive("step", first, tuple(rest)))
