"""Token overlap: the measures, `TokenOverlap`, the command.

Oracles: `collections.Counter` over the tokens' texts (not their ids), `CountVectorizer` on words, scipy's
Jensen-Shannon distance squared, and values by hand.
"""

import json
import math
import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import datasets
import numpy as np
import pytest
from helpers_commands import labelled_rows, write_corpus, write_csv
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from sklearn.feature_extraction.text import CountVectorizer

from tlm_hf.commands import overlap as command
from tlm_hf.data import overlap_report
from tlm_hf.data.overlap import (
    TokenOverlap,
    TokenTexts,
    count_tokens,
    encode_texts,
    jensen_shannon_bits,
    measure_overlap,
    occurrence_coverage,
    type_coverage,
)
from tlm_hf.data.tokenization import load_tokenizer
from tlm_hf.errors import UserError

DATA = os.environ.get("TLM_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="TLM_DATA is not set: no real text to read")
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
    """The three measures from two Counters, by plain Python."""
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
    assert all(0 <= value <= 1 for value in found.values())
    assert found["jensen_shannon_bits"] == pytest.approx(jensen_shannon_bits(task, corpus), abs=1e-12)
    assert type_coverage(corpus, task, min_count + 1) <= found["type_coverage"]
    assert occurrence_coverage(corpus, task, min_count + 1) <= found["occurrence_coverage"]


@given(corpus=counts, factor=st.integers(1, 5))
def test_a_corpus_covers_itself_and_does_not_diverge_from_itself(corpus, factor):
    found = measure_overlap(corpus, corpus * factor, 1)
    assert found == pytest.approx({"type_coverage": 1, "occurrence_coverage": 1, "jensen_shannon_bits": 0}, abs=1e-12)


def test_values_that_can_be_computed_in_the_head():
    corpus, task = np.array([3, 1, 0, 0]), np.array([2, 2, 4, 0])
    assert type_coverage(corpus, task, 1) == 2 / 3
    assert type_coverage(corpus, task, 2) == 1 / 3
    assert occurrence_coverage(corpus, task, 1) == 4 / 8
    assert occurrence_coverage(corpus, task, 2) == 2 / 8
    assert occurrence_coverage(corpus, task) == 0  # the default asks for more
    assert jensen_shannon_bits(np.array([1, 1, 0, 0]), np.array([0, 0, 5, 5])) == 1
    # P = (1, 0), Q = (1/2, 1/2), M = (3/4, 1/4)
    assert jensen_shannon_bits(np.array([7, 0]), np.array([1, 1])) == pytest.approx(
        math.log2(4 / 3) / 2 + (math.log2(2 / 3) + math.log2(2)) / 4
    )


@pytest.mark.parametrize("max_length", [None, 6])
def test_tokens_are_counted_as_a_counter_counts_them(tokenizer, sentences, max_length):
    texts = [*sentences, "", "[MASK] the [SEP]", "☃ boat"]
    tokens = encode_texts(texts, tokenizer, max_length)
    assert len(tokens) == len(texts) == len(tokens.lengths)
    assert tokens.lengths[len(sentences)] == 0
    found = {tokenizer.convert_ids_to_tokens(int(i)): int(n) for i, n in enumerate(count_tokens(tokens)) if n}
    assert found == counter_of(texts, tokenizer, max_length)
    some = np.array([8, 2, 5])
    part = {tokenizer.convert_ids_to_tokens(int(i)): int(n) for i, n in enumerate(count_tokens(tokens, some)) if n}
    assert part == counter_of([texts[index] for index in some], tokenizer, max_length)


def test_batches_change_nothing(tokenizer, sentences, monkeypatch):
    whole = encode_texts(sentences, tokenizer)
    monkeypatch.setattr("tlm_hf.data.overlap.BATCH", 5)
    parts = encode_texts(sentences, tokenizer)
    assert np.array_equal(whole.ids, parts.ids)
    assert np.array_equal(whole.offsets, parts.offsets)


def test_measures_by_scikit_learn(sentences):
    texts = [text.replace(",", "") for text in sentences]
    task = [text.replace(",", "") for text in TASK]
    matrix = CountVectorizer(token_pattern=r"\w+").fit([*texts, *task])
    corpus, wanted = (np.asarray(matrix.transform(side).sum(axis=0)).ravel() for side in (texts, task))
    expected = measure_overlap(corpus, wanted, 2)
    found = by_hand(Counter(" ".join(texts).split()), Counter(" ".join(task).split()), 2)
    assert found == pytest.approx(expected)


def test_bad_sides_are_refused_in_one_sentence(one_sentence, tokenizer):
    some, none = np.array([1, 2, 0]), np.zeros(3, dtype=int)
    for corpus, task, culprit in ((none, some, "corpus"), (some, none, "task"), (some, some[:2], "tokenizer")):
        for measure in (type_coverage, occurrence_coverage, jensen_shannon_bits, measure_overlap):
            with pytest.raises(UserError) as caught:
                measure(corpus, task)
            assert culprit in one_sentence(caught.value)
    with pytest.raises(UserError) as caught:
        type_coverage(some, some, 0)
    assert "min_count" in one_sentence(caught.value)
    empty = encode_texts([], tokenizer)
    assert len(empty) == 0
    assert not count_tokens(empty).any()
    for sides in ((["☃"], TASK), (TASK, [])):
        with pytest.raises(UserError):
            TokenOverlap(tokenizer).compute(*sides)


def test_token_overlap_by_numpy(tokenizer, sentences):
    def counts(texts) -> np.ndarray:
        ids = [i for text in texts for i in tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)) if i > 4]
        return np.bincount(ids, minlength=len(tokenizer))

    c, t = counts(sentences), counts(TASK)
    P, Q = c / c.sum(), t / t.sum()
    M = np.where(P + Q > 0, (P + Q) / 2, 1)
    bits = sum((side * np.log2(np.where(side > 0, side / M, 1))).sum() / 2 for side in (P, Q))
    result = TokenOverlap(tokenizer, min_count=2).compute(sentences, TASK)
    assert result.type_coverage == ((c >= 2) & (t > 0)).sum() / (t > 0).sum()
    assert result.occurrence_coverage == t[c >= 2].sum() / t.sum()
    assert result.jensen_shannon_bits == pytest.approx(bits)
    assert (result.corpus_tokens, result.task_tokens) == (c.sum(), t.sum())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A corpus and two tasks as files."""
    folder = tmp_path_factory.mktemp("overlap")
    write_corpus(folder / "corpus.txt", texts=300)
    for name, classes in (("land", ("farm", "school")), ("water", ("sea", "school"))):
        write_csv(folder / f"{name}.csv", labelled_rows(40, classes=classes))
    return folder


class TestCommand:
    def words(self, folder: Path, output: Path) -> list[object]:
        return [
            "--corpus", folder / "corpus.txt", "--tasks", folder / "land.csv", folder / "water.csv",
            "--vocab-size", 300, "--num-texts", 60, "--min-count", 3, "--json", output / "table.json",
            "--output-dir", output / "kept",
        ]  # fmt: skip

    def test_table_plot_and_subsets(self, folder, tmp_path, capsys):
        command.main([str(word) for word in self.words(folder, tmp_path)])
        table = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
        assert str(tmp_path) not in json.dumps(table)
        assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")
        assert {"command", "commit", "machine", "versions"} <= set(table["provenance"])
        assert list(table["table"]) == ["land.csv", "water.csv"]
        corpus = set((folder / "corpus.txt").read_text(encoding="utf-8").splitlines())
        for name in ("land", "water"):
            bits = {kind: row["train"]["jensen_shannon_bits"] for kind, row in table["table"][f"{name}.csv"].items()}
            assert bits["high"] < bits["random"] < bits["low"]
            facts = table["tasks"][f"{name}.csv"]["subsets"]
            for kind in ("high", "random", "low"):
                file = tmp_path / "kept" / f"{name}-{kind}" / "train-00000-of-00001.parquet"
                split = datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "cache"))
                assert split.column_names == ["text", "id"]
                assert len(set(split["text"])) == len(set(split["id"])) == facts[kind]["rows"] == 60
                assert set(split["text"]) <= corpus
        assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "kept", "table.json", "table.png"]
        assert set(table["selection"]["seconds"]) == {"land.csv", "water.csv"}
        capsys.readouterr()

    def test_bad_options_are_refused_before_any_work(self, folder, tmp_path, capsys, monkeypatch):
        (tmp_path / "kept").mkdir()
        (tmp_path / "kept" / "mine.txt").touch()
        (tmp_path / "table.png").mkdir()
        for work in ("train_wordpiece", "encode_texts"):
            monkeypatch.setattr(overlap_report, work, lambda *_, work=work: pytest.fail(f"{work} was called"))
        good = ["--corpus", folder / "corpus.txt", "--tasks", folder / "land.csv", "--vocab-size", 300]
        for more, culprit in (
            (["--num-texts", 10_000], "10000"),
            (["--num-texts", 0], "--num-texts"),
            (["--train-per-label", 1, 2], "--train-per-label"),
            (["--max-length", 2], "--max-length"),
            (["--corpus", "no_such_corpus", "--corpus-texts", 50], "at most 50 (--num-texts)"),
            (["--num-texts", 271], "at most 270 (--num-texts)"),  # 30 of 300 are held out
            (["--output-dir", tmp_path / "kept"], "no data subset of ours"),
            (["--output-dir", folder / "land.csv" / "kept"], "--output-dir"),
            (["--output-dir", ""], "--output-dir"),
            (["--tasks", folder / "land.csv", folder / "land,.csv"], "--tasks"),
            (["--json", tmp_path / "kept"], "is a folder"),
            (["--json", tmp_path / "table.json"], "is a folder"),
            (["--json", tmp_path / "other.png"], ".json"),
            (["--json", ""], "--json"),
            (["--json", tmp_path / ("x" * 300)], "--json"),
            (["--json", tmp_path / "new" / "table.json", "--output-dir", tmp_path / "new"], "elsewhere"),
            (["--tasks", folder / "land.csv", folder / "land.csv"], "--tasks"),
            (["--json", folder / "land.csv" / "table.json"], "--json"),
        ):
            with pytest.raises(SystemExit) as leaving:
                command.main([str(word) for word in [*good, *more]])
            assert leaving.value.code == 2
            said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
            assert len(said) == 1
            assert culprit in said[0]
        assert not any(path.is_file() for path in tmp_path.rglob("*") if path.name != "mine.txt")


@needs_data
def test_overlap_of_real_text_by_counter():
    tokenizer = load_tokenizer(f"{DATA}/vocab/vocab.txt")
    corpus = datasets.Dataset.from_parquet(f"{DATA}/wikipedia/train.parquet").select(range(300))["text"][:]
    task = datasets.Dataset.from_parquet(f"{DATA}/ag_news/train.parquet").select(range(200))["text"][:]
    found = asdict(TokenOverlap(tokenizer, min_count=3, max_length=64).compute(corpus, task))
    expected = by_hand(counter_of(corpus, tokenizer, 64), counter_of(task, tokenizer, 64), 3)
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-12)
    assert 0 < found["type_coverage"] < found["occurrence_coverage"] < 1  # frequent tokens are covered first


def test_tokens_know_their_number():
    tokens = TokenTexts(np.array([1, 2, 2], dtype=np.int32), np.array([0, 1, 1, 3]), 4)
    assert len(tokens) == 3
    assert tokens.lengths.tolist() == [1, 0, 2]
    assert count_tokens(tokens, np.array([1, 2])).tolist() == [0, 0, 2, 0]
