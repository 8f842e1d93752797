"""The `virtuoso` command: what it prints, its exit codes, --json, --dry-run, completion."""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.unit.shell import Shell, virtuoso
from virtuoso_core import AuthenticationError, ConnectError, CredentialRequest, connect
from virtuoso_core.cli import hints
from virtuoso_core.cli import output as output_module
from virtuoso_core.cli.commands import cli
from virtuoso_core.errors import ConnectionLostError, HypervisorError, MissingLibvirtError
from virtuoso_core.testing.memory import MemoryHypervisor

# The frame.


ROOT = Path(__file__).parents[2]
HEAVY = {"libvirt", "lxml", "rich", "pluggy", "pycdlib", "platformdirs", "asyncio", "tty", "termios", "http", "email"}
PLUGINS = {"pluggy", "email", "http", "platformdirs"}
"""What finding the plugins loads, and what those that are installed here load themselves."""


@pytest.mark.parametrize(
    ("line", "besides"),
    [
        (["--help"], set()),
        (["disk", "--help"], set()),
        (["-c", "memory:///x", "list"], PLUGINS),
        (["-c", "memory:///x", "create", "web"], PLUGINS),
        (["-c", "memory:///x", "top"], PLUGINS),
    ],
    ids=" ".join,
)
def test_commands_load_nothing_that_they_do_not_need(line: list[str], besides: set[str]) -> None:
    program = (
        "import sys, virtuoso_core.cli\n"
        f"try: virtuoso_core.cli.main({line})\n"
        "except SystemExit as end: assert not end.code\n"
        f"print(sorted({HEAVY - besides} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_has_help_with_an_example(shell: Shell, command: str) -> None:
    text = shell(command, "--help").stdout
    assert f"virtuoso {command}" in text.split("\n", 1)[1] or f" {command} " in text.split("\n", 1)[1]
    assert "Options of every command" in text


def test_shared_options_stand_before_and_after_the_command(web: Shell) -> None:
    empty = "memory:///cli-nobody"
    assert json.loads(web("-c", empty, "--json", "list").stdout) == []
    assert json.loads(web("list", "--json", "-c", empty).stdout) == []
    assert [vm["name"] for vm in json.loads(web("-c", empty, "list", "--json", "-c", web.uri).stdout)] == ["web"]


def test_a_vm_may_be_called_like_an_option(shell: Shell) -> None:
    shell("create", "--", "--json")
    assert shell("show", "--", "--json").stdout.startswith("Name")


def test_version(shell: Shell) -> None:
    assert shell("--version").stdout.startswith("virtuoso ")
    assert set(shell.json("--version")) == {"version"}


def test_without_a_command_the_help_goes_to_stderr(shell: Shell) -> None:
    result = shell(code=2)
    assert result.stdout == ""
    assert "Commands:" in result.stderr
    assert shell.error(code=2)["message"] == "Missing command."


@pytest.mark.parametrize(
    ("args", "code", "type"),
    [
        (["show", "nobody"], 3, "VMNotFoundError"),
        (["create", "web", "--memory", "lots"], 2, "InvalidValueError"),
        (["create", "web", "--memory", "2048"], 2, "InvalidValueError"),
        (["create", "web", "--cpus", "many"], 2, "InvalidValueError"),
        (["create", "a/b"], 2, "InvalidValueError"),
        (["create", "web", "--set", "headless=perhaps"], 2, "InvalidOptionError"),
        (["create", "web", "--set", "headless"], 2, "UsageError"),
        (["create", "web", "--set", "=true"], 2, "UsageError"),
        (["create", "web", "--network", "nat,speed=9"], 2, "UsageError"),
        (["create", "web", "--network", "nat", "--network", "none"], 2, "UsageError"),
        (["create", "web", "--network", "nat,mac=zz"], 2, "InvalidNetworkError"),
        (["create", "web", "--network", "wifi"], 1, "UnsupportedNetworkError"),
        (["create", "web", "--xml"], 2, "UsageError"),
        (["create", "web", "--start-networks"], 2, "UsageError"),
        (["list", "-c", "nonsense"], 2, "InvalidURIError"),
        (["list", "-c", ""], 2, "InvalidURIError"),
        (["list", "-c", "memroy:///x"], 4, "DriverNotInstalledError"),
        (["list", "--driver", "nobody"], 4, "DriverNotInstalledError"),
        (["list", "--bad"], 2, "UsageError"),
        (["lsit"], 2, "UsageError"),
        (["start"], 2, "UsageError"),
        (["stop", "web", "--now", "--no-force"], 2, "UsageError"),
        (["--readonly", "create", "web"], 1, "ReadOnlyError"),
        (["completion", "tcsh"], 2, "UsageError"),
    ],
)
def test_errors_as_json_and_their_exit_codes(shell: Shell, args: list[str], code: int, type: str) -> None:
    error = shell.error(*args, code=code)
    assert error["type"] == type
    assert error["message"]
    assert error["hint"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConnectError("The host does not answer."), 5),
        (AuthenticationError("Wrong password."), 5),
        (ConnectionLostError("Gone."), 5),
        (MissingLibvirtError("No libvirt."), 4),
        (KeyboardInterrupt(), 130),
        (RuntimeError("boom"), 1),
    ],
)
def test_what_a_driver_raises(shell: Shell, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(MemoryHypervisor, "open", fail)
    shell("list", code=code)


def test_an_unexpected_error_is_one_line_and_a_traceback_with_v(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(MemoryHypervisor, "_summaries", fail)
    assert shell("list", code=1).stderr.splitlines() == [
        "virtuoso: RuntimeError: boom",
        "  This is a mistake in Virtuoso or a driver: run it with -v for the traceback.",
    ]
    logger = logging.getLogger("virtuoso_core")
    monkeypatch.setattr(logger, "level", logger.level)
    result = CliRunner().invoke(cli, ["-v", "list", "-c", shell.uri])
    assert result.exit_code == 1
    assert "Traceback" in result.stderr


def test_errors_for_people_name_what_is_near(web: Shell) -> None:
    assert web("show", "wbe", code=3).stderr.splitlines() == [
        f"virtuoso: There is no VM 'wbe' on {web.uri}.",
        "  Did you mean 'web'?",
    ]
    assert "Did you mean memory://?" in web("list", "-c", "memroy:///x", code=4).stderr


def test_hints_tell_what_to_type(web: Shell) -> None:
    web("set", "web", "stubborn=true")
    web("start", "web")
    hint = web.error("stop", "web", "--timeout", "0.1", "--no-force", code=1)["hint"]
    assert "--no-force" in hint
    assert "--force" in web.error("destroy", "web", "--yes", code=1)["hint"]
    assert web.error("--readonly", "set", "web", "cpus=2", code=1)["hint"] == "Leave out --readonly."


@pytest.mark.parametrize(
    ("hint", "command", "typed"),
    [
        ("Start it: vm.start().", "ip", "Start it: virtuoso -c test:///x start 'my vm'"),
        ("Start it first.", "pause", "Start it first: virtuoso -c test:///x start 'my vm'"),
        ("Stop it first.", "clone", "Stop it first: virtuoso -c test:///x stop 'my vm'"),
        (
            "vm.delete_snapshot('a-1')",
            "snapshot",
            "virtuoso -c test:///x delete-snapshot 'my vm' a-1",
        ),
        (
            "vm.delete_snapshot('a b')",
            "snapshot",
            "virtuoso -c test:///x delete-snapshot 'my vm' SNAPSHOT",
        ),
        ('Let a shell find it: ["sh", "-c", "..."].', "run", "Let a shell find it: sh -c '...'"),
        ("Then call connect() and events() again: it is", "events", "Then run it again: it is"),
        ("vm.stop(timeout=0)", "stop", "virtuoso -c test:///x stop 'my vm' --now"),
        (
            'Say it: vm.set("disk_format", "qcow2")',
            "set",
            "Say it: virtuoso -c test:///x set 'my vm' disk_format=qcow2",
        ),
        ('Say it: vm.set("disk_format", "qcow2")', "create", "Say it: --set disk_format=qcow2"),
        ('Away: vm.set("max_cpus", None).', "set", "Away: virtuoso -c test:///x set 'my vm' max_cpus="),
        ("vm.network('bridged', source='br0')", "create", "--network bridged,source=br0"),
        ('vm.network("nat"); vm.save(); then', "ip", "virtuoso -c test:///x set 'my vm' --add-network nat; then"),
        ("Copy them: linked=False", "clone", "Copy them: --full"),
        ("Leave out delete_disk.", "destroy", "Leave out --delete-disk."),
        ("Nothing of Python: see vm.example.", "set", "Nothing of Python: see vm.example."),
    ],
)
def test_hints_become_lines_to_type(hint: str, command: str, typed: str) -> None:
    error = HypervisorError("No.", hint=hint, vm="my vm")
    assert hints.typed(error, command, ["-c", "test:///x"]) == typed


def texts_in(node: ast.AST) -> Iterator[str]:
    """Every text of an expression; in one with fields, X stands for each."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(
            str(part.value) if isinstance(part, ast.Constant) else "'X'" if part.conversion == ord("r") else "X"
            for part in node.values
            if isinstance(part, (ast.Constant, ast.FormattedValue))
        )
    else:
        for child in ast.iter_child_nodes(node):
            yield from texts_in(child)


def test_no_hint_tells_people_to_write_python() -> None:
    """Of all hints in the sources, but for those of calls that no command makes, and those that are replaced whole."""
    unreachable = {"vm.save()", "vm.reload()", "vm.save(force=True)", "hypervisor.new_vm()", "force=False"}
    found = 0
    for path in [*(ROOT / "virtuoso_core").rglob("*.py"), *(ROOT / "drivers/kvm").rglob("*.py")]:
        if path.parent.name == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.keyword) or node.arg != "hint":
                continue
            for hint in texts_in(node.value):
                found += 1
                text = hints.typed(HypervisorError("No.", hint=hint), "set", [])
                calls = set(re.findall(r"\b(?:vm|hypervisor)\.\w+\([^)]*\)|\b\w+=(?:True|False)\b", text))
                assert calls <= unreachable, (path, text)
    assert found > 100


def test_control_characters_do_not_reach_the_terminal(shell: Shell) -> None:
    result = shell("show", "\x1b[31mred", code=3)
    assert "\x1b" not in result.stderr


# list and show.


def test_list(web: Shell) -> None:
    lines = web("list").stdout.splitlines()
    assert lines[0].split() == ["NAME", "STATE", "MEMORY", "CPUS", "UUID"]
    assert lines[1].split()[:5] == ["web", "stopped", "2", "GiB", "1"]
    assert web.json("list") == [
        {"name": "web", "uuid": lines[1].split()[-1], "state": "stopped", "memory": 2 * 1024**2, "cpus": 1}
    ]


def test_an_empty_list_says_so_beside_stdout(shell: Shell) -> None:
    result = shell("list")
    assert (result.stdout, result.stderr) == ("", f"There is no VM on {shell.uri}.\n")


def test_piped_tables_are_whole_and_plain(shell: Shell) -> None:
    name = "n" * 150
    shell("create", name)
    shell("create", "[red]:smile:[red]")
    lines = shell("list", env={"COLUMNS": "40", "FORCE_COLOR": "1"}).stdout.splitlines()
    assert len(lines) == 3
    assert any(line.startswith(f"{name}  stopped") for line in lines)
    assert any(line.startswith("[red]:smile:[red] ") for line in lines)
    assert all("\x1b" not in line and line == line.rstrip() for line in lines)


def test_colours_on_a_terminal_only_unless_refused(web: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_module, "is_terminal", lambda stream: True)
    env = {"TERM": "xterm", "NO_COLOR": "", "COLUMNS": "100"}
    web("start", "web")
    assert "\x1b[" in CliRunner().invoke(cli, ["list"], env=web.env | env, color=True).stdout
    for refusal in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        result = CliRunner().invoke(cli, ["list"], env=web.env | env | refusal, color=True)
        assert "web" in result.stdout
        assert "\x1b[" not in result.stdout


def test_show(web: Shell) -> None:
    web("set", "web", "headless=true", "disk=/images/web.qcow2")
    document = web.json("show", "web")
    assert list(document) == [
        "name", "uuid", "state", "memory", "cpus", "disk_image", "disks", "cdrom", "networks", "options", "autostart",
        "addresses", "display", "snapshots", "uri", "version", "untold",
    ]  # fmt: skip
    assert document["options"] == {"headless": True}
    assert set(document["networks"][0]) == {"type", "mac_address", "source", "model"}
    text = web("show", document["uuid"]).stdout
    for part in ("web", "2 GiB", "/images/web.qcow2", "nat 52:54:00", "headless=true", web.uri):
        assert part in text


def test_show_xml_is_the_spec(web: Shell) -> None:
    with connect(web.uri) as hypervisor:
        spec = hypervisor.get("web").spec
    assert web("show", "web", "--xml").stdout == spec + "\n"
    assert web.json("show", "web", "--xml") == {"spec": spec}


def test_show_masks_secrets(web: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    from virtuoso_core.spec import Option, option_table

    monkeypatch.setattr(MemoryHypervisor, "options", option_table(Option("key", "str", "A password.", secret=True)))
    assert "hunter2" not in web("set", "web", "key=hunter2").output
    assert "hunter2" not in web("show", "web").stdout
    assert web.json("show", "web")["options"] == {"key": "***"}
    assert web.json("show", "web", "--secrets")["options"] == {"key": "hunter2"}


# create and set.


def test_create_says_what_to_type_next(shell: Shell) -> None:
    lines = shell("create", "My new VM", "-c", shell.uri).stdout.splitlines()
    assert lines[0].startswith("Created My new VM (")
    assert lines[1] == f"Start it: virtuoso -c {shell.uri} start 'My new VM'"


def test_create_with_everything(shell: Shell) -> None:
    mac = "52:54:00:00:00:01"
    made = shell.json(
        "create", "web", "--memory", "1.5 GiB", "--cpus", "2", "--disk", "/images/a.qcow2",
        "--network", f"bridged,mac={mac},source=br0,model=virtio", "--network", "internal",
        "--set", "headless=on", "--start",
    )  # fmt: skip
    assert (made["name"], made["state"]) == ("web", "running")
    shown = shell.json("show", "web")
    assert (shown["memory"], shown["cpus"], shown["disk_image"]) == (1572864, 2, "/images/a.qcow2")
    assert shown["networks"][0] == {"type": "bridged", "mac_address": mac, "source": "br0", "model": "virtio"}
    assert [card["type"] for card in shown["networks"]] == ["bridged", "internal"]
    assert shown["options"] == {"headless": True}


def test_network_is_nat_unless_told_otherwise(shell: Shell) -> None:
    shell("create", "a")
    shell("create", "b", "--network", "none")
    assert [card["type"] for card in shell.json("show", "a")["networks"]] == ["nat"]
    assert shell.json("show", "b")["networks"] == []


def test_a_failed_start_still_tells_that_the_vm_is_there(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    from virtuoso_core.testing.memory import MemoryVM

    def fail(self: object) -> None:
        raise ConnectionLostError("Gone.")

    monkeypatch.setattr(MemoryVM, "_start", fail)
    result = shell("create", "web", "--start", "--json", code=5)
    assert json.loads(result.stdout)["name"] == "web"
    assert json.loads(result.stderr)["error"]["type"] == "ConnectionLostError"


def test_dry_run_writes_nothing(web: Shell) -> None:
    before = web("show", "web", "--xml").stdout
    assert "name:" in web("create", "db", "--dry-run").stdout
    assert json.loads(web("create", "db", "--dry-run", "--json", "--xml").stdout).keys() == {"changes", "spec"}
    assert web.error("create", "web", "--dry-run", code=1)["type"] == "VMExistsError"
    assert web("set", "web", "memory=4GiB", "--dry-run").stdout == "memory: 2 GiB -> 4 GiB\n"
    assert web.json("set", "web", "cpus=2", "--dry-run") == {"changes": ["cpus: 1 -> 2"]}
    assert '"cpus": 2' in web("set", "web", "cpus=2", "--dry-run", "--xml").stdout
    assert web("set", "web", "memory=2GiB", "--dry-run").stdout == "Nothing would change.\n"
    assert web("destroy", "web", "--dry-run").stdout.startswith("VM: - web (")
    assert [vm["name"] for vm in web.json("list")] == ["web"]
    assert web("show", "web", "--xml").stdout == before


def test_set(web: Shell) -> None:
    assert web("set", "web", "memory=4GiB", "cpus=2").stdout.splitlines() == [
        "cpus: 1 -> 2",
        "memory: 2 GiB -> 4 GiB",
        "Done.",
    ]
    assert web("set", "web", "memory=4GiB").stdout == "Nothing changed.\n"
    web("start", "web")
    assert web("set", "web", "cpus=3").stdout.splitlines() == ["cpus: 2 -> 3", "Done."]
    assert "next start" in web("set", "web", "headless=true").stdout
    changed = web.json("set", "web", "headless=false")
    assert (changed["result"], changed["changes"]) == ("next-start", ["options.headless: True -> False"])
    assert web.json("set", "web", "name=www")["name"] == "www"
    assert web.json("show", "www")["cpus"] == 3


def test_set_takes_options_and_the_disk_away(web: Shell) -> None:
    web("set", "web", "headless=true", "disk=/images/a=b.qcow2")
    assert web.json("show", "web")["disk_image"] == "/images/a=b.qcow2"
    web("set", "web", "options.headless=", "disk=")
    shown = web.json("show", "web")
    assert (shown["options"], shown["disk_image"]) == ({}, None)


def test_set_networks(web: Shell) -> None:
    mac = web.json("show", "web")["networks"][0]["mac_address"]
    web("set", "web", "--add-network", "bridged,source=br0", "--remove-network", mac)
    assert [card["type"] for card in web.json("show", "web")["networks"]] == ["bridged"]
    assert web.error("set", "web", "--remove-network", mac, code=2)["type"] == "InvalidNetworkError"


@pytest.mark.parametrize(
    "assignment", ["memroy=4GiB", "mem=4GiB", "cpuss=2", "network=nat", "memory=", "name=", "cpus="]
)
def test_set_refuses_slips(web: Shell, assignment: str) -> None:
    assert web.error("set", "web", assignment, code=2)["hint"]


def test_set_needs_something_to_set(web: Shell) -> None:
    assert "Nothing to set" in web("set", "web", code=2).stderr


def test_an_unknown_option_is_warned_about(web: Shell) -> None:
    result = web("set", "web", "stuborn=true")
    assert result.stderr.startswith("virtuoso: warning: ")
    assert "'stubborn'" in result.stderr
    result = web("set", "web", "stuborn=true", "--json")
    assert "'stubborn'" in json.loads(result.stderr)["warning"]
    assert json.loads(result.stdout)["ignored_options"] == {"stuborn": "true"}


# The life of a VM.


def test_lifecycle(web: Shell) -> None:
    assert web("start", "web").stdout == "web: running\n"
    assert web("start", "web").stdout == "web: running\n"
    assert web("pause", "web").stdout == "web: paused\n"
    assert web("resume", "web").stdout == "web: running\n"
    assert web("reboot", "web").stdout == "web: running\n"
    assert web("stop", "web").stdout == "web: stopped\n"
    assert web("pause", "web", code=1).stderr.startswith("virtuoso: Cannot pause")
    assert web.json("start", "web")[0]["state"] == "running"
    web("set", "web", "stubborn=true")
    assert web("stop", "web", "--now").stdout == "web: stopped\n"


def test_several_vms_go_on_after_a_failure(web: Shell) -> None:
    web("create", "db")
    result = web("start", "web", "nobody", "db", "--json", code=3)
    assert [(vm["name"], vm["state"]) for vm in json.loads(result.stdout)] == [("web", "running"), ("db", "running")]
    assert json.loads(result.stderr)["error"]["vm"] == "nobody"


def test_destroy(web: Shell) -> None:
    web("create", "db", "--disk", "/images/db.qcow2")
    web("start", "db")
    assert "--yes" in web("destroy", "web", code=2).stderr
    assert "running" in web("destroy", "db", "--dry-run", code=1).stderr
    assert web("destroy", "web", "--yes").stdout == "web: removed\n"
    web("destroy", "db", "--yes", code=1)
    assert "/images/db.qcow2 is still there" in web("destroy", "db", "--yes", "--force").stdout
    assert web.json("list") == []


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, 0), ("n\n", 1, 1), ("", 1, 1)])
def test_destroy_asks_on_a_terminal(
    web: Shell, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, left: int
) -> None:
    monkeypatch.setattr(output_module, "is_terminal", lambda stream: True)
    result = web("destroy", "web", input=answer, code=code)
    assert "Remove web? [y/N]" in result.stderr
    assert len(web.json("list")) == left


def test_passwords_are_asked_for_on_a_terminal_only(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_with_password(cls: Any, uri: Any, *, readonly: bool = False, credentials: Any = None) -> MemoryHypervisor:
        if credentials is None:
            raise AuthenticationError("Nobody to ask.")
        answers.append(credentials(CredentialRequest("password", "Password: ", str(uri))))
        return MemoryHypervisor(uri)

    answers: list[str | None] = []
    monkeypatch.setattr(MemoryHypervisor, "open", classmethod(open_with_password))
    shell("list", code=5)
    monkeypatch.setattr(output_module, "is_terminal", lambda stream: True)
    result = shell("list", input="hunter2\n")
    assert answers == ["hunter2"]
    assert "hunter2" not in result.output
    assert f"{shell.uri}: Password:" in result.output


# drivers and completion.


def test_drivers(shell: Shell) -> None:
    found = {driver["name"]: driver for driver in shell.json("drivers")}
    memory = found["memory"]
    assert memory["distribution"] == "virtuoso-core"
    assert (memory["schemes"], memory["status"], memory["cause"]) == (["memory"], "ok", None)
    assert memory["hypervisors"][0]["options"][0]["key"] == "headless"
    assert "memory" in shell("drivers").stdout
    assert "stubborn" in shell("drivers", "--options").stdout


def test_broken_drivers_are_told_and_are_no_failure() -> None:
    done = virtuoso("drivers", env=os.environ | {"VIRTUOSO_DISABLE_DRIVERS": "memory"})
    assert done.returncode == 0
    assert "disabled" in done.stdout
    assert "VIRTUOSO_DISABLE_DRIVERS" in done.stdout
    done = virtuoso("-c", "memory:///x", "list", env=os.environ | {"VIRTUOSO_DISABLE_DRIVERS": "memory"})
    assert done.returncode == 4


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_completion_scripts_parse(shell: Shell, name: str, tmp_path: Path) -> None:
    script = shell("completion", name).stdout
    assert f"_VIRTUOSO_COMPLETE={name}_complete" in script
    assert shell.json("completion", name) == {"shell": name, "script": script}
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    path = tmp_path / "script"
    path.write_text(script)
    subprocess.run([name, "-n", str(path)], check=True, capture_output=True, timeout=30)


@pytest.fixture
def offers(web: Shell) -> Callable[[str], list[str]]:
    """What is offered to a bash that cuts words at colons, equals signs and at signs."""

    def offers(line: str) -> list[str]:
        last = re.sub("[=:@]", " ", line).rpartition(" ")[2]
        env = {"_VIRTUOSO_COMPLETE": "bash_complete", "COMP_LINE": line, "COMP_BREAKS": " :=@", "COMP_CUR": last}
        result = web(env=env)
        assert result.stderr == ""
        return [text.split("\t")[1] for text in result.stdout.splitlines() if text]

    return offers


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("virtuoso st", ["start", "stop"]),
        ("virtuoso start w", ["web"]),
        ("virtuoso start web ", []),
        ("virtuoso -c memor", ["memory:///"]),
        ("virtuoso -c memory:/", ["///"]),
        ("virtuoso list --driver memo", ["memory"]),
        ("virtuoso set web m", ["memory="]),
        ("virtuoso set web stub", ["stubborn="]),
        ("virtuoso set web headless=", ["true", "false"]),
        ("virtuoso create x --network ", ["none", "nat", "bridged", "host_only", "internal"]),
        ("virtuoso -c esx://host/ start ", []),
        ("virtuoso -c memory+ssh://host/x start ", []),
        ("virtuoso -c ::: start ", []),
        ("virtuoso completion b", ["bash"]),
        ("virtuoso disk re", ["remove", "resize"]),
        ("virtuoso disk list ", ["web"]),
        ("virtuoso disk remove web ", ["/images/web.qcow2", "/images/data.qcow2"]),
        ("virtuoso disk resize web /images/d", ["/images/data.qcow2"]),
        ("virtuoso disk resize nobody ", []),
        ("virtuoso revert ", ["web"]),
        ("virtuoso revert web ", ["first", "second"]),
        ("virtuoso delete-snapshot web s", ["second"]),
        ("virtuoso snapshot web ", []),
        ("virtuoso ssh ", ["web"]),
        ("virtuoso run ", ["web"]),
        ("virtuoso run web ", []),
        ("virtuoso clone ", ["web"]),
        ("virtuoso migrate ", ["web"]),
        ("virtuoso migrate web memor", ["memory:///"]),
        ("virtuoso create x --cloud-init p", ["password=", "packages="]),
        ("virtuoso create x --cloud-init user=", []),
        ("virtuoso -c memory+ssh://host/x revert web ", []),
    ],
)
def test_completion(web: Shell, offers: Callable[[str], list[str]], line: str, expected: list[str]) -> None:
    web("set", "web", "disk=/images/web.qcow2")
    web("disk", "add", "web", "/images/data.qcow2")
    web("snapshot", "web", "first")
    web("snapshot", "web", "second")
    assert offers(line) == expected


def test_completion_quotes_for_bash(web: Shell, offers: Callable[[str], list[str]]) -> None:
    web("create", "My new VM")
    assert offers("virtuoso start My") == [r"My\ new\ VM"]
    assert offers(r"virtuoso start My\ n") == [r"My\ new\ VM"]
    assert offers('virtuoso start "My') == ["My new VM"]


def test_completion_offers_files_for_disks(
    offers: Callable[[str], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "web.qcow2").touch()
    (tmp_path / "webs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert offers("virtuoso set web disk=we") == ["web.qcow2", "webs/"]
    assert offers(f"virtuoso set web disk={tmp_path}/web.") == [f"{tmp_path}/web.qcow2"]
    assert offers("virtuoso set web cdrom=web.") == ["web.qcow2"]
    assert offers("virtuoso create x --cloud-init ssh-key=web.") == ["web.qcow2"]
    assert offers("virtuoso create x --cloud-init user-data=@web") == ["web.qcow2", "webs/"]


@pytest.mark.parametrize("name", ["zsh", "fish"])
def test_completion_for_the_other_shells(web: Shell, name: str) -> None:
    word = "1" if name == "zsh" else "sho"
    env = {"_VIRTUOSO_COMPLETE": f"{name}_complete", "COMP_WORDS": "virtuoso sho", "COMP_CWORD": word}
    assert web(env=env).stdout.split("\t")[:2] == ["plain", "show"]


def test_completion_neither_waits_nor_complains(
    offers: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    from virtuoso_core.cli import completion

    monkeypatch.setattr(completion, "_PATIENCE", 0.1)
    monkeypatch.setattr(MemoryHypervisor, "open", lambda *_, **__: time.sleep(5))
    begun = time.monotonic()
    assert offers("virtuoso start ") == []
    assert time.monotonic() - begun < 3
    monkeypatch.setattr(MemoryHypervisor, "open", lambda *_, **__: 1 / 0)
    assert offers("virtuoso start ") == []


# As a process.


def test_streams_as_a_process() -> None:
    done = virtuoso("-c", "memory:///x", "--json", "create", "web", "--set", "nonsense=1", "--network", "none")
    assert done.returncode == 0
    assert json.loads(done.stdout)["name"] == "web"
    assert list(json.loads(done.stderr)) == ["warning"]
    done = virtuoso("-c", "memory:///x", "--json", "start", "web")
    assert (done.returncode, done.stdout) == (3, "")
    assert json.loads(done.stderr)["error"]["type"] == "VMNotFoundError"


@pytest.mark.parametrize("args", [["--help"], ["drivers"], ["drivers", "--json"]])
def test_a_closed_pipe_is_quiet(args: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", "from virtuoso_core.cli import main; main()", *args]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_told() -> None:
    command = [sys.executable, "-c", "from virtuoso_core.cli import main; main()", "drivers", "--json"]
    with open("/dev/full", "w", encoding="ascii") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_interrupted() -> None:
    program = (
        "from virtuoso_core import connect; from virtuoso_core.cli import main\n"
        "vm = connect('memory:///x').new_vm(); vm.name = 'web'; vm.set('stubborn', True); vm.save(); vm.start()\n"
        "print('ready', flush=True); main(['-c', 'memory:///x', 'stop', 'web'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(1)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "")
