"""Wait: the clock of every wait: bounded, with growing pauses between the looks."""

from __future__ import annotations

import time

from .errors import InvalidValueError


class Wait:
    """A wait that has begun.

    Args:
        timeout: seconds; 0 looks once.
        first, longest: seconds between the first two looks, and between late ones.

    Raises:
        InvalidValueError: no time to wait.

    Example:
        >>> wait = Wait(0)
        >>> wait.pause()
        False
    """

    def __init__(self, timeout: float, *, first: float = 0.2, longest: float = 2.0) -> None:
        if not isinstance(timeout, (int, float)) or isinstance(timeout, bool) or not 0 <= timeout < float("inf"):
            raise InvalidValueError(f"{timeout!r} is not a time to wait.", hint="It is a number of seconds, 0 or more.")
        self.timeout = timeout
        self._start = time.monotonic()
        self._pause, self._longest = first, longest

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._start

    @property
    def left(self) -> float:
        """Seconds until its end, 0 after it."""
        return max(0.0, self.timeout - self.elapsed)

    def pause(self) -> bool:
        """Sleep until the next look, the last one at the very end; False, at once, when the time is over."""
        left = self.left
        if left <= 0:
            return False
        time.sleep(min(self._pause, left))
        self._pause = min(self._pause * 1.5, self._longest)
        return True
