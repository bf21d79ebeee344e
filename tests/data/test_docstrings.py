"""The embedded corpus: its text against independent readings, splits, near-duplicates, task and cache."""

import hashlib
import io
import json
import random
import re
import sys
import tokenize
from collections import Counter, defaultdict

import pytest

from tlm_hf.data import docstrings
from tlm_hf.data.docstring_extraction import file_paragraphs, source_files
from tlm_hf.errors import UserError

PROSE = "The sort is stable, which means that rows with equal keys keep the order in which they stood before the call."
OTHER = "When the queue is empty, the caller waits until another thread has put an item into it or the time is over."


@pytest.fixture(scope="module")
def corpus(shared_corpus):
    return docstrings.load_docstrings(shared_corpus)


@pytest.fixture(scope="module")
def task(corpus):
    return docstrings.load_docstrings_task()


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """An installed package that must not be imported; it is the whole corpus."""
    site = tmp_path / "site"
    package = site / "fakepkg"
    files = {
        "__init__.py": f'"""{PROSE}"""\nfrom pathlib import Path\nPath(__file__).with_name("RAN").touch()\n1/0\n',
        "sub/module.py": f'class A:\n    def f(self):\n        """Short.\n\n        {OTHER}\n        """\n',
        "sub/latin.py": f'# -*- coding: latin-1 -*-\n"""{OTHER.replace("queue", "café")}"""\n'.encode("latin-1"),
        "broken.py": f'"""{OTHER}"""\ndef (:\n',
        "tests/test_it.py": f'"""{OTHER} It is a test."""\n',
        "_vendor/copy.py": f'"""{OTHER} It is a copy."""\n',
    }
    for name, source in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source if isinstance(source, bytes) else source.encode())
    info = site / "fakepkg-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fakepkg\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(docstrings, "CORPUS_LIBRARIES", ("fakepkg",))
    return package


def rows_of(corpus):
    return [row for split in corpus.values() for row in split]


def test_package_is_read_but_never_run(fake, tmp_path):
    assert {path.relative_to(fake).as_posix(): file_paragraphs(path) for path in source_files(fake)} == {
        "__init__.py": [PROSE],
        "broken.py": [],
        "sub/latin.py": [OTHER.replace("queue", "café")],
        "sub/module.py": [OTHER],
    }
    loaded = rows_of(docstrings.load_docstrings(tmp_path / "cache"))
    # The two versions of the same sentence differ in one word: the later one is a near-duplicate.
    assert sorted(row["id"] for row in loaded) == ["fakepkg/__init__.py#0", "fakepkg/sub/latin.py#0"]
    assert "fakepkg" not in sys.modules
    assert not (fake / "RAN").exists()


def test_size_and_columns(corpus):
    rows = rows_of(corpus)
    assert list(corpus) == ["train", "validation", "test"]
    assert all(split.column_names == ["text", "library", "module", "id"] for split in corpus.values())
    assert 15_000 <= len(rows) <= 30_000
    assert len({row["id"] for row in rows}) == len({row["text"] for row in rows}) == len(rows)
    assert {row["library"] for row in rows} <= set(docstrings.CORPUS_LIBRARIES)
    for library in docstrings.TASK_LIBRARIES:
        counts = {split: corpus[split]["library"].count(library) for split in corpus}
        for split in ("validation", "test"):
            assert 0.08 <= counts[split] / sum(counts.values()) <= 0.1


def test_words_really_stand_in_the_source(corpus):
    for row in random.Random(0).sample(rows_of(corpus), 60):
        source = (docstrings._package_folder(row["library"]).parent / row["module"]).read_bytes()
        tokens = tokenize.tokenize(io.BytesIO(source).readline)
        strings = [token.string for token in tokens if token.type == tokenize.STRING and len(token.string) > 80]
        found = [iter(re.findall("[A-Za-z0-9]+", string)) for string in strings]
        words = re.findall("[A-Za-z0-9]+", row["text"])
        assert any(all(word in string for word in words) for string in found), row


def test_splits_share_no_module_and_no_near_duplicate(corpus):
    modules = {split: set(corpus[split]["module"]) for split in corpus}
    assert not modules["train"] & (modules["validation"] | modules["test"])
    assert not modules["validation"] & modules["test"]

    def runs(text):
        words = re.findall(r"\w+", re.sub(r"\d+", "0", text.lower()))
        return set(zip(words, words[1:], words[2:], strict=False))

    held_out = [runs(text) for text in [*corpus["validation"]["text"], *corpus["test"]["text"]][::10]]
    owners = defaultdict(list)
    for index, own in enumerate(held_out):
        for run in own:
            owners[run].append(index)
    for text in corpus["train"]["text"]:
        own = runs(text)
        shared = Counter(index for run in own for index in owners.get(run, ()))
        assert all(count <= 0.5 * min(len(own), len(held_out[index])) for index, count in shared.items()), text


def test_task_is_balanced_and_taken_from_the_same_splits(task, corpus):
    for split, count in (("train", 200), ("validation", 40), ("test", 60)):
        names = task[split].features["label"].names
        assert names == list(docstrings.TASK_LIBRARIES)
        assert Counter(task[split]["label"]) == dict.fromkeys(range(len(names)), count)
        origin = {docstrings.mask_names(row["text"]): row["library"] for row in corpus[split]}
        assert all(origin[row["text"]] == names[row["label"]] for row in task[split])
        # Rows come in mixed order: a batch from the start is no single class.
        assert len(set(task[split]["label"][:32])) >= 5


def test_no_name_stands_in_the_task(corpus):
    task = docstrings.load_docstrings_task(800, 100, 100)
    texts = [text.lower() for split in task.values() for text in split["text"]]
    assert len(texts) == 9 * 1000
    names = "torch|numpy|scipy|pandas|sympy|networkx|sklearn|scikit|matplotlib|pyplot|transformers|hugging ?face|🤗"
    assert not [text for text in texts if re.search(names, text)]
    for alias in ("np", "nx", "pd", "plt", "mpl", "hf"):
        assert not [text for text in texts if re.search(rf"(?<![a-z0-9]){alias}(?![a-z0-9])", text)], alias
    assert sum(docstrings.MASK_WORD in text for text in texts) > 500


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Use scipy.optimize.minimize. It is fast.", "Use library. It is fast."),
        ("A NumPy array with torch.from_numpy(x), or np.asarray.", "A library array with library(x), or library."),
        ("🤗 Transformers by Hugging Face is not a transformer.", "library by library is not a transformer."),
        ("A scikit-learn estimator, sklearn's.", "A library estimator, library's."),
        ("Call plt.plot, mpl_toolkits, nx.Graph or pd.DataFrame.", "Call library, library, library or library."),
        ("An nn.Module in torch/nn/modules.py is sympified.", "An library in library is library."),
        ("The input, the pdf and the npy file stay.", "The input, the pdf and the npy file stay."),
    ],
)
def test_masking(text, masked):
    assert docstrings.mask_names(text) == masked


def test_choice_depends_on_seed_only_and_is_nested(task):
    again = docstrings.load_docstrings_task()
    assert all(again[split].to_list() == task[split].to_list() for split in task)
    fewer = docstrings.load_docstrings_task(20, 10, 10)
    assert set(fewer["train"]["text"]) < set(task["train"]["text"])
    other = docstrings.load_docstrings_task(20, 10, 10, seed=1)
    assert len(set(other["train"]["text"]) & set(fewer["train"]["text"])) < 60


def no_extraction(*_, **__):
    raise AssertionError("extracted again")


def files(folder):
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"]


def test_cache_is_used_and_follows_the_versions(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("TLM_CACHE", str(tmp_path / "here"))
    first = docstrings.load_docstrings()
    key = {"extraction": docstrings.EXTRACTION_VERSION, "libraries": {"fakepkg": "1.0"}}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    assert docstrings.fingerprint() == name
    assert files(tmp_path / "here") == [f"docstrings-{name[:16]}.parquet"]
    monkeypatch.setattr(docstrings, "source_files", no_extraction)
    second = docstrings.load_docstrings()
    assert rows_of(second) == rows_of(first)
    assert second["train"]._fingerprint == first["train"]._fingerprint
    (fake.parent / "fakepkg-1.0.dist-info" / "METADATA").write_text("Name: fakepkg\nVersion: 2.0\n")
    with pytest.raises(AssertionError, match="extracted again"):
        docstrings.load_docstrings()


def test_a_failed_extraction_leaves_no_cache(fake, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        docstrings.load_docstrings(tmp_path / "file")
    monkeypatch.setattr("tlm_hf.data.sources.pq.write_table", no_extraction)
    with pytest.raises(AssertionError):
        docstrings.load_docstrings(tmp_path / "cache")
    assert files(tmp_path / "cache") == []


def test_missing_library(fake, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(docstrings, "CORPUS_LIBRARIES", ("fakepkg", "no_such_library"))
        with pytest.raises(UserError, match=r"'no_such_library', which is not installed: pip install"):
            docstrings.load_docstrings(tmp_path)
    fake.rename(fake.with_name("elsewhere"))
    with pytest.raises(UserError, match="'fakepkg', which is not installed"):
        docstrings.load_docstrings(tmp_path)
