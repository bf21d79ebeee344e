"""Wikipedia from a Hub on this machine: which texts, in which order, at what cost, what if the connection breaks."""

import hashlib
import io
import random

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import refusal
from hub_server.local_hub import LocalHub
from hub_server.state import Commit, File, Repository

from tlm_hf.data.wikipedia import CONFIG, INDEX, REPOSITORY, REVISION, _Wikipedia, stream_wikipedia
from tlm_hf.errors import UserError

FILES, GROUPS, ROWS = 3, 12, 20


def parquet(texts) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"id": [str(index) for index in range(len(texts))], "text": texts}), buffer, ROWS)
    return buffer.getvalue()


def prose(rng: random.Random, words: int) -> str:
    return " ".join(f"{rng.getrandbits(40):x}" for _ in range(words)) + "."


@pytest.fixture(scope="module")
def written() -> dict[str, list[str]]:
    """Texts by file; every tenth repeats an earlier one, every seventeenth is blank."""
    rng = random.Random(0)
    files: dict[str, list[str]] = {}
    known: list[str] = []
    for file in range(FILES):
        texts = files.setdefault(f"{CONFIG}/train-{file:05}-of-{FILES:05}.parquet", [])
        for index in range(GROUPS * ROWS):
            text = "\n".join([f"Heading {file}", "", *(prose(rng, rng.choice((8, 60))) for _ in range(4))])
            if index % 10 == 9:
                text = f"  {rng.choice(known)}\n"
            if index % 17 == 16:
                text = " \n "
            known.append(text)
            texts.append(text)
    return files


def add(hub: LocalHub, name: str, files: dict[str, bytes], commit: str) -> None:
    repository = Repository("dataset", name, private=False)
    tree = {path: File(content) for path, content in files.items()}
    repository.commits[commit] = Commit(commit, None, "files", "someone", tree)
    repository.branches["main"] = commit
    hub.state.repositories["dataset", name] = repository


@pytest.fixture(scope="module")
def served(written):
    with LocalHub() as hub:
        files = {name: parquet(texts) for name, texts in written.items()}
        add(hub, REPOSITORY, {**files, f"{CONFIG}/test.parquet": parquet(["of the test split"])}, REVISION)
        yield hub


def reads(hub: LocalHub) -> list:
    return [request for request in hub.requests if request.method == "GET" and request.path.endswith(".parquet")]


@pytest.fixture
def hub(served, tmp_path, monkeypatch):
    """The Hub, reachable, with an empty cache, no pauses between attempts, and an empty log on the other side."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    served.requests.clear()
    yield served
    served.faults.clear()


def stream(hub, num_texts=50, validation_texts=10, **options) -> datasets.DatasetDict:
    place = {"config": CONFIG, "revision": REVISION, "endpoint": hub.url}
    return stream_wikipedia(num_texts, validation_texts, **place | options)


def rows(split: datasets.Dataset) -> list[tuple[str, str]]:
    return list(zip(split["id"], split["text"], strict=True))


def by_hash(names, seed) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode()).hexdigest())


def expected(written, seed, size, held_out=10):
    """Training rows and held-out rows."""
    pieces = [f"{file}#{group}" for file in written for group in range(GROUPS)]
    reserved = by_hash(pieces, "validation")[: max(1, round(len(pieces) / 100))]
    trained_on = [piece for piece in by_hash(pieces, seed) if piece not in reserved]
    seen, results = set(), []
    for order, key, count in ((reserved, "validation", held_out), (trained_on, seed, size)):
        chosen = []
        for piece in order:
            file, group = piece.split("#")
            for place in by_hash([f"{file}/{int(group) * ROWS + row}" for row in range(ROWS)], key):
                text = written[file][int(place.rsplit("/")[-1])].strip()
                if len(chosen) == count:
                    break
                if text and text not in seen:
                    seen.add(text)
                    chosen.append((place, text))
        results.append(chosen)
    return results[1], results[0]


def piece_of(place: str) -> tuple[str, int]:
    file, row = place.rsplit("/", 1)
    return file, int(row) // ROWS


@pytest.mark.parametrize(("seed", "size"), [(0, 50), (7, 333)])
def test_texts_and_order_are_as_described(hub, written, seed, size):
    corpus = stream(hub, size, seed=seed, revision="main")
    train, held_out = expected(written, seed, size)
    assert rows(corpus["train"]) == train
    assert rows(corpus["validation"]) == held_out
    assert rows(stream(hub, 20, seed=seed)["train"]) == train[:20]  # subsets are nested


def test_one_row_group_in_a_hundred_is_held_out_whatever_the_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    folder = tmp_path / "tlm_hf" / "wikipedia" / REVISION / CONFIG
    folder.mkdir(parents=True)
    with pa.ipc.new_stream(str(folder / "row_groups.arrow"), INDEX) as writer:
        writer.write(pa.table({"file": ["a"] * 300, "group": range(300), "first": [0] * 300, "rows": [1] * 300}))
    halves = [_Wikipedia(CONFIG, REVISION, None).divide(seed) for seed in (0, 1)]
    assert [(len(held_out), len(trained_on)) for held_out, trained_on in halves] == [(3, 297)] * 2
    assert halves[0][0] == halves[1][0]
    assert halves[0][1] != halves[1][1]


def test_only_footers_and_needed_row_groups_are_read_and_nothing_twice(hub, tmp_path, monkeypatch):
    rng = random.Random(1)
    names = [f"{CONFIG}/train-{file}.parquet" for file in range(2)]
    files = {name: parquet([prose(rng, 600) for _ in range(30 * ROWS)]) for name in names}
    with LocalHub() as large:
        add(large, REPOSITORY, files, REVISION)
        corpus = stream(large, 60)
        needed = {piece_of(place) for split in corpus.values() for place in split["id"]}
        footers = {file: pq.read_metadata(io.BytesIO(content)) for file, content in files.items()}
        columns = sum(footers[file].row_group(group).column(1).total_compressed_size for file, group in needed)
        assert len(reads(large)) == len(files) + len(needed) == 6
        # pyarrow reads 64 KiB for a footer, then the column of a row group at once.
        assert sum(request.sent for request in reads(large)) == len(files) * 2**16 + columns
        assert sum(request.sent for request in large.requests) < 0.1 * sum(map(len, files.values()))
        count = len(large.requests)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # whole in the cache
        assert rows(stream(large, 60)["train"]) == rows(corpus["train"])
        assert len(large.requests) == count
        with pytest.raises(UserError, match="offline"):
            stream(large, 80)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        assert rows(stream(large, 80)["train"])[:60] == rows(corpus["train"])
        assert len(reads(large)) == 6 + 2  # a footer and a row group more


def test_a_lasting_failure_is_one_sentence_and_the_next_call_continues(hub, written):
    hub.fault("refuse", method="GET", path=r"\.parquet$", after=FILES + 4, times=99)
    said = refusal(stream, hub, 150)
    train, held_out = expected(written, 0, 150)
    whole = list(dict.fromkeys(piece_of(place) for place, _ in held_out + train))[:4]
    done = sum(piece_of(place) in whole for place, _ in held_out + train)
    assert f"{done} of 160 texts were read" in said
    assert "--corpus docstrings" in said
    hub.faults.clear()
    hub.requests.clear()
    assert rows(stream(hub, 150)["train"]) == train
    pieces = {piece_of(place) for place, _ in held_out + train} - set(whole)
    assert len(reads(hub)) == len(pieces) + len({file for file, _ in pieces})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_texts": 10_000}, "at most 700"),
        ({"validation_texts": 21}, "held-out"),
        ({"revision": "0" * 40}, "0000"),
        ({"config": "fr"}, "fr"),
    ],
)
def test_requests_that_cannot_be_met(hub, options, said):
    assert said in refusal(stream, hub, **options)
    assert len(reads(hub)) <= FILES + 1  # refused before the download


def test_without_a_network_one_attempt_is_made(hub, monkeypatch):
    attempts = []
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", attempts.append)
    said = refusal(stream_wikipedia, 50, 10, CONFIG, REVISION, endpoint="http://127.0.0.1:9")
    assert "check the network, set TLM_DATA" in said
    assert "kept" not in said  # nothing was read
    assert attempts == []
