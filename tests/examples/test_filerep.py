"""The file replication example: its pieces, and the whole of it as real processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

import apcrt
from apcrt import apc, testing
from examples.filerep import delta
from examples.filerep.client import pull_tree
from examples.filerep.interface import FileRep
from examples.filerep.paths import TEMPORARY_PREFIX, Tree
from examples.filerep.records import Entry, EntryReader, Kind, encode_entry
from examples.filerep.replica import Replica
from examples.filerep.server import FileRepServer, Worker

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "examples.filerep"]


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "transports"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=50, check=False
    )


@contextlib.contextmanager
def serving(root: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [*COMMAND, "serve", str(root), *more], cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "a" / "b" / "c" / "d").mkdir(parents=True)
    (root / "empty").write_bytes(b"")
    (root / "größe-日本").write_bytes(b"names")
    (root / "a" / "b" / "c" / "d" / "deep").write_bytes(os.urandom(100_000))
    (root / "large").write_bytes(os.urandom(3_000_001))
    (root / "link").symlink_to("large")
    os.mkfifo(root / "fifo")
    os.utime(root / "large", ns=(10**18, 10**18))
    return root


def files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


@pytest.mark.feature("APP-01", "APP-03")
def test_the_whole_demonstration_twice(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    arguments = ["--source", str(source), "--target", str(target)]
    first = run(*arguments)
    assert first.returncode == 0, first.stderr
    assert files(target) == files(source)
    assert "4 new, 0 updated, 0 unchanged" in first.stdout
    assert re.search(r"wrong thread +0", first.stdout)
    assert (target / "large").stat().st_mtime_ns == 10**18
    changed = bytearray((source / "large").read_bytes())
    changed[2_000_000] ^= 1
    (source / "large").write_bytes(changed)
    second = run(*arguments)
    assert second.returncode == 0, second.stderr
    assert files(target) == files(source)
    assert "0 new, 1 updated, 3 unchanged" in second.stdout
    sent = re.search(r"([\d,]+) sent through pipes", second.stdout)
    assert sent is not None
    assert int(sent[1].replace(",", "")) < 100_000
    third = run(*arguments, "--binding", f"ncacn_unix_stream:[{tmp_path}/s/sock]", "--no-verify")
    assert third.returncode == 0, third.stderr
    assert "(0 sent through pipes)" in third.stdout


def test_a_change_behind_the_same_size_and_time_is_found(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    with serving(source) as (_, binding):
        assert run("pull", "--binding", binding, str(target)).returncode == 0
        (target / "large").write_bytes(bytes(3_000_001))
        os.utime(target / "large", ns=(10**18, 10**18))
        assert "0 new, 1 updated, 3 unchanged" in run("pull", "--binding", binding, str(target)).stdout
    assert files(target) == files(source)


def test_upload(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    with serving(target, "--writable") as (_, binding):
        done = run("push", "--binding", binding, str(source))
        assert done.returncode == 0, done.stderr
        assert files(target) == files(source)
        assert "4 new, 0 updated, 0 unchanged" in done.stdout
        (source / "empty").write_bytes(b"not any more")
        (target / "large").write_bytes(bytes(3_000_001))
        os.utime(target / "large", ns=(10**18, 10**18))
        again = run("push", "--binding", binding, str(source))
        assert again.returncode == 0, again.stderr
        assert "0 new, 2 updated, 2 unchanged" in again.stdout
        assert files(target) == files(source)
    (source / "empty").write_bytes(b"once more")
    with serving(target) as (_, binding):
        refused = run("push", "--binding", binding, str(source))
    assert refused.returncode == 3
    assert "left out: empty: ERROR_ACCESS_DENIED (5)" in refused.stdout
    assert files(target) != files(source)


def test_what_was_left_out_shows_and_counts(tmp_path: Path) -> None:
    """A directory is in the way of a file; its name would do things to a terminal, and is no UTF-8."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    name = b"esc\x1b[31m\xff\nfiles"
    (source / os.fsdecode(name)).write_bytes(b"x")
    (source / "fine").write_bytes(b"y")
    (target / os.fsdecode(name) / "in the way").mkdir(parents=True)
    done = run("--source", str(source), "--target", str(target))
    assert done.returncode == 3, done.stderr
    assert "left out: esc\\x1b[31m\\udcff\\nfiles: " in done.stdout
    assert "\x1b[31m" not in done.stdout
    assert (target / "fine").read_bytes() == b"y"


def test_files_in_the_making_of_a_killed_run_are_removed(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    (target / "a").mkdir(parents=True)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = target / "a" / f"{TEMPORARY_PREFIX}{dead.pid}-1.part"
    mine = target / f"{TEMPORARY_PREFIX}{os.getpid()}-1.part"
    for path in (left, mine):
        path.write_bytes(b"half")
    assert run("--source", str(source), "--target", str(target)).returncode == 0
    assert not left.exists()
    assert mine.exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--threads", "65"), "it is from 1 to 64"),
        (("--buffer", "0"), "it is from 1 to 65536"),
        (("--source", "{source}", "--target", "{source}/a/replica"), "lies inside of"),
    ],
)
def test_wrong_arguments(source: Path, arguments: tuple[str, ...], complaint: str) -> None:
    done = run(*(argument.format(source=source) for argument in arguments))
    assert done.returncode == 2
    assert complaint in done.stderr


def test_a_silent_server(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        binding = f"ncacn_ip_tcp:127.0.0.1[{silent.getsockname()[1]}]"
        done = run("pull", "--timeout", "1", "--binding", binding, str(tmp_path / "target"))
    assert done.returncode == 1
    assert "RPC_S_CALL_CANCELLED (1818)" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_ended_by_others(tmp_path: Path, number: signal.Signals) -> None:
    """As clean as Ctrl-C, and the server process goes too."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    with (source / "sparse").open("wb") as file:
        file.truncate(8 << 30)
    client = subprocess.Popen(
        [*COMMAND, "--source", str(source), "--target", str(target)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: any(target.glob(f"{TEMPORARY_PREFIX}*")))
    (server,) = psutil.Process(client.pid).children()
    client.send_signal(number)
    _, errors = client.communicate(timeout=20)
    assert client.returncode == 130
    assert errors == "filerep: interrupted\n"
    assert not list(target.glob(f"{TEMPORARY_PREFIX}*"))
    server.wait(10)


@pytest.mark.feature("ERR-02")
def test_a_killed_server(tmp_path: Path) -> None:
    """One line with name and number, and no partial file in the place of a good one."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    with (source / "sparse").open("wb") as file:
        file.truncate(8 << 30)
    (target / "sparse").write_bytes(b"good")
    (source / "other").write_bytes(os.urandom(1000))
    with serving(source) as (server, binding):
        client = subprocess.Popen(
            [*COMMAND, "pull", "--binding", binding, str(target)],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        until(lambda: any(target.glob(f"{TEMPORARY_PREFIX}*")))
        server.kill()
        _, errors = client.communicate(timeout=20)
    assert client.returncode == 1
    lines = errors.splitlines()
    assert len(lines) == 1, errors
    assert re.search(r"RPC_S_\w+ \(17\d\d\)", lines[0])
    assert (target / "sparse").read_bytes() == b"good"
    assert not list(target.glob(f"{TEMPORARY_PREFIX}*"))


@pytest.mark.parametrize("side", ["client", "server"])
def test_ctrl_c(tmp_path: Path, side: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    with (source / "sparse").open("wb") as file:
        file.truncate(8 << 30)
    with serving(source) as (server, binding):
        client = subprocess.Popen(
            [*COMMAND, "pull", "--binding", binding, str(target)],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        until(lambda: any(target.glob(f"{TEMPORARY_PREFIX}*")))
        interrupted = client if side == "client" else server
        interrupted.send_signal(signal.SIGINT)
        interrupted.wait(10)
        assert interrupted.returncode == (130 if side == "client" else 0)
        _, errors = client.communicate(timeout=20)
        assert "Traceback" not in errors
        assert client.returncode == (130 if side == "client" else 1)
    assert not list(target.glob(f"{TEMPORARY_PREFIX}*"))


def test_no_server() -> None:
    done = run("pull", "--binding", "ncacn_ip_tcp:127.0.0.1[1]", "somewhere/else")
    assert done.returncode == 1
    assert "RPC_S_SERVER_UNAVAILABLE (1722)" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    (ROOT / "somewhere" / "else").rmdir()
    (ROOT / "somewhere").rmdir()


def test_help() -> None:
    for arguments in ([], ["serve"], ["pull"], ["push"]):
        assert "--binding" in run(*arguments, "--help").stdout


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "", "a//b", "out/x", "a\0b", "."])
def test_no_path_leads_out_of_a_server(tmp_path: Path, path: str) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "x").write_bytes(b"secret")
    (tmp_path / "root" / "out").symlink_to(tmp_path)
    with Tree(tmp_path / "root") as tree, apc.open_apc_threads() as threads:
        manager = FileRepServer(tree, [Worker(threads, "worker")], writable=True)
        with testing.in_process(FileRep, manager) as client:
            attempts: list[Callable[[], object]] = [
                lambda: client.stat(path),
                lambda: client.digest(path),
                lambda: client.read(path, apcrt.OutPipe(sink=bytearray())),
                lambda: client.write(path, 0, 0o644, apcrt.InPipe(source=b"x")),
                lambda: client.make_directory(path, 0o755),
            ]
            for attempt in attempts:
                with pytest.raises(apcrt.StatusError) as caught:
                    attempt()
                assert caught.value.status in (apcrt.Status.ERROR_ACCESS_DENIED, apcrt.Status.RPC_S_INVALID_ARG)
        threads.cancel()
    assert (tmp_path / "x").read_bytes() == b"secret"


class Hostile(FileRepServer):
    """Offers names that lead out of the client's tree, and a file that cannot be read."""

    @FileRep.list_tree.manager
    def list_tree(self, call: apcrt.ServerHandle[int], records: apcrt.OutPipe[int]) -> int:
        for path in ("../evil", "/tmp/evil", "link/evil", "gone", "good"):
            records.write(encode_entry(Entry(Kind.FILE, path, 5, 0, 0o644)))
        records.write(encode_entry(Entry(Kind.UNREADABLE, "locked", status=5)))
        records.write_eof()
        return 6


def test_no_name_leads_out_of_a_client(tmp_path: Path) -> None:
    """Refused and counted, unreadable files too; the rest goes on."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "good").write_bytes(b"12345")
    (target / "link").symlink_to(tmp_path)
    with Tree(source) as served, Tree(target) as tree, apc.open_apc_threads() as threads:
        with testing.in_process(FileRep, Hostile(served, [Worker(threads, "worker")])) as client:
            outcome = pull_tree(
                client,
                tree,
                threads=2,
                in_flight=2,
                buffer=4096,
                patience=20.0,
                verify=True,
                watch=lambda _, running: [apc.wait_for_single_object_ex(one, 20) for one in running].clear(),
            )
        threads.cancel()
    assert files(target) == {"good": b"12345"}
    assert not (tmp_path / "evil").exists()
    problems = {problem.path: problem.status for problem in outcome.problems}
    assert problems == {"../evil": 5, "/tmp/evil": 5, "link/evil": 5, "gone": 2, "locked": 5}


def test_a_file_beyond_4_gib(tmp_path: Path) -> None:
    """Through the delta, where nearly all blocks are equal: offsets of more than 32 bits, and the copy stays sparse."""
    size = (4 << 30) + 12345
    for name in ("old", "new"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    with (tmp_path / "new").open("r+b") as file:
        file.seek((4 << 30) + 100)
        file.write(b"changed")
    block = delta.LARGEST_BLOCK
    with Tree(tmp_path) as tree, tree.open_file("old") as old, tree.open_file("new") as new:
        fingerprint = b"\0" * delta.FINGERPRINT
        prints = fingerprint * (size // block) + fingerprint
        new.seek(4 << 30)
        sent = sum(len(piece) for piece in delta.changes(new, block, prints, len))
        assert sent == 12345 + 5  # its fingerprint differs: the block is sent, after a head of 5 bytes
        replica = Replica(tree, "copy")
        replica.size = 4 << 30
        patch = delta.Patch(old, replica)
        for _ in patch.apply(memoryview(b"\x02\x07\0\0\0changed")):
            pass
        patch.finish()
        assert patch.new_bytes == 7
        replica.commit(0, 0o600)
    assert (tmp_path / "copy").stat().st_size == (4 << 30) + 7
    assert (tmp_path / "copy").stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("pieces", [1, 7, 100_000])
def test_delta_round_trip(tmp_path: Path, pieces: int) -> None:
    old = os.urandom(500_000)
    new = old[:131072] + b"inserted" + old[131080:300_000] + os.urandom(50_000)
    (tmp_path / "old").write_bytes(old)
    (tmp_path / "new").write_bytes(new)
    with Tree(tmp_path) as tree, tree.open_file("old") as before, tree.open_file("new") as after:
        block = delta.block_size(len(new))
        prints = b"".join(delta.fingerprints(before, block))
        stream = b"".join(delta.changes(after, block, prints, len))
        assert len(stream) < len(new)
        replica = Replica(tree, "copy")
        patch = delta.Patch(before, replica)
        for first in range(0, len(stream), pieces):
            for _ in patch.apply(memoryview(stream)[first : first + pieces]):
                pass
        patch.finish()
        replica.commit(5, 0o640)
    assert (tmp_path / "copy").read_bytes() == new


def test_records_in_any_pieces() -> None:
    entries = [Entry(Kind.FILE, f"ü{i}/\udcff", i << 33, -i, 0o644) for i in range(5)]
    stream = b"".join(map(encode_entry, entries))
    for size in (1, 3, 17, len(stream)):
        reader = EntryReader()
        found = [one for first in range(0, len(stream), size) for one in reader.feed(stream[first : first + size])]
        reader.finish()
        assert found == entries
    with pytest.raises(apcrt.RpcError):
        EntryReader().feed(b"\xff" * 100)


def until(condition: object) -> None:
    """Wait for something that another process does."""
    assert callable(condition)
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()
