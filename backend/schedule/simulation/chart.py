"""Bar charts as SVG text: groups of bars, one colour a series. No library: a chart is some rectangles."""

from collections.abc import Mapping, Sequence
from html import escape

_COLOURS = ("#1f77b4", "#ff7f0e", "#7f7f7f", "#bcbd22", "#8c564b", "#c5b0d5")
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 860, 340, 56, 58, 34


def bars(title: str, unit: str, groups: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> str:
    """One bar for each series in each group; None leaves a gap."""
    top = max([value for values in series.values() for value in values if value is not None] or [1.0]) * 1.05
    width = (_WIDTH - _LEFT - 10) / max(1, len(groups))
    height = _HEIGHT - _TOP - _BOTTOM
    bar = width * 0.84 / max(1, len(series))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="11">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="18" font-size="14">{escape(title)}</text>',
        f'<text x="4" y="{_TOP - 6}">{escape(unit)}</text>',
    ]
    for line in range(5):
        mark = top * line / 4
        y = _TOP + height * (1 - line / 4)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - 10}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(mark)}</text>')
    for number, (name, values) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        key = _LEFT + number * 130
        parts.append(f'<rect x="{key}" y="28" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{key + 14}" y="37">{escape(name)}</text>')
        for index, value in enumerate(values):
            if value is None:
                continue
            tall = height * value / top
            left = _LEFT + index * width + width * 0.08 + number * bar
            parts.append(
                f'<rect x="{left:.1f}" y="{_TOP + height - tall:.1f}" width="{bar * 0.92:.1f}" '
                f'height="{tall:.1f}" fill="{colour}"><title>{escape(name)}: {_short(value)}</title></rect>'
            )
    for index, group in enumerate(groups):
        x = _LEFT + (index + 0.5) * width
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 12}" text-anchor="middle">{escape(group)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _short(value: float) -> str:
    return f"{value:.3g}"
