"""The pipe inside the process: byte and message mode, its quota, its ends, its order."""

from __future__ import annotations

import pytest

from apcrt import apc
from apcrt.apc import ApcError
from apcrt.overlapped import OverlappedStatistics, create_pipe
from apcrt.status import Status
from tests.apc.faces import Face, run
from tests.overlapped.helpers import Results, read_into, write


async def alert(face: Face) -> None:
    await face.sleep_ex(0, alertable=True)


def test_byte_mode_takes_whatever_there_is(face: Face) -> None:
    async def script() -> None:
        with create_pipe()[0] as end:
            assert "PipeEnd" in repr(end)
        one, other = create_pipe()
        with one, other:
            await write(face, one, b"abc")
            await write(face, one, b"def")
            into = bytearray(5)
            assert await read_into(face, other, into) == 5
            assert into == b"abcde"
            assert await read_into(face, other, into) == 1
            # Both directions are pipes of their own.
            await write(face, other, b"back")
            assert await read_into(face, one, into) == 4

    run(face, script)


def test_message_mode_gives_the_rest_to_the_next_read(face: Face) -> None:
    async def script() -> None:
        results = Results()
        one, other = create_pipe(message=True)
        with one, other:
            into = bytearray(3)
            pending = other.read_ex(into, results)
            await write(face, one, b"abcdef")
            await alert(face)
            assert results.calls == [(234, 3)]
            with pytest.raises(ApcError):
                pending.result()
            await write(face, one, b"")
            assert await read_into(face, other, into) == 3
            assert into == b"def"
            assert await read_into(face, other, into) == 0  # the empty message

    run(face, script)


@pytest.mark.parametrize("quota", [0, 4])
def test_the_quota(face: Face, quota: int) -> None:
    async def script() -> None:
        results = Results()
        one, other = create_pipe(quota=quota)
        with one, other:
            first, second = one.write_ex(b"abcd", results), one.write_ex(b"ef", results)
            assert first.pending == (quota == 0)
            assert second.pending
            assert one.statistics() == OverlappedStatistics(0, 1 + (quota == 0), 0, 0 if quota == 0 else 4)
            assert await read_into(face, other, bytearray(2)) == 2
            assert first.pending == (quota == 0)
            assert second.pending == (quota == 0)
            assert await read_into(face, other, bytearray(10)) == 4
            await alert(face)
            assert results.operations == [first, second]
            assert one.statistics() == OverlappedStatistics(0, 0, 0, 6)
            assert other.statistics() == OverlappedStatistics(0, 0, 6, 0)

    run(face, script)


def test_a_cancelled_write_makes_room_for_those_behind_it() -> None:
    one, other = create_pipe(quota=4)
    with one, other:
        big, small = one.write_ex(bytes(5)), one.write_ex(b"ab")
        assert small.pending
        assert big.cancel()
        assert small.result() == 2
        assert other.read_into(bytearray(10)) == 2


def test_what_was_written_can_be_read_after_the_end_was_closed(face: Face) -> None:
    async def script() -> None:
        results = Results()
        one, other = create_pipe()
        with other:
            await write(face, one, b"abc")
            one.close()
            assert await read_into(face, other, bytearray(10)) == 3
            with pytest.raises(ApcError) as caught:
                other.read_ex(bytearray(1), results)
            assert caught.value.status == Status.ERROR_BROKEN_PIPE
            with pytest.raises(ApcError) as caught:
                other.write_ex(b"x", results)
            assert caught.value.status == Status.ERROR_NO_DATA
            with pytest.raises(ApcError) as caught:
                one.read_ex(bytearray(1))
            assert caught.value.status == Status.ERROR_INVALID_HANDLE
            assert not await face.test_alert()

    run(face, script)


def test_pending_reads_break_with_the_other_end(face: Face) -> None:
    async def script() -> None:
        results = Results()
        one, other = create_pipe()
        with other:
            other.read_ex(bytearray(1), results)
            one.write_ex(bytes(5000), results)  # more than the quota, but read before it breaks: see below
            one.close()
            await alert(face)
            assert results.calls == [(0, 1), (995, 0)]

    run(face, script)


def test_one_order_for_everything(face: Face) -> None:
    """A kernel pipe could not keep it: reads, writes and user APCs join the queue as they come about."""

    async def script() -> None:
        order: list[str] = []
        thread = apc.current_thread()
        one, other = create_pipe()
        with one, other:
            thread.queue_user_apc(order.append, "first")
            other.read_ex(bytearray(4), lambda *_: order.append("read"))
            thread.queue_user_apc(order.append, "second")
            one.write_ex(b"data", lambda *_: order.append("write"))
            thread.queue_user_apc(order.append, "third")
            await alert(face)
        assert order == ["first", "second", "read", "write", "third"]

    run(face, script)


def test_misuse() -> None:
    with pytest.raises(ApcError) as caught:
        create_pipe(quota=-1)
    assert caught.value.status == 87
    one, other = create_pipe()
    with one, other:
        with pytest.raises(ApcError) as caught:
            one.read_ex(bytearray(1), offset=0)
        assert caught.value.status == 87
        with pytest.raises(ApcError) as caught:
            one.cancel_io_ex()
        assert caught.value.status == Status.ERROR_NOT_FOUND
