"""The embedded corpus: English paragraphs from the docstrings of the package's own core dependencies.

It is real technical English that every installation already has, so pre-training and a classification task run without
a download. The source files are read with `ast`, never imported or executed::

    corpus = load_docstrings()              # splits train, validation, test; columns text, library, module, row_id
    task = load_docstrings_task(seed=0)     # the same splits, balanced; columns text, label

A module's paragraphs all stand in one split, and near-duplicates are dropped over the whole corpus beforehand, so text
held out of pre-training is neither read nor closely paraphrased there. In the task's texts the names and import paths
of all task libraries are replaced by one neutral word, so that a label does not stand in its own text.
"""

import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import multiprocessing
import os
import re
import shutil
import sys
import uuid
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from tlm_hf.data.docstring_extraction import extract_files, source_files, unique_indices
from tlm_hf.errors import UserError
from tlm_hf.runs.atomic_files import sole_writer

logger = logging.getLogger(__name__)

EXTRACTION_VERSION = 2  # raise it with any change of the extraction, so that older caches are not taken for the same

# The order counts: of two near-duplicates the one from the earlier library stays (scipy repeats numpy's texts).
TASK_LIBRARIES = ("numpy", "scipy", "pandas", "sympy", "networkx", "sklearn", "matplotlib", "torch", "transformers")
# Core dependencies and what always comes with them; never what an extra brings, so extras do not change the corpus.
CORPUS_LIBRARIES = (
    *TASK_LIBRARIES,
    *("datasets", "huggingface_hub", "accelerate", "peft", "evaluate", "tokenizers", "safetensors", "pyarrow"),
    *("jinja2", "fsspec", "aiohttp", "requests", "urllib3", "joblib", "PIL", "fontTools", "mpmath", "dill"),
    *("filelock", "tqdm", "packaging", "dateutil"),
)
_DISTRIBUTIONS = {"sklearn": "scikit-learn", "PIL": "pillow", "dateutil": "python-dateutil"}

SPLITS = ("train", "validation", "test")
HELD_OUT_SHARE = 0.1  # of each library's paragraphs, for validation and again for test
_COLUMNS = ("text", "library", "module", "row_id")
_FILES_PER_CHUNK = 50

MASK_WORD = "library"
# Any word that contains one of these names, with the dotted or slashed path around it, ...
_NAMES = (
    r"(?:py|lib)?torch|numpy|scipy|pandas|sympy|sympif|networkx|sklearn|scikit(?:[ -]learn)?|matplotlib|pyplot|pylab|"
    r"transformers|hugging[ -]?face"
)
# ... and the customary short names, which only count as whole words.
_ALIASES = r"np|pd|plt|mpl|nx|hf"
_PATH = r"(?<!\w)(?<!\w[-./])(?:\w+[-./])*"  # from the token's start only, or every letter would be tried as one
_MASKED = re.compile(
    rf"🤗|{_PATH}\w*(?:{_NAMES}|(?<![^\W_])(?:{_ALIASES})(?![^\W_]))\w*(?:[-./]\w+)*"
    r"|(?-i:(?<![\w.])(?:nn|F)(?:\.\w+)+)",  # torch.nn.functional by its customary short names
    re.IGNORECASE,
)
_MASK_RUN = re.compile(rf"\b{MASK_WORD}(?:[ -]{MASK_WORD})+\b")


def library_versions() -> dict[str, str]:
    """Look up the installed versions of `CORPUS_LIBRARIES`.

    Returns:
        Version by import name.

    Raises:
        UserError: A library is not installed.
    """
    versions = {}
    for library in CORPUS_LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(_DISTRIBUTIONS.get(library, library))
        except importlib.metadata.PackageNotFoundError:
            raise _missing(library) from None
    return versions


def fingerprint() -> str:
    """Name the corpus by what it is made of.

    Returns:
        SHA-256 (64 hex digits) over `EXTRACTION_VERSION` and the names and versions of `CORPUS_LIBRARIES`.

    Raises:
        UserError: A library is not installed.
    """
    key = {"extraction": EXTRACTION_VERSION, "libraries": library_versions()}
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def load_docstrings(
    cache_dir: Path | None = None, num_proc: int = 2, show_progress: bool = True
) -> datasets.DatasetDict:
    """Load the corpus, reading it from the installed packages when it is not in the cache.

    The first call takes up to a minute on two cores and leaves one parquet file a split in `docstrings-<fingerprint>`
    in the cache folder; later calls read these.

    Args:
        cache_dir: Cache folder; by default the environment variable `TLM_CACHE`, or else `~/.cache/tlm_hf`.
        num_proc: Worker processes for the extraction; the rows do not depend on it.
        show_progress: Whether to show a progress bar on stderr.

    Returns:
        Splits `train`, `validation` and `test` with the string columns `text` (one paragraph), `library` (import name),
        `module` (path of the source file from the package's parent folder) and `row_id`.

    Raises:
        UserError: A library is missing, `num_proc` is below 1, or the cache folder cannot be written.
    """
    if num_proc < 1:
        raise UserError(f"num_proc must be at least 1, not {num_proc}.")
    name = fingerprint()
    root = Path(cache_dir or os.environ.get("TLM_CACHE") or Path.home() / ".cache" / "tlm_hf").expanduser()
    folder = root / f"docstrings-{name[:16]}"
    tables = _read_cache(folder)
    if tables is None:
        folders = {library: _package_folder(library) for library in CORPUS_LIBRARIES}
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(root, error) from error
        with sole_writer(folder):  # of several processes on a new machine one reads the packages, the others its cache
            tables = _read_cache(folder) or _make_cache(folder, folders, num_proc, show_progress)
    return datasets.DatasetDict(
        {split: datasets.Dataset(table, fingerprint=f"{name[:32]}-{split}") for split, table in tables.items()}
    )


def _unwritable(root: Path, error: OSError) -> UserError:
    return UserError(
        f"The cache folder {root} cannot be written ({error.strerror}): set TLM_CACHE to a folder of your own."
    )


def _make_cache(folder: Path, folders: dict[str, Path], num_proc: int, show_progress: bool) -> dict[str, pa.Table]:
    """Read the corpus from the packages' folders and leave it in the cache."""
    draft = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    try:
        draft.mkdir()  # not `tempfile.mkdtemp`, whose folders only their owner can read
    except OSError as error:
        raise _unwritable(folder.parent, error) from error
    try:
        tables = _extract(folders, num_proc, show_progress)
        for split, table in tables.items():
            pq.write_table(table, draft / f"{split}.parquet", write_page_checksum=True)
        _publish(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return tables


def load_docstrings_task(
    train_per_label: int = 200,
    validation_per_label: int = 40,
    test_per_label: int = 60,
    seed: int = 0,
    cache_dir: Path | None = None,
) -> datasets.DatasetDict:
    """Load the classification task: which of `TASK_LIBRARIES` does a paragraph document?

    Args:
        train_per_label: Texts per class in `train`, out of the corpus's split of the same name, as for the others.
        validation_per_label: Texts per class in `validation`.
        test_per_label: Texts per class in `test`.
        seed: Chooses the texts; a larger number with the same seed contains the smaller choice.
        cache_dir: Cache folder, see `load_docstrings`.

    Returns:
        Splits `train`, `validation` and `test` with the columns `text` (names masked, see `mask_names`) and `label`
        (`datasets.ClassLabel` with the libraries' names), as many rows of each class as asked for, in mixed order.

    Raises:
        UserError: A number is below 1 or above what a class has; also as in `load_docstrings`.
    """
    wanted = dict(zip(SPLITS, (train_per_label, validation_per_label, test_per_label), strict=True))
    for split, count in wanted.items():
        if count < 1:
            raise UserError(f"{split}_per_label must be at least 1, not {count}.")
    corpus = load_docstrings(cache_dir)
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(TASK_LIBRARIES))}
    )
    taken: set[str] = set()  # masking may make two texts equal
    result = {}
    for split, count in wanted.items():
        rows = []
        available: Counter[str] = Counter()
        for key, text, library in _shuffled(corpus[split], seed):
            normalised = text.lower()
            if normalised in taken:
                continue
            taken.add(normalised)
            available[library] += 1
            if available[library] <= count:
                rows.append((key, text, TASK_LIBRARIES.index(library)))
        fewest = min(TASK_LIBRARIES, key=lambda library: available[library])
        if available[fewest] < count:
            raise UserError(
                f"The docstrings task asks for {count} {split} texts per label, but {fewest!r} has "
                f"{available[fewest]}: ask for {available[fewest]} or fewer."
            )
        columns = {"text": [row[1] for row in rows], "label": [row[2] for row in rows]}
        result[split] = datasets.Dataset.from_dict(columns, features=features)
    return datasets.DatasetDict(result)


@functools.lru_cache(maxsize=2**16)  # all texts of the task: a study reads it for each of its runs
def mask_names(text: str) -> str:
    """Replace the task libraries' names, short names and import paths by one neutral word.

    All libraries are masked in every text, whichever it documents, so the masking itself tells little. The plural
    "transformers" goes everywhere, the singular stays: it is an ordinary term in scikit-learn and elsewhere.

    Args:
        text: Any text.

    Returns:
        The text with `MASK_WORD` in the names' places; names in a row become one word.
    """
    return _MASK_RUN.sub(MASK_WORD, _MASKED.sub(MASK_WORD, text))


def split_modules(sizes: dict[str, int]) -> dict[str, str]:
    """Assign the modules of one library to the splits.

    The modules come in the order of the SHA-256 of their path and go to `validation` as long as they fit into
    `HELD_OUT_SHARE` of the library's paragraphs, else to `test` likewise, else to `train`. A bare hash of the path
    would leave libraries whose text stands in a few large modules (numpy) with next to nothing held out.

    Args:
        sizes: Number of paragraphs by module.

    Returns:
        Split by module.
    """
    room = {split: HELD_OUT_SHARE * sum(sizes.values()) for split in ("validation", "test")}
    result = {}
    for module in sorted(sizes, key=lambda module: hashlib.sha256(module.encode()).digest()):
        result[module] = next((split for split in room if sizes[module] <= room[split]), "train")
        if result[module] != "train":
            room[result[module]] -= sizes[module]
    return result


def _shuffled(split: datasets.Dataset, seed: int) -> list[tuple[bytes, str, str]]:
    """List masked texts of the task libraries with their sort key, in an order that only the seed and texts decide."""
    rows = [
        (text, library)
        for text, library in zip(split["text"][:], split["library"][:], strict=True)  # row by row is ten times slower
        if library in TASK_LIBRARIES
    ]
    return sorted((hashlib.sha256(f"{seed}\n{text}".encode()).digest(), mask_names(text), name) for text, name in rows)


def _missing(library: str) -> UserError:
    return UserError(
        f"The docstrings corpus reads the package {library!r}, which is not installed: reinstall tlm_hf with its "
        "dependencies."
    )


def _package_folder(library: str) -> Path:
    """Find a package's folder without importing the package (a top-level name needs no parent to be imported)."""
    try:
        spec = importlib.util.find_spec(library)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not spec.submodule_search_locations:
        raise _missing(library)
    return Path(spec.origin).parent


def _extract(folders: dict[str, Path], num_proc: int, show_progress: bool) -> dict[str, pa.Table]:
    """Read, deduplicate and split the paragraphs of all packages."""
    files = [
        (f"{library}/{path.relative_to(folder).as_posix()}", path)
        for library, folder in folders.items()
        for path in source_files(folder)
    ]
    rows: list[tuple[str, int, str]] = []
    unreadable = 0
    with tqdm(total=len(files), desc="docstrings", unit="file", mininterval=1.0, disable=not show_progress) as progress:
        chunks = [files[start : start + _FILES_PER_CHUNK] for start in range(0, len(files), _FILES_PER_CHUNK)]
        for chunk, (found, failed) in zip(chunks, _map_chunks(chunks, num_proc), strict=True):
            rows.extend(found)
            unreadable += failed
            progress.update(len(chunk))
    kept = [rows[index] for index in unique_indices([text for _, _, text in rows])]
    logger.info(
        "docstrings: %d paragraphs of %d found in %d files, %d files skipped",
        len(kept),
        len(rows),
        len(files),
        unreadable,
    )
    split_of: dict[str, str] = {}
    for library in folders:
        split_of |= split_modules(Counter(module for module, _, _ in kept if module.split("/")[0] == library))
    columns: dict[str, dict[str, list[str]]] = {split: {column: [] for column in _COLUMNS} for split in SPLITS}
    for module, position, text in kept:
        values = (text, module.split("/")[0], module, f"{module}#{position}")
        for column, value in zip(_COLUMNS, values, strict=True):
            columns[split_of[module]][column].append(value)
    schema = pa.schema([(column, pa.string()) for column in _COLUMNS])
    return {split: pa.table(columns[split], schema=schema) for split in SPLITS}


def _map_chunks(
    chunks: Sequence[Sequence[tuple[str, Path]]], num_proc: int
) -> Iterator[tuple[list[tuple[str, int, str]], int]]:
    """Extract chunks of files in order, in worker processes if more than one is allowed."""
    if num_proc == 1:
        yield from map(extract_files, chunks)
        return
    # A forked worker starts at once; a spawned one would import torch and transformers first, for nothing.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    with warnings.catch_warnings(), ProcessPoolExecutor(num_proc, mp_context=context) as executor:
        warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)  # the workers use no threads
        results: Iterable[tuple[list[tuple[str, int, str]], int]] = executor.map(extract_files, chunks)
        yield from results


def _read_cache(folder: Path) -> dict[str, pa.Table] | None:
    """Read a cached corpus; None when there is none or a file in it is damaged."""
    if not folder.is_dir():
        return None
    try:
        tables = {
            split: pq.read_table(folder / f"{split}.parquet", partitioning=None, page_checksum_verification=True)
            for split in SPLITS
        }
    except (OSError, pa.ArrowException) as error:
        logger.warning("The cached corpus in %s is damaged and is made anew (%s).", folder, error)
        return None
    if any(table.column_names != list(_COLUMNS) for table in tables.values()):
        logger.warning("The cached corpus in %s has other columns and is made anew.", folder)
        return None
    return tables


def _publish(draft: Path, folder: Path) -> None:
    """Move a finished draft to its place; another process may have put the same corpus there in the meantime."""
    try:
        draft.rename(folder)
    except OSError:
        if _read_cache(folder) is not None:
            return
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
