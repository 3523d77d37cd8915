"""The registry: built-in transports, those of third parties found by entry point, and what is said when one is missing.

Third parties here are a module and a `.dist-info` directory in the test's own directory, as pip would install them.
"""

from __future__ import annotations

import importlib
import sys
import textwrap
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from apcrt import transport
from apcrt.status import RpcUsageError
from apcrt.transport import BUILT_IN, Registry, Transport
from apcrt_transports.socket import SocketTransport

pytestmark = pytest.mark.feature("BIND-02")

Install = Callable[..., None]

MODULE = """
    from apcrt.transport import Transport

    class {name}(Transport):
        name = "{name}"
        protocol_sequences = {sequences}
        made = 0

        def __init__(self, options):
            type(self).made += 1
            self.options = options

        async def connect(self, address):
            raise NotImplementedError

        async def listen(self, address):
            raise NotImplementedError
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a third party's module; keyword arguments are its entry points."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def put(module: str, source: str, /, **points: str) -> None:
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", encoding="utf-8")
        lines = [f"{name} = {target}" for name, target in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[apcrt.transports]", *lines]), encoding="utf-8")
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, module, raising=False)  # and again when the test is over

    return put


def third_party(name: str, *sequences: str) -> str:
    return MODULE.format(name=name, sequences=sequences)


def refused(registry: Registry, protocol_sequence: str) -> RpcUsageError:
    with pytest.raises(RpcUsageError) as caught:
        registry.find(protocol_sequence)
    assert caught.value.status == 1703
    return caught.value


# ------------------------------------------------------------------------------------------------------------ built in


def test_the_table_says_what_the_package_registers() -> None:
    project = Path(__file__).resolve().parent.parent.parent / "pyproject.toml"
    points = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["entry-points"]["apcrt.transports"]
    assert points == dict(BUILT_IN)
    assert Registry.names()[: len(BUILT_IN)] == list(BUILT_IN)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_transport_is_found_by_its_sequences(name: str) -> None:
    registry = Registry()
    made = registry.transport(name)
    assert made.name == name
    for sequence in made.protocol_sequences:
        assert registry.find(sequence) is made
    assert Registry().transport(name) is not made


def test_built_in_transports_need_no_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "site-packages" not in entry])
    assert isinstance(Registry().find("ncacn_ip_tcp"), SocketTransport)


def test_options_reach_the_transport_and_only_its_own() -> None:
    registry = Registry({"socket": {"backlog": 7}, "other": {"nonsense": 1}})
    assert registry.find("ncacn_ip_tcp") is registry.find("ncacn_unix_stream")
    with pytest.raises(RpcUsageError, match="nonsense") as caught:
        Registry({"socket": {"nonsense": 1}}).find("ncacn_ip_tcp")
    assert caught.value.status == 87


@pytest.mark.parametrize("sequence", ["ncacn_vns_spp", "", "NCACN_IP_TCP", "socket"])
def test_a_sequence_that_nobody_serves(sequence: str) -> None:
    error = refused(Registry(), sequence)
    assert repr(sequence) in str(error)
    for supported in ("ncacn_ip_tcp", "ncacn_unix_stream"):
        assert supported in str(error)


def test_a_name_that_nobody_has() -> None:
    with pytest.raises(RpcUsageError, match=r"'sokcet'.*there are socket") as caught:
        Registry().transport("sokcet")
    assert caught.value.status == 1703
    assert "sokcet" in str(refused(Registry(chosen={"ncacn_ip_tcp": "sokcet"}), "ncacn_ip_tcp"))


# ------------------------------------------------------------------------------------------------------- third parties


def test_a_third_party_is_found_by_its_entry_point(install: Install) -> None:
    install("carrier", third_party("Pigeon", "ncacn_avian"), pigeon="carrier:Pigeon")
    assert "pigeon" in Registry.names()
    registry = Registry({"pigeon": {"loft": "roof"}})
    found = registry.find("ncacn_avian")
    assert found is registry.transport("pigeon")
    assert type(found).__module__ == "carrier"
    assert vars(found) == {"options": {"loft": "roof"}}
    assert vars(type(found))["made"] == 1
    assert "ncacn_avian" in str(refused(registry, "ncacn_none"))


def test_a_third_party_is_not_imported_before_it_is_needed(install: Install) -> None:
    install("carrier", third_party("Pigeon", "ncacn_avian"), pigeon="carrier:Pigeon")
    Registry().find("ncacn_ip_tcp")
    Registry.names()
    assert "carrier" not in sys.modules


def test_a_built_in_sequence_is_taken_over_only_by_choice(install: Install) -> None:
    install("carrier", third_party("Pigeon", "ncacn_ip_tcp", "ncacn_avian"), a_pigeon="carrier:Pigeon")
    assert isinstance(Registry().find("ncacn_ip_tcp"), SocketTransport)
    chosen = Registry(chosen={"ncacn_ip_tcp": "a_pigeon"})
    assert type(chosen.find("ncacn_ip_tcp")).__name__ == "Pigeon"
    assert isinstance(chosen.find("ncacn_unix_stream"), SocketTransport)


def test_a_built_in_name_is_not_taken_over(install: Install) -> None:
    install("carrier", third_party("Pigeon", "ncacn_avian"), socket="carrier:Pigeon")
    assert Registry.names().count("socket") == 1
    assert isinstance(Registry().transport("socket"), SocketTransport)
    refused(Registry(), "ncacn_avian")


def test_of_two_third_parties_the_first_by_name_serves(install: Install) -> None:
    install("carriers", third_party("Crow", "ncacn_avian") + third_party("Dove", "ncacn_avian"), dove="carriers:Dove",
            crow="carriers:Crow")  # fmt: skip
    assert type(Registry().find("ncacn_avian")).__name__ == "Crow"
    assert type(Registry(chosen={"ncacn_avian": "dove"}).find("ncacn_avian")).__name__ == "Dove"


def test_a_choice_that_does_not_serve_the_sequence(install: Install) -> None:
    install("carrier", third_party("Pigeon", "ncacn_avian"), pigeon="carrier:Pigeon")
    error = refused(Registry(chosen={"ncacn_ip_tcp": "pigeon"}), "ncacn_ip_tcp")
    assert "pigeon" in str(error)
    assert "chosen by the configuration" in str(error)


# ------------------------------------------------------------------------------------------------- broken third parties

BROKEN = {
    "an import that fails": ("import no_such_module_at_all", "broken:Thing", "no_such_module_at_all"),
    "a module that raises": ("raise RuntimeError('out of feathers')", "broken:Thing", "out of feathers"),
    "a module that is not there": ("", "broken_elsewhere:Thing", "broken_elsewhere"),
    "a name that is not there": ("", "broken:Thing", "Thing"),
    "something else": ("Thing = 3", "broken:Thing", "not a subclass"),
    "a class of another kind": ("class Thing: protocol_sequences = ('ncacn_x',)", "broken:Thing", "not a subclass"),
    "no sequences": (
        "from apcrt.transport import Transport\nclass Thing(Transport): pass",
        "broken:Thing",
        "protocol_sequences",
    ),
}


@pytest.mark.parametrize(("source", "target", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_third_party_is_named_and_harms_nobody_else(
    install: Install, source: str, target: str, words: str
) -> None:
    install("broken", source, a_broken=target)
    install("carrier", third_party("Pigeon", "ncacn_avian"), pigeon="carrier:Pigeon")
    assert isinstance(Registry().find("ncacn_ip_tcp"), SocketTransport)
    assert type(Registry().find("ncacn_avian")).__name__ == "Pigeon"

    for error in (
        refused(Registry(), "ncacn_none"),  # it might have been the one that serves this
        refused(Registry(chosen={"ncacn_ip_tcp": "a_broken"}), "ncacn_ip_tcp"),
    ):
        assert "'a_broken'" in str(error)
        assert target in str(error)
        assert words in str(error)
        assert error.__cause__ is not None or words in ("not a subclass", "protocol_sequences")
    assert "ncacn_avian" in str(refused(Registry(), "ncacn_none"))


def test_an_interrupt_while_loading_is_not_mistaken_for_a_broken_third_party(install: Install) -> None:
    install("broken", "raise KeyboardInterrupt", broken="broken:Thing")
    with pytest.raises(KeyboardInterrupt):
        Registry().find("ncacn_none")


def test_what_a_third_party_says_about_its_options_passes(install: Install) -> None:
    source = textwrap.dedent(third_party("Pigeon", "ncacn_avian")).replace("self.options = options", "options['loft']")
    install("carrier", source, pigeon="carrier:Pigeon")
    registry = Registry()
    with pytest.raises(KeyError):
        registry.find("ncacn_avian")
    assert isinstance(registry.find("ncacn_ip_tcp"), Transport)


def test_one_instance_stays_when_two_were_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    made: list[Transport] = []

    def load(name: str) -> Callable[[object], Transport]:
        def make(options: object) -> Transport:
            if not made:
                made.append(SocketTransport({}))
                made.append(registry.transport(name))  # another thread is as far meanwhile
                return made[0]
            return SocketTransport({})

        return make

    monkeypatch.setattr(transport, "_load", load)
    first = registry.transport("socket")
    assert first is made[1]
    assert registry.transport("socket") is first
