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


def caption(words: str) -> str:
    """A table's name, for screen readers."""
    return f'<caption class="sr-only">{escape(words)}</caption>'


def notes(words: Sequence[str]) -> str:
    """Sentences for the visitor."""
    return "".join(f'<p role="status"><strong>Note:</strong> {escape(sentence)}</p>' for sentence in words)


def verdict(answer: Answer) -> str:
    """Probabilities of the committee and of the deep encoder as bars, and how sure the committee is."""
    order = np.argsort(-answer.probabilities)[:10]
    best = answer.labels[order[0]]
    rows = ""
    for place in order:
        deep = "" if answer.deep is None else (
            f'<td class="track"><span class="bar deep" style="width:{100 * answer.deep[place]:.1f}%"></span></td>'
            f'<td class="number">{100 * answer.deep[place]:.1f}%</td>'
        )  # fmt: skip
        rows += (
            f'<tr><th scope="row">{escape(answer.labels[place])}</th>'
            f'<td class="track"><span class="bar" style="width:{100 * answer.probabilities[place]:.1f}%"></span></td>'
            f'<td class="number">{100 * answer.probabilities[place]:.1f}%</td>{deep}</tr>'
        )
    deep_head = "" if answer.deep is None else '<th scope="col" colspan="2">deep encoder</th>'
    count = len(answer.members)
    named = round(answer.agreement * count)
    return (
        f'<div class="tlm">{notes(answer.notes)}<p role="status">The committee says <strong>{escape(best)}</strong> '
        f"({100 * answer.probabilities[order[0]]:.1f}%); {named} of {count} members agree. Entropy "
        f"{answer.entropy:.2f} nats, of which {answer.mutual_information:.2f} are disagreement between members "
        "(before calibration).</p>"
        f'<table>{caption("Probabilities by class")}<thead><tr><th scope="col">class</th>'
        f'<th scope="col" colspan="2">committee</th>{deep_head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def heat_map(answer: Answer) -> str:
    """Members x classes, each cell with its probability."""
    order = np.argsort(-answer.probabilities)[:10]
    head = "".join(f'<th scope="col">{escape(answer.labels[place])}</th>' for place in order)
    rows = ""
    for number, member in enumerate(answer.members):
        cells = "".join(
            f'<td class="heat" style="{_heat(member[place])}">'
            f"{'<strong>' if place == member.argmax() else ''}{100 * member[place]:.0f}%"
            f"{'</strong>' if place == member.argmax() else ''}</td>"
            for place in order
        )
        rows += f'<tr><th scope="row">member {number}</th>{cells}</tr>'
    head = f'<thead><tr><th scope="col">votes</th>{head}</tr></thead>'
    return f'<div class="tlm"><table>{caption("Probabilities by member")}{head}<tbody>{rows}</tbody></table></div>'


def latency(answer: Answer) -> str:
    """Milliseconds of both as bars."""
    longest = max(answer.milliseconds.values())
    of_runs = "The faster of 2 runs" if answer.runs == 2 else f"Median of {answer.runs} runs"
    names = {"committee": f"committee of {len(answer.members)}", "deep": "deep encoder"}
    rows = "".join(
        f'<tr><th scope="row">{names[name]}</th><td class="track"><span class="bar {name}" '
        f'style="width:{100 * value / longest:.1f}%"></span></td><td class="number">{value:.2f} ms</td></tr>'
        for name, value in answer.milliseconds.items()
    )
    return (
        f'<div class="tlm"><table>{caption("Latency")}<tbody>'
        f"{rows}</tbody></table>"
        f"<p>{of_runs} on this server just now, tokenisation included.</p></div>"
    )


def attention(answer: Answer, member: int | None, head: int | None) -> str:
    """The tokens, darker where [CLS] reads more.

    Args:
        answer: of a text.
        member: which member; None for the mean of all.
        head: which attention head; None for the mean of all.
    """
    chosen = [weights for number, weights in answer.attention.items() if member in (None, number)]
    rows = [weights.mean(axis=0) if head is None else weights[head] for weights in chosen
            if head is None or head < len(weights)]  # fmt: skip
    if not rows:
        who = "These members have" if member is None else f"Member {member} has"
        what = "no single layer of attention over the tokens" if not chosen else f"no head {head}"
        return f'<div class="tlm"><p>{who} {what} to show.</p></div>'
    weights = sum(rows) / len(rows)
    largest = max(float(weights[1:].max()) if len(weights) > 1 else 0.0, 1e-9)
    most = np.argsort(-weights)[:5]
    spoken = ", ".join(f"{escape(answer.tokens[place])} {100 * weights[place]:.0f}%" for place in most)
    spans = " ".join(
        f'<span style="{_heat(weight / largest)}" title="{100 * weight:.1f}%">{escape(token)}</span>'
        for token, weight in zip(answer.tokens, weights.tolist(), strict=True)
    )
    return f'<div class="tlm"><p class="sr-only">Most attention: {spoken}.</p><p class="words">{spans}</p></div>'


def masks(name: str, found: list[list[tuple[str, float]]]) -> str:
    """The likely tokens of each mask."""
    columns = "".join(f'<th scope="col">mask {place + 1}</th>' for place in range(len(found)))
    rows = "".join(
        "<tr>" + "".join(
            f'<td style="{_heat(tokens[rank][1])}">{escape(tokens[rank][0])} {100 * tokens[rank][1]:.1f}%</td>'
            for tokens in found
        ) + "</tr>"
        for rank in range(len(found[0]))
    )  # fmt: skip
    return (
        f'<div class="tlm"><h3>{escape(name)}</h3><table>{caption(f"Likely tokens by {name}")}'
        f"<thead><tr>{columns}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def overlap(found: dict[str, float], marked: str, words: Sequence[str]) -> str:
    """The measures and the text with unseen tokens marked."""
    rows = (
        ("tokens", f"{found['tokens']:,}"),
        ("different tokens", f"{found['types']:,}"),
        (f"of these seen in pre-training (at least {MIN_COUNT} times)", f"{100 * found['types_seen']:.1f}%"),
        ("occurrences seen in pre-training", f"{100 * found['occurrences_seen']:.1f}%"),
        ("divergence from the pre-training text", f"{found['divergence']:.3f} bits"),
    )
    table = "".join(f'<tr><th scope="row">{name}</th><td class="number">{value}</td></tr>' for name, value in rows)
    head = caption("Overlap with the pre-training text")
    return (
        f'<div class="tlm">{notes(words)}<table>{head}<tbody>{table}</tbody></table><p class="words">{marked}</p></div>'
    )


def committee(rows: list[dict[str, float | str]], milliseconds: dict[str, float]) -> str:
    """Accuracy, calibration and latency of a committee, its members and the deep encoder."""
    body = ""
    for row in rows:
        model, time = str(row["model"]), milliseconds.get(str(row["model"]))
        cells = [f"{100 * float(row['accuracy']):.1f}%", f"{float(row['calibration_error']):.3f}"]
        cells += [
            f"{float(row['loss']):.3f}",
            f"{float(row['temperature']):.2f}",
            "" if time is None else f"{time:.2f}",
        ]
        numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        body += f'<tr><th scope="row">{escape(model)}</th>{numbers}</tr>'
    return (
        f'<div class="tlm"><table>{caption("Committee, members and deep encoder on test texts")}<thead><tr>'
        '<th scope="col">model</th><th scope="col">accuracy</th>'
        '<th scope="col">calibration error</th><th scope="col">negative log-likelihood</th>'
        '<th scope="col">temperature</th><th scope="col">ms for one text</th></tr></thead>'
        f"<tbody>{body}</tbody></table>"
        "<p>Each is calibrated by a temperature of its own, fitted on the validation texts.</p></div>"
    )
