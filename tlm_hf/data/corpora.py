"""Pre-training corpora: `docstrings` (embedded), `wikipedia`, any local text, any Hub data set, any loaded table."""

import hashlib
import itertools
import logging
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np

from ..errors import UserError
from ..runs.atomic_files import Json
from ..runs.provenance import portable_path
from .docstrings import fingerprint, load_docstrings
from .sources import (
    BATCH,
    ID,
    Source,
    check_column,
    data_root,
    describe_split,
    each_text,
    first_of_equal,
    key_order,
    read_source,
    reading,
    tells_rows_apart,
    text_hash,
    text_keys,
)
from .wikipedia import CONFIG, REPOSITORY, REVISION, UNITS, stream_wikipedia

logger = logging.getLogger(__name__)

STREAMED_TEXTS = 40_000
"""Training texts of a streamed Wikipedia where no number is given."""
TABLE_VERSION = 1  # raise it with any change of `_take`: cached tables are found by it
_FEATURES = datasets.Features({"text": datasets.Value("string"), ID: datasets.Value("string")})


def load_corpus(
    corpus: str | datasets.Dataset | datasets.DatasetDict,
    *,
    num_texts: int | None = None,
    validation_texts: int = 1000,
    text_column: str = "text",
    config: str | None = None,
    revision: str | None = None,
    root: str | None = None,
    seed: int = 0,
    unit: str | None = None,
) -> datasets.DatasetDict:
    """Load a corpus as the splits `train` and `validation` with the columns `text` and `id`.

    Texts are stripped; empty ones and exact duplicates are dropped and counted. Subsets are seeded and nested; held-out
    texts are the same for every seed and size. Each split keeps its facts (`sources.facts_of`). The id is the source's
    column `id` where that tells the rows apart, else the row's place. The texts stay on disk.

    Args:
        corpus: `docstrings`; `wikipedia` (that folder of the data root, or else streamed from the Hub);
            `wikimedia/wikipedia` (streamed); a file or folder; `owner/name` on the Hub; or loaded tables.
        num_texts: texts to train on; None for all (40,000 of a streamed Wikipedia).
        validation_texts: texts held out: at most that many of the source's own validation split, or else at most a
            tenth of the corpus.
        text_column: column that holds the text.
        config: configuration of a Hub data set or of a folder whose README.md names some.
        revision: revision of a Hub data set; None for the pinned commit of Wikipedia.
        root: data root; None for the variable TLM_DATA.
        seed: chooses the subset.
        unit: `article` (default) or `paragraph` of a streamed Wikipedia.

    Raises:
        UserError: no such corpus, column or text, too few texts, or an option that the corpus has no use for.
    """
    for use, count in (("training", num_texts), ("held-out", validation_texts)):
        if count is not None and count < 1:
            raise UserError(f"{count} {use} texts were asked for: ask for at least 1.")
    if corpus == "wikipedia":
        folder = data_root(root)
        if folder is not None and (folder / "wikipedia").is_dir():
            corpus = str(folder / "wikipedia")
        else:
            corpus = REPOSITORY
    is_streamed = corpus == REPOSITORY and not Path(REPOSITORY).exists()
    if unit is not None and (unit not in UNITS or not is_streamed):
        raise UserError(f"The unit {unit!r} does not fit: a Wikipedia streamed from the Hub has {' or '.join(UNITS)}.")
    if is_streamed:
        if text_column != "text":
            raise UserError(
                f"{REPOSITORY!r} is read by its column 'text', not {text_column!r}: leave --text-column out."
            )
        return stream_wikipedia(
            num_texts or STREAMED_TEXTS,
            validation_texts,
            config=config or CONFIG,
            revision=revision or REVISION,
            unit=unit or UNITS[0],
            seed=seed,
        )
    return _choose(_read(corpus, text_column, config, revision), num_texts, validation_texts, seed)


class _Tables(NamedTuple):
    """What a corpus is chosen from: the table `split`, and the source's own validation split where it has one."""

    name: str
    split: str
    train: datasets.Dataset
    validation: datasets.Dataset | None
    column: str
    ids: str | None
    facts: Json


def _read(
    corpus: str | datasets.Dataset | datasets.DatasetDict, column: str, config: str | None, revision: str | None
) -> _Tables:
    name = corpus if isinstance(corpus, str) else type(corpus).__name__
    if (corpus == "docstrings" or not isinstance(corpus, str)) and (config is not None or revision is not None):
        raise UserError(f"The corpus {name!r} has neither configurations nor revisions: leave these out.")
    if not isinstance(corpus, str):
        splits = corpus if isinstance(corpus, datasets.DatasetDict) else datasets.DatasetDict(train=corpus)
        source = Source(splits, None)
    elif corpus == "docstrings":
        source = Source(load_docstrings(), fingerprint())
    else:
        source = read_source(corpus, config=config, revision=revision)
    split = "train" if "train" in source.splits else next(iter(source.splits))
    validation = source.splits.get("validation") if split == "train" else None
    tables = [source.splits[split]] if validation is None else [source.splits[split], validation]
    for table in tables:
        check_column(table, column, name, "--text-column")
        if getattr(table.features[column], "dtype", None) not in ("string", "large_string"):
            raise UserError(f"Column {column!r} of {name!r} holds no text: set --text-column.")
    if not isinstance(corpus, str):
        texts = itertools.chain.from_iterable(each_text(table[column]) for table in tables)
        source = Source(source.splits, f"sha256:{text_hash(text or '' for text in texts)}")
    path = Path(name).expanduser()
    place = portable_path(str(path)) if path.exists() else name
    facts = {"source": place, "config": config, "revision": source.revision, "unit": "row"}
    ids = ID if column != ID and tells_rows_apart(tables, ID) else None
    return _Tables(name, split, tables[0], validation, column, ids, facts)


def _choose(source: _Tables, num_texts: int | None, validation_texts: int, seed: int) -> datasets.DatasetDict:
    """Hold out texts and choose training texts in the order of keys that depend on seed and text alone."""
    keys = _keys(source, source.train, seed)
    order = first_of_equal(keys.held_out)
    if len(order) < 2:
        raise UserError(f"{source.name!r} has {len(order)} usable texts in {source.column!r}: give a corpus with text.")
    dropped = {"empty": len(source.train) - len(keys.rows), "duplicates": len(keys.rows) - len(order)}
    if source.validation is None:
        held_out = order[: max(1, min(validation_texts, len(order) // 10))]
        order = order[len(held_out) :]
        validation = _take(source, source.train, keys.rows[held_out], source.split)
    else:
        own = _keys(source, source.validation, seed)
        held_out = first_of_equal(own.held_out)[:validation_texts]
        if not len(held_out):
            raise UserError(f"The validation split of {source.name!r} has no text in {source.column!r}: give it text.")
        not_for_training = {key.tobytes() for key in own.held_out}
        order = order[[key.tobytes() not in not_for_training for key in keys.held_out[order]]]
        validation = _take(source, source.validation, own.rows[held_out], "validation")
    if num_texts is not None and num_texts > len(order):
        raise UserError(
            f"{num_texts} texts were asked for, but {source.name!r} has {len(order)} (besides {len(held_out)} held "
            f"out): ask for at most {len(order)}."
        )
    rest = np.sort(order)
    chosen = rest[key_order(keys.train[rest])][:num_texts]
    train = _take(source, source.train, keys.rows[chosen], source.split)
    return datasets.DatasetDict(
        train=describe_split(train, **source.facts, **dropped, seed=seed),
        validation=describe_split(validation, **source.facts, **dropped, seed=None),
    )


class _Keys(NamedTuple):
    """Numbers of the rows with text, int64 (texts,), and their sort keys for both splits, uint64 (texts, 4)."""

    rows: np.ndarray
    held_out: np.ndarray
    train: np.ndarray


def _keys(source: _Tables, table: datasets.Dataset, seed: int) -> _Keys:
    parts = []
    values = table[source.column]
    with reading(source.column, source.name):
        for start in range(0, max(1, len(table)), BATCH):
            texts = {start + row: (text or "").strip() for row, text in enumerate(values[start : start + BATCH])}
            texts = {row: text for row, text in texts.items() if text}
            rows = np.array(list(texts), dtype=np.int64)
            parts.append(_Keys(rows, text_keys(texts.values(), "validation"), text_keys(texts.values(), seed)))
    return _Keys(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _take(source: _Tables, table: datasets.Dataset, rows: np.ndarray, place: str) -> datasets.Dataset:
    """Rows of a table in the given order as `text` (stripped) and `id`, memory-mapped from the cache of `datasets`."""
    columns = [source.column] if source.ids is None else [source.column, source.ids]
    selected = table.select_columns(columns).select(rows)

    def finish(batch: dict[str, list[str]], indices: list[int]) -> dict[str, list[str]]:
        ids = [f"{place}/{number}" for number in rows[indices]] if source.ids is None else batch[source.ids]
        return {"text": [text.strip() for text in batch[source.column]], ID: ids}

    key = [TABLE_VERSION, table._fingerprint, *columns, place, hashlib.sha256(rows.tobytes()).hexdigest()]
    options: dict[str, Any] = {
        "batched": True,
        "with_indices": True,
        "remove_columns": selected.column_names,
        "features": _FEATURES,
        "new_fingerprint": hashlib.sha256(repr(key).encode()).hexdigest()[:32],
        "desc": "Choosing texts",
    }
    try:
        return selected.map(finish, **options)
    except OSError as error:
        logger.warning("The chosen texts cannot be kept on disk (%s) and stay in memory.", error)
        return selected.map(finish, **options, keep_in_memory=True, load_from_cache_file=False)


def corpus_hash(corpus: datasets.DatasetDict) -> str:
    """SHA-256 over the training texts, then the held-out texts."""
    return text_hash(itertools.chain(each_text(corpus["train"]["text"]), each_text(corpus["validation"]["text"])))
