"""What APC scenarios must do, as one sequential program: the whole of the rules without a lock or an OS thread.

A thread is a generator. It yields None where others may act before its next step, and a `Wait` where it can go on only
when the wait has its result. `Model.trace` runs a scenario; who goes first where several could is for `choices` to
say, and `possible` tries every order. `NotCovered` is raised where the rules promise nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tests.conformance.apc.scenario import Directive, Scenario

__all__ = ["Model", "NotCovered", "possible"]

INVALID_HANDLE = "ERROR_INVALID_HANDLE"
IO_COMPLETION = "WAIT_IO_COMPLETION"
TIMEOUT = "WAIT_TIMEOUT"


class NotCovered(Exception):
    """The scenario does what FORMAT.md leaves open, or does not end."""


class Failed(Exception):
    """A call has failed; the argument is the name of its error."""


class Exit(Exception):
    """The step `exit n`."""


class Object:
    """What a wait can be on: who stands in line for it, in order."""

    def __init__(self) -> None:
        self.line: list[Wait] = []

    def signaled(self, thread: Thread) -> bool:
        raise NotImplementedError

    def take(self, wait: Wait) -> bool:
        """A wait is satisfied with it. Returns whether it was abandoned."""
        return False

    def signal_once(self, thread: Thread) -> None:
        """What `signal_and_wait` does with its first object."""
        raise Failed(INVALID_HANDLE)


@dataclass(eq=False)
class Wait:
    """One blocked call. The result is set once; from then on nothing else counts."""

    thread: Thread
    objects: Sequence[Object] = ()
    alertable: bool = False
    deadline: float = math.inf
    wait_all: bool = False
    indexed: bool = False
    most: int = 0  # packets wanted from a port
    packets: list[str] = field(default_factory=list)
    result: str | None = None

    def satisfy(self) -> bool:
        """Take what it waits for, if all of that can be had now."""
        ready = [one for one in self.objects if one.signaled(self.thread)]
        if len(ready) < (len(self.objects) if self.wait_all else 1):
            return False
        taken = ready if self.wait_all else ready[:1]
        abandoned = [one.take(self) for one in taken]
        name = "WAIT_ABANDONED_0" if any(abandoned) else "WAIT_OBJECT_0"
        self.finish(f"{name}+{self.objects.index(ready[0])}" if self.indexed else name)
        return True

    def finish(self, result: str) -> None:
        self.result = result
        for one in self.objects:
            if self in one.line:
                one.line.remove(self)


def serve(waitable: Object) -> None:
    """It may have become signaled: first come, first served."""
    for wait in tuple(waitable.line):
        if waitable.signaled(wait.thread):
            wait.satisfy()


class Event(Object):
    def __init__(self, kind: str, state: str) -> None:
        super().__init__()
        self.manual, self.is_set = kind == "manual", state == "set"

    def signaled(self, thread: Thread) -> bool:
        return self.is_set

    def take(self, wait: Wait) -> bool:
        self.is_set = self.manual
        return False

    def signal_once(self, thread: Thread) -> None:
        self.is_set = True
        serve(self)


class Mutex(Object):
    def __init__(self) -> None:
        super().__init__()
        self.owner: Thread | None = None
        self.count = 0
        self.abandoned = False

    def signaled(self, thread: Thread) -> bool:
        return self.owner in (None, thread)

    def take(self, wait: Wait) -> bool:
        self.owner, abandoned, self.abandoned = wait.thread, self.abandoned, False
        self.count += 1
        return abandoned

    def signal_once(self, thread: Thread) -> None:
        if self.owner is not thread:
            raise Failed("ERROR_NOT_OWNER")
        self.count -= 1
        self.owner = thread if self.count else None
        serve(self)

    def owner_exits(self) -> None:
        self.owner, self.count, self.abandoned = None, 0, True
        serve(self)


class Semaphore(Object):
    def __init__(self, count: str, maximum: str) -> None:
        super().__init__()
        self.count, self.maximum = int(count), int(maximum)

    def signaled(self, thread: Thread) -> bool:
        return self.count > 0

    def take(self, wait: Wait) -> bool:
        self.count -= 1
        return False

    def release(self, count: int) -> int:
        before = self.count
        if before + count > self.maximum:
            raise Failed("ERROR_TOO_MANY_POSTS")
        self.count += count
        serve(self)
        return before

    def signal_once(self, thread: Thread) -> None:
        self.release(1)


class Timer(Object):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.manual, self.is_set = kind == "manual", False
        self.unclear = False  # a synchronization timer that was set while it was signaled
        self.due, self.period = math.inf, 0
        self.owner: Thread | None = None  # of the routine
        self.entry: Entry | None = None

    def signaled(self, thread: Thread) -> bool:
        if self.unclear:
            raise NotCovered("whether setting a synchronization timer unsignals it")
        return self.is_set

    def take(self, wait: Wait) -> bool:
        self.is_set = self.manual
        return False

    def stop(self) -> None:
        self.due = math.inf
        if self.owner is not None and self.entry in self.owner.queue:
            self.owner.queue.remove(self.entry)

    def fire(self) -> None:
        self.due = self.due + self.period if self.period else math.inf
        self.is_set, self.unclear = True, False
        serve(self)
        if self.owner is None or self.entry is None:
            return
        if self.entry not in self.owner.queue:
            self.owner.deliver(self.entry)
        elif len(self.owner.queue) > 1:
            raise NotCovered("a timer fires again while its routine is queued with others")


class Port(Object):
    def __init__(self) -> None:
        super().__init__()
        self.packets: list[str] = []
        self.window = 0  # in which a blocked wait was last served

    def signaled(self, thread: Thread) -> bool:
        return bool(self.packets)

    def take(self, wait: Wait) -> bool:
        wait.packets, self.packets = self.packets[: wait.most], self.packets[wait.most :]
        return False


@dataclass(eq=False)
class Entry:
    """One queued routine, and how its line in the trace begins."""

    routine: str
    event: str
    timer: Timer | None = None


Run = Generator[Wait | None, None, None]
Answer = Generator[Wait | None, None, str]
O = TypeVar("O", bound=Object)


class Thread(Object):
    def __init__(self, model: Model, name: str, *, suspended: bool) -> None:
        super().__init__()
        self.model, self.name, self.suspended = model, name, suspended
        self.queue: list[Entry] = []
        self.lines: list[str] = []
        self.depth = 0
        self.step: tuple[str, ...] = ()
        self.idle: Wait | None = None  # its wait to be given a step
        self.code: int | None = None
        self.started = self.ended = self.gone = self.reported = False
        self.at: Wait | None = None
        self.run = self.life()

    def signaled(self, thread: Thread) -> bool:
        return self.gone

    @property
    def is_idle(self) -> bool:
        return self.idle is not None and self.idle.result is None and not self.gone

    @property
    def can_run(self) -> bool:
        return not self.suspended and not self.gone and (self.at is None or self.at.result is not None)

    def advance(self) -> None:
        self.at = next(self.run, None)

    def say(self, text: str) -> None:
        self.lines.append("  " * self.depth + text)

    def deliver(self, entry: Entry) -> None:
        """Queue it; an alertable wait that is blocked ends."""
        if self.ended:
            return
        self.queue.append(entry)
        if self.at is not None and self.at.alertable and self.at.result is None:
            self.at.finish(IO_COMPLETION)

    def life(self) -> Run:
        try:
            if self.queue:
                yield from self.drain()
            self.say("started")
            self.started = True
            while True:
                self.idle = Wait(self)
                yield self.idle
                yield from self.do(self.step)
        except Exit:
            self.depth = 0
        yield None
        self.close()
        yield None
        self.gone = True
        serve(self)

    def close(self) -> None:
        """The thread is going: its queue is dropped, its mutexes are abandoned."""
        self.ended = True
        self.queue.clear()
        objects = self.model.objects.values()
        if any(isinstance(one, Timer) and one.owner is self and one.due < math.inf for one in objects):
            raise NotCovered("a thread exits before its timer fires")
        owned = [one for one in objects if isinstance(one, Mutex) and one.owner is self]
        if sum(bool(one.line) for one in (self, *owned)) > 1:
            raise NotCovered("what is signaled first when a thread exits")
        for mutex in owned:
            mutex.owner_exits()

    def drain(self) -> Generator[Wait | None, None, bool]:
        """Run the queue until it is empty. Returns whether anything ran."""
        ran = False
        while True:
            if not self.queue or self.queue[0].timer is not None:
                yield None  # others may queue, or take a timer's entry back
            if not self.queue:
                return ran
            entry, ran = self.queue.pop(0), True
            self.say(f"{entry.event} {{")
            self.depth += 1
            if self.depth > 20:
                raise NotCovered("nested without end")
            for step in self.model.scenario.routines[entry.routine]:
                yield from self.do(step)
            self.depth -= 1
            self.say("}")

    def do(self, step: tuple[str, ...]) -> Run:
        """Do one step of a directive or a body."""
        yield None
        self.model.count_step()
        if step[0] == "exit":
            self.say(" ".join(step))
            self.code = int(step[1])
            raise Exit
        waits: Callable[..., Answer] | None = getattr(self, f"wait_{step[0]}", None)
        if waits is not None:
            try:
                result = yield from waits(*step[1:])
            except Failed as error:
                result = f"WAIT_FAILED {error}"
        else:
            try:
                more = getattr(self, f"do_{step[0]}")(*step[1:])
                result = "TRUE" if more is None else more
            except Failed as error:
                result = f"FALSE {error}"
        self.say(f"{' '.join(step)} = {result}")

    def wait(
        self,
        objects: Sequence[Object],
        ms: str,
        alertable: str = "",
        *,
        wait_all: bool = False,
        indexed: bool = False,
        most: int = 0,
    ) -> Generator[Wait | None, None, Wait]:
        """Every wait there is. Returns it with its result."""
        if any(isinstance(one, Timer) and one.owner is self for one in objects):
            raise NotCovered("a thread waits on a timer that it set with a routine")
        deadline = math.inf if ms == "inf" else self.model.now + int(ms)
        while True:
            wait = Wait(self, objects, bool(alertable), deadline, wait_all, indexed, most)
            if alertable and self.queue:
                wait.result = IO_COMPLETION  # what is queued goes first, and nothing is taken
            elif not wait.satisfy() and deadline <= self.model.now:
                wait.result = TIMEOUT
            elif wait.result is None:
                for one in objects:
                    one.line.append(wait)
                yield wait
            if wait.result != IO_COMPLETION or (yield from self.drain()):
                return wait
            yield None  # its entry was taken back: it waits on

    # The steps that wait

    def wait_sleep(self, ms: str, alertable: str = "") -> Answer:
        wait = yield from self.wait((), ms, alertable)
        return "0" if wait.result == TIMEOUT else str(wait.result)

    def wait_wait(self, name: str, ms: str, alertable: str = "") -> Answer:
        return str((yield from self.wait((self.named(name),), ms, alertable)).result)

    def wait_wait_any(self, names: str, ms: str, alertable: str = "") -> Answer:
        objects = [self.named(name) for name in names.split(",")]
        return str((yield from self.wait(objects, ms, alertable, indexed=True)).result)

    def wait_wait_all(self, names: str, ms: str, alertable: str = "") -> Answer:
        objects = [self.named(name) for name in names.split(",")]
        return str((yield from self.wait(objects, ms, alertable, wait_all=True)).result)

    def wait_signal_and_wait(self, first: str, second: str, ms: str, alertable: str = "") -> Answer:
        self.named(first).signal_once(self)
        return (yield from self.wait_wait(second, ms, alertable))

    def wait_get(self, name: str, ms: str) -> Answer:
        wait = yield from self.packets(name, 1, ms)
        return f"TRUE {wait.packets[0]}" if wait.packets else f"FALSE {wait.result}"

    def wait_get_ex(self, name: str, most: str, ms: str, alertable: str = "") -> Answer:
        wait = yield from self.packets(name, int(most), ms, alertable)
        packets = " ".join(wait.packets)
        return f"TRUE n={len(wait.packets)} {packets}" if packets else f"FALSE {wait.result}"

    def packets(self, name: str, most: int, ms: str, alertable: str = "") -> Generator[Wait | None, None, Wait]:
        port = self.of(Port, name)
        if port.line:
            raise NotCovered("several threads wait on one port")
        if alertable and port.packets and self.queue:
            raise NotCovered("an alertable wait for packets with both a packet and an APC")
        return (yield from self.wait((port,), ms, alertable, most=most))

    # The steps that do not

    def do_queue_apc(self, name: str, routine: str, number: str) -> None:
        target = self.of(Thread, name)
        if target.ended:
            raise Failed("ERROR_GEN_FAILURE")
        target.deliver(Entry(routine, f"apc {routine} {number}"))

    def do_set(self, name: str) -> None:
        self.of(Event, name).signal_once(self)

    def do_reset(self, name: str) -> None:
        self.of(Event, name).is_set = False

    def do_pulse(self, name: str) -> None:
        event = self.of(Event, name)
        event.signal_once(self)
        event.is_set = False

    def do_release_mutex(self, name: str) -> None:
        self.of(Mutex, name).signal_once(self)

    def do_release_semaphore(self, name: str, count: str) -> str:
        return f"TRUE prev={self.of(Semaphore, name).release(int(count))}"

    def do_set_timer(self, name: str, due: str, period: str, routine: str = "", number: str = "") -> None:
        timer = self.of(Timer, name)
        timer.stop()
        timer.unclear = timer.is_set and not timer.manual
        timer.is_set = False
        timer.due, timer.period = self.model.now + int(due), int(period)
        timer.owner = self if routine else None
        timer.entry = Entry(routine, f"timer {routine} {number}", timer) if routine else None
        if not int(due):
            timer.fire()

    def do_cancel_timer(self, name: str) -> None:
        self.of(Timer, name).stop()

    def do_post(self, name: str, count: str, key: str) -> None:
        port = self.of(Port, name)
        if port.window == self.model.window:
            raise NotCovered("two posts to a port on which a wait was blocked")
        if port.line:
            port.window = self.model.window
        port.packets.append(f"{count}/{key}")
        serve(port)

    def do_resume(self, name: str) -> str:
        target = self.of(Thread, name)
        if target.ended:
            raise NotCovered("resuming an exited thread")
        was, target.suspended = target.suspended, False
        return f"prev={int(was)}"

    def do_exit_code(self, name: str) -> str:
        target = self.of(Thread, name)
        return str(target.code) if target.gone else "STILL_ACTIVE"

    # Names

    def named(self, name: str) -> Object:
        return self if name == "self" else self.model.objects[name]

    def of(self, kind: type[O], name: str) -> O:
        found = self.named(name)
        if not isinstance(found, kind):
            raise Failed(INVALID_HANDLE)
        return found


KINDS: dict[str, Callable[..., Object]] = {
    "event": Event,
    "mutex": Mutex,
    "semaphore": Semaphore,
    "timer": Timer,
    "port": Port,
}


class Model:
    """One run of a scenario. `choices` says who of those that could goes next; then the first of them does."""

    def __init__(self, scenario: Scenario, choices: Sequence[int] = ()) -> None:
        self.scenario = scenario
        self.choices = choices
        self.made: list[tuple[int, int]] = []  # the choices that there were: which was made, of how many
        self.now = 0
        self.window = 0
        self.steps = 0
        self.threads: list[Thread] = []
        self.objects: dict[str, Object] = {}
        self.lines: list[str] = []

    def trace(self) -> str:
        """The text of the `.expected` file."""
        for declaration in self.scenario.declarations:
            self.objects[declaration.name] = KINDS[declaration.kind](*declaration.words)
        for directive in self.scenario.directives:
            self.window += 1
            self.lines.append(f"> {directive}")
            self.do(directive)
        self.lines.append("> end")
        for thread in self.threads:
            state = "exited" if thread.gone else "unstarted" if not thread.started else "busy"
            self.lines.append(f"{thread.name}: {'idle' if thread.is_idle else state}")
        return "\n".join(self.lines) + "\n"

    def do(self, directive: Directive) -> None:
        """One window."""
        told: list[Thread] = []
        if directive.kind == "thread":
            thread = Thread(self, directive.name, suspended=bool(directive.words))
            self.threads.append(thread)
            self.objects[thread.name] = thread
        elif directive.kind == "step":
            thread = next(one for one in self.threads if one.name == directive.name)
            if not thread.is_idle:
                state = "gone" if thread.gone else "busy" if thread.started else "unstarted"
                self.lines.append(f"{thread.name}: {state}")
                return
            told.append(thread)
            thread.step = directive.words
            assert thread.idle is not None
            thread.idle.finish("told")
        self.settle()
        if directive.kind == "pause":
            self.pause(int(directive.name))
        for thread in told + [one for one in self.threads if one not in told]:
            if thread.gone and not thread.reported:
                thread.reported = True
                thread.lines.append("exited")
            elif thread in told and not thread.is_idle and not thread.gone:
                thread.lines.append("blocked")
            self.lines += [f"{thread.name}: {line}" for line in thread.lines]
            thread.lines.clear()

    def settle(self) -> None:
        """Let the threads run until none can."""
        while True:
            for thread in self.threads:
                # What a thread does between the end of a wait and its next step concerns nobody else.
                while thread.can_run and thread.at is not None:
                    thread.advance()
            ready = [thread for thread in self.threads if thread.can_run]
            if not ready:
                return
            choice = 0
            if len(ready) > 1:
                made = len(self.made)
                choice = self.choices[made] if made < len(self.choices) else 0
                self.made.append((choice, len(ready)))
            ready[choice].advance()

    def pause(self, ms: int) -> None:
        """Let time pass, and everything happen that is due meanwhile."""
        until = self.now + ms
        while True:
            timers = [one for one in self.objects.values() if isinstance(one, Timer)]
            waits = [one.at for one in self.threads if one.at is not None]
            due = [*(one.due for one in timers), *(one.deadline for one in waits), math.inf]
            self.now = int(min(*due, until))
            first = [one for one in timers if one.due == self.now]
            alike = len(first) == due.count(self.now) and not any(one.entry for one in first)
            parted = all(sum(one in wait.objects for one in first) < 2 for wait in waits)  # else which one ends it?
            if due.count(self.now) > 1 and not (alike and parted):
                raise NotCovered("two things are due at the same time")
            for timer in timers:
                if timer.due == self.now:
                    timer.fire()
            for wait in waits:
                if wait.deadline == self.now and wait.result is None:
                    wait.finish(TIMEOUT)
            self.settle()
            if min(due) > until:
                return

    def count_step(self) -> None:
        self.steps += 1
        if self.steps > 400:
            raise NotCovered("it does not end")


def possible(scenario: Scenario, most: int) -> set[str]:
    """The traces that a scenario may give, of every order in which its threads can go.

    Raises:
        NotCovered: it depends on what is left open, or there are more than `most` orders.
    """
    traces: set[str] = set()
    choices: list[int] = []
    for _ in range(most):
        model = Model(scenario, choices)
        traces.add(model.trace())
        made = model.made
        while made and made[-1][0] + 1 == made[-1][1]:
            made.pop()
        if not made:
            return traces
        choices = [choice for choice, _ in made[:-1]] + [made[-1][0] + 1]
    raise NotCovered("too many orders to try")
