"""Token overlap: the measures and `TokenOverlap`."""

import math
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
from conftest import refusal
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from tlm_hf.data.overlap import TokenOverlap, count_tokens, encode_texts, jensen_shannon_bits, measure_overlap
from tlm_hf.errors import UserError

TASK = ["the teacher sails a boat", "the boat is new, the sail is old", "bread and salt, zzz"]


def counter_of(texts, tokenizer, max_length=None) -> Counter[str]:
    """Tokens' texts counted one by one, as training would cut them; special tokens left out by their names."""
    found: Counter[str] = Counter()
    for text in texts:
        tokens = tokenizer.tokenize(text)
        if max_length is not None:
            tokens = tokens[: max_length - 2]  # [CLS] and [SEP] take two places
        found.update(token for token in tokens if token not in {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"})
    return found


def by_hand(corpus: Counter[str], task: Counter[str], min_count: int) -> dict[str, float]:
    seen = {token for token, count in corpus.items() if count >= min_count}
    whole, part = sum(corpus.values()), sum(task.values())
    bits = 0.0
    for token in corpus.keys() | task.keys():
        p, q = corpus[token] / whole, task[token] / part
        bits += sum(x / 2 * math.log2(x / ((p + q) / 2)) for x in (p, q) if x)
    return {
        "type_coverage": len(seen & task.keys()) / len(task),
        "occurrence_coverage": sum(count for token, count in task.items() if token in seen) / part,
        "jensen_shannon_bits": bits,
    }


counts = st.lists(st.integers(0, 30), min_size=6, max_size=6).filter(any).map(np.array)


@given(corpus=counts, task=counts, min_count=st.integers(1, 12))
def test_measures_by_hand_and_by_scipy(corpus, task, min_count):
    found = measure_overlap(corpus, task, min_count)
    sides = [Counter({str(token): int(count) for token, count in enumerate(side) if count}) for side in (corpus, task)]
    assert found == pytest.approx(by_hand(*sides, min_count), abs=1e-12)
    assert found["jensen_shannon_bits"] == pytest.approx(jensenshannon(corpus, task, base=2) ** 2, abs=1e-9)
    assert found["jensen_shannon_bits"] == pytest.approx(jensen_shannon_bits(task, corpus), abs=1e-12)


def test_a_token_must_come_more_often_than_three_times_by_default():
    assert measure_overlap(np.array([3, 1]), np.array([2, 2]))["occurrence_coverage"] == 0


@pytest.mark.parametrize(("max_length", "batch"), [(None, 1000), (6, 5)])
def test_tokens_are_counted_as_a_counter_counts_them(tokenizer, sentences, monkeypatch, max_length, batch):
    monkeypatch.setattr("tlm_hf.data.overlap.BATCH", batch)
    texts = [*sentences, "", "[MASK] the [SEP]", "☃ boat"]
    tokens = encode_texts(texts, tokenizer, max_length)
    assert tokens.shape == (len(texts), len(tokenizer))
    assert tokens[len(sentences)].sum() == 0
    found = {tokenizer.convert_ids_to_tokens(int(i)): int(n) for i, n in enumerate(count_tokens(tokens)) if n}
    assert found == counter_of(texts, tokenizer, max_length)


def test_bad_sides_are_refused_in_one_sentence(tokenizer):
    some, none = np.array([1, 2, 0]), np.zeros(3, dtype=int)
    for corpus, task, culprit in ((none, some, "corpus"), (some, none, "task")):
        for measure in (jensen_shannon_bits, measure_overlap):
            assert culprit in refusal(measure, corpus, task)
    with pytest.raises(UserError, match="min_count"):
        measure_overlap(some, some, 0)
    assert not count_tokens(encode_texts([], tokenizer)).any()
    for sides in ((["☃"], TASK), (TASK, [])):
        with pytest.raises(UserError):
            TokenOverlap(tokenizer).compute(*sides)


def test_token_overlap_by_counter(tokenizer, sentences):
    found = asdict(TokenOverlap(tokenizer, min_count=2, max_length=9).compute(sentences, TASK))
    expected = by_hand(counter_of(sentences, tokenizer, 9), counter_of(TASK, tokenizer, 9), 2)
    assert found == pytest.approx(expected, abs=1e-12)
