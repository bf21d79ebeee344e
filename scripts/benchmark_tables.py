"""Tables as people have them: train-committee against tuned TF-IDF, averaged count vectors, MiniLM, setfit, fastText.

TLM_DATA=data python scripts/benchmark_tables.py --json results/benchmark/tables.json --output-dir outputs/tables

Each table has so many rows in all, for training and validation, of each class as many (`--rows 0`: all rows); the
test texts are others, always the same. Of FewRel the first 16 relations are taken. Reviews, tweets and editorials are
sentences that 20 people rated from -4 to 4 (Hutto and Gilbert, ICWSM 2014; MIT licence), negative or positive by the
sign of the mean; 0 is left out. They are in the source archive of the package vaderSentiment, which must be in
$TLM_DATA. The recipe of train-committee may be chosen on the sets of DEVELOPMENT, which no table of the docs compares
models on. The same command continues.
"""

import csv
import functools
import itertools
import pickle
import statistics
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from tlm_hf.commands.common import Parser, run_command
from tlm_hf.data.sources import data_root
from tlm_hf.data.task_splits import learnable
from tlm_hf.data.tasks import load_task
from tlm_hf.data.tokenization import load_tokenizer
from tlm_hf.errors import UserError
from tlm_hf.evaluation.linear_models import choose_linear, fit_tfidf, load_sentence_encoder
from tlm_hf.option_fields import option
from tlm_hf.runs.atomic_files import read_json, write_json
from tlm_hf.runs.figure import new_figure
from tlm_hf.runs.provenance import commit, provenance
from tlm_hf.runtime import load
from tlm_hf.training.lexical import COUNTED, text_means, word_vectors
from tlm_hf.training.train_committee import train_from_table
from tlm_hf.training.train_committee_options import OwnDataArguments

SETS: dict[str, dict[str, Any]] = {
    "ag_news": {"train_per_label": 1000, "test_per_label": 500},
    "dbpedia_14": {"train_per_label": 200, "test_per_label": 140},
    "fewrel": {"train_per_label": 150, "test_per_label": 60, "shortfall": "take"},
    "docstrings": {"train_per_label": 250, "test_per_label": 60},
    "movie_reviews": {"train_per_label": 1000, "validation_per_label": 1, "test_per_label": 1000},
    "amazon_reviews": {"train_per_label": 1000, "validation_per_label": 1, "test_per_label": 400},
}
DEVELOPMENT: dict[str, dict[str, Any]] = {
    "fewrel_17_32": SETS["fewrel"],
    "fewrel_33_48": SETS["fewrel"],
    "tweets": {"train_per_label": 990, "validation_per_label": 1, "test_per_label": 300, "shortfall": "take"},
    "editorials": {"train_per_label": 1100, "validation_per_label": 1, "test_per_label": 900},
}
EVERY_ROW = {"train_per_label": 10**6, "validation_per_label": 1, "shortfall": "take"}
RATED = {"movie_reviews": "movieReviewSnippets", "amazon_reviews": "amazonReviewSnippets"}
RATED |= {"tweets": "tweets", "editorials": "nytEditorialSnippets"}
FIRST_CLASS = {"fewrel_17_32": 16, "fewrel_33_48": 32}
ARCHIVE = "vaderSentiment-3.3.2.tar.gz"
MOST_CLASSES = 16
TIMED = 100  # texts that are classified one by one
ENCODED: dict[str, np.ndarray] = {}  # MiniLM's vectors of texts


@dataclass
class BenchmarkArguments:
    """Options of the benchmark."""

    json: str = field(metadata={"help": "File of the results; what it has is not run again."})
    output_dir: str = field(metadata={"help": "Folder of the committees."})
    sets: list[str] = option(lambda: list(SETS), "Which data sets.")
    rows: list[int] = option(lambda: [32, 64, 200, 600, 2000], "Rows of a table; 0 for all.")
    draws: int = option(5, "Tables of each size.")
    models: list[str] = option(lambda: ["committee", "tfidf", "count vectors", "minilm"], "Which models.")


Trained = tuple[dict[str, Any], Callable[[str], Any], float]  # scores, what classifies a text, megabytes


@functools.cache
def read(data: str, every_row: bool = False) -> datasets.DatasetDict:
    """Training texts of one of the data sets, from which tables are drawn, and its test texts."""
    source = read_ratings(RATED[data]) if data in RATED else "fewrel" if data in FIRST_CLASS else data
    return load_task(source, **(SETS | DEVELOPMENT)[data] | (EVERY_ROW if every_row else {}))


def read_ratings(name: str) -> datasets.Dataset:
    """Rated sentences of one file, which is in an archive in the package's archive."""
    root = data_root(None)
    if root is None or not (root / ARCHIVE).is_file():
        command = "pip download --no-deps --no-binary :all: vaderSentiment==3.3.2 -d $TLM_DATA"
        raise UserError(f"{ARCHIVE} is not in $TLM_DATA: {command}")
    inner = f"{ARCHIVE.removesuffix('.tar.gz')}/additional_resources/hutto_ICWSM_2014.tar.gz"
    with tarfile.open(root / ARCHIVE) as package, tarfile.open(fileobj=package.extractfile(inner)) as archive:
        file = archive.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
        columns = ["id", "rating", "text"]
        rows = pd.read_csv(file, sep="\t", names=columns, quoting=csv.QUOTE_NONE)  # type: ignore[call-overload]
    rows = rows[rows["rating"] != 0]
    labels = ["positive" if rating > 0 else "negative" for rating in rows["rating"]]
    return datasets.Dataset.from_dict({"text": rows["text"].tolist(), "label": labels})


def draw_table(source: datasets.DatasetDict, rows: int, draw: int, first: int = 0) -> datasets.DatasetDict:
    """So many rows (0: all), classes from `first` on in turn; a fifth of each, at least one, is for validation."""
    labels = np.array(source["train"]["label"][:])
    rng = np.random.default_rng([rows, draw])
    known = np.unique(labels)[first : first + MOST_CLASSES]
    classes = [rng.permutation(np.flatnonzero(labels == label)) for label in known]
    chosen = [places[: -((index - rows) // len(classes)) if rows else None] for index, places in enumerate(classes)]
    held_out = [max(1, len(places) // 5) for places in chosen]
    parts = {"train": [places[count:] for places, count in zip(chosen, held_out, strict=True)]}
    parts["validation"] = [places[:count] for places, count in zip(chosen, held_out, strict=True)]
    splits = {split: source["train"].select(rng.permutation(np.concatenate(part))) for split, part in parts.items()}
    splits["test"] = source["test"].select(np.flatnonzero(np.isin(source["test"]["label"][:], known)))
    names = datasets.ClassLabel(names=source["train"].features["label"].names[first : first + len(classes)])
    for split, table in splits.items():
        numbers = [label - first for label in table["label"]]
        splits[split] = table.remove_columns("label").add_column("label", numbers, feature=names)
    return datasets.DatasetDict(splits)


def run_committee(task: datasets.DatasetDict, folder: Path) -> Trained:
    """Train a committee, which answers from its tables; as many members at a time as torch has threads."""
    options = OwnDataArguments(output_dir=str(folder), workers=torch.get_num_threads())
    output, results, _ = train_from_table(task, options)
    tables = load(output / "frozen")
    size = sum(path.stat().st_size for path in (output / "frozen").rglob("*") if path.is_file()) / 1e6
    return results["committee"], lambda text: tables.probabilities([text]), size


def run_tfidf(task: datasets.DatasetDict, folder: Path) -> Trained:
    """As `run_committee`."""
    scores, model = fit_tfidf(task, refit=True)
    return scores, lambda text: model.predict([text]), len(pickle.dumps(model)) / 1e6


def choose_on_vectors(vectors: dict[str, np.ndarray], task: datasets.DatasetDict) -> dict[str, Any]:
    """`choose_linear`, fitted on training and validation rows together in the end, as every model here."""
    both = np.concatenate([vectors["train"], vectors["validation"]])
    return choose_linear(vectors, task, {"train": both, "test": vectors["test"]})


def run_count_vectors(task: datasets.DatasetDict, folder: Path) -> Trained:
    """As `run_committee`; the mean of the word rows of the counted encoder."""
    tokenizer = load_tokenizer(COUNTED)
    rows = word_vectors(tokenizer, [COUNTED])
    means = text_means(tokenizer, rows)
    scores = choose_on_vectors({split: means(task[split]["text"][:]) for split in task}, task)
    return scores, lambda text: means([text]), rows.nbytes / 1e6


def run_minilm(task: datasets.DatasetDict, folder: Path) -> Trained:
    """As `run_committee`; a text of several tables is encoded once, so `seconds` of later ones are too few."""
    encoder = load_sentence_encoder()
    new = [text for split in task for text in dict.fromkeys(task[split]["text"]) if text not in ENCODED]
    ENCODED.update(zip(new, encoder.encode(new, batch_size=64), strict=True))
    vectors = {split: np.stack([ENCODED[text] for text in task[split]["text"]]) for split in task}
    scores = choose_on_vectors(vectors, task)
    return scores, lambda text: encoder.encode([text]), 4e-6 * sum(each.numel() for each in encoder.parameters())


def run_setfit(task: datasets.DatasetDict, folder: Path) -> Trained:
    """As `run_committee`; MiniLM tuned on 40 pairs of each row, with setfit's defaults for the rest."""
    import setfit

    model = setfit.SetFitModel(load_sentence_encoder(), LogisticRegression())
    options = setfit.TrainingArguments(output_dir=str(folder / "setfit"), num_iterations=20, save_strategy="no")
    setfit.Trainer(model, options, train_dataset=learnable(task)).train()
    predicted = model.predict(task["test"]["text"][:]).numpy()
    size = 4e-6 * sum(each.numel() for each in model.model_body.parameters())
    return _scores(task, predicted), lambda text: model.predict([text]), size


def run_fasttext(task: datasets.DatasetDict, folder: Path) -> Trained:
    """As `run_committee`; pairs of words, and as many epochs as validation chooses."""
    import fasttext

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "fasttext.txt"

    def texts(rows: datasets.Dataset) -> list[str]:
        return [" ".join(text.split()) for text in rows["text"]]

    def train(rows: datasets.Dataset, epochs: int) -> Any:
        labelled = zip(rows["label"][:], texts(rows), strict=True)
        file.write_text("".join(f"__label__{label} {text}\n" for label, text in labelled))
        rates = {"lr": 0.5, "epoch": epochs, "wordNgrams": 2, "bucket": 200_000, "thread": 1, "verbose": 0}
        return fasttext.train_supervised(str(file), **rates)

    def predict(model: Any, rows: datasets.Dataset) -> np.ndarray:
        return np.array([int(label.removeprefix("__label__")) for (label,) in model.predict(texts(rows))[0]])

    held_out, right = task["validation"], {}
    for epochs in (5, 25, 100):
        right[epochs] = (predict(train(task["train"], epochs), held_out) == held_out["label"][:]).mean()
    best = train(learnable(task), max(right, key=right.__getitem__))
    best.save_model(str(folder / "fasttext.bin"))
    size = (folder / "fasttext.bin").stat().st_size / 1e6
    return _scores(task, predict(best, task["test"])), lambda text: best.predict([" ".join(text.split())]), size


def _scores(task: datasets.DatasetDict, predicted: np.ndarray) -> dict[str, float]:
    labels = np.array(task["test"]["label"][:])
    return {"accuracy": (predicted == labels).mean(), "macro_f1": f1_score(labels, predicted, average="macro")}


RUNS = {"committee": run_committee, "tfidf": run_tfidf, "count vectors": run_count_vectors, "minilm": run_minilm}
RUNS |= {"setfit": run_setfit, "fasttext": run_fasttext}


def score(arguments: BenchmarkArguments, data: str, rows: int, draw: int, model: str) -> dict[str, Any]:
    """Train one model on one table: scores, seconds of training, milliseconds a text, megabytes on disk."""
    task = draw_table(read(data, every_row=rows == 0), rows, draw, FIRST_CLASS.get(data, 0))
    start = time.perf_counter()
    scores, classify, size = RUNS[model](task, Path(arguments.output_dir) / f"{data}-{rows}-{draw}")
    seconds, each = time.perf_counter() - start, []
    for text in task["test"]["text"][:TIMED]:
        start = time.perf_counter()
        classify(text)
        each.append(1000 * (time.perf_counter() - start))
    row = {"data": data, "rows": rows or len(learnable(task)), "draw": draw, "model": model, "all": rows == 0}
    row["commit"] = commit()
    row |= {name: scores[name] for name in ("accuracy", "macro_f1")}
    return row | {"seconds": seconds, "milliseconds": statistics.median(each), "megabytes": size}


def main(argv: Sequence[str] | None = None) -> None:
    """Run what the results lack."""
    arguments = BenchmarkArguments(**Parser([BenchmarkArguments], "benchmark-tables", __doc__ or "").parse(argv))
    run_command(functools.partial(run, arguments))


def run(arguments: BenchmarkArguments) -> None:
    """Every table, with every model; each result is written at once."""
    file = Path(arguments.json)
    scores = read_json(file)["scores"] if file.is_file() else []
    known = {(row["data"], 0 if row.get("all") else row["rows"], row["draw"], row["model"]) for row in scores}
    for data, rows in itertools.product(arguments.sets, arguments.rows):
        draws = range(arguments.draws if rows else min(1, arguments.draws))  # there is one table of all rows
        for draw, model in itertools.product(draws, arguments.models):
            if (data, rows, draw, model) not in known:
                scores.append(score(arguments, data, rows, draw, model))
                write(scores, file)
    write(scores, file)


def write(scores: list[dict[str, Any]], file: Path) -> None:
    """Write all scores and the mean accuracies, print these, and draw one figure a data set beside the results."""
    means = pd.DataFrame(scores).pivot_table("accuracy", ["data", "rows"], "model")
    rows = [row.dropna().to_dict() for _, row in means.reset_index().iterrows()]
    write_json(file, {"mean_accuracies": rows, "scores": scores, **provenance()})
    print(means.round(3).to_string(), flush=True)
    for data, rows in pd.DataFrame(scores).groupby("data"):
        path = file.with_name(f"{file.stem}-{data}.png")
        with new_figure(path, str(data), "rows of the table", "test accuracy (%)") as axes:
            lines = 100 * rows.pivot_table("accuracy", "rows", "model")
            colours = [f"C{list(RUNS).index(model)}" for model in lines]
            lines.plot(ax=axes, style="o-", color=colours, logx=True, xlabel=axes.get_xlabel())
            axes.set_xticks(lines.index, [f"{size:,}" for size in lines.index], rotation=30)
            axes.minorticks_off()
            axes.legend(frameon=False)


if __name__ == "__main__":
    main()
