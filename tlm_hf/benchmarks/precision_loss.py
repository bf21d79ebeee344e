"""Accuracy that a classifier or committee loses in bfloat16 and int8, on the test split of a task."""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from ..data.tasks import TaskArguments, class_names, load_task_from
from ..errors import UserError
from ..evaluation.calibration import brier_score, expected_calibration_error
from ..evaluation.metrics import classification_metrics
from ..evaluation.scoring import predict_logits
from ..export import FLOAT_FILE, INT8_FILE, OnnxClassifier, check_packages, export_onnx, quantize
from ..loading import check_task_labels, load_classifier, load_classifier_tokenizer
from ..runs.atomic_files import write_json
from ..runs.provenance import portable, portable_path, provenance


@dataclass
class PrecisionArguments(TaskArguments):
    """Options of `tlm benchmark precision`."""

    what: str = field(default="precision", metadata={"help": "precision."})
    model: str = field(default="", metadata={"help": "Folder or Hub name of a classifier or committee."})
    json: str | None = field(default=None, metadata={"help": "File for the results."})


class _Exported:
    """An exported file with the little of a model's interface that `predict_logits` needs."""

    def __init__(self, path: Path, config: Any) -> None:
        self.run, self.config, self.device = OnnxClassifier(path), config, torch.device("cpu")

    def eval(self) -> "_Exported":
        return self

    def __call__(self, **batch: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.from_numpy(self.run(**batch)))


def compare_precisions(arguments: PrecisionArguments) -> dict[str, Any]:
    """Score one model in float32, bfloat16 (torch), and float32 and int8 (onnxruntime) on the same test texts.

    Returns:
        `rows`, by runtime and precision: `accuracy`, `loss` in nats, `calibration_error`, `brier_score`, `agreement`
        (the share of texts with torch's float32 class), and `max_abs_diff`, the largest difference of a logit from
        torch's float32.

    Raises:
        UserError: bad input, labels that are not the task's, or packages that are missing.
    """
    if not arguments.model or not arguments.task:
        raise UserError("benchmark precision needs --model (a classifier or committee) and --task.")
    check_packages()
    model = load_classifier(arguments.model)
    tokenizer = load_classifier_tokenizer(arguments.model, model)
    task = load_task_from(arguments)
    check_task_labels(model, arguments.model, arguments.task, class_names(task))
    texts, labels = task["test"]["text"][:], np.array(task["test"]["label"][:])
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        exported = export_onnx(model, Path(folder) / FLOAT_FILE)
        smaller = quantize(exported, Path(folder) / INT8_FILE)
        variants: dict[tuple[str, str], Callable[[], Any]] = {
            ("torch", "fp32"): lambda: model,
            ("torch", "bf16"): lambda: copy.deepcopy(model).to(torch.bfloat16),
            ("onnx", "fp32"): lambda: _Exported(exported, model.config),
            ("onnx", "int8"): lambda: _Exported(smaller, model.config),
        }
        exact = None
        for (runtime, precision), build in variants.items():
            logits, _ = predict_logits(build(), tokenizer, texts)
            exact = logits if exact is None else exact
            rows.append(
                {
                    "runtime": runtime,
                    "precision": precision,
                    **classification_metrics(logits, labels),
                    "calibration_error": expected_calibration_error(logits, labels),
                    "brier_score": brier_score(logits, labels),
                    "agreement": float((logits.argmax(-1) == exact.argmax(-1)).mean()),
                    "max_abs_diff": float(np.abs(logits - exact).max()),
                }
            )
    results = {
        "model": portable_path(arguments.model),
        "task": arguments.task,
        "texts": len(labels),
        "rows": rows,
        "settings": portable({key: value for key, value in asdict(arguments).items() if key != "json"}),
        **provenance(),
    }
    if arguments.json is not None:
        write_json(arguments.json, results)
    return results
