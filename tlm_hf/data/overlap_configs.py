"""Overlap-controlled subsets as configurations of a data set (`data.dataset_folder` writes them): TASK-high and so on.

Each has the subset as `train`, in seeded order, and the corpus' held-out texts as `validation`, the same in all of
them; so `load_corpus(folder, config="fewrel-high")` trains on exactly the subset, and the losses of all are comparable.
"""

import logging
import re
from pathlib import Path
from typing import Any

import datasets

from .leakage import check_splits
from .overlap_subsets import KINDS
from .subsets import ID, describe_split, facts_of

logger = logging.getLogger(__name__)

KIND = "overlap"
"""Kind of data set, beside `corpus` and `task`: see `prepare.Prepared`."""
SOURCE_FACTS = ("source", "config", "revision", "unit")
"""Facts of the corpus that each subset repeats as its own."""


def task_stem(name: str) -> str:
    """What a task's configurations are named after: its name, or that of its file or data set without folders.

    Anything else than letters, digits, dots and dashes becomes a dash, since configurations are folders and stand in
    commands; empty where nothing is left.
    """
    return re.sub(r"[^\w.-]+", "-", Path(name).stem).strip("-.")


def overlap_configs(
    name: str,
    subsets: datasets.DatasetDict,
    corpus: datasets.DatasetDict,
    task_test: datasets.Dataset,
    measures: dict[str, Any],
    **facts: Any,
) -> tuple[dict[str, datasets.DatasetDict], dict[str, list[dict[str, Any]]]]:
    """The configurations of one task.

    Args:
        name: the task, as it was given.
        subsets: `high`, `random`, `low` (see `overlap_subsets.subset_splits`).
        corpus: the splits that they were chosen from, `train` and `validation`.
        task_test: the task's test split; like the held-out texts it is looked up among the training texts.
        measures: by kind, on the task's `train` and `test`, what `overlap.measure_overlap` gives; the card shows them.
        **facts: what else to keep with each subset, such as `tokenizer`.

    Returns:
        By configuration the splits, and by configuration the leakage reports, as in `prepare.Prepared`.
    """
    whole = facts_of(corpus["train"])
    validation = corpus["validation"].select_columns(["text", ID])
    validation = describe_split(validation, **facts_of(corpus["validation"]))
    held_out = {"validation": validation, f"{task_stem(name)} test": task_test}
    configs, leakage = {}, {}
    for kind in KINDS:
        config = f"{task_stem(name)}-{kind}"
        found = {**facts_of(subsets[kind]), **{key: whole[key] for key in SOURCE_FACTS if key in whole}}
        train = describe_split(subsets[kind], **{**found, "corpus": whole, "measures": measures[kind], **facts})
        configs[config] = datasets.DatasetDict(train=train, validation=validation)
        leakage[config] = [
            {"between": ["train", other], **check_splits(train, texts)[1]} for other, texts in held_out.items()
        ]
        for check in leakage[config]:
            counts = check["training"]
            if counts["exact"] + counts["near"]:
                logger.warning(
                    "%s: of %s texts %s stand in %s, word for word or nearly so (see its card)",
                    config, counts["rows"], counts["exact"] + counts["near"], check["between"][1],
                )  # fmt: skip
    return configs, leakage
