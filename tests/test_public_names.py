"""The public door: what modules export is what they define, and every name that users meet stands in the documents.

What lives here: comparisons of names. What must not: what the names do.
"""

from __future__ import annotations

import importlib
import re
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PUBLIC = (
    "apcrt",
    "apcrt.apc",
    "apcrt.apc.aio",
    "apcrt.apc.lowlevel",
    "apcrt.config",
    "apcrt.ndr",
    "apcrt.overlapped",
    "apcrt.rpc",
    "apcrt.rpc.notify",
    "apcrt.status",
    "apcrt.testing",
    "apcrt.trace",
    "apcrt.transport",
    "apcrt.wire",
    "apcrt_transports.socket",
)
#: Those whose every name a user may need; the others are for who builds on the inside of apcrt.
DOCUMENTED = (
    "apcrt",
    "apcrt.apc",
    "apcrt.apc.aio",
    "apcrt.overlapped",
    "apcrt.rpc.notify",
    "apcrt.testing",
    "apcrt.transport",
)


@pytest.mark.parametrize("name", PUBLIC)
def test_exports_exist_and_are_sorted_or_grouped(name: str) -> None:
    module = importlib.import_module(name)
    exported = module.__all__
    assert len(set(exported)) == len(exported)
    for one in exported:
        assert hasattr(module, one), f"{name} exports {one}, which it does not have"


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_defined_without_an_underscore_is_exported(name: str) -> None:
    module = importlib.import_module(name)
    defined = {
        one
        for one, value in vars(module).items()
        if not one.startswith("_")
        and isinstance(value, type | types.FunctionType)
        and value.__module__ == name
        and not (isinstance(value, type) and value.__name__ != one)
    }
    assert defined <= set(module.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_exported_class_and_function_says_what_it_is(name: str) -> None:
    module = importlib.import_module(name)
    for one in module.__all__:
        value = getattr(module, one)
        if isinstance(value, type | types.FunctionType):
            assert value.__doc__, f"{name}.{one}"


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_name_stands_in_the_documents(name: str) -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    words = set(re.findall(r"\w+", "\n".join(page.read_text() for page in pages)))
    missing = sorted(set(importlib.import_module(name).__all__) - words)
    assert not missing, f"not in README.md or docs/: {missing}"


def test_the_version_is_said_once() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    found = re.search(r'^version = "(.*)"$', project, re.MULTILINE)
    assert found is not None
    assert importlib.import_module("apcrt").__version__ == found[1]
