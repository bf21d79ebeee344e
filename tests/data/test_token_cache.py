"""Texts are tokenised once: the cache holds what the tokenizer gives, and is whole, rebuilt, or not there.

Oracles: stock `tokenizer(text, truncation=True)`; processes that are killed, that run into a real limit of the file
size, or that all ask at once.
"""

import json
import logging
import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest
from helpers_commands import write_corpus

import tlm_hf.data.token_cache as token_cache
from tlm_hf.data.token_cache import TokenTable, tokenize_once
from tlm_hf.data.tokenization import TextColumn, encoder_of, train_wordpiece
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
    """The files of a folder without the locks and checksums."""
    return sorted(path.name for path in root.iterdir() if path.suffix not in (".lock", ".sha256"))


@pytest.fixture
def small_batches(monkeypatch):
    """Several record batches, so that texts are looked up across their borders."""
    batches = TextColumn.batches
    monkeypatch.setattr(TextColumn, "batches", lambda self, size=7: batches(self, size))


def test_the_cache_holds_what_the_tokenizer_gives(trained, texts, tmp_path, small_batches):
    table = tokenize_once(as_table(texts), trained, LENGTH, cache_dir=tmp_path)
    wanted = expected(trained, texts)
    assert [ids.tolist() for ids in table] == wanted
    assert table[3].dtype == np.int32
    assert table.lengths.tolist() == [len(ids) for ids in wanted]
    assert table[-1].tolist() == wanted[-1]
    assert not table[0].flags.owndata  # it lies in the file
    assert table.path is not None
    with pytest.raises(IndexError):
        table[len(texts)]
    chosen = [5, 199, 0, 5]
    for view in (table.select(chosen), table.select(range(10, 200)).select([0])[:1], table[150:160]):
        rows = view.rows.tolist()
        assert [ids.tolist() for ids in view] == [wanted[row] for row in rows]
        assert [ids.tolist() for ids in pickle.loads(pickle.dumps(view))] == [wanted[row] for row in rows]
    assert table.select(chosen).rows.tolist() == chosen
    opened = datasets.Dataset.from_file(str(table.path))  # an ordinary table to others
    assert opened.features == datasets.Features({"input_ids": datasets.List(datasets.Value("int32"))})
    assert opened["input_ids"][:] == wanted


def test_the_tokenizers_own_state_is_neither_used_nor_changed(trained, texts, tmp_path):
    other = pickle.loads(pickle.dumps(trained))
    other(texts[:2], truncation=True, max_length=5, padding="max_length")
    before = other.backend_tokenizer.truncation, other.backend_tokenizer.padding
    assert None not in before
    ids, lengths = encoder_of(other, LENGTH)(texts)
    wanted = expected(trained, texts)
    assert ids.tolist() == [token for row in wanted for token in row]
    assert lengths.tolist() == [len(row) for row in wanted]
    assert (other.backend_tokenizer.truncation, other.backend_tokenizer.padding) == before
    left = pickle.loads(pickle.dumps(trained))
    left.truncation_side = "left"
    for tokenizer in (other, left):
        table = tokenize_once(as_table(texts), tokenizer, LENGTH, cache_dir=tmp_path)
        assert [row.tolist() for row in table] == expected(tokenizer, texts)


def test_another_text_tokenizer_or_length_makes_another_cache(trained, texts, tmp_path, monkeypatch):
    def make(texts=texts, tokenizer=trained, length=LENGTH, column="text"):
        return tokenize_once(
            as_table(texts, column), tokenizer, length, text_column=column, cache_dir=tmp_path
        ).path.name

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
    monkeypatch.setattr(token_cache, "encoder_of", None)  # nothing is tokenised from here on
    rows = as_table([*texts, "left out"]).select(range(len(texts)))
    assert tokenize_once(rows, trained, LENGTH, cache_dir=tmp_path).path.name == first
    assert make(column="content") == first
    monkeypatch.setattr(token_cache, "FORMAT", 99)
    with pytest.raises(TypeError):
        make()


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "one bit": flip,
    "no tokens": lambda path: path.unlink(),
    "no checksum": lambda path: path.with_suffix(".sha256").unlink(),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_cache_is_made_again(trained, texts, tmp_path, how):
    table = tokenize_once(as_table(texts), trained, LENGTH, cache_dir=tmp_path)
    before = table.path.read_bytes()
    DAMAGE[how](table.path)
    again = tokenize_once(as_table(texts), trained, LENGTH, cache_dir=tmp_path)
    assert [ids.tolist() for ids in again] == expected(trained, texts)
    assert again.path.read_bytes() == before
    assert files(tmp_path) == [table.path.name]


def test_where_nothing_can_be_written_tokens_stay_in_memory(trained, texts, tmp_path, caplog, one_sentence):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        table = tokenize_once(as_table(texts), trained, LENGTH, cache_dir=tmp_path / "file" / "below")
    assert table.path is None
    assert [ids.tolist() for ids in table] == expected(trained, texts)
    (message,) = (record.getMessage() for record in caplog.records)
    assert str(tmp_path) in one_sentence(message)
    assert [ids.tolist() for ids in pickle.loads(pickle.dumps(table[3:5]))] == expected(trained, texts[3:5])
    assert files(tmp_path) == ["file"]


def test_no_texts_and_rows_without_text(trained, tmp_path, one_sentence):
    none = datasets.Dataset.from_dict({"text": []}, features=datasets.Features({"text": datasets.Value("string")}))
    for _ in range(2):
        table = tokenize_once(none, trained, LENGTH, cache_dir=tmp_path)
        assert len(table) == len(table.lengths) == len(list(table)) == 0
        assert isinstance(table[:], TokenTable)
    with pytest.raises(UserError, match="1 rows without text") as caught:
        tokenize_once(as_table(["a", None]), trained, LENGTH, cache_dir=tmp_path)
    one_sentence(caught.value)


PROCESSES = """
import hashlib, json, logging, os, resource, signal, sys
from pathlib import Path
import datasets
import tlm_hf.data.token_cache as cache
from tlm_hf.data.tokenization import load_tokenizer

home = Path(sys.argv[1])
dataset = datasets.load_from_disk(str(home / "texts"))
tokenizer = load_tokenizer(str(home / "tokenizer"))
write, batches = cache._write, cache._batches

def digest(table):
    return hashlib.sha256(json.dumps([ids.tolist() for ids in table]).encode()).hexdigest()

def children(count, prepare):
    for index in range(count):
        if os.fork() == 0:
            root, log = prepare(index)
            root.mkdir(exist_ok=True)
            logging.basicConfig(filename=log, force=True, format="%(message)s")
            def counted(*arguments):
                with log.with_suffix(".writes").open("a") as file:
                    file.write("x")
                write(*arguments)
            cache._write = counted
            table = cache.tokenize_once(dataset, tokenizer, 12, cache_dir=root)
            log.with_suffix(".digest").write_text(json.dumps([digest(table), table.path is None]))
            os._exit(0)
    ends = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(count)]
    return ends

def at_once(index):
    return home / "together", home / f"together-{index}.log"

def killed(index):
    def die(*arguments):
        yield from list(batches(*arguments))
        os.kill(os.getpid(), signal.SIGKILL)
    cache._batches = die
    return home / "killed", home / "killed.log"

def full(index):
    root = home / "full"
    root.mkdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return root, home / "full.log"

ends = {"together": children(4, at_once)}
ends["killed"] = children(1, killed)
left = sorted(path.name for path in (home / "killed").iterdir())
ends["full"] = children(1, full)
print(json.dumps([ends, left]))
"""


def test_processes_that_are_killed_run_out_of_room_or_ask_at_once(trained, texts, tmp_path, run_with_package):
    as_table(texts).save_to_disk(tmp_path / "texts")
    trained.save_pretrained(tmp_path / "tokenizer")
    ends, left = run_with_package(PROCESSES, str(tmp_path))
    assert ends == {"together": [0] * 4, "killed": [-9], "full": [0]}
    table = tokenize_once(as_table(texts), trained, LENGTH, cache_dir=tmp_path / "killed")
    assert [ids.tolist() for ids in table] == expected(trained, texts)

    # Killed while it wrote: what it left is no cache, and is gone after the next one.
    assert [name for name in left if not name.endswith(".lock")] == [table.path.with_suffix(".partial").name]
    assert files(tmp_path / "killed") == [table.path.name]

    # All at once: one wrote, all read the same.
    answers = [json.loads((tmp_path / f"together-{index}.digest").read_text()) for index in range(4)]
    assert answers == [answers[0]] * 4
    assert answers[0][1] is False
    assert (tmp_path / "together" / table.path.name).read_bytes() == table.path.read_bytes()
    assert "".join(path.read_text() for path in tmp_path.glob("together-*.writes")) == "x"

    # No room: the same tokens, from memory, one sentence, and nothing half-written.
    assert json.loads((tmp_path / "full.digest").read_text()) == [answers[0][0], True]
    assert files(tmp_path / "full") == []
    (sentence,) = (tmp_path / "full.log").read_text().splitlines()
    assert "File too large" in sentence
