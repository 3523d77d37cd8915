"""Configuration from three sources, and the command."""

from __future__ import annotations

import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import apcrt
from apcrt.cli import main
from apcrt.config import ConfigError, load
from tests.rpc.sample import Plain, Sample

FILE = """
[bindings]
files = "ncacn_unix_stream:[/run/files]"
[bindings.backup]
string = "ncacn_ip_tcp:backup[4747]"
send_window = "4 MiB"
call_timeout = 30.0
[runtime]
drain_limit = 1.5
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "apcrt.toml"
    path.write_text(FILE)
    return path


def test_later_sources_win(file: Path) -> None:
    config = load(file, environ={})
    assert config.binding("files").string == "ncacn_unix_stream:[/run/files]"
    assert config.binding("backup").send_window == 4 << 20
    assert config.runtime.drain_limit == 1.5
    config = load(file, environ={"APCRT_BINDINGS__FILES": "ncacn_ip_tcp:[1]"})
    assert config.binding("files").string == "ncacn_ip_tcp:[1]"
    assert config.binding("ncacn_ip_tcp:[9]").string == "ncacn_ip_tcp:[9]"


@pytest.mark.parametrize(
    ("text", "nearest"),
    [("[runtime]\ndrain_limits = 1", "drain_limit"), ("[bindingz]", "bindings"), ("[trace]\nlevle = 'off'", "level")],
)
def test_unknown_keys_are_refused_with_the_nearest(tmp_path: Path, text: str, nearest: str) -> None:
    path = tmp_path / "apcrt.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=nearest) as caught:
        load(path, environ={})
    assert caught.value.status == apcrt.Status.RPC_S_INVALID_ARG


@pytest.mark.feature("BIND-04")
def test_settings_of_a_binding_as_arguments() -> None:
    with apcrt.Runtime() as runtime:
        binding = runtime.binding("ncacn_ip_tcp:[9]", send_window="4 MiB", call_timeout=2)
        assert (binding.send_window, binding.call_timeout) == (4 << 20, 2.0)
        binding = runtime.binding("ncacn_ip_tcp:[9]", send_window=None, call_timeout=None)
        assert (binding.send_window, binding.call_timeout) == (None, None)
        binding = runtime.binding("ncacn_ip_tcp:[9]")
        assert (binding.send_window, binding.call_timeout) == (1 << 20, None)


@pytest.mark.feature("BIND-04", "ERR-01")
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("send_window", "rubbish"),
        ("send_window", "4 parsecs"),
        ("send_window", -1),
        ("send_window", 0),
        ("send_window", 1.5),
        ("send_window", True),
        ("call_timeout", -1),
        ("call_timeout", float("inf")),
        ("call_timeout", "soon"),
    ],
)
def test_wrong_settings_of_a_binding_are_87(setting: str, value: object) -> None:
    with apcrt.Runtime() as runtime:
        with pytest.raises(ConfigError, match=setting) as caught:
            runtime.binding("ncacn_ip_tcp:[9]", **{setting: value})  # type: ignore[arg-type]
        assert caught.value.status == 87


@pytest.mark.feature("BIND-01", "ERR-01")
@pytest.mark.parametrize("name", [None, 5, b"ncacn_ip_tcp:[9]"])
def test_a_binding_is_named_by_a_string(name: object) -> None:
    with apcrt.Runtime() as runtime:
        with pytest.raises(apcrt.RpcUsageError, match=type(name).__name__) as caught:
            runtime.binding(name)  # type: ignore[arg-type]
        assert caught.value.status == 87


def test_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "1818"]) == 0
    assert "RPC_S_CALL_CANCELLED" in capsys.readouterr().out
    assert main(["status", "0x1c010003"]) == 0
    assert "NCA_S_UNK_IF" in capsys.readouterr().out.upper()


@pytest.mark.parametrize("wanted", ["99999999999", "-99999999999", "0x100000000", "NO_SUCH_STATUS"])
def test_a_status_that_is_none(wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", *(["--"] if wanted.startswith("-") else []), wanted]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert wanted in captured.err
    assert len(captured.err.splitlines()) == 1


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"apcrt {version('apcrt')}\n"


def test_config_show_and_check(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--config", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "ncacn_unix_stream:[/run/files]" in shown
    assert str(file) in shown
    assert main(["config", "check", "--config", str(file)]) == 0


def test_ping(capsys: pytest.CaptureFixture[str]) -> None:
    with apcrt.Runtime() as runtime, runtime.server() as server:
        server.register(Sample, Plain())
        (bound,) = server.start("ncacn_ip_tcp:[0]")
        assert main(["ping", bound, "--count", "2", "--interval", "0"]) == 0
    assert "ms" in capsys.readouterr().out


def test_ping_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ping", "ncacn_ip_tcp:127.0.0.1[1]", "--count", "1"]) == 1
    captured = capsys.readouterr()
    assert "RPC_S_SERVER_UNAVAILABLE (1722)" in captured.err
    assert len(captured.err.splitlines()) == 1


@pytest.mark.feature("ERR-01")
def test_ping_a_server_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        binding = f"ncacn_ip_tcp:127.0.0.1[{mute.getsockname()[1]}]"
        assert main(["ping", binding, "--count", "3", "--timeout", "0.05"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "RPC_S_CALL_CANCELLED (1818)" in captured.err
    assert len(captured.err.splitlines()) == 1


def test_as_a_module() -> None:
    command = [sys.executable, "-m", "apcrt", "status", "RPC_X_PIPE_CLOSED"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert "1916" in done.stdout
