"""The command line: the whole demonstration, or one side of it.

What lives here: options, processes, signals and exit codes. What must not: replication.

What to watch for: the second run. It sends only what has changed, and compares the SHA-256 of everything else.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import apcrt
from apcrt import apc
from examples.filerep import progress
from examples.filerep.client import Settings, pull_tree, push_tree
from examples.filerep.interface import FileRep
from examples.filerep.paths import Tree
from examples.filerep.server import FileRepServer, Worker

__all__ = ["main"]

DEFAULT_BINDING = "ncacn_ip_tcp:127.0.0.1[0]"
WORKERS = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit code.

    0 all is well, 1 it is not, 2 wrong arguments, 3 something was left out, 130 interrupted.
    """
    options = _parser().parse_args(arguments)
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, _interrupt)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        return _interrupted()
    except BaseExceptionGroup as group:
        if group.split(KeyboardInterrupt)[0] is not None:
            return _interrupted()
        raise
    except apcrt.StatusError as error:
        print(f"filerep: {progress.printable(str(error))}", file=sys.stderr)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(f"filerep: {progress.printable(f'{error.strerror}{where}')}", file=sys.stderr)
    return 1


def _interrupted() -> int:
    print("filerep: interrupted", file=sys.stderr)
    return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.filerep",
        description="Replicate a directory through asynchronous RPC pipes. Without a command: start a server process "
        "for SOURCE, replicate it to TARGET, and show what happened.",
        epilog="Run it twice: the second run sends only what has changed. Ctrl-C on either side ends it cleanly. "
        "Exit code: 0 all is well, 1 it is not, 2 wrong arguments, 3 something was left out, 130 interrupted.",
    )
    _common(parser)
    parser.add_argument(
        "--source",
        type=Path,
        metavar="DIR",
        default=Path(sysconfig.get_paths()["stdlib"]),
        help="directory to replicate (default: the standard library of this Python)",
    )
    parser.add_argument(
        "--target",
        type=Path,
        metavar="DIR",
        default=Path("build/filerep"),
        help="where the replica goes (default: build/filerep)",
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=["site-packages"],
        metavar="NAME",
        help="leave out what has this name, beside site-packages and __pycache__",
    )
    _transfer(parser)
    parser.set_defaults(run=_demo)
    commands = parser.add_subparsers(title="commands", metavar="{serve,pull,push}")

    serve = commands.add_parser("serve", help="serve a directory until Ctrl-C; the first line is the bound binding")
    _common(serve)
    serve.add_argument("root", type=Path, help="the directory")
    serve.add_argument("--writable", action="store_true", help="let clients write into it")
    serve.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="NAME",
        help="leave out what has this name, beside __pycache__",
    )
    serve.set_defaults(run=_serve)

    pull = commands.add_parser("pull", help="replicate from a server that runs")
    _common(pull, default=None)
    pull.add_argument("target", type=Path, help="where the replica goes")
    _transfer(pull)
    pull.set_defaults(run=_pull)

    push = commands.add_parser("push", help="replicate to a server that runs and may be written to")
    _common(push, default=None)
    push.add_argument("source", type=Path, help="the directory")
    _transfer(push)
    push.set_defaults(run=_push)
    return parser


def _common(parser: argparse.ArgumentParser, default: str | None = DEFAULT_BINDING) -> None:
    parser.add_argument(
        "--binding",
        default=default,
        required=default is None,
        help="DCE string binding, or a name from the configuration"
        + (f" (default: {default})" if default else ", such as ncacn_ip_tcp:127.0.0.1[4747]"),
    )
    parser.add_argument("--config", type=Path, help="TOML file with apcrt's settings")


def _transfer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=_number(1, 64), default=4, metavar="N", help="issuing threads, 1 to 64 (default: 4)"
    )
    parser.add_argument(
        "--in-flight", type=_number(1, 64), default=4, metavar="N", help="calls of each at a time (default: 4)"
    )
    parser.add_argument(
        "--buffer", type=_number(1, 65536), default=256, metavar="KIB", help="KiB moved at a time (default: 256)"
    )
    parser.add_argument(
        "--timeout",
        type=_number(1, 1_000_000),
        default=30,
        metavar="S",
        help="seconds of silence from the server that are borne (default: 30)",
    )
    parser.add_argument(
        "--no-verify", action="store_true", help="trust size and time of files that look the same on both sides"
    )


def _number(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"it is from {least} to {most}")
        return value

    return number


def _demo(options: argparse.Namespace) -> int:
    source, target = options.source.resolve(), options.target.resolve()
    if target.is_relative_to(source):
        print(f"filerep: {target} lies inside of {source}: each run would replicate the last one", file=sys.stderr)
        return 2
    with _server_process(options) as binding:
        print(f"replicating {options.source} to {options.target} through {binding}", flush=True)
        return _replicate(options, binding)


def _pull(options: argparse.Namespace) -> int:
    return _replicate(options, options.binding)


def _replicate(options: argparse.Namespace, binding: str) -> int:
    options.target.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with apcrt.Runtime(options.config) as runtime, Tree(options.target) as tree:
        outcome = pull_tree(_client(runtime, binding, options), tree, **_settings(options))
    return progress.summarise(outcome, time.monotonic() - began)


def _push(options: argparse.Namespace) -> int:
    began = time.monotonic()
    with apcrt.Runtime(options.config) as runtime, Tree(options.source) as tree:
        outcome = push_tree(_client(runtime, options.binding, options), tree, **_settings(options))
    return progress.summarise(outcome, time.monotonic() - began)


def _client(runtime: apcrt.Runtime, binding: str, options: argparse.Namespace) -> FileRep:
    return FileRep(runtime.binding(binding, call_timeout=float(options.timeout)))


def _settings(options: argparse.Namespace) -> Settings:
    return {
        "threads": options.threads,
        "in_flight": options.in_flight,
        "buffer": options.buffer * 1024,
        "patience": float(options.timeout),
        "verify": not options.no_verify,
        "watch": progress.watch,
    }


def _serve(options: argparse.Namespace) -> int:
    with Tree(options.root) as tree, apcrt.Runtime(options.config) as runtime:
        endpoint = runtime.config.binding(options.binding).string
        with contextlib.suppress(KeyboardInterrupt), apc.open_apc_threads() as threads:
            workers = [Worker(threads, f"filerep-worker-{number}") for number in range(1, WORKERS + 1)]
            if options.writable:
                tree.sweep()
            manager = FileRepServer(
                tree, workers, writable=options.writable, exclude=frozenset([*options.exclude, "__pycache__"])
            )
            try:
                with runtime.server() as server:
                    server.register(FileRep, manager)
                    print(server.start(endpoint)[0], flush=True)
                    server.wait()
            finally:
                threads.cancel()
    return 0


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _server_process(options: argparse.Namespace) -> Iterator[str]:
    """A server process for the source; ended with the block."""
    command = [sys.executable, "-m", "examples.filerep", "serve", str(options.source), "--binding", options.binding]
    for name in options.exclude:
        command += ["--exclude", name]
    if options.config is not None:
        command += ["--config", str(options.config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0) as server:
        try:
            binding = server.stdout.readline().strip() if server.stdout is not None else ""
            if not binding:
                raise apcrt.RpcUnavailable(
                    apcrt.Status.RPC_S_SERVER_UNAVAILABLE, "the server process did not start, and says why above"
                )
            yield binding
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server.pid, signal.SIGTERM)
            try:
                server.wait(5)
            except subprocess.TimeoutExpired:
                server.kill()
