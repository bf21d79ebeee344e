"""What a card says beyond a run's results: intervals, calibration, the TF-IDF row, latency; measured once."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from ..benchmarks.latency import classifier_latency
from ..data.tasks import TEXT_OPTIONS, TaskArguments, load_task_from, task_hash
from ..errors import UserError
from ..loading import load_classifier, load_classifier_tokenizer
from ..runs.atomic_files import write_json
from ..runs.provenance import machine
from .baselines import tfidf_baseline
from .calibration import brier_score, expected_calibration_error
from .metrics import classification_metrics
from .scoring import predict_logits

logger = logging.getLogger(__name__)
LATENCY_REPEATS = 30
CONFIDENCE = 0.95


def wilson_interval(accuracy: float, texts: int) -> dict[str, float]:
    """95% interval of a share of `texts` test texts (Wilson, 1927): `low` and `high`, in [0, 1].

    It speaks of other test texts, not of other seeds of the training.
    """
    found = binomtest(round(accuracy * texts), texts).proportion_ci(CONFIDENCE, "wilson")
    return {"low": float(found.low), "high": float(found.high)}


def _busy() -> float | None:
    """Load of the last minute, where that is more than this process and one more; None where it is not known either."""
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):
        return None
    return load if load > (os.cpu_count() or 1) + 0.5 else None


def load_task_of(results: dict[str, Any], name: str, data_root: str | None) -> Any:
    """The task of a fine-tuning or committee, from what its results say.

    Raises:
        UserError: the task is not here, or its texts are no longer those of the run.
    """
    settings = results["settings"]
    wanted = {key: settings[key] for key in TaskArguments.__dataclass_fields__ if key in settings}
    options = {key: value for key, value in results.get("task_options", {}).items() if key in TEXT_OPTIONS}
    task = load_task_from(TaskArguments(**{**wanted, "task": results["task"], **options, "data_root": data_root}))
    if task_hash(task) != settings["task_sha256"]:
        raise UserError(
            f"The texts of the task {results['task']} are no longer those that {name} was trained on, so its numbers "
            "cannot be measured: use the same data, or run it again."
        )
    return task


def measure_classifier(
    folder: Path, results: dict[str, Any], weights: str, kept: Path, data_root: str | None = None
) -> dict[str, Any]:
    """Evaluation of a classifier or committee on its task's test split.

    Args:
        folder: its run.
        results: the run's results.
        weights: SHA-256 of its weights; with the task's hash it decides whether `kept` still holds.
        kept: JSON file that keeps what was measured, so that a release staged again is the same to the last byte.
        data_root: folder of real text; None for the variable TLM_DATA.

    Returns:
        `texts`, `accuracy` with `low` and `high`, `macro_f1`, `loss` (nats), `calibration_error`, `brier_score`;
        `baseline` likewise of TF-IDF + logistic regression; `latency`: median `milliseconds` for one text on CPU,
        `threads` and the `machine`.

    Raises:
        UserError: see `load_task_of`.
    """
    key = {"weights": weights, "task": results["settings"]["task_sha256"]}
    if kept.is_file():
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        if found["of"] == key:
            return found
    task = load_task_of(results, folder.name, data_root)
    model = load_classifier(str(folder))
    tokenizer = load_classifier_tokenizer(str(folder), model)
    texts, labels = task["test"]["text"][:], np.array(task["test"]["label"][:])
    logits, _ = predict_logits(model, tokenizer, texts)
    scores = classification_metrics(logits, labels)
    if abs(scores["accuracy"] - results["test"]["accuracy"]) > 0.5 / len(labels):
        raise UserError(
            f"{folder.name} is right on {scores['accuracy']:.4f} of its test texts here and its results say "
            f"{results['test']['accuracy']:.4f}: its weights are not those of its results, so run it again."
        )
    baseline = tfidf_baseline(task)
    if (busy := _busy()) is not None:
        logger.warning(
            "The machine is busy (%.1f processes at work on its %d cores), so the latency in the card of %s will be "
            "too high: for another measurement remove %s, and stage on a quiet machine.",
            busy, os.cpu_count() or 1, folder.name, kept.name,
        )  # fmt: skip
    milliseconds = classifier_latency({"this": model}, tokenizer, texts[0], LATENCY_REPEATS)["this"]
    found = {
        "of": key,
        "texts": len(labels),
        **scores,
        **wilson_interval(scores["accuracy"], len(labels)),
        "calibration_error": expected_calibration_error(logits, labels),
        "brier_score": brier_score(logits, labels),
        "baseline": {
            "accuracy": baseline["accuracy"],
            "macro_f1": baseline["macro_f1"],
            **wilson_interval(baseline["accuracy"], len(labels)),
        },
        "latency": {
            "milliseconds": milliseconds,
            "tokens": min(len(tokenizer(texts[0])["input_ids"]), tokenizer.model_max_length),
            "threads": torch.get_num_threads(),
            "machine": machine(),
        },
    }
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json(kept, found)
    return found
