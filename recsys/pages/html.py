"""One self-contained HTML page out of tables and plots; light and dark, phone and desktop.

Text is escaped in the templates; only `Markup` goes into a page as it is.
"""

from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

__all__ = ["Markup", "page", "table"]

_GRID = "rgba(128,128,128,.25)"


def _shown(value: object) -> object:
    """Whole numbers in groups of three digits, others to four digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
_TEMPLATES.filters["shown"] = _shown


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    """An HTML table; numbers, and the heads of their columns, stand to the right."""
    return Markup(_TEMPLATES.get_template("table.html.j2").render(columns=columns, rows=rows))


def page(title: str, lead: str, notes: Sequence[str], sections: Sequence[tuple[str, "str | go.Figure"]]) -> str:
    """A page that needs no network: plotly's script is inside if there is a plot.

    Args:
        title: Heading.
        lead: The first sentence: what the reader came for.
        notes: Warnings.
        sections: A heading each, and a plot, `Markup`, or text that is escaped.
    """
    parts: list[tuple[str, str]] = []
    script = True
    for heading, content in sections:
        if not isinstance(content, str):
            content, script = _plot(content, script), False
        parts.append((heading, content))
    return _TEMPLATES.get_template("page.html.j2").render(title=title, lead=lead, notes=notes, sections=parts)


def _plot(figure: go.Figure, script: bool) -> Markup:
    """A plot in the page's colours, with plotly's script if it is the first."""
    clear = "rgba(0,0,0,0)"
    figure.update_layout(paper_bgcolor=clear, plot_bgcolor=clear, font_color="#7d8590", margin={"t": 10, "r": 10})
    figure.update_xaxes(gridcolor=_GRID, zerolinecolor=_GRID, automargin=True)
    figure.update_yaxes(gridcolor=_GRID, zerolinecolor=_GRID, automargin=True)
    return Markup(figure.to_html(full_html=False, include_plotlyjs=script, config={"displayModeBar": False}))
