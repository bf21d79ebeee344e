"""What the Space shows: a folder with `demo.json`, in it for each task the scores of all committees of its members.

The Space (`spaces/tlm-demo`) needs nothing of this package but these files and the models that they name.
"""

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import datasets
import numpy as np
from scipy.special import log_softmax, logsumexp

from ..data.overlap import count_tokens, encode_texts
from ..data.tasks import class_names
from ..data.tokenization import load_tokenizer
from ..errors import UserError
from ..evaluation.calibration import choose_temperature, expected_calibration_error
from ..evaluation.metrics import classification_metrics
from ..evaluation.scoring import predict_logits
from ..loading import load_classifier
from ..models.joining_committee import in_label_order
from ..runs.atomic_files import Json, whole_folder, write_json
from ..runs.provenance import provenance

DEMO_FILE, COUNTS_FILE, STUDY_FILE = "demo.json", "corpus_counts.npz", "study.json"
SPLITS = ("validation", "test")
MOST_MEMBERS = 8
"""Of a committee all of whose parts are scored."""
EXAMPLES = {
    "docstrings": [
        "Returns the eigenvalues and right eigenvectors of a square array.",
        "Draw a histogram of the values, with the given number of bins, on these axes.",
    ],
    "ag_news": [
        "The central bank left its interest rate unchanged and said that inflation would fall next year.",
        "The striker scored twice in the last ten minutes and took his team to the final.",
    ],
    "dbpedia_14": [
        "The church was built of red brick in 1887 and stands by the market square.",
        "A small freshwater fish that lives in slow rivers and feeds on insects.",
    ],
    "fewrel": [
        "The bridge crosses the river some miles below the old town.",
        "Her younger brother became king after the war.",
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
        tasks: at least one.
        encoders: for filling masks, by name; the first one's tokenizer counts tokens.
        corpus_name: what they were pre-trained on.
        corpus: its texts.
        study: `rows.json` of a study's report, for the findings.

    Raises:
        UserError: a model folder that is missing or broken, or a committee of too many members.
    """
    tokenizer = load_tokenizer(str(next(iter(encoders.values()))))

    def relative(folder: Path) -> str:
        return Path(os.path.relpath(folder.resolve(), destination.resolve())).as_posix()

    with whole_folder(destination) as folder:
        described = []
        for task in tasks:
            models = {"committee": relative(task.committee), "deep": task.deep and relative(task.deep)}
            described.append({"name": task.name, "title": task.title, **models, **describe(task)})
        counts = count_tokens(encode_texts(list(corpus), tokenizer, tokenizer.model_max_length))
        np.savez_compressed(folder / COUNTS_FILE, counts=counts)
        if study is not None:
            shutil.copyfile(study, folder / STUDY_FILE)
        demo = {
            "tasks": described,
            "encoders": {name: relative(encoder) for name, encoder in encoders.items()},
            "corpus": {"name": corpus_name, "counts": COUNTS_FILE},
            "study": None if study is None else STUDY_FILE,
            "made_by": provenance(),
        }
        write_json(folder / DEMO_FILE, demo)
    return destination


def describe(task: DemoTask) -> Json:
    """Examples, and the scores of each committee of the task's members (`0 2` has two) and of the `deep` encoder."""
    committee, tokenizer = load_classifier(str(task.committee)), load_tokenizer(str(task.committee))
    members = range(committee.config.num_members)
    if len(members) > MOST_MEMBERS:
        raise UserError(f"The committee {task.committee} has {len(members)} members: show at most {MOST_MEMBERS}.")
    texts = {split: task.splits[split]["text"][:] for split in SPLITS}
    labels = {split: np.array(task.splits[split]["label"][:]) for split in SPLITS}
    logs: dict[str, np.ndarray] = {}
    for split in SPLITS:
        logits, _ = predict_logits(committee, tokenizer, texts[split], member_logits=True)
        logs[split] = log_softmax(logits.astype(float), axis=-1)
    models: dict[str, dict[str, np.ndarray]] = {}
    for count in range(1, len(members) + 1):
        for chosen in map(list, combinations(members, count)):
            models[" ".join(map(str, chosen))] = {split: logsumexp(logs[split][:, chosen], axis=1) for split in SPLITS}
    if task.deep is not None:  # in the order of the task's labels, matched by name
        own = in_label_order(load_classifier(str(task.deep)), dict(enumerate(class_names(task.splits))))
        reader = load_tokenizer(str(task.deep))
        models["deep"] = {split: predict_logits(own, reader, texts[split])[0] for split in SPLITS}
    return {
        "members": [f"member {place}" for place in members],
        "test_texts": len(labels["test"]),
        "scores": {name: calibrated_scores(logits, labels) for name, logits in models.items()},
        "examples": EXAMPLES.get(task.name, []),
    }


def calibrated_scores(logits: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> dict[str, float]:
    """Scores on test texts with the temperature that validation texts determine, and that temperature."""
    temperature = choose_temperature(logits["validation"], labels["validation"]).value
    scaled = logits["test"] / temperature
    scores = classification_metrics(scaled, labels["test"])
    calibration_error = expected_calibration_error(scaled, labels["test"])
    return {**scores, "calibration_error": calibration_error, "temperature": temperature}
