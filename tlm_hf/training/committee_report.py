"""What `tlm train-committee` tells its user: scores with intervals, the better model, doubtful rows, what is next."""

from collections.abc import Sequence

import datasets
import numpy as np
from scipy.special import log_softmax

from ..data.tasks import class_names
from ..evaluation.intervals import Interval, accuracy_difference, score_predictions
from ..evaluation.metrics import class_table
from ..runs.atomic_files import Json

COMMITTEE, LINEAR, MAJORITY = "committee", "TF-IDF + linear model", "majority class"
ROWS = 5
"""Doubtful rows that are shown."""
WIDTH = 88
"""Letters that are shown of a text."""


def compare(
    task: datasets.DatasetDict, committee: np.ndarray, members: np.ndarray, linear: np.ndarray
) -> tuple[list[Json], Interval]:
    """Scores of all models on test as results.json has them, and the committee's accuracy less the linear model's.

    All from logits on test: `committee` and `linear` (texts, classes), `members` (texts, members, classes).
    """
    labels, names = np.array(task["test"]["label"][:]), class_names(task)
    most = np.bincount(task["train"]["label"][:], minlength=len(names)).argmax()
    predicted = {
        COMMITTEE: committee.argmax(-1),
        **{f"member {index}": each.argmax(-1) for index, each in enumerate(members.swapaxes(0, 1))},
        LINEAR: linear.argmax(-1),
        MAJORITY: np.full(len(labels), most),
    }
    scores = []
    for name, each in predicted.items():
        accuracy, macro_f1 = score_predictions(each, labels, len(names))
        scores.append({"model": name, "accuracy": vars(accuracy), "macro_f1": vars(macro_f1)})
    return scores, accuracy_difference(predicted[COMMITTEE], predicted[LINEAR], labels)


def recommend(difference: Interval) -> str:
    """Which model to take, and how sure that is."""
    points = f"{100 * abs(difference.value):.1f} points of accuracy"
    interval = f"95% interval of the difference {100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
    if difference.low > 0:
        return f"Take the committee: it is {points} above TF-IDF + linear model ({interval})."
    if difference.high < 0:
        return f"Take the linear model (baseline.joblib): it is {points} above the committee ({interval})."
    side = "above" if difference.value >= 0 else "below"
    better = "the committee" if difference.value >= 0 else "the linear model (baseline.joblib)"
    return (
        f"Too close to call: the committee is {points} {side} TF-IDF + linear model ({interval}). On these rows "
        f"{better} is ahead; more labelled rows would tell."
    )


def doubtful_rows(test: datasets.Dataset, names: Sequence[str], logits: np.ndarray) -> dict[str, list[Json]]:
    """Test rows of the least certain logits (texts, classes), and wrong ones of the most certain."""
    logs = log_softmax(logits, axis=-1)
    entropy, best = -(np.exp(logs) * logs).sum(axis=-1), logs.max(axis=-1)
    labels, predicted = np.array(test["label"][:]), logits.argmax(axis=-1)
    wrong = np.flatnonzero(predicted != labels)
    chosen = {
        "most uncertain": np.argsort(-entropy, kind="stable")[: 2 * ROWS],
        "confidently wrong": wrong[np.argsort(-best[wrong], kind="stable")][: 2 * ROWS],
    }

    def describe(row: int) -> Json:
        shown = {"text": test[int(row)]["text"], "label": names[labels[row]], "predicted": names[predicted[row]]}
        return {**shown, "probability": float(np.exp(best[row]))}

    return {kind: [describe(row) for row in rows] for kind, rows in chosen.items()}


def write_report(results: Json, output: str, text_column: str | None) -> str:
    """What the command prints, as text."""
    column = f" --text-column {text_column}" if text_column not in (None, "text") else ""
    rows = results["rows"]
    width = max(len(row["model"]) for row in results["scores"])
    lines = [
        "",
        f"{sum(rows.values()):,} rows: {', '.join(f'{count:,} {split}' for split, count in rows.items())}; "
        f"{len(results['labels'])} classes. Scores are on the test rows, with 95% intervals.",
        "",
        f"{'model':<{width}}  accuracy               macro F1",
    ]
    for row in results["scores"]:
        lines.append(f"{row['model']:<{width}}  {Interval(**row['accuracy'])}   {Interval(**row['macro_f1'])}")
    lines += ["", class_table(results["classes"])]
    for kind, found in results["doubtful"].items():
        if found:
            lines += ["", f"Test rows, {kind}:"]
        for each in found[:ROWS]:
            text = " ".join(each["text"].split())[:WIDTH]
            lines.append(f"  {each['predicted']} {each['probability']:.2f} (labelled {each['label']}): {text}")
    *_, half, every = results["learning_curve"]
    points = ", ".join(f"{point['accuracy']:.3f} with {point['rows']:,}" for point in results["learning_curve"])
    lines += [
        "",
        f"Accuracy by training rows, of the committee's linear part alone: {points}. The second half brought "
        f"{100 * (every['accuracy'] - half['accuracy']):+.1f} points.",
        results["recommendation"],
        "",
        "What to do next:",
        f'  tlm predict --model {output} --texts "a new text"',
        f"  tlm predict --model {output} --input new.csv{column} --output labelled.csv",
        f"  python -c \"import joblib; print(joblib.load('{output}/baseline.joblib').predict(['a new text']))\"",
        f"{output}/frozen/ answers without torch. {output}/work/ may be deleted.",
    ]
    return "\n".join(lines)
