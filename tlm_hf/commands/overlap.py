"""`tlm overlap`: how much of a task's tokens a corpus has, and subsets of it with high, random and low overlap."""

import logging
import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from ..data.corpora import load_corpus
from ..data.dataset_folder import open_destination, write_dataset_folder
from ..data.overlap import MIN_COUNT, TokenTexts, count_tokens, encode_texts, measure_overlap
from ..data.overlap_configs import KIND, overlap_configs, task_stem
from ..data.overlap_subsets import KINDS, ROUNDS, select_subsets, subset_splits
from ..data.prepare import Prepared
from ..data.sources import text_hash
from ..data.subsets import facts_of
from ..data.tasks import load_task, task_hash
from ..data.tokenization import load_tokenizer, tokenizer_hash, train_wordpiece
from ..errors import UserError, check_range
from ..runs.atomic_files import write_json
from ..runs.provenance import portable_path, provenance
from .common import parse, run_command

logger = logging.getLogger(__name__)

SUMMARY = ("corpus", "selection")
SHOWN = ("train", "test")
MEASURES = {
    "jensen_shannon_bits": "Jensen-Shannon divergence (bits)",
    "type_coverage": "share of the task's token types",
    "occurrence_coverage": "share of its token occurrences",
}
COLOURS = {"high": "#2f6db5", "random": "#9aa5b1", "low": "#b5532f"}


@dataclass
class OverlapArguments:
    """Options of `tlm overlap`."""

    corpus: str = field(
        default="wikipedia", metadata={"help": "docstrings, wikipedia, a file or folder, or a Hub data set."}
    )
    text_column: str = field(default="text", metadata={"help": "Column of the corpus that holds the text."})
    corpus_texts: int | None = field(default=None, metadata={"help": "Texts to choose from (default: all)."})
    tasks: list[str] = field(
        default_factory=lambda: ["ag_news", "dbpedia_14", "fewrel"],
        metadata={"help": "Tasks: known names, files, folders or Hub data sets."},
    )
    train_per_label: list[int] = field(
        default_factory=list,
        metadata={"help": "Training texts of each class: one number, or one for each task (default: the task's)."},
    )
    test_per_label: list[int] = field(default_factory=list, metadata={"help": "Likewise for test."})
    shortfall: str = field(
        default="error", metadata={"help": "Where a class has fewer rows than asked for: error, or take all it has."}
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": "vocab.txt, folder or Hub name; default: a WordPiece trained on the corpus."}
    )
    vocab_size: int = field(default=8000, metadata={"help": "Size of the trained WordPiece."})
    num_texts: int = field(default=20_000, metadata={"help": "Texts of each subset."})
    max_length: int = field(default=128, metadata={"help": "Tokens of each text that count, special tokens included."})
    min_count: int = field(default=MIN_COUNT, metadata={"help": "How often a token must stand there to be covered."})
    seed: int = field(default=0, metadata={"help": "Seed of the random subset and of ties."})
    task_seed: int = field(default=0, metadata={"help": "Seed of the choice of a task's rows."})
    data_root: str | None = field(default=None, metadata={"help": "Folder of real text; default: $TLM_DATA."})
    json: str | None = field(default=None, metadata={"help": "File for the results; the plot lies beside it (.png)."})
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Data set folder to make of the subsets: configurations TASK-high, TASK-random, TASK-low."},
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    arguments = parse(OverlapArguments, "overlap", overlap.__doc__ or "", argv)
    shown: dict[str, Any] = {}

    def run() -> dict[str, Any]:
        shown.update(overlap(arguments))
        return shown

    run_command(run, SUMMARY)
    print(markdown(shown["table"]))


def markdown(table: dict[str, Any]) -> str:
    """The table as Markdown: a row for each task and subset, train and test values side by side."""
    lines = ["| task | subset | " + " | ".join(f"{measure} (train, test)" for measure in MEASURES) + " |"]
    lines.append("|---|---|" + "---|" * len(MEASURES))
    for task, rows in table.items():
        for kind, row in rows.items():
            cells = (", ".join(f"{row[split][measure]:.4f}" for split in SHOWN) for measure in MEASURES)
            lines.append(f"| {task} | {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def overlap(arguments: OverlapArguments) -> dict[str, Any]:
    """Measure token overlap, and choose subsets of a corpus with high, random and low overlap with each task.

    The subsets are chosen by the tasks' training splits (see `data.overlap_subsets`) and measured on both training and
    test splits (see `data.overlap`).

    With an `output_dir` the subsets become a data set folder with a card (see `data.overlap_configs` and
    `data.dataset_folder`): the same command again gives the same parquet files, a folder of anything else is refused.

    Returns:
        `table`: by task, by subset (`high`, `random`, `low`, and the whole `corpus`), by split (`train`, `test`) the
        three measures; the sizes and SHA-256 of everything, and the seconds of the selections.

    Raises:
        UserError: bad input, before the selection.
    """
    check_range(arguments, 1, math.inf, "num_texts", "min_count", "corpus_texts", "vocab_size")
    check_range(arguments, 3, math.inf, "max_length")
    per_label = {name: _by_task(arguments, name) for name in ("train_per_label", "test_per_label")}
    _check_number(arguments, arguments.corpus_texts)
    _check_targets(arguments)  # before the work rather than after it
    folder_and_settings = None if arguments.output_dir is None else open_destination(arguments)
    made_by = provenance()  # at the start: the checkout may move on
    tasks = {
        name: load_task(
            name, train_per_label=per_label["train_per_label"][name], test_per_label=per_label["test_per_label"][name],
            root=arguments.data_root, seed=arguments.task_seed, shortfall=arguments.shortfall,
        )
        for name in arguments.tasks
    }  # fmt: skip
    corpus_splits = load_corpus(
        arguments.corpus, num_texts=arguments.corpus_texts, text_column=arguments.text_column, root=arguments.data_root,
    )  # fmt: skip
    corpus = corpus_splits["train"]
    _check_number(arguments, len(corpus))
    texts = list(corpus["text"])
    tokenizer = _tokenizer(arguments, texts)
    logger.info("Tokenizing %s texts", f"{len(texts):,}")
    start = time.perf_counter()
    tokens = encode_texts(texts, tokenizer, arguments.max_length)
    tokenizing = time.perf_counter() - start
    corpus_counts = count_tokens(tokens)
    results: dict[str, Any] = {
        "corpus": {
            "name": portable_path(arguments.corpus), "texts": len(texts), "tokens": len(tokens.ids),
            "sha256": text_hash(texts),
        },
        "tokenizer": {
            "name": "WordPiece trained on the corpus" if arguments.tokenizer is None
            else portable_path(arguments.tokenizer),
            "tokens": len(tokenizer), "sha256": tokenizer_hash(tokenizer),
        },
        "settings": {
            "num_texts": arguments.num_texts, "max_length": arguments.max_length, "min_count": arguments.min_count,
            "seed": arguments.seed, "rounds": ROUNDS,
        },
        "selection": {"texts": len(texts), "seconds": {}, "tokenizing_seconds": round(tokenizing, 2)},
        "tasks": {},
        "table": {},
    }  # fmt: skip
    configs: dict[str, datasets.DatasetDict] = {}
    leakage: dict[str, list[dict[str, Any]]] = {}
    for name, task in tasks.items():
        shown = portable_path(name)
        # Only counts of the training split go into the selection.
        train_counts = count_tokens(encode_texts(list(task["train"]["text"]), tokenizer, arguments.max_length))
        start = time.perf_counter()
        chosen, facts = select_subsets(tokens, texts, train_counts, arguments.num_texts, seed=arguments.seed)
        results["selection"]["seconds"][shown] = round(time.perf_counter() - start, 2)
        splits = subset_splits(
            corpus, chosen, facts, source=facts_of(corpus) or portable_path(arguments.corpus), task=shown,
            max_length=arguments.max_length, seed=arguments.seed,
        )  # fmt: skip
        results["tasks"][shown] = _describe(task, splits, chosen)
        results["table"][shown] = _measure(tokens, chosen, corpus_counts, task, tokenizer, arguments)
        if folder_and_settings is not None:
            found = overlap_configs(
                name, splits, corpus_splits, task["test"], results["table"][shown], tokenizer=results["tokenizer"],
            )  # fmt: skip
            configs |= found[0]
            leakage |= found[1]
    if folder_and_settings is not None:
        write_dataset_folder(Prepared(KIND, arguments.corpus, configs, leakage), *folder_and_settings)
    if arguments.json is not None:
        target = Path(arguments.json).expanduser()
        target.parent.mkdir(parents=True, exist_ok=True)
        draw_plot(results["table"], arguments.min_count, arguments.num_texts, target.with_suffix(".png"))
        write_json(target, {**results, "provenance": made_by})
    return results


def _by_task(arguments: OverlapArguments, option: str) -> dict[str, int | None]:
    """One number for each task, or None where none is given."""
    given: list[int] = getattr(arguments, option)
    stems = {task_stem(name).casefold() for name in arguments.tasks}
    if not stems or "" in stems or len(stems) < len(arguments.tasks):
        raise UserError("--tasks names no task, or two by one name: name each task once, with file names that differ.")
    if not given:
        return dict.fromkeys(arguments.tasks)
    if len(given) not in (1, len(arguments.tasks)):
        raise UserError(
            f"--{option.replace('_', '-')} has {len(given)} numbers for {len(arguments.tasks)} tasks: give one, or one "
            "for each task."
        )
    return dict(zip(arguments.tasks, given * len(arguments.tasks) if len(given) == 1 else given, strict=False))


def _check_number(arguments: OverlapArguments, there_are: int | None) -> None:
    """Refuse subsets larger than the corpus, before a vocabulary is trained on it."""
    if there_are is not None and arguments.num_texts > there_are:
        raise UserError(
            f"{arguments.num_texts} texts per subset were asked for, but there are {there_are} of the corpus to choose "
            f"from: ask for at most {there_are} (--num-texts)."
        )


def _check_targets(arguments: OverlapArguments) -> None:
    """Refuse names that cannot be written to; nothing is made yet."""
    folder = Path(arguments.output_dir).expanduser() if arguments.output_dir else None
    if folder is not None:
        _check_writable(folder, f"The output folder {arguments.output_dir}", "--output-dir")
    if arguments.json is None:
        return
    target = Path(arguments.json).expanduser()
    if target.suffix == ".png":
        raise UserError(f"--json {arguments.json} has the ending of the plot beside it: end it in .json.")
    if folder is not None and folder.resolve() in (target.resolve(), *target.resolve().parents):
        raise UserError(f"--json {arguments.json} lies in the data set folder --output-dir: name a file elsewhere.")
    _check_writable(target, f"The file {arguments.json}", "--json")
    if target.is_dir() or target.with_suffix(".png").is_dir():
        which = "it" if target.is_dir() else "the plot beside it"
        raise UserError(f"--json {arguments.json} cannot be written ({which} is a folder): choose another --json.")


def _check_writable(path: Path, name: str, option: str) -> None:
    """Raise UserError unless `path` can be a file's name, and the nearest folder above it that exists takes a file."""
    try:
        path.exists()  # raises for a name that no file can have
        above = path.resolve().parent
        while not above.exists():
            above = above.parent
        tempfile.TemporaryFile(dir=above).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{name} cannot be written ({reason}): choose another {option}.") from error


def _tokenizer(arguments: OverlapArguments, texts: list[str]) -> PreTrainedTokenizerBase:
    if arguments.tokenizer is not None:
        return load_tokenizer(os.path.expandvars(arguments.tokenizer))
    return train_wordpiece(texts, arguments.vocab_size, arguments.max_length)


def _describe(
    task: datasets.DatasetDict, splits: datasets.DatasetDict, chosen: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Sizes and hashes of the task and of its subsets, and how many texts two subsets share."""
    names = list(KINDS)
    pairs = [(one, other) for index, one in enumerate(names) for other in names[index + 1 :]]
    return {
        "train_texts": len(task["train"]),
        "test_texts": len(task["test"]),
        "train": facts_of(task["train"]),
        "sha256": task_hash(task),
        "subsets": {kind: facts_of(splits[kind]) for kind in KINDS},
        "shared_texts": {f"{one}-{other}": len(np.intersect1d(chosen[one], chosen[other])) for one, other in pairs},
    }


def _measure(
    tokens: TokenTexts, chosen: dict[str, np.ndarray], corpus_counts: np.ndarray, task: datasets.DatasetDict,
    tokenizer: PreTrainedTokenizerBase, arguments: OverlapArguments,
) -> dict[str, dict[str, dict[str, float]]]:  # fmt: skip
    """The measures of each subset, and of the whole corpus, on the task's training and test splits."""
    of_task = {
        split: count_tokens(encode_texts(list(task[split]["text"]), tokenizer, arguments.max_length)) for split in SHOWN
    }
    counted = {kind: count_tokens(tokens, chosen[kind]) for kind in KINDS} | {"corpus": corpus_counts}
    return {
        kind: {split: measure_overlap(counts, of_task[split], arguments.min_count) for split in SHOWN}
        for kind, counts in counted.items()
    }


def draw_plot(table: dict[str, Any], min_count: int, num_texts: int, path: Path) -> Path:
    """The table as bars by task (on training splits; dots on test splits), one panel a measure; returns `path`."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(MEASURES), figsize=(12, 4), layout="constrained")
    width = 0.28
    for axes, (measure, title) in zip(panels, MEASURES.items(), strict=True):
        values = [row[kind][split][measure] for row in table.values() for kind in KINDS for split in SHOWN]
        # Where all values lie close to 1, the axis starts below the lowest of them, and the title says so.
        lowest = int(10 * min(values) - 1) / 10 if min(values) > 0.6 else 0.0
        for offset, kind in enumerate(KINDS):
            places = [index + (offset - 1) * width for index in range(len(table))]
            train, test = ([row[kind][split][measure] for row in table.values()] for split in SHOWN)
            axes.bar(
                places, train, width, label="random" if kind == "random" else f"{kind} overlap", color=COLOURS[kind]
            )
            label = "on the test split" if offset == len(KINDS) - 1 else None
            axes.scatter(places, test, s=18, color="black", edgecolors="white", linewidths=0.6, zorder=3, label=label)
            for place, value in zip(places, train, strict=True):
                axes.annotate(
                    f"{value:.3f}", (place, lowest), (0, 4), textcoords="offset points", ha="center", fontsize=7,
                    color="white",
                )  # fmt: skip
        axes.set_ylim(lowest, 1.0 if lowest else max(values) * 1.1)
        axes.set_xticks(range(len(table)), list(table))
        seen = "" if measure == "jensen_shannon_bits" else f"\nseen at least {min_count} times"
        from_where = f" (axis from {lowest:.1f})" if lowest else ""
        axes.set_title(f"{title}{seen}{from_where}", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    figure.suptitle(
        f"Subsets of {num_texts:,} texts, equal in tokens, chosen by each task's training split", fontsize=11
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
