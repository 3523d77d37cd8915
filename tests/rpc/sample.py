"""An interface and managers that the tests of calls share."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import trio

import apcrt
from apcrt import apc, ndr, notify


@dataclasses.dataclass(frozen=True)
class Record:
    id: ndr.UInt32
    kind: ndr.UInt16
    tag: ndr.UInt8


class Mixed(NamedTuple):
    b: ndr.UInt32
    result: ndr.UInt32


class Sample(apcrt.Interface, uuid="0f6f7b1c-21a4-4d2c-8f0e-5b1d7c9a3e10", version="1.2"):
    @apcrt.operation
    def add(self, x: ndr.UInt32, y: ndr.UInt32) -> ndr.UInt32:
        raise NotImplementedError

    @apcrt.operation
    def mixed(self, a: ndr.UInt16, b: ndr.UInt32) -> Mixed:
        raise NotImplementedError

    @apcrt.operation
    def find(
        self,
        count: ndr.UInt32,
        ids: Annotated[Sequence[int], ndr.Array(ndr.UInt32, size_is="count")],
        hint: ndr.Unique[ndr.WString],
    ) -> ndr.UInt32:
        raise NotImplementedError

    @apcrt.operation
    def write(self, name: ndr.WString, data: apcrt.InPipe[ndr.Byte]) -> ndr.UInt64:
        raise NotImplementedError

    @apcrt.operation
    def read(self, size: ndr.UInt32, piece: ndr.UInt32, data: apcrt.OutPipe[ndr.Byte]) -> ndr.UInt32:
        raise NotImplementedError

    @apcrt.operation
    def double(self, bias: ndr.UInt16, data: apcrt.InOutPipe[ndr.UInt64]) -> ndr.UInt32:
        raise NotImplementedError

    @apcrt.operation
    def records(self, data: apcrt.InOutPipe[Record]) -> ndr.UInt32:
        raise NotImplementedError

    @apcrt.operation
    def fail(self, how: ndr.UInt32) -> None:
        raise NotImplementedError

    @apcrt.operation
    def several(
        self,
        a: apcrt.InPipe[ndr.Byte],
        b: apcrt.InPipe[ndr.UInt16],
        c: apcrt.OutPipe[ndr.UInt16],
        d: apcrt.OutPipe[ndr.Byte],
    ) -> Mixed:
        raise NotImplementedError

    @apcrt.operation
    def hold(self) -> ndr.UInt32:
        raise NotImplementedError


def pattern(size: int, start: int = 0) -> bytes:
    """Bytes (7 i + 3) mod 256 from i = start on."""
    block = bytes((7 * i + 3) & 255 for i in range(256))
    first = start % 256
    return (block[first:] + block * (size // 256 + 1))[:size]


class Plain:
    """Plain routines: they block a dispatch thread."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.written: dict[str, bytes] = {}
        self.held: list[apcrt.ServerHandle[int]] = []
        self.on_hold: Callable[[apcrt.ServerHandle[int]], object] = self.held.append
        self.inside = threading.Event()
        self.release = threading.Event()
        self.cancel_seen: bool | None = None

    @Sample.add.manager
    def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
        self.threads.append(threading.current_thread().name)
        return (x + y) & 0xFFFFFFFF

    @Sample.mixed.manager
    def mixed(self, call: apcrt.ServerHandle[Mixed], a: int, b: int) -> Mixed:
        return Mixed(a + b, a)

    @Sample.find.manager
    def find(self, call: apcrt.ServerHandle[int], count: int, ids: Sequence[int], hint: str | None) -> int:
        return sum(ids) + len(hint or "")

    @Sample.write.manager
    def write(self, call: apcrt.ServerHandle[int], name: str, data: apcrt.InPipe[int]) -> int:
        whole = bytearray()
        for chunk in data:
            whole += chunk
        self.written[name] = bytes(whole)
        return len(whole)

    @Sample.read.manager
    def read(self, call: apcrt.ServerHandle[int], size: int, piece: int, data: apcrt.OutPipe[int]) -> int:
        content = pattern(size)
        for first in range(0, size, piece):
            data.write(content[first : first + piece])
        data.write_eof()
        return size

    @Sample.double.manager
    def double(self, call: apcrt.ServerHandle[int], bias: int, data: apcrt.InOutPipe[int]) -> int:
        values = [value for chunk in data for value in chunk]
        data.write([2 * value + bias for value in values])
        data.write_eof()
        return len(values)

    @Sample.records.manager
    def records(self, call: apcrt.ServerHandle[int], data: apcrt.InOutPipe[Record]) -> int:
        found = [record for chunk in data for record in chunk]
        data.write([Record(r.id + 1, r.kind ^ 0xFFFF, (r.tag + 1) & 255) for r in found])
        data.write_eof()
        return len(found)

    @Sample.fail.manager
    def fail(self, call: apcrt.ServerHandle[None], how: int) -> None:
        if how == 0:
            raise ValueError("on purpose")
        if how == 1:
            return
        raise apcrt.RpcError(how)

    @Sample.several.manager
    def several(
        self,
        call: apcrt.ServerHandle[Mixed],
        a: apcrt.InPipe[int],
        b: apcrt.InPipe[int],
        c: apcrt.OutPipe[int],
        d: apcrt.OutPipe[int],
    ) -> Mixed:
        octets = [value for chunk in a for value in chunk]
        shorts = [value for chunk in b for value in chunk]
        c.write([value + 1 for value in shorts])
        c.write_eof()
        d.write(bytes(value ^ 0x55 for value in octets))
        d.write_eof()
        return Mixed(len(octets), len(shorts))

    @Sample.hold.manager
    def hold(self, call: apcrt.ServerHandle[int]) -> int | apcrt.Pending:
        self.on_hold(call)
        self.inside.set()
        return apcrt.PENDING


class Async(Plain):
    """The same, as tasks of the trio run that serves."""

    @Sample.add.manager
    async def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
        self.threads.append(threading.current_thread().name)
        await trio.lowlevel.checkpoint()
        return (x + y) & 0xFFFFFFFF

    @Sample.write.manager
    async def write(self, call: apcrt.ServerHandle[int], name: str, data: apcrt.InPipe[int]) -> int:
        whole = bytearray()
        async for chunk in data:
            whole += chunk
        self.written[name] = bytes(whole)
        return len(whole)

    @Sample.read.manager
    async def read(self, call: apcrt.ServerHandle[int], size: int, piece: int, data: apcrt.OutPipe[int]) -> int:
        content = pattern(size)
        for first in range(0, size, piece):
            await data.send(content[first : first + piece])
        await data.send_eof()
        return size

    @Sample.double.manager
    async def double(self, call: apcrt.ServerHandle[int], bias: int, data: apcrt.InOutPipe[int]) -> int:
        values = [value async for chunk in data for value in chunk]
        await data.send([2 * value + bias for value in values])
        await data.send_eof()
        return len(values)


class Worker(Plain):
    """Handed off to a named worker thread, which pushes with send-complete notifications."""

    def __init__(self, worker: apc.ApcThread) -> None:
        super().__init__()
        self.worker = worker
        self.wrong_thread = 0

    @Sample.read.manager
    def read(
        self, call: apcrt.ServerHandle[int], size: int, piece: int, data: apcrt.OutPipe[int]
    ) -> int | apcrt.Pending:
        self.worker.queue_user_apc(Sender, self, call, size, piece, data)
        return apcrt.PENDING

    @Sample.write.manager
    def write(self, call: apcrt.ServerHandle[int], name: str, data: apcrt.InPipe[int]) -> int | apcrt.Pending:
        self.worker.queue_user_apc(Receiver, self, call, name, data)
        return apcrt.PENDING


class Sender:
    def __init__(
        self, owner: Worker, call: apcrt.ServerHandle[int], size: int, piece: int, data: apcrt.OutPipe[int]
    ) -> None:
        self.owner, self.size, self.piece, self.data = owner, size, piece, data
        self.content, self.position, self.ended = pattern(size), 0, False
        call.notification = notify.Apc(self.on_event, thread=owner.worker)
        call.flags = apcrt.AsyncFlags.NOTIFY_ON_SEND_COMPLETE
        self.on_event(call, apcrt.AsyncEvent.SEND_COMPLETE)

    def push(self) -> None:
        chunk = self.content[self.position : self.position + self.piece]
        self.position += len(chunk)
        self.ended = not chunk
        self.data.push(chunk)

    def on_event(self, call: apcrt.ServerHandle[int], event: apcrt.AsyncEvent) -> None:
        if apc.current_thread() is not self.owner.worker:
            self.owner.wrong_thread += 1
        try:
            if self.ended:
                call.complete_call(self.size)
            else:
                self.push()
        except apcrt.RpcError:
            return


class Receiver:
    def __init__(self, owner: Worker, call: apcrt.ServerHandle[int], name: str, data: apcrt.InPipe[int]) -> None:
        self.owner, self.name, self.data, self.whole = owner, name, data, bytearray()
        self.buffer = bytearray(5000)
        call.notification = notify.Apc(self.on_event, thread=owner.worker)
        self.pull(call)

    def pull(self, call: apcrt.ServerHandle[int]) -> None:
        try:
            while True:
                status, count = self.data.pull(self.buffer)
                if status is apcrt.Status.RPC_S_ASYNC_CALL_PENDING:
                    return
                if not count:
                    self.owner.written[self.name] = bytes(self.whole)
                    call.complete_call(len(self.whole))
                    return
                self.whole += self.buffer[:count]
        except apcrt.RpcError:
            return

    def on_event(self, call: apcrt.ServerHandle[int], event: apcrt.AsyncEvent) -> None:
        if apc.current_thread() is not self.owner.worker:
            self.owner.wrong_thread += 1
        self.pull(call)
