"""The main job end to end on the embedded corpus: pre-train, fine-tune, committee, table, plot, release folders."""

import logging
import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..data.corpora import corpus_hash, load_corpus
from ..data.tasks import load_task, task_hash
from ..data.tokenization import load_tokenizer, train_wordpiece
from ..errors import UserError
from ..evaluation.baselines import tfidf_baseline
from ..evaluation.latency import classifier_latency
from ..hub.demo_data import DemoTask, stage_demo
from ..hub.staging import stage_model
from ..loading import load_classifier
from ..recipes import find_size
from ..runs.output_folder import Run
from ..runs.provenance import portable_path
from ..runs.worker_pool import Job, run_jobs
from ..training.finetune import FinetuneArguments, finetune
from ..training.join_committee import CommitteeArguments, join_committee
from ..training.pretrain import pretrain
from ..training.pretrain_options import PretrainArguments
from .quickstart_report import Row, draw_plot, report_text

logger = logging.getLogger(__name__)
ARMS = ("scratch", "pretrained")
LATENCY_REPEATS = 40


@dataclass
class QuickstartArguments:
    """Options of `tlm quickstart`."""

    output_dir: str = field(default="", metadata={"help": "Output folder (default: outputs/quickstart)."})
    smoke: bool = field(
        default=False, metadata={"help": "The same steps in one process, in under 2 minutes; accuracy means nothing."}
    )
    workers: int = field(default=2, metadata={"help": "Trainings side by side, one core each."})


@dataclass(frozen=True)
class Plan:
    """How much the quickstart trains; the values of `FULL` come from the search under results/quickstart/."""

    size: str
    members: int
    seeds: int
    shallow_epochs: float
    deep_epochs: float
    deep_layers: int
    finetune_epochs: dict[str, float]
    num_texts: int | None
    pretrain_rate: dict[str, float]
    finetune_rate: dict[tuple[str, str], float]
    """Peak learning rate by encoder (shallow, deep) and arm, each chosen on validation."""


RATES = {
    ("shallow", "scratch"): 1e-3,
    ("shallow", "pretrained"): 1e-3,
    ("deep", "scratch"): 3e-4,
    ("deep", "pretrained"): 3e-4,
}
FULL = Plan(
    "quickstart", 3, 3, 5.5, 2.0, 6, {"shallow": 10.0, "deep": 5.0}, None, {"shallow": 2e-3, "deep": 5e-4}, RATES
)
SMOKE = Plan("smoke", 3, 1, 1.0, 1.0, 2, {"shallow": 2.0, "deep": 2.0}, 500, {"shallow": 2e-3, "deep": 5e-4}, RATES)


def quickstart(arguments: QuickstartArguments) -> dict[str, Any]:
    """Run the whole idea; called again, it reuses what is there and continues what is not.

    K = 3 `bert-1` and one deep encoder are pre-trained on the docstrings of installed libraries, fine-tuned on telling
    the libraries apart from their checkpoints and from scratch, and joined into committees; a TF-IDF + logistic
    regression row stands beside them.

    Returns:
        The results as written to `results.json` in the output folder, with the printed `report`.

    Raises:
        UserError: bad input.
        KeyboardInterrupt: interrupted; the same command continues.
    """
    if arguments.workers < 1:
        raise UserError(f"--workers is {arguments.workers}: give at least 1.")
    plan = SMOKE if arguments.smoke else FULL
    workers = 1 if arguments.smoke else arguments.workers
    output = Path(arguments.output_dir or f"outputs/quickstart{'-smoke' if arguments.smoke else ''}").expanduser()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    start = time.perf_counter()
    logger.info("Reading the docstrings of installed libraries (the first time takes up to a minute) ...")
    corpus = load_corpus("docstrings", num_texts=plan.num_texts)
    scale = find_size(plan.size)
    per_label: dict[str, Any] = {
        "train_per_label": scale.train_per_label,
        "validation_per_label": scale.validation_per_label,
        "test_per_label": scale.test_per_label,
    }
    task = load_task("docstrings", **per_label)
    settings = {"plan": repr(plan), "corpus_sha256": corpus_hash(corpus), "task_sha256": task_hash(task)}
    run = Run(output, "quickstart", settings)
    if run.results is not None:
        logger.info("Finished before; showing the results in %s (delete the folder to start anew).", output)
        return run.results
    tokenizer_folder = output / "tokenizer"
    if not (tokenizer_folder / "tokenizer.json").is_file():
        train_wordpiece(corpus["train"]["text"][:], scale.vocab_size, scale.max_length).save_pretrained(
            tokenizer_folder
        )
    results = run_jobs(_jobs(plan, output, per_label, workers), workers, "Training")
    committees = _committees(plan, output, per_label)
    baseline = tfidf_baseline(task)
    latency = _latency(plan, output, task["test"]["text"][0], workers)
    rows = _rows(plan, results, committees, baseline, latency)
    plot = draw_plot(rows, output / "accuracy.png", smoke=arguments.smoke)
    staged = _stage(plan, output, results, committees, baseline, plot)
    demo = stage_demo(
        output / "release" / "demo",
        [
            DemoTask(
                "docstrings",
                "Which library does a paragraph document?",
                output / "release" / "tlm-committee-docstrings",
                output / "release" / f"tlm-bert-{plan.deep_layers}-docstrings",
                task,
            )
        ],
        {name: output / "release" / f"tlm-{name}" for name in ("bert-1-0", f"bert-{plan.deep_layers}")},
        "docstrings of installed Python libraries",
        corpus["train"]["text"][:],
    )
    seconds = time.perf_counter() - start
    summary = {
        "smoke": arguments.smoke,
        "rows": [vars(row) for row in rows],
        "corpus": {"texts": len(corpus["train"]), "held_out_texts": len(corpus["validation"])},
        "epochs": {
            "pretraining": {"shallow": plan.shallow_epochs, "deep": plan.deep_epochs},
            "finetuning": plan.finetune_epochs,
        },
        "task": {"labels": len(task["train"].features["label"].names), **{split: len(task[split]) for split in task}},
        "pretraining_loss": {
            name: result["held_out"]["loss"] for name, result in results.items() if "held_out" in result
        },
        "staged": [portable_path(str(folder)) for folder in staged],
        "demo": portable_path(str(demo)),
        "seconds_since_start_or_continuation": seconds,
    }
    summary["report"] = report_text(summary, portable_path(str(output)))
    return run.finish(None, summary)


def _encoder_names(plan: Plan) -> list[tuple[str, str, int]]:
    """(name, kind, seed) of the encoders, the deep one first since it takes longest."""
    deep = (f"bert-{plan.deep_layers}", "deep", 0)
    return [deep, *((f"bert-1-{seed}", "shallow", seed) for seed in range(plan.members))]


def _fine_tunings(plan: Plan) -> list[tuple[str, str, str, int]]:
    """(run name, encoder name, arm, seed): 3 seeds for each `bert-1`, one for the deep encoder."""
    runs = []
    for encoder, kind, _ in _encoder_names(plan):
        for arm in ARMS:
            for seed in range(plan.seeds if kind == "shallow" else 1):
                runs.append((f"{encoder}-{arm}-{seed}", encoder, arm, seed))
    return runs


def _jobs(plan: Plan, output: Path, per_label: dict[str, Any], workers: int) -> list[Job]:
    """Every training of the plan, weighted by its expected seconds."""
    threads = 1 if workers > 1 else None
    jobs = []
    kinds = {}
    scale = find_size(plan.size)
    for name, kind, seed in _encoder_names(plan):
        kinds[name] = kind
        options = PretrainArguments(
            bf16="false",  # the published numbers are of float32
            unigram_bias=False,
            output_dir=str(output / "encoders" / name),
            corpus="docstrings",
            num_texts=plan.num_texts,
            tokenizer=str(output / "tokenizer"),
            recipe="bert-6" if kind == "deep" else "bert-1",
            size=plan.size,
            num_hidden_layers=plan.deep_layers if kind == "deep" else None,
            num_train_epochs=plan.deep_epochs if kind == "deep" else plan.shallow_epochs,
            learning_rate=plan.pretrain_rate[kind],
            # Also for the deep one, as in the published numbers; the recipe takes 0.02 for several layers since.
            initializer_range=(64 * scale.heads) ** -0.5,
            seed=seed,
            num_threads=threads,
            disable_tqdm=True,
        )
        weight = plan.deep_epochs * 3.4 if kind == "deep" else plan.shallow_epochs
        jobs.append(Job(f"pre-train {name}", pretrain, options, weight=weight))
    for name, encoder, arm, seed in _fine_tunings(plan):
        member = 0 if kinds[encoder] == "deep" else int(encoder.rsplit("-", 1)[1])
        fine_tuning = FinetuneArguments(
            bf16="false",  # as the encoder was trained
            task="docstrings",
            **per_label,
            model=str(output / "encoders" / encoder),
            output_dir=str(output / "classifiers" / name),
            from_scratch=arm == "scratch",
            num_train_epochs=plan.finetune_epochs[kinds[encoder]],
            learning_rate=plan.finetune_rate[(kinds[encoder], arm)],
            # Seeds differ between members, so that scratch members differ too.
            seed=plan.seeds * member + seed,
            num_threads=threads,
            disable_tqdm=True,
        )
        weight = 2.5 if kinds[encoder] == "deep" else 0.4
        jobs.append(Job(name, finetune, fine_tuning, after=(f"pre-train {encoder}",), weight=weight))
    return jobs


def _committees(plan: Plan, output: Path, per_label: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """For each arm one committee per fine-tuning seed: member k is `bert-1` number k fine-tuned with that seed."""
    joined: dict[str, list[dict[str, Any]]] = {}
    for arm in ARMS:
        for seed in range(plan.seeds):
            members = [str(output / "classifiers" / f"bert-1-{k}-{arm}-{seed}") for k in range(plan.members)]
            options = CommitteeArguments(
                task="docstrings",
                **per_label,
                members=members,
                output_dir=str(output / "committees" / f"committee-{arm}-{seed}"),
                disable_tqdm=True,
            )
            joined.setdefault(arm, []).append(join_committee(options))
    return joined


def _latency(plan: Plan, output: Path, text: str, workers: int) -> dict[str, float]:
    """Median milliseconds for one text of the deep encoder, one `bert-1` and the committee, by turns."""
    deep = f"bert-{plan.deep_layers}-pretrained-0"
    folders = {
        "deep": output / "classifiers" / deep,
        "bert-1": output / "classifiers" / "bert-1-0-pretrained-0",
        "committee": output / "committees" / "committee-pretrained-0",
    }
    models = {name: load_classifier(str(folder)) for name, folder in folders.items()}
    tokenizer = load_tokenizer(str(folders["bert-1"]))
    threads = min(workers, torch.get_num_threads())
    return classifier_latency(models, tokenizer, text, LATENCY_REPEATS, threads)


def _rows(
    plan: Plan,
    results: dict[str, Any],
    committees: dict[str, list[dict[str, Any]]],
    baseline: dict[str, float],
    latency: dict[str, float],
) -> list[Row]:
    """The table: accuracy on the test split as mean and standard deviation over runs."""

    def of(pattern: str, arm: str) -> list[float]:
        names = [
            name for name, encoder, run_arm, _ in _fine_tunings(plan) if encoder.startswith(pattern) and run_arm == arm
        ]
        return [results[name]["test"]["accuracy"] for name in names]

    deep = f"bert-{plan.deep_layers}"
    deep_parameters = results[f"{deep}-pretrained-0"]["parameters"]
    shallow_parameters = results["bert-1-0-pretrained-0"]["parameters"]
    best_members = {arm: [result["best_member_test_accuracy"] for result in committees[arm]] for arm in ARMS}
    together = {arm: [result["test"]["accuracy"] for result in committees[arm]] for arm in ARMS}
    return [
        Row("bert-1", shallow_parameters, of("bert-1-", "scratch"), of("bert-1-", "pretrained"), latency["bert-1"]),
        Row(deep, deep_parameters, of(deep, "scratch"), of(deep, "pretrained"), latency["deep"]),
        Row(
            f"committee of {plan.members} bert-1",
            committees["pretrained"][0]["parameters"],
            together["scratch"],
            together["pretrained"],
            latency["committee"],
            best_member=statistics.mean(best_members["pretrained"]),
        ),
        Row("TF-IDF + logistic regression", None, [baseline["accuracy"]], [], None),
    ]


def _stage(
    plan: Plan,
    output: Path,
    results: dict[str, Any],
    committees: dict[str, list[dict[str, Any]]],
    baseline: dict[str, float],
    plot: Path,
) -> list[Path]:
    """Release folders: every encoder, the first `bert-1` and the deep classifier, and the first committee."""
    release = output / "release"
    corpus = "docstrings of installed Python libraries"
    smoke = plan is SMOKE
    task = "docstrings: which library a paragraph documents"
    folders = []
    for name, _, _ in _encoder_names(plan):
        folders.append(
            stage_model(
                output / "encoders" / name,
                release / f"tlm-{name}",
                "encoder",
                results[f"pre-train {name}"],
                corpus=corpus,
            )
        )
    for name in ("bert-1-0-pretrained-0", f"bert-{plan.deep_layers}-pretrained-0"):
        target = release / f"tlm-{name.removesuffix('-pretrained-0')}-docstrings"
        facts: dict[str, Any] = {"task": task, "baseline": baseline, "plot": plot, "smoke": smoke}
        folders.append(stage_model(output / "classifiers" / name, target, "classifier", results[name], **facts))
    folders.append(
        stage_model(
            output / "committees" / "committee-pretrained-0",
            release / "tlm-committee-docstrings",
            "committee",
            committees["pretrained"][0],
            task=task,
            baseline=baseline,
            plot=plot,
            smoke=smoke,
        )
    )
    return folders
