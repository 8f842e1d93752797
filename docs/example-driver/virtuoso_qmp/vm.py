"""QmpVM: what is done to one VM."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtuoso_core import VM, SaveResult, State, VMSpec
from virtuoso_core.errors import HypervisorError, InvalidStateError, VMNotFoundError
from virtuoso_core.images import delete_image

from . import qemu, store

if TYPE_CHECKING:
    from .driver import QmpHypervisor

_STATES = {"running": State.RUNNING, "shutdown": State.RUNNING}
_STATES |= dict.fromkeys(("paused", "prelaunch", "suspended", "io-error", "debug", "watchdog"), State.PAUSED)


class QmpVM(VM):
    """A VM: a folder, and while it is on a process."""

    _hypervisor: QmpHypervisor

    @property
    def _folder(self) -> Path:
        return self._hypervisor.folder / self._uuid

    # Its configuration.

    def _document(self) -> store.Document:
        found = self._hypervisor.call(f"read the VM {self._title}", store.load, self._folder)
        if found is None:
            raise VMNotFoundError(f"The VM {self._title} is gone from {self._hypervisor.uri}.", **self._where)
        return found

    def _read(self) -> VMSpec:
        return VMSpec.from_dict(self._document())

    def _create(self, spec: VMSpec) -> str:
        folder = self._hypervisor.folder / str(uuid.uuid4())
        with self._hypervisor.locked(), ExitStack() as undo:
            self._check_name_free(spec.name)
            document = self._merged({"disk_image": None, "disk_format": None}, spec)
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            self._hypervisor.call("make the VM's folder", os.mkdir, folder, 0o700)
            self._hypervisor.call("write the VM", store.write, folder, document)
            undo.pop_all()  # it is made
        return folder.name

    def _update(self, spec: VMSpec, changed: frozenset[str]) -> SaveResult:
        with self._hypervisor.locked():
            before = self._document()
            self._check_name_free(spec.name)
            after = self._merged(before, VMSpec.from_dict(before).with_values_of(spec, changed))
            waits = self._process() is State.RUNNING and changed != {"name"}  # QEMU does not know the name
            self._overwritten = {key: value for key, value in before.items() if value != after[key]}
            self._hypervisor.call("write the VM", store.write, self._folder, after)
            return SaveResult.NEXT_START if waits else SaveResult.APPLIED

    def _undo_update(self) -> None:
        with self._hypervisor.locked():
            self._hypervisor.call("write the VM", store.write, self._folder, self._document() | self._overwritten)

    def _merged(self, document: store.Document, spec: VMSpec) -> store.Document:
        """The spec over the document. The disk's format is looked at now: later the guest may forge it."""
        merged = document | spec.to_dict()
        if spec.disk_image != document["disk_image"]:
            merged["disk_format"] = self._image_format(spec.disk_image)
        return merged

    def _image_format(self, image: str | None) -> str | None:
        return image and self._hypervisor.call("look at the disk image", qemu.image_format, image)

    def _render(self, spec: VMSpec, changed: frozenset[str]) -> str:
        document = self._document() if self._uuid else {}
        return json.dumps(document | spec.to_dict(), indent=2, ensure_ascii=False)

    # Its process.

    def _process(self) -> State:
        return self._hypervisor.call("look at the VM's process", qemu.state, self._folder)

    def _qmp(self, command: str, **arguments: Any) -> Any:
        what = f"do {command} with the VM {self._title}"
        try:
            return self._hypervisor.call(what, qemu.execute, self._folder, command, arguments)
        except HypervisorError as error:
            if self._process() is State.RUNNING:
                error.hint = "Where QEMU hangs, vm.stop(timeout=0) pulls the plug."
                raise
            raise InvalidStateError(f"Cannot {what}: it is off.", hint="Start it first.", **self._where) from error

    def _get_state(self) -> State:
        end = time.monotonic() + qemu.ANSWER
        while time.monotonic() < end:
            self._document()
            if (state := self._process()) is not State.RUNNING:
                return state
            with suppress(HypervisorError, InvalidStateError):  # it starts or ends at the moment, or hangs
                return _STATES.get(self._qmp("query-status")["status"], State.UNKNOWN)
            time.sleep(0.05)
        return State.UNKNOWN

    def _prepare_start(self, start_networks: bool) -> None:
        self._image_format(self._read().disk_image)

    def _start(self) -> None:
        with self._hypervisor.locked():
            if self._process() is not State.RUNNING:
                self._hypervisor.call(f"start the VM {self._title}", qemu.start, self._folder, self._document())

    def _power_off(self) -> None:
        with self._hypervisor.locked():
            self._document()
            self._hypervisor.call(f"pull the plug of the VM {self._title}", qemu.kill, self._folder)

    def _undefine(self) -> None:
        with self._hypervisor.locked():
            self._document()
            if self._process() is State.RUNNING:
                raise InvalidStateError(f"The VM {self._title} was started meanwhile; it stays.", **self._where)
            self._hypervisor.call("remove the VM", os.unlink, self._folder / "vm.json")
            shutil.rmtree(self._folder, ignore_errors=True)  # without vm.json it is no VM any more

    def _request_stop(self) -> None:
        self._qmp("system_powerdown")

    def _reboot(self) -> None:
        self._qmp("system_reset")

    def _pause(self) -> None:
        self._qmp("stop")

    def _resume(self) -> None:
        asleep = self._qmp("query-status")["status"] == "suspended"
        self._qmp("system_wakeup" if asleep else "cont")

    def _screenshot(self) -> bytes:
        picture = self._folder / f"screen-{secrets.token_hex(4)}.png"
        try:
            self._qmp("screendump", filename=str(picture), format="png")
            return self._hypervisor.call("read the picture", picture.read_bytes)
        finally:
            picture.unlink(missing_ok=True)

    def _delete_image(self, path: str) -> None:
        self._hypervisor.call("delete the disk image", delete_image, path)

    def _native(self) -> Any:
        """Takes any command of QMP: ``vm.native("query-block")``."""
        return self._qmp
