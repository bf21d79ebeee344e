"""Several labels, a number, and pairs of texts beside scikit-learn: `TLM_DATA=DIR python examples/kinds.py FILE.json`.

The tables are made of AG News and DBpedia: two paragraphs joined have the labels of both; an article without its digits
has the year that it names first; a pair of news is of one class or of two. 300 rows (or 2,000), 100 more for
validation, on which members train in turn, and 500 test rows; of each kind five tables, one test split.
"""

import re
import sys
import tempfile
from pathlib import Path

import datasets
import numpy as np

from tlm_hf import train_committee
from tlm_hf.data.sources import data_root, read_source
from tlm_hf.runs.atomic_files import Json, write_json
from tlm_hf.runs.provenance import provenance
from tlm_hf.training.committee_report import COMMITTEE, LINEAR

VALIDATION, TEST, TABLES = 100, 500, 5
YEAR = re.compile(r"\b(1[89]\d\d|20[0-2]\d)\b")


def shorten(text: str, words: int = 30) -> str:
    """The first words of a text."""
    return " ".join(text.split()[:words])


def read(name: str, split: str, seed: int) -> list[tuple[str, int]]:
    """Texts and classes of a split, shuffled."""
    source = read_source(str(Path(str(data_root(None))) / name)).splits[split].shuffle(seed=seed)
    source = source.select(range(min(20000, len(source))))
    text = "content" if name == "dbpedia_14" else "text"
    return list(zip(source[text][:], source["label"][:], strict=True))


def several_labels(split: str, count: int, seed: int) -> list[Json]:
    """One paragraph, or two joined: one label or two."""
    rows, rng = read("dbpedia_14", split, seed), np.random.default_rng(seed)
    parts = [rows[2 * index : 2 * index + int(rng.integers(1, 3))] for index in range(count)]
    return [
        {"text": " ".join(shorten(text) for text, _ in part), "label": sorted({f"class {label}" for _, label in part})}
        for part in parts
    ]


def years(split: str, count: int, seed: int) -> list[Json]:
    """Paragraphs without digits, and the year that they named first."""
    found = [(text, YEAR.search(text)) for text, _ in read("dbpedia_14", split, seed)]
    rows = [{"text": re.sub(r"\d", "", text), "label": float(year[0])} for text, year in found if year]
    return rows[:count]


def pairs(split: str, count: int, seed: int) -> list[Json]:
    """Two news, half of the time of one class."""
    rows = [(shorten(text), label) for text, label in read("ag_news", split, seed)[: 2 * count]]
    rng, made = np.random.default_rng(seed), []
    for text, label in rows[:count]:
        same = rng.random() < 0.5
        others = [other for other, of_other in rows[count:] if (of_other == label) == same]
        made.append(
            {"text": text, "other": others[rng.integers(len(others))], "label": "same" if same else "different"}
        )
    return made


KINDS = {
    "several labels": (several_labels, 300, {"problem_type": "multi"}),
    "number": (years, 300, {"problem_type": "regression"}),
    "pairs": (pairs, 2000, {"text_pair": "other"}),
    "few pairs": (pairs, 300, {"text_pair": "other"}),
}


def main(file: str, *names: str) -> None:
    """Train committees of each kind; write all scores, and the means over the tables of what is compared."""
    results: Json = {}
    for name in names or KINDS:
        make, count, options = KINDS[name]
        scores, test = [], datasets.Dataset.from_list(make("test", TEST, 0))
        for seed in range(TABLES):
            rows = datasets.Dataset.from_list(make("train", count + VALIDATION, seed))
            splits = {"train": rows.select(range(count)), "validation": rows.select(range(count, len(rows)))}
            table = datasets.DatasetDict({**splits, "test": test})
            with tempfile.TemporaryDirectory() as folder:
                _, report = train_committee(table, text="text", output_dir=f"{folder}/out", **options)
            scores.append({row.pop("model"): row for row in report["scores"]})
        metric = next(iter(scores[0][COMMITTEE]))
        compared = (COMMITTEE, LINEAR, list(scores[0])[-1])
        means = {model: float(np.mean([of_table[model][metric]["value"] for of_table in scores])) for model in compared}
        results[name] = {"rows": count, "metric": metric, "means": means, "tables": scores}
        write_json(Path(file), results | provenance())


if __name__ == "__main__":
    main(*sys.argv[1:])
