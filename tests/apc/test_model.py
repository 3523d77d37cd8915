"""Random scenarios about APCs: both faces must give the trace that a small sequential model predicts.

`python -m tests.apc.test_model --examples 10000 --seed 1` looks longer than the test does. A failure prints the
scenario, which is a file for `python -m tests.conformance.apc` once the trace that it must give is put beside it.
"""

from __future__ import annotations

import argparse
import collections
import math
import sys
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from apcrt import trace
from tests.apc.model import Event, Model, Mutex, NotCovered, Port, Semaphore, Thread, Timer, possible
from tests.conformance.apc.runner import FACES, find
from tests.conformance.apc.scenario import parse, parse_text
from tests.conformance.apc.world import trace_of

RECORDED = [  # pipes are not in the model
    path
    for path in find([Path(__file__).parents[1] / "conformance" / "apc" / "scenarios"])
    if not any(declaration.kind == "pipe" for declaration in parse(path).declarations)
]
ORDERS = 300  # a scenario whose threads can go in more orders than that is not looked at

seen: collections.Counter[str] = collections.Counter()
"""What became of the examples, for the command."""


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_the_model_predicts_what_was_recorded(path: Path) -> None:
    assert possible(parse(path), ORDERS) == {path.with_suffix(".expected").read_text()}


# Scenarios

OBJECTS = {"E": "event", "F": "event", "M": "mutex", "N": "mutex", "S": "semaphore", "T": "timer", "U": "timer"}
ENDS = {"event": "set", "mutex": "release_mutex", "semaphore": "release_semaphore"}
THREADS = ("A", "B", "C", "D")
ROUTINES = ("P", "R1", "R2", "R3")


def _words(*parts: st.SearchStrategy[str] | str) -> st.SearchStrategy[str]:
    """One step: its words, of which some are drawn."""
    drawn = [part if isinstance(part, st.SearchStrategy) else st.just(part) for part in parts]
    return st.tuples(*drawn).map(lambda words: " ".join(filter(None, words)))


def _of(*kinds: str) -> st.SearchStrategy[str]:
    return st.sampled_from([name for name, kind in OBJECTS.items() if kind in kinds])


number = st.integers(1, 9).map(str)
thread = st.sampled_from(THREADS)
target = st.sampled_from((*THREADS, "self"))
routine = st.sampled_from((*ROUTINES, *ROUTINES[1:]))
alertable = st.sampled_from(("alertable", "alertable", ""))
waitable = st.sampled_from((*OBJECTS, *OBJECTS, *"EFF", *THREADS))
several = st.lists(waitable, min_size=2, max_size=3, unique=True).map(",".join)
# No sum of these and of pauses is another: nothing is due at the same time as something else.
later = st.sampled_from(("151", "233", "307", "389", "467", "563", "641"))
ms = st.sampled_from(("inf", "inf", "inf", "0")) | later
due = st.just("0") | later

waits = st.one_of(
    _words("sleep", ms, alertable),
    _words("sleep inf alertable"),
    _words("wait", waitable, st.just("inf"), alertable),
    _words("wait", _of("mutex"), ms, alertable),
    _words("wait", waitable, ms, alertable),
    _words(st.sampled_from(("wait_any", "wait_all")), several, ms, alertable),
    _words("signal_and_wait", _of("event", "mutex", "semaphore"), waitable, ms, alertable),
    _words("get Q", ms),
    _words("get_ex Q", st.sampled_from(("1", "2", "3")), ms, alertable),
)
calls = st.one_of(
    _words("queue_apc", target, routine, number),
    _words("queue_apc", target, routine, number),
    _words("set", _of("event")),
    _words(st.sampled_from(("set", "reset", "pulse")), _of("event")),
    _words("release_mutex", _of("mutex")),
    _words("release_semaphore S", st.sampled_from(("1", "2"))),
    _words("set_timer", _of("timer"), due, st.sampled_from(("0", "0", "211")), st.just("") | _words(routine, number)),
    _words("cancel_timer", _of("timer")),
    _words("post Q", number, number),
)
rare = st.one_of(
    _words("resume", thread),
    _words("exit_code", thread),
    _words("exit", number),
    _words(st.sampled_from(("set", "release_mutex", "cancel_timer")), waitable),
)
step = st.one_of(waits, waits, calls, calls, rare)
in_body = st.one_of(
    waits,
    waits,
    waits,
    _words("sleep inf alertable"),
    calls,
    calls,
    calls,
    _words("queue_apc", target, routine, number),
)
steps = st.lists(in_body, min_size=1, max_size=3).map(" ; ".join)
body = steps | steps.map("wait F inf ; ".__add__)  # several that wait for one event go on together
wait_of_timer = _words("wait", _of("timer"), ms, alertable)
pause = _words("pause", st.sampled_from(("200", "1000")))
HEAD = st.tuples(
    *[body.map(f"apc {name} : {{}}".format) for name in ROUTINES[1:]],
    *[st.sampled_from((f"event {kind} unset", f"event {kind} set")) for kind in ("E auto", "F manual")],
    st.sampled_from(("semaphore S 0 2", "semaphore S 1 2")),
    st.sampled_from(("thread C", "thread C", "thread C suspended")),
)


def _ending(model: Model) -> st.SearchStrategy[str]:
    """A directive that may end a wait that is blocked."""
    idle = [one.name for one in model.threads if one.is_idle]
    blocked = [one for one in model.threads if not (one.is_idle or one.gone or one.at is None)]
    anybody = st.sampled_from(idle or THREADS)
    choices: list[st.SearchStrategy[str]] = [_words(anybody, calls)]
    for one in blocked:
        assert one.at is not None
        if one.at.alertable:
            choices += [_words(anybody, "queue_apc", st.just(one.name), routine, number)] * 4
        if one.at.deadline < math.inf:
            choices.append(pause)
        for name in [name for name, waitable in model.objects.items() if waitable in one.at.objects]:
            found = model.objects[name]
            match found:
                case Event():
                    choices.append(_words(anybody, st.sampled_from(("set", "set", "pulse")), st.just(name)))
                case Mutex() if found.owner is not None and found.owner.is_idle:
                    choices.append(_words(found.owner.name, st.sampled_from((f"release_mutex {name}", "exit 7"))))
                case Semaphore():
                    choices.append(_words(anybody, "release_semaphore", st.just(name), st.sampled_from(("1", "2"))))
                case Timer():
                    choices.append(_words(anybody, "set_timer", st.just(name), due, "0"))
                case Port():
                    choices.append(_words(anybody, "post", st.just(name), number, number))
                case Thread() if found.is_idle:
                    choices.append(_words(st.just(name), "exit 8"))
    return st.one_of(choices)


def _together(one: str, other: str, third: str) -> st.SearchStrategy[list[str]]:
    """Several directives about one thing, which hardly ever come together by chance."""
    line = st.tuples(_of("event", "mutex", "semaphore"), ms, ms).map(
        lambda drawn: [
            f"{third} wait {drawn[0]} 0",
            f"{one} wait {drawn[0]} {drawn[1]} alertable",
            f"{other} wait_any {drawn[0]},T {drawn[2]}",
            f"{third} {ENDS[OBJECTS[drawn[0]]]} {drawn[0]}".replace("semaphore S", "semaphore S 1"),
        ]
    )
    apcs = st.tuples(routine, routine).map(
        lambda drawn: [
            f"{third} reset F",
            f"{one} sleep inf alertable",
            f"{other} sleep inf alertable",
            f"{third} queue_apc {one} {drawn[0]} 1",
            f"{third} queue_apc {other} {drawn[1]} 2",
            f"{third} set F",
        ]
    )
    periods = st.tuples(_of("timer"), _words(routine, number), wait_of_timer).map(
        lambda drawn: [
            f"{one} set_timer {drawn[0]} 151 211 {drawn[1]}",
            f"{other} {drawn[2]}",
            "pause 1000",
            f"{one} sleep 0 alertable",
            "pause 200",
        ]
    )
    abandoned = _of("mutex").map(
        lambda name: [
            f"D wait {name} 0",
            "D exit 3",
            f"{one} wait {name} 0",
            f"{one} release_mutex {name}",
            f"{other} wait {name} 0",
        ]
    )
    return st.one_of(line, line, apcs, periods, abandoned)


@st.composite
def scenarios(draw: st.DrawFn) -> str:
    """The text of a file. The model goes along, so that most directives find threads that are there to do them."""
    head = ["# made by tests.apc.test_model", "apc P", "mutex M", "mutex N", "timer T auto", "timer U manual", "port Q"]
    lines = [*head, *sorted(draw(HEAD)), "thread A", "thread B", "thread D"]
    lines.sort(key=lambda line: line.startswith("thread"))
    model = Model(parse_text("\n".join(lines)))
    model.trace()
    for _ in range(draw(st.integers(4, 30))):
        kind = draw(st.sampled_from("sswwweeeeeamm"))
        idle = [one.name for one in model.threads if one.is_idle]
        if kind == "m" and len(idle) >= 3:
            following = draw(_together(*draw(st.permutations(idle))[:3]))
        elif kind == "e" or not idle:
            following = [draw(_ending(model) if idle else pause)]
        else:
            somebody = st.sampled_from(THREADS if kind == "a" else idle)
            following = [draw(_words(somebody, waits if kind == "w" else step))]
        for line in following:
            try:
                model.do(parse_text(line).directives[0])
            except NotCovered:
                return "\n".join([*lines, ""])
            lines.append(line)
    return "\n".join([*lines, ""])


def check(text: str) -> None:
    """One scenario in both faces."""
    try:
        expected = possible(parse_text(text), ORDERS)
    except NotCovered as why:
        seen[f"not covered: {why}"] += 1
        hypothesis.reject()
    seen["one trace" if len(expected) == 1 else "several traces"] += 1
    trace.configure(level="off")  # threads that end with entries queued
    for face in FACES:
        found = trace_of(parse_text(text), face)
        if found not in expected:
            raise AssertionError(f"the {face} face\n\n{text}\ngave\n\n{found}\nand not\n\n{min(expected)}")


@hypothesis.settings(max_examples=300, derandomize=True)
@hypothesis.given(scenarios())
def test_both_faces_do_what_the_model_does(text: str) -> None:
    check(text)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.apc.test_model", description=__doc__)
    parser.add_argument("--examples", type=int, default=5000, help="scenarios to try (default: 5000)")
    parser.add_argument("--seed", type=int, default=0, help="what they are made from (default: 0)")
    options = parser.parse_args()
    settings = hypothesis.settings(max_examples=options.examples, deadline=None, database=None, print_blob=False)
    hypothesis.seed(options.seed)(settings(hypothesis.given(scenarios())(check)))()
    for what, count in seen.most_common():
        print(f"{count:7} {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
