"""The folder that `tlm train-committee` writes: committee, tables, linear model, and cards."""

import logging
import shutil
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import joblib
from sklearn.pipeline import Pipeline

from .. import runtime
from ..cards import METRICS, CardFacts, render_card
from ..evaluation.latency import Watch, measure_seconds
from ..export import measure_tables, write_frozen
from ..runs.atomic_files import Json
from ..runs.figure import new_figure
from ..runs.output_folder import Run
from .committee_report import BASELINE_FILE, CURVE_FILE, PLOTS, write_page
from .join_committee import Joined, save_committee

logger = logging.getLogger(__name__)
README, LATENCY_ROUNDS = "README.md", 30


def freeze_joined(joined: Joined, texts: list[Any], folder: Path) -> Json | None:
    """Write the committee's tables, where it has any; their difference and size, and the latency of one text."""
    try:
        write_frozen(joined.committee, joined.tokenizer, folder, token_types=isinstance(texts[0], tuple))
    except ValueError as error:
        logger.info("No tables were written: %s", error)
        return None
    model, text = runtime.load(folder), sorted(texts, key=len)[len(texts) // 2]
    watch = Watch()
    seconds = statistics.median(measure_seconds(partial(model, text)) for _ in range(LATENCY_ROUNDS))
    tables = measure_tables(joined.committee, joined.tokenizer, folder)
    return {"tables": tables, "latency": {"milliseconds": 1000 * seconds, "is_busy": watch.is_busy()}}


def save_folder(run: Run, results: Json, commands: list[str], joined: Joined, baseline: Pipeline, folder: Path) -> None:
    """Write the committee, its tables, the linear model, the plots, and the page and cards that show the results."""
    save_committee(joined, folder)
    joblib.dump(baseline, folder / BASELINE_FILE, compress=3)
    curve = results["learning_curve"]
    title = f"test {METRICS[curve['metric']]}"
    with new_figure(folder / CURVE_FILE, "", "training rows", title, size=(4.2, 2.6)) as axes:
        axes.plot([point["rows"] for point in curve["points"]], [point["score"] for point in curve["points"]], "o-")
    results, name = run.describe(results), results["output_dir"]
    write_page(results, commands, folder)
    facts = CardFacts(
        f"a table of {sum(results['rows'].values()):,} rows",
        plots=PLOTS,
        commands=commands,
        remote_code=True,
        example="a new text",
        licence="unknown",
        language=None,
    )
    of_card = results | {"test": results["committee"], "parameters": joined.committee.num_parameters()}
    (folder / README).write_text(render_card("committee", name, of_card, facts, "table"), encoding="utf-8")
    if results["frozen"] is not None:
        tables = run.folder / "work" / "frozen"
        of_card = results | {"settings": {"table_dtype": "float32"}, "tables": results["frozen"]["tables"]}
        (tables / README).write_text(render_card("frozen", f"{name}/frozen", of_card, facts), encoding="utf-8")
        shutil.move(tables, folder / "frozen")
