"""A committee from a user's own table of texts and labels, in one call."""

import logging
import math
import shutil
import time
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
from transformers import PreTrainedTokenizerBase

from .. import loading
from ..data.corpora import load_corpus
from ..data.embedded import pretrained
from ..data.kinds import NAMES, PAIR, as_one_text, class_names, per_label, problem_of, texts_of
from ..data.sources import text_hash
from ..data.table_files import frame_table
from ..data.task_options import TableFormat
from ..data.task_splits import learnable, rotate
from ..data.tasks import load_task, task_hash
from ..data.tokenization import LONGEST_DEFAULT, TextFacts, train_wordpiece
from ..errors import UserError, check_range, flag, refusing
from ..evaluation.linear_models import fit_tfidf
from ..models.combination_committee import MULTI, REGRESSION, SINGLE
from ..models.modeling_committee import CommitteeForSequenceClassification
from ..recipes import build_config
from ..runs.atomic_files import Json
from ..runs.output_folder import Run
from ..runs.provenance import portable_path
from . import committee_report
from .finetune import check_kind, warn_of_imbalance
from .finetune_options import FinetuneOptions
from .join_committee import CommitteeArguments, Joined, check_one_tokenizer, join_members, load_members
from .lexical import fit_lexical, lexical_logits, word_vectors
from .members import finetune_members, fit_to_budget, pretrain_members
from .options import LARGEST_NUMBER, LARGEST_SEED, check_length, source_name
from .pretrain_options import PretrainOptions
from .time_budget import parse_duration
from .train_committee_options import OwnDataArguments

logger = logging.getLogger(__name__)
TABLE_OPTIONS = [each.name for each in fields(TableFormat)]
KIND_WORDS = {SINGLE: "{} classes", MULTI: "{} labels, of which a text may have several", REGRESSION: "numbers"}
# Results of the joining that the command's results repeat.
OF_COMMITTEE = ("labels", "classes", "temperature", "temperature_interval", "temperature_note", "threshold")
COLUMNS = {"text_column", "label_column", "text_pair_column"}  # which Python has by other names
OWN_TEXT = "none"  # value of `--encoder` that asks for pre-training on the table's own texts
OF_OWN_TEXT = ("corpus", "size", "pretrain_steps", "cased", "keep_accents")
NOT_DECISIVE = {"data", "output_dir", "encoder", "workers", *TABLE_OPTIONS}  # data and encoders count by hashes


@dataclass(frozen=True)
class Recipe:
    """Options of fine-tuning for a table."""

    num_train_epochs: float
    learning_rate: float = 3e-4
    head: str = "linear"
    token_dropout: float = 0.2


RECIPES = {100: Recipe(40.0), 1000: Recipe(20.0), math.inf: Recipe(8.0)}  # by the largest number of training rows
OWN_TEXT_RECIPE = Recipe(8.0, learning_rate=1e-3, head="new", token_dropout=0.0)


def train_committee(
    data: Any, text: str | None = None, label: str = "label", text_pair: str | None = None, **options: Any
) -> tuple[CommitteeForSequenceClassification, Json]:
    """Split a table, fine-tune K members from pre-trained encoders, calibrate, and write one folder.

    Unless the source has splits, 70% of each class train, 15% choose epochs and temperature, 15% are the test set. Each
    member holds out other rows for validation, and the linear models learn from all but the test rows in the end. The
    folder opens with `pipeline("text-classification", model=FOLDER)`. Called again, it continues.

        committee, report = train_committee(frame, text="body", label="kind", output_dir="outputs/mail")
        print(report["report"])

    Args:
        data: what `--data` takes, a `datasets.Dataset` or `DatasetDict`, or a pandas DataFrame.
        text: column of the text (default: the task's, or `text`); with `text_pair` the first of a pair.
        label: column of the label.
        text_pair: column of the second text.
        **options: the other options of `tlm train-committee --help`, with underscores: `output_dir`, `encoder`,
            `num_members`, `problem_type`, `num_train_epochs`, `max_length`, `seed`, `time_budget`, `workers`, ...

    Returns:
        The committee, and its results: `scores` of all models on test with 95% intervals, `recommendation`, and
        `report` (all that in words).

    Raises:
        UserError: bad input, before any training.
    """
    known = {each.name for each in fields(OwnDataArguments)} - COLUMNS
    if unknown := sorted(options.keys() - known):
        columns = "columns are text=, label= and text_pair="
        raise UserError(f"There is no option {unknown[0]!r}: {columns}, the rest is in `tlm train-committee --help`.")
    arguments = OwnDataArguments(text_column=text, label_column=label, text_pair_column=text_pair, **options)
    output, results, joined = train_from_table(data, arguments)
    committee: Any = loading.load_classifier(str(output)) if joined is None else joined.committee
    return committee, results


def train_from_table(data: Any, arguments: OwnDataArguments) -> tuple[Path, Json, Joined | None]:
    """As `train_committee`; the output folder, the results, and the committee unless it was finished before."""
    # 1. Everything that can be refused
    started = time.perf_counter()
    if isinstance(data, str) and not data:
        raise UserError("train-committee needs a data set: tlm train-committee data.csv --text-column ...")
    _check_options(arguments)
    logger.info("1 of 5: reading the table")
    task = _load_data(data, arguments)
    of_size = next(recipe for most, recipe in RECIPES.items() if len(task["train"]) <= most)
    recipe = of_size if arguments.encoder else OWN_TEXT_RECIPE
    more_texts = load_corpus(arguments.corpus)["train"]["text"][:] if arguments.corpus is not None else []

    # 2. The output folder
    name = Path(data).stem if isinstance(data, str | Path) else "own"
    output = Path(arguments.output_dir or f"outputs/{name}-committee").expanduser()
    settings = {name: value for name, value in vars(arguments).items() if name not in NOT_DECISIVE}
    settings |= {"encoder": [loading.weights_hash(name) for name in arguments.encoder], "task_sha256": task_hash(task)}
    settings |= {"labels": class_names(task), "corpus_sha256": text_hash(more_texts)}
    run = Run(output, "train-committee", settings)
    if run.results is not None:
        return output, run.results, None
    work, splits = output / "work", {}
    for turn, each in enumerate(rotate(task, 1 if arguments.keep_validation else arguments.num_members)):
        folder = work / (f"data-{turn}" if turn else "data")
        folder.mkdir(parents=True, exist_ok=True)
        for split, rows in each.items():
            rows.to_parquet(str(folder / f"{split}.parquet"))
        splits[str(folder)] = load_task(folder, **_kind(arguments))  # as its member reads it
    warn_of_imbalance(task, arguments.class_weights)

    # 3. Encoders, and what the time allows
    of_table = "pre-training encoders on the table's texts"
    logger.info("2 of 5: %s", f"starting from {', '.join(arguments.encoder)}" if arguments.encoder else of_table)
    encoders = arguments.encoder or _pretrain_encoders(arguments, work, task, more_texts)
    tuning = _fine_tuning(arguments, recipe, encoders, work)
    if not arguments.keep_validation:
        tuning["tasks"] = list(splits)
    try:
        fit = fit_to_budget(arguments.time_budget, started, work, len(task["train"]), arguments.workers, tuning)
    except UserError:
        shutil.rmtree(work)
        run.discard()
        raise

    # 4. Linear models and members
    reading, parts = task["train"].info.description, list(splits.values())
    task = parts[0]
    logger.info("3 of 5: linear models of %d rows", len(task["train"]))
    whole, text_facts = _measure_texts(arguments, task, tuning["models"])
    linear, pipeline = fit_tfidf(task, refit=not arguments.keep_validation)
    vectors = word_vectors(whole, encoders)
    fit_table = partial(fit_lexical, whole, vectors, num_labels=len(class_names(task)))
    table = fit_table(task["train"])
    curve = committee_report.learning_curve(whole, vectors, task, table)
    within = fit()
    logger.info("4 of 5: fine-tuning members (%d)", len(tuning["models"]))
    tuned = finetune_members(workers=arguments.workers, **tuning)["members"]

    # 5. The committee
    logger.info("5 of 5: joining, calibrating, and scores on the test rows")
    members = [str(Path(tuning["output_dir"]) / member["folder"]) for member in tuned]
    joining = CommitteeArguments("the table", members=members, disable_tqdm=True)
    committee = load_members(joining, *parts)
    tokenizer = loading.load_classifier_tokenizer(members[0], committee)
    held_out = []
    if not arguments.keep_validation:
        for turn, split in enumerate(parts[: len(members)]):
            of_turn = fit_table(split["train"]) if turn else table
            rows = split["validation"]
            held_out.append((rows, lexical_logits(of_turn, whole, texts_of(rows))))
        table = fit_table(learnable(task))
    joined = join_members(joining, task, committee, tokenizer, (table, whole), held_out)
    results = {
        "output_dir": portable_path(str(run.folder)),
        "data": arguments.data,
        "text_pair_column": arguments.text_pair_column,
        "keep_validation": arguments.keep_validation,
        "members_without_words": [member["test"] for member in tuned],
        "tfidf": {name: value for name, value in linear.items() if name != "logits"},
        "text_facts": vars(text_facts),
        "time_budget": within,
        "problem_type": problem_of(task),
        "kind": KIND_WORDS[problem_of(task)].format(len(class_names(task))),
        "rows": {split: len(rows) for split, rows in task.items()},
        "reading": reading,
        "class_rows": per_label(*task.values()),
        "committee": joined.results["test"],
        **{name: joined.results[name] for name in OF_COMMITTEE},
        **committee_report.score_models(task, joined, linear),
        "learning_curve": curve,
        "frozen": committee_report.freeze_joined(joined, texts_of(task["test"]), run.folder / "work" / "frozen"),
    }
    results["notes"] = committee_report.notes(results)
    columns = (arguments.text_column, arguments.text_pair_column)
    commands = committee_report.next_commands(str(run.folder), *columns)
    results["report"] = committee_report.write_report(results, str(run.folder), commands)
    commands = committee_report.next_commands(results["output_dir"], *columns)
    results = run.finish(partial(committee_report.save_folder, run, results, commands, joined, pipeline), results)
    return output, results, joined


def _check_options(arguments: OwnDataArguments) -> None:
    """Refuse what cannot be; `encoder` becomes the encoders' names, none where they are to be pre-trained here."""
    arguments.encoder = [arguments.encoder] if isinstance(arguments.encoder, str) else list(arguments.encoder)
    check_range(arguments, 1, math.inf, "num_members", "workers")
    check_range(arguments, 1, LARGEST_NUMBER, "pretrain_steps")
    check_range(arguments, 0, LARGEST_SEED - arguments.num_members, "seed")
    sizes = {name: getattr(arguments, name) for name in ("size", "max_length")}
    PretrainOptions.read({name: value for name, value in sizes.items() if value is not None} | {"output_dir": "work"})
    if arguments.time_budget is not None:
        parse_duration(arguments.time_budget)
        if arguments.encoder == [OWN_TEXT]:
            raise UserError("--time-budget bounds fine-tuning: with --encoder none give --pretrain-steps instead.")
    unused = [entry for entry in OF_OWN_TEXT if getattr(arguments, entry) != getattr(OwnDataArguments(), entry)]
    arguments.encoder = [] if arguments.encoder == [OWN_TEXT] else arguments.encoder or list(pretrained())
    if unused and arguments.encoder:
        raise UserError(f"{flag(unused[0])} works only for encoders that are pre-trained here: add --encoder none.")
    for name in arguments.encoder:
        config = loading.read_encoder_config(name)
        loading.load_matching_tokenizer(name, config["vocab_size"])
        check_length(arguments.max_length, name, config["max_position_embeddings"])
    check_one_tokenizer(arguments.encoder)


def _load_data(data: Any, arguments: OwnDataArguments) -> datasets.DatasetDict:
    arguments.data = source_name(data)
    if isinstance(data, pd.DataFrame):
        with refusing("The DataFrame cannot be read", "make its columns text and numbers", ValueError, TypeError):
            data = datasets.Dataset(frame_table(data))
    options = {name: getattr(arguments, name) for name in TABLE_OPTIONS}
    task = load_task(data, seed=arguments.seed, **options)
    arguments.problem_type = NAMES[problem_of(task)]
    check_kind(FinetuneOptions.read(_fine_tuning(arguments, OWN_TEXT_RECIPE, [], Path())), task)
    return task


def _measure_texts(
    arguments: OwnDataArguments, task: datasets.DatasetDict, encoders: list[str]
) -> tuple[PreTrainedTokenizerBase, TextFacts]:
    """The tokenizer of the table of words, which may read more than members do, and the `TextFacts`, which are said."""
    configs = [loading.read_encoder_config(name) for name in dict.fromkeys(encoders)]  # members may share one
    limit = min(config["max_position_embeddings"] for config in configs)
    tokenizer = loading.load_matching_tokenizer(encoders[0], configs[0]["vocab_size"])
    length = arguments.max_length or min(tokenizer.model_max_length, limit)
    is_single, is_given = arguments.text_pair_column is None, arguments.max_length is not None
    is_free = is_single and not is_given and length == limit
    tokenizer.model_max_length = max(length, LONGEST_DEFAULT) if is_free else length
    longest = limit if arguments.encoder else LONGEST_DEFAULT
    words = tokenizer.model_max_length if is_free or (is_single and is_given) else None
    return tokenizer, TextFacts.of_task(task, tokenizer, length, longest, words)


def _pretrain_encoders(
    arguments: OwnDataArguments, work: Path, task: datasets.DatasetDict, more_texts: list[str]
) -> list[str]:
    """Folders of one encoder per member, pre-trained with one tokenizer."""
    rows = task["train"] if arguments.keep_validation else learnable(task)
    task_texts = as_one_text(texts_of(rows))
    texts = task_texts + more_texts
    corpus, tokenizer, encoders = work / "corpus.parquet", work / "tokenizer", work / "encoders"
    datasets.Dataset.from_dict({"text": texts}).to_parquet(str(corpus))
    config = build_config("bert-1", arguments.size)
    trained = train_wordpiece(texts, config.vocab_size, cased=arguments.cased, keep_accents=arguments.keep_accents)
    length = arguments.max_length
    if length is None:
        percentile = TextFacts.of_texts(task_texts, trained, LONGEST_DEFAULT).percentile_95
        length = max(config.max_position_embeddings, min(percentile, LONGEST_DEFAULT))
    trained.model_max_length = length
    trained.save_pretrained(tokenizer)
    options: Json = {key: getattr(arguments, key) for key in ("num_members", "workers", "size", "seed")}
    options |= {"output_dir": str(encoders), "corpus": str(corpus), "tokenizer": str(tokenizer), "num_threads": 1}
    options |= {"max_length": length, "max_steps": arguments.pretrain_steps}
    options["bf16"] = "false"  # float32 for fine-tuning too
    members = pretrain_members(**options)["members"]
    return [str(encoders / member["folder"]) for member in members]


def _fine_tuning(arguments: OwnDataArguments, recipe: Recipe, encoders: list[str], work: Path) -> Json:
    shared = ("class_weights", "max_length", "seed", "num_train_epochs", "learning_rate")
    given = {name: getattr(arguments, name) for name in shared if getattr(arguments, name) is not None}
    return {
        **vars(recipe),
        "bf16": "false",  # as the encoders were trained
        "models": (encoders * arguments.num_members)[: arguments.num_members],
        "task": str(work / "data"),
        "output_dir": str(work / "members"),
        "num_threads": 1,
        **_kind(arguments),
        **given,
    }


def _kind(arguments: OwnDataArguments) -> Json:
    """Options by which the tables in `work` are read."""
    pair = PAIR if arguments.text_pair_column else None
    return {"problem_type": arguments.problem_type, "text_pair_column": pair}
