"""Fine-tuned accuracy of several encoders on one task: each with the learning rate that its own validation split chose.

Every encoder is fine-tuned at each rate with the first seed; the rate of the best validation accuracy is then used with
the other seeds too. The test split is scored by every fine-tuning and chooses nothing.
"""

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError, check_range
from ..runs.atomic_files import write_json
from ..runs.output_folder import RESULTS_FILE
from ..runs.provenance import portable, provenance
from ..runs.worker_pool import Job, run_jobs
from ..training.finetune import FinetuneArguments, check_arguments, finetune

SCRATCH = "scratch"
FACTS = ("steps", "epochs", "held_out", "speed", "seconds_since_start_or_continuation")


@dataclass
class CompareArguments:
    """Options of the comparison."""

    encoders: list[str] = field(metadata={"help": "NAME=FOLDER of each; NAME=scratch:FOLDER for new weights."})
    output: str = field(metadata={"help": "JSON file for the results."})
    task: str = field(default="ag_news", metadata={"help": "As in tlm finetune."})
    train_per_label: int = field(default=1000, metadata={"help": "Training texts of each class."})
    validation_per_label: int = field(default=200, metadata={"help": "Validation texts of each class."})
    test_per_label: int = field(default=500, metadata={"help": "Test texts of each class."})
    learning_rates: list[float] = field(default_factory=lambda: [3e-4, 1e-3], metadata={"help": "To choose among."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds; the first chooses the rate."})
    num_train_epochs: float = field(default=4.0, metadata={"help": "Passes over the training split."})
    work_dir: str = field(default="outputs/compare-encoders", metadata={"help": "Folder for the runs (continued)."})
    workers: int = field(default=2, metadata={"help": "Trainings side by side, one core each."})
    bf16: str = field(default="auto", metadata={"help": "As in tlm finetune."})
    data_root: str | None = field(default=None, metadata={"help": "Folder of real text; default: $TLM_DATA."})


def compare_encoders(arguments: CompareArguments) -> dict[str, Any]:
    """Fine-tune every encoder and write what it reached.

    Returns:
        `rows`: for each encoder its name, `learning_rate`, `validation` accuracy by rate (first seed), `test`
        accuracies by seed, their `mean` and standard deviation `sd`, and what its `results.json` says of pre-training.

    Raises:
        UserError: an encoder that is not written `NAME=FOLDER`, two of one name, or a number out of range.
    """
    check_range(arguments, 1, 10**6, "train_per_label", "validation_per_label", "test_per_label", "workers")
    encoders = dict(_split(words) for words in arguments.encoders)
    if len(encoders) < len(arguments.encoders):
        raise UserError("--encoders has two of the same name: give each one its own.")
    if not arguments.learning_rates or not arguments.seeds:
        raise UserError("--learning-rates and --seeds each need at least one value.")
    for option, values in (("--learning-rates", arguments.learning_rates), ("--seeds", arguments.seeds)):
        if len(set(values)) < len(values):
            raise UserError(f"{option} has the same value twice: leave one of them out.")
    first, *others = arguments.seeds
    tried = {
        (name, rate, first): _job(arguments, name, encoders[name], rate, first)
        for name in encoders
        for rate in arguments.learning_rates
    }
    for job in tried.values():
        check_arguments(job.arguments)
    found = run_jobs(list(tried.values()), arguments.workers, "Choosing rates")
    validation = {
        name: {
            rate: found[tried[name, rate, first].name]["validation"]["accuracy"] for rate in arguments.learning_rates
        }
        for name in encoders
    }
    chosen = {name: max(rates, key=lambda rate: rates[rate]) for name, rates in validation.items()}
    rest = [_job(arguments, name, encoders[name], chosen[name], seed) for name in encoders for seed in others]
    if rest:
        found |= run_jobs(rest, arguments.workers, "Other seeds")
    rows = []
    for name, folder in encoders.items():
        runs = [found[_job(arguments, name, folder, chosen[name], seed).name] for seed in arguments.seeds]
        test = [run["test"]["accuracy"] for run in runs]
        rows.append(
            {
                "encoder": name,
                "learning_rate": chosen[name],
                "validation": validation[name],
                "test": dict(zip(arguments.seeds, test, strict=True)),
                "mean": statistics.mean(test),
                "sd": statistics.stdev(test) if len(test) > 1 else None,
                "pretraining": _pretraining(folder),
            }
        )
    results = {"arguments": portable(asdict(arguments)), "rows": rows, **provenance()}
    write_json(arguments.output, results)
    return results


def _split(words: str) -> tuple[str, str]:
    name, equals, folder = words.partition("=")
    if not equals or not name or not folder:
        raise UserError(f"--encoders has {words!r}: write NAME=FOLDER, or NAME={SCRATCH}:FOLDER for new weights.")
    path = folder.removeprefix(f"{SCRATCH}:")
    if not (Path(path) / "config.json").is_file():
        raise UserError(f"{path} is no folder of a pre-trained encoder: give one that tlm pretrain finished.")
    return name, folder


def _job(arguments: CompareArguments, name: str, folder: str, rate: float, seed: int) -> Job:
    label = f"{name}-{rate:g}-{seed}"
    options = FinetuneArguments(
        model=folder.removeprefix(f"{SCRATCH}:"),
        from_scratch=folder.startswith(f"{SCRATCH}:"),
        task=arguments.task,
        train_per_label=arguments.train_per_label,
        validation_per_label=arguments.validation_per_label,
        test_per_label=arguments.test_per_label,
        data_root=arguments.data_root,
        learning_rate=rate,
        num_train_epochs=arguments.num_train_epochs,
        seed=seed,
        bf16=arguments.bf16,
        num_threads=1 if arguments.workers > 1 else None,
        output_dir=str(Path(arguments.work_dir) / label),
    )
    return Job(label, finetune, options)


def _pretraining(folder: str) -> dict[str, Any] | None:
    """What the encoder's own results say; None for new weights, or where there are none."""
    file = Path(folder) / RESULTS_FILE
    if not file.is_file():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    return {"schedule": found["settings"].get("schedule", "tlm")} | {key: found.get(key) for key in FACTS}
