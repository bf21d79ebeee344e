"""Several labels, a number, and pairs of texts beside scikit-learn: `TLM_DATA=DIR python examples/kinds.py FILE.json`.

The tables are made of AG News and DBpedia: two paragraphs joined have the labels of both; an article without its digits
has the year that it names first; a pair of news is of one class or of two. 300 rows (2,000 pairs) train, 500 test.
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

VALIDATION, TEST = 100, 500
YEAR = re.compile(r"\b(1[89]\d\d|20[0-2]\d)\b")


def shorten(text: str, words: int = 30) -> str:
    """The first words of a text."""
    return " ".join(text.split()[:words])


def read(name: str, split: str) -> list[tuple[str, int]]:
    """Texts and classes of a split, shuffled."""
    source = read_source(str(Path(str(data_root(None))) / name)).splits[split].shuffle(seed=0)
    source = source.select(range(min(20000, len(source))))
    text = "content" if name == "dbpedia_14" else "text"
    return list(zip(source[text][:], source["label"][:], strict=True))


def several_labels(split: str, count: int) -> list[Json]:
    """One paragraph, or two joined: one label or two."""
    rows, rng = read("dbpedia_14", split), np.random.default_rng(0)
    parts = [rows[2 * index : 2 * index + int(rng.integers(1, 3))] for index in range(count)]
    return [
        {"text": " ".join(shorten(text) for text, _ in part), "label": sorted({f"class {label}" for _, label in part})}
        for part in parts
    ]


def years(split: str, count: int) -> list[Json]:
    """Paragraphs without digits, and the year that they named first."""
    found = [(text, YEAR.search(text)) for text, _ in read("dbpedia_14", split)]
    rows = [{"text": re.sub(r"\d", "", text), "label": float(year[0])} for text, year in found if year]
    return rows[:count]


def pairs(split: str, count: int) -> list[Json]:
    """Two news, half of the time of one class."""
    rows = [(shorten(text), label) for text, label in read("ag_news", split)[: 2 * count]]
    rng, made = np.random.default_rng(0), []
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
}


def main(file: str, *names: str) -> None:
    """Train a committee of each kind, and write all scores."""
    results: Json = {}
    for name in names or KINDS:
        make, count, options = KINDS[name]
        rows = make("train", count + VALIDATION)
        splits = {"train": rows[:count], "validation": rows[count:], "test": make("test", TEST)}
        table = datasets.DatasetDict({split: datasets.Dataset.from_list(each) for split, each in splits.items()})
        with tempfile.TemporaryDirectory() as folder:
            _, report = train_committee(table, text="text", output_dir=f"{folder}/out", **options)
        kept = ("rows", "scores", "difference", "recommendation", "tfidf")
        results[name] = {each: report[each] for each in kept}
        write_json(Path(file), results | provenance())


if __name__ == "__main__":
    main(*sys.argv[1:])
