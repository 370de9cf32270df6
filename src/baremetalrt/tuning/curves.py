"""The losses of a run as a picture: a PNG file, and dots in the terminal."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from baremetalrt.core.files import disk_errors, write_durably

NAME: Final = "curves.png"
_DPI: Final = 120
Points = Sequence[tuple[int, float]]


def write_png(losses: Points, held_out: Points, best_step: int, folder: Path) -> Path:
    """Both curves by step, and where the best adapter was."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, points, marker in (("training", losses, ""), ("held out", held_out, "o")):
        if points:
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, label=name, marker=marker)
    axes.axvline(best_step, linestyle=":", color="0.4", label="best")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    path = folder / NAME
    with disk_errors():
        write_durably(path, buffer.getvalue())
    return path


def draw(losses: Points, held_out: Points, *, width: int = 60, height: int = 12) -> str:
    """The same for a terminal."""
    import plotille

    figure = plotille.Figure()
    figure.width, figure.height = width, height
    figure.x_label, figure.y_label = "step", "loss"
    figure.with_colors = False
    figure.set_x_limits(min_=0, max_=max([1, *(step for step, _ in losses)]))
    for name, points in (("training", losses), ("held out", held_out)):
        if points:
            marker = "o" if name == "held out" else None
            steps, values = zip(*points, strict=True)
            figure.plot(steps, values, label=name, marker=marker)
    return str(figure.show(legend=True))
