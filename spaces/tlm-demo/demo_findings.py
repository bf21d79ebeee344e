"""The study's rows as tables for the plots of the tab Findings."""

from typing import Any

import pandas as pd

Json = dict[str, Any]
FINDINGS = {
    "gap": "a. Pre-trained against scratch",
    "corpus_size": "b. More pre-training text",
    "overlap": "c. Token overlap",
    "committee": "d. Committees",
}
EXPLANATIONS = {
    "gap": "Accuracy of the same encoder, fine-tuned from its pre-trained weights and from scratch.",
    "corpus_size": "The gap between the two against the number of pre-training texts.",
    "overlap": "The gap against the divergence of the pre-training text from the task's (smaller is more overlap).",
    "committee": "Accuracy of committees against the number of members, beside the deep encoder.",
}


def tasks_of(study: Json) -> list[str]:
    """Tasks of the study, in its order; their mean, of which there are differences alone, is none."""
    return list(dict.fromkeys(row["task"] for row in study["rows"] if row["measure"] != "difference"))


def table(study: Json, finding: str, task: str) -> pd.DataFrame:
    """The rows of a finding on a task as `model`, `x`, `measure`, `estimate`, `low`, `high` (percent), `seeds`."""
    rows = [row for row in study["rows"] if row["finding"] == finding and row["task"] == task]
    columns = ("model", "x", "measure", "estimate", "low", "high", "seeds")
    frame = pd.DataFrame([{key: row[key] for key in columns} for row in rows], columns=list(columns))
    for key in ("estimate", "low", "high"):
        frame[key] = (100 * frame[key].astype(float)).round(2)
    frame["x"] = frame["x"].map(lambda value: round(value, 4) if isinstance(value, float) else value).astype(str)
    return frame


def plotted(study: Json, finding: str, task: str) -> tuple[pd.DataFrame, str]:
    """Points to plot as `x`, `value` (percent), `model`; the x axis' title."""
    rows = [row for row in study["rows"] if row["finding"] == finding and row["task"] == task]
    if finding == "gap":
        # Each arm has its own x: bars of one x would be stacked.
        accuracies = [row for row in rows if row["measure"] == "accuracy"]
        points = [(f"{row['model']}, {row['x']}", row["estimate"], row["x"]) for row in accuracies]
        title = "encoder"
    elif finding == "corpus_size":
        points = [(row["x"], row["estimate"], row["model"]) for row in rows if row["measure"] == "gap"]
        title = "pre-training texts"
    elif finding == "overlap":
        points = [(row["x"], row["estimate"], row["model"].split(", ")[0]) for row in rows if row["measure"] == "gap"]
        title = "divergence from the task (bits)"
    else:
        points = [(row["x"], row["estimate"], row["model"]) for row in rows if row["measure"] == "accuracy"]
        counts = [x for x, _, model in points if model.startswith("committee of")] or [1]
        # The deep encoder and the baselines as lines over all numbers of members.
        deep = study.get("reference")
        flat = [(value, model) for x, value, model in points if model == deep]
        baselines = [row for row in study["rows"] if (row["finding"], row["task"]) == ("baselines", task)]
        flat += [(row["estimate"], row["model"]) for row in baselines]
        points = [point for point in points if point[2] != deep]
        points += [(count, value, model) for value, model in flat for count in (1, max(counts))]
        title = "members"
    frame = pd.DataFrame(points, columns=["x", "value", "model"])
    frame["value"] = (100 * frame["value"].astype(float)).round(2)
    return frame, title


def latency(study: Json, task: str) -> pd.DataFrame:
    """Accuracy (percent) against milliseconds for one text: `milliseconds`, `accuracy`, `model`, `members`."""
    times = {(row["model"], row["members"]): row["milliseconds"] for row in study["latency"] if row["batch_size"] == 1}
    points = []
    for row in study["rows"]:
        is_accuracy = (row["finding"], row["task"], row["measure"]) == ("committee", task, "accuracy")
        milliseconds = times.get((row["timed_as"], row["x"]))
        if is_accuracy and milliseconds is not None:
            points.append((round(milliseconds, 3), round(100 * row["estimate"], 2), row["model"], row["x"]))
    return pd.DataFrame(points, columns=["milliseconds", "accuracy", "model", "members"])
