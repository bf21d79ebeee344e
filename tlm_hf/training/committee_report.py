"""What `tlm train-committee` tells its user (as text, model card and `report.html`), and the folder that it writes."""

import base64
import logging
import shlex
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import joblib
import numpy as np
import pandas as pd
from scipy.special import expit, softmax
from sklearn.pipeline import Pipeline
from transformers import PreTrainedTokenizerBase

from .. import runtime
from ..cards import METRICS, CardFacts, card_template, render_card
from ..data.kinds import as_one_text, class_names, labels_of, problem_of, texts_of
from ..data.tokenization import TextFacts
from ..evaluation.calibration import choose_threshold
from ..evaluation.intervals import Interval, draw_scores, intervals
from ..evaluation.latency import alternating_medians, watch
from ..evaluation.metrics import HEADLINE, answers_of, class_table
from ..export import measure_tables, write_frozen
from ..models.combination_committee import MULTI, REGRESSION, SINGLE
from ..models.lexical_committee import LexicalTable
from ..runs.atomic_files import Json
from ..runs.figure import new_figure
from ..runs.output_folder import Run
from .join_committee import Joined, save_committee
from .lexical import fit_lexical, lexical_logits

logger = logging.getLogger(__name__)
COMMITTEE, LINEAR = "committee", "TF-IDF + linear model"
TRIVIAL = {SINGLE: "majority class", MULTI: "commonest labels", REGRESSION: "mean of the training rows"}  # no text
LISTED = 10  # doubtful rows
HELPFUL = 1.0  # points that the second half of the rows must bring for more rows to be worth it
MANY_TESTED = 50  # test rows below which a warning is due
CERTAIN = 0.9  # probability from which no answer is listed as uncertain
README, BASELINE_FILE, PAGE_FILE = "README.md", "baseline.joblib", "report.html"
CURVE_FILE = "learning_curve.png"
PLOTS = {
    CURVE_FILE: "Test score of a linear part alone, by the rows that it learns from",
    "reliability.png": "Calibration: how often answers of a probability are right",
}


def score_models(task: datasets.DatasetDict, joined: Joined, linear: Json) -> Json:
    """Scores of all models on test with 95% intervals, and what they say; `linear` is the linear model's results."""
    problem_type, labels, train = problem_of(task), labels_of(task["test"]), labels_of(task["train"])
    config, names = joined.committee.config, joined.results["labels"]
    members = enumerate(joined.member_logits.swapaxes(0, 1) / config.temperature)
    logits = {COMMITTEE: joined.logits} | {f"member {index} + words": member for index, member in members}
    answers = {name: answers_of(each, problem_type, config.threshold) for name, each in logits.items()}
    answers[LINEAR] = answers_of(linear["logits"]["test"], problem_type, linear["threshold"])
    if problem_type == SINGLE:
        constant = np.bincount(train).argmax()
    else:
        shares = train.mean(axis=0)
        constant = shares >= min(0.5, shares.max()) if problem_type == MULTI else shares
    answers[TRIVIAL[problem_type]] = np.broadcast_to(constant, answers[LINEAR].shape)
    drawn, metric = draw_scores(answers, labels, problem_type, len(names)), HEADLINE[problem_type]
    difference = Interval.of_draws(drawn[COMMITTEE][metric] - drawn[LINEAR][metric])
    scores: list[Json] = [{"model": name} for name in drawn]
    for row in scores:
        row |= {name: vars(each) for name, each in intervals(drawn[row["model"]], len(labels)).items()}
    return {
        "scores": scores,
        "difference": vars(difference),
        "recommendation": recommend(difference, scores, metric),
        "doubtful": doubtful_rows(task["test"], joined, answers[COMMITTEE]),
    }


def recommend(difference: Interval, scores: Sequence[Json], metric: str = "accuracy") -> str:
    """Which model to take, and how sure that is; the last of the scores is what needs no text."""
    of_model = {row["model"]: row[metric]["value"] for row in scores}
    trivial = scores[-1]["model"]
    if max(of_model[COMMITTEE], of_model[LINEAR]) <= of_model[trivial]:
        return f"Neither model is better than the {trivial}: give more labelled rows, or check the labels."
    points, interval = f"{100 * abs(difference.value):.1f} points of {METRICS[metric]}", _ends(difference)
    if difference.low > 0:
        return f"Take the committee: it is {points} above {LINEAR} ({interval})."
    if difference.high < 0:
        return f"Take the linear model ({BASELINE_FILE}): it is {points} above the committee ({_ends(difference, -1)})."
    if difference.value == 0:
        same = f"{METRICS[metric]}, {of_model[COMMITTEE]:.3f}"
        return f"Too close to call: committee and {LINEAR} have the same {same}; more labelled rows would tell."
    ahead = difference.value > 0
    side, better = ("above", "the committee") if ahead else ("below", f"the linear model ({BASELINE_FILE})")
    close = f"Too close to call: the committee is {points} {side} {LINEAR} ({interval})"
    return f"{close}. On these rows {better} is ahead; more labelled rows would tell."


def _ends(difference: Interval, sign: int = 1) -> str:
    low, high = sorted(100 * sign * end for end in (difference.low, difference.high))
    return f"95% interval of the difference {low:+.1f} to {high:+.1f}"


def doubtful_rows(test: datasets.Dataset, joined: Joined, answers: np.ndarray) -> dict[str, list[Json]]:
    """Test rows of the least certain answers (of a regression: on which members differ most), and the worst errors."""
    problem_type, labels, names = problem_of(test), labels_of(test), np.array(joined.results["labels"])
    if problem_type == REGRESSION:
        doubt, error = joined.member_logits[:, :, 0].std(axis=1), np.abs(answers - labels)
        titles, probabilities = ("members differ most", "largest errors"), [None] * len(labels)
        predicted = [f"{value:.4g} (spread {spread:.2g})" for value, spread in zip(answers, doubt, strict=True)]
        if joined.member_logits.shape[1] == 1:  # one member has no spread
            predicted, doubt = [f"{value:.4g}" for value in answers], doubt[:0]
        labelled = [f"{label:.4g}" for label in labels]
    else:
        of_class = expit(joined.logits.astype(float)) if problem_type == MULTI else softmax(joined.logits, axis=-1)
        several = np.maximum(of_class, 1 - of_class).prod(axis=1)
        sure = several if problem_type == MULTI else of_class.max(axis=1)
        wrong = (answers != labels).reshape(len(labels), -1).any(axis=1)
        doubt, error, probabilities = -sure, np.where(wrong, sure, -1), sure.tolist()
        of_all = ", all labels together" if problem_type == MULTI else ""
        titles = f"most uncertain{of_all}", f"confidently wrong{of_all}"
        predicted, labelled = ([_name(names, each) for each in rows] for rows in (answers, labels))
    columns = {"label": labelled, "predicted": predicted, "probability": probabilities}
    table = pd.DataFrame({"text": as_one_text(texts_of(test)), **columns}, dtype=object)
    uncertain, wrong = (np.argsort(-each, kind="stable") for each in (doubt, error))
    chosen = [uncertain[: (doubt > -CERTAIN).sum()], wrong[: (error >= 0).sum()]]
    return {title: table.iloc[rows[:LISTED]].to_dict("records") for title, rows in zip(titles, chosen, strict=True)}


def _name(names: np.ndarray, answer: np.ndarray) -> str:
    """A class id, or 0 and 1 for each class, in words."""
    return "|".join(names[answer.astype(bool)]) or "none" if answer.ndim else str(names[answer])


def learning_curve(
    tokenizer: PreTrainedTokenizerBase, vectors: np.ndarray, task: datasets.DatasetDict, whole: LexicalTable
) -> Json:
    """Test score by rows of a table fitted on 25%, 50% and all (`whole`) of each class; `gain` of the second half."""
    problem_type, labels = problem_of(task), labels_of(task["test"])
    metric, sizes, answers = HEADLINE[problem_type], [], {}
    of_row = pd.Series(task["train"]["label"][:] if problem_type == SINGLE else 0, index=range(len(task["train"])))
    places = of_row.groupby(of_row).cumcount() / of_row.groupby(of_row).transform("size")
    for share in (0.25, 0.5, 1.0):
        rows = task["train"].select(np.flatnonzero(places < share))
        table = whole if share == 1 else fit_lexical(tokenizer, vectors, rows, len(whole.bias))
        logits = {split: lexical_logits(table, tokenizer, texts_of(task[split])) for split in ("validation", "test")}
        threshold = choose_threshold(logits["validation"], labels_of(task["validation"]), problem_type)
        answers[str(share)] = answers_of(logits["test"], problem_type, threshold)
        sizes.append(len(rows))
    drawn = draw_scores(answers, labels, problem_type, len(class_names(task)))
    scores = [of_share[metric] for of_share in drawn.values()]
    points = [{"rows": size, "score": float(score[0])} for size, score in zip(sizes, scores, strict=True)]
    return {"metric": metric, "points": points, "gain": vars(Interval.of_draws(scores[2] - scores[1]))}


def notes(results: Json) -> dict[str, list[str]]:
    """What terminal, card and page say of the results besides tables: sentences `about` the rows, and `advice`."""
    counts, facts, curve = results["rows"], results["text_facts"], results["learning_curve"]
    others = "others for each member; " if len(results["members_without_words"]) > 1 else ""
    learned = "" if results["keep_validation"] else f" ({others}linear models learn from them too)"
    sizes = f"{counts['train']:,} train, {counts['validation']:,} validation{learned}, {counts['test']:,} test"
    about = [
        f"{sum(counts.values()):,} rows: {sizes}; {results['kind']}. Scores are on the test rows; 95% intervals cover "
        "the choice of these rows, not of seeds."
    ]
    if results["reading"]:
        about.append(f"Of the source: {results['reading']}.")
    if counts["test"] < MANY_TESTED:
        about.append(f"{counts['test']} test rows are few, so their scores say little.")
    if facts["longer"]:
        about.append(f"{TextFacts(**facts).say_cut()}.")
    if results["time_budget"] is not None:
        about.append(results["time_budget"])
    points = ", ".join(f"{point['score']:.3f} with {point['rows']:,}" for point in curve["points"])
    gain, metric = Interval(**curve["gain"]), METRICS[curve["metric"]]
    if gain.low > 0:
        more = "More labels would help."
    elif 100 * gain.high < HELPFUL and counts["test"] >= MANY_TESTED:
        more = "More labels of the same kind would help little."
    else:
        more = "That is within chance, so these test rows cannot tell whether more labels would help."
    advice = [
        results["recommendation"],
        f"{metric[0].upper()}{metric[1:]} of a linear part alone by the rows that it learns from: {points}. "
        f"The second half brought {100 * gain.value:+.1f} points ({_ends(gain)}). {more}",
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
    predict = f"tlm predict --model {shlex.quote(folder)}"
    of_table = [f"{predict} --input new.csv{column} --output labelled.csv", f'python -c "{program}"']
    return of_table if text_pair_column else [f'{predict} --texts "a new text"', *of_table]


def write_report(results: Json, folder: str, commands: Sequence[str]) -> str:
    """What the command prints, as text."""
    classes = class_table(results["classes"]) if results["classes"] else ""
    return card_template("report", "txt").render(results=results, folder=folder, commands=commands, classes=classes)


def write_page(results: Json, commands: list[str], folder: Path) -> None:
    """Write `report.html`, one file that holds the plots of the folder."""
    files = {caption: folder / name for name, caption in PLOTS.items() if (folder / name).is_file()}
    plots = {caption: base64.b64encode(file.read_bytes()).decode() for caption, file in files.items()}
    page = card_template("report", "html").render(results=results, commands=commands, plots=plots)
    (folder / PAGE_FILE).write_text(page, encoding="utf-8")


def freeze_joined(joined: Joined, texts: list[Any], folder: Path) -> Json | None:
    """Write the committee's tables, where it has any; their difference and size, and the latency of one text."""
    try:
        write_frozen(joined.committee, joined.tokenizer, folder, token_types=isinstance(texts[0], tuple))
    except ValueError as error:
        logger.info("No tables were written: %s", error)
        return None
    model, text = runtime.load(folder), sorted(texts, key=len)[len(texts) // 2]
    is_busy = watch()
    seconds = alternating_medians({"one": partial(model, text)}, 30)["one"]
    tables = measure_tables(joined.committee, joined.tokenizer, folder)
    return {"tables": tables, "latency": {"milliseconds": 1000 * seconds, "is_busy": is_busy()}}


def save_folder(run: Run, results: Json, commands: list[str], joined: Joined, baseline: Pipeline, folder: Path) -> None:
    """Write the committee, its tables, the linear model, the plots, and the page and cards that show the results."""
    save_committee(joined, folder)
    joblib.dump(baseline, folder / BASELINE_FILE, compress=3)
    curve = results["learning_curve"]
    title = f"test {METRICS[curve['metric']]}"
    with new_figure(folder / CURVE_FILE, "", "training rows", title, size=(4.2, 2.6)) as axes:
        axes.plot([point["rows"] for point in curve["points"]], [point["score"] for point in curve["points"]], "o-")
    results, name = run.describe(results), results["output_dir"]
    write_page(results, commands, folder)
    what = f"a table of {sum(results['rows'].values()):,} rows"
    options: Json = {"remote_code": True, "example": "a new text", "licence": "unknown", "language": None}
    facts = CardFacts(what, plots=PLOTS, commands=commands, **options)
    of_card = results | {"test": results["committee"], "parameters": joined.committee.num_parameters()}
    (folder / README).write_text(render_card("committee", name, of_card, facts, "table"), encoding="utf-8")
    if results["frozen"] is not None:
        tables = run.folder / "work" / "frozen"
        of_card = results | {"settings": {"table_dtype": "float32"}, "tables": results["frozen"]["tables"]}
        (tables / README).write_text(render_card("frozen", f"{name}/frozen", of_card, facts), encoding="utf-8")
        shutil.move(tables, folder / "frozen")
