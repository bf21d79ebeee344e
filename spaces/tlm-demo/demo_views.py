"""Answers as HTML: votes, races, intervals. Every text in it is escaped; the accent is the committee, grey the rest."""

import base64
from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd
from demo_data import MIN_COUNT, Json, human
from demo_models import Answer, Entrant

LINKS = {
    "Paper": "https://arxiv.org/abs/2507.14871",
    "Models": "https://huggingface.co/models?other=tiny-language-model",
}
SURENESS = ((0.9, "is sure"), (0.7, "is fairly sure"), (0.5, "leans that way"), (0.0, "does not know"))
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
SHOWN_CLASSES, SHOWN_WORDS = 6, 150
SIZES = (1, 3, 5, 10)  # members of the committees that are plotted
QUESTIONS = (
    ("Does pre-training help?", "gap", "gap", "bert-1", "A pre-trained one-layer encoder"),
    ("Does more pre-training text help?", "corpus_size", "gap per doubling", "bert-1, equal steps",
     "More text at equal steps"),
    ("Does text with the task's own words help more?", "overlap", "difference", "high - low", "Text of high overlap"),
    ("Does a committee beat the {deep}?", "committee", "difference from {reference}", 10, "A committee of 10"),
    ("Does a committee beat a linear model on word counts?", "committee", "difference from TF-IDF + linear model",
     10, "A committee of 10"),
)  # fmt: skip
"""Of each finding: title, name and measure of its rows, the model or x of which its sentence speaks, its subject."""
VERDICTS = {1: "is better on", -1: "is worse on", 0: "may differ by chance alone on"}


def box(*parts: str) -> str:
    """A piece of the page."""
    return f'<div class="tlm">{"".join(parts)}</div>'


def section(anchor: str, title: str, words: str) -> str:
    """Heading and introduction of a part of the page; `words` is HTML."""
    return box(f'<h2 id="{anchor}">{title}</h2><p>{words}</p>')


def say(words: str) -> str:
    """What a screen reader says when it changes; `words` is HTML."""
    return f'<p class="say" role="status">{words}</p>'


def error(words: object) -> str:
    """What a visitor can mend."""
    return box(f'<p class="error" role="alert">{escape(str(words))}</p>')


def _small(*sentences: str) -> str:
    return "".join(f'<p class="small">{sentence}</p>' for sentence in sentences if sentence)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%" if 0.0005 < share < 0.1 else f"{100 * share:.0f}%"


def _row(name: str, track: str, number: str, kind: str = "") -> str:
    """A name, a track with something on it, and a number; `name` is escaped."""
    cells = f'<span>{escape(name)}</span><span class="track">{track}</span><span>{number}</span>'
    return f'<div class="row {kind}">{cells}</div>'


def _fill(share: float) -> str:
    return f'<span class="fill" style="width:{100 * share:.1f}%"></span>'


def hero(members: int, parts: dict[str, str], *, frozen: bool) -> str:
    """One sentence, one picture, links; `parts` are titles by anchor; only one-layer members are `frozen`."""
    count = COUNTS[members] if members < len(COUNTS) else str(members)
    ways = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title in parts.items())
    out = "".join(f'<a href="{url}" target="_blank" rel="noopener">{name}</a>' for name, url in LINKS.items())
    return box(
        f'<div class="hero"><div><h1>{count.capitalize()} tiny language models vote while you type.</h1>'
        f"<p>No GPU: they answer in milliseconds{', since each has one layer and is looked up in tables' * frozen}.</p>"
        f'<nav aria-label="Parts of this page">{ways}</nav><nav class="small" aria-label="Links">{out}</nav></div>'
        f"{_picture(members) * frozen}</div>"
    )


def _picture(members: int, layers: int = 6) -> str:
    """A committee, whose members work at once, and a deep encoder, whose layers work one after another."""
    shape, width = '<rect x="{}" y="{}" width="{}" height="{}" rx="3" fill="var(--{})"/>', min(26, 170 // members)
    blocks = [shape.format(10 + place * width, 34, width - 5, 40, "accent") for place in range(members)]
    blocks += [shape.format(222, 66 - 11 * layer, 90, 8, "grey") for layer in range(layers)]
    lines = [(10, 24, "one layer each, all at once"), (10, 94, "a vote each, averaged")]
    lines += [(222, 94, f"{layers} layers,"), (222, 109, "one after another")]
    blocks += [f'<text x="{x}" y="{y}" font-size="13" fill="currentColor">{line}</text>' for x, y, line in lines]
    label = f"{members} encoders of one layer, whose votes are averaged, beside one of {layers} layers"
    return f'<svg viewBox="0 0 340 114" role="img" aria-label="{label}">{"".join(blocks)}</svg>'


def answer(found: Answer) -> str:
    """The verdict in words, each member's vote as a dot on the bar of its class, and the words that weigh most."""
    order, count, rows = np.argsort(-found.probabilities), len(found.members), []
    best = float(found.probabilities[order[0]])
    votes = ", ".join(f"{number} of {count} say {escape(label)}" for label, number in found.votes.items())
    agree = f"all {count} members agree" if len(found.votes) == 1 else f"the members disagree: {votes}"
    sure = next(words for least, words in SURENESS if best >= least)
    for place in order[:SHOWN_CLASSES]:
        track, share = _fill(found.probabilities[place]), _percent(found.probabilities[place])
        for number, vote in enumerate(found.members[:, place]):
            style = f"left:{100 * vote:.1f}%;top:{100 * (number + 0.5) / count:.0f}%"
            track += f'<i class="dot" title="member {number + 1}: {_percent(vote)}" style="{style}"></i>'
        rows.append(_row(found.labels[place], track, share, "narrow"))
    rest = [f"{escape(found.labels[place])} {_percent(found.probabilities[place])}" for place in order[SHOWN_CLASSES:]]
    heavy = [place for place in np.argsort(-found.falls)[:2] if found.falls[place] >= 0.005]
    words = [f"<u>{escape(word)}</u>" if place in heavy else escape(word) for place, word in enumerate(found.words)]
    falls = " or ".join(f"{100 * found.falls[place]:.1f}" for place in heavy)
    remarks = [f"Other classes: {', '.join(rest)}."] if rest else []
    remarks += [f"Underlined: leave out one of these words, and the answer loses {falls} points."] if heavy else []
    remarks.append(f"A dot is a member's vote. Answered in {found.milliseconds:.1f} ms.")
    return box(
        say(f"<strong>{escape(found.label)}</strong>, {_percent(best)}. The committee {sure}; {agree}."),
        _small(*map(escape, found.notes)),
        *rows,
        f'<p class="words">{" ".join(words[:SHOWN_WORDS])}{" …" * (len(words) > SHOWN_WORDS)}</p>',
        _small(" ".join(remarks)),
    )


def race(entrants: Sequence[Entrant], total: int, remark: str) -> str:
    """A bar for each entrant, its own time, and how many times faster it is than the first."""
    rows, first = [], entrants[0]
    for entrant in entrants:
        number = f"{entrant.done} texts" + f", {entrant.seconds:.2f} s" * (entrant.done > 0)
        if entrant is not first and entrant.done and first.done:
            number += f", {first.seconds / first.done * entrant.done / entrant.seconds:.1f}x"
        rows.append(_row(entrant.name, _fill(entrant.done / total), number, "other" * entrant.is_deep))
    return box(*rows, _small(escape(remark)))


def masks(found: dict[str, list[dict[str, float]]]) -> str:
    """The likely tokens of each mask by each encoder."""
    cards, most = [], max(share for tokens in found.values() for likely in tokens for share in likely.values())
    for name, tokens in found.items():
        kind = "narrow other" if "not pre-trained" in name else "narrow"
        for number, likely in enumerate(tokens, 1):
            rows = "".join(_row(token, _fill(share / most), _percent(share), kind) for token, share in likely.items())
            cards.append(f"<div><h3>{escape(name)}{f', mask {number}' * (len(tokens) > 1)}</h3>{rows}</div>")
    return box(f'<div class="cards">{"".join(cards)}</div>')


def overlap(found: Json) -> str:
    """Shares on bars, the text with unseen tokens marked."""
    marks = []
    for token, count in found["marked"]:
        tag = "mark" if count < MIN_COUNT else "span"
        marks.append(f'<{tag} title="{count:,} times in the pre-training text">{escape(token)}</{tag}>')
    shares = {"different tokens that were seen": "different_seen", "all tokens that were seen": "occurrences_seen"}
    divergence, counts = found["divergence"], f"{found['tokens']:,} tokens, {found['different']:,} different."
    return box(
        *(_row(name, _fill(found[key]), _percent(found[key])) for name, key in shares.items()),
        _row("divergence, from 0 (the same) to 1", _fill(divergence), f"{divergence:.3f} bits"),
        f'<p class="words">{" ".join(marks)}</p>',
        _small(f"{counts} Highlighted: seen fewer than {MIN_COUNT} times.", *map(escape, found["notes"])),
    )


def _interval(name: str, points: Sequence[float], ends: Sequence[float], *, is_grey: bool) -> str:
    """A point between the ends of its interval (`points` in order), on a track from `ends[0]` to `ends[1]`."""
    low, middle, high = (100 * (point - ends[0]) / (ends[1] - ends[0]) for point in points)
    sign, unit = ("+", "") if ends[0] < 0 else ("", "%")  # a difference, or an accuracy
    track = f'<i class="zero" style="left:{100 * ends[0] / (ends[0] - ends[1]):.1f}%"></i>' if sign else ""
    track += f'<i class="whisker" style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
    track += f'<i class="dot" style="left:{middle:.1f}%;top:50%"></i>'
    number = f"{points[1]:{sign}.1f}{unit} [{points[0]:{sign}.1f}, {points[2]:{sign}.1f}]"
    return _row(name, track, number, "other" * is_grey)


def _accuracies(models: dict[str, Sequence[float]]) -> str:
    percents = {name: [100 * point for point in points] for name, points in models.items()}
    ends = max(min(map(min, percents.values())) - 1, 0), max(map(max, percents.values())) + 1
    first = next(iter(models))
    return "".join(_interval(name, points, ends, is_grey=name != first) for name, points in percents.items())


def committee(rows: Sequence[Json], texts: int) -> str:
    """Accuracy with its interval, calibration and latency of a committee, its members and the deep encoder."""
    points = {}
    for row in rows:
        accuracy, z = row["accuracy"], 1.96 / texts**0.5  # Wilson's interval, which also holds at 0 and 1
        middle, span = accuracy + z**2 / 2, z * (accuracy * (1 - accuracy) + z**2 / 4) ** 0.5
        points[row["model"]] = [(middle - span) / (1 + z**2), accuracy, (middle + span) / (1 + z**2)]
    table = pd.DataFrame(rows)[["model", "calibration_error", "temperature", "milliseconds"]]
    table["calibration_error"] *= 100
    table.columns = ["model", "calibration error (points)", "temperature", "one text (ms)"]
    remark = f"Accuracy on {texts:,} test texts with its 95% interval. Calibration error: how far stated probabilities "
    remark += "are from how often they are right. Members have the committee's temperature, from validation texts."
    return box(_accuracies(points), _table(table, "{:.2f}"), _small(remark))


def _table(table: pd.DataFrame, numbers: str) -> str:
    html = table.astype(object).fillna("").to_html(index=False, border=0, float_format=numbers.format)
    return f'<div class="scroll" tabindex="0">{html}</div>'


def trained(scores: Sequence[Json], recommendation: str, words: str) -> str:
    """Accuracies of what a visitor's table trained, and which model to take."""
    points = {row["model"]: [row["accuracy"][side] for side in ("low", "value", "high")] for row in scores}
    return box(say(escape(recommendation)), _accuracies(points), _small(escape(words)))


def _verdict(row: Json) -> int:
    """1 or -1 where the interval over texts, and that over runs if there are several, is above or below zero."""
    lows, highs = ([row[side], row.get(f"t_{side}")] for side in ("low", "high"))
    return int(min(x for x in lows if x is not None) > 0) - int(max(x for x in highs if x is not None) < 0)


def _row_name(row: Json) -> str:
    names = {"committee": f"committee of {row['x']}", "overlap": str(row["x"]).replace(" - ", " against ")}
    return names.get(row["finding"]) or human(row["model"]).replace("1-layer encoder, ", "")


def _finding(title: str, rows: list[Json], spoken: list[Json], subject: str) -> str:
    """Title, what `spoken` rows say, points with intervals by task, and the numbers as table and CSV."""
    tasks = {verdict: [human(row["task"]) for row in spoken if _verdict(row) == verdict] for verdict in VERDICTS}
    says = "; ".join(f"{VERDICTS[verdict]} {', '.join(names)}" for verdict, names in tasks.items() if names)
    plot, ends = "", (100 * min(0, *(row["low"] for row in rows)) - 1, 100 * max(0, *(row["high"] for row in rows)) + 1)
    for task in dict.fromkeys(row["task"] for row in rows):
        plot += f'<h4 class="small">{escape(human(task))}</h4>'
        for row in (row for row in rows if row["task"] == task):
            points = [100 * row[side] for side in ("low", "estimate", "high")]
            plot += _interval(_row_name(row), points, ends, is_grey=_verdict(row) == 0)
    table = pd.DataFrame(rows).assign(task=[human(row["task"]) for row in rows], model=list(map(_row_name, rows)))
    table = table[["task", "model", "estimate", "low", "high", "seeds"]]
    file = f"data:text/csv;base64,{base64.b64encode(table.to_csv(index=False).encode()).decode()}"
    link = f'<a download="{rows[0]["finding"]}.csv" href="{file}">CSV</a>'
    numbers = f"<details><summary>Numbers, as shares of the texts</summary>{_table(table, '{:.4f}')}{link}</details>"
    return f"<article><h3>{title}</h3><p>{subject} {says}.</p>{plot}{numbers}</article>"


def findings(study: Json) -> str:
    """Each finding of a study that has rows."""
    cards, reference = [], study["reference"]
    for title, finding, measure, key, subject in QUESTIONS:
        measure = measure.format(reference=reference)
        rows = [row for row in study["rows"] if (row["finding"], row["measure"]) == (finding, measure)]
        if finding == "committee":
            rows = [row for row in rows if row["model"] == "committee of bert-1" and row["x"] in SIZES]
        spoken = [row for row in rows if key in (row["model"], row["x"]) and "mean" not in row["task"]]
        if spoken:
            cards.append(_finding(title.format(deep=human(reference)), rows, spoken, subject))
    note = "Percentage points with 95% intervals, grey where it may be chance, not corrected for many comparisons."
    return box(_small(note), f'<div class="cards">{"".join(cards)}</div>')
