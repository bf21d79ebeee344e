"""A committee from a user's own table of texts and labels, in one call."""

import logging
import math
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pandas as pd

from ..data.corpora import load_corpus
from ..data.table_files import frame_table
from ..data.tasks import load_task, task_hash
from ..data.tokenization import train_wordpiece
from ..data.windows import LONGEST_DEFAULT, SHORT, TextFacts
from ..errors import UserError, check_range
from ..evaluation.baselines import tfidf_baseline
from ..evaluation.metrics import class_table
from ..export import write_frozen
from ..loading import (
    load_classifier,
    load_classifier_tokenizer,
    load_matching_tokenizer,
    read_encoder_config,
    weights_hash,
)
from ..recipes import build_config
from ..runs.atomic_files import Json
from ..runs.output_folder import RESULTS_FILE, RUN_FILE, Run
from ..runs.provenance import portable_path
from .finetune import warn_of_imbalance
from .finetune_options import FinetuneOptions
from .join_committee import CommitteeArguments, check_tokenizers, join_committee
from .members import finetune_members, pretrain_members
from .options import LARGEST_NUMBER, LARGEST_SEED, check_length, option
from .pretrain_options import PretrainOptions

logger = logging.getLogger(__name__)
TABLE_OPTIONS = ("text_column", "label_column", "encoding", "drop_rare_classes", "merge_rare_classes")
NOT_DECISIVE = {"data", "output_dir", "encoder", "workers", *TABLE_OPTIONS}
"""Texts and encoders count by their hashes."""
RECORDS = shutil.ignore_patterns(RUN_FILE, RESULTS_FILE)


@dataclass
class OwnDataArguments:
    """Options of `tlm train-committee`."""

    data: str = option("", "CSV, JSON, parquet file or folder, or a Hub data set.")
    output_dir: str = option("", "Output folder (default: outputs/NAME-committee).")
    text_column: str | None = option(None, "Column of the text (default: the task's, or text).")
    label_column: str = option("label", "Column of the label.")
    encoding: str | None = option(None, "Encoding of a CSV, TSV or JSON file, such as cp1252 (default: UTF-8).")
    drop_rare_classes: int = option(0, "Leave out the classes of fewer rows.")
    merge_rare_classes: int = option(0, "Make one class, other, of those of fewer rows.")
    num_members: int = option(3, "Members of the committee.")
    encoder: list[str] = option(list, "Encoders to start from, reused in turn (default: pre-train one per member).")
    corpus: str | None = option(None, "More text to pre-train on: docstrings, wikipedia, a file.")
    recipe: str = option("bert-1", "Architecture of the members.")
    size: str = option("quickstart", "smoke, quickstart, laptop or paper.")
    max_length: int | None = option(
        None, f"Tokens of a text (default: the size's, or as many as 95%% of the texts have, up to {LONGEST_DEFAULT})."
    )
    cased: bool = option(False, "The tokenizer keeps capital letters.")
    keep_accents: bool | None = option(
        None, "It keeps accents and vowel signs; default: unless the text is English-like."
    )
    pretrain_steps: int = option(3000, "Optimizer steps of pre-training, 32 texts each.")
    num_train_epochs: float = option(8.0, "Passes of fine-tuning.")
    learning_rate: float = option(1e-3, "Peak learning rate of fine-tuning.")
    class_weights: str | None = option(None, "balanced: texts of rare classes count more.", choices=["balanced"])
    workers: int = option(2, "Members trained side by side, one core each.")
    seed: int = option(0, "Seed of the split and of the members.")


def train_committee(data: Any, text: str | None = None, label: str = "label", **options: Any) -> Json:
    """Split a table, pre-train or take encoders, fine-tune K members, calibrate, and write one folder.

    70% of each class train, 15% choose epochs and temperature, 15% are the test set; a source's own splits stay. The
    folder opens with `pipeline("text-classification", model=FOLDER)`. Called again, it continues.

        results = train_committee(frame, text="body", label="kind", num_members=5, output_dir="outputs/mail")

    Args:
        data: what `--data` takes, a `datasets.Dataset` or `DatasetDict`, or a pandas DataFrame.
        text: column of the text (default: the task's, or `text`).
        label: column of the label.
        **options: the other fields of `OwnDataArguments`.

    Returns:
        Test metrics of the committee, its classes and members, and of TF-IDF + linear model on the same split.

    Raises:
        UserError: bad input, before any training.
    """
    # 1. Everything that can be refused
    arguments = _check_options(OwnDataArguments(text_column=text, label_column=label, **options))
    task = _load_data(data, arguments)
    more_texts = load_corpus(arguments.corpus)["train"]["text"][:] if arguments.corpus is not None else []

    # 2. The output folder
    name = Path(data).stem if isinstance(data, str | Path) else "own"
    output = Path(arguments.output_dir or f"outputs/{name}-committee").expanduser()
    settings = {name: value for name, value in vars(arguments).items() if name not in NOT_DECISIVE}
    settings |= {"encoder": [weights_hash(name) for name in arguments.encoder], "task_sha256": task_hash(task)}
    run = Run(output, "train-committee", settings)
    if run.results is not None:
        return run.results
    work = output / "work"
    _write_splits(task, work / "data")
    warn_of_imbalance(task, arguments.class_weights)

    # 3. Encoders, classifiers, committee
    encoders = arguments.encoder or _pretrain_encoders(arguments, work, task["train"]["text"][:], more_texts)
    text_facts = _measure_texts(arguments, task, encoders[0])
    tuned = finetune_members(workers=arguments.workers, **_fine_tuning(arguments, encoders, work))["members"]
    members = [str(work / "members" / member["folder"]) for member in tuned]
    joined = CommitteeArguments(str(work / "data"), members=members, output_dir=str(work / "committee"))
    committee = join_committee(replace(joined, disable_tqdm=True))

    # 4. The committee's files and the results in the output folder
    results = {
        "output_dir": portable_path(str(output)),
        "labels": committee["labels"],
        "rows": {split: len(rows) for split, rows in task.items()},
        "committee": committee["test"],
        "classes": committee["classes"],
        "temperature": committee["temperature"],
        "members": [member["test"] for member in tuned],
        "tfidf": tfidf_baseline(task),
        "text_facts": vars(text_facts),
        "next": f'import tlm_hf; pipeline("text-classification", "{portable_path(str(output))}", truncation=True)',
    }
    logger.info(class_table(committee["classes"]))
    return run.finish(partial(_save, str(work / "committee"), output), results)


def _save(source: str, output: Path, folder: Path) -> None:
    """Copy the committee into `folder`, and its tables into `frozen/` there where it can be frozen."""
    shutil.copytree(source, folder, ignore=RECORDS, dirs_exist_ok=True)
    committee = load_classifier(source)
    try:
        write_frozen(committee, load_classifier_tokenizer(source, committee), folder / "frozen")  # type: ignore[arg-type]
    except ValueError as error:
        logger.info("No tables were written: %s", error)
    else:
        logger.info("%s holds the committee as tables, which answer without torch (tlm_runtime.py).", output / "frozen")


def _write_splits(task: datasets.DatasetDict, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in task.items():
        rows.to_parquet(str(folder / f"{split}.parquet"))


def _check_options(arguments: OwnDataArguments) -> OwnDataArguments:
    check_range(arguments, 1, math.inf, "num_members", "workers")
    check_range(arguments, 1, LARGEST_NUMBER, "pretrain_steps")
    check_range(arguments, 0, LARGEST_SEED - arguments.num_members, "seed")
    FinetuneOptions.read(_fine_tuning(arguments, [], Path()))
    sizes = {name: getattr(arguments, name) for name in ("recipe", "size", "max_length")}
    PretrainOptions.read({name: value for name, value in sizes.items() if value is not None} | {"output_dir": "work"})
    check_range(arguments, SHORT, math.inf, "max_length")
    if arguments.encoder and (arguments.cased or arguments.keep_accents is not None):
        raise UserError("--cased and --keep-accents are of a tokenizer that is trained, and --encoder has its own.")
    for name in arguments.encoder:
        fields = read_encoder_config(name)
        load_matching_tokenizer(name, None, fields["vocab_size"])
        check_length(arguments.max_length, name, fields["max_position_embeddings"])
    check_tokenizers(arguments.encoder)
    return arguments


def _load_data(data: Any, arguments: OwnDataArguments) -> datasets.DatasetDict:
    if isinstance(data, pd.DataFrame):
        data = datasets.Dataset(frame_table(data))
    elif isinstance(data, Path):
        data = str(data)
    elif data == "":
        raise UserError("train-committee needs a data set: tlm train-committee data.csv --text-column ... ")
    options = {name: getattr(arguments, name) for name in TABLE_OPTIONS}
    return load_task(data, seed=arguments.seed, **options)


def _measure_texts(arguments: OwnDataArguments, task: datasets.DatasetDict, encoder: str) -> TextFacts:
    """What is cut or unknown in the texts of all splits; says so where there is something."""
    fields = read_encoder_config(encoder)
    tokenizer, limit = load_matching_tokenizer(encoder, None, fields["vocab_size"]), fields["max_position_embeddings"]
    length = arguments.max_length or min(tokenizer.model_max_length, limit)
    return TextFacts.of_task(task, tokenizer, length, limit if arguments.encoder else LONGEST_DEFAULT)


def _pretrain_encoders(
    arguments: OwnDataArguments, work: Path, task_texts: list[str], more_texts: list[str]
) -> list[str]:
    """Folders of one encoder per member, pre-trained with one tokenizer; sets `max_length` where it was not given."""
    texts = task_texts + more_texts
    corpus, tokenizer, encoders = work / "corpus.parquet", work / "tokenizer", work / "encoders"
    datasets.Dataset.from_dict({"text": texts}).to_parquet(str(corpus))
    config = build_config(arguments.recipe, arguments.size)
    trained = train_wordpiece(texts, config.vocab_size, cased=arguments.cased, keep_accents=arguments.keep_accents)
    if arguments.max_length is None:
        percentile = TextFacts.of_texts(task_texts, trained, LONGEST_DEFAULT).percentile_95
        arguments.max_length = max(config.max_position_embeddings, min(percentile, LONGEST_DEFAULT))
    trained.model_max_length = arguments.max_length
    trained.save_pretrained(tokenizer)
    members = pretrain_members(
        num_members=arguments.num_members,
        workers=arguments.workers,
        bf16="false",  # float32 for fine-tuning too
        output_dir=str(encoders),
        corpus=str(corpus),
        tokenizer=str(tokenizer),
        recipe=arguments.recipe,
        size=arguments.size,
        max_length=arguments.max_length,
        max_steps=arguments.pretrain_steps,
        seed=arguments.seed,
        num_threads=1,
    )
    return [str(encoders / member["folder"]) for member in members["members"]]


def _fine_tuning(arguments: OwnDataArguments, encoders: list[str], work: Path) -> Json:
    """Options of `finetune_members`."""
    return {
        "bf16": "false",  # as the encoders were trained
        "models": (encoders * arguments.num_members)[: arguments.num_members],
        "task": str(work / "data"),
        "output_dir": str(work / "members"),
        "num_train_epochs": arguments.num_train_epochs,
        "learning_rate": arguments.learning_rate,
        "class_weights": arguments.class_weights,
        "max_length": arguments.max_length,
        "seed": arguments.seed,
        "num_threads": 1,
    }
