"""Accuracy that a classifier or committee loses in smaller precisions, on the test split of a task."""

import contextlib
import copy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from ..data.tasks import TaskArguments, class_names, load_task_from
from ..errors import UserError, check_installed
from ..evaluation.calibration import brier_score, expected_calibration_error
from ..evaluation.metrics import classification_metrics
from ..evaluation.scoring import predict_logits
from ..export import NEEDED
from ..loading import load_classifier, load_classifier_tokenizer, match_labels
from ..models.configuration_frozen import TABLE_DTYPES
from ..models.modeling_committee import CommitteeForSequenceClassification
from ..option_fields import option
from ..runs.atomic_files import Json
from ..runs.provenance import portable_path
from .measure import build_onnx, finish


@dataclass
class PrecisionArguments(TaskArguments):
    """Options of `tlm benchmark precision`."""

    model: str = option("", "Folder or Hub name of a classifier or committee.")
    json: str | None = option(None, "File for the results.")


def compare_precisions(arguments: PrecisionArguments) -> Json:
    """Score one model in every precision on the same test texts; a committee of one-layer encoders also frozen.

    Returns `rows`, by runtime and precision: `accuracy`, `loss` in nats, `calibration_error`, `brier_score`, and beside
    torch's float32 `agreement`, the share of texts of the same class, and `max_abs_diff`, the largest difference of a
    logit. Raises UserError for bad input, labels that are not the task's, or packages that are missing.
    """
    if not arguments.model or not arguments.task:
        raise UserError("benchmark precision needs --model (a classifier or committee) and --task.")
    check_installed(*NEEDED)
    model = load_classifier(arguments.model).float()
    tokenizer = load_classifier_tokenizer(arguments.model, model)
    task = load_task_from(arguments)
    numbers = match_labels(model, arguments.model, arguments.task, class_names(task))
    texts, labels = task["test"]["text"][:], numbers[task["test"]["label"][:]]
    variants = {("torch", "float32"): model, ("torch", "bfloat16"): copy.deepcopy(model).to(torch.bfloat16)}
    with TemporaryDirectory() as folder:
        variants |= build_onnx(model, Path(folder))
    if isinstance(model, CommitteeForSequenceClassification):
        with contextlib.suppress(ValueError):  # a member has no tables
            variants |= {("frozen", dtype): model.freeze(dtype, tokenizer.cls_token_id) for dtype in TABLE_DTYPES}
    logits = {kind: predict_logits(variant, tokenizer, texts)[0] for kind, variant in variants.items()}
    exact = logits["torch", "float32"]
    rows = []
    for (runtime, precision), values in logits.items():
        row: Json = {"runtime": runtime, "precision": precision, **classification_metrics(values, labels)}
        row["calibration_error"] = expected_calibration_error(values, labels)
        row["brier_score"] = brier_score(values, labels)
        row["agreement"] = float((values.argmax(-1) == exact.argmax(-1)).mean())
        rows.append(row | {"max_abs_diff": float(np.abs(values - exact).max())})
    results = {"model": portable_path(arguments.model), "task": arguments.task, "texts": len(labels), "rows": rows}
    return finish(arguments, results)
