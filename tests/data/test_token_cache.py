"""Texts are tokenised once: the cache holds what the tokenizer gives, and is whole or not there."""

import pickle
import resource
from pathlib import Path

import datasets
import numpy as np
import pytest
from conftest import refusal
from helpers_commands import write_corpus

import tlm_hf.data.token_cache as token_cache
from tlm_hf.data.token_cache import tokenize_once
from tlm_hf.data.tokenization import train_wordpiece
from tlm_hf.errors import UserError

STRANGE = ["", "[MASK] and [SEP] in a text", "  tabs\tand\nnewlines  ", "naïve 東京 🙂", "a", "boat " * 50]


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> list[str]:
    path = write_corpus(tmp_path_factory.mktemp("texts") / "corpus.txt", texts=200)
    return [*path.read_text(encoding="utf-8").splitlines(), *STRANGE]


@pytest.fixture(scope="module")
def trained(texts):
    return train_wordpiece(texts, vocab_size=200, max_length=24)


def as_table(texts, column="text"):
    return datasets.Dataset.from_dict({column: texts})


def expected(tokenizer, texts):
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def files(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.suffix != ".lock")


def test_the_cache_holds_what_the_tokenizer_gives(trained, texts, tmp_path):
    texts = texts * 12  # more than one batch
    table = tokenize_once(as_table(texts), trained, cache_dir=tmp_path)
    ids = expected(trained, texts)
    assert [row.tolist() for row in table] == ids
    assert table[3].dtype == table.lengths.dtype == np.int32
    assert table.lengths.tolist() == [len(row) for row in ids]
    assert table[-1].tolist() == ids[-1]
    assert not table[0].flags.owndata  # it is in the file
    with pytest.raises(IndexError):
        table[len(texts)]
    sent = pickle.dumps(table)
    assert len(sent) < 3000  # the tokens are not sent to a worker
    assert [row.tolist() for row in pickle.loads(sent)] == ids


def test_the_tokenizers_own_state_is_neither_used_nor_changed(trained, texts, tmp_path):
    other = pickle.loads(pickle.dumps(trained))
    other(texts[:2], truncation=True, max_length=5, padding="max_length")
    before = other.backend_tokenizer.truncation, other.backend_tokenizer.padding
    assert None not in before
    table = tokenize_once(as_table(texts), other, cache_dir=tmp_path)
    assert (other.backend_tokenizer.truncation, other.backend_tokenizer.padding) == before
    assert [row.tolist() for row in table] == expected(trained, texts)


def test_another_text_or_tokenizer_makes_another_cache(trained, texts, tmp_path, monkeypatch):
    def make(texts=texts, tokenizer=trained, column="text"):
        return tokenize_once(as_table(texts, column), tokenizer, text_column=column, cache_dir=tmp_path)

    first = make()
    make(texts=[*texts[:-1], "another"])
    make(texts=[texts[1], texts[0], *texts[2:]])
    make(texts=[texts[0] + texts[1][0], texts[1][1:], *texts[2:]])  # the same letters, cut elsewhere
    make(tokenizer=train_wordpiece(texts, vocab_size=190, max_length=24))
    splitting = pickle.loads(pickle.dumps(trained))
    splitting.split_special_tokens = True  # [MASK] in a text is then letters
    split = [row.tolist() for row in make(tokenizer=splitting)]
    assert split == expected(splitting, texts) != expected(trained, texts)
    assert len(files(tmp_path)) == 6
    monkeypatch.setattr(token_cache, "encode_whole", lambda _: None)  # nothing is tokenised from here on
    rows = as_table([*texts, "left out"]).select(range(len(texts)))
    for again in (make(column="content"), tokenize_once(rows, trained, cache_dir=tmp_path)):
        assert [row.tolist() for row in again] == [row.tolist() for row in first]
    monkeypatch.setattr(token_cache, "FORMAT", 99)
    with pytest.raises(TypeError):
        make()


def test_a_cache_that_cannot_be_written(trained, texts, tmp_path):
    (tmp_path / "file").write_text("")
    said = refusal(tokenize_once, as_table(texts), trained, cache_dir=tmp_path / "file" / "below")
    assert "HF_DATASETS_CACHE" in said
    assert str(tmp_path) in said
    assert files(tmp_path) == ["file"]


def test_a_full_disk_leaves_nothing_and_a_damaged_cache_is_made_again(trained, texts, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(UserError, match="File too large"):
            tokenize_once(as_table(texts), trained, cache_dir=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(tmp_path) == []
    tokenize_once(as_table(texts), trained, cache_dir=tmp_path)
    (name,) = files(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:3000])
    table = tokenize_once(as_table(texts), trained, cache_dir=tmp_path)
    assert [row.tolist() for row in table] == expected(trained, texts)
