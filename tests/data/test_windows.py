"""Texts are tokenised once; of their windows nothing is lost or repeated, and what is cut is counted."""

import pickle

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlm_hf.data import tokenization as module
from tlm_hf.data.tokenization import TextFacts, Windows, tokenize_once, train_wordpiece

CLS, SEP = 2, 3


class Tokens(list):
    """Token ids as a `TokenTable` has them."""

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(ids) for ids in self], dtype=np.int32)


def windows(tokenizer, texts, length, **options) -> list[list[int]]:
    return [
        row.tolist() for row in Windows(Tokens(np.array(ids, np.int32) for ids in texts), tokenizer, length, **options)
    ]


def test_windows_by_hand(tokenizer):
    assert (tokenizer.cls_token_id, tokenizer.sep_token_id) == (CLS, SEP)
    long, fits, short = list(range(10, 24)), list(range(30, 38)), [[50, 51], [52], [], [53, 54, 55, 56], [57]]
    # At most 10 tokens: 14 of a text make two windows of 7; 2 + 1 + 4 short ones and their [SEP]s would make 11.
    assert windows(tokenizer, [short[0], long, short[1], fits, *short[2:]], 10) == [
        [CLS, *long[:7], SEP],
        [CLS, *long[7:], SEP],
        [CLS, *fits, SEP],
        [CLS, 50, 51, SEP, 52, SEP],
        [CLS, 53, 54, 55, 56, SEP, 57, SEP],
    ]
    assert windows(tokenizer, [short[0], long, fits], 10, split=False) == [[CLS, *long[:8], SEP], [CLS, *fits, SEP]]


@given(sizes=st.lists(st.integers(0, 60), max_size=30), length=st.integers(8, 24))
def test_every_token_is_in_one_window(tokenizer, sizes, length):
    firsts = np.cumsum([0, *sizes])
    texts = [list(range(100 + first, 100 + first + size)) for first, size in zip(firsts, sizes, strict=False)]
    rows = windows(tokenizer, texts, length)
    assert sorted(token for row in rows for token in row if token >= 100) == list(range(100, 100 + sum(sizes)))
    assert all(len(row) <= length and row[0] == CLS and row[-1] == SEP for row in rows)
    tokens = Tokens(np.array(ids, np.int32) for ids in texts)
    made = Windows(tokens, tokenizer, length)
    assert made.lengths.tolist() == [len(row) for row in rows]
    for index in (len(made), -len(made) - 1):
        with pytest.raises(IndexError):
            made[index]
    assert [row.tolist() for row in pickle.loads(pickle.dumps(made))] == rows
    counts = np.bincount([token for row in rows for token in row], minlength=3000)
    assert made.counts(3000).tolist() == counts.tolist()


def test_first_windows_are_those_of_the_tokenizer(tokenizer, sentences):
    texts = [*sentences, "", "a mill", "the old mill " * 9]
    tokens = tokenize_once(datasets.Dataset.from_dict({"text": texts}), tokenizer)
    rows = [row.tolist() for row in Windows(tokens, tokenizer, 12, split=False, shortest=0)]
    assert rows == [tokenizer(text, truncation=True, max_length=12)["input_ids"] for text in texts]
    long = [row.tolist() for row in Windows(tokens, tokenizer, 12, split=False)]
    assert long == [row for row in rows if len(row) >= 8]


def test_what_is_cut_is_counted_and_said(tokenizer, caplog):
    facts = TextFacts.measure(np.array([10, 20, 40, 130]), 32, unknown=48)
    # 8 + 98 of 200 tokens are beyond the 32nd; 192 of 200 are no special tokens.
    assert facts == TextFacts(4, 32, 2, 0, 0.53, 130, 0.25)
    facts.warn_of_cut(512)
    facts.warn_of_cut(32)
    facts.warn_of_unknown()
    small, own, unknown = caplog.messages
    assert all(part in small for part in ("2 of 4 texts", "32 tokens", "53.0%", "--max-length 130"))
    assert "--max-length 130" in own
    assert "25.0%" in unknown
    short = TextFacts.measure(np.array([10, 20]), 32, 0)
    short.warn_of_cut(32)
    short.warn_of_unknown()
    assert len(caplog.messages) == 3
    texts = ["a mill", "the old mill \u2603 " * 40]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    unknown = sum(row.count(tokenizer.unk_token_id) for row in ids)
    assert unknown == 40
    expected = TextFacts.measure(np.array([len(row) for row in ids]), 16, unknown)
    assert TextFacts.of_texts(texts, tokenizer, 16) == expected


STRANGE = ["", "[MASK] and [SEP] in a text", "  tabs\tand\nnewlines  ", "naïve 東京 🙂", "a", "boat " * 50]


def as_table(texts):
    return datasets.Dataset.from_dict({"text": texts})


def expected(tokenizer, texts):
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return tmp_path / "tlm_hf" / "tokens"


def test_the_cache_holds_what_the_tokenizer_gives(cache, tokenizer, sentences):
    texts = [*sentences, *STRANGE] * 80  # more than one batch
    other = pickle.loads(pickle.dumps(tokenizer))
    other(texts[:2], truncation=True, max_length=5, padding="max_length")
    before = other.backend_tokenizer.truncation, other.backend_tokenizer.padding
    table = tokenize_once(as_table(texts), other)
    assert (other.backend_tokenizer.truncation, other.backend_tokenizer.padding) == before
    ids = expected(tokenizer, texts)
    assert [row.tolist() for row in table] == ids
    assert table[3].dtype == table.lengths.dtype == np.int32
    assert table.lengths.tolist() == [len(row) for row in ids]
    assert table[-1].tolist() == ids[-1]
    assert not table[0].flags.owndata  # it is in the file
    with pytest.raises(IndexError):
        table[len(texts)]
    sent = pickle.dumps(table)
    assert len(sent) < 5000  # the tokens are not sent to a worker
    assert [row.tolist() for row in pickle.loads(sent)] == ids


def test_another_text_or_tokenizer_makes_another_cache(cache, tokenizer, sentences, monkeypatch):
    texts = [*sentences, *STRANGE]

    def make(texts=texts, tokenizer=tokenizer):
        return tokenize_once(as_table(texts), tokenizer)

    first = make()
    make(texts=[*texts[:-1], "another"])
    make(texts=[texts[1], texts[0], *texts[2:]])
    make(texts=[texts[0] + texts[1][0], texts[1][1:], *texts[2:]])  # the same letters, cut elsewhere
    make(tokenizer=train_wordpiece(texts, vocab_size=90, max_length=24))
    splitting = pickle.loads(pickle.dumps(tokenizer))
    splitting.split_special_tokens = True  # [MASK] in a text is then letters
    split = [row.tolist() for row in make(tokenizer=splitting)]
    assert split == expected(splitting, texts) != expected(tokenizer, texts)
    assert len(list(cache.iterdir())) == 6
    monkeypatch.setattr(module, "encode_whole", lambda _: None)  # nothing is tokenised from here on
    rows = as_table([*texts, "left out"]).select(range(len(texts)))
    for again in (make(), tokenize_once(rows, tokenizer)):
        assert [row.tolist() for row in again] == [row.tolist() for row in first]
