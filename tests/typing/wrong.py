# type: ignore  # noqa: PGH003 - full of mistakes; tests/test_typing.py has it checked without this line
"""Mistakes that both checkers have to refuse, each on a line marked `expect-error`; and nothing else here is wrong.

The direction of a push or pull is not among them: every pipe has both verbs, since one side pushes what the other
pulls, and the wrong one raises 1831 when it runs.
"""

from __future__ import annotations

import apcrt
from apcrt import ndr, notify
from tests.typing.filerep import Entry, FileRep, Mixed


def wrong_pipes(files: FileRep) -> None:
    into = apcrt.InPipe[ndr.Byte]()
    out = apcrt.OutPipe[ndr.Byte]()
    entries = apcrt.OutPipe[Entry]()
    reals = apcrt.InOutPipe[ndr.Double]()
    files.read("a", into)  # expect-error: an in pipe where the operation has an out pipe
    files.write("a", out)  # expect-error: the other way round
    files.read("a", entries)  # expect-error: a pipe of another element
    files.read.open("a", into)  # expect-error
    files.read("a", apcrt.InOutPipe[ndr.Byte]())  # expect-error: neither is the one for both directions
    reals.push(["a"])  # expect-error: text in a pipe of numbers
    reals.write([Entry(1, 2)])  # expect-error
    entries.pull([1, 2])  # expect-error: room for numbers in a pipe of structures
    apcrt.InPipe[ndr.Byte](sink=bytearray())  # expect-error: what is pushed needs a source
    apcrt.OutPipe[ndr.Byte](source=b"a")  # expect-error: what is pulled needs a sink


def wrong_arguments(files: FileRep) -> None:
    files.mixed("1", 2)  # expect-error: text for a number
    files.mixed(1)  # expect-error: too few
    files.mixed(1, 2, 3)  # expect-error: too many
    files.mixed(1, c=2)  # expect-error: no such parameter
    files.find(1, ["a"], None)  # expect-error: an array of something else
    files.remove(None)  # expect-error: a reference cannot be null
    files.erase("a")  # expect-error: no such operation


def wrong_replies(files: FileRep) -> None:
    text: str = files.mixed(1, 2)  # expect-error: the reply is a Mixed
    number: int = files.remove("a")  # expect-error: there is no reply
    print(files.mixed(1, 2).total)  # expect-error: no such member
    print(text, number)


def wrong_handles(files: FileRep) -> None:
    handle = apcrt.AsyncHandle[str]()
    files.mixed.begin(handle, 1, 2)  # expect-error: a handle for another reply
    files.mixed.begin(1, 2)  # expect-error: no handle
    files.read.begin(apcrt.AsyncHandle[int](), "a", apcrt.InPipe[ndr.Byte]())  # expect-error: the wrong pipe
    text: str = apcrt.AsyncHandle[int]().complete_call()  # expect-error: the handle's reply is a number
    print(text)

    def on_event(handle: apcrt.AsyncHandle[int], event: apcrt.AsyncEvent) -> None:
        handle.cancel_call(abort=True)

    def on_nothing() -> None: ...

    apcrt.AsyncHandle[str](notification=notify.Apc(on_event))  # expect-error: a routine for other handles
    apcrt.AsyncHandle[int](notification=notify.Apc(on_nothing))  # expect-error: it takes no arguments
    apcrt.AsyncHandle[int](notification=on_event)  # expect-error: the kind of notification is missing
    apcrt.AsyncHandle[int]().cancel_call(True)  # expect-error: abort is said by name


async def wrong_waits(files: FileRep) -> None:
    data = apcrt.OutPipe[ndr.Byte]()
    files.mixed.call(1, 2)  # expect-error: nobody awaits it
    reply: Mixed = files.mixed.call(1, 2)  # expect-error
    await files.mixed(1, 2)  # expect-error: this one blocks, and gives the reply
    data.receive_into(bytearray(10))  # expect-error
    print(reply)


class Manager:
    @FileRep.mixed.manager  # expect-error: the reply is a Mixed
    def reply_of_another_type(self, call: apcrt.ServerHandle[Mixed], a: int, b: int) -> int:
        return a + b

    @FileRep.mixed.manager  # expect-error: and from a coroutine too
    async def awaited_reply_of_another_type(self, call: apcrt.ServerHandle[Mixed], a: int, b: int) -> int:
        return a + b

    @FileRep.remove.manager  # expect-error: it takes a number for the name
    def argument_of_another_type(self, call: apcrt.ServerHandle[None], name: int) -> None: ...

    @FileRep.read.manager  # expect-error: the pipe is an out pipe
    def pipe_of_another_direction(self, call: apcrt.ServerHandle[int], name: str, data: apcrt.InPipe[int]) -> int:
        return len(name)

    @FileRep.entries.manager  # expect-error: the pipe is one of structures
    def pipe_of_other_elements(self, call: apcrt.ServerHandle[None], data: apcrt.OutPipe[int]) -> None: ...

    @FileRep.remove.manager  # expect-error: the handle comes first
    def no_handle(self, name: str) -> None: ...

    @FileRep.remove.manager
    def completed_with_a_value(self, call: apcrt.ServerHandle[None], name: str) -> apcrt.Pending:
        call.complete_call(name)  # expect-error: a reply of the wrong type
        return apcrt.PENDING
