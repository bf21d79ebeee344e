"""The main job end to end on the embedded corpus: pre-train, fine-tune, committee, table, plot, release folders."""

import logging
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import datasets
import torch

from ..cards import CardFacts
from ..data.corpora import corpus_hash, load_corpus
from ..data.tasks import load_task, task_hash
from ..data.tokenization import load_tokenizer, train_wordpiece
from ..errors import UserError
from ..evaluation.baselines import tfidf_baseline
from ..evaluation.latency import classifier_latency
from ..hub.demo_data import DemoTask, stage_demo
from ..hub.model_folder import stage_model
from ..loading import load_classifier
from ..recipes import find_size
from ..runs.atomic_files import Json
from ..runs.output_folder import Run
from ..runs.provenance import portable_path
from ..runs.worker_pool import Job, run_jobs
from ..training.finetune import finetune
from ..training.join_committee import CommitteeArguments, join_committee
from ..training.options import option
from ..training.pretrain import pretrain
from .quickstart_report import TableRow, draw_plot, report_text

logger = logging.getLogger(__name__)
ARMS = ("scratch", "pretrained")
MEMBERS = 3
PRETRAIN = "pre-train {}"
CORPUS = "docstrings of installed Python libraries"
LATENCY_REPEATS = 40
PRETRAINING_RATE = {"shallow": 2e-3, "deep": 5e-4}
FINETUNING_RATE = {"shallow": 1e-3, "deep": 3e-4}
"""For both arms, each chosen on validation in the search under results/quickstart/."""


@dataclass
class QuickstartArguments:
    """Options of `tlm quickstart`."""

    output_dir: str = option("", "Output folder (default: outputs/quickstart).")
    smoke: bool = option(False, "The same steps in one process, in under 2 minutes; accuracy means nothing.")
    workers: int = option(2, "Trainings side by side, one core each.")


@dataclass(frozen=True)
class Scale:
    """How much the quickstart trains: `seeds` fine-tunings of each `bert-1` and arm, epochs by kind of encoder."""

    size: str
    seeds: int
    deep_layers: int
    num_texts: int | None
    pretraining_epochs: Mapping[str, float]
    finetuning_epochs: Mapping[str, float]

    @property
    def deep(self) -> str:
        """Name of the deep encoder."""
        return f"bert-{self.deep_layers}"

    @property
    def encoders(self) -> dict[str, int]:
        """Seed of each encoder by name, the deep one first since it takes longest."""
        return {self.deep: 0, **{f"bert-1-{seed}": seed for seed in range(MEMBERS)}}

    @property
    def per_label(self) -> Json:
        """Texts of a label in each split of the task."""
        size = find_size(self.size)
        return {f"{split}_per_label": getattr(size, f"{split}_per_label") for split in ("train", "validation", "test")}

    def kind(self, encoder: str) -> str:
        """`deep` or `shallow`."""
        return "deep" if encoder == self.deep else "shallow"

    def classifiers(self, encoder: str, arm: str) -> list[str]:
        """Names of the fine-tunings of an encoder."""
        return [f"{encoder}-{arm}-{seed}" for seed in range(1 if encoder == self.deep else self.seeds)]


FULL = Scale("quickstart", 3, 6, None, {"shallow": 5.5, "deep": 2.0}, {"shallow": 10.0, "deep": 5.0})
SMOKE = Scale("smoke", 1, 2, 500, {"shallow": 1.0, "deep": 1.0}, {"shallow": 2.0, "deep": 2.0})


def quickstart(arguments: QuickstartArguments) -> Json:
    """Run the whole idea; called again, it reuses what is finished and continues what is not.

    Three `bert-1` and one deep encoder are pre-trained on the docstrings of installed libraries, fine-tuned on telling
    the libraries apart, from their checkpoints and from scratch, and joined into committees. TF-IDF + logistic
    regression is the baseline. Returns the results as written to `results.json`, with the printed `report`.
    """
    if arguments.workers < 1:
        raise UserError(f"--workers is {arguments.workers}: give at least 1.")
    scale, workers = (SMOKE, 1) if arguments.smoke else (FULL, arguments.workers)
    output = Path(arguments.output_dir or f"outputs/quickstart{'-smoke' if arguments.smoke else ''}").expanduser()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    start = time.perf_counter()

    # 1. Data: a corpus, a task on other texts, one vocabulary for all.
    logger.info("Reading the docstrings of installed libraries (the first time takes up to a minute) ...")
    corpus = load_corpus("docstrings", num_texts=scale.num_texts)
    task = load_task("docstrings", **scale.per_label)
    settings = {"scale": asdict(scale), "corpus_sha256": corpus_hash(corpus), "task_sha256": task_hash(task)}
    run = Run(output, "quickstart", settings)
    if run.results is not None:
        logger.info("Finished before; showing the results in %s (delete the folder to run it again).", output)
        return run.results
    if not (output / "tokenizer" / "tokenizer.json").is_file():
        size = find_size(scale.size)
        tokenizer = train_wordpiece(corpus["train"]["text"][:], size.vocab_size, size.max_length)
        tokenizer.save_pretrained(output / "tokenizer")

    # 2. Training, side by side.
    jobs = _jobs(scale, output, threads=1 if workers > 1 else None)
    results = run_jobs(jobs, workers, "Training")

    # 3. Committees, the baseline, latency.
    committees = {arm: [_join(scale, output, arm, seed) for seed in range(scale.seeds)] for arm in ARMS}
    baseline = tfidf_baseline(task)
    latency = _latency(scale, output, task["test"]["text"][0], min(workers, torch.get_num_threads()))

    # 4. Table, plot, release folders.
    rows = _rows(scale, results, committees, baseline, latency)
    facts = CardFacts("docstrings: which library a paragraph documents", baseline, smoke=arguments.smoke)
    plot = draw_plot(rows, output / "accuracy.png", smoke=arguments.smoke)
    staged = _stage(scale, output, results, committees["pretrained"][0], facts, plot)
    summary: Json = {
        "smoke": arguments.smoke,
        "rows": [asdict(row) for row in rows],
        "corpus": {"texts": len(corpus["train"]), "held_out_texts": len(corpus["validation"])},
        "epochs": {"pretraining": scale.pretraining_epochs, "finetuning": scale.finetuning_epochs},
        "task": {"labels": len(task["train"].features["label"].names), **{split: len(task[split]) for split in task}},
        "pretraining_loss": {job: results[job]["held_out"]["loss"] for job in map(PRETRAIN.format, scale.encoders)},
        "staged": [portable_path(str(folder)) for folder in staged],
        "demo": portable_path(str(_stage_demo(scale, output / "release", corpus, task))),
        "seconds_since_start_or_continuation": time.perf_counter() - start,
    }
    return run.finish(None, summary | {"report": report_text(summary, portable_path(str(output)))})


def _jobs(scale: Scale, output: Path, threads: int | None) -> list[Job]:
    """Every pre-training, then every fine-tuning."""
    jobs = []
    shared: Json = {"bf16": "false", "num_threads": threads, "disable_tqdm": True}
    for name, seed in scale.encoders.items():
        kind = scale.kind(name)
        options = dict(
            output_dir=str(output / "encoders" / name),
            corpus="docstrings",
            num_texts=scale.num_texts,
            tokenizer=str(output / "tokenizer"),
            recipe="bert-6" if kind == "deep" else "bert-1",
            size=scale.size,
            num_hidden_layers=scale.deep_layers if kind == "deep" else None,
            num_train_epochs=scale.pretraining_epochs[kind],
            learning_rate=PRETRAINING_RATE[kind],
            # These are as in the published numbers; the defaults have other values since.
            text_windows="first",
            initialization="random",
            neighbour_heads=False,
            cls_objective=False,
            initializer_range=(64 * find_size(scale.size).heads) ** -0.5,
            unigram_bias=False,
            seed=seed,
            **shared,
        )
        weight = scale.pretraining_epochs[kind] * (3.4 if kind == "deep" else 1.0)
        jobs.append(Job(PRETRAIN.format(name), pretrain, options, weight=weight))
    for encoder, member in scale.encoders.items():
        kind = scale.kind(encoder)
        for arm in ARMS:
            for seed, name in enumerate(scale.classifiers(encoder, arm)):
                options = dict(
                    task="docstrings",
                    **scale.per_label,
                    model=str(output / "encoders" / encoder),
                    output_dir=str(output / "classifiers" / name),
                    from_scratch=arm == "scratch",
                    num_train_epochs=scale.finetuning_epochs[kind],
                    learning_rate=FINETUNING_RATE[kind],
                    seed=scale.seeds * member + seed,  # differs between members, so scratch members differ too
                    **shared,
                )
                weight = 2.5 if kind == "deep" else 0.4
                jobs.append(Job(name, finetune, options, after=(PRETRAIN.format(encoder),), weight=weight))
    return jobs


def _join(scale: Scale, output: Path, arm: str, seed: int) -> Json:
    """The committee of an arm and seed: member k is `bert-1` number k fine-tuned with that seed."""
    options = CommitteeArguments(
        task="docstrings",
        **scale.per_label,
        members=[str(output / "classifiers" / f"bert-1-{member}-{arm}-{seed}") for member in range(MEMBERS)],
        output_dir=str(output / "committees" / f"committee-{arm}-{seed}"),
        disable_tqdm=True,
    )
    return join_committee(options)


def _latency(scale: Scale, output: Path, text: str, threads: int) -> dict[str, float]:
    """Median milliseconds for one text of the deep encoder, one `bert-1` and the committee."""
    folders = {
        "deep": output / "classifiers" / f"{scale.deep}-pretrained-0",
        "bert-1": output / "classifiers" / "bert-1-0-pretrained-0",
        "committee": output / "committees" / "committee-pretrained-0",
    }
    models = {name: load_classifier(str(folder)) for name, folder in folders.items()}
    return classifier_latency(models, load_tokenizer(str(folders["bert-1"])), text, LATENCY_REPEATS, threads)


def _rows(
    scale: Scale,
    results: dict[str, Json],
    committees: dict[str, list[Json]],
    baseline: dict[str, float],
    latency: dict[str, float],
) -> list[TableRow]:
    """The table: test accuracies of all runs by model and arm."""

    def accuracies(encoders: Sequence[str], arm: str) -> list[float]:
        names = [name for encoder in encoders for name in scale.classifiers(encoder, arm)]
        return [results[name]["test"]["accuracy"] for name in names]

    def row(model: str, encoders: Sequence[str], milliseconds: float) -> TableRow:
        parameters = results[f"{encoders[0]}-pretrained-0"]["parameters"]
        scratch, pretrained = (accuracies(encoders, arm) for arm in ARMS)
        return TableRow(model, parameters, scratch, pretrained, milliseconds)

    shallow = [encoder for encoder in scale.encoders if encoder != scale.deep]
    scratch, pretrained = ([result["test"]["accuracy"] for result in committees[arm]] for arm in ARMS)
    best_member = statistics.mean(result["best_member_test_accuracy"] for result in committees["pretrained"])
    size = committees["pretrained"][0]["parameters"]
    return [
        row("bert-1", shallow, latency["bert-1"]),
        row(scale.deep, [scale.deep], latency["deep"]),
        TableRow(f"committee of {MEMBERS} bert-1", size, scratch, pretrained, latency["committee"], best_member),
        TableRow("TF-IDF + linear model", None, [baseline["accuracy"]], [], None),
    ]


def _stage(
    scale: Scale, output: Path, results: dict[str, Json], committee: Json, facts: CardFacts, plot: Path
) -> list[Path]:
    """Release folders: every encoder, the first `bert-1` and the deep classifier, and the first committee."""
    release, folders = output / "release", []
    for name in scale.encoders:
        target, found = release / f"tlm-{name}", results[PRETRAIN.format(name)]
        own = CardFacts(CORPUS, smoke=facts.smoke)
        folders.append(stage_model(output / "encoders" / name, target, "encoder", found, own))
    for name in ("bert-1-0", scale.deep):
        run, target = f"{name}-pretrained-0", release / f"tlm-{name}-docstrings"
        folders.append(stage_model(output / "classifiers" / run, target, "classifier", results[run], facts, plot))
    folder, target = output / "committees" / "committee-pretrained-0", release / "tlm-committee-docstrings"
    return [*folders, stage_model(folder, target, "committee", committee, facts, plot)]


def _stage_demo(scale: Scale, release: Path, corpus: datasets.DatasetDict, task: datasets.DatasetDict) -> Path:
    """The folder that the Space shows."""
    models = release / "tlm-committee-docstrings", release / f"tlm-{scale.deep}-docstrings"
    encoders = {name: release / f"tlm-{name}" for name in ("bert-1-0", scale.deep)}
    demo = DemoTask("docstrings", "Which library does a paragraph document?", *models, task)
    return stage_demo(release / "demo", [demo], encoders, CORPUS, corpus["train"]["text"][:])
