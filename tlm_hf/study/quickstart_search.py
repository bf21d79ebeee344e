"""Search for the quickstart's settings: pre-training by held-out loss, fine-tuning rates by validation accuracy."""

import statistics
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..data.corpora import load_corpus
from ..data.tokenization import train_wordpiece
from ..errors import UserError
from ..recipes import find_size
from ..runs.atomic_files import write_json
from ..runs.provenance import portable, provenance
from ..runs.worker_pool import Job, run_jobs
from ..training.finetune import FinetuneArguments, finetune
from ..training.pretrain import pretrain
from ..training.pretrain_options import PretrainArguments

SHALLOW: dict[str, dict[str, Any]] = {
    "base": {},
    "lr 1e-3": {"learning_rate": 1e-3},
    "lr 4e-3": {"learning_rate": 4e-3},
    "mask 0.15": {"mlm_probability": 0.15},
    "mask 0.3": {"mlm_probability": 0.3},
    "batch 16": {"batch_size": 16},
    "batch 64, lr 3e-3": {"batch_size": 64, "learning_rate": 3e-3},
    "initializer 0.02": {"initializer_range": 0.02},
    "dropout 0.1": {"dropout": 0.1},
    "mask 0.4": {"mlm_probability": 0.4},
    "mask 0.3, batch 16": {"mlm_probability": 0.3, "batch_size": 16},
    "mask 0.3, lr 3e-3": {"mlm_probability": 0.3, "learning_rate": 3e-3},
}
DEEP: dict[str, dict[str, Any]] = {
    "6 layers, lr 1e-3": {"learning_rate": 1e-3, "mlm_probability": 0.3},
    "6 layers, lr 5e-4": {"learning_rate": 5e-4, "mlm_probability": 0.3},
    "6 layers, lr 1e-3, batch 16": {"learning_rate": 1e-3, "mlm_probability": 0.3, "batch_size": 16},
    "3 layers, lr 1e-3": {"learning_rate": 1e-3, "mlm_probability": 0.3, "num_hidden_layers": 3},
}
"""Tried after the shallow ones, hence the mask rate."""
FINETUNE_RATES = (3e-4, 1e-3, 2e-3, 4e-3)
FINETUNE_EPOCHS = (10.0,)
SEEDS = 2


@dataclass
class SearchArguments:
    """Options of the search."""

    stage: str = field(metadata={"help": "pretrain-shallow, pretrain-deep, or finetune."})
    output: str = field(metadata={"help": "JSON file for the results."})
    work_dir: str = field(default="outputs/search", metadata={"help": "Folder for the runs (continued when there)."})
    encoder: list[str] = field(default_factory=list, metadata={"help": "Encoders, for the stage finetune."})
    trials: list[str] = field(default_factory=list, metadata={"help": "Names of trials (default: all of the stage)."})
    shallow_epochs: float = field(default=6.0, metadata={"help": "Passes of a shallow pre-training."})
    deep_epochs: float = field(default=3.0, metadata={"help": "Passes of a deep pre-training."})
    rates: list[float] = field(
        default_factory=lambda: list(FINETUNE_RATES), metadata={"help": "Learning rates, for the stage finetune."}
    )
    seeds: int = field(default=SEEDS, metadata={"help": "Seeds of each rate, for the stage finetune."})
    workers: int = field(default=2, metadata={"help": "Trainings side by side, one core each."})


def search(arguments: SearchArguments) -> dict[str, Any]:
    """Run one stage of the search and write every trial, the bad ones too.

    Returns:
        `trials`: one row per setting, best first.

    Raises:
        UserError: unknown stage, or no encoder to fine-tune.
    """
    work = Path(arguments.work_dir)
    if arguments.stage == "finetune":
        trials = _finetune_trials(arguments, work)
    elif arguments.stage in ("pretrain-shallow", "pretrain-deep"):
        trials = _pretrain_trials(arguments, work, deep=arguments.stage == "pretrain-deep")
    else:
        raise UserError(f"There is no stage {arguments.stage!r}; choose pretrain-shallow, pretrain-deep or finetune.")
    results = {"stage": arguments.stage, "arguments": portable(asdict(arguments)), "trials": trials, **provenance()}
    write_json(arguments.output, results)
    return results


def _pretrain_trials(arguments: SearchArguments, work: Path, *, deep: bool) -> list[dict[str, Any]]:
    scale = find_size("quickstart")
    tokenizer = work / "tokenizer"
    if not (tokenizer / "tokenizer.json").is_file():
        texts = load_corpus("docstrings")["train"]["text"][:]
        train_wordpiece(texts, scale.vocab_size, scale.max_length).save_pretrained(tokenizer)
    base = PretrainArguments(
        bf16="false",  # the published numbers are of float32
        unigram_bias=False,
        output_dir="",
        corpus="docstrings",
        tokenizer=str(tokenizer),
        recipe="bert-6" if deep else "bert-1",
        size="quickstart",
        mlm_probability=0.2,  # the leads' value; the trials vary it
        num_train_epochs=arguments.deep_epochs if deep else arguments.shallow_epochs,
        num_threads=1,
    )
    trials = DEEP if deep else SHALLOW
    if unknown := set(arguments.trials) - set(trials):
        raise UserError(f"There is no trial {sorted(unknown)[0]!r}; choose among {', '.join(trials)}.")
    trials = {name: trials[name] for name in arguments.trials or trials}
    jobs = []
    for name, changes in trials.items():
        folder = (
            work
            / f"{'deep' if deep else 'shallow'}-{base.num_train_epochs:g}-{name.replace(' ', '_').replace(',', '')}"
        )
        jobs.append(Job(name, pretrain, replace(base, output_dir=str(folder), **changes)))
    results = run_jobs(jobs, arguments.workers, "Search")
    rows = [
        {
            "trial": name,
            **trials[name],
            "held_out_loss": result["held_out"]["loss"],
            "steps": result["steps"],
            "seconds": result["seconds_since_start_or_continuation"],
            "curve": [[line["step"], line["eval_loss"]] for line in result["history"] if "eval_loss" in line],
        }
        for name, result in results.items()
    ]
    return sorted(rows, key=lambda row: row["held_out_loss"])


def _finetune_trials(arguments: SearchArguments, work: Path) -> list[dict[str, Any]]:
    if not arguments.encoder:
        raise UserError("The stage finetune needs --encoder (folders of pre-trained encoders).")
    scale = find_size("quickstart")
    cases, jobs = [], []
    for encoder in arguments.encoder:
        for from_scratch in (True, False):
            for epochs in FINETUNE_EPOCHS:
                for rate in arguments.rates:
                    cases.append((encoder, from_scratch, epochs, rate))
    for encoder, from_scratch, epochs, rate in cases:
        for seed in range(arguments.seeds):
            name = f"{Path(encoder).name}-{'scratch' if from_scratch else 'pretrained'}-{epochs:g}-{rate:g}-{seed}"
            options = FinetuneArguments(
                bf16="false",  # as the encoder was trained
                task="docstrings",
                train_per_label=scale.train_per_label,
                validation_per_label=scale.validation_per_label,
                test_per_label=scale.test_per_label,
                model=encoder,
                output_dir=str(work / "finetune" / name),
                from_scratch=from_scratch,
                num_train_epochs=epochs,
                learning_rate=rate,
                seed=100 + seed,  # not the seeds that the quickstart shows
                num_threads=1,
            )
            jobs.append(Job(name, finetune, options))
    results = run_jobs(jobs, arguments.workers, "Search")
    rows = []
    for encoder, from_scratch, epochs, rate in cases:
        prefix = f"{Path(encoder).name}-{'scratch' if from_scratch else 'pretrained'}-{epochs:g}-{rate:g}-"
        runs = [results[f"{prefix}{seed}"] for seed in range(arguments.seeds)]
        rows.append(
            {
                "encoder": Path(encoder).name,
                "from_scratch": from_scratch,
                "epochs": epochs,
                "learning_rate": rate,
                "validation_accuracy": statistics.mean(run["validation"]["accuracy"] for run in runs),
                "validation_accuracies": [run["validation"]["accuracy"] for run in runs],
                "seconds": statistics.mean(run["seconds_since_start_or_continuation"] for run in runs),
            }
        )
    return sorted(rows, key=lambda row: (row["encoder"], row["from_scratch"], -row["validation_accuracy"]))
