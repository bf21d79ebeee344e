"""What `tlm train-committee` tells its user: scores with intervals, the better model, doubtful rows, what is next.

One set of results becomes the text on the terminal, the model card and `report.html`.
"""

import base64
import shlex
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
from scipy.special import log_softmax

from ..cards import card_template
from ..data.tasks import class_names
from ..evaluation.intervals import Interval, accuracy_difference, score_predictions
from ..evaluation.metrics import class_table
from ..runs.atomic_files import Json

COMMITTEE, LINEAR, MAJORITY = "committee", "TF-IDF + linear model", "majority class"
LISTED, SHOWN = 10, 5
"""Doubtful rows in the results and on the terminal."""
WIDTH = 88
"""Letters of a text on the terminal."""
HELPFUL = 1.0
"""Points that the second half of the rows brings where more are recommended."""
BASELINE_FILE, PAGE_FILE = "baseline.joblib", "report.html"
CURVE_FILE = "learning_curve.png"
PLOTS = {
    CURVE_FILE: "Test score by training rows, of the committee's linear part alone",
    "reliability.png": "Calibration: how often answers of a probability are right",
}


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


def recommend(difference: Interval, scores: Sequence[Json], metric: str = "accuracy") -> str:
    """Which model to take, and how sure that is; the last of the scores is what needs no text."""
    of_model = {row["model"]: row[metric]["value"] for row in scores}
    trivial = scores[-1]["model"]
    if max(of_model[COMMITTEE], of_model[LINEAR]) <= of_model[trivial]:
        return f"Neither model is better than the {trivial}: give more labelled rows, or check the labels."
    metric = {"micro_f1": "micro F1", "r2": "R²"}.get(metric, metric)
    points = f"{100 * abs(difference.value):.1f} points of {metric}"
    interval = f"95% interval of the difference {100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
    if difference.low > 0:
        return f"Take the committee: it is {points} above TF-IDF + linear model ({interval})."
    if difference.high < 0:
        return f"Take the linear model (baseline.joblib): it is {points} above the committee ({interval})."
    if difference.value == 0:
        return f"Too close to call: committee and TF-IDF + linear model have the same {metric} ({interval})."
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
        "most uncertain": np.argsort(-entropy, kind="stable")[:LISTED],
        "confidently wrong": wrong[np.argsort(-best[wrong], kind="stable")][:LISTED],
    }

    def describe(row: int) -> Json:
        shown = {"text": test[int(row)]["text"], "label": names[labels[row]], "predicted": names[predicted[row]]}
        return {**shown, "probability": float(np.exp(best[row]))}

    return {kind: [describe(row) for row in rows] for kind, rows in chosen.items()}


def top_confusions(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> list[Json]:
    """The commonest wrong answers on test, from class ids (texts,): `label`, `predicted`, number of `texts`."""
    wrong = pd.DataFrame({"label": labels, "predicted": predicted})[labels != predicted]
    counts = wrong.value_counts(sort=False).sort_values(ascending=False, kind="stable").head(LISTED)
    return [
        {"label": names[label], "predicted": names[answer], "texts": int(count)}
        for (label, answer), count in counts.items()
    ]


def notes(results: Json) -> dict[str, list[str]]:
    """What terminal, card and page say of the results besides tables: sentences `about` the rows, and `advice`."""
    counts, facts, curve = results["rows"], results["text_facts"], results["learning_curve"]
    about = [
        f"{sum(counts.values()):,} rows: {', '.join(f'{count:,} {split}' for split, count in counts.items())}; "
        f"{results['kind']}. Scores are on the test rows, with 95% intervals: of other rows, not of "
        "other seeds."
    ]
    if facts["longer"]:
        about.append(
            f"{facts['longer']:,} texts are longer than {facts['max_length']} tokens and are cut "
            f"({facts['share_beyond']:.1%} of all tokens)."
        )
    if results["time_budget"] is not None:
        about.append(results["time_budget"])
    metric = list(curve[0])[-1]
    points = ", ".join(f"{point[metric]:.3f} with {point['rows']:,}" for point in curve)
    gain = 100 * (curve[-1][metric] - curve[-2][metric])
    more = "More labels would help." if gain > HELPFUL else "More labels of the same kind would help little."
    advice = [
        results["recommendation"],
        f"{metric.replace('_', ' ').capitalize()} by training rows, of the committee's linear part alone: {points}. "
        f"The second half brought {gain:+.1f} points. {more}",
    ]
    if results["frozen"] is not None:
        speed = results["frozen"]["latency"]
        busy = " (unreliable: other programs used this machine)" if speed["is_busy"] else ""
        advice.append(f"frozen/ answers one text in {speed['milliseconds']:.2f} ms{busy}.")
    return {"about": about, "advice": advice}


def next_commands(folder: str, text_column: str | None, text_pair_column: str | None = None) -> list[str]:
    """Commands that use the committee in a folder, and its linear model."""
    column = f" --text-column {shlex.quote(text_column)}" if text_column not in (None, "text") else ""
    column += f" --text-pair-column {shlex.quote(text_pair_column)}" if text_pair_column else ""
    example = "a text [SEP] its pair" if text_pair_column else "a new text"
    program = f"import joblib; print(joblib.load({f'{folder}/{BASELINE_FILE}'!r}).predict([{example!r}]))"
    folder = shlex.quote(folder)
    return [
        *([] if text_pair_column else [f'tlm predict --model {folder} --texts "a new text"']),
        f"tlm predict --model {folder} --input new.csv{column} --output labelled.csv",
        f'python -c "{program}"',
    ]


def write_report(results: Json, folder: str, commands: Sequence[str]) -> str:
    """What the command prints, as text."""
    said, width = results["notes"], max(len(row["model"]) for row in results["scores"])
    metrics = [name for name in results["scores"][0] if name != "model"]
    titles = "".join(f"  {name.replace('_', ' ').replace('f1', 'F1'):<22}" for name in metrics)
    lines = ["", *said["about"], "", f"{'model':<{width}}{titles}".rstrip()]
    for row in results["scores"]:
        values = "".join(f"  {Interval(**row[name])!s:<22}" for name in metrics)
        lines.append(f"{row['model']:<{width}}{values}".rstrip())
    lines += ["", class_table(results["classes"])] if results["classes"] else []
    for kind, found in results["doubtful"].items():
        if found:
            lines += ["", f"Test rows, {kind}:"]
        for each in found[:SHOWN]:
            text = " ".join(each["text"].split())[:WIDTH]
            sure = "" if each["probability"] is None else f" {each['probability']:.2f}"
            lines.append(f"  {each['predicted']}{sure} (labelled {each['label']}): {text}")
    lines += ["", *said["advice"], "", "What to do next:"]
    lines += [f"  {command}" for command in commands]
    lines.append(f"{folder}/{PAGE_FILE} shows this with plots; {folder}/work/ may be deleted.")
    return "\n".join(lines)


def write_page(results: Json, commands: list[str], folder: Path) -> None:
    """Write `report.html`, one file that holds the plots of the folder."""
    plots = {
        caption: base64.b64encode((folder / name).read_bytes()).decode()
        for name, caption in PLOTS.items()
        if (folder / name).is_file()
    }
    page = card_template("report", "html").render(results=results, commands=commands, plots=plots)
    (folder / PAGE_FILE).write_text(page, encoding="utf-8")
