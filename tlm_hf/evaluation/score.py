"""Score any model on any task or text."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..data.corpora import load_corpus
from ..data.tasks import TaskArguments, load_task_from, task_hash
from ..data.tokenization import tokenize
from ..errors import UserError
from ..loading import (
    check_task_labels,
    load_classifier,
    load_classifier_tokenizer,
    load_masked_lm,
    load_matching_tokenizer,
    read_config,
    trained_on_another_split,
)
from ..runs.atomic_files import write_json
from ..runs.provenance import portable_path, provenance
from .calibration import expected_calibration_error
from .metrics import classification_metrics
from .scoring import masked_lm_score, predict_logits

logger = logging.getLogger(__name__)


@dataclass
class ScoreArguments(TaskArguments):
    """Options of `tlm score`."""

    task: str = field(default="", metadata={"help": "Task for a classifier or committee (its test split)."})
    model: str = field(default="", metadata={"help": "Folder or Hub name."})
    text: str | None = field(
        default=None, metadata={"help": "Text for an encoder's fixed-mask loss, in place of --task."}
    )
    output: str | None = field(default=None, metadata={"help": "JSON file for the results."})
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bar (for logs)."})


def score(arguments: ScoreArguments) -> dict[str, Any]:
    """Score a model: accuracy, macro F1 and loss of a classifier, or fixed-mask loss and perplexity of an encoder.

    A classifier or committee takes `--task` and is scored on its test split. An encoder takes `--text` (the held-out
    part of `docstrings` or `wikipedia`, or all of any other text), or `--task`, whose test texts are then the text.

    Returns:
        `metrics`, with loss in nats, the number of texts, and where they came from.

    Raises:
        UserError: bad input.
    """
    if not arguments.model:
        raise UserError("score needs --model (a folder or Hub name).")
    if bool(arguments.task) == bool(arguments.text):
        raise UserError("score needs either --task or --text.")
    if arguments.output is not None and not Path(arguments.output).expanduser().resolve().parent.is_dir():
        raise UserError(f"The folder of --output {arguments.output} does not exist: make it first.")
    fields = read_config(arguments.model)
    classifies = any("SequenceClassification" in name for name in fields.get("architectures") or [])
    if classifies and arguments.text:
        raise UserError(f"The model {arguments.model!r} is a classifier: score it with --task.")
    results: dict[str, Any] = {"model": portable_path(arguments.model)}
    if classifies:
        results |= _score_classifier(arguments)
    else:
        results |= _score_encoder(arguments, fields)
    results |= provenance()
    if arguments.output is not None:
        write_json(Path(arguments.output).expanduser(), results)
    return results


def _score_classifier(arguments: ScoreArguments) -> dict[str, Any]:
    model = load_classifier(arguments.model)
    tokenizer = load_classifier_tokenizer(arguments.model, model)
    task = load_task_from(arguments)
    test = task["test"]
    names = list(test.features["label"].names)
    check_task_labels(model, arguments.model, arguments.task, names)
    other_split = trained_on_another_split(arguments.model, task_hash(task))
    if other_split:
        logger.warning(
            "Note: %s was fine-tuned on another split of this task; test texts may be among its training texts (give "
            "the options of its fine-tuning: --task-seed, --*-per-label, --all-rows, --shortfall, --entity-markers, "
            "--title-column).",
            arguments.model,
        )
    logits, truncated = predict_logits(model, tokenizer, test["text"][:], show_progress=not arguments.disable_tqdm)
    labels = np.array(test["label"][:])
    metrics = classification_metrics(logits, labels)
    metrics["calibration_error"] = expected_calibration_error(logits, labels)
    return {
        "task": arguments.task,
        "metrics": metrics,
        "texts": len(labels),
        "truncated": truncated,
        "trained_on_another_split": other_split,
    }


def _score_encoder(arguments: ScoreArguments, fields: dict[str, Any]) -> dict[str, Any]:
    model = load_masked_lm(arguments.model)
    tokenizer = load_matching_tokenizer(arguments.model, None, fields["vocab_size"])
    if arguments.text is None:
        dataset = load_task_from(arguments)["test"].select_columns(["text"])
    else:
        column = arguments.text_column or "text"
        corpus = load_corpus(arguments.text, text_column=column, root=arguments.data_root)
        known = arguments.text in ("docstrings", "wikipedia")
        dataset = corpus["validation"]
        if not known:
            import datasets

            dataset = datasets.concatenate_datasets([corpus["train"], corpus["validation"]])
    length = min(tokenizer.model_max_length, fields["max_position_embeddings"])
    ids = tokenize(dataset, tokenizer, length)["input_ids"][:]
    metrics = masked_lm_score(model, tokenizer, ids, show_progress=not arguments.disable_tqdm)
    if not metrics["masked_tokens"]:
        raise UserError(f"{arguments.text or arguments.task!r} is too short to mask a token of it: give more text.")
    name = "task" if arguments.text is None else "text"
    return {name: portable_path(arguments.text or arguments.task), "metrics": metrics, "texts": len(ids)}
