"""What `tlm train-committee` says of its results, and that no text of the table acts in its page."""

from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np

from tlm_hf.cards import CardFacts, render_card
from tlm_hf.data.tokenization import TextFacts
from tlm_hf.evaluation.intervals import Interval
from tlm_hf.models.combination_committee import MULTI, SINGLE
from tlm_hf.runs.provenance import provenance
from tlm_hf.training.committee_report import COMMITTEE, LINEAR, TRIVIAL, doubtful_rows, notes, recommend, write_page

NASTY = "<script>alert(1)</script> & 'a'"
INTERVAL = {"value": 0.7512, "low": 0.6123, "high": 0.8891}
RESULTS = {
    "output_dir": "out",
    "rows": {"train": 42, "validation": 9, "test": 11},
    "reading": "left out 1 (empty text)",
    "kind": "2 classes",
    "problem_type": SINGLE,
    "labels": ["farm", NASTY],
    "scores": [{"model": name, "accuracy": INTERVAL, "macro_f1": INTERVAL} for name in ("committee", "majority class")],
    "classes": {name: {"precision": 0.1, "recall": 0.234, "f1": 0.3, "texts": 5.0} for name in ("farm", NASTY)},
    "class_rows": {"farm": 31, NASTY: 31},
    "doubtful": {"most uncertain": [{"text": NASTY, "label": "farm", "predicted": NASTY, "probability": 0.51}]},
    "members_without_words": [{}, {}],
    "keep_validation": False,
    "text_facts": vars(TextFacts(62, 128, 2, 0, 0.018, 90, 0.0, 512, 1)),
    "learning_curve": {
        "metric": "accuracy",
        "points": [{"rows": 10, "score": 0.5}, {"rows": 21, "score": 0.6}, {"rows": 42, "score": 0.65}],
        "gain": {"value": 0.05, "low": 0.01, "high": 0.09},
    },
    "frozen": {"latency": {"milliseconds": 0.871, "is_busy": True}},
    "time_budget": "Time budget 2m: 2 of 3 members.",
    "recommendation": "Take the committee.",
    "command": f"tlm train-committee {NASTY}",
    "date": "2025-01-02T03:04:05+00:00",
}


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_one_file_in_which_no_text_acts(tmp_path):
    (tmp_path / "learning_curve.png").write_bytes(b"\x89PNG")
    write_page(RESULTS | {"notes": notes(RESULTS)}, ["tlm predict"], tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    words = " ".join(page.words)
    assert "script" not in {tag for tag, _ in page.tags}
    assert words.count(NASTY) == 4  # class, answer, text, command
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert sources == ["data:image/png;base64,iVBORw=="]
    assert not {"href", "srcset"} & {name for _, attributes in page.tags for name in attributes}
    for shown in ("0.751 [0.612, 0.889]", "42 train", "0.234", "31", "Take the committee.", "2 texts", "tlm predict"):
        assert shown in words, shown


def test_rows_on_which_members_differ_are_shown_of_several_members_alone():
    columns = {"text": ["one", "two", "three"], "label": [1.0, 2.0, 3.0]}
    rows, votes = datasets.Dataset.from_dict(columns), np.array([[1.0, 3.0], [2.0, 2.5], [5.0, 9.0]])
    for members, said in ((2, "7 (spread 2)"), (1, "5")):
        values = votes[:, :members]
        joined: Any = SimpleNamespace(results={"labels": ["value"]}, member_logits=values[:, :, None])
        shown = doubtful_rows(rows, joined, values.mean(axis=1))
        assert [row["text"] for row in shown["members differ most"]] == ["three", "one", "two"][: 3 * (members > 1)]
        assert shown["largest errors"][0] == {"text": "three", "label": "3", "predicted": said, "probability": None}


def test_advice():
    about, advice = notes(RESULTS).values()
    assert "62 rows" in about[0]
    assert about[1] == "Of the source: left out 1 (empty text)."
    assert "11 test rows are few" in about[2]
    cut, share = "2 of 62 texts are longer than 128 tokens and are cut", "(1.8% of all tokens)"
    assert about[3] == f"{cut} for the members {share}; the table of words reads 512 (longer than that: 1)."
    assert notes(RESULTS | {"text_facts": RESULTS["text_facts"] | {"words": 128}})["about"][3] == f"{cut} {share}."
    assert about[4] == RESULTS["time_budget"]
    assert "0.600 with 21, 0.650 with 42" in advice[1]
    assert "+5.0 points (95% interval of the difference +1.0 to +9.0). More labels would help." in advice[1]
    assert "0.87 ms (unreliable" in advice[2]
    for low, high, said in ((-0.01, 0.11, "within chance"), (-0.005, 0.009, "would help little")):
        curve = RESULTS["learning_curve"] | {"gain": {"value": 0.005, "low": low, "high": high}}
        many = RESULTS | {"learning_curve": curve, "frozen": None, "rows": RESULTS["rows"] | {"test": 100}}
        assert said in notes(many)["advice"][1]
    assert "within chance" in notes(many | {"rows": RESULTS["rows"]})["advice"][1]


def test_a_model_no_better_than_the_majority_is_not_recommended():
    for accuracy, said in ((0.6, "Neither"), (0.8, "linear model")):
        of_model = {COMMITTEE: 0.5, LINEAR: accuracy, TRIVIAL[SINGLE]: 0.6}
        scores = [{"model": name, "accuracy": {"value": value}} for name, value in of_model.items()]
        sentence = recommend(Interval(0.5 - accuracy, -0.4, -0.01), scores)
        assert said in sentence
    assert "30.0 points of accuracy above the committee (95% interval of the difference +1.0 to +40.0)" in sentence


def test_names_of_the_table_are_escaped_in_its_card():
    results = RESULTS | {"reading": f"labels that differ in case: {NASTY}", "parameters": 3, **provenance()}
    facts = CardFacts("a table", plots={}, commands=[], licence="unknown", language=None, example="a new text")
    card = render_card("committee", "out", results | {"notes": notes(results)}, facts, "table")
    assert "Of the source: labels that differ in case: &lt;script" in card
    assert "<script" not in card
    assert "top_k" not in card
    several = results | {"notes": notes(results), "problem_type": MULTI, "threshold": 0.35}
    assert "`top_k=None`" in (card := render_card("committee", "out", several, facts, "table"))
    assert "at least 0.35 are the answer" in card
