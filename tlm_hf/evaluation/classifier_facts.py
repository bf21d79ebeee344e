"""What a card says beyond a run's results: intervals, calibration, the TF-IDF row, latency; measured once."""

from pathlib import Path

import datasets
import torch

from ..cards import METRICS
from ..data.kinds import class_names, labels_of, problem_of, texts_of
from ..data.sources import data_root as find_data_root
from ..data.table_files import kind_of
from ..data.tasks import TEXT_OPTIONS, TaskArguments, load_task_from, task_hash
from ..errors import UserError
from ..loading import load_classifier, load_classifier_tokenizer
from ..models.combination_committee import SINGLE
from ..runs.atomic_files import Json, read_json, write_json
from ..runs.provenance import machine
from .calibration import calibration_metrics
from .intervals import draw_scores, intervals
from .latency import classifier_latency
from .linear_models import fit_tfidf
from .metrics import HEADLINE, answers_of, measure
from .scoring import predict_logits


def load_task_of(results: Json, name: str, data_root: str | None) -> datasets.DatasetDict:
    """The task of a fine-tuning or committee, from its results; UserError where its texts are not the run's."""
    settings = results["settings"]
    options = {key: settings[key] for key in TaskArguments.__dataclass_fields__ if key in settings}
    options |= {key: value for key, value in results.get("task_options", {}).items() if key in TEXT_OPTIONS}
    table = results["task"]
    if table.startswith("$TLM_DATA/"):  # as `portable_path` writes it
        if (root := find_data_root(data_root)) is None:
            raise UserError(f"{name} was trained on {table}: set TLM_DATA, or give --data-root.")
        table = table.replace("$TLM_DATA", str(root))
    if kind_of(Path(table)) is not None and not Path(table).exists():
        remedy = "run the command from the folder that has it"
        raise UserError(f"{name} was trained on {table}, which is not here: {remedy}.")
    task = load_task_from(TaskArguments(**options | {"task": table, "data_root": data_root}))
    if task_hash(task) != settings["task_sha256"]:
        words = f"The texts of the task {results['task']} are not those that {name} was trained on"
        raise UserError(f"{words}: use the same data, or run it again.")
    return task


def measure_classifier(folder: Path, results: Json, weights: str, kept: Path, data_root: str | None = None) -> Json:
    """Evaluation of a classifier or committee, in a run's `folder` with these `results`, on its task's test split.

    The JSON file `kept` holds it, valid for these `weights` (SHA-256), scores and the task's hash, so that a release
    staged again is the same. Raises UserError as `load_task_of`, and where the model's score is not that of `results`.
    """
    # Scores too: committees of equal weights may join, calibrate or threshold them in other ways.
    key = {"weights": weights, "task": results["settings"]["task_sha256"], "test": results["test"]}
    if kept.is_file() and (stored := read_json(kept))["of"] == key:
        return {name: value for name, value in stored.items() if name != "of"}
    task = load_task_of(results, folder.name, data_root)
    model = load_classifier(str(folder))
    tokenizer = load_classifier_tokenizer(str(folder), model)
    problem_type, texts, labels = problem_of(task), texts_of(task["test"]), labels_of(task["test"])
    logits, _ = predict_logits(model, tokenizer, texts)
    threshold, metric = getattr(model.config, "threshold", 0.5), HEADLINE[problem_type]
    value, before = measure(problem_type, logits, labels, threshold)[metric], results["test"][metric]
    # None is the R2 of equal numbers.
    if value != before and (None in (value, before) or abs(value - before) > 0.5 / len(labels)):
        words = f"{folder.name} has a test {METRICS[metric]} of {value} here and of {before} in its results"
        raise UserError(f"{words}: its weights have changed, so run it again.")
    baseline, _ = fit_tfidf(task)
    answers = {"scores": answers_of(logits, problem_type, threshold)}
    answers["baseline"] = answers_of(baseline["logits"]["test"], problem_type, baseline["threshold"])
    facts: Json = {"texts": len(labels)}
    for name, drawn in draw_scores(answers, labels, problem_type, len(class_names(task))).items():
        facts[name] = {metric: vars(interval) for metric, interval in intervals(drawn, len(labels)).items()}
    if problem_type == SINGLE:
        metrics = calibration_metrics(logits, labels)
        facts |= {name: metrics[name] for name in ("loss", "calibration_error", "brier_score")}
    facts["latency"] = {
        "milliseconds": classifier_latency({"this": model}, tokenizer, texts[0])["this"],
        "tokens": min(len(tokenizer([texts[0]])["input_ids"][0]), tokenizer.model_max_length),
        "threads": torch.get_num_threads(),
        "machine": machine(),
    }
    write_json(kept, {"of": key, **facts})
    return facts
