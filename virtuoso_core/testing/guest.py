"""GuestGroup: waiting for a guest, running commands in it, its console and screen."""

from __future__ import annotations

from .base import SuiteBase


class GuestGroup(SuiteBase):
    """What those promise."""
