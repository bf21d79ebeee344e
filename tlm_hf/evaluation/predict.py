"""Labels, probabilities and a committee's uncertainty for texts, a data set or a file."""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import datasets
import pandas as pd
import torch
from scipy.special import softmax

from ..data.sources import check_column, read_table
from ..errors import UserError, check_range
from ..loading import load_classifier, load_classifier_tokenizer
from ..models.combination_committee import CommitteeOutput, combine
from ..models.modeling_committee import CommitteeForSequenceClassification
from ..runs.atomic_files import Json
from .scoring import predict_logits

logger = logging.getLogger(__name__)
WRITERS = (".csv", ".json", ".jsonl", ".parquet")
DIGITS = 6
UNCERTAINTY = ("entropy", "mutual_information", "agreement")


@dataclass(frozen=True)
class Prediction:
    """What a classifier or committee says of one text; the last three are None unless it is a committee.

    Args:
        label: the most probable class, of this `probability`.
        probabilities: those of all classes, by name.
        entropy: of the members' mean probability, in nats.
        mutual_information: the part of the entropy that the members' disagreement makes, in nats.
        agreement: the largest share of members that prefer one class.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    entropy: float | None = None
    mutual_information: float | None = None
    agreement: float | None = None


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


def predict(
    texts: Sequence[str] | datasets.Dataset, model: str, *, text_column: str = "text", batch_size: int = 64
) -> list[Prediction]:
    """Classify n texts, or a data set of n rows, by a classifier or committee (folder or Hub name).

    Returns:
        n predictions, in the order of the texts. Texts longer than the model are truncated, with a warning.

    Raises:
        UserError: one text in place of a list, no such column, a row without text, or a model that cannot classify.
    """
    if isinstance(texts, str):
        raise UserError("predict takes a list of texts: put the text into brackets.")
    if isinstance(texts, datasets.Dataset):
        check_column(texts, text_column, "The data set", "text_column")
        texts = texts[text_column][:]
    predictions, truncated = _classify(list(texts), model, "texts", batch_size, show_progress=False)
    if truncated:
        logger.warning("%d of %d texts are longer than the model and were truncated.", truncated, len(predictions))
    return predictions


def predict_command(arguments: PredictArguments) -> Json:
    """Classify texts, or the rows of a file.

    Returns:
        Without `--output`: `predictions`, per text its fields of `Prediction`. With it: the file, which holds the
        input's columns, `label`, `probability`, a committee's uncertainty and one `p(...)` column per class
        (`predicted_...` where the input has such a column). Both say how many texts were `truncated`.

    Raises:
        UserError: bad input, before any text is classified.
    """
    if not arguments.model:
        raise UserError("predict needs --model (a classifier or committee).")
    if bool(arguments.texts) == bool(arguments.input):
        raise UserError("predict needs either --texts or --input.")
    check_range(arguments, 1, math.inf, "batch_size")
    target = None if arguments.output is None else _check_output(Path(arguments.output).expanduser(), arguments.input)
    table = _read_input(arguments)
    texts = table[arguments.text_column].to_list()
    predictions, truncated = _classify(
        texts, arguments.model, repr(arguments.input), arguments.batch_size, not arguments.disable_tqdm
    )
    counts = {"texts": len(texts), "truncated": truncated}
    records = [
        {name: value for name, value in asdict(prediction).items() if value is not None} for prediction in predictions
    ]
    if target is None:
        return {
            "predictions": [{"text": text, **record} for text, record in zip(texts, records, strict=True)],
            **counts,
        }
    for record in records:
        record |= {f"p({name})": value for name, value in record.pop("probabilities").items()}
    for name, column in pd.DataFrame(records, index=table.index).items():
        table[f"predicted_{name}" if name in table.columns else name] = column
    _write(table, target)
    return {"output": str(target), **counts}


def _classify(
    texts: list[str], source: str, culprit: str, batch_size: int, show_progress: bool
) -> tuple[list[Prediction], int]:
    """Predictions, and how many texts were truncated; `culprit` names the texts in a message."""
    empty = next((row for row, text in enumerate(texts) if not isinstance(text, str)), None)
    if empty is not None:
        raise UserError(f"Row {empty} of {culprit} has no text: fill or drop it.")
    model = load_classifier(source)
    tokenizer = load_classifier_tokenizer(source, model)
    is_committee = isinstance(model, CommitteeForSequenceClassification)
    logits, truncated = predict_logits(model, tokenizer, texts, batch_size, show_progress, member_logits=is_committee)
    uncertainty = {}
    if is_committee:
        member_logits = torch.from_numpy(logits)
        output = CommitteeOutput(member_logits=member_logits)
        uncertainty = {name: output.uncertainty[name].tolist() for name in UNCERTAINTY}
        config = model.config
        logits = combine(member_logits, config.combination, temperature=config.temperature).numpy()
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    predictions = []
    for row, probabilities in enumerate(softmax(logits.astype("float64"), axis=-1)):
        by_label = {name: round(float(value), DIGITS) for name, value in zip(labels, probabilities, strict=True)}
        label = labels[probabilities.argmax()]
        doubt = {name: round(values[row], DIGITS) for name, values in uncertainty.items()}
        predictions.append(Prediction(label, by_label[label], by_label, **doubt))
    return predictions, truncated


def _check_output(target: Path, source: str | None) -> Path:
    if target.suffix not in WRITERS:
        raise UserError(f"--output {target} ends in {target.suffix!r}; known are {', '.join(WRITERS)}.")
    if not target.resolve().parent.is_dir():
        raise UserError(f"The folder of --output {target} does not exist: make it first.")
    if source and target.resolve() == Path(source).expanduser().resolve():
        raise UserError(f"--output {target} is the input itself: name another file.")
    return target


def _read_input(arguments: PredictArguments) -> pd.DataFrame:
    if arguments.input is None:
        return pd.DataFrame({arguments.text_column: arguments.texts})
    split = next(iter(read_table(arguments.input).values()))
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
