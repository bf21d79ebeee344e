"""Texts are tokenised once: the cache holds what the tokenizer gives, and is whole, rebuilt, or not there.

Oracles: stock `tokenizer(text, truncation=True)`; processes that are killed, that run into a real limit of the file
size, or that all ask at once.
"""

import json
import logging
import pickle
from pathlib import Path

import datasets
import filelock
import numpy as np
import pytest
from helpers_commands import refused, succeed, write_corpus

import tlm_hf.data.token_cache as token_cache
from tlm_hf.data.token_cache import TokenTable, cache_root, tokenize_once
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


def folders(root: Path) -> list[str]:
    """What lies there, but for the empty lock files."""
    return sorted(path.name for path in root.iterdir() if path.suffix != ".lock" or path.stat().st_size)


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
        ).path.parent.name

    first = make()
    moved = [texts[0] + texts[1][0], texts[1][1:], *texts[2:]]  # the same letters, cut elsewhere
    others = [
        make(texts=[*texts[:-1], "another"]),
        make(texts=texts[:-1]),
        make(texts=[texts[1], texts[0], *texts[2:]]),
        make(texts=moved),
        make(tokenizer=train_wordpiece(texts, vocab_size=190, max_length=24)),
        make(length=LENGTH + 1),
    ]
    assert len({first, *others}) == 7
    assert folders(tmp_path) == sorted({first, *others})
    monkeypatch.setattr(token_cache, "encoder_of", None)  # nothing is tokenised from here on
    rows = as_table([*texts, "left out"]).select(range(len(texts)))
    assert tokenize_once(rows, trained, LENGTH, cache_dir=tmp_path).path.parent.name == first
    assert make(column="content") == first
    monkeypatch.setattr(token_cache, "FORMAT", 2)
    with pytest.raises(TypeError):
        make()


def cut(folder):
    (folder / "tokens.arrow").write_bytes((folder / "tokens.arrow").read_bytes()[:-100])


def flip(folder):
    content = bytearray((folder / "tokens.arrow").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "tokens.arrow").write_bytes(content)


DAMAGE = {
    "cut short": cut,
    "one bit": flip,
    "no tokens": lambda folder: (folder / "tokens.arrow").unlink(),
    "no facts": lambda folder: (folder / "facts.json").unlink(),
    "half the facts": lambda folder: (folder / "facts.json").write_text('{"format": 1,'),
    "other facts": lambda folder: (folder / "facts.json").write_text("[1]"),
    "empty": lambda folder: [file.write_bytes(b"") for file in folder.iterdir()],
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_cache_is_made_again(trained, texts, tmp_path, how):
    table = tokenize_once(as_table(texts), trained, LENGTH, cache_dir=tmp_path)
    before = table.path.read_bytes()
    DAMAGE[how](table.path.parent)
    again = tokenize_once(as_table(texts), trained, LENGTH, cache_dir=tmp_path)
    assert [ids.tolist() for ids in again] == expected(trained, texts)
    assert again.path.read_bytes() == before
    assert folders(tmp_path) == [table.path.parent.name]
    assert folders(table.path.parent) == ["facts.json", "tokens.arrow"]


def test_where_nothing_can_be_written_tokens_stay_in_memory(trained, texts, tmp_path, caplog, one_sentence):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        table = tokenize_once(as_table(texts), trained, LENGTH, cache_dir=tmp_path / "file" / "below")
    assert table.path is None
    assert [ids.tolist() for ids in table] == expected(trained, texts)
    (message,) = (record.getMessage() for record in caplog.records)
    assert str(tmp_path) in one_sentence(message)
    assert [ids.tolist() for ids in pickle.loads(pickle.dumps(table[3:5]))] == expected(trained, texts[3:5])
    assert folders(tmp_path) == ["file"]


def test_a_readable_cache_needs_no_writing(trained, texts, tmp_path, monkeypatch):
    path = tokenize_once(as_table(texts), trained, LENGTH, cache_dir=tmp_path).path

    def refuse(*arguments, **options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(filelock, "FileLock", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert tokenize_once(as_table(texts), trained, LENGTH, cache_dir=tmp_path).path == path


def test_no_texts_and_rows_without_text(trained, tmp_path, one_sentence):
    none = datasets.Dataset.from_dict({"text": []}, features=datasets.Features({"text": datasets.Value("string")}))
    for _ in range(2):
        table = tokenize_once(none, trained, LENGTH, cache_dir=tmp_path)
        assert len(table) == len(table.lengths) == len(list(table)) == 0
        assert isinstance(table[:], TokenTable)
    with pytest.raises(UserError, match="1 rows without text") as caught:
        tokenize_once(as_table(["a", None]), trained, LENGTH, cache_dir=tmp_path)
    one_sentence(caught.value)


def test_the_cache_lies_where_datasets_keeps_its_own(run_with_package, tmp_path):
    code = """
import json, os, sys
os.environ.pop("HF_DATASETS_CACHE", None)
os.environ["HF_HOME"] = sys.argv[1]
from tlm_hf.data.token_cache import cache_root
print(json.dumps(str(cache_root())))
"""
    assert run_with_package(code, str(tmp_path)) == str(tmp_path / "datasets" / "tlm_hf" / "tokens")
    assert cache_root() == Path(datasets.config.HF_DATASETS_CACHE) / "tlm_hf" / "tokens"


PROCESSES = """
import contextlib, hashlib, json, logging, os, resource, signal, sys
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

@contextlib.contextmanager
def no_lock(folder):
    yield False

def without_locks(index):
    cache.sole_writer = no_lock
    return home / "unlocked", home / f"unlocked-{index}.log"

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

ends = {"together": children(4, at_once), "unlocked": children(4, without_locks)}
ends["killed"] = children(1, killed)
left = sorted(path.name for path in (home / "killed").iterdir())
ends["full"] = children(1, full)
print(json.dumps([ends, left]))
"""


def test_processes_that_are_killed_run_out_of_room_or_ask_at_once(trained, texts, tmp_path, run_with_package):
    as_table(texts).save_to_disk(tmp_path / "texts")
    trained.save_pretrained(tmp_path / "tokenizer")
    ends, left = run_with_package(PROCESSES, str(tmp_path))
    assert ends == {"together": [0] * 4, "unlocked": [0] * 4, "killed": [-9], "full": [0]}
    table = tokenize_once(as_table(texts), trained, LENGTH, cache_dir=tmp_path / "killed")
    key = table.path.parent.name
    here = [ids.tolist() for ids in table]
    assert here == expected(trained, texts)

    # Killed while it wrote: what it left is no cache, and is gone after the next one.
    assert len([name for name in left if name.endswith(".partial")]) == 1
    assert key not in left
    assert folders(tmp_path / "killed") == [key]

    def said(name):
        return json.loads((tmp_path / f"{name}.digest").read_text())

    # All at once: one wrote, all read the same; without locks each wrote, and one stayed.
    for name, writers in (("together", 1), ("unlocked", 4)):
        answers = [said(f"{name}-{index}") for index in range(4)]
        assert answers == [answers[0]] * 4
        assert answers[0][1] is False
        assert folders(tmp_path / name) == [key]
        assert (tmp_path / name / key / "tokens.arrow").read_bytes() == table.path.read_bytes()
        writes = [path.read_text() for path in tmp_path.glob(f"{name}-*.writes")]
        assert 1 <= len("".join(writes)) <= writers

    # No room: the same tokens, from memory, one sentence, and nothing half-written.
    assert said("full") == [said("together-0")[0], True]
    assert folders(tmp_path / "full") == []
    (sentence,) = (tmp_path / "full.log").read_text().splitlines()
    assert "File too large" in sentence
    assert sentence.endswith(").")


def test_the_benchmark_says_what_it_did(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TLM_DATA", raising=False)
    succeed("benchmark", "tokenizing", "--json", tmp_path / "speed.json")
    assert "TLM_DATA" in json.loads(capsys.readouterr().out)["skipped"]
    assert not (tmp_path / "speed.json").exists()
    assert "--repeats is 0" in refused(capsys, "benchmark", "tokenizing", "--repeats", 0)
