"""The embedded corpus: prose out of every style of docstring, splits, near-duplicates, the task and the cache.

Oracles: paragraphs written by hand, Python's own tokenizer on the sources, runs of words in plain sets.
"""

import io
import random
import re
import sys
import tokenize
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tlm_hf.data import docstrings
from tlm_hf.data.docstrings import TASK_LIBRARIES, is_prose, load_docstrings, mask_names, paragraphs, unique_indices
from tlm_hf.errors import UserError

PROSE = "The sort is stable, which means that rows with equal keys keep the order in which they stood before the call."
OTHER = "When the queue is empty, the caller waits until another thread has put an item into it or the time is over."


@pytest.fixture(scope="module")
def corpus(shared_corpus):
    """The corpus of this environment; the first use reads the packages."""
    return load_docstrings()


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """An installed package that must not be imported; it is the whole corpus."""
    site = tmp_path / "site"
    package = site / "fakepkg"
    files = {
        "__init__.py": f'"""{PROSE}"""\nfrom pathlib import Path\nPath(__file__).with_name("RAN").touch()\n1/0\n',
        "sub/module.py": f'class A:\n    def f(self):\n        """Short.\n\n        {OTHER}\n        """\n',
        "sub/other.py": f'x = """{PROSE} It is a value."""\ndef f():\n    r"""{OTHER.replace("queue", "list")}"""\n',
        "tests/test_it.py": f'"""{OTHER} It is a test."""\n',
        "_vendor/copy.py": f'"""{OTHER} It is a copy."""\n',
    }
    for name, source in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    info = site / "fakepkg-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fakepkg\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(docstrings, "CORPUS_LIBRARIES", ("fakepkg",))
    return package


def rows_of(corpus):
    """All rows of a corpus."""
    return [row for split in corpus.values() for row in split]


def prose_of(docstring):
    """Paragraphs of a docstring that is indented as in a source."""
    return paragraphs(f'def f():\n    """{docstring}"""\n')


def test_numpy_style_keeps_prose_only():
    docstring = f"""Summary line that is too short.

    {PROSE} See :func:`~numpy.linalg.solve` and :class:`.Axes` for **more** on what ``a[0]`` and `b` do [1]_.

    .. note::
        {OTHER}

    Parameters
    ----------
    key, other : str, optional
        {PROSE.replace("sort", "search")}

    .. math:: x = y

    >>> print(1)

    {OTHER.replace("queue", "stack")}

    References
    ----------
    .. [1] A. Author, "{OTHER}"
    """
    assert prose_of(docstring) == [
        f"{PROSE} See solve and Axes for more on what a[0] and b do.",
        OTHER,
        PROSE.replace("sort", "search"),
        OTHER.replace("queue", "stack"),
    ]


def test_google_and_sphinx_styles():
    docstring = f"""
    Args:
        input_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*):
            {PROSE.split(", ")[0]},
            {PROSE.split(", ")[1]}
        mask: {OTHER}

    - {PROSE.replace("sort", "first")}
    - {PROSE.replace("sort", "second")}

    ```python
    {OTHER}
    ```

    :param int x: {OTHER.replace("queue", "list")}
    :rtype: int
    """
    assert prose_of(docstring) == [
        PROSE,
        OTHER,
        PROSE.replace("sort", "first"),
        PROSE.replace("sort", "second"),
        OTHER.replace("queue", "list"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Too short to count.",
        PROSE.rstrip("."),
        PROSE[0].lower() + PROSE[1:],
        PROSE + " It costs x^2 steps.",
        PROSE + " See https://example.org for it.",
        PROSE + " The proof is given in.",
        PROSE.replace("rows", "(rows"),
        " ".join(["Alpha beta gamma delta"] * 8) + ".",
        " ".join(["The a_1 = b_2 is x_3"] * 6) + ".",
        " ".join([PROSE] * 10),
    ],
)
def test_what_is_not_prose(text):
    assert is_prose(PROSE)
    assert not is_prose(text)


def test_near_duplicates():
    assert unique_indices([PROSE, OTHER]) == [0, 1]
    assert unique_indices([PROSE, PROSE.upper().replace(",", ";")]) == [0]
    assert unique_indices([PROSE, f"{OTHER} {PROSE}", OTHER]) == [0, 2]
    assert unique_indices([f"{OTHER} {PROSE}", PROSE, OTHER]) == [0]
    assert unique_indices([PROSE, PROSE.replace("stable", "quick").replace("stood", "were")]) == [0]
    assert unique_indices(["Row 1 of 20 is read.", "row 33 of 4 is read", "Up and down and up."]) == [0, 2]


def test_package_is_read_but_never_run_and_kept_by_its_version(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("TLM_CACHE", str(tmp_path / "cache"))
    first = load_docstrings()
    # The two versions of the same sentence differ in one word: the later one is a near-duplicate.
    assert sorted(row["id"] for row in rows_of(first)) == ["fakepkg/__init__.py#0", "fakepkg/sub/module.py#0"]
    assert "fakepkg" not in sys.modules
    assert not (fake / "RAN").exists()

    def extract_again(*_):
        raise AssertionError("extracted again")

    monkeypatch.setattr(docstrings, "paragraphs", extract_again)
    second = load_docstrings()
    assert rows_of(second) == rows_of(first)
    assert second["train"]._fingerprint == first["train"]._fingerprint
    (fake.parent / "fakepkg-1.0.dist-info" / "METADATA").write_text("Name: fakepkg\nVersion: 2.0\n")
    with pytest.raises(AssertionError, match="extracted again"):
        load_docstrings()


def test_refusals(fake, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        load_docstrings(tmp_path / "file")
    with monkeypatch.context() as patch:
        patch.setattr(docstrings, "CORPUS_LIBRARIES", ("fakepkg", "no_such_library"))
        with pytest.raises(UserError, match=r"'no_such_library', which is not installed: pip install"):
            load_docstrings(tmp_path)
    fake.rename(fake.with_name("elsewhere"))
    with pytest.raises(UserError, match="'fakepkg', which is not installed"):
        load_docstrings(tmp_path)


def test_size_and_columns(corpus):
    rows = rows_of(corpus)
    assert all(split.column_names == ["text", "library", "module", "id", "masked"] for split in corpus.values())
    assert 15_000 <= len(rows) <= 30_000
    assert len({row["id"] for row in rows}) == len({row["text"] for row in rows}) == len(rows)
    for library in TASK_LIBRARIES:
        counts = {split: corpus[split]["library"].count(library) for split in corpus}
        for split in ("validation", "test"):
            assert 0.08 <= counts[split] / sum(counts.values()) <= 0.1


def test_words_are_those_of_one_string_of_the_source(corpus):
    for row in random.Random(0).sample(rows_of(corpus), 40):
        package = Path(docstrings.importlib.util.find_spec(row["library"]).origin).parent
        source = (package.parent / row["module"]).read_bytes()
        tokens = tokenize.tokenize(io.BytesIO(source).readline)
        strings = [token.string for token in tokens if token.type == tokenize.STRING and len(token.string) > 80]
        in_order = [iter(re.findall("[A-Za-z0-9]+", string)) for string in strings]
        words = re.findall("[A-Za-z0-9]+", row["text"])
        assert any(all(word in string for word in words) for string in in_order), row


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


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Use scipy.optimize.minimize. It is fast.", "Use library. It is fast."),
        (
            "Convert a NumPy array with torch.from_numpy(x), or np.asarray.",
            "Convert a library array with library(x), or library.",
        ),
        ("🤗 Transformers by Hugging Face is not a transformer.", "library by library is not a transformer."),
        ("A scikit-learn estimator, sklearn's.", "A library estimator, library's."),
        ("Call plt.plot, mpl_toolkits, nx.Graph or pd.DataFrame.", "Call library, library, library or library."),
        ("An nn.Module in torch/nn/modules.py is sympified.", "An library in library is library."),
        ("The input, the pdf and the npy file stay.", "The input, the pdf and the npy file stay."),
    ],
)
def test_masking(text, masked):
    assert mask_names(text) == masked
