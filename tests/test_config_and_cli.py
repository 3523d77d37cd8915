"""Configuration from three sources, and the command."""

from __future__ import annotations

import subprocess
import sys
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


def test_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "1818"]) == 0
    assert "RPC_S_CALL_CANCELLED" in capsys.readouterr().out
    assert main(["status", "0x1c010003"]) == 0
    assert "NCA_S_UNK_IF" in capsys.readouterr().out.upper()


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


def test_as_a_module() -> None:
    command = [sys.executable, "-m", "apcrt", "status", "RPC_X_PIPE_CLOSED"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert "1916" in done.stdout
