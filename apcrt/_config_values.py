"""How one value of the configuration is read: sizes, durations, counts, switches.

Each reader takes the value and whether it is text (from the environment, where everything is) and returns the converted
value, or raises ValueError with what it expected, ready to follow "is X, but ". Names and sources are `config`'s
affair.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable
from typing import Final

__all__ = ["choice", "count", "flag", "optional", "seconds", "size", "text", "untyped"]

_UNITS: Final = {
    "": 1,
    "b": 1,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
}
_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")


def text(value: object, _textual: bool) -> str:
    """Any text but the empty one."""
    if isinstance(value, str) and value:
        return value
    raise ValueError("text is expected")


def size(value: object, _textual: bool) -> int:
    """Bytes: a whole number, or text with a unit such as `64 KiB` or `4 MiB`; at least 1."""
    result = 0
    if isinstance(value, int) and not isinstance(value, bool):
        result = value
    elif isinstance(value, str):
        found = _SIZE.fullmatch(value)
        unit = None if found is None else _UNITS.get(found[2].lower())
        if found is not None and unit is not None:
            result = round(float(found[1]) * unit)
    if result < 1:
        raise ValueError("a size in bytes is expected, such as 65536 or '4 MiB'")
    return result


def seconds(value: object, textual: bool) -> float:
    """A duration in seconds, not negative and finite."""
    if textual and isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and math.isfinite(value):
        return float(value)
    raise ValueError("a number of seconds is expected, such as 2.5")


def count(value: object, textual: bool) -> int:
    """A whole number from 1."""
    if textual and isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ValueError("a whole number from 1 is expected")


def flag(value: object, textual: bool) -> bool:
    """True or false; in text also yes, no, on, off, 1, 0."""
    if isinstance(value, bool):
        return value
    if textual and isinstance(value, str):
        word = value.strip().lower()
        if word in {"true", "yes", "on", "1"}:
            return True
        if word in {"false", "no", "off", "0"}:
            return False
    raise ValueError("true or false is expected")


def choice(*words: str) -> Callable[[object, bool], str]:
    """One of the words, in any case."""

    def read(value: object, _textual: bool) -> str:
        if isinstance(value, str) and value.lower() in words:
            return value.lower()
        raise ValueError(f"one of {', '.join(words)} is expected")

    return read


def optional(inner: Callable[[object, bool], object]) -> Callable[[object, bool], object]:
    """What `inner` reads, or None: as such in arguments, `"none"` or `"unbounded"` in files and the environment."""

    def read(value: object, textual: bool) -> object:
        if value is None or (isinstance(value, str) and value.strip().lower() in {"none", "unbounded"}):
            return None
        try:
            return inner(value, textual)
        except ValueError as error:
            raise ValueError(f"{error}, or 'none'") from None

    return read


def untyped(value: object, textual: bool) -> object:
    """An option of somebody else: as it is; text is read as a TOML value where it is one, so that `100` is a number."""
    if textual and isinstance(value, str):
        try:
            return tomllib.loads(f"value = {value}")["value"]
        except (tomllib.TOMLDecodeError, KeyError):
            return value
    return value
