"""Places where the fault tests strike: SEMISEG_FAULT="kill@step:17" ends the process there as a power cut would.

The first part of a rule is what happens (kill, nan), the second the place, the third which one: a step, or the n-th passing of
a place. Without the variable nothing is done.
"""
from __future__ import annotations

import os
import signal
from collections import Counter

_passed: Counter[str] = Counter()


def due(action: str, place: str, number: int) -> bool:
    """True where the rule is `action`@`place`:`number`."""
    rule = os.environ.get("SEMISEG_FAULT")
    return rule is not None and f"{action}@{place}:{number}" == rule


def reach(place: str, what: str = "") -> None:
    """Passes a place of the program: the process is killed at the n-th passing of `place` or `place-what` when the rule says so."""
    if "SEMISEG_FAULT" not in os.environ:
        return
    for name in (place, f"{place}-{what}"):
        _passed[name] += 1
        if due("kill", name, _passed[name]):
            os.kill(os.getpid(), signal.SIGKILL)
