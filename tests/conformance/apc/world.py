"""One run of a scenario: its objects, its threads, and the coordinator that tells them what to do.

What lives here: names and what they stand for, threads that take steps, windows, the trace. What must not: the steps
themselves (`steps`), and the comparison with what was expected (`runner`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from apcrt import apc
from apcrt.apc.lowlevel import Clock, D
from apcrt.overlapped import Overlapped, PipeEnd, create_pipe
from tests.conformance.apc.clock import VirtualClock, settle
from tests.conformance.apc.scenario import Declaration, Directive, Scenario
from tests.conformance.apc.steps import STEPS, io_event, run_async, run_blocking

__all__ = ["Actor", "Face", "World", "trace_of"]

Face = Literal["blocking", "trio"]


class Actor:
    """A thread of the scenario, as seen from both sides.

    The coordinator gives it one step at a time, while it is idle, and reads its lines while it rests.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.thread: apc.StructuredThread | None = None
        self.command = apc.Event()
        self.step: tuple[str, ...] = ()
        self.started = False
        self.idle = False
        self.depth = 0
        self.lines: list[str] = []
        self.reported_exit = False

    @property
    def exited(self) -> bool:
        return self.thread is not None and self.thread.gone

    def say(self, text: str) -> None:
        """Trace an event of this thread."""
        if not self.world.over:
            self.lines.append("  " * self.depth + text)

    def leave(self, words: tuple[str, ...]) -> None:
        """The step `exit n`."""
        self.say(" ".join(words))
        self.depth = 0
        apc.exit_thread(int(words[1]))

    # A plain thread

    def main(self) -> None:
        self.begin()
        while True:
            apc.wait_for_single_object_ex(self.command, None)
            self.take(self.step)
            self.idle = True

    def take(self, words: tuple[str, ...]) -> None:
        if words[0] == "exit":
            self.leave(words)
        self.result(words, run_blocking(STEPS[words[0]](self.world, self, words)))

    def run(self, event: str, body: list[tuple[str, ...]]) -> None:
        self.say(f"{event} {{")
        self.depth += 1
        for words in body:
            self.take(words)
        self.depth -= 1
        self.say("}")

    # A trio thread

    async def main_async(self) -> None:
        self.begin()
        while True:
            await apc.aio.wait_for_single_object_ex(self.command, None)
            await self.take_async(self.step)
            self.idle = True

    async def take_async(self, words: tuple[str, ...]) -> None:
        if words[0] == "exit":
            self.leave(words)
        self.result(words, await run_async(STEPS[words[0]](self.world, self, words)))

    async def run_async(self, event: str, body: list[tuple[str, ...]]) -> None:
        self.say(f"{event} {{")
        self.depth += 1
        for words in body:
            await self.take_async(words)
        self.depth -= 1
        self.say("}")

    # Both

    def begin(self) -> None:
        self.say("started")
        self.started = self.idle = True

    def result(self, words: tuple[str, ...], result: str | None) -> None:
        self.say(f"{' '.join(words)} = {result}")


class World:
    """A scenario being run in one face."""

    def __init__(self, scenario: Scenario, face: Face) -> None:
        self.scenario = scenario
        self.face = face
        self.over = False
        self.actors: dict[str, Actor] = {}
        self.objects: dict[str, object] = {}
        self.lines: list[str] = []
        self.clock = VirtualClock()

    def run(self) -> list[str]:
        """Do everything; returns the lines of the trace."""
        before: Clock = D.clock
        D.clock = self.clock
        try:
            for declaration in self.scenario.declarations:
                self._declare(declaration)
            with apc.open_apc_threads() as threads:
                try:
                    for directive in self.scenario.directives:
                        self._do(directive, threads)
                    self._end()
                finally:
                    self.over = True
                    threads.cancel()
        finally:
            D.clock = before
        return self.lines

    # Names

    def named(self, name: str, actor: Actor) -> apc.Waitable:
        found = self.objects.get(name)
        if isinstance(found, apc.Waitable):
            return found
        return self.thread(name, actor)

    def end(self, name: str) -> PipeEnd:
        found = self.objects[name]
        assert isinstance(found, PipeEnd)
        return found

    def thread(self, name: str, actor: Actor) -> apc.StructuredThread:
        found = actor if name == "self" else self.actors[name]
        assert found.thread is not None
        return found.thread

    def actor_here(self) -> Actor:
        here = apc.current_thread()
        return next(actor for actor in self.actors.values() if actor.thread is here)

    # Routines

    def user_routine(self, name: str) -> Callable[[int], object]:
        return self._routine(name, lambda number: f"apc {name} {number}")

    def timer_routine(self, name: str) -> Callable[[int, int, int], object]:
        return self._routine(name, lambda number, _low, _high: f"timer {name} {number}")

    def io_routine(self, name: str, buffer: bytearray | None) -> Callable[[int, int, Overlapped], object]:
        return self._routine(name, lambda error, count, overlapped: io_event(name, overlapped, error, count, buffer))

    def _routine(self, name: str, event: Callable[..., str]) -> Callable[..., object]:
        body = self.scenario.routines[name]

        def plain(*arguments: object) -> None:
            self.actor_here().run(event(*arguments), body)

        async def task(*arguments: object) -> None:
            await self.actor_here().run_async(event(*arguments), body)

        return plain if self.face == "blocking" else task

    # The coordinator

    def _declare(self, declaration: Declaration) -> None:
        name, words = declaration.name, declaration.words
        match declaration.kind:
            case "event":
                self.objects[name] = apc.Event(manual_reset=words[0] == "manual", initial=words[1] == "set")
            case "mutex":
                self.objects[name] = apc.Mutex()
            case "semaphore":
                self.objects[name] = apc.Semaphore(int(words[0]), int(words[1]))
            case "timer":
                self.objects[name] = apc.WaitableTimer(manual_reset=words[0] == "manual")
            case "port":
                self.objects[name] = apc.CompletionPort()
            case _:
                ends = create_pipe(message=words[0] == "message", quota=int(words[1]))
                self.objects[f"{name}.s"], self.objects[f"{name}.c"] = ends

    def _do(self, directive: Directive, threads: apc.ApcThreads) -> None:
        self.lines.append(f"> {directive}")
        told: Actor | None = None
        if directive.kind == "thread":
            self._start(directive, threads)
        elif directive.kind == "step":
            told = self.actors[directive.name]
            if not told.idle or told.exited:
                state = "gone" if told.exited else "busy" if told.started else "unstarted"
                self.lines.append(f"{told.name}: {state}")
                return
            told.step, told.idle = directive.words, False
            told.command.set()
        settle(self._threads())
        if directive.kind == "pause":
            self.clock.advance(int(directive.name) / 1000, self._threads())
        self._close_window(told)

    def _start(self, directive: Directive, threads: apc.ApcThreads) -> None:
        actor = Actor(self, directive.name)
        self.actors[directive.name] = actor
        main = actor.main if self.face == "blocking" else actor.main_async
        actor.thread = threads.start(main, name=directive.name, suspended=True)
        if not directive.words:
            actor.thread.resume()

    def _threads(self) -> list[apc.StructuredThread]:
        return [actor.thread for actor in self.actors.values() if actor.thread is not None]

    def _close_window(self, told: Actor | None) -> None:
        others = [actor for actor in self.actors.values() if actor is not told]
        for actor in [told, *others] if told is not None else others:
            lines, actor.lines = actor.lines, []
            if actor.exited and not actor.reported_exit:
                actor.reported_exit = True
                lines.append("exited")
            elif actor is told and not actor.idle and not actor.exited:
                lines.append("blocked")
            self.lines += [f"{actor.name}: {line}" for line in lines]

    def _end(self) -> None:
        self.lines.append("> end")
        for actor in self.actors.values():
            state = "exited" if actor.exited else "unstarted" if not actor.started else "idle" if actor.idle else "busy"
            self.lines.append(f"{actor.name}: {state}")


def trace_of(scenario: Scenario, face: Face) -> str:
    """Run a scenario; returns its trace as the text of an `.expected` file."""
    return "\n".join(World(scenario, face).run()) + "\n"
