"""What the Space shows: a folder with `demo.json` and, for each task, the answers of the committee's members.

The Space (`spaces/tlm-demo`) needs nothing of this package but these files and the models that they name.
"""

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np

from ..data.overlap import count_tokens, encode_texts
from ..data.tasks import class_names
from ..data.tokenization import load_tokenizer
from ..evaluation.scoring import pack_logits, predict_logits
from ..loading import load_classifier
from ..models.joining_committee import in_label_order
from ..runs.atomic_files import Json, whole_folder, write_json
from ..runs.provenance import provenance

DEMO_FILE, COUNTS_FILE, STUDY_FILE = "demo.json", "corpus_counts.npz", "study.json"
SPLITS = ("validation", "test")
EXAMPLES = {
    "docstrings": [
        "Returns the eigenvalues and right eigenvectors of a square array.",
        "Draw a histogram of the values, with the given number of bins, on these axes.",
        "Fit the classifier to the training samples and return the estimator itself.",
        "Download the model from the hub, or take it from the cache.",
    ],
    "ag_news": [
        "The central bank left its interest rate unchanged and said that inflation would fall next year.",
        "The striker scored twice in the last ten minutes and took his team to the final.",
        "Astronomers have found a planet the size of Earth around a nearby star.",
        "Voters went to the polls on Sunday after weeks of talks between the two parties had failed.",
    ],
    "dbpedia_14": [
        "The church was built of red brick in 1887 and stands by the market square.",
        "A small freshwater fish that lives in slow rivers and feeds on insects.",
        "He played as a goalkeeper for two clubs before he became a coach.",
        "The novel tells of three sisters who inherit a lighthouse.",
    ],
    "fewrel": [
        "The bridge crosses the river some miles below the old town.",
        "Her younger brother became king after the war.",
        "The opera was composed in Vienna and first played in 1791.",
        "The company makes engines for small aircraft.",
    ],
}
"""Sentences of our own: texts of the data sets are not published again."""


@dataclass(frozen=True)
class DemoTask:
    """One task of the demonstration, `name` as in `load_task`; `deep` is the deep classifier beside the committee."""

    name: str
    title: str
    committee: Path
    deep: Path | None
    splits: datasets.DatasetDict


def stage_demo(
    destination: Path,
    tasks: Sequence[DemoTask],
    encoders: dict[str, Path],
    corpus_name: str,
    corpus: Iterable[str],
    study: Path | None = None,
) -> Path:
    """Make the folder, whole or not at all; an older one of the same name is replaced.

    Args:
        destination: the folder.
        tasks: what can be classified, at least one.
        encoders: by what people read, for filling masks; the first one's tokenizer counts tokens.
        corpus_name: what the encoders were pre-trained on, in words.
        corpus: its texts.
        study: `rows.json` of a study's report, for the findings; None for none.

    Raises:
        UserError: a model folder that is missing or broken.
    """
    tokenizer, texts = load_tokenizer(str(next(iter(encoders.values())))), list(corpus)
    with whole_folder(destination) as folder:
        described = [_describe(task, folder, destination) for task in tasks]
        counts = count_tokens(encode_texts(texts, tokenizer, tokenizer.model_max_length))
        np.savez_compressed(folder / COUNTS_FILE, counts=counts)
        if study is not None:
            shutil.copyfile(study, folder / STUDY_FILE)
        demo = {
            "tasks": described,
            "encoders": {name: _relative(encoder, destination) for name, encoder in encoders.items()},
            "corpus": {"name": corpus_name, "texts": len(texts), "counts": COUNTS_FILE},
            "study": None if study is None else STUDY_FILE,
            "made_by": provenance(),
        }
        write_json(folder / DEMO_FILE, demo)
    return destination


def _relative(folder: Path, destination: Path) -> str:
    return Path(os.path.relpath(folder.resolve(), destination.resolve())).as_posix()


def _describe(task: DemoTask, folder: Path, destination: Path) -> Json:
    """The task's entry, after the answers of its models were written beside it."""
    committee, tokenizer = load_classifier(str(task.committee)), load_tokenizer(str(task.committee))
    deep = None
    if task.deep is not None:  # in the order of the task's labels, matched by name
        own = in_label_order(load_classifier(str(task.deep)), dict(enumerate(class_names(task.splits))))
        deep = own, load_tokenizer(str(task.deep))
    answers: dict[str, np.ndarray] = {}
    for split in SPLITS:
        texts = task.splits[split]["text"][:]
        answers[split] = pack_logits(predict_logits(committee, tokenizer, texts, member_logits=True)[0])
        if deep is not None:
            answers[f"{split}_deep"] = pack_logits(predict_logits(*deep, texts)[0])
        answers[f"{split}_labels"] = np.array(task.splits[split]["label"][:], dtype=np.uint16)
    file = f"{task.name}.npz"
    np.savez_compressed(folder / file, allow_pickle=False, **answers)
    return {
        "name": task.name,
        "title": task.title,
        "labels": class_names(task.splits),
        "committee": _relative(task.committee, destination),
        "deep": None if task.deep is None else _relative(task.deep, destination),
        "members": [f"member {place}" for place in range(committee.config.num_members)],
        "answers": file,
        "examples": EXAMPLES.get(task.name, []),
    }
