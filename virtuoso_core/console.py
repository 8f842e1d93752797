"""Console: a guest's serial console as a stream of bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Console(ABC):
    """A guest's serial console, as ``vm.console()`` opens it. Use it in a ``with`` block.

    What the guest wrote before it was opened is not in it. One thread may read while another writes, or closes.

    Example::

        with vm.console() as console:
            console.write(b"root\\n")
            print(console.read(timeout=5))
    """

    _kept: bytes = b""
    """What was received and not yet asked for."""

    # What people call.

    def read(self, timeout: float | None = None) -> bytes:
        """What the guest wrote since the last look.

        Args:
            timeout: seconds to wait for the first byte; None waits for ever, 0 not at all.

        Returns:
            b"" when nothing came in time, and for ever after the console ended.

        Raises:
            ConnectionLostError, HypervisorError
        """
        if self._kept:
            kept, self._kept = self._kept, b""
            return kept
        return self._receive(timeout)

    def read_until(self, text: bytes, timeout: float) -> bytes:
        """Everything up to and with ``text``, which may come in pieces. What follows it waits for the next look.

        Args:
            timeout: seconds.

        Raises:
            WaitTimeoutError: it did not come in time, or the console ended before; ``evidence`` is the last that came.
            ConnectionLostError, HypervisorError
        """
        import time

        from .errors import WaitTimeoutError

        start, came = time.monotonic(), b""
        while text not in came:
            left, ended = timeout - (time.monotonic() - start), self.ended
            more = self.read(timeout=max(0.0, left))
            came += more
            if not more and (left <= 0 or ended):
                self._kept = came
                shown = came[-200:].decode(errors="replace")
                why = "ended and did not print" if ended else f"did not print within {timeout:g} s"
                raise WaitTimeoutError(
                    f"The console {why} {text!r}; its last words: {shown!r}.",
                    phase="console",
                    elapsed=time.monotonic() - start,
                    evidence=shown,
                )
        end = came.index(text) + len(text)
        self._kept = came[end:]
        return came[:end]

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Type that, all of it.

        Raises:
            ConnectionLostError, HypervisorError
            InvalidStateError: the console ended.
        """

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether it was closed, by us or because the VM stopped. What came before can still be read."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it; a ``read()`` that waits in another thread ends. Closing twice does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What a driver supplies, besides the abstract ones above.

    @abstractmethod
    def _receive(self, timeout: float | None) -> bytes:
        """As ``read()``, from the guest. Ctrl-C interrupts it, and so does ``close()`` in another thread."""
