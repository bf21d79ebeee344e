"""The one way to draw: matplotlib axes that become a PNG."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@contextmanager
def new_figure(
    path: Path, title: str = "", xlabel: str = "", ylabel: str = "", size: tuple[float, float] = (6, 4)
) -> "Iterator[Axes]":
    """Axes to draw on; the figure is written to `path` when the block ends.

    Args:
        path: PNG file.
        title: of the figure.
        xlabel: what the x axis shows.
        ylabel: what the y axis shows.
        size: width and height in inches.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=size, layout="constrained")
    try:
        yield axes
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=120)
    finally:
        plt.close(figure)
