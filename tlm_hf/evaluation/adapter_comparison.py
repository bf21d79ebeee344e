"""A committee of LoRA adapters over one encoder beside a committee of whole members: accuracy, memory, latency."""

from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from ..benchmarks.latency import alternating_medians
from ..data.tasks import TaskArguments, class_names, load_task_from
from ..errors import UserError, check_range
from ..loading import check_task_labels, load_classifier, load_classifier_tokenizer
from ..models.combination_committee import uncertainty
from ..models.modeling_committee import CommitteeForSequenceClassification
from ..runs.atomic_files import write_json
from ..runs.provenance import portable, provenance
from ..training.adapter_committee import AdapterCommittee
from .calibration import expected_calibration_error
from .choosing import combined
from .metrics import classification_metrics
from .scoring import predict_logits

BATCHES = (1, 32)


@dataclass
class AdapterComparisonArguments(TaskArguments):
    """Options of `tlm benchmark adapters`."""

    what: str = field(default="adapters", metadata={"help": "adapters."})
    encoder: str = field(default="", metadata={"help": "The encoder that was adapted: folder or Hub name."})
    adapters: list[str] = field(default_factory=list, metadata={"help": "Folders that finetune --lora-rank wrote."})
    model: str = field(default="", metadata={"help": "The committee of whole members to compare with."})
    repeats: int = field(default=15, metadata={"help": "Timed passes of each side."})
    json: str | None = field(default=None, metadata={"help": "File for the results."})


def compare_adapters(arguments: AdapterComparisonArguments) -> dict[str, Any]:
    """Score both committees on the task's test split, uncalibrated, and time them by turns on its first texts.

    Returns:
        `rows`, for each side its `members`, `accuracy`, `loss` in nats and `calibration_error` of the mean probability,
        the mean accuracy of its members, `agreement` (the mean share of members that vote as most do), `weights_mib`,
        and the median milliseconds of batches of 1 and 32 texts, tokenised before.

    Raises:
        UserError: bad input.
    """
    if not (arguments.encoder and arguments.adapters and arguments.model and arguments.task):
        raise UserError("benchmark adapters needs --encoder, --adapters, --model (a committee) and --task.")
    check_range(arguments, 1, 10**6, "repeats")
    whole = load_classifier(arguments.model)
    if not isinstance(whole, CommitteeForSequenceClassification):
        raise UserError(f"The model {arguments.model!r} is no committee: name one that tlm committee wrote.")
    task = load_task_from(arguments)
    names = class_names(task)
    check_task_labels(whole, arguments.model, arguments.task, names)
    whole.config.temperature = 1.0  # neither side is calibrated here
    adapted = AdapterCommittee(arguments.encoder, arguments.adapters, names)
    tokenizer = load_classifier_tokenizer(arguments.model, whole)
    texts, labels = task["test"]["text"][:], np.array(task["test"]["label"][:])
    sides: dict[str, Any] = {"whole members": whole, "adapters": adapted}
    batches = {
        size: tokenizer(texts[:size], padding=True, truncation=True, return_tensors="pt", return_token_type_ids=False)
        for size in BATCHES
    }
    with torch.inference_mode():
        seconds = {
            size: alternating_medians(
                {name: partial(model, **batch) for name, model in sides.items()}, arguments.repeats
            )
            for size, batch in batches.items()
        }
    rows = []
    for name, model in sides.items():
        votes, _ = predict_logits(model, tokenizer, texts, member_logits=True)
        mean = combined(votes, range(len(model)), "probabilities")
        rows.append(
            {
                "side": name,
                "members": len(model),
                **classification_metrics(mean, labels),
                "calibration_error": expected_calibration_error(mean, labels),
                "mean_member_accuracy": float((votes.argmax(axis=-1) == labels[:, None]).mean()),
                "agreement": float(uncertainty(torch.from_numpy(votes))["agreement"].mean()),
                "weights_mib": _bytes_held(model) / 2**20,
                **{f"ms_batch_{size}": 1000 * found[name] for size, found in seconds.items()},
            }
        )
    results = {
        "task": arguments.task,
        "rows": rows,
        "settings": portable({key: value for key, value in asdict(arguments).items() if key != "json"}),
        **provenance(),
    }
    if arguments.json is not None:
        write_json(arguments.json, results)
    return results


def _bytes_held(model: torch.nn.Module) -> int:
    """Bytes of all weights, those that are shared counted once."""
    return sum({weight.data_ptr(): weight.nbytes for weight in model.parameters()}.values())
