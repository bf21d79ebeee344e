"""Joining fine-tuned classifiers into a calibrated soft committee."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..data.tasks import SPLITS, TaskArguments, class_names, load_task_from, task_hash
from ..data.tokenization import load_tokenizer, tokenizer_hash
from ..errors import UserError
from ..evaluation.calibration import expected_calibration_error, fit_temperature
from ..evaluation.metrics import classification_metrics
from ..evaluation.scoring import predict_logits
from ..loading import load_classifier, load_classifier_tokenizer, read_config, trained_on_another_split, weights_hash
from ..modeling_committee import CommitteeForSequenceClassification
from ..provenance import portable_path
from ..runs import Run


@dataclass
class CommitteeArguments(TaskArguments):
    """Options of `tlm committee`."""

    members: list[str] = field(default_factory=list, metadata={"help": "Folders of the fine-tuned classifiers."})
    output_dir: str = field(default="", metadata={"help": "Output folder."})
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bar (for logs)."})


NOT_DECISIVE = (
    *("output_dir", "members", "data_root", "disable_tqdm"),
    *("task_path", "title_column", "entity_markers", "all_rows", "shortfall"),
)
"""Members count by their weights, wherever they lie, and options of the task by the texts that they choose."""


def join_committee(arguments: CommitteeArguments) -> dict[str, Any]:
    """Join members, fit the temperature on the task's validation split, score committee and members on test.

    Args:
        arguments: the options.

    Returns:
        The results as written: `test` and `validation` metrics of the committee with expected calibration error before
        and after, and each member's test metrics.

    Raises:
        UserError: no members, members of another task or tokenizer, a broken folder, or bad task options.
    """
    if not arguments.members or not arguments.output_dir:
        raise UserError("committee needs --members (folders of fine-tuned classifiers) and --output-dir.")
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
        if labels != class_names(task):
            raise UserError(
                f"The member {member!r} knows the labels {labels} but the task {arguments.task!r} has "
                f"{class_names(task)}: name the task that the members were fine-tuned on."
            )
    try:
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
    settings = {key: value for key, value in asdict(arguments).items() if key not in NOT_DECISIVE}
    settings |= {"weights": [weights_hash(member) for member in arguments.members], "task_sha256": task_sha256}
    run = Run(arguments.output_dir, "committee", settings)
    if run.results is not None:
        return run.results
    member_scores = []
    for model in members:
        member_logits, _ = predict_logits(model, tokenizer, task["test"]["text"][:])
        member_scores.append(classification_metrics(member_logits, np.array(task["test"]["label"][:])))
    logits_of = {}
    for split in SPLITS[1:]:
        logits_of[split], _ = predict_logits(
            committee, tokenizer, task[split]["text"][:], show_progress=not arguments.disable_tqdm
        )
    labels_of = {split: np.array(task[split]["label"][:]) for split in SPLITS[1:]}
    temperature = fit_temperature(logits_of["validation"], labels_of["validation"])
    committee.config.temperature = temperature
    scores = {}
    for split in SPLITS[1:]:
        logits, targets = logits_of[split], labels_of[split]
        scores[split] = {
            **classification_metrics(logits / temperature, targets),
            "calibration_error": expected_calibration_error(logits / temperature, targets),
            "calibration_error_before": expected_calibration_error(logits, targets),
            "loss_before": classification_metrics(logits, targets)["loss"],
        }
    results = {
        "task": arguments.task,
        "members": [portable_path(member) for member in arguments.members],
        "parameters": committee.num_parameters(),
        "labels": class_names(task),
        "temperature": temperature,
        **scores,
        "member_test": member_scores,
        "best_member_test_accuracy": max(score["accuracy"] for score in member_scores),
    }

    def save(folder: Path) -> None:
        committee.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return run.finish(save, results)
