"""The one way to draw: matplotlib axes that become a PNG."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


@contextmanager
def new_figure(
    path: Path, title: str = "", xlabel: str = "", ylabel: str = "", size: tuple[float, float] = (6, 4), panels: int = 0
) -> Iterator[Any]:
    """Matplotlib axes, `size` inches, or a row of so many `panels`; in the end they are written to `path`, a PNG.

    Labels are drawn as they are, dollar signs included. An error is a warning: a plot is not worth losing results.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    try:
        with mpl.rc_context({"text.parse_math": False}):
            figure = Figure(figsize=size, layout="constrained")
            (row,) = figure.subplots(1, panels or 1, squeeze=False)
            for axes in row:
                axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
                axes.spines[["top", "right"]].set_visible(False)
            yield row if panels else row[0]
            figure.savefig(path, dpi=120, metadata={"Software": None})  # equal figures give equal bytes
    except Exception as error:
        logger.warning("%s could not be drawn (%s); the results are complete without it.", path.name, error)
