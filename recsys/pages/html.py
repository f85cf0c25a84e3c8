"""One self-contained HTML page out of tables and plots; light and dark, phone and desktop."""

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

__all__ = ["Fragment", "page", "table"]

_GRID = "rgba(128,128,128,.25)"
_STYLE = """
:root { color-scheme: light dark; --line: #d5d8dc; --soft: #f4f5f7; --ink: #1c1f23; --paper: #fff }
@media (prefers-color-scheme: dark) { :root { --line: #3a3f46; --soft: #23272d; --ink: #e6e8eb; --paper: #16191d } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper) }
body { margin: 0 auto; max-width: 70rem; padding: 1rem; overflow-wrap: anywhere }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.lead { font-size: 1.1rem } .note { border-left: 4px solid #c77700; padding: .3rem .8rem; background: var(--soft) }
.wide { overflow-x: auto } .wide th:first-child, .wide td:first-child { position: sticky; left: 0 }
.wide tr > :first-child { background: var(--paper) } .wide tr:nth-child(even) > :first-child { background: var(--soft) }
svg.spark { display: block; color: #3b6fb6 }
.wide td:first-child { max-width: 40vw; overflow: hidden; text-overflow: ellipsis }
table { border-collapse: collapse; font-size: .9rem }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap }
td.n { text-align: right; font-variant-numeric: tabular-nums } tr:nth-child(even) { background: var(--soft) }
"""


class Fragment(str):
    """HTML that goes into a table as it is."""


def _cell(value: object) -> str:
    if isinstance(value, Fragment):
        return f"<td>{value}</td>"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"<td>{escape(str(value))}</td>"
    return f'<td class="n">{value:,}</td>' if isinstance(value, int) else f'<td class="n">{value:.4g}</td>'


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An HTML table; numbers stand to the right."""
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    body = "".join(f"<tr>{''.join(_cell(v) for v in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def page(title: str, lead: str, notes: Sequence[str], sections: Sequence[tuple[str, "str | go.Figure"]]) -> str:
    """A page that needs no network: plotly's script is inside where there is a plot.

    Args:
        title: Heading.
        lead: The first sentence: what the reader came for.
        notes: Warnings.
        sections: Heading and an HTML fragment or a plot each.
    """
    parts, script = [], True
    for heading, content in sections:
        if not isinstance(content, str):
            content.update_layout(
                paper_bgcolor="rgba(0,0,0,0)",
                plot_bgcolor="rgba(0,0,0,0)",
                font_color="#7d8590",
                margin={"t": 10, "r": 10},
            )
            content.update_xaxes(gridcolor=_GRID, zerolinecolor=_GRID, automargin=True)
            content.update_yaxes(gridcolor=_GRID, zerolinecolor=_GRID, automargin=True)
            content = content.to_html(full_html=False, include_plotlyjs=script, config={"displayModeBar": False})
            script = False
        parts.append(f"<section><h2>{escape(heading)}</h2>{content}</section>")
    warned = "".join(f'<p class="note">{escape(n)}</p>' for n in notes)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f'<body><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>{warned}{"".join(parts)}</body></html>'
    )
