"""Waiting for a quiet moment: on a shared machine, what others do weighs more than any difference measured here."""

from __future__ import annotations

import psutil

_BUSY_PERCENT, _PATIENCE_S = 10.0, 60


def wait_for_quiet() -> None:
    """Return once all cores together were idle for a second, or after a minute: the load is reported with the figures."""
    for _ in range(_PATIENCE_S):
        if psutil.cpu_percent(interval=1.0) < _BUSY_PERCENT:
            return
