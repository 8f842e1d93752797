"""Agent: QEMU's guest agent, which runs commands inside a guest."""

from __future__ import annotations

import base64
import binascii
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import (
    ConnectionLostError,
    GuestAgentError,
    InvalidStateError,
    InvalidValueError,
    UnsupportedError,
    VirtuosoError,
    VMNotFoundError,
    WaitTimeoutError,
)
from ..facts import RunResult
from ..spec import State
from ..waiting import Wait
from ..xml import DomainDocument
from .binding import libvirt_qemu
from .errors import is_code, words_of

if TYPE_CHECKING:
    from .domain import LibvirtDomain

_PATIENCE = 5
"""Seconds that the agent may take for an answer, where it is asked again."""
_LONG_PATIENCE = 30
"""The same for the start of a command, which is asked for once."""
_QUESTION = 128 * 1024
"""Bytes in one question. libvirt garbles those that do not fit into a socket's buffer, and no answer comes."""
_ANSWER = 4 * 1024 * 1024
"""Bytes in one answer that libvirt carries."""
_SILENCE = ("AGENT_UNRESPONSIVE", "AGENT_UNSYNCED", "OPERATION_TIMEOUT", "AGENT_COMMAND_TIMEOUT")
"""libvirt's codes for an agent that does not answer."""
_SETTLING = 5.0
"""Seconds within which a VM is off whose channels have ended."""
INSTALL = "Install qemu-guest-agent in the guest and start it."
ADD_CHANNEL = (
    "VMs that this library makes have one. Add it with virsh edit, among the devices: <channel type='unix'>"
    "<target type='virtio' name='org.qemu.guest_agent.0'/></channel>; then stop and start the VM."
)


class Agent:
    """The agent in a guest that is running.

    Args:
        vm: whose guest.
        timeout: seconds, for all that is asked of it.
    """

    def __init__(self, vm: LibvirtDomain, timeout: float) -> None:
        self._vm = vm
        self._wait = Wait(timeout, first=0.05, longest=1.0)
        self._of = f"the guest of {vm.name!r} on {vm._hypervisor.uri}"

    def run(self, words: Sequence[str], stdin: bytes) -> RunResult:
        """Run a command to its end; raise as ``vm.run()`` does."""
        arguments: dict[str, Any] = {"path": words[0], "arg": list(words[1:]), "capture-output": True}
        if stdin:
            arguments["input-data"] = base64.b64encode(stdin).decode()
        question = _question("guest-exec", arguments)
        if len(question) > _QUESTION:
            raise InvalidValueError(
                f"The command for {self._of} and what it reads come to {len(question)} bytes as its agent takes them; "
                f"{_QUESTION} is the limit, some {_QUESTION * 3 // 4 // 1024} KiB of input.",
                hint="Bring it there another way: as a file on a disk or CD-ROM, or over the network.",
                **self._vm._where,
            )
        self._greet()
        number = self._launch(words, question)
        try:
            while (status := self._status(number, words)) is None or not status.get("exited"):
                if not self._wait.pause():
                    raise self._too_long(number, words)
        except KeyboardInterrupt:
            self._kill(number)
            raise
        if status.get("out-truncated") or status.get("err-truncated"):
            raise self._too_much(words)
        code = status.get("exitcode", 0)
        if "signal" in status:
            code = 128 + status["signal"]
        return RunResult(code, _decoded(status, "out-data"), _decoded(status, "err-data"))

    def _ask(self, question: str, longest: int = _PATIENCE) -> Any:
        vm, patience = self._vm, max(1, min(longest, math.ceil(self._wait.left)))
        answer = vm._call("ask the guest agent of", libvirt_qemu().qemuAgentCommand, vm._domain, question, patience, 0)
        return json.loads(answer)["return"]

    def _greet(self) -> None:
        """Wait until it answers."""
        while True:
            try:
                self._ask(_question("guest-ping"))
                return
            except UnsupportedError as error:
                if is_code(error, "NO_SUPPORT"):
                    raise  # no QEMU is behind this connection
                raise GuestAgentError(
                    f"Nothing can be run in {self._of}: the VM has no channel to a guest agent.",
                    hint=ADD_CHANNEL,
                    **self._vm._where,
                ) from error
            except (ConnectionLostError, VMNotFoundError):
                raise
            except VirtuosoError as error:
                self._check_on(error)
                if not self._wait.pause():
                    why = "its agent does not answer" if self._is_connected() else "no agent runs in it"
                    raise GuestAgentError(
                        f"Nothing can be run in {self._of}: {why}, after {self._wait.elapsed:.0f} s.",
                        hint=f"{INSTALL} It does run there? Start it again.",
                        **self._vm._where,
                    ) from error

    def _is_connected(self) -> bool:
        return is_connected(DomainDocument(self._vm._call("look at", self._vm._domain.XMLDesc, 0)))

    def _launch(self, words: Sequence[str], question: str) -> int:
        try:
            return int(self._ask(question, _LONG_PATIENCE)["pid"])
        except (ConnectionLostError, VMNotFoundError):
            raise
        except VirtuosoError as error:
            self._check_on(error, was_there=True)
            where = self._vm._where
            if is_code(error, *_SILENCE):
                raise GuestAgentError(
                    f"The agent in {self._of} was told to run {_short(words)} and did not answer: whether it runs is "
                    "not known.",
                    hint="Look before you run it again.",
                    **where,
                ) from error
            if not self._may_run():
                raise GuestAgentError(
                    f"The agent in {self._of} does not run commands: guest-exec is switched off there.",
                    hint="In the guest, take guest-exec out of block-rpcs (blacklist, BLACKLIST_RPC) in "
                    "/etc/qemu/qemu-ga.conf or /etc/sysconfig/qemu-ga, and start the agent again.",
                    **where,
                ) from error
            raise GuestAgentError(
                f"The agent in {self._of} could not start {_short(words)}: {words_of(error)}.",
                hint='Is the program there? Name it with its whole path, or let a shell find it: ["sh", "-c", "..."].',
                **where,
            ) from error

    def _may_run(self) -> bool:
        try:
            known = self._ask(_question("guest-info"))["supported_commands"]
        except VirtuosoError:
            return True  # it does not tell
        return any(command["name"] == "guest-exec" and command["enabled"] for command in known)

    def _status(self, number: int, words: Sequence[str]) -> dict[str, Any] | None:
        """What became of the command; None when the agent did not answer this time."""
        try:
            status: dict[str, Any] = self._ask(_question("guest-exec-status", {"pid": number}))
            return status
        except (ConnectionLostError, VMNotFoundError):
            raise
        except VirtuosoError as error:
            self._check_on(error, was_there=True)
            if is_code(error, "RPC", "SYSTEM_ERROR"):
                raise self._too_much(words) from error
            if is_code(error, *_SILENCE):
                return None
            raise GuestAgentError(
                f"What became of {_short(words)} in {self._of} is not known: its agent was started anew meanwhile.",
                **self._vm._where,
            ) from error

    def _check_on(self, error: VirtuosoError, *, was_there: bool = False) -> None:
        """The VM may have stopped, which its agent cannot tell; one that was there goes a moment before the VM."""
        settling = Wait(_SETTLING if was_there else 0)
        while (state := self._vm._get_state()) in (State.RUNNING, State.PAUSED):
            if not was_there or self._is_connected() or not settling.pause():
                break
        if state not in (State.RUNNING, State.PAUSED):
            raise InvalidStateError(
                f"The VM {self._vm.name!r} on {self._vm._hypervisor.uri} stopped while its agent was asked; it is "
                f"{state}.",
                hint="Start it first: vm.start().",
                **self._vm._where,
            ) from error

    def _too_much(self, words: Sequence[str]) -> GuestAgentError:
        return GuestAgentError(
            f"The command {_short(words)} in {self._of} printed more than its agent can hand out, some "
            f"{_ANSWER * 3 // 4 >> 20} MiB: what it printed is lost.",
            hint="Let it write into a file in the guest. If the agent does not answer any more, start it again there.",
            **self._vm._where,
        )

    def _too_long(self, number: int, words: Sequence[str]) -> WaitTimeoutError:
        elapsed, timeout = self._wait.elapsed, self._wait.timeout
        outcome, printed = self._kill(number)
        shown = f" Its last words: {printed!r}." if printed else ""
        return WaitTimeoutError(
            f"The command {_short(words)} in {self._of} did not end within {timeout:g} s; {outcome}.{shown}",
            phase="command",
            elapsed=elapsed,
            evidence=printed or outcome,
            hint="Give it more time: vm.run(..., timeout=600).",
            **self._vm._where,
        )

    def _kill(self, number: int) -> tuple[str, str]:
        """End the command; tell in words whether it did, and the last that it printed."""
        self._wait = Wait(3.0, first=0.05)
        try:
            try:
                self._ask(_question("guest-exec", {"path": "kill", "arg": ["-9", str(number)]}))
            except VirtuosoError as error:
                if is_code(error, *_SILENCE):
                    raise
                self._ask(_question("guest-exec", {"path": "taskkill", "arg": ["/F", "/T", "/PID", str(number)]}))
            while True:
                status = self._ask(_question("guest-exec-status", {"pid": number}))
                if status.get("exited"):
                    printed = _decoded(status, "out-data") + _decoded(status, "err-data")
                    return "it was killed", printed[-200:].decode(errors="replace")
                if not self._wait.pause():
                    return "it was killed, and what it started goes on", ""
        except VirtuosoError as error:
            return f"it could not be killed ({words_of(error)}) and may go on", ""


def is_connected(document: DomainDocument) -> bool:
    """Whether an agent has opened its end of the channel; one that is stuck has, too."""
    channel = document.agent_channel
    return channel is not None and channel.state == "connected"


def _question(command: str, arguments: Mapping[str, Any] | None = None) -> str:
    return json.dumps({"execute": command, "arguments": dict(arguments or {})})


def _decoded(status: Mapping[str, Any], key: str) -> bytes:
    try:
        return base64.b64decode(status.get(key) or "")
    except binascii.Error:
        return b""  # cut off by the agent, which says so apart


def _short(words: Sequence[str]) -> str:
    text = shlex.join(words)
    return repr(text if len(text) <= 60 else text[:57] + "...")
