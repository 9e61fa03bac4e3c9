"""A bar chart as a picture that metadata in Markdown can hold, without a library for it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

_WIDTH = 640
_HEIGHT = 200
_MARGIN = 24
_WIDEST = 48
_COLOUR = "#4f43dd"
_GREY = "#6b7280"


def bar_chart(title: str, bars: Sequence[tuple[str, int]]) -> str:
    """Return Markdown with the picture: one bar a pair, in their order, with its value above and its name below."""
    svg = _svg(title, bars)
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def _svg(title: str, bars: Sequence[tuple[str, int]]) -> str:
    highest = max((value for _, value in bars), default=0) or 1
    step = (_WIDTH - 2 * _MARGIN) / max(len(bars), 1)
    room = _HEIGHT - 3.5 * _MARGIN
    every = max(1, -(-len(bars) * 52 // (_WIDTH - 2 * _MARGIN)))  # as many names as can be read
    parts = [_text(_WIDTH / 2, 18, title, size=13)]
    for number, (name, value) in enumerate(bars):
        x, height = _MARGIN + number * step, room * value / highest
        top = _HEIGHT - 1.5 * _MARGIN - height
        width = min(step * 0.8, _WIDEST)
        parts.append(
            f'<rect x="{x + (step - width) / 2:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'rx="2" fill="{_COLOUR}"/>'
        )
        if number % every == 0:
            parts.append(_text(x + step / 2, _HEIGHT - _MARGIN + 6, name))
            parts.append(_text(x + step / 2, top - 4, f"{value:,}"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'font-family="sans-serif">{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, text: str, *, size: int = 10) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{_GREY}" text-anchor="middle">{escape(text)}</text>'
