"""The one way to draw: matplotlib axes that become a PNG."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


@contextmanager
def drawing(path: Path) -> Iterator[None]:
    """Draw labels as they are, dollar signs included; an error is a warning, for a plot is not worth losing results."""
    import matplotlib as mpl

    try:
        with mpl.rc_context({"text.parse_math": False}):
            yield
    except Exception as error:
        logger.warning("%s could not be drawn (%s); the results are complete without it.", path.name, error)


@contextmanager
def new_figure(
    path: Path, title: str = "", xlabel: str = "", ylabel: str = "", size: tuple[float, float] = (6, 4)
) -> Iterator[Any]:
    """Matplotlib axes, `size` inches; the figure is written to `path`, a PNG, when the block ends."""
    from matplotlib.figure import Figure

    with drawing(path):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        yield axes
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=120)
