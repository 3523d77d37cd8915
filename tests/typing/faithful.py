"""The faithful face: handles, pushes, pulls and alertable waits, as a program ported from Windows writes them."""

from __future__ import annotations

from typing import BinaryIO, assert_type

import apcrt
from apcrt import AsyncEvent, AsyncFlags, Status, apc, ndr, notify
from tests.typing.filerep import FileRep


class Upload:
    """Pushes the next chunk when the last one is with the transport."""

    def __init__(self, files: FileRep, name: str, source: BinaryIO) -> None:
        self.source, self.done, self.ended = source, False, False
        self.data = apcrt.InPipe[ndr.Byte]()
        self.handle = apcrt.AsyncHandle[int](
            notification=notify.Apc(self.on_event), flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE
        )
        files.write.begin(self.handle, name, self.data)

    def on_event(self, handle: apcrt.AsyncHandle[int], event: AsyncEvent) -> None:
        if event is AsyncEvent.CALL_COMPLETE:
            self.done = True
        elif event is AsyncEvent.SEND_COMPLETE and not self.ended:
            chunk = self.source.read(65536)
            if not chunk:
                self.ended, handle.flags = True, AsyncFlags.NONE
            self.data.push(chunk)


class Download:
    """Pulls into its own buffer until nothing is there, and again on receive-complete."""

    def __init__(self, files: FileRep, name: str, target: BinaryIO) -> None:
        self.target, self.done, self.buffer = target, False, bytearray(65536)
        self.data = apcrt.OutPipe[ndr.Byte]()
        self.handle = apcrt.AsyncHandle[int](notification=notify.Apc(self.on_event))
        files.read.begin(self.handle, name, self.data)
        self.pull()

    def pull(self) -> None:
        while True:
            status, count = self.data.pull(self.buffer)
            if status is Status.RPC_S_ASYNC_CALL_PENDING or count == 0:
                return
            self.target.write(memoryview(self.buffer)[:count])

    def on_event(self, handle: apcrt.AsyncHandle[int], event: AsyncEvent) -> None:
        self.done = event is AsyncEvent.CALL_COMPLETE
        if event is AsyncEvent.RECEIVE_COMPLETE:
            self.pull()


def copy(source: BinaryIO, target: BinaryIO) -> int:
    with apcrt.Runtime() as runtime:
        files = FileRep(runtime.binding("ncacn_ip_tcp:127.0.0.1[4747]"))
        up, down = Upload(files, "a", source), Download(files, "b", target)
        while not (up.done and down.done):
            if apc.sleep_ex(30, alertable=True) == apc.WAIT_TIMEOUT:
                down.handle.cancel_call(abort=True)
        assert_type(up.handle.complete_call(), int)
        return down.handle.complete_call()


def poll(files: FileRep) -> None:
    """No notification at all."""
    handle = apcrt.AsyncHandle[None]()
    files.remove.begin(handle, "a")
    while handle.get_call_status() == Status.RPC_S_ASYNC_CALL_PENDING:
        apc.sleep_ex(0.01)
    handle.complete_call()


def wait_for_event(files: FileRep) -> None:
    """An event instead of an APC."""
    finished = apc.Event(manual_reset=False)
    handle = apcrt.AsyncHandle[None](notification=notify.Event(finished), user_info="any object")
    files.remove.begin(handle, "a")
    woken = apc.wait_for_single_object_ex(finished, 5.0, alertable=True)
    if woken == apc.WAIT_OBJECT_0 and handle.event is AsyncEvent.CALL_COMPLETE:
        handle.complete_call()


def told_elsewhere(files: FileRep, owner: apc.ApcThread) -> None:
    """Notifications go to another thread's queue."""

    def on_event(handle: apcrt.AsyncHandle[None], event: AsyncEvent) -> None:
        if event is AsyncEvent.CALL_COMPLETE:
            assert_type(handle.user_info, object)
            handle.complete_call()

    handle = apcrt.AsyncHandle[None](notification=notify.Apc(on_event, thread=owner))
    files.remove.begin(handle, "a")
