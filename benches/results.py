"""What was measured: samples by area, metric, case and loop, and the cells that failed.

Filled by run.py, read by report.py and plot.py. A failure is a result like any other.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from loops import BASELINE, CONTROL


@dataclass(frozen=True)
class Metric:
    """What a number says, and how it is printed."""

    title: str
    unit: str
    scale: float = 1.0
    """Samples times this are in `unit`."""
    digits: int = 1
    """Digits after the point."""
    lower_is_better: bool = True
    from_zero: bool = True
    """Whether zero means nothing at all: only then does a ratio say something."""

    def format(self, value: float) -> str:
        """Return `value`, a sample's number, in `unit` but without its name."""
        return f"{value * self.scale:,.{self.digits}f}"


METRICS = {
    "cpu_ns": Metric("CPU time of the server per message", "µs", 1e-3),
    "rate": Metric("messages a second", "1/s", digits=0, lower_is_better=False),
    "p50_ns": Metric("latency, median", "µs", 1e-3),
    "p99_ns": Metric("latency, 99th percentile", "µs", 1e-3),
    "connection_cpu_ns": Metric("CPU time of the server per connection", "µs", 1e-3),
    "connection_rate": Metric("connections a second", "1/s", digits=0, lower_is_better=False),
    "kib_cpu_ns": Metric("CPU time of the server per KiB sent", "ns", digits=0),
    "byte_rate": Metric("bytes a second", "MiB/s", 1 / 2**20, digits=0, lower_is_better=False),
    "requests_per_cpu_second": Metric(
        "requests per second of the server's CPU time", "1/s", digits=0, lower_is_better=False
    ),
    "connection_bytes": Metric("memory of the server per idle connection", "bytes", digits=0),
    "idle_cpu_ns": Metric("CPU time of the server in an idle second", "µs", 1e-3),
    "instructions": Metric("user-space instructions per message", "", digits=0),
    "speed_up": Metric(
        "messages or operations a second, by those on one thread",
        "x",
        digits=2,
        lower_is_better=False,
    ),
    "work": Metric("CPU time per message or operation, by that on one thread", "x", digits=2),
    "at_once": Metric("CPU time per operation, by that on one thread at a time", "x", digits=2),
    "busy_cores": Metric("cores that the server keeps busy", "", digits=2, lower_is_better=False),
    "round_trip_p50_ns": Metric("round trip between threads, median", "µs", 1e-3),
    "round_trip_p99_ns": Metric("round trip between threads, 99th percentile", "µs", 1e-3),
    "stops": Metric("times that all threads were stopped, per message", "", digits=4),
    "system_calls": Metric("system calls per message", "", digits=3),
    "operation_ns": Metric("CPU time of the process per operation", "ns", digits=0),
    "late_median_us": Metric("lateness of a timer, median", "µs", digits=0, from_zero=False),
    "late_p99_us": Metric("lateness of a timer, 99th percentile", "µs", digits=0, from_zero=False),
    "late_least_us": Metric(
        "lateness of a timer, least (below zero: it fired early)", "µs", digits=0, from_zero=False
    ),
    "kernel_median_us": Metric(
        "lateness of a bare timerfd between them, median", "µs", digits=0, from_zero=False
    ),
    "kernel_p99_us": Metric(
        "lateness of a bare timerfd between them, 99th percentile", "µs", digits=0, from_zero=False
    ),
}


@dataclass(frozen=True)
class Reading:
    """One number of one measurement."""

    case: str
    """The row of the table that it belongs to."""
    metric: str
    """A key of `METRICS`."""
    value: float
    detail: str = ""
    """What the number is made of, for the reader."""


@dataclass(frozen=True)
class Row:
    """The same case and metric for every loop."""

    measurement: str
    case: str
    samples: dict[str, list[float]]

    def median(self, loop: str) -> float | None:
        """Return the median over the rounds, or None if there is no sample of `loop`."""
        samples = self.samples.get(loop)
        return statistics.median(samples) if samples else None

    def ratio(self, loop: str) -> float | None:
        """Return the median of `loop` divided by the baseline's, if both exist."""
        own, baseline = self.median(loop), self.median(BASELINE)
        return own / baseline if own is not None and baseline else None

    def control_spread(self) -> float | None:
        """Return highest minus lowest sample of the control, as a share of its median."""
        samples = self.samples.get(CONTROL, [])
        middle = self.median(CONTROL)
        if len(samples) < 2 or not middle:
            return None
        return (max(samples) - min(samples)) / abs(middle)


@dataclass
class AreaResults:
    """All results of one area."""

    area: str
    loops: list[str]
    """The loops that took part, in the order of the columns."""
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    """By metric and case."""
    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    """Why a measurement has no complete result, by measurement and loop."""
    details: dict[tuple[str, str], str] = field(default_factory=dict)
    """By case and loop; the last round's."""
    not_applicable: set[tuple[str, str]] = field(default_factory=set)
    """Measurements in which a loop takes no part, by measurement and loop."""

    def add(self, measurement: str, loop: str, reading: Reading) -> None:
        """Add one sample."""
        key = reading.metric, reading.case
        row = self.rows.setdefault(key, Row(measurement, reading.case, {}))
        row.samples.setdefault(loop, []).append(reading.value)
        if reading.detail:
            self.details[reading.case, loop] = reading.detail

    def tables(self) -> Iterator[tuple[str, list[Row]]]:
        """Yield each metric that was measured with its rows, in the order of `METRICS`."""
        for metric in METRICS:
            rows = [row for (name, _), row in self.rows.items() if name == metric]
            if rows:
                yield metric, rows

    def as_json(self) -> dict[str, Any]:
        """Return everything in the form in which it is written."""
        return {
            "area": self.area,
            "loops": self.loops,
            "rows": [
                {
                    "metric": metric,
                    "title": METRICS[metric].title,
                    "case": row.case,
                    "samples": row.samples,
                    "median": {loop: row.median(loop) for loop in row.samples},
                    f"ratio_to_{BASELINE}": {loop: row.ratio(loop) for loop in row.samples},
                }
                for metric, rows in self.tables()
                for row in rows
            ],
            "failures": [
                {"measurement": measurement, "loop": loop, "reason": reason}
                for (measurement, loop), reason in self.failures.items()
            ],
            "details": [
                {"case": case, "loop": loop, "detail": detail}
                for (case, loop), detail in self.details.items()
            ],
        }
