"""One metric as horizontal bars in SVG: a group for each case, a bar for each loop.

Called by report.py. The bar is the median, the thin line on it reaches from the least to the
greatest round; a failed cell keeps its place and says so.
"""

from __future__ import annotations

from html import escape

from loops import LABELS
from results import AreaResults, Metric, Row

COLOURS = {
    "asyncio": "#8a8a8a",
    "uvloop": "#4477aa",
    "zuvloop": "#ccaa44",
    "rloop-gi0baro": "#aa6688",
    "tokioloop": "#cc4433",
    "tokioloop-rustls": "#ee8866",
    "tokio-rust": "#555555",
}
"""Told apart also by eyes that do not see red and green as different."""

WIDTH = 860
LEFT = 170
"""Where bars begin; the loops' names stand before that."""
RIGHT = 110
"""Room for the numbers behind the longest bar."""
BAR = 14
GAP = 4
GROUP_GAP = 30
TOP = 40


def draw_bars(metric: Metric, rows: list[Row], results: AreaResults) -> str:
    """Return the text of an SVG file."""
    highest = max(
        (sample for row in rows for samples in row.samples.values() for sample in samples),
        default=0.0,
    )
    # Lateness may be negative everywhere: then there is no length to draw.
    scale = (WIDTH - LEFT - RIGHT) / highest if highest > 0 else 0.0
    shapes = []
    y = TOP
    for row in rows:
        shapes.append(_text(0, y, row.case, weight="bold"))
        y += GAP
        for loop in results.loops:
            if (row.measurement, loop) not in results.not_applicable:
                shapes += _bar(metric, row, loop, results, y, scale)
                y += BAR + GAP
        y += GROUP_GAP
    unit = f" [{metric.unit}]" if metric.unit else ""
    better = "lower" if metric.lower_is_better else "higher"
    title = _text(0, 16, f"{metric.title}{unit}, {better} is better", weight="bold", size=14)
    height = y - GROUP_GAP + GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>\n'
        + "\n".join([title, *shapes])
        + "\n</svg>\n"
    )


def _bar(
    metric: Metric, row: Row, loop: str, results: AreaResults, y: int, scale: float
) -> list[str]:
    """Return name, bar, spread and number of one cell whose upper edge is at `y`."""
    baseline = y + BAR - 3
    name = _text(LEFT - 8, baseline, LABELS[loop], anchor="end")
    middle = row.median(loop)
    if middle is None or (row.measurement, loop) in results.failures:
        return [name, _text(LEFT + 4, baseline, "failed", colour="#cc0000")]
    length = max(middle * scale, 0.0)
    low, high = (max(value * scale, 0.0) for value in _ends(row.samples[loop]))
    line = y + BAR / 2
    return [
        name,
        f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{COLOURS[loop]}"/>',
        f'<path d="M{LEFT + low:.1f} {line}H{LEFT + high:.1f}" stroke="black"/>',
        _text(LEFT + max(length, high) + 6, baseline, metric.format(middle)),
    ]


def _ends(samples: list[float]) -> tuple[float, float]:
    return min(samples), max(samples)


def _text(
    x: float,
    y: float,
    content: str,
    *,
    anchor: str = "start",
    weight: str = "normal",
    size: int = 12,
    colour: str = "black",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" '
        f'font-size="{size}" fill="{colour}">{escape(content)}</text>'
    )
