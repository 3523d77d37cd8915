"""The trio face, and the faithful one on a thread that runs trio."""

from __future__ import annotations

from typing import assert_type

import trio

import apcrt
from apcrt import apc, ndr, notify
from tests.typing.filerep import Entry, FileRep, Mixed


async def four_calls(target: trio.abc.SendStream) -> None:
    async with apcrt.Runtime() as runtime:
        files = FileRep(runtime.binding("files"))
        reply = await files.mixed.call(1, b=2)
        assert_type(reply, Mixed)
        assert_type(reply.result, int)
        data = apcrt.OutPipe[ndr.Byte]()
        with trio.fail_after(30):
            async with files.read.open("a.txt", data) as call:
                async for chunk in data:
                    assert_type(chunk, memoryview)
                    await target.send_all(chunk)
        assert_type(call.reply, int)
        upload = apcrt.InPipe[ndr.Byte]()
        async with files.write.open("b.txt", upload) as call:
            await upload.send(b"hello")
            await upload.send_eof()


async def structures(files: FileRep) -> list[Entry]:
    found: list[Entry] = []
    data = apcrt.OutPipe[Entry]()
    async with files.entries.open(data):
        async for chunk in data:
            assert_type(chunk, list[Entry])
            found.extend(chunk)
    return found


async def there_and_back(files: FileRep, values: list[float]) -> list[float]:
    data = apcrt.InOutPipe[ndr.Double]()
    async with files.filter.open(2.0, data):
        await data.send(values)
        await data.send_eof()
        return [value async for chunk in data for value in chunk]


async def into_memory(files: FileRep, buffer: bytearray) -> int:
    data = apcrt.OutPipe[ndr.Byte]()
    async with files.read.open("a", data) as call:
        total = 0
        while count := await data.receive_into(memoryview(buffer)[total:]):
            total += count
        if total == len(buffer):
            call.cancel(abort=True)
    return total


async def alertable(files: FileRep) -> None:
    done = trio.Event()

    async def on_event(handle: apcrt.AsyncHandle[None], event: apcrt.AsyncEvent) -> None:
        if event is apcrt.AsyncEvent.CALL_COMPLETE:
            await trio.lowlevel.checkpoint()
            handle.complete_call()
            done.set()

    files.remove.begin(apcrt.AsyncHandle[None](notification=notify.Apc(on_event)), "a")
    while not done.is_set():
        woken = await apc.aio.sleep_ex(None, alertable=True)
        assert_type(woken, apc.WaitResult)
