"""Joining fine-tuned classifiers into a calibrated soft committee."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..data.tasks import (
    SPLITS,
    TEXT_OPTIONS,
    TaskArguments,
    class_names,
    load_task_from,
    task_hash,
    text_options,
)
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


NOT_DECISIVE = (
    *("output_dir", "members", "data_root", "disable_tqdm"),
    *("task_path", *TEXT_OPTIONS),
)
"""Members count by their weights, wherever they lie, and options of the task by the texts that they choose."""
ADDED_LATER = {"combination": "probabilities", "choose": False, "max_members": None}
"""Options that older committees do not name: at these values they are not recorded."""


def join_committee(arguments: CommitteeArguments) -> dict[str, Any]:
    """Join members, fit the temperature on the task's validation split, score committee and members on test.

    Members, their number and temperature are chosen on the validation split alone.

    Args:
        arguments: the options.

    Returns:
        The results as written: `test` and `validation` metrics of the committee with loss, expected calibration error
        and Brier score before and after the temperature, each member's test metrics, `chosen` (places of the members
        that are kept), and where there are several members the `curve` of test accuracy against their number. The
        folder also has `reliability.png` and `members.png`.

    Raises:
        UserError: no members, members of another task or tokenizer, a broken folder, or bad task options.
    """
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
    shared = tokenizer_hash(load_tokenizer(arguments.members[0]))
    for member in arguments.members[1:]:
        if tokenizer_hash(load_tokenizer(member)) != shared:
            raise UserError(
                f"The member {member!r} has another tokenizer than {arguments.members[0]!r}: a committee reads its "
                "text once, so all members must be trained with one tokenizer (pretrain --tokenizer)."
            )
    task = load_task_from(arguments)
    members = [load_classifier(member) for member in arguments.members]
    for member, model in zip(arguments.members, members, strict=True):
        labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
        if sorted(labels) != sorted(class_names(task)):
            raise UserError(
                f"The member {member!r} knows the labels {labels} but the task {arguments.task!r} has "
                f"{class_names(task)}: name the task that the members were fine-tuned on."
            )
    try:
        # In the order of the task's labels, matched by name.
        members = [in_label_order(member, dict(enumerate(class_names(task)))) for member in members]
        committee = CommitteeForSequenceClassification.from_members(members)
    except ValueError as error:
        raise UserError(str(error)) from error
    tokenizer = load_classifier_tokenizer(arguments.members[0], committee)
    task_sha256 = task_hash(task)
    for member in arguments.members:
        if trained_on_another_split(member, task_sha256):
            raise UserError(
                f"The member {member!r} was fine-tuned on another split of its task, so test texts may be among its "
                "training texts: give the options of the task (--task-seed, --*-per-label, --all-rows, --shortfall, "
                "--entity-markers, --title-column) that it was fine-tuned with."
            )
    settings = {
        key: value
        for key, value in asdict(arguments).items()
        if key not in NOT_DECISIVE and (key not in ADDED_LATER or value != ADDED_LATER[key])
    }
    settings |= {"weights": [weights_hash(member) for member in arguments.members], "task_sha256": task_sha256}
    run = Run(arguments.output_dir, "committee", settings)
    if run.results is not None:
        return run.results
    votes, labels_of = {}, {}
    for split in SPLITS[1:]:
        votes[split], _ = predict_logits(
            committee,
            tokenizer,
            task[split]["text"][:],
            show_progress=not arguments.disable_tqdm,
            member_logits=True,
        )
        labels_of[split] = np.array(task[split]["label"][:])
    member_scores = [
        classification_metrics(votes["test"][:, place], labels_of["test"]) for place in range(len(members))
    ]
    order = greedy_order(votes["validation"], labels_of["validation"], arguments.combination)
    curve = accuracy_curve(votes["test"], labels_of["test"], order, arguments.combination)
    chosen = list(range(len(members)))
    if arguments.choose:
        by_count = accuracy_by_count(votes["validation"], labels_of["validation"], order, arguments.combination)
        count = 1 + int(np.argmax(by_count[: arguments.max_members]))
        chosen = order[:count]
        committee = committee.subset(chosen)
    joined = {split: combined(votes[split], chosen, arguments.combination) for split in votes}
    temperature = fit_temperature(joined["validation"], labels_of["validation"])
    committee.config.combination = arguments.combination
    committee.config.temperature = temperature
    scores = {split: _score(joined[split], temperature, labels_of[split]) for split in SPLITS[1:]}
    diagrams = {
        "before": reliability(joined["test"], labels_of["test"]),
        f"after (temperature {temperature:.2f})": reliability(joined["test"] / temperature, labels_of["test"]),
    }
    results = {
        "task": arguments.task,
        "task_options": text_options(arguments),
        "members": [portable_path(arguments.members[place]) for place in chosen],
        "parameters": committee.num_parameters(),
        "labels": class_names(task),
        "temperature": temperature,
        "chosen": chosen,
        **scores,
        "member_test": member_scores,
        "best_member_test_accuracy": max(score["accuracy"] for score in member_scores),
        "greedy_order": order,
        "curve": curve,
        "reliability": diagrams,
    }

    def save(folder: Path) -> None:
        committee.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        draw_reliability(diagrams, folder / "reliability.png", f"{arguments.task}: {len(chosen)} members, test split")
        if len(curve) > 1:
            draw_curve(curve, folder / "members.png", f"{arguments.task}: test accuracy by number of members")

    return run.finish(save, results)


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
