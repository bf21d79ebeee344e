"""Exact and near duplicates between training and held-out texts."""

import random
import unicodedata
from collections.abc import Sequence

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlm_hf.data import near_duplicates
from tlm_hf.data.near_duplicates import drop_leaking, find_leakage
from tlm_hf.errors import UserError

WORDS = ["boat", "Mill", "river", "flour", "bridge", "SALT", "ü2", "ﬁsh", "and", "the"]


def slow_words(text: str) -> list[str]:
    words = [""]
    for letter in unicodedata.normalize("NFKC", text).casefold():
        if letter.isalnum():
            words[-1] += letter
        elif words[-1]:
            words.append("")
    return [word for word in words if word]


def slow_pairs(training: Sequence[str], held_out: Sequence[str]) -> list[tuple[int, int]]:
    """Every pair of duplicates."""
    found = []
    for one, text in enumerate(training):
        for other, held in enumerate(held_out):
            words, others = slow_words(text), slow_words(held)
            if words == others and (words or text.split() == held.split()):
                found.append((one, other))
                continue
            mine = {tuple(words[start : start + 5]) for start in range(len(words) - 4)}
            theirs = {tuple(others[start : start + 5]) for start in range(len(others) - 4)}
            if mine and theirs and len(mine & theirs) / min(len(mine), len(theirs)) >= 0.8:
                found.append((one, other))
    return found


def expect(training: Sequence[str], held_out: Sequence[str]) -> int:
    """Hold `find_leakage` against the oracle; returns the number of pairs."""
    pairs = slow_pairs(training, held_out)
    assert set(np.flatnonzero(find_leakage(training, held_out))) == {one for one, _ in pairs}
    return len(pairs)


@st.composite
def sides(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Texts of which many are copies of each other with a word changed, put in or left out."""
    base = draw(st.lists(st.lists(st.sampled_from(WORDS), max_size=14), min_size=1, max_size=5))
    rng = random.Random(draw(st.integers(0, 10**6)))
    result = []
    for _ in range(2):
        texts = []
        for _ in range(draw(st.integers(0, 9))):
            words = list(rng.choice(base))
            for _ in range(rng.choice([0, 0, 1, 1, 2])):
                place = rng.randrange(len(words) + 1)
                words[place : place + rng.randrange(2)] = rng.choice([[], [rng.choice(WORDS)], rng.choice(base)])
            joined = rng.choice([" ", ", ", "_", " - ", "\n"]).join(words)
            texts.append(rng.choice([str, str.upper, str.title])(joined) + rng.choice(["", ".", " !", "—"]))
        result.append(texts)
    return result[0], result[1]


@pytest.mark.parametrize("batch", [250, 3])
def test_every_pair_is_that_of_the_definition(batch, monkeypatch):
    monkeypatch.setattr(near_duplicates, "BATCH", batch)
    seen = []

    @given(sides())
    @settings(max_examples=60)
    def check(texts):
        seen.append(expect(*texts))

    check()
    assert sum(seen) > 100


def test_four_of_five_shingles_are_near_and_three_of_four_are_not():
    nine, eight = list("abcdefghi"), list("abcdefgh")
    near = [" ".join([*nine[:-1], "x"]), " ".join([*eight[:-1], "x"])]
    # The first keeps 4 of 5 shingles of the nine words, and all 4 of the eight; the second 3 of 4 of either.
    assert find_leakage(near, [" ".join(nine), " ".join(eight)]).tolist() == [True, False]
    assert not find_leakage(near[1:], [" ".join(eight)]).any()


def with_ids(texts: list[str], name: str) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": texts, "id": [f"{name}/{row}" for row in range(len(texts))]})


TRAINING = [
    "a small boat crosses the river in the morning",
    "the teacher reads a story about a small boat to the children",
    "A small boat crosses the river, in the evening",
    "The old baker reads in the evening; the children play",
]
HELD_OUT = [
    "children play by the bridge until the evening",
    "a small boat crosses the river in the evening",
    "the old baker reads in the evening the children play",
]


def labelled(texts: list[str], labels: list[int]) -> datasets.Dataset:
    rows = with_ids(texts, "train").add_column("label", labels)
    return rows.cast_column("label", datasets.ClassLabel(names=["a", "b"]))


def test_leaking_rows_are_dropped_and_counted_by_class(caplog):
    clean = drop_leaking(labelled(TRAINING, [0, 1, 0, 0]), "train", [with_ids(HELD_OUT[:2], "test")])
    assert clean["id"][:] == ["train/1", "train/3"]
    assert "2 texts of train" in caplog.text
    assert "1 of a, 1 of b" in caplog.text
    same = drop_leaking(clean, "train", [with_ids(["none of these"], "test")])
    assert same.to_list() == clean.to_list()
    with pytest.raises(UserError, match="'a'"):
        drop_leaking(labelled(TRAINING, [0, 1, 0, 0]), "train", [with_ids(HELD_OUT, "test")])


@pytest.mark.parametrize(
    ("labels", "feature"),
    [
        ([[0], [0, 1], [1], []], datasets.List(datasets.ClassLabel(names=["a", "b"]))),
        ([1.0, 2.0, 3.0, 4.0], datasets.Value("float64")),
    ],
)
def test_other_kinds_lose_their_leaks_too(labels, feature):
    rows = with_ids(TRAINING, "train").add_column("label", labels).cast_column("label", feature)
    clean = drop_leaking(rows, "train", [with_ids(HELD_OUT[:2], "test")])
    assert clean["id"][:] == ["train/1", "train/3"]
