"""The `apcrt` command: what a number means, what the configuration says, whether a server is there, what a trace shows.

Each command is a function from its parsed arguments to an exit status; what it needs beyond the standard library is
imported when it runs, so that `apcrt status` starts no runtime. Results go to standard output, complaints as one line
to standard error. Exit status: 0, or 1 for a failure, or 2 for wrong usage (argparse's own).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from apcrt.status import FaultStatus, Status, StatusError, describe, meaning, win32_from_fault

if TYPE_CHECKING:
    from apcrt._trace_tools import Record
    from apcrt.config import Config

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (default: those of the process) and return its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except StatusError as error:
        return _complain(str(error))
    except BrokenPipeError:
        # The reader of our output has gone, as with `| head`. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return _complain(f"{name}{error.strerror or error}")
    except KeyboardInterrupt:
        return 130


def _complain(text: str) -> int:
    sys.stderr.write(f"apcrt: {text}\n")
    return 1


# ------------------------------------------------------------------------------------------------------------- options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="apcrt", description="Asynchronous procedure calls and DCE/RPC pipes: tools for the shell."
    )
    parser.add_argument("--version", action="version", version=f"apcrt {version('apcrt')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    status = commands.add_parser(
        "status",
        help="what a status number or name means",
        description="Name, number and meaning of a Win32 or RPC status, or of a fault code. "
        "Numbers are decimal or hexadecimal (0x1C010002); names may be given in part.",
    )
    status.add_argument("status", metavar="NUMBER|NAME")
    status.set_defaults(run=_status)

    config = commands.add_parser(
        "config",
        help="what the configuration says, and where each value comes from",
        description="Settings come from a TOML file, then APCRT_... environment variables (levels parted by two "
        "underscores: APCRT_TRACE__LEVEL=debug), then arguments in the program, each going before the one before.",
    )
    config_commands = config.add_subparsers(title="commands", metavar="COMMAND", required=True)
    show = config_commands.add_parser("show", help="every setting, its value, its source, and what it replaced")
    show.set_defaults(run=_config_show)
    check = config_commands.add_parser("check", help="complain about what is wrong with it, or say that it is fine")
    check.set_defaults(run=_config_check)

    ping = commands.add_parser(
        "ping",
        help="whether a server answers, and how fast",
        description="Connect and bind to a server, as often as told, and report how long it took.",
    )
    ping.add_argument("binding", metavar="BINDING", help="a name from the configuration, or ncacn_ip_tcp:host[4747]")
    ping.add_argument("--count", type=_whole, default=4, metavar="N", help="how often (default 4)")
    ping.add_argument("--interval", type=_seconds, default=1.0, metavar="S", help="seconds in between (default 1)")
    ping.add_argument("--timeout", type=_seconds, default=5.0, metavar="S", help="seconds for an answer (default 5)")
    ping.set_defaults(run=_ping)

    for command in (show, check, ping):
        command.add_argument("--config", metavar="FILE", help="the TOML file (default: the one in APCRT_CONFIG)")

    trace = commands.add_parser(
        "trace",
        help="read a recorded trace",
        description='Read a trace that apcrt.trace.configure(renderer="json", file=...) wrote.',
    )
    trace_commands = trace.add_subparsers(title="commands", metavar="COMMAND", required=True)
    show_trace = trace_commands.add_parser("show", help="the events as lines of text, all or some")
    show_trace.add_argument(
        "--call", metavar="N", help="only events of this call: its name, such as read#12, or its number"
    )
    show_trace.add_argument("--thread", metavar="T", help="only events about or from this thread")
    show_trace.add_argument("--event", metavar="GLOB", help="only events whose name matches, such as 'pipe.*'")
    show_trace.set_defaults(run=_trace_show)
    export = trace_commands.add_parser(
        "export", help="a timeline for chrome://tracing or Perfetto: one track per thread, arrows from queue to routine"
    )
    export.add_argument("-o", "--output", metavar="OUT", help="the file to write (default: standard output)")
    export.set_defaults(run=_trace_export)
    for command in (show_trace, export):
        command.add_argument("file", metavar="FILE", help="the trace, one JSON object per line; - is standard input")
    return parser


def _whole(value: str) -> int:
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _seconds(value: str) -> float:
    number = float(value)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError("not a duration in seconds")
    return number


# -------------------------------------------------------------------------------------------------------------- status


def _status(options: argparse.Namespace) -> int:
    wanted: str = options.status
    numbers = _numbers(wanted)
    if not numbers:
        return _complain(f"no status is called {wanted!r}; names may be given in part, numbers have 32 bits")
    for number in numbers:
        names = [
            name
            for kind in (Status, FaultStatus)
            for name, member in kind.__members__.items()
            if member == number and not describe(number).startswith(f"{name} (")
        ]
        print(describe(number) + (f" = {', '.join(names)}" if names else ""))
        print(f"  {meaning(number)}")
        if number in FaultStatus.__members__.values():
            print(f"  a client reports it as {describe(win32_from_fault(number))}")
        else:
            print(f"  0x{number:X}")
    return 0


def _numbers(wanted: str) -> list[int]:
    """The number itself, or those of the status with this name, or of all whose name contains it."""
    try:
        number = int(wanted, 0)
    except ValueError:
        pass
    else:
        # Signed, as a shell shows an HRESULT; the published numbers are unsigned.
        return [number & 0xFFFFFFFF] if -(1 << 31) <= number < 1 << 32 else []
    name = wanted.upper()
    known: dict[str, int] = {**Status.__members__, **FaultStatus.__members__}
    if name in known:
        return [int(known[name])]
    return sorted({int(member) for spelled, member in known.items() if name in spelled}) if name else []


# ------------------------------------------------------------------------------------------------------- configuration


def _load(options: argparse.Namespace) -> Config:
    from apcrt import config

    return config.load(options.config)


def _config_show(options: argparse.Namespace) -> int:
    settings = _load(options).settings
    width = max(len(setting.path) for setting in settings)
    for setting in settings:
        print(f"{setting.path:{width}} = {_shown(setting.value)}  ({setting.origin})")
        for value, origin in reversed(setting.replaced):
            print(f"{'':{width}}   instead of {_shown(value)}  ({origin})")
    return 0


def _shown(value: object) -> str:
    return "none" if value is None else json.dumps(value, default=str, ensure_ascii=False)


def _config_check(options: argparse.Namespace) -> int:
    from apcrt.rpc.string_binding import StringBinding
    from apcrt.transport import Registry

    config = _load(options)
    registry = Registry(config.transports.options, config.transports.chosen)
    wrong = 0
    for name, binding in config.bindings.items():
        try:
            registry.find(StringBinding.parse(binding.string).protocol_sequence)
        except StatusError as error:
            wrong += _complain(f"{config.origin(f'bindings.{name}.string')}: bindings.{name}: {error}")
    if wrong:
        return 1
    print(f"the configuration is fine: {len(config.bindings)} binding{'' if len(config.bindings) == 1 else 's'}")
    return 0


# ---------------------------------------------------------------------------------------------------------------- ping


def _ping(options: argparse.Namespace) -> int:
    from apcrt.rpc.ping import ping_binding

    times: list[float] = []
    try:
        for result in ping_binding(_load(options), options.binding, options.count, options.interval, options.timeout):
            times.append(result.seconds * 1e3)
            print(f"{options.binding}: {result.outcome}, seq={result.sequence} time={times[-1]:.3f} ms", flush=True)
    finally:
        if times:
            middle = statistics.median(times)
            print(f"{len(times)} answered, min/median/max {min(times):.3f}/{middle:.3f}/{max(times):.3f} ms")
    return 0


# --------------------------------------------------------------------------------------------------------------- trace


@contextlib.contextmanager
def _input(name: str) -> Generator[TextIO]:
    if name == "-":
        yield sys.stdin
    else:
        with Path(name).open(encoding="utf-8", errors="replace") as file:
            yield file


def _records(lines: TextIO, skipped: list[int]) -> Iterator[Record]:
    from apcrt._trace_tools import parse

    for record in parse(lines):
        if record is None:
            skipped[0] += 1
        else:
            yield record


def _report_skipped(skipped: list[int]) -> None:
    if skipped[0]:
        plural = "line is no trace event" if skipped[0] == 1 else "lines are no trace events"
        sys.stderr.write(f"apcrt: {skipped[0]} {plural}; left out\n")


def _trace_show(options: argparse.Namespace) -> int:
    from apcrt._trace_tools import render, select

    skipped = [0]
    with _input(options.file) as lines:
        for record in select(_records(lines, skipped), call=options.call, thread=options.thread, event=options.event):
            print(render(record))
    _report_skipped(skipped)
    return 0


def _trace_export(options: argparse.Namespace) -> int:
    from apcrt._trace_tools import timeline

    skipped = [0]
    with _input(options.file) as lines:
        document = timeline(_records(lines, skipped))
    if options.output is None:
        json.dump(document, sys.stdout)
        print()
    else:
        Path(options.output).write_text(json.dumps(document), encoding="utf-8")
    _report_skipped(skipped)
    return 0
