"""RunningGroup: statistics, suspending, autostart, live changes, events."""

from __future__ import annotations

from .base import SuiteBase


class RunningGroup(SuiteBase):
    """What those promise."""
