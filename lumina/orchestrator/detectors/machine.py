"""Finds a machine that gets short of memory or slow, and says what likely holds it up. Reads seconds and bytes of the
clock windows; nothing of it depends on the model, and nothing of it is remembered in a checkpoint.

memory      available memory below 10 % of the device's; confidence 1 - available / 10 % / 2
OOM risk    used memory grows so that it runs out within two check intervals; confidence 1 - steps left / horizon / 2,
            halved unless each third of the window is above the one before
throughput  the step's median, with its share of the time that checkpoints hold the run, is above 1.5 times its usual
            one (the lowest of the checks before, at least three); confidence 1 - 1.5 / slowdown / 2. The bottleneck is
            where the extra seconds are: waiting for data, writing checkpoints, else computing; a device that reserves
            1.5 times what it allocates points to fragmentation, a slowdown that grew over the last checks to heat.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lumina.orchestrator.clock import STALL
from lumina.orchestrator.detectors.view import View, beyond, evidence
from lumina.orchestrator.signals import Floats, median
from lumina.orchestrator.types import Finding

PRESSURE, RISK, SLOW = "memory_pressure", "oom_risk", "throughput"
CAUSES = frozenset({PRESSURE, RISK, SLOW})
LEAST_FREE, HORIZON, SLOWDOWN, FRAGMENTED = 0.1, 2, 1.5, 1.5
FEWEST_CHECKS, RECENT = 3, 10
SETTLING = 0.02  # growth within a window below this share of the memory is a cache that fills, not a leak


class MemoryPressure:
    """Little memory left, or soon none."""

    def find(self, view: View) -> Sequence[Finding]:
        """At most one finding; half the micro-batch where that can be halved."""
        clock, total = view.signals.clock, view.facts.memory_bytes
        free = clock.window("memory_available")
        kept = free[np.isfinite(free)]
        if not total > 0 or not clock.full or len(kept) < len(free) // 2:
            return ()
        share = float(kept[-1] / total)
        cause, sure, summary = None, 0.0, ""
        left = steps_left(kept, total)
        horizon = HORIZON * view.signals.check_interval
        if left is not None and left < horizon:
            cause, sure = RISK, 1 - left / horizon / 2
            summary = f"Memory is used up in about {left:.0f} steps at this growth; {share:.0%} of it is left."
        if share < LEAST_FREE:
            cause, sure = cause or PRESSURE, max(sure, 1 - share / LEAST_FREE / 2)
            summary = summary or f"{share:.0%} of the memory is left."
        if cause is None:
            return ()
        found = evidence(view, summary, LEAST_FREE, {"available": float(kept[-1]), "total": total, "steps_left": left})
        size = view.hparams.get("batch_size")
        if size is None or size < 2:
            return (Finding(cause, sure, "critical", found, clock=True),)
        half = next(part for part in range(int(size) // 2, 0, -1) if size % part == 0)
        args = {"new_batch_size": half}
        return (Finding(cause, sure, "critical", found, "adjust_batch_size", args, ("batch_size",), clock=True),)


def steps_left(free: Floats, total: float) -> float | None:
    """Steps until nothing is free at the growth from the first to the last third of a window; None without growth."""
    third = len(free) // 3
    if third < 3:
        return None
    first, middle, last = (median(free[at * third : (at + 1) * third]) for at in range(3))
    used = first - last
    if used < SETTLING * total or not first > middle > last:
        return None
    return float(free[-1] / (used / (2 * third)))


class Throughput:
    """Steps that take longer than they used to."""

    def find(self, view: View) -> Sequence[Finding]:
        """One finding, with the likely bottleneck."""
        clock = view.signals.clock
        usual = clock.medians("step_seconds") + clock.medians(STALL)
        if not clock.full or np.isfinite(usual).sum() < FEWEST_CHECKS:
            return ()
        fast = int(np.nanargmin(usual))
        recent = clock.window("step_seconds")[-RECENT:]
        now = median(recent) + clock.stall_per_step()
        slowdown = now / float(usual[fast])
        if not slowdown > SLOWDOWN:
            return ()
        where = bottleneck(view, usual, now)
        summary = (
            f"A step takes {now:.3g} s, {slowdown:.1f} times the {usual[fast]:.3g} s it took before; the likely "
            f"bottleneck is {where}."
        )
        numbers = {"seconds": now, "usual": float(usual[fast]), "slowdown": slowdown, "bottleneck": where}
        found = evidence(view, summary, SLOWDOWN, numbers)
        return (Finding(SLOW, beyond(slowdown, SLOWDOWN), "warning", found, clock=True),)


def bottleneck(view: View, usual: Floats, now: float) -> str:
    """Where the extra seconds of a step are: data, storage, memory fragmentation, thermal or compute."""
    clock, fast = view.signals.clock, int(np.nanargmin(usual))
    extra = now - float(usual[fast])
    waited = median(clock.window("data.wait_seconds")[-RECENT:]) - float(clock.medians("data.wait_seconds")[fast])
    if waited > extra / 2:
        return "data"
    if clock.stall_per_step() - float(clock.medians(STALL)[fast]) > extra / 2:
        return "storage"
    reserved, allocated = (median(clock.window(name)) for name in ("memory_reserved", "memory_allocated"))
    if allocated > 0 and reserved > FRAGMENTED * allocated:
        return "memory fragmentation"
    trend = np.append(usual[-3:], now)
    return "thermal" if len(trend) == 4 and (np.diff(trend) > 0.03 * usual[fast]).all() else "compute"
