"""Results as files: JSON for programs, a Markdown table for readers, SVG plots for eyes.

Called by run.py when an area is done. Whatever was tried is in all of them: a cell without a number
says why.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loops import BASELINE, CONTROL, LABELS
from plot import draw_bars
from results import METRICS, AreaResults, Metric, Row

QUIET_SPREAD = 0.10
"""The control's spread, as a share of its median, above which a row is marked as unsteady."""

UNSTEADY = "≈"
"""Marks a row in which the control itself was not steady."""


def write_area(
    folder: Path,
    title: str,
    results: AreaResults,
    about: Mapping[str, Any],
) -> list[Path]:
    """Write the files of one area into `folder` and return their paths.

    `about` is what belongs to the run as a whole: machine, loops, rounds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"{results.area}.json"
    content = {**about, **results.as_json()}
    data.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    written = [data]
    plots = {}
    for metric, rows in results.tables():
        plot = folder / f"{results.area}-{metric.removesuffix('_ns').replace('_', '-')}.svg"
        plot.write_text(draw_bars(METRICS[metric], rows, results), encoding="utf-8")
        plots[metric] = plot
        written.append(plot)
    page = folder / f"{results.area}.md"
    page.write_text(markdown(title, results, about, plots), encoding="utf-8")
    return [*written, page]


def markdown(
    title: str,
    results: AreaResults,
    about: Mapping[str, Any],
    plots: Mapping[str, Path],
) -> str:
    """Return the page of one area."""
    parts = [f"# {title}", facts(about)]
    for metric, rows in results.tables():
        parts.append(f"## {heading(METRICS[metric])}")
        parts.append(table(METRICS[metric], rows, results))
        if metric in plots:
            parts.append(f"![{METRICS[metric].title}]({plots[metric].name})")
    parts += [control(results), details(results), failures(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def heading(metric: Metric) -> str:
    """Return title, unit and direction of a metric."""
    unit = f", {metric.unit}" if metric.unit else ""
    better = "lower" if metric.lower_is_better else "higher"
    return f"{metric.title[0].upper()}{metric.title[1:]}{unit} ({better} is better)"


def facts(about: Mapping[str, Any]) -> str:
    """Return machine, loops and method as a list."""
    lines = [f"- {name}: {value}" for name, value in about["machine"].items()]
    for loop, description in about["loops"].items():
        lines.append(f"- {LABELS[loop]}: {description}")
    lines.append(
        f"- rounds: {about['rounds']}; each cell: median (least to greatest), "
        f"ratio of the median to {LABELS[BASELINE]}'s"
    )
    return "\n".join(lines)


def table(metric: Metric, rows: list[Row], results: AreaResults) -> str:
    """Return one metric as a Markdown table with a column for each loop."""
    head = ["", *(LABELS[loop] for loop in results.loops)]
    lines = [head, ["---", *("---:" for _ in results.loops)]]
    for row in rows:
        spread = row.control_spread()
        mark = f" {UNSTEADY}" if spread is not None and spread > QUIET_SPREAD else ""
        cells = [cell(metric, row, loop, results) for loop in results.loops]
        lines.append([f"{row.case}{mark}", *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(metric: Metric, row: Row, loop: str, results: AreaResults) -> str:
    """Return one cell: median, spread and ratio, or that it failed, or a dash."""
    if (row.measurement, loop) in results.not_applicable:
        return "-"
    middle = row.median(loop)
    if middle is None or (row.measurement, loop) in results.failures:
        return "**failed**"
    text = metric.format(middle)
    samples = row.samples[loop]
    if len(samples) > 1:
        text += f" ({metric.format(min(samples))} to {metric.format(max(samples))})"
    ratio = row.ratio(loop) if metric.from_zero else None
    if ratio is not None:
        text += f" {ratio:.2f}x"
    return text


def control(results: AreaResults) -> str:
    """Return how steady the control was, or nothing if that cannot be said."""
    spreads = [row.control_spread() for _, rows in results.tables() for row in rows]
    known = [spread for spread in spreads if spread is not None]
    if not known:
        return ""
    return (
        f"Control: the spread of {LABELS[CONTROL]} over the rounds, as a share of its median, is "
        f"{statistics.median(known):.1%} in the middle row and {max(known):.1%} in the worst. "
        f"Rows marked {UNSTEADY} are those above {QUIET_SPREAD:.0%}: there the machine was not "
        "steady enough to tell loops apart by less."
    )


def details(results: AreaResults) -> str:
    """Return what numbers are made of, as a list."""
    lines = [
        f"- {case}, {LABELS[loop]}: {detail}" for (case, loop), detail in results.details.items()
    ]
    return "\n".join(["## Details", "", *lines]) if lines else ""


def failures(results: AreaResults) -> str:
    """Return every failed measurement with its reason, as a list."""
    lines = [
        f"- {measurement}, {LABELS[loop]}: {reason}"
        for (measurement, loop), reason in results.failures.items()
    ]
    return "\n".join(["## Failed", "", *lines]) if lines else ""
