"""A corpus streamed from a Hub on this machine: which texts, in which order, at what cost, and what if it breaks off.

Oracles: the rows that the test wrote, put in order with plain `hashlib` by what the docstrings say; the server's log.
"""

import collections
import errno
import hashlib
import io
import os
import random
import resource

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_server import CUT, DROP, REFUSE, SHORT, LocalHub
from hypothesis import given
from hypothesis import strategies as st

from tlm_hf.data import remote_parquet
from tlm_hf.data.corpora import WIKIPEDIA, WIKIPEDIA_REVISION
from tlm_hf.data.streaming import stream_corpus
from tlm_hf.data.subsets import facts_of
from tlm_hf.errors import UserError

NAME, CONFIG = "someone/articles", "en"
FILES, GROUPS, ROWS = 3, 12, 20


def parquet(texts, **columns) -> bytes:
    """A parquet file with `ROWS` rows in a row group."""
    buffer = io.BytesIO()
    table = {"id": [str(index) for index in range(len(texts))], "text": texts, **columns}
    pq.write_table(pa.table(table), buffer, row_group_size=ROWS)
    return buffer.getvalue()


def article(rng: random.Random, words: int) -> str:
    return " ".join(f"{rng.getrandbits(40):x}" for _ in range(words)) + "."


@pytest.fixture(scope="module")
def written() -> dict[str, list[str]]:
    """Texts by file; every tenth repeats an earlier one, every seventeenth is blank."""
    rng = random.Random(0)
    files = {}
    known = []
    for file in range(FILES):
        texts = []
        for index in range(GROUPS * ROWS):
            lines = [f"Heading {file}", "", *(article(rng, rng.choice((8, 60))) for _ in range(4))]
            text = "\n".join(lines)
            if index % 10 == 9:
                text = f"  {rng.choice(known)}\n"
            if index % 17 == 16:
                text = " \n "
            known.append(text)
            texts.append(text)
        files[f"{CONFIG}/train-{file:05}-of-{FILES:05}.parquet"] = texts
    return files


@pytest.fixture(scope="module")
def hub(written):
    with LocalHub() as served:
        files = {name: parquet(texts) for name, texts in written.items()}
        served.add(NAME, {**files, f"{CONFIG}/test.parquet": parquet(["of the test split"]), "README.md": b"# A card"})
        yield served


@pytest.fixture
def client(hub, tmp_path, monkeypatch):
    """Allow the Hub, with an empty cache and short pauses, and an empty log on the other side."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(remote_parquet, "RETRY_PAUSES", (0.0, 0.01))
    hub.requests.clear()
    hub.fault = lambda request: None
    yield hub
    hub.fault = lambda request: None


def stream(hub, num_texts=50, **options) -> datasets.DatasetDict:
    options = {"config": CONFIG, "revision": None, "validation_texts": 10, "endpoint": hub.url, **options}
    return stream_corpus(options.pop("repository", NAME), num_texts=num_texts, **options)


def rows(split: datasets.Dataset) -> list[tuple[str, str]]:
    return list(zip(split["id"], split["text"], strict=True))


def by_hash(names, seed) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode()).hexdigest())


def expected(written, seed, size, held_out=10) -> tuple[list[tuple[str, str]], list[tuple[str, str]], list[int]]:
    """Training rows, held-out rows, and how many empty and repeated texts stand before the last training row."""
    pieces = [f"{file}#{group}" for file in written for group in range(GROUPS)]
    reserved = by_hash(pieces, "validation")[: max(1, round(len(pieces) / 100))]
    seen, results = set(), []
    for order, key, wanted in (
        (reserved, "validation", held_out),
        ([piece for piece in by_hash(pieces, seed) if piece not in reserved], seed, size),
    ):
        found, dropped = [], [0, 0]
        for piece in order:
            file, group = piece.split("#")
            places = [f"{file}/{row}" for row in range(int(group) * ROWS, (int(group) + 1) * ROWS)]
            for place in by_hash(places, key):
                if len(found) == wanted:
                    break
                text = written[file][int(place.rsplit("/")[-1])].strip()
                dropped[0] += not text
                dropped[1] += text in seen and bool(text)
                if text and text not in seen:
                    seen.add(text)
                    found.append((place, text))
        results.append((found, dropped))
    (held_rows, _), (train_rows, dropped) = results
    return train_rows, held_rows, dropped


def piece_of(place: str) -> tuple[str, int]:
    file, row = place.rsplit("/", 1)
    return file, int(row) // ROWS


class TestChoice:
    @pytest.mark.parametrize(("seed", "size"), [(0, 50), (7, 333)])
    def test_texts_and_order_are_as_described(self, client, written, seed, size):
        corpus = stream(client, size, seed=seed)
        train, held_out, (empty, duplicates) = expected(written, seed, size)
        assert rows(corpus["train"]) == train
        assert rows(corpus["validation"]) == held_out
        facts = facts_of(corpus["train"])
        assert (facts["empty"], facts["duplicates"]) == (empty, duplicates)
        assert empty > 0
        commit = client.repositories[NAME].commit
        assert [facts[name] for name in ("source", "config", "revision", "unit", "seed", "rows")] == [
            NAME, CONFIG, commit, "article", seed, size,
        ]  # fmt: skip
        if size == 333:
            assert duplicates > 0

    def test_subsets_are_nested_and_held_out_texts_the_same(self, client):
        stream(client, 300)  # so that the examples come from the cache

        @given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 5), st.integers(1, 15))
        def check(size, other, seed, held_out):
            few, many = (stream(client, count, seed=seed) for count in sorted((size, other)))
            assert rows(few["train"]) == rows(many["train"])[: len(few["train"])]
            assert rows(few["validation"]) == rows(many["validation"])
            fewer = stream(client, 1, seed=seed + 1, validation_texts=held_out)["validation"]
            shared = min(held_out, 10)
            assert rows(fewer)[:shared] == rows(many["validation"])[:shared]
            train, validation = ({piece_of(place) for place in many[split]["id"]} for split in ("train", "validation"))
            assert not train & validation
            texts = many["train"]["text"][:] + many["validation"]["text"][:]
            assert len(set(texts)) == len(texts)

        check()

    def test_seeds_choose_others(self, client):
        one, other = (set(stream(client, 40, seed=seed)["train"]["id"]) for seed in (0, 1))
        assert len(one & other) < 30

    def test_paragraphs(self, client, written):
        corpus = stream(client, 200, unit="paragraph")
        seen = set()
        for place, text in rows(corpus["train"]) + rows(corpus["validation"]):
            file, row, line = place.rsplit("/", 2)
            lines = written[file][int(row)].split("\n")
            assert " ".join(lines[int(line)].split()) == text
            assert len(text.split()) == 60
            seen.add(text)
        assert len(seen) == 210
        assert rows(stream(client, 90, unit="paragraph")["train"]) == rows(corpus["train"])[:90]

    def test_a_whole_corpus(self, client, written):
        pieces = {(file, group) for file in written for group in range(GROUPS)}
        train, _, _ = expected(written, 0, None, 10)
        assert len({piece_of(place) for place, _ in train}) == len(pieces) - 1
        assert rows(stream(client, len(train))["train"]) == train


class TestCost:
    def test_little_is_read_and_nothing_twice(self, client):
        """Of a larger set: pyarrow reads 64 KiB for a footer, then the column of a row group in one go."""
        rng = random.Random(1)
        files = {f"train-{file}.parquet": parquet([article(rng, 600) for _ in range(30 * ROWS)]) for file in range(2)}
        commit = client.add("someone/large", files)
        corpus = stream(client, 60, repository="someone/large", config=None)
        needed = {piece_of(place) for split in corpus.values() for place in split["id"]}
        footers = {file: pq.read_metadata(io.BytesIO(content)) for file, content in files.items()}
        columns = [footers[file].row_group(group).column(1).total_compressed_size for file, group in needed]
        reads = client.reads()
        assert len(reads) == len(files) + len(needed)
        assert len(needed) == 4
        assert sum(request.sent for request in reads) == len(files) * 2**16 + sum(columns)
        assert sum(request.sent for request in client.requests) < 0.1 * sum(map(len, files.values()))
        count = len(client.requests)
        options = {"repository": "someone/large", "config": None, "revision": commit}
        assert rows(stream(client, 60, **options)["train"]) == rows(corpus["train"])
        assert len(client.requests) == count
        assert rows(stream(client, 80, **options)["train"])[:60] == rows(corpus["train"])
        assert len(client.requests) == count + 1

    def test_other_files_are_not_read(self, client):
        stream(client, 50)
        assert {request.path.rsplit("/")[-1].split("-")[0] for request in client.reads()} == {"train"}

    def test_offline_with_a_whole_cache(self, client, monkeypatch, one_sentence):
        commit = client.repositories[NAME].commit
        before = rows(stream(client, 50)["train"])
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        assert rows(stream(client, 50, revision=commit)["train"]) == before
        for options in ({"num_texts": 300, "revision": commit}, {"num_texts": 50}):
            with pytest.raises(UserError, match="HF_HUB_OFFLINE") as caught:
                stream(client, **options)
            one_sentence(caught.value)


class TestBrokenStream:
    @pytest.mark.parametrize("fault", [CUT, DROP, REFUSE, SHORT])
    def test_single_failures_are_tried_again(self, client, written, fault):
        seen = collections.Counter()

        def first_time(request):
            seen[request.path, request.range] += 1
            is_file = request.path.endswith(".parquet") and request.method == "GET"
            return fault if is_file and seen[request.path, request.range] == 1 else None

        client.fault = first_time
        corpus = stream(client, 80)
        assert rows(corpus["train"]) == expected(written, 0, 80)[0]
        assert {seen[request.path, request.range] for request in client.reads()} == {2}

    @pytest.mark.parametrize("fault", [CUT, DROP, REFUSE])
    @pytest.mark.parametrize("good_reads", [0, FILES - 1, FILES + 4])
    def test_a_lasting_failure_is_one_sentence_and_the_next_call_continues(
        self, client, written, one_sentence, fault, good_reads
    ):
        client.fault = lambda request: fault if len(client.reads()) > good_reads else None
        with pytest.raises(UserError, match="broke off after") as caught:
            stream(client, 150)
        sentence = one_sentence(caught.value)
        done = 0 if good_reads < FILES else 10 + sum(1 for _ in self.taken(client, written, good_reads - FILES - 1))
        assert f"after {done} of 160 texts" in sentence
        assert "continues there" in sentence
        assert len(client.reads()) == good_reads + 3
        client.fault = lambda request: None
        corpus = stream(client, 150)
        train, held_out, dropped = expected(written, 0, 150)
        assert rows(corpus["train"]) == train
        assert rows(corpus["validation"]) == held_out
        facts = facts_of(corpus["train"])
        assert [facts["empty"], facts["duplicates"]] == dropped
        whole = [
            request
            for request in client.reads()
            if request.status == 206 and request.sent == self.asked(client, request)
        ]
        assert len({(request.path, request.range) for request in whole}) == len(whole)

    @staticmethod
    def asked(hub, request) -> int:
        size = len(hub.repositories[NAME].files[request.path.split("/", 6)[-1]])
        return min(request.range[1], size) - request.range[0]

    @staticmethod
    def taken(hub, written, pieces):
        """The training texts in the first pieces of seed 0."""
        train = expected(written, 0, None)[0]
        first = list(dict.fromkeys(piece_of(place) for place, _ in train))[:pieces]
        return (place for place, _ in train if piece_of(place) in first)

    def test_a_damaged_cache_is_read_again(self, client, written):
        commit = client.repositories[NAME].commit
        before = rows(stream(client, 80)["train"])
        cache = datasets.config.HF_DATASETS_CACHE / "tlm_hf"
        files = sorted(file for file in cache.rglob("*") if file.is_file())
        assert len(files) > FILES + 3
        for cut in (1, 200, None):
            for file in files:
                content = file.read_bytes()
                if cut is not None:
                    file.write_bytes(content[: max(0, len(content) - cut)])
                elif "rows" in file.parts and file.suffix == ".parquet":  # whole, but with other rows than its source
                    pq.write_table(pq.read_table(file, partitioning=None).slice(1), file)
            client.requests.clear()
            assert rows(stream(client, 80, revision=commit)["train"]) == before
            assert len(client.reads()) == len(files) - 1 if cut else len(files) - 1 - FILES

    def test_a_flipped_byte_in_the_cache_is_noticed(self, client, written):
        before = rows(stream(client, 80)["train"])
        cache = datasets.config.HF_DATASETS_CACHE / "tlm_hf"
        pieces = [file for file in cache.rglob("text-*.parquet") if "rows" in file.parts]
        for file in pieces:
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 255
            file.write_bytes(content)
        client.requests.clear()
        assert rows(stream(client, 80)["train"]) == before
        assert len(client.reads()) == len(pieces) > 3


class TestDisk:
    def test_a_disk_that_cannot_be_written_costs_the_cache_alone(self, client, written, monkeypatch, caplog):
        def full(*arguments, **options):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
        corpus = stream(client, 50)
        assert rows(corpus["train"]) == expected(written, 0, 50)[0]
        assert not [file for file in datasets.config.HF_DATASETS_CACHE.rglob("*") if file.is_file()]
        said = [record.getMessage() for record in caplog.records if "cannot be written" in record.getMessage()]
        assert len(said) == 1
        assert "No space left on device" in said[0]
        assert "HF_DATASETS_CACHE" in said[0]

    def test_broken_off_with_a_full_disk_says_that_it_begins_anew(self, client, monkeypatch, one_sentence):
        def full(*arguments, **options):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
        client.fault = lambda request: DROP if len(client.reads()) > FILES + 2 else None
        with pytest.raises(UserError, match="begins anew") as caught:
            stream(client, 150)
        one_sentence(caught.value)

    def test_files_that_reach_a_limit_are_not_left_behind(self, client, written):
        """RLIMIT_FSIZE stands for a disk that fills up while a file is written."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
        try:
            corpus = stream(client, 50)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert rows(corpus["train"]) == expected(written, 0, 50)[0]
        left = [file for file in datasets.config.HF_DATASETS_CACHE.rglob("*") if file.is_file()]
        assert not [file for file in left if "rows" in file.parts or file.name.startswith(".")]
        assert rows(stream(client, 50)["train"]) == expected(written, 0, 50)[0]

    def test_a_cache_folder_that_is_a_file(self, client, written, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")
        assert rows(stream(client, 50)["train"]) == expected(written, 0, 50)[0]


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"num_texts": 10_000}, "at most 700"),
            ({"num_texts": 690}, "at most"),
            ({"num_texts": 50_000, "unit": "paragraph"}, "at most"),
            ({"validation_texts": 21}, "held-out"),
            ({"num_texts": 0}, "at least 1"),
            ({"validation_texts": 0}, "at least 1"),
            ({"unit": "chapter"}, "'chapter'"),
            ({"text_column": "body"}, "'body'"),
            ({"repository": "someone/nothing"}, "someone/nothing"),
            ({"repository": "no name"}, "no name"),
            ({"revision": "0" * 40}, "revision"),
            ({"revision": "elsewhere"}, "revision"),
            ({"config": "fr"}, "fr"),
        ],
    )
    def test_requests(self, client, one_sentence, options, said):
        with pytest.raises(UserError) as caught:
            stream(client, **options)
        assert said in one_sentence(caught.value)
        if options.get("num_texts") != 690:  # what the footers can tell is said before the download
            assert len(client.reads()) <= FILES + 1

    def test_more_than_there_are_after_dropping_says_how_many(self, client, written):
        train = expected(written, 0, None)[0]
        with pytest.raises(UserError, match=f"at most {len(train)}[.]"):
            stream(client, len(train) + 1)

    def test_files(self, client, one_sentence):
        texts = [f"text {index}" for index in range(200)]
        whole = parquet(texts)
        bad = {
            "truncated": ({"train.parquet": whole[:-100]}, "train.parquet"),
            "middle": ({"train.parquet": whole[:300] + b"\0" * 900 + whole[1200:]}, "train.parquet"),
            "numbers": ({"train.parquet": parquet(list(range(200)))}, "'text'"),
            "single": ({"train.parquet": parquet(texts[:5])}, "row groups"),
            "none": ({"train.csv": b"text"}, "no parquet"),
            "blank": ({"train.parquet": parquet([" "] * 200)}, "no more than 0"),
        }
        for name, (files, said) in bad.items():
            client.add(f"someone/{name}", files)
            with pytest.raises(UserError) as caught:
                stream(client, repository=f"someone/{name}", config=None, num_texts=100, validation_texts=5)
            assert said in one_sentence(caught.value), name
            assert name in str(caught.value) or name == "numbers"


def test_load_corpus_from_the_hub_in_another_process(hub, written, run_with_package, tmp_path):
    """From the Hub's address alone, as a user: Wikipedia at its pinned commit, and other sets, read whole."""
    hub.fault = lambda request: None
    files = {name.replace(CONFIG, WIKIPEDIA[1], 1): parquet(texts) for name, texts in written.items()}
    hub.add(WIKIPEDIA[0], files, commit=WIKIPEDIA_REVISION)
    task = hub.add("someone/task", {"train.parquet": parquet([f"{i} word" for i in range(60)], label=["a", "b"] * 30)})
    (tmp_path / "data" / "wikipedia").mkdir(parents=True)
    code = """
import json, os, sys
os.environ.update(HF_ENDPOINT=sys.argv[1], HF_DATASETS_CACHE=sys.argv[2], HF_HOME=sys.argv[2], HF_HUB_OFFLINE="0")
os.environ.pop("TLM_DATA", None)
import datasets
from tlm_hf.data.corpora import load_corpus
from tlm_hf.data.subsets import facts_of
from tlm_hf.data.tasks import load_task
datasets.disable_progress_bars()
results = []
for name, options in (("wikipedia", {"validation_texts": 10}), ("someone/articles", {"revision": "main"})):
    train = load_corpus(name, num_texts=60, seed=3, **options)["train"]
    results.append([train["id"][:], train["text"][:], facts_of(train)])
# By its full name it is streamed even where a local copy of `wikipedia` lies.
for options in ({}, {"unit": "paragraph"}):
    train = load_corpus("wikimedia/wikipedia", num_texts=60, seed=3, validation_texts=10, root=sys.argv[3], **options)
    results.append([train["train"]["id"][:], facts_of(train["train"])])
for revision in (None, "main"):
    results.append(facts_of(load_task("someone/task", revision=revision)["test"]))
print(json.dumps(results))
"""
    (ids, texts, facts), (other_ids, other_texts, other_facts), full, cut, *tasks = run_with_package(
        code, hub.url, str(tmp_path), str(tmp_path / "data")
    )
    assert full == [ids, facts]
    assert (cut[1]["unit"], cut[1]["revision"]) == ("paragraph", WIKIPEDIA_REVISION)
    assert [(found["source"], found["revision"]) for found in tasks] == [("someone/task", task)] * 2
    renamed = {name.replace(CONFIG, WIKIPEDIA[1], 1): texts for name, texts in written.items()}
    assert list(zip(ids, texts, strict=True)) == expected(renamed, 3, 60)[0]
    assert (facts["source"], facts["config"], facts["revision"]) == (*WIKIPEDIA, WIKIPEDIA_REVISION)
    assert other_facts["revision"] == hub.repositories[NAME].commit
    assert other_facts["source"] == NAME
    everything = [text for name in sorted(written) for text in written[name]]
    assert [everything[int(place.removeprefix("train/"))].strip() for place in other_ids] == other_texts
