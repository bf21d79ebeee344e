"""Overlap-controlled subsets: equal sizes, ordered divergences, one choice in all processes, by training text alone."""

import itertools
import json

import numpy as np
import pytest
from conftest import refusal
from helpers_commands import labelled_rows, refused, shelf, succeed, write_corpus, write_csv
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.spatial.distance import jensenshannon

from tlm_hf.data.corpora import load_corpus
from tlm_hf.data.overlap import TokenOverlap
from tlm_hf.data.overlap_subsets import KINDS, divergence_gradient, select_subsets
from tlm_hf.data.sources import seeded_order
from tlm_hf.data.tasks import load_task
from tlm_hf.data.tokenization import load_tokenizer

VOCABULARY = 50


def matrix(rows, vocabulary: int) -> csr_matrix:
    return csr_matrix(np.array([np.bincount(row, minlength=vocabulary) for row in rows]))


def random_corpus(seed: int, texts: int, longest: int = 60, topics: int = 5) -> tuple[csr_matrix, list[str]]:
    """Texts that draw their tokens from topics, with lengths from 0 upwards, and a string that stands for each."""
    rng = np.random.default_rng(seed)
    of_topics = rng.dirichlet(np.full(VOCABULARY, 0.3), size=topics)
    rows = [rng.choice(VOCABULARY, rng.integers(0, longest), p=of_topics[rng.integers(topics)]) for _ in range(texts)]
    return matrix(rows, VOCABULARY), [f"{index}: {' '.join(map(str, row))}" for index, row in enumerate(rows)]


def counts_by_hand(tokens: csr_matrix, chosen) -> np.ndarray:
    return tokens.toarray()[chosen].sum(axis=0)


def bits(one: np.ndarray, other: np.ndarray) -> float:
    return float(jensenshannon(one, other, base=2) ** 2)


def select(tokens, names, task, *arguments, **options) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The chosen texts, and their divergence from the task."""
    subsets = select_subsets(tokens, names, task, *arguments, **options)
    return subsets, {kind: bits(counts_by_hand(tokens, chosen), task) for kind, chosen in subsets.items()}


@pytest.fixture(scope="module")
def corpus() -> tuple[csr_matrix, list[str]]:
    return random_corpus(0, 1500)


@pytest.fixture(scope="module")
def task_counts() -> np.ndarray:
    return np.random.default_rng(7).multinomial(3000, np.random.default_rng(8).dirichlet(np.full(VOCABULARY, 0.3)))


@given(seed=st.integers(0, 10**6), texts=st.integers(400, 900), share=st.floats(0.1, 0.4))
def test_sizes_are_equal_and_divergences_ordered(seed, texts, share):
    tokens, names = random_corpus(seed, texts)
    task = np.random.default_rng(seed + 1).multinomial(2000, np.random.default_rng(seed).dirichlet(np.ones(VOCABULARY)))
    wanted = int(share * texts)
    chosen, divergences = select(tokens, names, task, wanted, seed=seed)
    assert list(chosen) == list(KINDS)
    for kind in KINDS:
        assert len(chosen[kind]) == len(set(chosen[kind].tolist())) == wanted
        assert (tokens[chosen[kind]].sum(axis=1) > 0).all()
    sums = [counts_by_hand(tokens, chosen[kind]).sum() for kind in KINDS]
    assert max(sums) <= 1.01 * min(sums)
    assert divergences["high"] <= divergences["random"] <= divergences["low"]
    assert divergences["high"] < divergences["low"]


def test_close_to_the_best_and_worst_of_all_subsets():
    rng = np.random.default_rng(3)
    rows = rng.integers(0, 8, (14, 6))  # equal lengths: one stratum, so that every subset is allowed
    tokens = matrix(rows, 8)
    task = np.array([30, 20, 10, 5, 0, 1, 0, 9])
    chosen, _ = select(tokens, [str(index) for index in range(14)], task, 5)
    every = [
        bits(np.bincount(rows[list(some)].ravel(), minlength=8), task) for some in itertools.combinations(range(14), 5)
    ]
    every.sort()
    assert bits(counts_by_hand(tokens, chosen["high"]), task) <= every[len(every) // 100]
    assert bits(counts_by_hand(tokens, chosen["low"]), task) >= every[-len(every) // 100]


def test_gradient_by_finite_differences():
    rng = np.random.default_rng(0)
    P, Q = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(6))
    gradient = divergence_gradient(P, Q)
    for token in range(1, 6):  # along the simplex: what token gains, token 0 loses
        step = np.zeros(6)
        step[token], step[0] = 1e-5, -1e-5
        slope = (jensenshannon(P + step, Q, 2) ** 2 - jensenshannon(P - step, Q, 2) ** 2) / 2e-5
        assert slope == pytest.approx(gradient[token] - gradient[0], rel=1e-4, abs=1e-6)
    assert divergence_gradient(np.array([0.5, 0.0, 0.5]), np.array([0.0, 1.0, 0.0])).tolist() == [0.5, 0.0, 0.5]


def test_refining_never_ends_worse_than_the_first_round(corpus, task_counts):
    _, once = select(*corpus, task_counts, 300, rounds=1)
    _, often = select(*corpus, task_counts, 300)
    assert often["high"] < once["high"]
    assert often["low"] >= once["low"]
    assert often["low"] > 0.627  # steps as short as those of `high` end at 0.625


def test_order_and_random_choice_are_seeded_and_of_no_task(corpus, task_counts):
    tokens, texts = corpus
    chosen, _ = select(tokens, texts, task_counts, 200, seed=5)
    other_task, _ = select(tokens, texts, task_counts[::-1], 200, seed=5)
    assert chosen["random"].tolist() == other_task["random"].tolist()
    assert set(chosen["high"].tolist()) != set(other_task["high"].tolist())
    other_seed, _ = select(tokens, texts, task_counts, 200, seed=6)
    assert set(chosen["random"].tolist()) != set(other_seed["random"].tolist())
    # Another seed cuts other texts of equal lengths into the strata, no more.
    assert (
        len(np.intersect1d(chosen["high"], other_seed["high"]))
        > 150
        > len(np.intersect1d(chosen["random"], other_seed["random"]))
    )
    place = {index: rank for rank, index in enumerate(seeded_order(texts, 5))}
    for indices in chosen.values():
        assert [place[index] for index in indices.tolist()] == sorted(place[index] for index in indices.tolist())


def test_bad_requests_are_refused(corpus, task_counts):
    tokens, texts = corpus
    usable = int((tokens.sum(axis=1) > 0).sum())
    # Two of four texts: in seeded order those in the middle, 1100 tokens, but the task has only the first one's token.
    # Then the longest is as good as the third, and 101, 1001, 5001 and so on are what can be had.
    lengths = [1, 100, 1000, 5000]
    uneven = matrix([[token] * length for token, length in zip([40, 1, 2, 2], lengths, strict=True)], VOCABULARY)
    names = ["a", "b", "c", "d"]
    first, second, third, fourth = (names[index] for index in seeded_order(names, 0))
    names = [third, first, second, fourth]
    for arguments, culprit in (
        ((tokens, texts, task_counts, usable + 1), str(usable)),
        ((tokens, texts, task_counts, 0), "0 texts"),
        ((tokens, texts, np.zeros(VOCABULARY, dtype=int), 10), "task"),
        ((uneven, names, np.eye(VOCABULARY, dtype=int)[40], 2), "max_length"),
    ):
        assert culprit in refusal(select_subsets, *arguments)


def test_the_command_measures_as_the_class_does(tmp_path, capsys):
    task, corpus = write_csv(tmp_path / "land.csv", labelled_rows(30)), write_corpus(tmp_path / "corpus.txt", texts=200)
    encoder, named = shelf() / "encoder", tmp_path / "topics.csv"
    good = ("overlap", "--corpus", corpus, "--tasks", task, "--tokenizer", encoder, "--min-count", 2)
    named.write_text(task.read_text().replace("label", "topic", 1))
    assert "--label-column" in refused(capsys, *good[:4], named)
    succeed(*good[:4], named, *good[5:], "--label-column", "topic")
    capsys.readouterr()
    succeed(*good)
    (splits,) = json.loads(capsys.readouterr().out)["table"].values()
    texts, rows = load_corpus(str(corpus))["train"]["text"][:], load_task(str(task))["test"]["text"][:]
    theirs = TokenOverlap(load_tokenizer(str(encoder)), min_count=2, max_length=128).compute(texts, rows)
    assert splits["test"] == vars(theirs)
    assert "--num-texts" in refused(capsys, *good, "--num-texts", 0)
    assert "--max-length" in refused(capsys, *good, "--max-length", 2)
