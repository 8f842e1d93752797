"""The commands about a running guest: ip, ssh, run, console, screenshot, display."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import IO, TextIO

import click

from ..diagnosis import install
from ..errors import UnsupportedError
from ..facts import Address
from . import parameters
from .acting import again
from .app import Command, settings
from .output import is_terminal, note, say, say_json
from .progress import waiting

timeout = click.option(
    "--timeout", metavar="SECONDS", type=float, default=120, show_default=True, help="How long to wait at most."
)


@click.command(cls=Command)
@parameters.one
@click.option("--wait", is_flag=True, help="Wait until it has one.")
@timeout
def ip(name: str, wait: bool, timeout: float) -> None:
    """Print the IP addresses of a guest, one a line.

    \b
    virtuoso ip web
    virtuoso ip web --wait --timeout 60
    """
    with settings().connect() as hypervisor:
        vm = hypervisor.get(name)
        waited: list[Address] = []
        if wait:
            with waiting(f"Waiting for an address of {vm.name}"):
                waited = [vm.wait_for_address(timeout)]
        found = list(vm.addresses()) or waited
    if settings().json:
        say_json([asdict(address) for address in found])
    elif found:
        for address in found:
            say(address.ip)
    else:
        note(f"No address of {vm.name} is known now. Wait for one: {again('ip', vm.name)} --wait")


@click.command(
    cls=Command,
    short_help="Wait for a guest's ssh, and sign in.",
    context_settings={"allow_interspersed_args": False},
)
@click.option("-l", "--user", metavar="USER", help="Sign in as this user.")
@click.option("-p", "--port", metavar="PORT", type=int, default=22, show_default=True, help="Where its ssh listens.")
@timeout
@parameters.one
@click.argument("words", metavar="[SSH-WORDS]...", nargs=-1, type=click.UNPROCESSED)
def ssh(name: str, user: str | None, port: int, timeout: float, words: Sequence[str]) -> None:
    """Wait for a guest's ssh, and sign in by the ssh of this machine.

    Options stand before the VM's name. What stands after it is passed on to ssh, options of ssh's first, then a
    command.

    \b
    virtuoso ssh web
    virtuoso ssh -l debian web -i ~/.ssh/id_ed25519 uname -a
    """
    program = shutil.which("ssh")
    if program is None:
        hint = f"Install it:\n{install('openssh-client', 'openssh-clients')}"
        raise UnsupportedError("There is no ssh on this machine.", hint=hint)
    with settings().connect() as hypervisor:
        vm = hypervisor.get(name)
        with waiting(f"Waiting for ssh of {vm.name}"):
            address = vm.wait_for(port, timeout)
    options, command = _split(words)
    line = [program, "-p", str(port), *(["-l", user] if user else []), *options, address.ip, *command]
    sys.stdout.flush()
    os.execv(program, line)  # noqa: S606 - an argument list, and no shell is wanted


_SSH_FLAGS = frozenset("1246AaCfGgKkMNnqsTtVvXxYy")
"""The options of ssh that stand alone; each other one has a value, in the same word or in the next."""


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options of ssh, and the command."""
    at = 0
    while at < len(words) and words[at].startswith("-") and len(words[at]) > 1:
        if words[at] == "--":
            return list(words[:at]), list(words[at + 1 :])
        first = next((number for number, c in enumerate(words[at][1:], 1) if c not in _SSH_FLAGS), None)
        takes_next = first is not None and first == len(words[at]) - 1
        at += 2 if takes_next else 1
    return list(words[:at]), list(words[at:])


@click.command(
    cls=Command,
    short_help="Run a command inside a guest.",
    context_settings={"allow_interspersed_args": False},
)
@click.option(
    "--timeout", metavar="SECONDS", type=float, default=60, show_default=True, help="How long it may take at most."
)
@click.option("--input", metavar="FILE", type=click.File("rb"), help="What it reads; - for what is piped in here.")
@parameters.one
@click.argument("words", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
def run(name: str, timeout: float, input: IO[bytes] | None, words: Sequence[str]) -> int:
    """Run a command inside a guest, by its agent; exit with the command's own exit code.

    Options stand before the VM's name. The command reads nothing, unless --input says what.

    \b
    virtuoso run web uname -a
    virtuoso run --timeout 300 web sh -c 'apt-get update && apt-get -y upgrade'
    virtuoso run --input - web tee /etc/motd <motd
    """
    command = list(words[1:] if words[0] == "--" else words)
    stdin = b"" if input is None else input.read()
    with settings().connect() as hypervisor:
        result = hypervisor.get(name).run(command, input=stdin, timeout=timeout)
    if settings().json:
        out, errors = (text.decode(errors="replace") for text in (result.stdout, result.stderr))
        say_json({"exit_code": result.exit_code, "stdout": out, "stderr": errors})
        return result.exit_code
    _write(sys.stdout, result.stdout)
    _write(sys.stderr, result.stderr)
    return result.exit_code


def _write(stream: TextIO | None, data: bytes) -> None:
    """Bytes as they are; nowhere, where the stream was closed by whoever started us."""
    if stream is not None:
        stream.flush()
        stream.buffer.write(data)
        stream.flush()


@click.command(cls=Command, short_help="Write a guest's screen into a PNG file.")
@parameters.one
@click.argument("file", required=False, type=click.Path(dir_okay=False))
def screenshot(name: str, file: str | None) -> None:
    """Write what a guest's screen shows into a PNG file: NAME.png, or - for stdout.

    \b
    virtuoso screenshot web
    virtuoso screenshot web - | display
    """
    if file == "-" and is_terminal(sys.stdout):
        raise click.UsageError("A terminal shows no PNG file: name a file, or pipe it into a program.")
    with settings().connect() as hypervisor:
        vm = hypervisor.get(name)
        picture, name = vm.screenshot(), vm.name
    if file == "-":
        _write(sys.stdout, picture)
        return
    file = file or f"{name}.png"
    with open(file, "wb") as out:
        out.write(picture)
    if settings().json:
        say_json({"name": name, "file": file})
    else:
        say(f"Wrote {file}.")


@click.command(cls=Command, short_help="Tell where a VM's screen can be seen.")
@parameters.one
def display(name: str) -> None:
    """Print where a VM's screen can be seen, such as vnc://127.0.0.1:5900.

    \b
    virtuoso display web
    """
    with settings().connect() as hypervisor:
        vm = hypervisor.get(name)
        found = vm.display
    if settings().json:
        say_json(None if found is None else asdict(found) | {"url": str(found)})
    elif found is None:
        note(f"{vm.name} has no screen.")
    else:
        say(str(found))


@click.command(cls=Command)
@parameters.one
@click.option("--force", is_flag=True, help="Take the console away from whoever has it.")
def console(name: str, force: bool) -> None:
    """Sit at a guest's serial console; Ctrl-] leaves it.

    In a pipe it prints what the guest writes until the VM stops, and types what is piped in.

    \b
    virtuoso console web
    """
    from .terminal import attend

    with settings().connect() as hypervisor:
        vm = hypervisor.get(name)
        with vm.console(force=force) as stream:
            people = is_terminal(sys.stdin)
            if people:
                note(f"Connected to the serial console of {vm.name}. Ctrl-] leaves it.")
            left = attend(stream)
            if people:
                note(f"\nLeft the console of {vm.name}." if left else f"\nThe console of {vm.name} ended.")
