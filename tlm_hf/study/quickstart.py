"""The main job end to end on the embedded corpus: pre-train, fine-tune, committee, table, plot, release folders."""

import logging
import os
import textwrap
import time
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import mean, stdev

from ..cards import CardFacts, card_template
from ..data.corpora import corpus_hash, load_corpus
from ..data.docstrings import TASK_LIBRARIES
from ..data.embedded import pretrained
from ..data.tasks import load_task, task_hash
from ..data.tokenization import load_tokenizer, train_wordpiece
from ..errors import check_range
from ..evaluation.classifier_facts import measure_classifier
from ..evaluation.latency import classifier_latency, watch
from ..evaluation.linear_models import fit_tfidf
from ..hub.demo_data import DemoArguments, make_demo
from ..hub.stage import stage_model
from ..loading import load_classifier, weights_hash
from ..option_fields import option
from ..recipes import find_size
from ..runs.atomic_files import Json
from ..runs.figure import new_figure
from ..runs.output_folder import Run
from ..runs.provenance import portable_path
from ..runs.worker_pool import Job, run_jobs
from ..training.finetune import finetune
from ..training.join_committee import CommitteeArguments, join_committee
from ..training.pretrain import pretrain

logger = logging.getLogger(__name__)
ARMS, MEMBERS = ("scratch", "pretrained"), 3
CORPUS, TASK = "docstrings of installed Python libraries", "docstrings: which library a paragraph documents"
PLOT = "accuracy.png"
SHALLOW_RATE, DEEP_RATE = 1e-3, 3e-4  # of fine-tuning, for both arms, chosen on validation


@dataclass
class QuickstartArguments:
    """Options of `tlm quickstart`."""

    output_dir: str = option("", "Output folder (default: outputs/quickstart).")
    smoke: bool = option(False, "The same steps in one process, in under 2 minutes; accuracy means nothing.")
    workers: int = option(2, "Trainings side by side, one core each.")


@dataclass(frozen=True)
class Scale:
    """How much the quickstart trains: steps and epochs of every encoder, `seeds` fine-tunings of a `bert-1` and arm."""

    size: str
    seeds: int
    deep: str
    deep_layers: int
    num_texts: int | None
    train_per_label: int
    pretraining_steps: int
    finetuning_epochs: float

    @property
    def encoders(self) -> dict[str, int]:
        """Seed of each encoder by name, the deep one first since it takes longest."""
        return {self.deep: 0, **{f"bert-1-{seed}": seed for seed in range(MEMBERS)}}

    @property
    def task(self) -> Json:
        """Options of the task."""
        size, options = find_size(self.size), {"task": "docstrings", "train_per_label": self.train_per_label}
        return options | {"validation_per_label": size.validation_per_label, "test_per_label": size.test_per_label}

    @property
    def embedded(self) -> list[tuple[str, Path]]:
        """The trained encoders that come with the package, at most as many as a `bert-1` has seeds."""
        return [item for item in pretrained().items() if item[0].startswith("tlm-bert1")][: self.seeds]

    def classifiers(self, encoder: str, arm: str) -> list[str]:
        """Names of the fine-tunings of an encoder."""
        return [f"{encoder}-{arm}-{seed}" for seed in range(1 if encoder == self.deep else self.seeds)]


FULL = Scale("quickstart", 3, "bert-6", 6, None, 100, 300, 8.0)
SMOKE = Scale("smoke", 1, "bert-2", 2, 500, 20, 16, 2.0)


@dataclass
class TableRow:
    """One line of the table: test accuracies of the runs of both arms (the baseline's under scratch), milliseconds."""

    model: str
    parameters: int | None
    scratch: list[float]
    pretrained: list[float]
    latency_ms: float | None

    @property
    def gap(self) -> float | None:
        """Accuracy that pre-training adds."""
        return mean(self.pretrained) - mean(self.scratch) if self.scratch and self.pretrained else None


def quickstart(arguments: QuickstartArguments) -> Json:
    """Run the whole idea on docstrings, or continue it; returns the results as written, with the `report`."""
    check_range(arguments, 1, 4096, "workers")
    scale, workers = (SMOKE, 1) if arguments.smoke else (FULL, arguments.workers)
    output = Path(arguments.output_dir or f"outputs/quickstart{'-smoke' if arguments.smoke else ''}").expanduser()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    start = time.perf_counter()

    logger.info("1 of 5: reading the docstrings of installed libraries (the first time takes half a minute) ...")
    corpus, task = load_corpus("docstrings", num_texts=scale.num_texts), load_task(**scale.task)
    settings = {"scale": asdict(scale), "corpus_sha256": corpus_hash(corpus), "task_sha256": task_hash(task)}
    run = Run(output, "quickstart", settings)
    if run.results is not None:
        logger.info("Finished before; showing the results in %s (delete the folder to run it again).", output)
        return run.results
    if not (output / "tokenizer" / "tokenizer.json").is_file():
        size = find_size(scale.size)
        tokenizer = train_wordpiece(corpus["train"]["text"][:], size.vocab_size, size.max_length)
        tokenizer.save_pretrained(output / "tokenizer")

    shared: Json = {"bf16": "false", "num_threads": 1 if workers > 1 else None, "disable_tqdm": True}
    pretraining, finetuning, joining = _jobs(scale, output, shared)
    results = run_jobs(pretraining, workers, "2 of 5: pre-training")
    results |= run_jobs(finetuning, workers, "3 of 5: fine-tuning")
    results |= run_jobs(joining, workers, "4 of 5: committees")
    logger.info("5 of 5: baseline, latency and release folders ...")
    baseline, _ = fit_tfidf(task)
    folders = {"bert-1": "classifiers/bert-1-0-pretrained-0", "committee": "committees/committee-pretrained-0"}
    folders[scale.deep] = f"classifiers/{scale.deep}-pretrained-0"
    models = {name: load_classifier(f"{output}/{folder}") for name, folder in folders.items()}
    others, tokenizer = watch(), load_tokenizer(f"{output}/{folders['bert-1']}")
    latency = classifier_latency(models, tokenizer, task["test"]["text"][0], rounds=40, threads=1)
    is_busy = others()
    rows = _rows(scale, results, baseline, latency)
    draw_plot(rows, output / PLOT, smoke=arguments.smoke)
    staged = _stage(scale, output, results, arguments.smoke)
    summary: Json = {
        "smoke": arguments.smoke,
        "rows": [asdict(row) for row in rows],
        "is_busy": is_busy,
        "scale": asdict(scale),
        "corpus": {"texts": len(corpus["train"]), "held_out_texts": len(corpus["validation"])},
        "task": {"labels": len(task["train"].features["label"].names), **{split: len(task[split]) for split in task}},
        "staged": [portable_path(str(folder)) for folder in staged],
        "seconds_since_start_or_continuation": time.perf_counter() - start,
    }
    return run.finish(None, summary | {"report": report_text(summary, portable_path(str(output)))})


def _jobs(scale: Scale, output: Path, shared: Json) -> tuple[list[Job], list[Job], list[Job]]:
    """Pre-trainings, fine-tunings of every encoder and arm, and committees: of member k `bert-1` number k of a seed."""
    corpus: Json = {"corpus": "docstrings", "num_texts": scale.num_texts, "tokenizer": str(output / "tokenizer")}
    corpus |= {"size": scale.size, "max_steps": scale.pretraining_steps}
    task = scale.task | {"num_train_epochs": scale.finetuning_epochs}
    pretraining: list[Job] = []
    finetuning: list[Job] = []
    joining: list[Job] = []
    runs = [(name, folder, seed, "pretrained") for seed, (name, folder) in enumerate(scale.embedded)]
    for encoder, number in scale.encoders.items():
        folder, is_deep = output / "encoders" / encoder, encoder == scale.deep
        deep = {"recipe": "bert-6", "num_hidden_layers": scale.deep_layers} if is_deep else {}
        options = {"recipe": "bert-1", "seed": number, "output_dir": str(folder), **shared, **corpus, **deep}
        pretraining.append(Job(encoder, pretrain, options, weight=3.0 if is_deep else 1.0))
        for arm in ARMS:
            # Seeds differ between members, so those from scratch differ too.
            named = enumerate(scale.classifiers(encoder, arm), start=scale.seeds * number)
            runs += [(name, folder, seed, arm) for seed, name in named]
    for name, folder, seed, arm in runs:
        is_deep = folder.name == scale.deep
        options = {"model": str(folder), "seed": seed, "from_scratch": arm == "scratch", **shared, **task}
        options |= {"output_dir": str(output / "classifiers" / name)}
        options |= {"learning_rate": DEEP_RATE if is_deep else SHALLOW_RATE}
        finetuning.append(Job(name, finetune, options, weight=6.0 if is_deep else 1.0))
    for arm, seed in product(ARMS, range(scale.seeds)):
        members = [str(output / "classifiers" / f"bert-1-{member}-{arm}-{seed}") for member in range(MEMBERS)]
        folder = output / "committees" / f"committee-{arm}-{seed}"
        joined = CommitteeArguments(**scale.task, members=members, output_dir=str(folder), disable_tqdm=True)
        joining.append(Job(folder.name, join_committee, joined))
    return pretraining, finetuning, joining


def _rows(scale: Scale, results: dict[str, Json], baseline: Json, latency: dict[str, float]) -> list[TableRow]:

    def row(model: str, names: dict[str, list[str]], milliseconds: float | None) -> TableRow:
        scratch, tuned = ([results[name]["test"]["accuracy"] for name in names.get(arm, ())] for arm in ARMS)
        return TableRow(model, results[names["pretrained"][0]]["parameters"], scratch, tuned, milliseconds)

    shallow = [encoder for encoder in scale.encoders if encoder != scale.deep]
    single = {arm: [name for encoder in shallow for name in scale.classifiers(encoder, arm)] for arm in ARMS}
    joined = {arm: [f"committee-{arm}-{seed}" for seed in range(scale.seeds)] for arm in ARMS}
    rows = [row("bert-1", single, latency["bert-1"])]
    rows.append(row(scale.deep, {arm: scale.classifiers(scale.deep, arm) for arm in ARMS}, latency[scale.deep]))
    rows.append(row(f"committee of {MEMBERS} bert-1", joined, latency["committee"]))
    if scale.embedded:
        rows.append(row("bert-1 of the package", {"pretrained": [name for name, _ in scale.embedded]}, None))
    return [*rows, TableRow("TF-IDF + linear model", None, [baseline["accuracy"]], [], None)]


def _stage(scale: Scale, output: Path, results: dict[str, Json], smoke: bool) -> list[Path]:
    """Release folders: every encoder, the first `bert-1`, the deep classifier, the first committee, the demo."""
    release, shown, folders = output / "release", ("bert-1-0", scale.deep), []
    runs = [("encoder", name, f"tlm-{name}") for name in scale.encoders]
    runs += [("classifier", f"{name}-pretrained-0", f"tlm-{name}-docstrings") for name in shown]
    runs.append(("committee", "committee-pretrained-0", "tlm-committee-docstrings"))
    for kind, run, target in runs:
        folder, facts, plot = output / f"{kind}s" / run, CardFacts(CORPUS, smoke=smoke), None
        if kind != "encoder":
            kept = output / "evaluations" / f"{run}.json"
            evaluation = measure_classifier(folder, results[run], weights_hash(str(folder)), kept)
            facts, plot = replace(facts, trained_on=TASK, evaluation=evaluation), output / PLOT
        folders.append(stage_model(folder, release / target, kind, results[run], facts, plot))
    demo = DemoArguments([f"docstrings={output}/committees/committee-pretrained-0"], str(release / "demo"))
    demo.deep, demo.encoders = [f"docstrings={folders[-2]}"], [f"{name}={release}/tlm-{name}" for name in shown]
    make_demo(replace(demo, corpus="docstrings", num_texts=scale.num_texts))
    return [*folders, release / "demo"]


def spread(values: list[float]) -> str:
    """Mean and, over several runs, standard deviation and their number."""
    if len(values) < 2:
        return f"{values[0]:.3f}" if values else ""
    return f"{mean(values):.3f} ± {stdev(values):.3f} ({len(values)} runs)"


def table(rows: list[TableRow]) -> str:
    """Markdown table, aligned so that it also reads well in a terminal."""
    lines = [["model", "parameters", "from scratch", "pre-trained", "gap", "latency"]]
    for row in rows:
        numbers = (row.parameters, "{:,}"), (row.gap, "{:+.3f}"), (row.latency_ms, "{:.2f} ms")
        parameters, gap, latency = ("" if value is None else form.format(value) for value, form in numbers)
        lines.append([row.model, parameters, spread(row.scratch), spread(row.pretrained), gap, latency])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    rule = "|".join("-" * (width + 2) for width in widths)
    return "\n".join([f"| {padded[0]} |", f"|{rule}|", *(f"| {line} |" for line in padded[1:])])


def report_text(summary: Json, output: str) -> str:
    """What the command prints at its end, from the summary alone."""
    rows = [TableRow(**row) for row in summary["rows"]]
    single, committee, baseline = rows[0], rows[2], rows[-1]
    above = 100 * (mean(committee.pretrained) - mean(baseline.scratch))
    meaning = (
        f"Pre-training changes the accuracy of a single {single.model} by {100 * (single.gap or 0):+.1f} points; the "
        f"{committee.model} is {abs(above):.1f} points {'above' if above > 0 else 'below'} the {baseline.model}."
    )
    if summary["smoke"]:
        meaning = "This was a smoke run: it shows that every step works; its accuracies mean nothing."
    shown = {"table": table(rows), "meaning": textwrap.fill(meaning, 110), "output": output}
    return card_template("quickstart", "txt").render(summary | shown)


def draw_plot(rows: list[TableRow], path: Path, *, smoke: bool) -> None:
    """Bar chart of accuracy by model (PNG), one bar for each arm, every run as a dot."""
    models, baseline = [row for row in rows if row.pretrained], rows[-1]
    arms = (-0.18, "from scratch", "scratch", "#9aa5b1"), (0.18, "pre-trained", "pretrained", "#2f6db5")
    gap, chance = 100 * (rows[0].gap or 0), 1 / len(TASK_LIBRARIES)
    title = f"Pre-training: {gap:+.0f} points for a single {rows[0].model}"
    title = "A smoke run: the accuracies mean nothing" if smoke else title
    with new_figure(path, title, ylabel=f"accuracy: which of {len(TASK_LIBRARIES)} libraries", size=(7, 4)) as axes:
        for shift, label, arm, colour in arms:
            runs = {place + shift: getattr(row, arm) for place, row in enumerate(models) if getattr(row, arm)}
            bars = axes.bar(list(runs), [mean(values) for values in runs.values()], 0.36, label=label, color=colour)
            axes.bar_label(bars, fmt="%.3f", fontsize=8, padding=8)
            for place, values in runs.items():
                axes.scatter([place] * len(values), values, s=9, color="black", zorder=3, alpha=0.6, linewidths=0)
        label = f"{baseline.model} {baseline.scratch[0]:.3f}"
        axes.axhline(baseline.scratch[0], color="#b5532f", linestyle="--", linewidth=1.2, label=label)
        axes.axhline(chance, color="black", linestyle=":", linewidth=1, label=f"chance {chance:.3f}")
        axes.set_xticks(range(len(models)), [textwrap.fill(row.model, 16) for row in models])
        axes.set_ylim(0, 1.25 * max(value for row in rows for value in row.scratch + row.pretrained))
        axes.legend(frameon=False, loc="upper left", ncols=4, fontsize=8)
