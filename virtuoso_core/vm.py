"""VM: the abstract spec of a virtual machine. Drivers subclass it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from .calls.base import OFF, VMBase
from .calls.disks import DiskCalls
from .calls.guest import GuestCalls
from .calls.running import RunningCalls
from .calls.snapshots import SnapshotCalls
from .changes import diff_text, listing, not_applied
from .errors import (
    ConflictError,
    HypervisorError,
    InvalidNetworkError,
    InvalidStateError,
    InvalidValueError,
    NotAppliedError,
    StopTimeoutError,
    UnknownOptionWarning,
    UnsupportedError,
    VirtuosoError,
    VMNotFoundError,
)
from .events import EventType
from .spec import Feature, Network, SaveResult, State, VMSpec, check_cpus, parse_memory
from .waiting import Wait

_ASK_AGAIN = 10.0
"""Seconds after which a guest that still runs is asked again to stop: one that was booting did not hear."""


class VM(DiskCalls, GuestCalls, RunningCalls, SnapshotCalls, VMBase):
    """A virtual machine: edit its fields, ``save()`` them, control it.

    Reading a field reads the configuration once and keeps it; ``reload()`` reads it anew. Edits are yours until
    ``save()`` writes exactly them. ``state`` is asked at each look.

    Example:
        >>> from virtuoso_core import connect
        >>> hypervisor = connect("memory:///example")
        >>> vm = hypervisor.new_vm()
        >>> vm.name, vm.memory = "web", "2 GiB"
        >>> vm.save()
        <SaveResult.APPLIED: 'applied'>
        >>> vm.start()
        >>> vm.state
        <State.RUNNING: 'running'>
    """

    # The fields.

    @property
    def memory(self) -> int:
        """The guest's memory in KiB. Takes an int of KiB or a text: ``vm.memory = "512 MiB"``.

        A hypervisor that knows only larger steps rounds up.

        Raises:
            InvalidValueError: no amount of memory, or none that makes sense.
        """
        return self._current().memory

    @memory.setter
    def memory(self, value: int | str) -> None:
        self._edit(memory=self._hypervisor._memory_size(parse_memory(value)))

    @property
    def cpus(self) -> int:
        """The number of virtual CPUs.

        Raises:
            InvalidValueError: not an int from 1 to 4096.
        """
        return self._current().cpus

    @cpus.setter
    def cpus(self, value: int) -> None:
        self._edit(cpus=check_cpus(value))

    @property
    def disk_image(self) -> str | None:
        """The main disk: a path on the hypervisor's host, or None for no disk.

        The image itself is looked at by ``save()``, which raises ImageNotFoundError, ImageFormatError.
        """
        return self._current().disk_image

    @disk_image.setter
    def disk_image(self, value: str | os.PathLike[str] | None) -> None:
        self._edit(disk_image=None if value is None else self._image(value, "the path of a disk image"))

    @property
    def networks(self) -> tuple[Network, ...]:
        """The network cards in their order; ``network()`` adds one, ``remove_network()`` takes one away."""
        return self._current().networks

    def network(
        self,
        type: str = "nat",
        *,
        mac_address: str | None = None,
        source: str | None = None,
        model: str | None = None,
    ) -> Network:
        """Add a network card.

        Args:
            type: "nat", "bridged", "host_only" or "internal"; ``hypervisor.networks`` tells which ones are here.
            mac_address: made up when left out.
            source: the host's network, bridge or card to join; the type's usual one when left out.
            model: the card that the guest sees, in the hypervisor's word; a good one when left out.

        Raises:
            UnsupportedNetworkError: this hypervisor has no such type.
            InvalidNetworkError: a bad or repeated MAC address, a source that the type needs and did not get.

        Example:
            >>> from virtuoso_core import connect
            >>> vm = connect("memory:///example").new_vm()
            >>> vm.network("nat", mac_address="52:54:00:45:67:89")
            Network(type='nat', mac_address='52:54:00:45:67:89', source=None, model=None)
        """
        current = self._current()
        made = self._hypervisor._make_network(
            type,
            mac_address=mac_address,
            source=source,
            model=model,
            taken={network.mac_address for network in current.networks},
        )
        self._edit(networks=(*current.networks, made))
        return made

    def remove_network(self, network: Network | str) -> None:
        """Take a network card away, named by what ``networks`` lists or by its MAC address.

        Raises:
            InvalidNetworkError: the VM has no such card; those it has are listed.
        """
        mac = network.mac_address if isinstance(network, Network) else str(network).strip().lower().replace("-", ":")
        current = self._current()
        kept = tuple(card for card in current.networks if card.mac_address != mac)
        if len(kept) == len(current.networks):
            there = ", ".join(card.mac_address for card in current.networks) or "none"
            raise InvalidNetworkError(f"The VM {self._title} has no network card {mac!r}.", hint=f"It has: {there}.")
        self._edit(networks=kept)

    def set(self, key: str, value: object) -> None:
        """Set an option that means something to some hypervisors and is ignored by the rest.

        Args:
            key: ``hypervisor.options`` lists those of this hypervisor. A key that it does not know is kept in
                ``ignored_options``; when no installed driver knows it, UnknownOptionWarning says so.
            value: None takes the option away, back to the hypervisor's own default.

        Raises:
            InvalidOptionError: a known key with a value that it does not take.

        Example:
            >>> from virtuoso_core import connect
            >>> vm = connect("memory:///example").new_vm()
            >>> vm.set("headless", True)
            >>> vm.options["headless"]
            True
        """
        if not isinstance(key, str):
            raise InvalidValueError(f"The key of an option is a str, not {type(key).__name__}.")
        option = self._hypervisor.options.get(key)
        if option is None:
            self._ignored[key] = value
            self._warn_unknown(key)
            return
        options = dict(self._current().options)
        if value is None:
            options.pop(key, None)
        else:
            options[key] = option.parse(value)
        self._edit(options=MappingProxyType(options))

    @property
    def options(self) -> Mapping[str, Any]:
        """The values of the options that this hypervisor knows and that are set."""
        return self._current().options

    @property
    def ignored_options(self) -> Mapping[str, Any]:
        """What was ``set()`` with keys that this hypervisor does not know."""
        return MappingProxyType(self._ignored)

    # Saving.

    def save(self, *, force: bool = False) -> SaveResult:
        """Write what was edited, and only that.

        Args:
            force: write even the fields that somebody else changed meanwhile.

        Returns:
            SaveResult.UNCHANGED when nothing differed (no call is made), APPLIED when the change is in force,
            NEXT_START when the VM runs and the change waits for its next start.

        Raises:
            ConflictError: somebody else changed a field that you changed too; nothing was written.
            VMExistsError: the name is taken.
            VMNotFoundError: the VM was deleted meanwhile.
            NotAppliedError: the hypervisor took the change and did not make it; the VM is as it was.
            SaveVetoedError: a plugin refused.
            UnsupportedError: this hypervisor cannot change that on an existing VM.
            ReadOnlyError, ImageError and its subclasses.
        """
        draft, baseline = self._draft, self._baseline
        if not self._new and (draft is None or baseline is None or draft == baseline):
            return SaveResult.UNCHANGED
        assert draft is not None
        assert baseline is not None
        self._present(writing=f"save the VM {self._title}")
        with self._seed_written(draft) as draft:
            result = self._save_new(draft) if self._new else self._save_changes(baseline, draft, force)
        if result is not SaveResult.UNCHANGED:
            self._emit(EventType.SAVED)
        return result

    def _save_new(self, draft: VMSpec) -> SaveResult:
        if not draft.name:
            raise InvalidValueError("The VM has no name.", hint='Set one before save(): vm.name = "web-1".')
        self._ask_plugins(draft.changed_from(VMSpec("", 0, 0)))
        self._uuid = self._create(draft)
        self._new = False
        self._known_name = draft.name
        self._baseline = self._draft = None  # the hypervisor may have added to it: read when next looked at
        return SaveResult.APPLIED

    def _save_changes(self, baseline: VMSpec, draft: VMSpec, force: bool) -> SaveResult:
        changed = draft.changed_from(baseline)
        self._hypervisor._require(Feature.MODIFY, f"change the existing VM {self._title}")
        if "name" in changed:
            self._hypervisor._require(Feature.RENAME, f"rename the VM {self._title}")
        self._check_modifiable(changed)
        self._ask_plugins(changed)
        fresh = self._read()
        if not force:
            self._check_conflicts(baseline, draft, fresh, changed & fresh.changed_from(baseline))
        target = fresh.with_values_of(draft, changed)
        to_write = target.changed_from(fresh)
        if not to_write:
            self._remember(fresh)
            return SaveResult.UNCHANGED
        result = self._update(target, to_write)
        try:
            found = self._read()
        except VirtuosoError:
            self._undo_update()  # what cannot be verified is not kept
            raise
        options = self._hypervisor.options
        kept = not_applied(target, found, to_write, options)
        if kept:
            self._undo_update()
            raise NotAppliedError(
                f"{self._hypervisor.uri} accepted new settings for the VM {self._title} and kept "
                f"{listing(kept, found, options)} instead of {listing(kept, target, options)}. The VM is as it was.",
                hint="Its configuration fixes that elsewhere: look at vm.spec.",
                **self._where,
            )
        self._known_name = found.name
        self._remember(found)
        return result

    def _check_modifiable(self, changed: frozenset[str]) -> None:
        hypervisor = self._hypervisor
        free = hypervisor.modifiable | {"name"}
        fixed = sorted(name for name in changed if name not in free and name.partition(".")[0] not in free)
        if fixed:
            raise UnsupportedError(
                f"The {hypervisor.name} driver cannot change {', '.join(fixed)} of the existing VM {self._title}; "
                "nothing was changed.",
                hint=f"It can change {', '.join(sorted(hypervisor.modifiable))}. For the rest, make a new VM.",
                vm=self._known_name,
                uri=hypervisor.uri,
            )

    def _check_conflicts(self, baseline: VMSpec, draft: VMSpec, fresh: VMSpec, both: frozenset[str]) -> None:
        options, theirs, mine = self._hypervisor.options, fresh.values(), draft.values()
        fields = sorted(name for name in both if theirs.get(name) != mine.get(name))
        if fields:
            raise ConflictError(
                f"Somebody else changed the VM {self._title} meanwhile: now {listing(fields, fresh, options)}, "
                f"and you want {listing(fields, draft, options)}. Nothing was written.",
                hint="Call vm.reload() and edit again, or vm.save(force=True) to have your way.",
                fields=fields,
                **self._where,
            )

    def reload(self) -> None:
        """Read the configuration anew; unsaved edits are dropped.

        Raises:
            VMNotFoundError: the VM was deleted meanwhile.
            InvalidStateError: the VM was never saved.
        """
        self._present()
        if self._new:
            raise InvalidStateError("The VM was never saved: there is nothing to reload.", hint="Call vm.save() first.")
        found = self._read()
        self._known_name = found.name
        self._remember(found)

    def diff(self) -> str:
        """What ``save()`` would change, one line a field; "" when nothing.

        Example:
            >>> from virtuoso_core import connect
            >>> vm = connect("memory:///example").new_vm()
            >>> vm.name, vm.memory = "web", "2 GiB"
            >>> print(vm.diff())
            memory: 1 GiB -> 2 GiB
            name: (not set) -> 'web'
        """
        if self._draft is None or self._baseline is None:
            return ""
        return diff_text(self._baseline, self._draft, self._hypervisor.options)

    @property
    def spec(self) -> str:
        """The VM's whole configuration with all unsaved edits, in the hypervisor's language (domain XML for libvirt).

        It may hold passwords.
        """
        self._present()
        current = self._current()
        assert self._baseline is not None
        return self._render(current, current.changed_from(self._baseline))

    @property
    def native(self) -> Any:
        """The hypervisor library's own object for those who need it, such as libvirt's virDomain.

        Raises:
            UnsupportedError: this driver has none.
            InvalidStateError: the VM was never saved.
        """
        self._require_saved("has no native object yet")
        return self._native()

    # Controlling.

    @property
    def state(self) -> State:
        """What the VM is doing now.

        Raises:
            VMNotFoundError: it was deleted.
        """
        self._present()
        return State.NEW if self._new else self._get_state()

    def start(self, *, start_networks: bool = False) -> None:
        """Start the VM; one that is paused goes on, one that is running stays so.

        Args:
            start_networks: also start (and define, for the hypervisor's usual one) the host's networks that it needs.

        Raises:
            ImageError and its subclasses, NetworkError and its subclasses: found before the start.
            InvalidStateError: it was never saved.
            NotEnoughMemoryError, PortInUseError, NoSpaceError: what could be seen to be the cause when it failed.
            HypervisorError: the hypervisor could not start it, for another reason.
        """
        self._require_saved("cannot be started", writing="start")
        state = self._get_state()
        if state is State.RUNNING:
            return
        if state is State.PAUSED:
            self._hypervisor._require(Feature.PAUSE, f"resume the paused VM {self._title}")
            self._resume()
        else:
            self._prepare_start(start_networks)
            if state is State.CRASHED:
                self._power_off()
            self._start()
        self._emit(EventType.STARTED)

    def stop(self, timeout: float = 60, *, force: bool = True) -> None:
        """Ask the guest to stop, wait, then pull the plug; one that is off stays so.

        Args:
            timeout: seconds to wait for the guest; 0 pulls the plug at once.
            force: False never pulls the plug: the guest is asked, even with timeout=0.

        Raises:
            StopTimeoutError: with force=False, the guest did not stop in time; the message tells its last state.
            UnsupportedError: with force=False, this hypervisor cannot ask the guest, or not this one.
        """
        wait = Wait(timeout, first=0.05, longest=0.5)
        self._require_saved("cannot be stopped", writing="stop")
        state = self._get_state()
        if state in OFF:
            return
        if state is State.CRASHED:
            self._power_off()
            self._emit(EventType.STOPPED)
            return
        can_ask = Feature.SHUTDOWN in self._hypervisor.features
        if not force and not can_ask:
            self._hypervisor._require(
                Feature.SHUTDOWN, f"ask the guest of {self._title} to stop", "stop() pulls the plug."
            )
        if can_ask and (timeout > 0 or not force):
            if state is State.PAUSED and Feature.PAUSE in self._hypervisor.features:
                self._resume()  # a guest that stands still cannot hear
            try:
                state = self._wait_until_off(wait, force)
            except UnsupportedError:
                if not force:
                    raise  # else: a guest that cannot be asked is not waited for
        if state not in OFF:
            if not force and state is not State.CRASHED:
                raise StopTimeoutError(
                    f"The guest of {self._title} did not stop within {timeout:g} s; it is {state}.",
                    hint="It may ignore the power button. stop() without force=False pulls the plug after its timeout.",
                    **self._where,
                )
            self._power_off()
        self._emit(EventType.STOPPED)

    def _wait_until_off(self, wait: Wait, force: bool) -> State:
        ask_at = 0.0
        while True:
            if wait.elapsed >= ask_at:
                ask_at = wait.elapsed + _ASK_AGAIN
                try:
                    self._request_stop()
                except InvalidStateError:
                    pass  # it went off between the look and the call: the next look tells
                except HypervisorError:
                    if not force:
                        raise  # else: the plug is pulled in the end, whatever keeps it from asking
            state = self._get_state()
            if state in (*OFF, State.CRASHED) or not wait.pause():
                return state

    def reboot(self) -> None:
        """Ask the guest to start anew.

        Raises:
            InvalidStateError: it is not running.
            UnsupportedError: this hypervisor cannot.
        """
        self._control("reboot", Feature.REBOOT, self._reboot, EventType.REBOOTED, wants=State.RUNNING)

    def pause(self) -> None:
        """Let the guest stand still, in memory; one that is paused stays so.

        Raises:
            InvalidStateError: it is not running.
            UnsupportedError: this hypervisor cannot.
        """
        self._control("pause", Feature.PAUSE, self._pause, EventType.PAUSED, wants=State.RUNNING, done=State.PAUSED)

    def resume(self) -> None:
        """Let a paused guest go on; one that is running stays so.

        Raises:
            InvalidStateError: it is neither paused nor running.
            NoSpaceError: its host is full, which stopped it, and stops it again.
            UnsupportedError: this hypervisor cannot.
        """
        self._control("resume", Feature.PAUSE, self._resume, EventType.RESUMED, wants=State.PAUSED, done=State.RUNNING)

    def _control(
        self,
        doing: str,
        feature: Feature,
        act: Callable[[], None],
        event: EventType,
        *,
        wants: State,
        done: State | None = None,
    ) -> None:
        self._hypervisor._require(feature, f"{doing} VMs")
        self._require_saved(f"cannot {doing}", writing=doing)
        accepted = (wants,) if done is None else (wants, done)
        if self._require_state(f"Cannot {doing} the VM {self._title}: it", *accepted) is done:
            return
        act()
        self._emit(event)

    def destroy(self, *, force: bool = False, delete_disk: bool = False) -> None:
        """Remove the VM with all that the hypervisor keeps of it (NVRAM, saved memory, snapshots' records).

        Its disk images stay, unless asked for; what ``cloud_init()`` wrote goes. A VM that is already gone stays so.

        Args:
            force: also remove a VM that is running, by pulling its plug.
            delete_disk: delete the files of all its ``disks`` too, but not what they are overlays of.

        Raises:
            InvalidStateError: it is running and force is False.
            ImageInUseError: delete_disk, and another VM has one of them, or an overlay of it; nothing was removed.
            UnsupportedError: delete_disk, and this hypervisor cannot; nothing was removed.
            ImageError: a file could not be deleted; the VM is gone, unless the disk is a block device, which stays.
        """
        from . import images
        from .storage import check_unused, delete_seed

        self._hypervisor._ready(writing=f"destroy the VM {self._title}")
        if delete_disk:
            self._hypervisor._require(Feature.DELETE_DISK, "delete disk images", "Leave out delete_disk.")
        if self._gone or self._new:
            self._gone = True
            return
        try:
            spec = self._read()
            disks = [disk for disk in (spec.disk_image, *spec.more_disks) if disk is not None] if delete_disk else []
            state = self._get_state()
            if state not in (*OFF, State.CRASHED) and not force:
                raise InvalidStateError(
                    f"The VM {self._title} is {state}; it was not removed.",
                    hint="Stop it first, or pull its plug: vm.destroy(force=True).",
                    **self._where,
                )
            for disk in disks:
                if self._hypervisor.uri.is_local:
                    images.check_deletable(disk)
                refused = f"The VM {self._title} and its disk {disk} were not removed"
                check_unused(self._hypervisor, disk, refused, besides=[self._uuid], hint="Leave out delete_disk.")
            if state not in OFF:
                self._power_off()
            self._undefine()
        except VMNotFoundError:
            self._gone = True
            return
        self._gone = True
        self._emit(EventType.DESTROYED)
        files = [partial(self._delete_image, disk) for disk in disks]
        if spec.seed is not None and Feature.CLOUD_INIT in self._hypervisor.features:
            files.append(partial(delete_seed, self._hypervisor, spec.seed, self._uuid))
        stayed: VirtuosoError | None = None
        for delete in files:
            try:
                delete()
            except VirtuosoError as error:
                stayed = stayed or error
        if stayed is not None:
            stayed.message = f"The VM {self._title} was removed, and not all of its files: {stayed.message}"
            raise stayed

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} on {self._hypervisor.uri}>"

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from .notebook import vm_table

        return vm_table(self)

    def _ask_plugins(self, changed: frozenset[str]) -> None:
        from .plugins import default_registry

        default_registry().before_save(self, changed)

    def _warn_unknown(self, key: str) -> None:
        import difflib

        from .plugins import default_registry

        known = default_registry().option_names() | set(self._hypervisor.options)
        if key in known:
            return
        near = difflib.get_close_matches(key, known, n=1)
        advice = f" Did you mean {near[0]!r}?" if near else ""
        warnings.warn(
            f"No installed driver knows the option {key!r}; it is ignored.{advice}", UnknownOptionWarning, stacklevel=3
        )
