"""A retrain curve as a line: mean over seeds, bars for the deviation."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from recsys.selection.reports.agreement import mean_with_interval

__all__ = ["add_curve", "convergence", "legend_above"]


def add_curve(
    figure: go.Figure,
    grid: Sequence[int],
    by_seed: Mapping[str, Sequence[float]],
    name: str,
    colour: str,
    dash: str = "solid",
) -> None:
    """Add one line of K points, each over S seeds."""
    value_SK = np.array(list(by_seed.values()))
    points = [mean_with_interval(value_SK[:, i]) for i in range(len(grid))]
    spread = [p.get("deviation", 0.0) for p in points]
    bars = {"array": spread, "thickness": 1} if any(spread) and dash == "solid" else None
    figure.add_scatter(
        x=list(grid), y=[p["mean"] for p in points], error_y=bars, name=name,
        mode="lines+markers" if dash == "solid" else "lines", line={"color": colour, "dash": dash},
    )  # fmt: skip


def legend_above(figure: go.Figure) -> go.Figure:
    """The legend in a row over the plot."""
    return figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.0, "yanchor": "bottom"})


def convergence(bce: list[float], colour: str) -> go.Figure:
    """Plot the loss of the gates' steps, each point the mean of the last twenty."""
    last = 20
    smooth = [sum(part) / len(part) for i in range(len(bce)) if (part := bce[max(0, i - last + 1) : i + 1])]
    figure = go.Figure()
    figure.add_scatter(y=smooth, mode="lines", line_color=colour)
    figure.update_layout(xaxis_title="step", yaxis_title="BCE, nats a row", height=280)
    return figure
