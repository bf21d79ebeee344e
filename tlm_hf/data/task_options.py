"""Options that choose a task and say how its table is written."""

from dataclasses import dataclass

from ..errors import UserError, refusing
from ..option_fields import option

TABLE_OPTIONS = ("encoding", "quoting", "drop_rare_classes", "merge_rare_classes", "problem_type", "text_pair_column")
TEXT_OPTIONS = ("entity_markers", "shortfall", "drop_leakage", *TABLE_OPTIONS)
"""Options that are not among a run's settings, since they count by the texts that they choose."""
PROBLEM_HELP = "single (a class), multi (several: a|b or lists), regression (a number); default: single, or lists."
QUOTING = ("auto", "csv", "none")


@dataclass(kw_only=True)
class TextFormat:
    """How files of text are written; raises UserError for what does not exist."""

    encoding: str | None = option(None, "Encoding of CSV, TSV, JSON and text files, such as cp1252 (default: UTF-8).")
    quoting: str = option(
        "auto",
        "Quotation marks in CSV and TSV: csv (around cells), none (text), or auto (csv; TSV cells of one line).",
        choices=list(QUOTING),
    )

    def __post_init__(self) -> None:
        if self.quoting not in QUOTING:
            raise UserError(f"--quoting is {self.quoting!r}: choose {', '.join(QUOTING)}.")
        with refusing(f"--encoding {self.encoding} is unknown", "give one such as cp1252", LookupError, ValueError):
            "".encode(self.encoding or "utf-8")


PLAIN = TextFormat()  # UTF-8 (or UTF-16 with a byte-order mark), with quotation marks as usual


@dataclass(kw_only=True)
class TableFormat(TextFormat):
    """How a table of texts and labels is read."""

    _argument_group_name = "data"

    text_column: str | None = option(None, "Column of the text (default: the task's, or text).")
    text_pair_column: str | None = option(None, "Column of the second text, where rows are pairs of texts.")
    label_column: str = option("label", "Column of the label.")
    problem_type: str | None = option(None, PROBLEM_HELP, choices=["single", "multi", "regression"])
    drop_rare_classes: int = option(0, "Drop classes with fewer rows than this.")
    merge_rare_classes: int = option(0, "Merge classes with fewer rows than this into one, other.")


@dataclass
class TaskArguments(TableFormat):
    """Options that choose a task; shared by every command that takes one."""

    task: str = option(
        "docstrings", "docstrings, ag_news, dbpedia_14, fewrel, a file, folder or Hub data set.", alias="dataset_name"
    )
    entity_markers: str = option("none", "For fewrel: none, or text ([E1] ... around the entities).")
    task_path: str | None = option(None, "Where ag_news, dbpedia_14 or fewrel is (default: data root, then the Hub).")
    task_config: str | None = option(None, "Configuration of a Hub data set.")
    task_revision: str | None = option(None, "Revision of a Hub data set.")
    train_per_label: int | None = option(None, "Training texts of each class (default: the paper's, or all).")
    validation_per_label: int | None = option(None, "Validation texts of each class.")
    test_per_label: int | None = option(None, "Test texts of each class (default: the paper's, or all).")
    shortfall: str = option("error", "When a class has fewer texts than asked for: error, or take all it has.")
    drop_leakage: bool = option(False, "Leave out and count training and validation texts that repeat held-out ones.")
    task_seed: int = option(0, "Seed of the choice of rows.")
    train_seed: int | None = option(None, "Seed of the choice of training rows among those not held out (--task-seed).")
    data_root: str | None = option(None, "Folder of real text; default: $TLM_DATA.")
