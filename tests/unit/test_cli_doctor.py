"""`virtuoso doctor`: what it asks of whom, and what it prints. The drivers' own checks: test_diagnosis."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from virtuoso_core import ConnectError
from virtuoso_core.cli import doctor
from virtuoso_core.cli.commands import cli
from virtuoso_core.cli.doctor import check_driver
from virtuoso_core.diagnosis import Check
from virtuoso_core.errors import DriverDisabledError, DriverLoadError
from virtuoso_core.plugins import Plugin, Status
from virtuoso_core.plugins.registry import Registry
from virtuoso_core.testing.memory import MemoryHypervisor
from virtuoso_core.uri import URI


def run(*args: str, code: int = 0, image: Path | None = None) -> dict[str, Any]:
    more = [] if image is None else ["--image", str(image)]
    result = CliRunner().invoke(cli, [*args, "--json", "doctor", *more])
    assert result.exit_code == code, (result.output, result.exception)
    document: dict[str, Any] = json.loads(result.stdout)
    assert document["ok"] is (code == 0)
    assert all(set(check) == {"name", "status", "explanation", "advice"} for check in document["checks"])
    return {check["name"]: check for check in document["checks"]}


@pytest.fixture(autouse=True)
def _drivers_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else is installed beside the core."""
    monkeypatch.setattr(doctor, "check_driver", lambda plugin: Check(plugin.name, "ok", ""))


def test_only_what_matters_for_the_uri_is_looked_at() -> None:
    checks = run("-c", "memory:///doctor")
    assert checks["Connection to memory:///doctor"]["status"] == "ok"
    assert not {"KVM", "Processor", "QEMU"} & set(checks)


def test_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Check("A", "ok", "Fine."), Check("B", "fail", "Bad.", "do this\nthen that")]
    monkeypatch.setattr(doctor, "examine", lambda *_: iter(found))
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 1
    assert result.stdout == "ok    A: Fine.\nfail  B: Bad.\n        do this\n        then that\n"


def test_readonly_cleans_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "clean", lambda *_: pytest.fail("it cleans"))
    result = CliRunner().invoke(cli, ["--readonly", "doctor", "--clean"])
    assert result.exit_code == 2
    assert "leave out --readonly" in result.stderr


def test_warnings_are_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda *_: iter([Check("A", "warn", "Slow."), Check("B", "skip", "")]))
    assert CliRunner().invoke(cli, ["doctor"]).exit_code == 0


def test_a_wrong_uri_is_wrong_usage() -> None:
    assert CliRunner().invoke(cli, ["-c", "nonsense", "doctor"]).exit_code == 2


def test_nothing_to_connect_to(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VIRTUOSO_DEFAULT_URI", "LIBVIRT_DEFAULT_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Registry, "default_uris", lambda self: [])
    assert "pip install" in run(code=1)["Connection"]["advice"]


def test_one_working_default_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    original = MemoryHypervisor.open.__func__  # type: ignore[attr-defined]

    def open_some(cls: Any, uri: URI, /, **options: Any) -> MemoryHypervisor:
        if uri.path == "/bad":
            raise ConnectError("It does not answer.", hint="Start it.")
        found: MemoryHypervisor = original(cls, uri, **options)
        return found

    for name in ("VIRTUOSO_DEFAULT_URI", "LIBVIRT_DEFAULT_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(MemoryHypervisor, "open", classmethod(open_some))
    monkeypatch.setattr(Registry, "default_uris", lambda self: ["memory:///bad", "memory:///good"])
    checks = run()
    assert checks["Connection to memory:///bad"]["status"] == "warn"
    assert checks["Connection to memory:///good"]["status"] == "ok"
    monkeypatch.setattr(Registry, "default_uris", lambda self: ["memory:///bad"])
    check = run(code=1)["Connection to memory:///bad"]
    assert (check["explanation"], check["advice"]) == ("It does not answer.", "Start it.")


def test_a_refused_default_is_no_failure_where_another_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only the one needs that does not work is told as a warning, and told once."""
    both, bad = Check("Both", "fail", "Both need it.", "do this"), Check("Bad", "fail", "Only one needs it.", "do that")

    def diagnose(cls: Any, uri: URI) -> list[Check]:
        return [both, bad] if uri.path == "/bad" else [both]

    def open_some(cls: Any, uri: URI, /, **options: Any) -> MemoryHypervisor:
        if uri.path == "/bad":
            raise ConnectError("It does not answer.", hint="Only one needs it. Type: do that")
        return cls(uri)  # type: ignore[no-any-return]

    for name in ("VIRTUOSO_DEFAULT_URI", "LIBVIRT_DEFAULT_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(MemoryHypervisor, "_diagnose", classmethod(diagnose))
    monkeypatch.setattr(MemoryHypervisor, "open", classmethod(open_some))
    monkeypatch.setattr(Registry, "default_uris", lambda self: ["memory:///bad", "memory:///good"])
    checks = run(code=1)
    assert (checks["Both"]["status"], checks["Bad"]["status"]) == ("fail", "warn")
    monkeypatch.setattr(Registry, "default_uris", lambda self: ["memory:///bad"])
    checks = run(code=1)
    assert checks["Bad"]["status"] == "fail"
    assert checks["Connection to memory:///bad"]["advice"] == ""


def test_the_driver_says_what_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    needed, found = Check("Device", "warn", "It is not there."), Check("Network", "warn", "It is down.", "net-start")
    monkeypatch.setattr(MemoryHypervisor, "_diagnose", classmethod(lambda cls, uri: [needed]))
    monkeypatch.setattr(MemoryHypervisor, "_examine", lambda self: [found])
    checks = run("-c", "memory:///doctor")
    assert list(checks)[-3:] == ["Device", "Connection to memory:///doctor", "Network"]
    assert checks["Network"]["advice"] == "net-start"


@pytest.mark.parametrize("error", [RuntimeError("no such attribute"), ConnectError("It went away.", hint="Wait.")])
def test_checks_that_break_off_are_a_finding(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Iterator[Check]:
        yield Check("First", "ok", "")
        raise error

    monkeypatch.setattr(MemoryHypervisor, "_diagnose", classmethod(broken))
    monkeypatch.setattr(MemoryHypervisor, "_examine", broken)
    checks = run("-c", "memory:///doctor", code=1)
    assert checks["First"]["status"] == checks["Connection to memory:///doctor"]["status"] == "ok"
    for name in ("What memory:///doctor needs", "Examination of memory:///doctor"):
        assert str(error.args[0]) in checks[name]["explanation"]


def test_a_missing_driver_is_told_by_the_connection() -> None:
    checks = run("-c", "nobody:///x", code=1)
    assert list(checks)[-1] == "Connection to nobody:///x"


def test_little_is_said_of_the_test_driver() -> None:
    pytest.importorskip("libvirt")
    checks = run("-c", "test:///default")
    assert list(checks)[-3:] == ["libvirt binding", "Connection to test:///default", "Network default"]


def test_it_names_no_driver() -> None:
    """The core never names one; neither does what it says, but for the examples of what to type."""
    text = Path(doctor.__file__).read_text()
    assert not re.search(r"""["'](qemu|xen|vbox|esx|test|memory)["']|/dev/kvm|libvirt""", text)


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (Status.OK, None, "ok"),
        (Status.BROKEN, DriverLoadError("It does not load.", hint="Reinstall it."), "fail"),
        (Status.DISABLED, DriverDisabledError("It is blocked."), "warn"),
    ],
)
def test_drivers(status: Status, error: Any, expected: str) -> None:
    assert check_driver(Plugin("x", "virtuoso-x", "1", status, error)).status == expected


# Images.


def test_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "web.qcow2"
    assert "No such file" in doctor.check_image(str(image)).explanation
    assert doctor.check_image(str(tmp_path)).status == "fail"
    image.touch()
    assert doctor.check_image(str(image)).status == "ok"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "setfacl" in doctor.check_image(str(image)).advice

    def deny(path: str) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", deny)
    assert doctor.check_image(str(image)).status == "skip"


def test_the_image_is_part_of_the_examination(tmp_path: Path) -> None:
    image = tmp_path / "web.raw"
    image.touch()
    assert run("-c", "memory:///doctor", image=image)[f"Image {image}"]["status"] == "ok"


def test_the_driver_knows_more_of_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Check("Image x", "warn", "It is in a strange format.")
    monkeypatch.setattr(MemoryHypervisor, "_examine_image", lambda self, path: [found])
    checks = run("-c", "memory:///doctor", image=tmp_path / "x")
    assert list(checks)[-1] == "Image x"
    assert f"Image {tmp_path / 'x'}" not in checks


def test_an_image_without_a_connection(tmp_path: Path) -> None:
    image = tmp_path / "web.raw"
    image.touch()
    assert run("-c", "nobody:///x", image=image, code=1)[f"Image {image}"]["status"] == "skip"
    far = run("-c", "nobody://host/x", image=image, code=1)[f"Image {image}"]
    assert "host" in far["explanation"]
