"""Options of `tlm train-committee`, apart from the code, so that `--help` need not import torch."""

from dataclasses import dataclass

from ..data.task_options import TableFormat
from ..option_fields import option

MEMBERS, OF_NONE = "members", "pre-training, with --encoder none"  # headings of `--help`


@dataclass
class OwnDataArguments(TableFormat):
    """Options of `tlm train-committee`."""

    data: str = option("", "CSV, JSON, parquet file or folder, or a Hub data set.")
    num_members: int = option(3, "Members of the committee.", group=MEMBERS)
    encoder: list[str] = option(
        list,
        "Encoders to start from, reused in turn (default: those that the package carries); none: pre-train on the "
        "table's own texts, for other languages than English.",
        group=MEMBERS,
    )
    num_train_epochs: float | None = option(None, "Passes of fine-tuning (default: by the rows).", group=MEMBERS)
    learning_rate: float | None = option(None, "Peak learning rate (default: by the number of rows).", group=MEMBERS)
    class_weights: str | None = option(None, "balanced: rare classes count more.", choices=["balanced"], group=MEMBERS)
    max_length: int | None = option(
        None,
        "Tokens of a text (default: the encoder's, and 512 for the table of words; with none: of 95%% of the texts, up "
        "to 512).",
        group=MEMBERS,
    )
    seed: int = option(0, "Seed of the split and of the members.", group=MEMBERS)
    keep_validation: bool = option(
        False, "Nothing trains on validation rows, which are of their own kind, such as later dates.", group=MEMBERS
    )
    corpus: str | None = option(None, "More text, such as docstrings, wikipedia or a file.", group=OF_NONE)
    size: str = option("quickstart", "smoke, quickstart, laptop or paper.", group=OF_NONE)
    pretrain_steps: int = option(3000, "Optimizer steps, 32 texts each.", group=OF_NONE)
    cased: bool = option(False, "The tokenizer keeps capital letters.", group=OF_NONE)
    keep_accents: bool | None = option(
        None, "It keeps accents, vowel signs; default: unless English-like.", group=OF_NONE
    )
    output_dir: str = option("", "Output folder (default: outputs/NAME-committee).", group="output")
    time_budget: str | None = option(None, "Such as 2m or 1h: fewer passes or members, to end in time.", group="output")
    workers: int = option(2, "Members trained side by side, one core each.", group="output")


GROUPS = (OwnDataArguments,)
