"""Configuration: which transports and bindings a program uses, chosen from outside of it.

Here live the settings as frozen dataclasses, and `load`, which fills them from three sources in rising order:

1. a TOML file: the argument of `load`, else the one that `APCRT_CONFIG` names, else none;
2. the environment: `APCRT_` and the path of the setting, levels parted by two underscores, such as
   `APCRT_TRACE__LEVEL=debug`, `APCRT_BINDINGS__FILES=ncalrpc:[files]`, `APCRT_BINDINGS__FILES__SEND_WINDOW="4 MiB"`;
3. keyword arguments of `load`: `load(path, trace={"level": "debug"})`, or `load(path, trace__level="debug")`.

What must not be here: transports and calls. String bindings stay strings, options of a transport stay a mapping; those
who use them check them.

How it works. Each source is flattened to a mapping from the path of a setting to its value, checked and converted on
the way, so that every complaint can say which source is at fault. An unknown name is refused with the nearest valid
one: a misspelt limit would otherwise be no limit. `Config.settings` remembers for every setting where its value came
from and what it replaced.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar, cast

from apcrt._config_values import choice, count, flag, optional, seconds, size, text, untyped
from apcrt.status import RpcUsageError, Status
from apcrt.trace import LEVELS

__all__ = [
    "ApcConfig",
    "BindingConfig",
    "Config",
    "ConfigError",
    "RuntimeConfig",
    "ServerConfig",
    "Setting",
    "TraceConfig",
    "TransportsConfig",
    "binding_setting",
    "load",
]


class ConfigError(RpcUsageError):
    """A setting is unknown or its value is wrong (87), or a binding's name is not configured (1700)."""

    def __init__(self, status: int = Status.ERROR_INVALID_PARAMETER, detail: str = "") -> None:
        super().__init__(status, detail)


def _nothing() -> Mapping[str, Mapping[str, object]]:
    return MappingProxyType({})


def _no_names() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclasses.dataclass(frozen=True, slots=True)
class BindingConfig:
    """`[bindings.NAME]`, or `NAME = "string binding"` under `[bindings]`: where a server is and how to use it."""

    string: str
    """A DCE string binding such as `ncacn_ip_tcp:host[4747]`; it chooses the transport."""
    send_window: int | None = 1 << 20
    """Bytes a call may have pushed and not sent. None (`"unbounded"`) buffers without limit, as Windows does."""
    call_timeout: float | None = None
    """Seconds of silence after which a blocking call ends with 1818; None (`"none"`) for any."""
    noncausal: bool = False
    """Whether calls of one thread may be dispatched in another order than they were made."""


@dataclasses.dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """`[runtime]`: the machinery of one `Runtime`."""

    drain_limit: float = 5.0
    """Seconds that calls under way get to end by themselves when the runtime is left."""
    dispatch_threads: int = 8
    """How many plain manager routines of a server run at the same time."""
    keeper_interval: float = 0.002
    """Seconds between two looks of the I/O thread at connections whose thread is busy elsewhere."""


@dataclasses.dataclass(frozen=True, slots=True)
class ServerConfig:
    """`[server]`: the bounds of a server."""

    max_calls: int = 1234
    """Calls at a time; further ones are refused with 1723. The number is Windows' default."""
    max_request: int = 4 << 20
    """Bytes that the parameters of one request may take, its pipes not counted."""
    half_open_time: float = 10.0
    """Seconds a connection may take to bind before it is closed."""


@dataclasses.dataclass(frozen=True, slots=True)
class TraceConfig:
    """`[trace]`: what is reported."""

    level: str = "warning"
    """`off`, `warning`, `info` or `debug`."""


@dataclasses.dataclass(frozen=True, slots=True)
class ApcConfig:
    """`[apc]`: threads and their queues."""

    warn_after: float | None = 10.0
    """Seconds a thread may owe completions without an alertable wait before `thread.overdue`; None for never."""


@dataclasses.dataclass(frozen=True, slots=True)
class TransportsConfig:
    """`[transports.NAME]` and `[protocol_sequences]`: the options of each transport, and which one serves what."""

    options: Mapping[str, Mapping[str, object]] = dataclasses.field(default_factory=_nothing)
    """Per transport, its table as it stands; the transport refuses what it does not know."""
    chosen: Mapping[str, str] = dataclasses.field(default_factory=_no_names)
    """Per protocol sequence, the name of the transport that shall serve it instead of the built-in one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One setting for a reader: its dotted path, its value, the source that won, and the ones it replaced."""

    path: str
    value: object
    origin: str
    replaced: tuple[tuple[object, str], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """All settings. Immutable; make one with `load`, or directly in a program that wants no outside influence."""

    bindings: Mapping[str, BindingConfig] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    transports: TransportsConfig = dataclasses.field(default_factory=TransportsConfig)
    runtime: RuntimeConfig = dataclasses.field(default_factory=RuntimeConfig)
    server: ServerConfig = dataclasses.field(default_factory=ServerConfig)
    trace: TraceConfig = dataclasses.field(default_factory=TraceConfig)
    apc: ApcConfig = dataclasses.field(default_factory=ApcConfig)
    settings: tuple[Setting, ...] = dataclasses.field(default=(), compare=False, repr=False)
    """Every setting that has a value and where it came from, in the order of the file; empty without `load`."""

    def binding(self, name_or_string: str) -> BindingConfig:
        """The binding of that name, or one with default settings for a string binding (recognised by its colon).

        Raises:
            ConfigError: 1700, neither a configured name nor a string binding.
        """
        found = self.bindings.get(name_or_string)
        if found is not None:
            return found
        if ":" in name_or_string:
            return BindingConfig(name_or_string)
        hint = _nearest(name_or_string, self.bindings)
        raise ConfigError(
            Status.RPC_S_INVALID_STRING_BINDING,
            f"no binding is called {name_or_string!r}{hint}; a string binding would read ncacn_ip_tcp:host[4747]",
        )

    def origin(self, path: str) -> str:
        """Where the setting of that dotted path got its value: `default`, or the source by name."""
        return next((setting.origin for setting in self.settings if setting.path == path), "default")


# --------------------------------------------------------------------------------------------------------- the schema

_Parse = Callable[[object, bool], object]

_BINDING: Final[Mapping[str, _Parse]] = {
    "string": text,
    "send_window": optional(size),
    "call_timeout": optional(seconds),
    "noncausal": flag,
}
_SECTIONS: Final[Mapping[str, Mapping[str, _Parse]]] = {
    "runtime": {"drain_limit": seconds, "dispatch_threads": count, "keeper_interval": seconds},
    "server": {"max_calls": count, "max_request": size, "half_open_time": seconds},
    "trace": {"level": choice(*LEVELS)},
    "apc": {"warn_after": optional(seconds)},
}
_NAMED: Final = ("bindings", "protocol_sequences", "transports")

_Path = tuple[str, ...]
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, slots=True)
class _Source:
    """One layer: a tree of tables, and how a complaint names the place of a path in it."""

    tree: Mapping[str, object]
    name: Callable[[_Path], str]
    textual: bool = False  # values are text to be read as numbers, as in the environment


def load(
    path: str | os.PathLike[str] | None = None, *, environ: Mapping[str, str] | None = None, **overrides: object
) -> Config:
    """The settings from file, environment and arguments, in rising order.

    `path` names a TOML file; None takes the one in `APCRT_CONFIG`, if any. `environ` stands in for the process
    environment. `overrides` are sections (`trace={"level": "debug"}`) or single settings (`trace__level="debug"`).

    Raises:
        ConfigError: 87, the file cannot be read or parsed, a name is unknown, a value does not fit.
    """
    environment = os.environ if environ is None else environ
    if path is None:
        path = environment.get("APCRT_CONFIG") or None
    sources: list[_Source] = []
    if path is not None:
        sources.append(_file_source(Path(path)))
    sources.append(_environment_source(environment))
    sources.append(_Source(_nested(overrides.items()), lambda where: f"argument {'.'.join(where)}"))

    chosen: dict[_Path, Setting] = {}
    for source in sources:
        names = {key[1].casefold(): key[1] for key in chosen if key[0] == "bindings"}
        for where, value in _flatten(source, names):
            before = chosen.get(where)
            replaced = () if before is None else (*before.replaced, (before.value, before.origin))
            chosen[where] = Setting(".".join(where), value, source.name(where), replaced)
    return _compose(chosen)


def binding_setting(name: str, value: object) -> Any:
    """A setting of a binding as an argument gives it, checked and converted as in a file: `"4 MiB"` is a number then.

    Raises:
        ConfigError: 87, the value does not fit.
    """
    try:
        return _BINDING[name](value, False)
    except ValueError as error:
        raise ConfigError(detail=f"argument {name} is {value!r}, but {error}") from None


def _file_source(path: Path) -> _Source:
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(detail=f"configuration file {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(detail=f"configuration file {path} is not TOML: {error}") from error
    return _Source(tree, lambda _: f"file {path}")


def _environment_source(environ: Mapping[str, str]) -> _Source:
    found = {
        name: value for name, value in sorted(environ.items()) if name.startswith("APCRT_") and name != "APCRT_CONFIG"
    }
    spelled: dict[_Path, str] = {}
    items: list[tuple[str, object]] = []
    for name, value in found.items():
        key = name.removeprefix("APCRT_").lower()
        spelled[tuple(key.split("__"))] = name
        items.append((key, value))

    def where(path: _Path) -> str:
        # A binding's short form stands for its string; the variable then has one part less than the path.
        lower = tuple(part.lower() for part in path)
        name = spelled.get(lower) or spelled.get(lower[:-1]) or "APCRT_" + "__".join(path).upper()
        return f"environment {name}"

    return _Source(_nested(items), where, textual=True)


def _nested(items: Iterable[tuple[str, object]]) -> dict[str, object]:
    """A tree from names whose levels are parted by two underscores; a table and its parts may both be given."""
    tree: dict[str, object] = {}
    # Shorter names first, so that BINDINGS__FILES is there to be refined by BINDINGS__FILES__SEND_WINDOW.
    for name, value in sorted(items, key=lambda item: item[0].count("__")):
        *parents, last = name.split("__")
        table = tree
        for part in parents:
            below = table.get(part)
            if not isinstance(below, dict):
                below = table[part] = {} if below is None else {"string": below}
            table = cast("dict[str, object]", below)
        table[last] = dict(cast("Mapping[str, object]", value)) if isinstance(value, Mapping) else value
    return tree


def _flatten(source: _Source, known_bindings: Mapping[str, str]) -> Iterator[tuple[_Path, object]]:
    for section, content in source.tree.items():
        parsers = _SECTIONS.get(section)
        if parsers is not None:
            yield from _leaves(source, (section,), _table(source, (section,), content), parsers)
        elif section == "bindings":
            for given, value in _table(source, (section,), content).items():
                # The environment has upper case names only; it means the binding that exists.
                name = known_bindings.get(given.casefold(), given) if source.textual else given
                where = (section, name)
                table = _table(source, where, {"string": value} if isinstance(value, str) else value)
                yield from _leaves(source, where, table, _BINDING)
        elif section == "protocol_sequences":
            for name, value in _table(source, (section,), content).items():
                yield (section, name), _parsed(source, (section, name), value, text)
        elif section == "transports":
            for name, value in _table(source, (section,), content).items():
                options = _table(source, (section, name), value)
                for option, setting in options.items():
                    yield (section, name, option), _parsed(source, (section, name, option), setting, untyped)
        else:
            _refuse(source, (section,), (*_SECTIONS, *_NAMED))


def _leaves(
    source: _Source, where: _Path, table: Mapping[str, object], parsers: Mapping[str, _Parse]
) -> Iterator[tuple[_Path, object]]:
    for key, value in table.items():
        parse = parsers.get(key)
        if parse is None:
            _refuse(source, (*where, key), parsers)
        else:
            yield (*where, key), _parsed(source, (*where, key), value, parse)


def _table(source: _Source, where: _Path, value: object) -> Mapping[str, object]:
    if isinstance(value, Mapping):
        return cast("Mapping[str, object]", value)
    raise ConfigError(detail=f"{source.name(where)}: {'.'.join(where)} is a table of settings, not {value!r}")


def _parsed(source: _Source, where: _Path, value: object, parse: _Parse) -> object:
    try:
        return parse(value, source.textual)
    except ValueError as error:
        raise ConfigError(detail=f"{source.name(where)}: {'.'.join(where)} is {value!r}, but {error}") from None


def _refuse(source: _Source, where: _Path, valid: Iterable[str]) -> None:
    raise ConfigError(
        detail=f"{source.name(where)}: there is no setting {'.'.join(where)}{_nearest(where[-1], valid, where[:-1])}"
    )


def _nearest(name: str, valid: Iterable[str], prefix: _Path = ()) -> str:
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {'.'.join((*prefix, close[0]))}?"
    return f"; there are {', '.join(names)}" if names else ""


# ----------------------------------------------------------------------------------------------------- putting together


def _compose(chosen: Mapping[_Path, Setting]) -> Config:
    def section(*where: str) -> dict[str, object]:
        return {key[-1]: found.value for key, found in chosen.items() if key[:-1] == where}

    bindings: dict[str, BindingConfig] = {}
    for name in dict.fromkeys(key[1] for key in chosen if key[0] == "bindings"):
        values = section("bindings", name)
        if "string" not in values:
            origin = next(found.origin for key, found in chosen.items() if key[:2] == ("bindings", name))
            raise ConfigError(detail=f"{origin}: bindings.{name} has no string: where is the server?")
        bindings[name] = _make(BindingConfig, values)
    options = {
        name: MappingProxyType(section("transports", name))
        for name in dict.fromkeys(key[1] for key in chosen if key[0] == "transports")
    }
    sequences = {name: str(value) for name, value in section("protocol_sequences").items()}
    config = Config(
        bindings=MappingProxyType(bindings),
        transports=TransportsConfig(MappingProxyType(options), MappingProxyType(sequences)),
        runtime=_make(RuntimeConfig, section("runtime")),
        server=_make(ServerConfig, section("server")),
        trace=_make(TraceConfig, section("trace")),
        apc=_make(ApcConfig, section("apc")),
    )
    return dataclasses.replace(config, settings=tuple(_all_settings(config, chosen)))


def _make(kind: type[_T], values: Mapping[str, object]) -> _T:
    # The readers of the schema have given every value the type that its field declares.
    return cast("Callable[..., _T]", kind)(**values)


def _all_settings(config: Config, chosen: Mapping[_Path, Setting]) -> Iterator[Setting]:
    """What was chosen, and the defaults of everything else, section by section."""
    for name, binding in config.bindings.items():
        yield from _with_defaults(("bindings", name), binding, _BINDING, chosen)
    for where, setting in chosen.items():
        if where[0] in {"protocol_sequences", "transports"}:
            yield setting
    sections = {"runtime": config.runtime, "server": config.server, "trace": config.trace, "apc": config.apc}
    for name, values in sections.items():
        yield from _with_defaults((name,), values, _SECTIONS[name], chosen)


def _with_defaults(
    where: _Path, values: object, names: Iterable[str], chosen: Mapping[_Path, Setting]
) -> Iterator[Setting]:
    for name in names:
        path = (*where, name)
        yield chosen.get(path) or Setting(".".join(path), getattr(values, name), "default")
