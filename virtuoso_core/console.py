"""Console: a guest's serial console as a stream of bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Console(ABC):
    """A guest's serial console, as ``vm.console()`` opens it. Use it in a ``with`` block.

    Example::

        with vm.console() as console:
            console.write(b"root\\n")
            print(console.read(timeout=5))
    """

    @abstractmethod
    def read(self, timeout: float | None = None) -> bytes:
        """What the guest wrote since the last look.

        Args:
            timeout: seconds to wait for the first byte; None waits for ever.

        Returns:
            b"" when nothing came in time, and for ever after the console ended.

        Raises:
            ConnectionLostError, HypervisorError
        """

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
        """Whether it was closed, by us or because the VM stopped."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it. Closing twice does nothing."""

    def read_until(self, text: bytes, timeout: float) -> bytes:
        """Everything up to and with ``text``, which may come in pieces.

        Raises:
            WaitTimeoutError: it did not come in time, or the console ended; ``evidence`` is what came.
        """
        import time

        from .errors import WaitTimeoutError

        start, came = time.monotonic(), b""
        while text not in came:
            left = timeout - (time.monotonic() - start)
            if left <= 0 or self.ended:
                shown = came[-200:].decode(errors="replace")
                raise WaitTimeoutError(
                    f"The console did not print {text!r} within {timeout:g} s; its last words: {shown!r}.",
                    phase="console",
                    elapsed=time.monotonic() - start,
                    evidence=shown,
                )
            came += self.read(timeout=left)
        return came

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
