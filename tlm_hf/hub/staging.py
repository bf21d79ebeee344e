"""Release folders: the model files of a run and a card, ready to push and loadable by path."""

import shutil
from pathlib import Path
from typing import Any

from ..cards import is_uncased, render_card
from ..errors import UserError
from ..runs.output_folder import RESULTS_FILE

MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


def stage_model(
    run_folder: Path,
    destination: Path,
    kind: str,
    results: dict[str, Any],
    *,
    plot: Path | None = None,
    **facts: Any,
) -> Path:
    """Build a release folder from a finished run.

    The folder is made under another name and renamed when it is whole; an older one of the same name is replaced.

    Args:
        run_folder: output folder of `pretrain`, `finetune` or `committee`.
        destination: the release folder; its name is the model's name.
        kind: `encoder`, `classifier` or `committee`: which card.
        results: the run's results.
        plot: a picture to copy beside the card.
        **facts: see `cards.render_card`.

    Returns:
        `destination`.

    Raises:
        UserError: the run has not finished, or lacks a model file.
    """
    if not (run_folder / RESULTS_FILE).is_file():
        raise UserError(f"The run {run_folder} has not finished, so there is nothing to stage: finish it first.")
    partial = destination.with_name(f".{destination.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    code = [file.name for file in run_folder.glob("*.py")]
    for name in [*MODEL_FILES, *code]:
        if not (run_folder / name).is_file():
            raise UserError(f"The run {run_folder} has no {name}: run it again into a new folder.")
        shutil.copy2(run_folder / name, partial / name)
    if plot is not None:
        shutil.copy2(plot, partial / plot.name)
    facts = {"uncased": is_uncased(partial), **facts}
    card = render_card(kind, destination.name, results, plot=plot.name if plot else None, **facts)
    (partial / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(destination, ignore_errors=True)
    partial.rename(destination)
    return destination
