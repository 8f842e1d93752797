"""What cloud-init reads: what is taken and refused, what is written, and that it comes and goes with its VM."""

# ruff: noqa: S106 - passwords of nobody

from __future__ import annotations

import email
import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pycdlib import PyCdlib

from virtuoso_core import VM, SaveResult, State
from virtuoso_core.cloud_init import CloudInit, hostname_of
from virtuoso_core.errors import (
    InvalidStateError,
    InvalidValueError,
    NotAppliedError,
    ReadOnlyError,
    SaveVetoedError,
    UnsupportedError,
    VirtuosoError,
)
from virtuoso_core.plugins import default_registry
from virtuoso_core.testdriver.driver import TestHypervisor as MockHypervisor
from virtuoso_core.testing.memory import MemoryHypervisor, MemoryVM
from virtuoso_core.uri import URI

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n"


def made(
    user: str | None = None,
    ssh_key: Any = None,
    password: str | None = None,
    hostname: str | None = None,
    packages: Any = (),
    user_data: Any = None,
) -> CloudInit:
    return CloudInit.make(user, ssh_key, password, hostname, packages, user_data)


def config(**given: Any) -> dict[str, Any]:
    """The #cloud-config that comes of the arguments, as cloud-init's own parser sees it: JSON is YAML."""
    first, _, rest = made(**given).user_data().decode().partition("\n")
    assert first == "#cloud-config"
    found: dict[str, Any] = json.loads(rest)
    return found


def files(disc: bytes) -> dict[str, bytes]:
    """What is on a disc."""
    iso = PyCdlib()
    iso.open_fp(io.BytesIO(disc))
    assert iso.pvd.volume_identifier.decode().strip() == "cidata"
    found = {}
    for child in iso.list_children(joliet_path="/"):
        name = child.file_identifier().decode("utf-16-be", "replace")
        if child.is_file():
            data = io.BytesIO()
            iso.get_file_from_iso_fp(data, joliet_path=f"/{name}")
            rock = io.BytesIO()
            iso.get_file_from_iso_fp(rock, rr_path=f"/{name}")
            assert rock.getvalue() == data.getvalue()
            found[name] = data.getvalue()
    iso.close()
    return found


# What is written.


def test_a_user() -> None:
    found = config(user="me", ssh_key=f"{ED25519} me@here", password="secret")
    (user,) = found["users"]
    assert user["name"] == "me"
    assert user["ssh_authorized_keys"] == [f"{ED25519} me@here"]
    assert user["lock_passwd"] is False
    assert user["sudo"] == "ALL=(ALL) NOPASSWD:ALL"
    assert found["ssh_pwauth"] is True


def test_a_user_without_a_password_has_none() -> None:
    found = config(user="me")
    assert "ssh_pwauth" not in found
    assert not {"passwd", "hashed_passwd", "lock_passwd"} & found["users"][0].keys()


def test_the_image_s_own_user() -> None:
    found = config(ssh_key=ED25519, password="secret")
    assert "users" not in found
    assert found["ssh_authorized_keys"] == [ED25519]
    assert found["password"].startswith("$6$")
    assert found["chpasswd"] == {"expire": False}


def test_the_password_is_hashed_as_crypt_does() -> None:
    from passlib.hash import sha512_crypt

    hashed = config(user="me", password="sécret 'word'")["users"][0]["passwd"]
    assert sha512_crypt.verify("sécret 'word'", hashed)
    assert not sha512_crypt.verify("secret", hashed)
    assert hashed != config(user="me", password="sécret 'word'")["users"][0]["passwd"]
    # the example of the specification
    salted = sha512_crypt.using(rounds=10000, salt="saltstringsaltst").hash("Hello world!")
    assert salted == (
        "$6$rounds=10000$saltstringsaltst$OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8vOuZeHBy/"
        "YTBmSK6H9qs/y3RnOaw5v."
    )


def test_the_password_is_shown_nowhere() -> None:
    told = made(user="me", password="hunter2hunter2", user_data="#!/bin/sh\nexport TOKEN=hunter2hunter2\n")
    assert "hunter2" not in repr(told)
    assert "hunter2" not in repr(told.config)
    assert "$6$" not in repr(told)


def test_packages() -> None:
    found = config(packages=["nginx", "git"])
    assert (found["packages"], found["package_update"]) == (["nginx", "git"], True)
    assert "packages" not in config()


def test_a_mapping_is_joined() -> None:
    found = config(
        user="me",
        packages=["git"],
        password="secret",
        user_data={"packages": ["vim"], "users": ["default"], "ssh_pwauth": False, "timezone": "UTC"},
    )
    assert found["packages"] == ["git", "vim"]
    assert [user["name"] if isinstance(user, dict) else user for user in found["users"]] == ["me", "default"]
    assert (found["ssh_pwauth"], found["timezone"]) == (False, "UTC")


@pytest.mark.parametrize(
    ("text", "kind"), [("#!/bin/sh\necho é", "text/x-shellscript"), ("#cloud-config\na: é", "text/cloud-config")]
)
def test_a_text_stands_beside_ours(text: str, kind: str) -> None:
    whole = email.message_from_bytes(made(user="me", user_data=text).user_data())
    theirs, ours = [part for part in whole.walk() if not part.is_multipart()]
    assert theirs.get_content_type() == kind
    assert bytes(theirs.get_payload(decode=True)).decode() == f"{text}\n"
    assert ours.get_content_type() == "text/cloud-config"
    assert "append" in ours["X-Merge-Type"]
    assert b'"me"' in bytes(ours.get_payload(decode=True))


@pytest.mark.parametrize("odd", ["penguin 🐧", "tab\tand\nline", "\x7f\x85\u2028\ufeff", "\"quoted\" 'it' \\ #: {}"])
def test_every_text_survives_yaml(odd: str) -> None:
    """YAML takes most of JSON, but no pairs of surrogates, and no control characters as they are."""
    text = made(user_data={"motd": odd}).user_data().decode()
    assert json.loads(text.partition("\n")[2])["motd"] == odd
    assert not re.search("[\x7f-\x9f\u2028\u2029\ufeff]|\\\\ud8", text)


def test_the_disc() -> None:
    told = made(user="me", hostname="web.example.org")
    found = files(told.seed("My VM"))
    assert set(found) == {"meta-data", "user-data"}
    meta = json.loads(found["meta-data"])
    assert meta == {"instance-id": told.identity, "local-hostname": "web.example.org"}
    assert found["user-data"] == told.user_data()


def test_the_host_name_is_the_vm_s() -> None:
    assert json.loads(files(made().seed("My VM #1"))["meta-data"])["local-hostname"] == "my-vm-1"


@pytest.mark.parametrize(
    ("name", "host"),
    [("web", "web"), ("Web_1.example", "web-1-example"), ("漢字", "localhost"), ("-" * 9, "localhost")],
)
def test_host_names(name: str, host: str) -> None:
    assert hostname_of(name) == host
    made(hostname=hostname_of(name * 40))


def test_each_call_is_another_instance() -> None:
    assert made(user="me").identity != made(user="me").identity


# What is taken and refused.


@pytest.mark.parametrize(
    "bad",
    [
        {"user": "Not Me"},
        {"user": "1st"},
        {"user": ""},
        {"user": "a" * 33},
        {"user": 7},
        {"hostname": "under_score"},
        {"hostname": "-a"},
        {"hostname": "a" * 64},
        {"hostname": "a..b"},
        {"hostname": ""},
        {"password": ""},
        {"password": "two\nlines"},
        {"password": 12345},
        {"packages": "nginx"},
        {"packages": ["-rf"]},
        {"packages": ["two words"]},
        {"packages": [1]},
        {"user_data": "runcmd: [x]"},
        {"user_data": "#include\nhttp://x"},
        {"user_data": 7},
        {"user_data": {"a": object()}},
        {"user_data": {"a": float("nan")}},
        {"user_data": {"a": "\ud800"}},
        {"ssh_key": "nonsense"},
        {"ssh_key": 7},
        {"ssh_key": [7]},
        {"ssh_key": ED25519[:-8]},
        {"ssh_key": ED25519.replace("ssh-ed25519", "ssh-rsa")},
        {"ssh_key": f"{ED25519}\nnonsense"},
    ],
    ids=repr,
)
def test_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError) as caught:
        made(**bad)
    assert caught.value.hint


def test_a_bad_password_is_not_repeated() -> None:
    with pytest.raises(InvalidValueError) as caught:
        made(password="hunter2\n")
    assert "hunter2" not in str(caught.value)


def test_keys_from_files_and_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQM="
    path = tmp_path / "id.pub"
    path.write_text(f"# mine\n\n{ED25519} me@here\n{other}\n")
    both = [f"{ED25519} me@here", other]
    assert config(ssh_key=path)["ssh_authorized_keys"] == both
    assert config(ssh_key=str(path))["ssh_authorized_keys"] == both
    assert config(ssh_key=[path, other])["ssh_authorized_keys"] == both
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config(ssh_key="~/id.pub")["ssh_authorized_keys"] == both
    limited = f'from="10.0.0.0/8",no-pty {ED25519}'
    assert config(ssh_key=limited)["ssh_authorized_keys"] == [limited]


def test_a_private_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "id_ed25519"
    path.write_text(PRIVATE)
    with pytest.raises(InvalidValueError, match=r"private SSH key.*\n?.*id_ed25519\.pub") as caught:
        made(ssh_key=path)
    assert "b3Blbn" not in str(caught.value)
    with pytest.raises(InvalidValueError, match="private SSH key") as caught:
        made(ssh_key=PRIVATE)
    assert "b3Blbn" not in str(caught.value)
    putty = tmp_path / "id.ppk"
    putty.write_text("PuTTY-User-Key-File-3: ssh-ed25519\n")
    with pytest.raises(InvalidValueError, match="private SSH key"):
        made(ssh_key=putty)


def test_a_missing_or_empty_key_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="no such file"):
        made(ssh_key=tmp_path / "none.pub")
    (tmp_path / "empty.pub").touch()
    with pytest.raises(InvalidValueError, match="There is no SSH key"):
        made(ssh_key=tmp_path / "empty.pub")


# With its VM.


def new(hypervisor: MemoryHypervisor, **fields: Any) -> VM:
    vm = hypervisor.new_vm()
    vm.name, vm.disk_image = "web", "/images/web.qcow2"
    for field, value in fields.items():
        setattr(vm, field, value)
    return vm


def seeds(hypervisor: MemoryHypervisor) -> list[str]:
    """The files there are."""
    return sorted(hypervisor.host.images._infos)


def test_it_comes_and_goes_with_its_vm(hypervisor: MemoryHypervisor) -> None:
    vm = new(hypervisor)
    vm.cloud_init(user="me", password="hunter2")
    assert re.search(r"seed: \(not set\) -> '[0-9a-f]{8}\.cloud-init\.iso'", vm.diff())
    assert "hunter2" not in vm.diff() + vm.spec
    assert seeds(hypervisor) == []
    vm.save()
    (path,) = seeds(hypervisor)
    assert re.fullmatch(r"/images/web-[0-9a-f]{8}\.cloud-init\.iso", path)
    assert vm._read().seed == path
    assert "user-data" in files(hypervisor.host.images._data[path])
    assert vm.save() is SaveResult.UNCHANGED
    vm.memory *= 2
    vm.save()
    assert seeds(hypervisor) == [path]
    hypervisor.get("web").destroy()
    assert seeds(hypervisor) == []


def test_the_name_and_the_disk_may_be_set_later(hypervisor: MemoryHypervisor) -> None:
    vm = hypervisor.new_vm()
    vm.cloud_init()
    vm.name = "late"
    with pytest.raises(InvalidValueError, match="no disk image that is a file"):
        vm.save()
    vm.disk_image = "/elsewhere/late.img"
    vm.save()
    (path,) = seeds(hypervisor)
    assert path.startswith("/elsewhere/late-")
    assert json.loads(files(hypervisor.host.images._data[path])["meta-data"])["local-hostname"] == "late"


@pytest.mark.parametrize("disk", ["/dev/vg/web", "pool/volume", "rbd:pool/image"])
def test_beside_no_file_there_is_no_place(hypervisor: MemoryHypervisor, disk: str) -> None:
    vm = new(hypervisor, disk_image=disk)
    vm.cloud_init()
    with pytest.raises(InvalidValueError, match="no disk image that is a file"):
        vm.save()
    assert hypervisor.vms() == []


def test_a_datastore_s_disk(hypervisor: MemoryHypervisor) -> None:
    vm = new(hypervisor, disk_image="[one] web.vmdk")
    vm.cloud_init()
    vm.save()
    assert seeds(hypervisor)[0].startswith("[one] web-")


def test_another_call_takes_its_place(hypervisor: MemoryHypervisor) -> None:
    vm = new(hypervisor)
    vm.cloud_init(user="me")
    vm.save()
    (first,) = seeds(hypervisor)
    vm.cloud_init(user="you")
    assert seeds(hypervisor) == [first]
    vm.save()
    (second,) = seeds(hypervisor)
    assert second != first
    assert b'"you"' in files(hypervisor.host.images._data[second])["user-data"]


def test_a_reload_drops_it(hypervisor: MemoryHypervisor) -> None:
    vm = new(hypervisor)
    vm.save()
    vm.cloud_init(user="me")
    vm.reload()
    assert vm.save() is SaveResult.UNCHANGED
    vm.memory *= 2
    vm.save()
    assert seeds(hypervisor) == []


def _veto(monkeypatch: pytest.MonkeyPatch) -> type[BaseException]:
    def no(vm: VM, changed: frozenset[str]) -> None:
        raise SaveVetoedError("no")

    monkeypatch.setattr(default_registry(), "before_save", no)
    return SaveVetoedError


def _failing(name: str, error: BaseException) -> Callable[[pytest.MonkeyPatch], type[BaseException]]:
    def arrange(monkeypatch: pytest.MonkeyPatch) -> type[BaseException]:
        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr(MemoryVM, name, fail)
        return type(error)

    return arrange


@pytest.mark.parametrize(
    "arrange",
    [_veto, _failing("_create", VirtuosoError("full")), _failing("_create", KeyboardInterrupt())],
    ids=["veto", "failure", "Ctrl-C"],
)
def test_a_failed_save_of_a_new_vm_leaves_no_file(
    hypervisor: MemoryHypervisor,
    monkeypatch: pytest.MonkeyPatch,
    arrange: Callable[[pytest.MonkeyPatch], type[BaseException]],
) -> None:
    vm = new(hypervisor)
    vm.cloud_init(user="me")
    with monkeypatch.context() as patched, pytest.raises(arrange(patched)):
        vm.save()
    assert seeds(hypervisor) == []
    vm.save()  # the edits are still there
    assert len(seeds(hypervisor)) == 1


@pytest.mark.parametrize("arrange", [_veto, _failing("_update", VirtuosoError("full"))], ids=["veto", "failure"])
def test_a_failed_save_keeps_the_old_file(
    hypervisor: MemoryHypervisor,
    monkeypatch: pytest.MonkeyPatch,
    arrange: Callable[[pytest.MonkeyPatch], type[BaseException]],
) -> None:
    vm = new(hypervisor)
    vm.cloud_init(user="me")
    vm.save()
    before = seeds(hypervisor)
    vm.cloud_init(user="you")
    with monkeypatch.context() as patched, pytest.raises(arrange(patched)):
        vm.save()
    assert seeds(hypervisor) == before == [hypervisor.get("web")._read().seed]


def test_a_hypervisor_that_did_not_take_it(hypervisor: MemoryHypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = new(hypervisor)
    vm.save()
    vm.cloud_init(user="me")
    with monkeypatch.context() as patched:
        patched.setattr(MemoryVM, "_update", lambda self, *_: setattr(self, "_before", self._saved()))
        with pytest.raises(NotAppliedError):
            vm.save()
    assert seeds(hypervisor) == []


def test_an_interrupt_after_it_was_taken(hypervisor: MemoryHypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The VM has it: deleting it would keep the VM from starting."""
    vm = new(hypervisor)
    vm.cloud_init(user="me")
    real = MemoryVM._create

    def create(self: MemoryVM, spec: Any) -> str:
        real(self, spec)
        raise KeyboardInterrupt

    monkeypatch.setattr(MemoryVM, "_create", create)
    with pytest.raises(KeyboardInterrupt):
        vm.save()
    assert seeds(hypervisor) == [hypervisor.get("web")._read().seed]


def test_a_suspended_vm_needs_what_it_had(hypervisor: MemoryHypervisor) -> None:
    vm = new(hypervisor)
    vm.cloud_init(user="me")
    vm.save()
    vm.start()
    vm.suspend()
    before = seeds(hypervisor)
    vm.cloud_init(user="you")
    with pytest.raises(InvalidStateError, match="saved memory needs"):
        vm.save()
    assert seeds(hypervisor) == before


def test_snapshots_need_what_it_had(hypervisor: MemoryHypervisor) -> None:
    vm = new(hypervisor)
    vm.cloud_init(user="me")
    vm.save()
    vm.snapshot("before")
    before = seeds(hypervisor)
    vm.cloud_init(user="you")
    with pytest.raises(InvalidStateError, match="has snapshots"):
        vm.save()
    assert seeds(hypervisor) == before
    vm.delete_snapshot("before")
    vm.save()
    assert len(seeds(hypervisor)) == 1
    assert seeds(hypervisor) != before


@pytest.mark.parametrize("act", ["destroy", "another"])
def test_one_that_another_vm_has_stays(hypervisor: MemoryHypervisor, act: str) -> None:
    """Other programs copy VMs with the discs in their drives."""
    vm = new(hypervisor)
    vm.cloud_init(user="me")
    vm.save()
    (seed,) = seeds(hypervisor)
    hypervisor.host.specs["another"] = replace(vm._read(), name="another")
    hypervisor.host.states["another"] = State.STOPPED
    if act == "destroy":
        vm.destroy()
    else:
        vm.cloud_init(user="you")
        vm.save()
    assert seed in seeds(hypervisor)
    hypervisor.get("another").destroy()
    assert seed not in seeds(hypervisor)


def test_where_it_cannot_be(uri: URI) -> None:
    with MemoryHypervisor.open(uri, readonly=True) as hypervisor:
        vm = new(hypervisor)
        vm.cloud_init()
        with pytest.raises(ReadOnlyError):
            vm.save()
        assert seeds(hypervisor) == []
    with MockHypervisor.open(URI.parse("test:///default")) as mock, pytest.raises(UnsupportedError, match="cloud-init"):
        mock.get("test").cloud_init()


def test_another_file_of_that_name_is_no_cdrom(hypervisor: MemoryHypervisor) -> None:
    """It would be taken for what cloud-init reads, and deleted with the VM."""
    vm = new(hypervisor)
    with pytest.raises(InvalidValueError, match="another name"):
        vm.cdrom = "/images/other.cloud-init.iso"


def test_nothing_heavy_is_imported_before_it_is_used(environment: Any) -> None:
    code = "import sys\nanswer(sorted(m for m in ('pycdlib', 'passlib', 'email.mime') if m in sys.modules))"
    assert environment.run(code) == []


def test_the_state_folder_is_left_clean(
    hypervisor: MemoryHypervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No note of an unfinished step is left by a save."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    vm = new(hypervisor)
    vm.cloud_init()
    vm.save()
    assert [file for _, _, names in os.walk(tmp_path) for file in names] == []
