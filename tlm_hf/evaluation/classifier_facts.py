"""What a card says beyond a run's results: intervals, calibration, the TF-IDF row, latency; measured once."""

from pathlib import Path

import datasets
import numpy as np
import torch

from ..data.tasks import TEXT_OPTIONS, TaskArguments, load_task_from, task_hash
from ..errors import UserError
from ..loading import load_classifier, load_classifier_tokenizer
from ..runs.atomic_files import Json, read_json, write_json
from ..runs.provenance import machine
from .calibration import brier_score, expected_calibration_error
from .intervals import wilson_interval
from .latency import classifier_latency
from .linear_models import tfidf_baseline
from .metrics import classification_metrics
from .scoring import predict_logits

LATENCY_ROUNDS = 30


def load_task_of(results: Json, name: str, data_root: str | None) -> datasets.DatasetDict:
    """The task of a fine-tuning or committee, from its results; UserError where its texts are not the run's."""
    settings = results["settings"]
    options = {key: settings[key] for key in TaskArguments.__dataclass_fields__ if key in settings}
    options |= {key: value for key, value in results.get("task_options", {}).items() if key in TEXT_OPTIONS}
    task = load_task_from(TaskArguments(**options | {"task": results["task"], "data_root": data_root}))
    if task_hash(task) != settings["task_sha256"]:
        raise UserError(
            f"The texts of the task {results['task']} are not those that {name} was trained on: use the same data, or "
            "run it again."
        )
    return task


def measure_classifier(folder: Path, results: Json, weights: str, kept: Path, data_root: str | None = None) -> Json:
    """Evaluation of a classifier or committee, in a run's `folder` with these `results`, on its task's test split.

    Returns `texts`, scores, `baseline` (TF-IDF + linear model), and `latency` of one text. The JSON file `kept` holds
    them, valid for these `weights` (SHA-256) and the task's hash, so that a release staged again is the same. Raises
    UserError as `load_task_of`, and where the model's accuracy is not that of its results.
    """
    key = {"weights": weights, "task": results["settings"]["task_sha256"]}
    if kept.is_file() and (stored := read_json(kept))["of"] == key:
        return {name: value for name, value in stored.items() if name != "of"}
    task = load_task_of(results, folder.name, data_root)
    model = load_classifier(str(folder))
    tokenizer = load_classifier_tokenizer(str(folder), model)
    texts, labels = task["test"]["text"][:], np.array(task["test"]["label"][:])
    logits, _ = predict_logits(model, tokenizer, texts)
    scores = classification_metrics(logits, labels)
    if abs(scores["accuracy"] - results["test"]["accuracy"]) > 0.5 / len(labels):
        raise UserError(
            f"{folder.name} has a test accuracy of {scores['accuracy']:.4f} here and of "
            f"{results['test']['accuracy']:.4f} in its results: its weights have changed, so run it again."
        )
    baseline = tfidf_baseline(task)
    facts = {
        "texts": len(labels),
        **scores,
        **_ends(scores["accuracy"], len(labels)),
        "calibration_error": expected_calibration_error(logits, labels),
        "brier_score": brier_score(logits, labels),
        "baseline": {name: baseline[name] for name in ("accuracy", "macro_f1")}
        | _ends(baseline["accuracy"], len(labels)),
        "latency": {
            "milliseconds": classifier_latency({"this": model}, tokenizer, texts[0], LATENCY_ROUNDS)["this"],
            "tokens": min(len(tokenizer(texts[0])["input_ids"]), tokenizer.model_max_length),
            "threads": torch.get_num_threads(),
            "machine": machine(),
        },
    }
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json(kept, {"of": key, **facts})
    return facts


def _ends(accuracy: float, texts: int) -> dict[str, float]:
    interval = wilson_interval(round(accuracy * texts), texts)
    return {"low": interval.low, "high": interval.high}
