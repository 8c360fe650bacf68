"""Small pieces of HTML. Every value is escaped here."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from harness.report.curves import Picture

NOTHING: Final = ("—", "not reached", "not at this scale")
"""Texts of cells without a value, shown faintly."""


def pairs_list(pairs: Mapping[str, Any]) -> str:
    """Names and values; values that are missing are left out."""
    items = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(shown(value))}</dd></div>"
        for name, value in pairs.items()
        if given(value)
    )
    return f'<dl class="pairs">{"".join(items)}</dl>'


def given(value: Any) -> bool:
    """Whether a cell of a run's row holds anything."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def shown(value: Any) -> str:
    """A value as text; a float with six significant digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def percentage(value: float) -> str:
    """A share as a percentage that does not break over lines; another metric with three digits."""
    return f"{100 * value:.1f}\u00a0%" if 0 <= value <= 1 else f"{value:.3g}"


def figure(picture: Picture) -> str:
    """A picture with its title and caption."""
    return (
        f"<figure><h4>{escape(picture.title)}</h4>{picture.svg}"
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def table_of(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> str:
    """A plain table whose first `left` columns are text and the others numbers."""
    kinds = ["num" if i >= left else "" for i in range(len(head))]
    titles = "".join(
        f'<th scope="col"{class_of(k)}>{escape(t)}</th>' for k, t in zip(kinds, head, strict=True)
    )
    lines = (
        f'<th scope="row">{escape(row[0])}</th>'
        + "".join(_cell(cell, kind) for kind, cell in zip(kinds[1:], row[1:], strict=True))
        for row in rows
    )
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return scroll(f"<thead><tr>{titles}</tr></thead><tbody>{body}</tbody>", "plain")


def _cell(text: str, kind: str) -> str:
    missing = "none" if text in NOTHING else ""
    return f"<td{class_of(f'{kind} {missing}')}>{escape(text)}</td>"


def scroll(inner: str, kind: str) -> str:
    """A table in a box of its own: a narrow screen scrolls the box, not the page."""
    box = '<div class="scroll" tabindex="0" role="region" aria-label="Table">'
    return f'{box}<table class="{kind}">{inner}</table></div>'


def class_of(names: str) -> str:
    """A class attribute, or nothing for no names."""
    kept = " ".join(names.split())
    return f' class="{kept}"' if kept else ""


def broken(title: str) -> str:
    """A column's title with its unit on a line of its own."""
    name, comma, unit = title.rpartition(", ")
    return f"{escape(name)}<br><small>{escape(unit)}</small>" if comma else escape(title)
