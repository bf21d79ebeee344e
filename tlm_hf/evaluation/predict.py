"""Labels and probabilities for texts or for a table of texts."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
from scipy.special import softmax

from ..data.sources import check_column, read_table
from ..errors import UserError, check_range
from ..loading import load_classifier, load_classifier_tokenizer
from .scoring import predict_logits

WRITERS = (".csv", ".json", ".jsonl", ".parquet")
DIGITS = 6


@dataclass
class PredictArguments:
    """Options of `tlm predict`."""

    model: str = field(default="", metadata={"help": "Classifier or committee: folder or Hub name."})
    texts: list[str] = field(default_factory=list, metadata={"help": "Texts to classify."})
    input: str | None = field(default=None, metadata={"help": "CSV, JSON, parquet or text file, in place of --texts."})
    text_column: str = field(default="text", metadata={"help": "Column of --input that holds the text."})
    output: str | None = field(default=None, metadata={"help": "File to write: .csv, .json, .jsonl or .parquet."})
    batch_size: int = field(default=64, metadata={"help": "Texts per pass."})
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bar (for logs)."})


def predict(arguments: PredictArguments) -> dict[str, Any]:
    """Classify texts, or the rows of a file.

    Args:
        arguments: the options.

    Returns:
        Without `--output`: `predictions`, per text its `label`, its `probability` and the `probabilities` by label.
        With it: the file, which holds the input's columns, `label` (or `predicted_label` where the input has one) and
        one `p(...)` column per class. Both say how many texts were `truncated`.

    Raises:
        UserError: bad input, before any text is classified.
    """
    if not arguments.model:
        raise UserError("predict needs --model (a classifier or committee).")
    if bool(arguments.texts) == bool(arguments.input):
        raise UserError("predict needs either --texts or --input.")
    check_range(arguments, 1, math.inf, "batch_size")
    target = None if arguments.output is None else Path(arguments.output).expanduser()
    if target is not None and target.suffix not in WRITERS:
        raise UserError(f"--output {target} ends in {target.suffix!r}; known are {', '.join(WRITERS)}.")
    if target is not None and not target.resolve().parent.is_dir():
        raise UserError(f"The folder of --output {target} does not exist: make it first.")
    if target is not None and arguments.input and target.resolve() == Path(arguments.input).expanduser().resolve():
        raise UserError(f"--output {target} is the input itself: name another file, so that nothing is lost.")
    table = _read_input(arguments)
    texts = table[arguments.text_column].to_list()
    culprit = next((row for row, text in enumerate(texts) if not isinstance(text, str)), None)
    if culprit is not None:
        raise UserError(
            f"Row {culprit} of {arguments.input!r} has no text in {arguments.text_column!r}: fill or drop it."
        )
    model = load_classifier(arguments.model)
    tokenizer = load_classifier_tokenizer(arguments.model, model)
    logits, truncated = predict_logits(model, tokenizer, texts, arguments.batch_size, not arguments.disable_tqdm)
    probabilities = softmax(logits.astype("float64"), axis=-1)
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    chosen = [labels[index] for index in probabilities.argmax(axis=-1)]
    said = {"texts": len(texts), "truncated": truncated}
    if target is None:
        predictions = [
            {
                "text": text,
                "label": label,
                "probability": round(float(row.max()), DIGITS),
                "probabilities": {name: round(float(value), DIGITS) for name, value in zip(labels, row, strict=True)},
            }
            for text, label, row in zip(texts, chosen, probabilities, strict=True)
        ]
        return {"predictions": predictions, **said}
    table["predicted_label" if "label" in table.columns else "label"] = chosen
    for index, name in enumerate(labels):
        table[f"p({name})"] = probabilities[:, index].round(DIGITS)
    _write(table, target)
    return {"output": str(target), **said}


def _read_input(arguments: PredictArguments) -> pd.DataFrame:
    if arguments.input is None:
        return pd.DataFrame({arguments.text_column: arguments.texts})
    loaded: datasets.DatasetDict = read_table(arguments.input)
    split = next(iter(loaded.values()))
    check_column(split, arguments.text_column, arguments.input, "--text-column")
    path = Path(arguments.input).expanduser()
    if path.suffix not in (".csv", ".tsv") or not path.is_file():
        return split.to_pandas()
    # As text, cell by cell: what the user has in other columns (02134, NA, 3) comes back as it was.
    table = pd.read_csv(path, dtype=str, keep_default_na=False, sep="\t" if path.suffix == ".tsv" else ",")
    table[arguments.text_column] = [text or None for text in table[arguments.text_column]]
    return table


def _write(table: pd.DataFrame, target: Path) -> None:
    """Write to a temporary name and rename, so that a file is whole or absent."""
    temporary = target.with_name(f".{target.name}.tmp")
    if target.suffix == ".csv":
        table.to_csv(temporary, index=False)
    elif target.suffix == ".parquet":
        table.to_parquet(temporary, index=False)
    else:
        table.to_json(temporary, orient="records", lines=target.suffix == ".jsonl", force_ascii=False)
    temporary.replace(target)
