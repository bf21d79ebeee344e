"""Scores: logits of classifiers, the masked-language-model loss on fixed masks, and `tlm score`."""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import loading
from ..data.corpora import load_corpus
from ..data.kinds import NAMES, class_names, labels_of, problem_of, texts_of
from ..data.masking import HELD_OUT_STREAM, IGNORE_INDEX, MaskingCollator
from ..data.tables import SPLITS
from ..data.tasks import KNOWN, TaskArguments, every_row, load_task_from, task_hash
from ..data.tokenization import tokenize
from ..errors import UserError, refusing
from ..export import freeze_if_possible, load_for_inference, takes_pairs
from ..models.combination_committee import REGRESSION, SINGLE
from ..models.joining_committee import problem_of_model
from ..option_fields import option
from ..runs.atomic_files import Json, write_json
from ..runs.provenance import portable_path, provenance
from .calibration import expected_calibration_error
from .metrics import measure

logger = logging.getLogger(__name__)
HELD_OUT_MASK_RATE = 0.15
LARGEST_LIMIT = 2**30  # of tokens, in place of the 1e30 that says "none"
LOGIT_STEP = 1 / 128  # of stored logits: smaller differences decide next to nothing, and files stay small
FREEZE_HELP = "Answer from tables where the committee can be frozen; --no-freeze runs its members."
HELD_OUT_CORPORA = ("docstrings", "wikipedia")  # of which one part is held out from training: that part is scored


def _batches_by_length(texts: Sequence[Any], batch_size: int) -> list[list[int]]:
    """Indices in batches of similar length, so that little padding is computed."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def held_out_masks(tokenizer: PreTrainedTokenizerBase, input_ids: Sequence[Any]) -> MaskingCollator | None:
    """Masks by position alone, of seed 0 (of a few tokens: the first that masks one); None for nothing to mask."""
    for seed in range(50):
        collator = MaskingCollator(tokenizer, HELD_OUT_MASK_RATE, seed, HELD_OUT_STREAM)
        rows = ({"input_ids": ids, "item": item} for item, ids in enumerate(input_ids))
        if any(bool((collator([row])["labels"] != IGNORE_INDEX).any()) for row in rows):
            return collator
    return None


@torch.inference_mode()
def masked_lm_score(
    model: PreTrainedModel, tokenizer: Any, input_ids: Sequence[Any], batch_size: int = 64, show_progress: bool = False
) -> dict[str, float]:
    """`loss` (nats a token), `perplexity` and `masked_tokens` of token ids, on masks by a text's position alone."""
    collator = held_out_masks(tokenizer, input_ids)
    if collator is None:
        return {"loss": float("nan"), "perplexity": float("nan"), "masked_tokens": 0}
    was_training, total, count = model.training, 0.0, 0
    model.eval()
    for indices in tqdm(_batches_by_length(input_ids, batch_size), desc="Fixed-mask loss", disable=not show_progress):
        batch = collator([{"input_ids": input_ids[index], "item": index} for index in indices])
        if masked := int((batch["labels"] != IGNORE_INDEX).sum()):
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            total += float(model(**batch, sparse_prediction=True).loss) * masked
            count += masked
    model.train(was_training)
    loss = total / count
    return {"loss": loss, "perplexity": float(np.exp(loss)), "masked_tokens": count}


@torch.inference_mode()
def predict_logits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Any],
    batch_size: int = 64,
    show_progress: bool = False,
    member_logits: bool = False,
) -> tuple[np.ndarray, int]:
    """Logits float32 (n, classes) of n texts or pairs, and how many were cut to the tokenizer's `model_max_length`.

    Pairs are cut to what members read. With `member_logits` they are (n, members, classes), of a committee.
    """
    model.eval()
    are_pairs = len(texts) > 0 and not isinstance(texts[0], str)
    if are_pairs and not takes_pairs(model):
        raise UserError("This model was frozen for single texts: for pairs, freeze it with tlm freeze --token-types.")
    bare: Json = {"return_attention_mask": False, "return_token_type_ids": are_pairs}
    limit = min(tokenizer.model_max_length, LARGEST_LIMIT)
    limit = min(limit, loading.longest_of_members(model.config)) if are_pairs else limit
    # One call, always with these options: they are the tokenizer's state, which threads share.
    encoded = tokenizer(list(texts), truncation=True, max_length=limit, **bare)
    truncated = sum(bool(encoding.overflowing) for encoding in encoded.encodings or [])
    members = (model.config.num_members,) if member_logits else ()
    logits = np.zeros((len(texts), *members, model.config.num_labels), dtype=np.float32)
    with tqdm(total=len(texts), desc="Classifying", unit="text", disable=not show_progress) as progress:
        for indices in _batches_by_length(encoded["input_ids"], batch_size):
            columns = {name: [rows[index] for index in indices] for name, rows in encoded.items()}
            output = model(**tokenizer.pad(columns, return_tensors="pt").to(model.device))
            logits[indices] = (output.member_logits if member_logits else output.logits).float().cpu().numpy()
            progress.update(len(indices))
    return logits, truncated


def pack_logits(logits: np.ndarray) -> np.ndarray:
    """Distances below each row's largest logit in units of `LOGIT_STEP`: uint16 (..., classes); only that is at 0."""
    below = np.rint((logits.max(axis=-1, keepdims=True) - logits) / LOGIT_STEP)
    first = np.arange(logits.shape[-1]) == logits.argmax(axis=-1)[..., None]
    return np.clip(below, np.where(first, 0, 1), np.iinfo(np.uint16).max).astype(np.uint16)


def unpack_logits(packed: np.ndarray) -> np.ndarray:
    """Logits (..., classes), float64, the largest of each row 0."""
    return -packed.astype(np.float64) * LOGIT_STEP


@dataclass
class ScoreArguments(TaskArguments):
    """Options of `tlm score`."""

    task: str = option("", "For a classifier or committee: task or table.")
    model: str = option("", "Folder or Hub name.")
    split: str | None = option(None, "Rows of --task; default: test, or a whole single file.", choices=[*SPLITS, "all"])
    text: str | None = option(None, "For an encoder: text for its fixed-mask loss.")
    output: str | None = option(None, "New JSON file for the results.")
    freeze: bool = option(True, FREEZE_HELP)
    disable_tqdm: bool = option(False, "No progress bar (for logs).")


def score(arguments: ScoreArguments) -> Json:
    """Score a model: accuracy, macro F1 and loss of a classifier, or fixed-mask loss and perplexity of an encoder.

    A classifier or committee takes `--task`: its test split, or all rows of a single file; `problem_type` says what is
    measured. An encoder takes `--text`: the held-out part of `docstrings` or `wikipedia`, or all of any other text.
    Raises UserError for bad input, before any model is opened.
    """
    if not arguments.model or bool(arguments.task) == bool(arguments.text):
        raise UserError("score needs --model (a folder or Hub name), and either --task or --text.")
    target = None if arguments.output is None else output_file(arguments.output)
    config = loading.read_config(arguments.model, needs_weights=False)
    classifies = any("SequenceClassification" in name for name in config.get("architectures") or [])
    if classifies == bool(arguments.text):
        words = "a classifier: score it with --task" if classifies else "an encoder: score it with --text"
        raise UserError(f"The model {arguments.model!r} is {words}.")
    scores = _score_classifier(arguments) if classifies else _score_encoder(arguments, config)
    logger.info("%d rows scored.", scores["texts"])
    results = {"model": portable_path(arguments.model), **scores, **provenance()}
    if target is not None:
        write_json(target, results)
    return results


def output_file(output: str) -> Path:
    """The file of `--output`; raises UserError where it cannot be written, or is one already."""
    target = Path(output).expanduser().resolve()
    if target.is_file():
        raise UserError(f"--output {output} exists: name a new file.")
    if target.is_dir() or not target.parent.is_dir():
        raise UserError(f"--output {output} is a folder, or is in none: name a file in a folder that exists.")
    with refusing(f"--output {output} cannot be written", "name another file", OSError):
        tempfile.TemporaryFile(dir=target.parent).close()
    return target


def _read_task(arguments: ScoreArguments) -> tuple[datasets.Dataset, str | None]:
    """The rows to score, and where they are those of a split the task's hash."""
    split = arguments.split
    if split is None:
        is_file = Path(arguments.task).expanduser().is_file()
        asked = any(getattr(arguments, f"{name}_per_label") for name in SPLITS)
        split = "all" if is_file and not asked else "test"
    if split == "all" and arguments.task not in ("docstrings", "fewrel"):
        return every_row(arguments), None
    task = load_task_from(arguments, every_class=False)
    rows = datasets.concatenate_datasets([task[name] for name in (task if split == "all" else [split])])
    if not len(rows):
        raise UserError(f"{arguments.task!r} has no rows for {split}: choose another --split.")
    return rows, task_hash(task) if len(task["train"]) else None


def _score_classifier(arguments: ScoreArguments) -> Json:
    model = load_for_inference(arguments.model)
    tokenizer = loading.load_classifier_tokenizer(arguments.model, model)
    config, problem_type = model.config, problem_of_model(model.config)
    if problem_type == REGRESSION and config.num_labels > 1:
        raise UserError(f"The model {arguments.model!r} has {config.num_labels} values a text: use predict.")
    own, asked = NAMES[problem_type], arguments.problem_type
    words = f"The model {arguments.model!r} is of --problem-type {own}"
    if asked not in (None, own):
        raise UserError(f"{words}, not {asked}: leave the option out.")
    is_plain = problem_type == SINGLE or arguments.task in ("docstrings", *KNOWN)
    rows, sha256 = _read_task(replace(arguments, problem_type=None if is_plain else own))
    if (kind := problem_of(rows)) != problem_type:
        raise UserError(f"{words} but {arguments.task!r} of {NAMES[kind]}: name a table of the model's kind.")
    labels, texts = labels_of(rows), texts_of(rows)
    loading.warn_of_pairs(arguments.model, texts)
    if problem_type != REGRESSION:
        numbers = loading.match_labels(model, arguments.model, arguments.task, class_names(rows))
        labels = numbers[labels] if problem_type == SINGLE else labels @ np.eye(config.num_labels)[numbers]
    other_split = sha256 is not None and loading.trained_on_another_split(arguments.model, sha256)
    if other_split:
        words = "was fine-tuned on another split of this task; test texts may be among its training texts"
        remedy = "give the task options of its fine-tuning, such as --task-seed and --train-per-label"
        logger.warning("Note: %s %s (%s).", arguments.model, words, remedy)
    if sha256 is None and loading.trained_on_file(arguments.model, arguments.task):
        words = "was trained on rows of this table, so these scores are too high; --split test has those it did not see"
        logger.warning("Note: %s %s.", arguments.model, words)
    if arguments.freeze:
        model = freeze_if_possible(model, tokenizer, token_types=arguments.text_pair_column is not None)
    logits, truncated = predict_logits(model, tokenizer, texts, show_progress=not arguments.disable_tqdm)
    metrics = measure(problem_type, logits, labels, getattr(config, "threshold", 0.5))
    if problem_type == SINGLE:
        metrics["calibration_error"] = expected_calibration_error(logits, labels)
    return {
        "task": portable_path(arguments.task),
        "metrics": metrics,
        "texts": len(labels),
        "truncated": truncated,
        "trained_on_another_split": other_split,
    }


def _score_encoder(arguments: ScoreArguments, config: Json) -> Json:
    model, source = loading.load_masked_lm(arguments.model), str(arguments.text)
    tokenizer = loading.load_matching_tokenizer(arguments.model, config["vocab_size"])
    column = arguments.text_column or "text"
    corpus = load_corpus(source, text_column=column, root=arguments.data_root, written=arguments)
    parts = ["validation"] if source in HELD_OUT_CORPORA else ["train", "validation"]
    dataset = datasets.concatenate_datasets([corpus[part] for part in parts])
    length = min(tokenizer.model_max_length, config["max_position_embeddings"])
    ids = tokenize(dataset, tokenizer, length)["input_ids"][:]
    metrics = masked_lm_score(model, tokenizer, ids, show_progress=not arguments.disable_tqdm)
    if not metrics["masked_tokens"]:
        raise UserError(f"{source!r} is too short to mask a token of it: give more text.")
    return {"text": portable_path(source), "metrics": metrics, "texts": len(ids)}
