"""Joining fine-tuned classifiers into a calibrated soft committee."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import datasets
import numpy as np

from ..data.tasks import TEXT_OPTIONS, TaskArguments, class_names, load_task_from, task_hash, text_options
from ..data.tokenization import load_tokenizer, tokenizer_hash
from ..errors import UserError, check_range
from ..evaluation.calibration import (
    brier_score,
    draw_reliability,
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from ..evaluation.choosing import accuracy_by_count, accuracy_curve, combined, draw_curve, greedy_order
from ..evaluation.metrics import classification_metrics
from ..evaluation.scoring import predict_logits
from ..loading import load_classifier, load_classifier_tokenizer, read_config, trained_on_another_split, weights_hash
from ..models.combination_committee import COMBINATIONS
from ..models.joining_committee import in_label_order
from ..models.modeling_committee import CommitteeForSequenceClassification
from ..runs.atomic_files import Json
from ..runs.output_folder import Run
from ..runs.provenance import portable_path


@dataclass
class CommitteeArguments(TaskArguments):
    """Options of `tlm committee`."""

    members: list[str] = field(default_factory=list, metadata={"help": "Folders of the fine-tuned classifiers."})
    output_dir: str = field(default="", metadata={"help": "Output folder."})
    combination: str = field(default="probabilities", metadata={"help": "What is averaged: probabilities or logits."})
    choose: bool = field(
        default=False, metadata={"help": "Keep the members that greedy selection on validation takes."}
    )
    max_members: int | None = field(default=None, metadata={"help": "With --choose: at most so many."})
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bar (for logs)."})


NOT_DECISIVE = {"output_dir", "members", "data_root", "disable_tqdm", "task_path", *TEXT_OPTIONS}
"""Members count by their weights, wherever they are, and options of the task by the texts that they choose."""


def join_committee(arguments: CommitteeArguments) -> Json:
    """Join members, fit the temperature on the task's validation split, score committee and members on test.

    Members, their number and temperature are chosen on the validation split alone.

    Returns:
        The results as written: `test` and `validation` metrics of the committee with loss, expected calibration error
        and Brier score before and after the temperature, each member's test metrics, `chosen` (indices of the members
        that are kept), and where there are several members the `curve` of test accuracy against their number. The
        folder also has `reliability.png` and `members.png`.

    Raises:
        UserError: no members, members of another task or tokenizer, a broken folder, or bad task options.
    """
    # 1. The members, with the task's labels in its order, as one model
    _check_options(arguments)
    check_tokenizers(arguments.members)
    task = load_task_from(arguments)
    committee = _load_committee(arguments, task)
    tokenizer = load_classifier_tokenizer(arguments.members[0], committee)

    # 2. The output folder
    settings = {name: value for name, value in asdict(arguments).items() if name not in NOT_DECISIVE}
    settings |= {"weights": [weights_hash(member) for member in arguments.members], "task_sha256": task_hash(task)}
    run = Run(arguments.output_dir, "committee", settings)
    if run.results is not None:
        return run.results

    # 3. Every member's logits (texts, members, classes) on validation and test
    labels = {split: np.array(task[split]["label"][:]) for split in ("validation", "test")}
    options = {"show_progress": not arguments.disable_tqdm, "member_logits": True}
    logits = {split: predict_logits(committee, tokenizer, task[split]["text"][:], **options)[0] for split in labels}

    # 4. Members and temperature, chosen on validation
    order = greedy_order(logits["validation"], labels["validation"], arguments.combination)
    chosen = list(range(len(arguments.members)))
    if arguments.choose:
        chosen = _choose_members(arguments, logits["validation"], labels["validation"], order)
        committee = committee.subset(chosen)
    joined = {split: combined(logits[split], chosen, arguments.combination) for split in labels}
    temperature = fit_temperature(joined["validation"], labels["validation"])
    committee.config.combination, committee.config.temperature = arguments.combination, temperature

    # 5. Scores, and the folder
    member_scores = [classification_metrics(each, labels["test"]) for each in logits["test"].swapaxes(0, 1)]
    results = _describe(arguments, task, committee, chosen) | _score_splits(joined, temperature, labels)
    results |= {
        "member_test": member_scores,
        "best_member_test_accuracy": max(score["accuracy"] for score in member_scores),
        "greedy_order": order,
        "curve": accuracy_curve(logits["test"], labels["test"], order, arguments.combination),
    }

    def save(folder: Path) -> None:
        committee.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        _draw(results, folder)

    return run.finish(save, results)


def _draw(results: Json, folder: Path) -> None:
    """Draw `reliability.png`, and `members.png` where there are several members."""
    task, members = results["task"], len(results["chosen"])
    draw_reliability(results["reliability"], folder / "reliability.png", f"{task}: {members} members, test split")
    if len(results["curve"]) > 1:
        draw_curve(results["curve"], folder / "members.png", f"{task}: test accuracy by number of members")


def _choose_members(
    arguments: CommitteeArguments, logits: np.ndarray, labels: np.ndarray, order: list[int]
) -> list[int]:
    """The first members of the greedy order, as many as are most accurate on validation."""
    accuracies = accuracy_by_count(logits, labels, order, arguments.combination)
    return order[: 1 + int(np.argmax(accuracies[: arguments.max_members]))]


def _describe(
    arguments: CommitteeArguments,
    task: datasets.DatasetDict,
    committee: CommitteeForSequenceClassification,
    chosen: list[int],
) -> Json:
    """What the results say of the task and the committee."""
    return {
        "task": arguments.task,
        "task_options": text_options(arguments),
        "members": [portable_path(arguments.members[index]) for index in chosen],
        "parameters": committee.num_parameters(),
        "labels": class_names(task),
        "temperature": committee.config.temperature,
        "chosen": chosen,
    }


def _check_options(arguments: CommitteeArguments) -> None:
    if not arguments.members or not arguments.output_dir:
        raise UserError("committee needs --members (folders of fine-tuned classifiers) and --output-dir.")
    if arguments.combination not in COMBINATIONS:
        raise UserError(f"--combination is {arguments.combination!r}: choose one of {', '.join(COMBINATIONS)}.")
    if arguments.max_members is not None and not arguments.choose:
        raise UserError("--max-members bounds what --choose takes: add --choose, or name fewer --members.")
    check_range(arguments, 1, len(arguments.members), "max_members")
    for member in arguments.members:
        if read_config(member)["model_type"] == "tlm_committee":
            raise UserError(f"The member {member!r} is itself a committee: name its members instead.")


def check_tokenizers(models: list[str]) -> None:
    """Raise UserError unless all models have the same tokenizer."""
    hashes = [tokenizer_hash(load_tokenizer(model)) for model in models]
    for model, tokenizer in zip(models, hashes, strict=True):
        if tokenizer != hashes[0]:
            raise UserError(
                f"The model {model!r} has another tokenizer than {models[0]!r}: a committee reads its text once, so "
                "all members must be trained with one tokenizer (pretrain --tokenizer)."
            )


def _load_committee(arguments: CommitteeArguments, task: datasets.DatasetDict) -> CommitteeForSequenceClassification:
    """All members as one model; their labels are matched to the task's by name."""
    labels, task_sha256 = class_names(task), task_hash(task)
    models = []
    for member in arguments.members:
        model = load_classifier(member)
        names = [model.config.id2label[index] for index in range(model.config.num_labels)]
        if sorted(names) != sorted(labels):
            raise UserError(
                f"The member {member!r} knows the labels {names} but the task {arguments.task!r} has {labels}: name "
                "the task that the members were fine-tuned on."
            )
        if trained_on_another_split(member, task_sha256):
            raise UserError(
                f"The member {member!r} was fine-tuned on another split of its task, so test texts may be among its "
                "training texts: give the options of the task (--task-seed, --*-per-label, --all-rows, --shortfall, "
                "--entity-markers, --title-column) that it was fine-tuned with."
            )
        models.append(model)
    try:
        models = [in_label_order(model, dict(enumerate(labels))) for model in models]
        return CommitteeForSequenceClassification.from_members(models)
    except ValueError as error:
        raise UserError(str(error)) from error


def _score_splits(logits: dict[str, np.ndarray], temperature: float, labels: dict[str, np.ndarray]) -> Json:
    """Scores of validation and test, and the test split's reliability before and after the temperature."""
    diagrams = {
        "before": reliability(logits["test"], labels["test"]),
        f"after (temperature {temperature:.2f})": reliability(logits["test"] / temperature, labels["test"]),
    }
    return {split: _score(logits[split], temperature, labels[split]) for split in labels} | {"reliability": diagrams}


def _score(logits: np.ndarray, temperature: float, labels: np.ndarray) -> dict[str, float]:
    """Metrics with the temperature, and those that it changes without it."""
    return {
        **classification_metrics(logits / temperature, labels),
        "calibration_error": expected_calibration_error(logits / temperature, labels),
        "calibration_error_before": expected_calibration_error(logits, labels),
        "loss_before": classification_metrics(logits, labels)["loss"],
        "brier_score": brier_score(logits / temperature, labels),
        "brier_score_before": brier_score(logits, labels),
    }
