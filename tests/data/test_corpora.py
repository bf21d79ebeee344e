"""Corpora from files: which texts are chosen, what is kept with them, at what cost in memory, and what is refused."""

import hashlib
import json
import resource
import tracemalloc
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import refusal
from helpers_commands import write_corpus
from hypothesis import given
from hypothesis import strategies as st

from tlm_hf.data.corpora import corpus_hash, load_corpus
from tlm_hf.data.sources import text_hash
from tlm_hf.errors import UserError

RAW = [
    *(f"text number {index % 70}" for index in range(90)),
    *("  text number 3 ", "", " \n", None, "\u00a0number 80\u2003", "naïve ☕"),
]


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def write(path: Path, texts, column="text") -> str:
    pq.write_table(pa.table({"other": list(range(len(texts))), column: texts}), path, row_group_size=40)
    return str(path)


def plain_choice(raw, seed, wanted, validation_texts) -> tuple[list[str], list[str]]:
    """Training and held-out texts of a corpus, as lists make them."""

    def by_hash(texts, key):
        return sorted(texts, key=lambda text: hashlib.sha256(f"{key}\0{text}".encode()).digest())

    texts = list(dict.fromkeys(text.strip() for text in raw if text is not None and text.strip()))
    held_out = by_hash(texts, "validation")[: max(1, min(validation_texts, len(texts) // 10))]
    return by_hash([text for text in texts if text not in held_out], seed)[:wanted], held_out


class TestChoice:
    def test_what_is_held_out_or_not_read_is_said(self, cache, caplog):
        table = datasets.Dataset.from_dict({"body": [f"text {index}" for index in range(40)]})
        corpus = load_corpus(datasets.DatasetDict(train=table, validation=table.select(range(25)), test=table))
        assert len(corpus["train"]) == 15
        assert "left out 25 (also in the validation split)" in caplog.text
        assert "that are not read: test." in caplog.text
        words = "Every training text of 'DatasetDict' is in its validation split too"
        assert words in refusal(load_corpus, datasets.DatasetDict(train=table, validation=table))

    def test_a_corpus_with_repeated_and_empty_rows(self, tmp_path, cache, caplog):
        path = write(tmp_path / "corpus.parquet", RAW)
        corpus = load_corpus(path, num_texts=40, seed=2, validation_texts=5)
        train, held_out = plain_choice(RAW, 2, 40, 5)
        assert corpus["train"]["text"][:] == train
        assert corpus["validation"]["text"][:] == held_out
        assert corpus["train"].column_names == ["text", "id"]
        usable = [text.strip() for text in RAW if text is not None and text.strip()]
        assert f"{len(RAW) - len(usable)} (empty), {len(usable) - len(set(usable))} (duplicates)" in caplog.text
        for split in corpus.values():
            for row in split:
                place, number = row["id"].split("/")
                assert place == "train"
                assert RAW[int(number)].strip() == row["text"]
                assert row["text"] not in [(text or "").strip() for text in RAW[: int(number)]]
        assert corpus_hash(corpus) == text_hash(train + held_out)

    def test_any_texts_any_size(self, tmp_path, cache):
        count = iter(range(10**6))

        @given(st.lists(st.one_of(st.none(), st.text("ab \n\u3000é", max_size=4)), max_size=60), st.data())
        def check(raw, data):
            usable = {text.strip() for text in raw if text is not None and text.strip()}
            path = write(tmp_path / f"{next(count)}.parquet", pa.array(raw, pa.string()))
            if len(usable) < 2:
                with pytest.raises(UserError):
                    load_corpus(path)
                return
            held_out, seed = data.draw(st.integers(1, 9)), data.draw(st.integers(0, 3))
            most = len(usable) - max(1, min(held_out, len(usable) // 10))
            sizes = sorted(data.draw(st.tuples(*[st.integers(1, most)] * 2)))
            few, many = (load_corpus(path, num_texts=size, seed=seed, validation_texts=held_out) for size in sizes)
            for corpus, size in zip((few, many), sizes, strict=True):
                assert (corpus["train"]["text"][:], corpus["validation"]["text"][:]) == plain_choice(
                    raw, seed, size, held_out
                )
            assert few["train"]["id"][:] == many["train"]["id"][: sizes[0]]
            with pytest.raises(UserError, match=f"at most {most}[.]"):
                load_corpus(path, num_texts=most + 1, seed=seed, validation_texts=held_out)

        check()

    def test_loaded_tables_are_chosen_from_as_a_file_is(self, tmp_path, cache):
        path = write(tmp_path / "corpus.parquet", RAW, column="body")
        table = datasets.Dataset.from_dict({"body": RAW})
        options = {"num_texts": 40, "seed": 2, "validation_texts": 5, "text_column": "body"}
        loaded, read = load_corpus(table, **options), load_corpus(path, **options)
        assert corpus_hash(loaded) == corpus_hash(read)
        assert loaded["train"]["id"][:] == read["train"]["id"][:]
        own = datasets.DatasetDict(
            train=table, validation=datasets.Dataset.from_dict({"body": ["text number 5", "new"]})
        )
        splits = load_corpus(own, text_column="body")
        assert sorted(splits["validation"]["text"]) == ["new", "text number 5"]
        assert "text number 5" not in splits["train"]["text"][:]
        assert load_corpus(table)["train"]["text"][:] == load_corpus(table, text_column="body")["train"]["text"][:]
        with pytest.raises(UserError, match="no column 'text'"):
            load_corpus(table.add_column("title", RAW))
        with pytest.raises(UserError, match="revision"):
            load_corpus(table, text_column="body", revision="main")


def test_texts_do_not_pile_up_in_memory(tmp_path, cache):
    """20 MB of text are chosen with a small part of it held by Python, and stay in a file."""
    raw = [f"{index} " + "word " * 400 for index in range(10_000)]
    size = sum(map(len, raw))
    path = write(tmp_path / "corpus.parquet", raw)
    del raw
    tracemalloc.start()
    corpus = load_corpus(path)
    corpus_hash(corpus)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.45 * size
    assert all(split.cache_files for split in corpus.values())


class TestRefusals:
    def test_damaged_files(self, tmp_path, cache):
        whole = Path(write(tmp_path / "whole.parquet", RAW))
        bad = {
            "truncated.parquet": whole.read_bytes()[:-50],
            "half.parquet": whole.read_bytes()[:200],
            "latin.txt": "café\n".encode("latin-1") * 9,
            "latin.csv": b"text,label\n" + "café,a\n".encode("latin-1") * 9,
            "latin.json": json.dumps([{"text": "café"}], ensure_ascii=False).encode("latin-1"),
            "latin.jsonl": json.dumps({"text": "café"}, ensure_ascii=False).encode("latin-1") * 3,
        }
        for name, content in bad.items():
            (tmp_path / name).write_bytes(content)
            sentence = refusal(load_corpus, str(tmp_path / name))
            assert name in sentence
            assert name.startswith("latin") == ("UTF-8" in sentence), sentence
            folder = tmp_path / name.replace(".", "_")
            folder.mkdir()
            (folder / f"a{Path(name).suffix}").write_bytes(
                whole.read_bytes() if name.endswith("parquet") else b'{"text": "b"}\n{"text": "c"}\n'
            )
            (folder / name).write_bytes(content)
            assert name in refusal(load_corpus, str(folder)), name
        assert not [file for file in cache.rglob("*") if file.suffix == ".arrow" or "incomplete" in file.name]

    def test_columns_and_numbers_of_texts(self, tmp_path, cache):
        path = write(tmp_path / "corpus.parquet", RAW)
        assert "'body'" in refusal(load_corpus, path, text_column="body")
        assert "--text-column" in refusal(load_corpus, path, text_column="other")
        assert "at least 1" in refusal(load_corpus, path, validation_texts=0)
        assert "at least 1" in refusal(load_corpus, path, num_texts=0)
        assert "at most 65" in refusal(load_corpus, path, num_texts=66)
        for name, texts in (("blank", ["", " \n", None]), ("none", [None, None]), ("one", ["a", "a", " a"])):
            blank = write(tmp_path / f"{name}.parquet", pa.array(texts, pa.string()))
            assert f"{name}.parquet" in refusal(load_corpus, blank)
        nulls = write(tmp_path / "nulls.parquet", pa.nulls(5))
        assert "nulls.parquet" in refusal(load_corpus, nulls)
        lists = write(tmp_path / "lists.parquet", [["a"], ["b"]] * 5)
        assert "lists.parquet" in refusal(load_corpus, lists)

    @pytest.mark.parametrize(
        ("names", "formats"),
        [(("train.csv", "test.parquet"), ".csv, .parquet"), (("inner/a.jsonl", "b.csv", "c.csv"), ".csv, .jsonl")],
    )
    def test_folders_of_mixed_formats(self, tmp_path, cache, names, formats):
        for name in names:
            path = tmp_path / "folder" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("text\none\n")
        sentence = refusal(load_corpus, str(tmp_path / "folder"))
        assert formats in sentence
        assert "folder" in sentence

    def test_a_disk_that_fills_up(self, tmp_path, cache):
        path = write_corpus(tmp_path / "corpus.txt", texts=2000)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            sentence = refusal(load_corpus, str(path))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert str(cache) in sentence
        assert "HF_DATASETS_CACHE" in sentence
        left = [file for file in cache.rglob("*") if file.is_file() and file.suffix != ".lock"]
        assert not left
        assert len(load_corpus(str(path))["train"]) == 1800


def test_options_without_a_use_are_refused(tmp_path, cache):
    (tmp_path / "wikipedia").mkdir()
    path = write(tmp_path / "wikipedia" / "train.parquet", RAW)
    assert len(load_corpus("wikipedia", root=str(tmp_path))["train"]) == 65
    for options in ({"revision": "deadbeef"}, {"unit": "article"}):
        assert next(iter(options.values())) in refusal(load_corpus, "wikipedia", root=str(tmp_path), **options)
    assert "docstrings" in refusal(load_corpus, "docstrings", text_column="body")
    book = write_corpus(tmp_path / "book.txt", texts=9)
    assert "line or paragraph" in refusal(load_corpus, str(book), unit="article")
    assert len(load_corpus(str(book), unit="line")["train"]) == 8
    assert "'article'" in refusal(load_corpus, "docstrings", unit="article")
    assert "--text-column" in refusal(load_corpus, "wikimedia/wikipedia", text_column="title")
    assert "'v1'" in refusal(load_corpus, path, revision="v1")
