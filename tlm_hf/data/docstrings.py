"""The embedded corpus: English paragraphs from the docstrings of the packages that training needs.

Every installation has this technical English, so pre-training and a classification task run without a download. All
paragraphs of a module are in one split, and near-duplicates are dropped beforehand, so held-out text is not paraphrased
in the training split. In the task's texts the names of all task libraries are replaced by one word.
"""

import functools
import gc
import hashlib
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import re
import sys
from collections import Counter
from pathlib import Path

import datasets
import filelock
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from ..errors import UserError
from .docstring_extraction import file_paragraphs, source_files, unique_indices
from .sources import ID, cached_table

EXTRACTION_VERSION = 2  # raise it with any change of the extraction: caches are found by it
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
SPLITS = ("train", "validation", "test")
HELD_OUT_SHARE = 0.1  # of each library's paragraphs, for validation and again for test
_COLUMNS = ("text", "library", "module", ID)
NOT_INSTALLED = "The docstrings corpus reads the package {!r}, which is not installed: pip install 'tlm-hf[train]'."
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


def fingerprint() -> str:
    """SHA-256 (hex) over `EXTRACTION_VERSION` and the installed versions of `CORPUS_LIBRARIES`; raises UserError."""
    versions = {}
    for library in CORPUS_LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(_DISTRIBUTIONS.get(library, library))
        except importlib.metadata.PackageNotFoundError:
            raise UserError(NOT_INSTALLED.format(library)) from None
    key = {"extraction": EXTRACTION_VERSION, "libraries": versions}
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def load_docstrings(cache_dir: Path | None = None) -> datasets.DatasetDict:
    """Load the corpus; the first call reads the installed packages (a minute on two cores), later ones the cache.

    Args:
        cache_dir: folder of the cache; None for the variable TLM_CACHE, or `~/.cache/tlm_hf`.

    Returns:
        Splits `train`, `validation` and `test` with the columns `text` (one paragraph), `library` (import name),
        `module` (path of the source file) and `id` (`module#position`).

    Raises:
        UserError: a library is missing, or the cache folder cannot be written.
    """
    name = fingerprint()
    root = Path(cache_dir or os.environ.get("TLM_CACHE") or Path.home() / ".cache" / "tlm_hf").expanduser()
    path = root / f"docstrings-{name[:16]}.parquet"
    folders = {library: _package_folder(library) for library in CORPUS_LIBRARIES}
    try:
        root.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{path}.lock"):  # other processes wait for this one and read what it wrote
            table = cached_table(path, lambda: _extract(folders), "TLM_CACHE")
    except OSError as error:
        reason = error.strerror
        raise UserError(f"The cache folder {root} cannot be written ({reason}): set TLM_CACHE.") from error
    splits = {split: table.filter(pc.equal(table["split"], split)).select(_COLUMNS) for split in SPLITS}
    return datasets.DatasetDict(
        {split: datasets.Dataset(rows, fingerprint=f"{name[:32]}-{split}") for split, rows in splits.items()}
    )


def load_docstrings_task(
    train_per_label: int = 200,
    validation_per_label: int = 40,
    test_per_label: int = 60,
    seed: int = 0,
    cache_dir: Path | None = None,
) -> datasets.DatasetDict:
    """Load the classification task: which of `TASK_LIBRARIES` does a paragraph document?

    Args:
        train_per_label: texts of each class in `train`, drawn from the corpus's split of that name.
        validation_per_label: same for `validation`.
        test_per_label: same for `test`.
        seed: chooses the texts; a larger number with the same seed contains the smaller choice.
        cache_dir: see `load_docstrings`.

    Returns:
        Three splits with the columns `text` (masked by `mask_names`), `label` (ClassLabel) and `id`, in mixed order.

    Raises:
        UserError: a number is below 1 or above what a class has; also as in `load_docstrings`.
    """
    per_label = dict(zip(SPLITS, (train_per_label, validation_per_label, test_per_label), strict=True))
    if min(per_label.values()) < 1:
        raise UserError(f"The docstrings task needs at least 1 text per label in each split, not {per_label}.")
    names = datasets.ClassLabel(names=list(TASK_LIBRARIES))
    features = datasets.Features({"text": datasets.Value("string"), "label": names, ID: datasets.Value("string")})
    used: set[str] = set()  # masking may make two texts equal
    task = {}
    for split, rows in load_docstrings(cache_dir).items():
        chosen = []
        available: Counter[str] = Counter()
        texts, libraries, places = (rows[column][:] for column in ("text", "library", ID))
        order = sorted(range(len(texts)), key=lambda row: hashlib.sha256(f"{seed}\n{texts[row]}".encode()).digest())
        for index in order:
            masked, library = mask_names(texts[index]), libraries[index]
            if library in TASK_LIBRARIES and masked.lower() not in used:
                used.add(masked.lower())
                available[library] += 1
                if available[library] <= per_label[split]:
                    chosen.append({"text": masked, "label": library, ID: places[index]})
        fewest = min(TASK_LIBRARIES, key=lambda library: available[library])
        if available[fewest] < per_label[split]:
            raise UserError(
                f"The docstrings task asks for {per_label[split]} {split} texts per label, but {fewest!r} has "
                f"{available[fewest]}: ask for {available[fewest]} or fewer."
            )
        task[split] = datasets.Dataset.from_list(chosen, features=features)
    return datasets.DatasetDict(task)


@functools.lru_cache(maxsize=2**16)  # a study loads the task for each of its runs
def mask_names(text: str) -> str:
    """Replace the names, short names and import paths of all task libraries by `MASK_WORD`; several in a row by one.

    The plural "transformers" is replaced everywhere, the singular stays: it is an ordinary term in scikit-learn.
    """
    return _MASK_RUN.sub(MASK_WORD, _MASKED.sub(MASK_WORD, text))


def split_modules(sizes: dict[str, int]) -> dict[str, str]:
    """Assign the modules of one library, with their numbers of paragraphs, to splits.

    In the order of the SHA-256 of its path, a module goes to `validation` if it still fits into `HELD_OUT_SHARE` of the
    library's paragraphs, else to `test` on the same condition, else to `train`.
    """
    room = {split: HELD_OUT_SHARE * sum(sizes.values()) for split in ("validation", "test")}
    splits = {}
    for module in sorted(sizes, key=lambda module: hashlib.sha256(module.encode()).digest()):
        splits[module] = next((split for split in room if sizes[module] <= room[split]), "train")
        if splits[module] != "train":
            room[splits[module]] -= sizes[module]
    return splits


def _package_folder(library: str) -> Path:
    """Folder of a package, without importing it (a top-level name needs no parent)."""
    spec = importlib.util.find_spec(library)
    if spec is None or spec.origin is None:
        raise UserError(NOT_INSTALLED.format(library))
    return Path(spec.origin).parent


def _extract(folders: dict[str, Path]) -> pa.Table:
    """Read, deduplicate and split the paragraphs of all packages."""
    files = [path for folder in folders.values() for path in source_files(folder)]
    # A forked worker starts at once; a spawned one would import torch and transformers first.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    with context.Pool(2, initializer=gc.disable) as pool:  # syntax trees hold no garbage: parsing takes half the time
        results = pool.imap(file_paragraphs, files, chunksize=50)
        paragraphs = list(tqdm(results, "Reading docstrings", len(files), disable=None))
    sites = {library: folder.parent for library, folder in folders.items()}
    rows = []
    for path, texts in zip(files, paragraphs, strict=True):
        library = next(library for library, folder in folders.items() if path.is_relative_to(folder))
        module = path.relative_to(sites[library]).as_posix()
        for position, text in enumerate(texts):
            rows.append({"text": text, "library": library, "module": module, ID: f"{module}#{position}"})
    rows = [rows[index] for index in unique_indices([row["text"] for row in rows])]
    splits: dict[str, str] = {}
    for library in folders:
        splits |= split_modules(Counter(row["module"] for row in rows if row["library"] == library))
    return pa.Table.from_pylist([{**row, "split": splits[row["module"]]} for row in rows])
