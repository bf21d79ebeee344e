"""Texts are tokenised once: the cache holds what the tokenizer gives, and is whole or not there.

Oracles: stock `tokenizer(text, truncation=True)`; processes that are killed, that run into a real limit of the file
size, or that all ask at once.
"""

import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest
from helpers_commands import write_corpus

import tlm_hf.data.token_cache as token_cache
from tlm_hf.data.token_cache import tokenize_once
from tlm_hf.data.tokenization import TextColumn, train_wordpiece
from tlm_hf.errors import UserError

LENGTH = 12
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


def expected(tokenizer, texts, length=LENGTH):
    return [tokenizer(text, truncation=True, max_length=length)["input_ids"] for text in texts]


def files(root: Path) -> list[str]:
    """The names in a folder without the locks."""
    return sorted(path.name for path in root.iterdir() if path.suffix != ".lock")


def test_the_cache_holds_what_the_tokenizer_gives(trained, texts, tmp_path, monkeypatch):
    batches = TextColumn.batches
    monkeypatch.setattr(TextColumn, "batches", lambda self, size=7: batches(self, size))
    table = tokenize_once(as_table(texts), trained, LENGTH, cache_dir=tmp_path)
    ids = expected(trained, texts)
    assert [row.tolist() for row in table] == ids
    assert table[3].dtype == table.lengths.dtype == np.int32
    assert table.lengths.tolist() == [len(row) for row in ids]
    assert table[-1].tolist() == ids[-1]
    assert not table[0].flags.owndata  # it lies in the file
    with pytest.raises(IndexError):
        table[len(texts)]
    counts = np.bincount(np.concatenate(ids), minlength=len(trained))
    assert table.counts(len(trained)).tolist() == counts.tolist()
    rows = np.arange(10, 200)
    chosen = np.array([5, 199, 0, 5])
    for view, places in ((table.select(chosen), chosen), (table.select(rows)[2:9], rows[2:9]), (table[150:], None)):
        want = ids[150:] if places is None else [ids[place] for place in places]
        assert [row.tolist() for row in view] == want
        assert [row.tolist() for row in pickle.loads(pickle.dumps(view))] == want
    assert len(pickle.dumps(table[:3])) < 1000  # the tokens are not sent


def test_the_tokenizers_own_state_is_neither_used_nor_changed(trained, texts, tmp_path):
    other = pickle.loads(pickle.dumps(trained))
    other(texts[:2], truncation=True, max_length=5, padding="max_length")
    before = other.backend_tokenizer.truncation, other.backend_tokenizer.padding
    assert None not in before
    left = pickle.loads(pickle.dumps(trained))
    left.truncation_side = "left"
    tables = [tokenize_once(as_table(texts), tokenizer, LENGTH, cache_dir=tmp_path) for tokenizer in (other, left)]
    assert (other.backend_tokenizer.truncation, other.backend_tokenizer.padding) == before
    for table, tokenizer in zip(tables, (trained, left), strict=True):
        assert [row.tolist() for row in table] == expected(tokenizer, texts)


def test_another_text_tokenizer_or_length_makes_another_cache(trained, texts, tmp_path, monkeypatch):
    def make(texts=texts, tokenizer=trained, length=LENGTH, column="text"):
        table = tokenize_once(as_table(texts, column), tokenizer, length, text_column=column, cache_dir=tmp_path)
        return table.path.parent.name

    first = make()
    others = [
        make(texts=[*texts[:-1], "another"]),
        make(texts=[texts[1], texts[0], *texts[2:]]),
        make(texts=[texts[0] + texts[1][0], texts[1][1:], *texts[2:]]),  # the same letters, cut elsewhere
        make(tokenizer=train_wordpiece(texts, vocab_size=190, max_length=24)),
        make(length=LENGTH + 1),
    ]
    assert len({first, *others}) == 6
    assert files(tmp_path) == sorted({first, *others})
    monkeypatch.setattr(token_cache, "_write", None)  # nothing is tokenised from here on
    rows = as_table([*texts, "left out"]).select(range(len(texts)))
    assert tokenize_once(rows, trained, LENGTH, cache_dir=tmp_path).path.parent.name == first
    assert make(column="content") == first
    monkeypatch.setattr(token_cache, "FORMAT", 99)
    with pytest.raises(TypeError):
        make()


def test_a_cache_that_cannot_be_written_and_rows_without_text(trained, texts, tmp_path, one_sentence):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="HF_DATASETS_CACHE") as caught:
        tokenize_once(as_table(texts), trained, LENGTH, cache_dir=tmp_path / "file" / "below")
    assert str(tmp_path) in one_sentence(caught.value)
    with pytest.raises(UserError, match="1 rows without text") as caught:
        tokenize_once(as_table(["a", None]), trained, LENGTH, cache_dir=tmp_path)
    one_sentence(caught.value)
    assert files(tmp_path) == ["file"]


PROCESSES = """
import hashlib, json, os, resource, signal, sys
from pathlib import Path
import datasets
import tlm_hf.data.token_cache as cache
from tlm_hf.data.tokenization import load_tokenizer

home = Path(sys.argv[1])
dataset = datasets.load_from_disk(str(home / "texts"))
tokenizer = load_tokenizer(str(home / "tokenizer"))
write = cache._write

def children(count, name, prepare=lambda: None):
    for index in range(count):
        if os.fork() == 0:
            prepare()
            root, log = home / name, home / f"{name}-{index}"
            def counted(*arguments):
                log.with_suffix(".writes").write_text("x")
                write(*arguments)
                if name == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
            cache._write = counted
            try:
                table = cache.tokenize_once(dataset, tokenizer, 12, cache_dir=root)
                answer = hashlib.sha256(json.dumps([ids.tolist() for ids in table]).encode()).hexdigest()
            except cache.UserError as error:
                answer = str(error)
            log.with_suffix(".answer").write_text(answer)
            os._exit(0)
    return [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(count)]

def limit():
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

print(json.dumps([children(4, "together"), children(1, "killed"), children(1, "full", limit)]))
"""


def test_processes_that_are_killed_run_out_of_room_or_ask_at_once(trained, texts, tmp_path, run_with_package):
    as_table(texts).save_to_disk(tmp_path / "texts")
    trained.save_pretrained(tmp_path / "tokenizer")
    assert run_with_package(PROCESSES, str(tmp_path)) == [[0] * 4, [-9], [0]]

    # Killed while it wrote: what it left is no cache, and is gone after the next one.
    (left,) = files(tmp_path / "killed")
    assert left.endswith(".partial")
    table = tokenize_once(as_table(texts), trained, LENGTH, cache_dir=tmp_path / "killed")
    assert [ids.tolist() for ids in table] == expected(trained, texts)
    assert files(tmp_path / "killed") == [table.path.parent.name]

    # All at once: one wrote, all read the same.
    assert len({(tmp_path / f"together-{index}.answer").read_text() for index in range(4)}) == 1
    assert len(list(tmp_path.glob("together-*.writes"))) == 1
    other = tmp_path / "together" / table.path.parent.name / table.path.name
    assert other.read_bytes() == table.path.read_bytes()

    # No room: one sentence, and nothing half-written.
    assert "File too large" in (tmp_path / "full-0.answer").read_text()
    assert files(tmp_path / "full") == []


@pytest.mark.parametrize("damage", [lambda ids: ids.write_bytes(ids.read_bytes()[:-4]), lambda ids: ids.unlink()])
def test_a_damaged_cache_is_made_again(trained, texts, tmp_path, damage):
    table = tokenize_once(as_table(texts), trained, LENGTH, cache_dir=tmp_path)
    damage(table.path)
    table = tokenize_once(as_table(texts), trained, LENGTH, cache_dir=tmp_path)
    assert [ids.tolist() for ids in table] == expected(trained, texts)
