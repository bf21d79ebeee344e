"""Labels, values and a committee's uncertainty for texts, a data set or a table."""

import csv
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy.special import expit, softmax
from transformers import PreTrainedConfig

from ..data.sources import check_column, read_source, tables_in
from ..data.tables import find_text
from ..data.task_options import TextFormat
from ..errors import UserError, check_range, flag, refusing
from ..export import freeze_if_possible, load_for_inference
from ..loading import COMMITTEES, load_classifier_tokenizer, warn_of_pairs
from ..models.combination_committee import MULTI, REGRESSION, combine, uncertainty
from ..models.joining_committee import problem_of_model
from ..option_fields import option
from ..runs.atomic_files import Json, replacing
from .scoring import FREEZE_HELP, output_file, predict_logits

logger = logging.getLogger(__name__)
WRITERS = (".csv", ".json", ".jsonl", ".parquet")
UNCERTAINTY = ("entropy", "mutual_information", "agreement", "spread")


@dataclass(frozen=True)
class Prediction:
    """What a model says of one text; None where it says nothing, as of a text that is missing."""

    label: str | None = None  # the most probable class
    probability: float | None = None  # of the label
    labels: list[str] | None = None  # with several labels a text, those above the threshold
    value: float | dict[str, float] | None = None  # of a regression; with several outputs by name
    entropy: float | None = None  # of the committee's mean probability, in nats
    mutual_information: float | None = None  # the part of the entropy that the members' disagreement makes
    agreement: float | None = None  # the largest share of members that prefer one class
    spread: float | None = None  # of a regression: the standard deviation of the members' values
    probabilities: dict[str, float] | None = None  # of all classes; with several labels a text each for itself


@dataclass
class PredictArguments(TextFormat):
    """Options of `tlm predict`."""

    model: str = option("", "Classifier, committee (frozen or not), or ONNX export: folder or Hub name.")
    texts: list[str] = option(list, "Texts to classify.")
    input: str | None = option(None, "Table, text file, or folder of them (all are read), in place of --texts.")
    text_column: str | None = option(None, "Column of --input of the text (default: text, or the only one of strings).")
    on_empty: str = option("keep", "Rows without text: empty predictions, or error.", choices=["keep", "error"])
    text_pair_column: str | None = option(None, "Column of --input that holds the second text of each pair.")
    threshold: float | None = option(None, "With several labels a text: the least probability (default: the model's).")
    output: str | None = option(None, "New file to write: .csv, .json, .jsonl or .parquet.")
    batch_size: int = option(64, "Texts per pass.")
    freeze: bool = option(True, FREEZE_HELP)
    disable_tqdm: bool = option(False, "No progress bar (for logs).")


def predict(
    texts: Sequence[Any] | datasets.Dataset,
    model: str,
    *,
    text_column: str = "text",
    text_pair_column: str | None = None,
    batch_size: int = 64,
    threshold: float | None = None,
    freeze: bool = True,
) -> list[Prediction]:
    """Classify n texts or tuples of two, or a data set of n rows, by a classifier or committee (folder or Hub name).

    A committee that can be frozen answers from its tables; with `freeze=False` its members run. The n predictions are
    in the order of the texts; those longer than the model are truncated, with a warning. Raises UserError for one text
    in place of a list, no such column, a row without text, or a model that cannot classify.
    """
    if isinstance(texts, str | Mapping) or getattr(texts, "ndim", 1) != 1:
        raise UserError("predict takes a list of texts or a Dataset: put a text into brackets, take a table's column.")
    if isinstance(texts, datasets.Dataset):
        names = [name for name in (text_column, text_pair_column) if name is not None]
        for name in names:
            check_column(texts, name, "the data set", "text_column or text_pair_column")
        texts = _texts_in(texts.select_columns(names).with_format("arrow")[:], text_column, text_pair_column)
    texts = [tuple(text) if isinstance(text, list) else text for text in texts]
    are_pairs = len(texts) > 0 and isinstance(texts[0], tuple)
    for row, text in enumerate(texts):
        parts = text if are_pairs and isinstance(text, tuple) else (text,)
        if len(parts) != 1 + are_pairs or not all(isinstance(part, str) and part.strip() for part in parts):
            raise UserError(f"Row {row} (from 0) has no text: fill or drop it.")
    predictions, truncated = _classify(texts, model, batch_size, threshold, freeze, show_progress=False)
    if truncated:
        logger.warning("%d of %d texts are longer than the model and were truncated.", truncated, len(texts))
    return predictions


def predict_command(arguments: PredictArguments) -> Json:
    """Classify texts or the rows of a table; raises UserError for bad input, before the model runs.

    Returns the counts of `texts`, of those that were `empty` and `truncated`, and `predictions`, or the `output` file:
    all columns of the input as they were (in JSON null for NaN), then those of `Prediction`, `p(CLASS)` for each class.
    """
    if not arguments.model:
        raise UserError("predict needs --model, a classifier or committee.")
    if bool(arguments.texts) == (arguments.input is not None):
        raise UserError("predict needs either --texts or --input (a table or lines), not both.")
    check_range(arguments, 1, math.inf, "batch_size")
    check_range(arguments, 0, 1, "threshold")
    target = None if arguments.output is None else output_file(arguments.output)
    if target is not None and target.suffix not in WRITERS:
        raise UserError(f"--output {target} ends in {target.suffix!r}; known are {', '.join(WRITERS)}.")
    table, column, place = _read_input(arguments)
    texts = _texts_in(table, column, arguments.text_pair_column)
    empty = [row for row, text in enumerate(texts) if text is None]
    if empty and arguments.on_empty == "error":
        raise UserError(f"There is no text in {place(empty[0])} ({len(empty)} such rows): fill or drop them.")
    options = (arguments.batch_size, arguments.threshold, arguments.freeze, not arguments.disable_tqdm)
    predictions, truncated = _classify(texts, arguments.model, *options)
    counts = {"texts": len(texts), "empty": len(empty), "truncated": truncated}
    if target is None:
        records = [{key: value for key, value in asdict(each).items() if value is not None} for each in predictions]
        return {"predictions": [{"text": text, **each} for text, each in zip(texts, records, strict=True)], **counts}
    _write(_add_columns(table, predictions), target)
    return {"output": arguments.output, **counts}


def _texts_in(table: pa.Table, text_column: str, text_pair_column: str | None) -> list[Any]:
    """The texts of a column or the pairs of two, None where there is none."""
    sides = []
    for option_name, name in (("text_column", text_column), ("text_pair_column", text_pair_column)):
        if name is None:
            continue
        if name not in table.column_names:
            names = ", ".join(table.column_names)
            raise UserError(f"The input has no column {name!r} (it has {names}): set {flag(option_name)}.")
        kind, is_text = table[name].type, (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
        if not any(is_type(kind) for is_type in is_text):
            raise UserError(f"Column {name!r} holds {kind}, not text: set {flag(option_name)}.")
        sides.append([text if text and text.strip() else None for text in table[name].to_pylist()])
    return sides[0] if len(sides) == 1 else [None if None in pair else pair for pair in zip(*sides, strict=True)]


def _classify(
    texts: list[Any], source: str, batch_size: int, threshold: float | None, freeze: bool, show_progress: bool
) -> tuple[list[Prediction], int]:
    """Predictions, empty ones for missing texts, and how many texts were truncated."""
    model = load_for_inference(source)
    if threshold is not None and problem_of_model(model.config) != MULTI:
        raise UserError("--threshold works only for models of several labels a text: leave it out.")
    tokenizer = load_classifier_tokenizer(source, model)
    filled = [text for text in texts if text is not None]
    if not filled:
        return [Prediction()] * len(texts), 0
    warn_of_pairs(source, filled)
    model = freeze_if_possible(model, tokenizer, isinstance(filled[0], tuple)) if freeze else model
    is_committee = model.config.model_type in COMMITTEES
    logits, truncated = predict_logits(model, tokenizer, filled, batch_size, show_progress, member_logits=is_committee)
    answers = iter(_describe(logits, model.config, threshold))
    return [Prediction() if text is None else next(answers) for text in texts], truncated


def _describe(logits: np.ndarray, config: PreTrainedConfig, threshold: float | None) -> list[Prediction]:
    """Predictions of logits (texts, classes), of a committee (texts, members, classes), as `problem_type` says."""
    names, problem_type = [config.id2label[index] for index in range(config.num_labels)], problem_of_model(config)
    doubts: dict[str, list[float]] = {}
    if config.model_type in COMMITTEES:
        members = torch.from_numpy(logits)
        doubts = {name: each.tolist() for name, each in uncertainty(members, problem_type).items()}
        logits = combine(members, config.combination, config.temperature, problem_type).numpy()
    logits = logits.astype("float64")
    values = logits
    if problem_type != REGRESSION:
        values = expit(logits) if problem_type == MULTI else softmax(logits, axis=-1)
    least = getattr(config, "threshold", 0.5) if threshold is None else threshold
    answers = []
    for index, row in enumerate(values):
        by_name = {name: _rounded(value) for name, value in zip(names, row, strict=True)}
        best = names[logits[index].argmax()]
        doubt: Json = {name: _rounded(doubts[name][index]) for name in UNCERTAINTY if name in doubts}
        if problem_type == REGRESSION:
            answers.append(Prediction(value=by_name[names[0]] if len(names) == 1 else by_name, **doubt))
        elif problem_type == MULTI:
            chosen = [name for name, value in zip(names, row, strict=True) if value >= least]
            answers.append(Prediction(labels=chosen, probabilities=by_name, **doubt))
        else:
            answers.append(Prediction(best, by_name[best], probabilities=by_name, **doubt))
    return answers


def _rounded(value: float) -> float:
    """To six digits, whatever the size."""
    return float(f"{value:.6g}")


def _read_input(arguments: PredictArguments) -> tuple[pa.Table, str, Callable[[int], str]]:
    """All rows (with their file or split, of several), their column of text, and what says where a row is."""
    if arguments.input is None:
        return pa.table({"text": arguments.texts}), "text", lambda row: f"text {row + 1}"
    path, files = Path(arguments.input).expanduser(), {arguments.input: arguments.input}
    is_folder = path.is_dir() and not (path / "README.md").is_file()  # a card says which files are which split
    if is_folder:
        files = {str(file.relative_to(path)): str(file) for file in tables_in(path)}
    sources = {name: read_source(file, written=arguments) for name, file in files.items()}
    if not sources:
        raise UserError(f"{path} holds no table and no text file: name a file, or a folder with one.")
    parts = [(name, source, split) for name, source in sources.items() for split in source.splits]
    columns = [column for _, source, split in parts for column in source.splits[split].column_names]
    title, tables = _free_name("file" if is_folder else "split", columns), []
    features = parts[0][1].splits[parts[0][2]].features
    text_column = arguments.text_column or find_text(features, "label", arguments.text_pair_column)
    for name, source, split in parts:
        check_column(source.splits[split], text_column, name, "--text-column")
        table = source.splits[split].with_format("arrow")[:]
        if len(parts) > 1:
            table = table.append_column(title, pa.array([name if is_folder else split] * len(table)))
        tables.append(table.replace_schema_metadata(None))
    with refusing(f"The tables of {arguments.input!r} differ in their columns", "name one", pa.ArrowException):
        whole = pa.concat_tables(tables, promote_options="default")
    starts = np.cumsum([0, *map(len, tables)])

    def place(row: int) -> str:
        part = int(np.searchsorted(starts, row, "right")) - 1
        return parts[part][1].place(parts[part][2], row - int(starts[part]))

    return whole, text_column, place


def _free_name(name: str, used: Sequence[str]) -> str:
    return _free_name(f"predicted_{name}", used) if name in used else name


def _add_columns(table: pa.Table, predictions: list[Prediction]) -> pa.Table:
    """The table with a column for everything that the predictions say."""
    records: list[dict[str, Any]] = []
    for prediction in predictions:
        record = asdict(prediction)
        record |= {f"p({name})": value for name, value in (record.pop("probabilities") or {}).items()}
        if isinstance(record["value"], dict):
            record |= {f"value({name})": value for name, value in record.pop("value").items()}
        if record["labels"] is not None:
            record["labels"] = "|".join(record["labels"])  # as tables of labels are read
        records.append(record)
    for name in max(records, key=len, default={}):
        values = [record.get(name) for record in records]
        if any(value is not None for value in values):
            title = _free_name(name, table.column_names)
            if title != name:
                logger.warning("The input has a column %r: the predicted one is %r.", name, title)
            table = table.append_column(title, pa.array(values))
    return table


def _write(table: pa.Table, target: Path) -> None:
    """Write the file whole or not at all, in the format that its name ends in."""
    write = partial(json.dumps, ensure_ascii=False, default=str)
    with replacing(target) as draft:
        if target.suffix == ".parquet":
            pq.write_table(table, draft)
            return
        rows = table.to_pylist()
        with draft.open("w", encoding="utf-8", newline="") as file:
            if target.suffix == ".csv":
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(table.column_names)
                for row in rows:
                    writer.writerow(write(cell) if isinstance(cell, list | dict) else cell for cell in row.values())
            else:
                rows = _finite(rows)
                file.write(write(rows) if target.suffix == ".json" else "".join(f"{write(row)}\n" for row in rows))


def _finite(value: Any) -> Any:
    """The value with None for NaN and infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
