"""Answers as HTML: bars, the members' heat map, attention. Every text in it is escaped."""

from collections.abc import Sequence

import numpy as np
from demo_data import MIN_COUNT
from demo_models import Answer, escape

CSS = """
.gradio-container { max-width: 1100px !important; }
.tlm { overflow-x: auto; color: var(--body-text-color); }
.tlm table { border-collapse: collapse; width: 100%; font-size: 0.92rem; }
.tlm table, .tlm thead, .tlm tbody, .tlm tr { border: none !important; }
.tlm th, .tlm td { padding: 0.3rem 0.5rem !important; text-align: left; border: none !important; }
.tlm tr { border-bottom: 1px solid var(--border-color-primary) !important; }
.tlm .sr-only { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.tlm td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.tlm td.heat { text-align: center; font-variant-numeric: tabular-nums; min-width: 3.2rem; }
.tlm .bar { display: block; height: 0.75rem; border-radius: 3px; background: #2f6db5; min-width: 2px; }
.tlm .bar.deep { background: #b5532f; }
.tlm .track { width: 45%; }
.tlm .words { line-height: 2.1; overflow-wrap: anywhere; }
.tlm .words span, .tlm .words mark { padding: 0.15rem 0.25rem; border-radius: 4px; color: inherit; }
.tlm mark { background: rgba(214, 120, 40, 0.55); text-decoration: underline dotted; }
.tlm p { margin: 0.4rem 0; }
"""


def _heat(share: float) -> str:
    """Background of a cell whose value is a share: readable on light and dark."""
    return f"background: rgba(47, 109, 181, {0.08 + 0.62 * float(np.clip(share, 0, 1)):.2f})"


def notes(words: Sequence[str]) -> str:
    """Sentences for the visitor."""
    return "".join(f'<p role="status"><strong>Note:</strong> {escape(sentence)}</p>' for sentence in words)


def _table(caption: str, head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table of rows (name, cells in HTML); a column `NAME|2` spans two; the caption is for screen readers."""
    columns = ""
    for name in head:
        name, span, count = name.partition("|")
        columns += f'<th scope="col"{f" colspan={count}" if span else ""}>{escape(name)}</th>'
    body = "".join(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>' for name, cells in rows)
    return (
        f'<table><caption class="sr-only">{escape(caption)}</caption>'
        f"{f'<thead><tr>{columns}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"
    )


def _number(words: str) -> str:
    return f'<td class="number">{words}</td>'


def _bar(share: float, words: str, kind: str = "") -> str:
    """A bar and the number beside it."""
    return f'<td class="track"><span class="bar {kind}" style="width:{100 * share:.1f}%"></span></td>{_number(words)}'


def _box(*parts: str) -> str:
    return f'<div class="tlm">{"".join(parts)}</div>'


def verdict(answer: Answer) -> str:
    """Probabilities of the committee and of the deep encoder as bars, and how sure the committee is."""
    order = np.argsort(-answer.probabilities)[:10]
    rows = []
    for place in order:
        cells = [_bar(answer.probabilities[place], f"{100 * answer.probabilities[place]:.1f}%")]
        if answer.deep is not None:
            cells.append(_bar(answer.deep[place], f"{100 * answer.deep[place]:.1f}%", "deep"))
        rows.append((answer.labels[place], cells))
    head = ["class", "committee|2", *([] if answer.deep is None else ["deep encoder|2"])]
    count = len(answer.members)
    said = (
        f'<p role="status">The committee says <strong>{escape(answer.labels[order[0]])}</strong> '
        f"({100 * answer.probabilities[order[0]]:.1f}%); {round(answer.agreement * count)} of {count} members agree. "
        f"Entropy {answer.entropy:.2f} nats, of which {answer.mutual_information:.2f} are disagreement between members "
        "(before calibration).</p>"
    )
    return _box(notes(answer.notes), said, _table("Probabilities by class", head, rows))


def heat_map(answer: Answer) -> str:
    """Members x classes, each cell with its probability."""
    order = np.argsort(-answer.probabilities)[:10]
    rows = []
    for number, member in enumerate(answer.members):
        cells = []
        for place in order:
            words = f"{100 * member[place]:.0f}%"
            shown = f"<strong>{words}</strong>" if place == member.argmax() else words
            cells.append(f'<td class="heat" style="{_heat(member[place])}">{shown}</td>')
        rows.append((f"member {number}", cells))
    return _box(_table("Probabilities by member", ["votes", *[answer.labels[place] for place in order]], rows))


def latency(answer: Answer) -> str:
    """Milliseconds of both as bars."""
    longest = max(answer.milliseconds.values())
    names = {"committee": f"committee of {len(answer.members)}", "deep": "deep encoder"}
    rows = [
        (names[name], [_bar(value / longest, f"{value:.2f} ms", name)]) for name, value in answer.milliseconds.items()
    ]
    return _box(_table("Latency", [], rows), "<p>Medians on this server just now, tokenisation included.</p>")


def attention(answer: Answer) -> str:
    """The tokens, darker where [CLS] reads more in the mean of members and heads."""
    weights = answer.attention
    if weights is None:
        return _box("<p>These members have no single layer of attention over the tokens to show.</p>")
    largest = max([1e-9, *weights[1:].tolist()])
    most = ", ".join(f"{escape(answer.tokens[k])} {100 * weights[k]:.0f}%" for k in np.argsort(-weights)[:5])
    spans = [
        f'<span style="{_heat(weight / largest)}" title="{100 * weight:.1f}%">{escape(token)}</span>'
        for token, weight in zip(answer.tokens, weights.tolist(), strict=True)
    ]
    return _box(f'<p class="sr-only">Most attention: {most}.</p><p class="words">{" ".join(spans)}</p>')


def masks(name: str, found: list[list[tuple[str, float]]]) -> str:
    """The likely tokens of each mask."""
    rows = [
        (str(rank + 1), [f'<td style="{_heat(p)}">{escape(token)} {100 * p:.1f}%</td>' for token, p in tokens])
        for rank, tokens in enumerate(zip(*found, strict=True))
    ]
    head = ["rank", *[f"mask {place + 1}" for place in range(len(found))]]
    return _box(f"<h3>{escape(name)}</h3>", _table(f"Likely tokens by {name}", head, rows))


def overlap(found: dict[str, float], marked: str, words: Sequence[str]) -> str:
    """The measures and the text with unseen tokens marked."""
    rows = {
        "tokens": f"{found['tokens']:,}",
        "different tokens": f"{found['types']:,}",
        f"of these seen in pre-training (at least {MIN_COUNT} times)": f"{100 * found['types_seen']:.1f}%",
        "occurrences seen in pre-training": f"{100 * found['occurrences_seen']:.1f}%",
        "divergence from the pre-training text": f"{found['divergence']:.3f} bits",
    }
    table = _table("Overlap with the pre-training text", [], [(name, [_number(value)]) for name, value in rows.items()])
    return _box(notes(words), table, f'<p class="words">{marked}</p>')


def committee(rows: list[dict[str, float | str]], milliseconds: dict[str, float]) -> str:
    """Accuracy, calibration and latency of a committee, its members and the deep encoder."""
    head = ["model", "accuracy", "calibration error", "negative log-likelihood", "temperature", "ms for one text"]
    body = []
    for row in rows:
        name = str(row["model"])
        scores = [f"{float(row[key]):.3f}" for key in ("calibration_error", "loss")]
        time = f"{milliseconds[name]:.2f}" if name in milliseconds else ""
        cells = [f"{100 * float(row['accuracy']):.1f}%", *scores, f"{float(row['temperature']):.2f}", time]
        body.append((name, list(map(_number, cells))))
    remark = "<p>Each has its own temperature, fitted on the validation texts.</p>"
    return _box(_table("Committee, members and deep encoder on test texts", head, body), remark)
