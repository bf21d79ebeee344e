"""The embedded corpus: English paragraphs from the docstrings of the packages that training needs, read but never run.

All paragraphs of a module are in one split. In the task's texts the names of its libraries become one word.
"""

import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer
from tqdm import tqdm

from ..errors import UserError
from ..runs.atomic_files import Json
from .sources import ID, cached
from .tables import SPLITS, Row, TaskSource

EXTRACTION_VERSION = 3  # raise it with any change of the extraction: caches are found by it
# The order counts: of two near-duplicates the one from the earlier library stays (scipy repeats numpy's texts).
TASK_LIBRARIES = ("numpy", "scipy", "pandas", "sympy", "networkx", "sklearn", "matplotlib", "torch", "transformers")
# The extra `train` and what always comes with it, so that other extras do not change the corpus.
CORPUS_LIBRARIES = (
    *TASK_LIBRARIES,
    *("datasets", "huggingface_hub", "accelerate", "peft", "evaluate", "tokenizers", "safetensors", "pyarrow"),
    *("jinja2", "fsspec", "aiohttp", "requests", "urllib3", "joblib", "PIL", "fontTools", "mpmath", "dill"),
    *("filelock", "tqdm", "packaging", "dateutil"),
)
_DISTRIBUTIONS = {"sklearn": "scikit-learn", "PIL": "pillow", "dateutil": "python-dateutil"}
PER_LABEL = {"train": 200, "validation": 40, "test": 60}  # texts of each class where no number is asked for
HELD_OUT_SHARE = 0.1  # of each library's paragraphs, for validation and again for test
MIN_WORDS, MAX_WORDS = 20, 150
DUPLICATE_SHARE = 0.5  # of the runs of three words of the shorter of two texts
NOT_INSTALLED = "The docstrings corpus reads the package {!r}, which is not installed: pip install -e '.[train]'."
MASK_WORD = "library"
# Any word that contains one of these names, or is one of the customary short ones, with the path around it.
_NAMES = (
    r"(?:py|lib)?torch|numpy|scipy|pandas|sympy|sympif|networkx|sklearn|scikit(?:[ -]learn)?|matplotlib|pyplot|pylab|"
    r"transformers|hugging[ -]?face"
)
_PATH = r"(?<!\w)(?<!\w[-./])(?:\w+[-./])*"  # from the token's start only, or every letter would be tried as one
_MASKED = re.compile(
    rf"🤗|{_PATH}\w*(?:{_NAMES}|(?<![^\W_])(?:np|pd|plt|mpl|nx|hf)(?![^\W_]))\w*(?:[-./]\w+)*"
    r"|(?-i:(?<![\w.])(?:nn|F)(?:\.\w+)+)",  # torch.nn.functional by its customary short names
    re.IGNORECASE,
)
_MASK_RUN = re.compile(rf"\b{MASK_WORD}(?:[ -]{MASK_WORD})+\b")
# Tests, and other projects' code copied into a package (it would be counted as the wrong library's text).
_SKIPPED = re.compile(
    r"/(?:tests?|_?testing|_?vendor(?:ed)?|third_party|_?externals?|extern|array_api_(?:compat|extra)|templates)/"
    r"|/(?:test_|conftest)"
)
_QUOTES, _MARGIN = re.compile(r'"""|\'\'\''), re.compile(r"[ \t]*[rRuU]?")
_BLOCK = re.compile(r"^```.*?^```|^ *(?:>>>|In \[|[-=~^\"'*+#]{3,} *$|\.\. ).*?$", re.DOTALL | re.MULTILINE)
# What opens an entry: a list item, a Sphinx field, "name (type): text"; "name : type" alone is a signature.
_OPENER = re.compile(
    r"(?:[-*+•]|\(?(?:\d{1,2}|[a-z])[.)])\s+|(?::\w+[^:`]*:(?!`)|@\w+[^:]*:)\s*"
    r"|[`*]{0,3}[A-Za-z_][\w.\-, \[\]]{0,40}?[`*]{0,2}(?: ?\((?:[^()]|\([^()]*\))*\))?[`*]{0,2}:\s+"
)
_SIGNATURE = re.compile(r"[`*]{0,3}\\?[\w.`*\[\]]+(?:, ?[`\\\w.*]+)* :(?: |$)")
_MARKUP = (
    (re.compile(r"\s*\[[^\[\]\s]+\]_(?=[.,;)])"), ""),  # footnotes
    (re.compile(r":(?!ref|doc|eq|cite)[\w:-]+:(?=`)|(?<=`)~[\w.]*\.(?=\w+`)"), ""),  # :class:`~a.b.c` -> `c`
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`_*|\[([^\[\]]+)\]\([^()\s]*\)"), r"\1\2"),  # links -> their text
    (re.compile(r"\[(`[^`\[\]]+`)\]"), r"\1"),  # [`a.b`] -> `a.b`
    (re.compile(r"`{1,3}[!.]?([^`]+)`{1,3}_*|(?<![\w*])\*{1,2}(?=\S)([^*]+?)(?<=\S)\*{1,2}(?![\w*])"), r"\1\2"),
)
_NOT_PROSE = re.compile(
    r"[\\{}|$^`~<>\ufffd]|\w{3,}://|www\.|::|:\w+:|\.\.\.\s*\w|==|--|__|\]_|\*\*|\s[=+*/]\s|\.\. "
    r"|, optional [A-Z]|, default:? \S+ [A-Z]"  # a signature that ran into its description
    r"|(?i:\b(?:in|of|from|see|and|by|with|than)[.,;)])|\([,; )]"  # a sentence that lost its reference
)
_PLAIN_WORD = re.compile(r"[A-Za-z]+(?:['’/-][A-Za-z]+)*")
_SCHEMA = pa.schema({name: pa.string() for name in ("text", "library", "module", ID, "masked", "split")})


def load_docstrings(cache_dir: Path | None = None) -> datasets.DatasetDict:
    """Train, validation and test splits of the corpus; the first call takes half a minute, later ones read the cache.

    Columns are `text` (a paragraph), `library`, `module` (a path), `id` (`module#position`) and `masked` (by
    `mask_names`; None outside of the task). The cache is `cache_dir`, else `TLM_CACHE`, else `~/.cache/tlm_hf`, by
    `EXTRACTION_VERSION` and the versions of `CORPUS_LIBRARIES`. Raises UserError where one is not installed.
    """
    key: Json = {"extraction": EXTRACTION_VERSION, "libraries": {}}
    for library in CORPUS_LIBRARIES:
        try:
            key["libraries"][library] = importlib.metadata.version(_DISTRIBUTIONS.get(library, library))
        except importlib.metadata.PackageNotFoundError:
            raise UserError(NOT_INSTALLED.format(library)) from None
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    root = Path(cache_dir or os.environ.get("TLM_CACHE") or Path.home() / ".cache" / "tlm_hf").expanduser()
    table = cached(root / f"docstrings-{name[:16]}.arrow", _SCHEMA, _extract, "TLM_CACHE").data.table
    splits = {split: table.filter(pc.equal(table["split"], split)).drop_columns("split") for split in SPLITS}
    return datasets.DatasetDict(
        {split: datasets.Dataset(rows, fingerprint=f"{name[:32]}-{split}") for split, rows in splits.items()}
    )


def read_docstrings() -> TaskSource:
    """The rows of the classification task: which of `TASK_LIBRARIES` does a paragraph document? Names are masked."""
    rows = {}
    for split, table in load_docstrings().items():
        texts = zip(*(table[column][:] for column in ("masked", "library", ID)), strict=True)
        rows[split] = [Row(text, TASK_LIBRARIES.index(library), place, text) for text, library, place in texts if text]
    return TaskSource(rows, list(TASK_LIBRARIES))


def mask_names(text: str) -> str:
    """Replace the names, short names and import paths of all task libraries by `MASK_WORD`; several in a row by one."""
    return _MASK_RUN.sub(MASK_WORD, _MASKED.sub(MASK_WORD, text))


def _extract() -> list[pa.RecordBatch]:
    rows = []
    for library in tqdm(CORPUS_LIBRARIES, "Reading docstrings", disable=None):
        spec = importlib.util.find_spec(library)  # does not import it: a top-level name needs no parent
        if spec is None or spec.origin is None:
            raise UserError(NOT_INSTALLED.format(library))
        package = Path(spec.origin).parent
        files = {path.relative_to(package.parent).as_posix(): path for path in package.rglob("*.py")}
        for module in sorted(files):  # the same order on every machine
            texts = [] if _SKIPPED.search(module) else paragraphs(files[module].read_text(errors="replace"))
            for position, text in enumerate(texts):
                row = {"text": text, "library": library, "module": module, ID: f"{module}#{position}"}
                rows.append(row | {"masked": mask_names(text) if library in TASK_LIBRARIES else None})
    rows = [rows[index] for index in unique_indices([row["text"] for row in rows])]
    splits: dict[str, str] = {}
    for library in CORPUS_LIBRARIES:
        splits |= split_modules(Counter(row["module"] for row in rows if row["library"] == library))
    return [pa.RecordBatch.from_pylist([{**row, "split": splits[row["module"]]} for row in rows], _SCHEMA)]


def paragraphs(source: str) -> list[str]:
    """Paragraphs of English prose in the docstrings of a Python source (numpy, Google or Sphinx), one a line."""
    docstrings = map(inspect.cleandoc, _strings(source))
    texts = (text for docstring in docstrings for text in _blocks(_BLOCK.sub("", docstring).splitlines()))
    # Cleaning never adds a word, and most of the texts are short.
    return [text for text in map(_clean, (t for t in texts if len(t.split()) >= MIN_WORDS)) if is_prose(text)]


def _strings(source: str) -> Iterator[str]:
    """The strings in triple quotes that begin a line."""
    opening = _QUOTES.search(source)
    while opening:
        end = source.find(opening[0], opening.end())
        if end >= 0 and _MARGIN.fullmatch(source, source.rfind("\n", 0, opening.start()) + 1, opening.start()):
            yield source[opening.end() : end]
        opening = _QUOTES.search(source, end + 3 if end >= 0 else opening.start() + 1)


def _blocks(lines: Sequence[str]) -> Iterator[str]:
    """Join lines to paragraphs: they end at blank lines, entries, signatures and changes of indentation."""
    current: list[str] = []
    depth, is_hanging = 0, False  # the further lines of an entry are indented more than its first
    for line in [*lines, ""]:
        text, indent = line.strip(), len(line) - len(line.lstrip())
        is_signature = _SIGNATURE.match(text) is not None
        opener = None if is_signature or (current and current[-1][-1].isalnum()) else _OPENER.match(text)
        if current and (not text or opener or is_signature or indent < depth or (indent > depth and not is_hanging)):
            yield " ".join(current)
            current = []
        depth, is_hanging = indent, opener is not None
        if opener:
            text = text[opener.end() :]
        if text and not is_signature:
            current.append(text)


def _clean(text: str) -> str:
    """Take reStructuredText and Markdown marks off a paragraph and join its white space."""
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())


def is_prose(text: str) -> bool:
    """Whether a paragraph without markup reads as English prose: a sentence or more, of plain words and stop words."""
    words = text.split()
    if not MIN_WORDS <= len(words) <= MAX_WORDS or not text[0].isupper() or _NOT_PROSE.search(text):
        return False
    if not text.rstrip("\"')”").endswith((".", "!", "?")) or text.endswith("..."):
        return False
    if text.count("(") != text.count(")") or text.count("[") != text.count("]") or text.count('"') % 2:
        return False
    bare = [word.strip("\"'“”‘’.,;:!?()[]") for word in words]
    plain = sum(_PLAIN_WORD.fullmatch(word) is not None for word in bare)
    stop = sum(word.lower() in ENGLISH_STOP_WORDS for word in bare)
    return plain >= 0.8 * len(words) and stop >= 0.2 * len(words)


def unique_indices(texts: Sequence[str]) -> list[int]:
    """Indices of texts to keep: of two that share `DUPLICATE_SHARE` of the runs of three words the earlier one."""
    normalised = [re.sub(r"\W+", " ", re.sub(r"\d+", "0", text.lower())) for text in texts]
    runs = CountVectorizer(ngram_range=(3, 3), token_pattern=r"\w+", binary=True, dtype=np.float32)
    counts = runs.fit_transform(normalised)
    sizes = counts.getnnz(axis=1)
    shared = (counts @ counts.T).tocoo()
    is_near = shared.data > DUPLICATE_SHARE * np.minimum(sizes[shared.row], sizes[shared.col])
    is_near &= shared.col < shared.row
    is_kept = np.ones(len(texts), dtype=bool)
    for later, earlier in sorted(zip(shared.row[is_near], shared.col[is_near], strict=True)):
        is_kept[later] &= not is_kept[earlier]
    return np.flatnonzero(is_kept).tolist()


def split_modules(sizes: dict[str, int]) -> dict[str, str]:
    """The split of each module of a library: validation, else test, while it fits into a share of its paragraphs."""
    room = {split: HELD_OUT_SHARE * sum(sizes.values()) for split in ("validation", "test")}
    splits = {}
    for module in sorted(sizes, key=lambda module: hashlib.sha256(module.encode()).digest()):
        splits[module] = next((split for split in room if sizes[module] <= room[split]), "train")
        if splits[module] in room:
            room[splits[module]] -= sizes[module]
    return splits
