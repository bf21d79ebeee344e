"""Joining fine-tuned classifiers into a calibrated soft committee."""

import logging
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..data.kinds import PAIR, class_names, labels_of, problem_of, texts_of
from ..data.tasks import TEXT_OPTIONS, TaskArguments, load_task_from, task_hash, text_options
from ..data.tokenization import load_tokenizer, tokenizer_hash
from ..errors import UserError
from ..evaluation import calibration
from ..evaluation.metrics import HEADLINE, class_metrics, measure
from ..evaluation.scoring import predict_logits
from ..loading import load_classifier, load_classifier_tokenizer, read_config, trained_on_another_split, weights_hash
from ..models.combination_committee import COMBINATIONS, MULTI, REGRESSION, SINGLE, combine
from ..models.configuration_committee import CommitteeConfig
from ..models.joining_committee import in_label_order, problem_of_model
from ..models.lexical_committee import LexicalTable
from ..models.modeling_committee import CommitteeForSequenceClassification
from ..option_fields import option
from ..runs.atomic_files import Json
from ..runs.output_folder import Run
from ..runs.provenance import portable_path
from .lexical import FEW, OF_FEW, OF_PAIRS, OF_TEXTS, add_table, lexical_logits, weigh

logger = logging.getLogger(__name__)


@dataclass
class CommitteeArguments(TaskArguments):
    """Options of `tlm committee`."""

    members: list[str] = option(list, "Folders of the fine-tuned classifiers.")
    output_dir: str = option("", "Output folder.")
    combination: str = option("probabilities", "What is averaged: probabilities or logits.")
    disable_tqdm: bool = option(False, "No progress bar (for logs).")


NOT_DECISIVE = {"output_dir", "members", "data_root", "disable_tqdm", "task_path", *TEXT_OPTIONS}
"""Members count by their weights, wherever they are, and options of the task by the texts that they choose."""


@dataclass
class Joined:
    """A committee with its results, and logits on test: (texts, members, classes), and its own (texts, classes)."""

    committee: CommitteeForSequenceClassification
    tokenizer: PreTrainedTokenizerBase
    results: Json
    member_logits: np.ndarray
    logits: np.ndarray


def join_committee(arguments: CommitteeArguments) -> Json:
    """Join members, choose the temperature on the validation split alone, score committee and members on test.

    Returns the results as written: `test` and `validation` metrics before and after the temperature, each member's, and
    those of each class. Raises UserError for no members, members of another task or tokenizer, a broken folder, or bad
    task options.
    """
    # 1. The members, with the task's labels in its order, as one model
    if not arguments.members or not arguments.output_dir:
        raise UserError("committee needs --members (folders of fine-tuned classifiers) and --output-dir.")
    if arguments.combination not in COMBINATIONS:
        raise UserError(f"--combination is {arguments.combination!r}: choose one of {', '.join(COMBINATIONS)}.")
    for member in arguments.members:
        if read_config(member)["model_type"] == "tlm_committee":
            raise UserError(f"The member {member!r} is itself a committee: name classifiers of `tlm finetune` instead.")
    check_one_tokenizer(arguments.members)
    task = load_task_from(arguments)
    committee = load_members(arguments, task)
    tokenizer = load_classifier_tokenizer(arguments.members[0], committee)

    # 2. The output folder
    settings = {name: value for name, value in vars(arguments).items() if name not in NOT_DECISIVE}
    settings |= {"weights": [weights_hash(member) for member in arguments.members], "task_sha256": task_hash(task)}
    settings["labels"] = class_names(task)
    run = Run(arguments.output_dir, "committee", settings)
    if run.results is not None:
        return run.results
    joined = join_members(arguments, task, committee, tokenizer)
    return run.finish(partial(save_committee, joined), joined.results)


def join_members(
    arguments: CommitteeArguments,
    task: datasets.DatasetDict,
    committee: CommitteeForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    words_of: tuple[LexicalTable, PreTrainedTokenizerBase] | None = None,
    held_out: Sequence[tuple[datasets.Dataset, np.ndarray]] = (),
) -> Joined:
    """Steps 3 to 5 of `join_committee`; every member's logits get those of a table of words added where it is given.

    The table's tokenizer, which may read more of a text, becomes the committee's. Where members had their own
    validation rows, `held_out` are those of each, with logits (texts, classes) of a table that has not seen them. What
    is chosen on validation is then chosen on them all, by their one member's logits.
    """
    # 3. Every member's logits (texts, members, classes) on validation and test
    problem_type, combination, config = problem_of(task), arguments.combination, committee.config
    labels = {split: labels_of(task[split]) for split in ("validation", "test")}
    texts = {split: texts_of(task[split]) for split in (["test"] if held_out else labels)}
    options = {"show_progress": not arguments.disable_tqdm, "member_logits": True}
    logits = {split: predict_logits(committee, tokenizer, each, **options)[0] for split, each in texts.items()}
    words = {} if words_of is None else {split: lexical_logits(*words_of, each) for split, each in texts.items()}
    if held_out:
        logits["validation"], words["validation"], labels["validation"] = _join_held_out(committee, tokenizer, held_out)
    if words_of is not None:
        of_texts = OF_FEW if len(task["train"]) <= FEW else OF_TEXTS
        start = OF_PAIRS if PAIR in task["test"].column_names else of_texts
        known = labels["validation"]
        share, scale, offset = weigh(logits["validation"], words["validation"], known, combination, problem_type, start)
        table, tokenizer = words_of
        add_table(committee, table, (share, scale, offset), tokenizer.model_max_length)
        logits = {split: share * each + scale * words[split][:, None] + offset for split, each in logits.items()}

    # 4. The temperature (and of several labels the threshold), chosen on validation
    joined, of_class = {}, {}
    for split, each in logits.items():
        values = combine(torch.from_numpy(each), combination, problem_type=problem_type).numpy()
        joined[split], of_class[split] = values, (values, labels[split])
        if problem_type == MULTI:  # each label of a text is two classes, there or not
            two_classes = np.stack([values.ravel(), np.zeros(values.size)], axis=-1)
            of_class[split] = two_classes, 1 - labels[split].ravel().astype(int)
    fitted = calibration.Temperature(1.0)
    if problem_type != REGRESSION:
        unit = "labels" if problem_type == MULTI else "texts"
        fitted = calibration.choose_temperature(*of_class["validation"], unit)
    if fitted.note is not None:
        logger.warning("Note: the temperature stays 1: %s.", fitted.note)
    config.combination, config.temperature = combination, fitted.value
    scaled = {split: each / fitted.value for split, each in joined.items()}
    config.threshold = calibration.choose_threshold(scaled["validation"], labels["validation"], problem_type)

    # 5. Scores
    names, of_regression = class_names(task), problem_type == REGRESSION
    results = {
        "task": arguments.task,
        "task_options": text_options(arguments),
        "members": [portable_path(member) for member in arguments.members],
        "parameters": committee.num_parameters(),
        "labels": names,
        **{f"temperature{name}": each for name, each in zip(("", "_interval", "_note"), astuple(fitted), strict=True)},
        "problem_type": problem_type,
        "threshold": config.threshold,
        **{split: _score(joined[split], config, labels[split]) for split in labels},
        "classes": {} if of_regression else class_metrics(scaled["test"], labels["test"], names, config.threshold),
        "reliability": {} if of_regression else _reliability(*of_class["test"], fitted.value),
        **_score_members(logits["test"], labels["test"], config),
    }
    return Joined(committee, tokenizer, results, logits["test"], scaled["test"])


def _join_held_out(
    committee: CommitteeForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    held_out: Sequence[tuple[datasets.Dataset, np.ndarray]],
) -> list[np.ndarray]:
    """Logits of each row's member (texts, 1, classes) and table (texts, classes), and labels; of equal texts once."""
    parts, seen = [], set()
    for member, (rows, words) in zip(committee.members, held_out, strict=True):
        texts = texts_of(rows)
        new = [place for place, text in enumerate(texts) if text not in seen]
        seen |= set(texts)
        logits, _ = predict_logits(member, tokenizer, texts)
        parts.append((logits[new, None], words[new], labels_of(rows)[new]))
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def save_committee(joined: Joined, folder: Path) -> None:
    """Write model, tokenizer and the reliability diagram."""
    joined.committee.save_pretrained(folder)
    joined.tokenizer.save_pretrained(folder)
    results = joined.results
    title = f"{results['task']}: {len(results['members'])} members, test split"
    if results["reliability"]:
        calibration.draw_reliability(results["reliability"], folder / "reliability.png", title)


def check_one_tokenizer(models: list[str]) -> None:
    """Raise UserError unless all models have one tokenizer, also where only a vocab.txt holds it."""
    first = tokenizer_hash(load_tokenizer(models[0])) if models else None
    for model in models[1:]:
        if tokenizer_hash(load_tokenizer(model)) != first:
            reason = "a committee reads its text once, so all members must be trained with one tokenizer"
            raise UserError(f"The model {model!r} has another tokenizer than {models[0]!r}: {reason}.")


def load_members(
    arguments: CommitteeArguments, task: datasets.DatasetDict, *splits: datasets.DatasetDict
) -> CommitteeForSequenceClassification:
    """All members as one model, trained on the task or other `splits`; their labels are matched to its by name."""
    labels, problem_type, hashes = class_names(task), problem_of(task), [task_hash(each) for each in (task, *splits)]
    models = []
    for member in arguments.members:
        model = load_classifier(member)
        config, refused = model.config, None
        names, kind = [config.id2label[index] for index in range(config.num_labels)], problem_of_model(config)
        if sorted(names) != sorted(labels):
            refused = f"knows the labels {names} but the task {arguments.task!r} has {labels}: name the members' task"
        elif kind != problem_type:
            refused = f"is one of {kind} and the task {arguments.task!r} one of {problem_type}: give --problem-type"
        elif trained_on_another_split(member, *hashes):
            refused = (
                "was fine-tuned on another split of its task, so test texts may be among its training texts: give the "
                "options of the task (--task-seed, --*-per-label, --shortfall, --entity-markers) that it had"
            )
        if refused:
            raise UserError(f"The member {member!r} {refused}.")
        models.append(model)
    try:
        models = [in_label_order(model, dict(enumerate(labels))) for model in models]
        return CommitteeForSequenceClassification.from_members(models)
    except ValueError as error:
        raise UserError(str(error)) from error


def _score(logits: np.ndarray, config: CommitteeConfig, labels: np.ndarray) -> Json:
    """Metrics with the temperature, and of one class a text those that it changes without it."""
    scaled = logits / config.temperature
    if config.problem_type != SINGLE:
        return measure(str(config.problem_type), scaled, labels, config.threshold)
    scores, before = (calibration.calibration_metrics(each, labels) for each in (scaled, logits))
    return scores | {f"{name}_before": before[name] for name in ("loss", "calibration_error", "brier_score")}


def _score_members(logits: np.ndarray, labels: np.ndarray, config: CommitteeConfig) -> Json:
    """Each member's metrics on test, from logits (texts, members, classes); a threshold is of scaled logits."""
    problem_type = str(config.problem_type)
    scaled, metric = logits / config.temperature if problem_type == MULTI else logits, HEADLINE[problem_type]
    scores = [measure(problem_type, member, labels, config.threshold) for member in scaled.swapaxes(0, 1)]
    return {"member_test": scores, f"best_member_test_{metric}": max(score[metric] for score in scores)}


def _reliability(logits: np.ndarray, labels: np.ndarray, temperature: float) -> dict[str, list[dict[str, float]]]:
    scaled = {"before": logits, f"after (temperature {temperature:.2f})": logits / temperature}
    return {when: calibration.reliability(each, labels) for when, each in scaled.items()}
