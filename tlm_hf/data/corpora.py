"""Pre-training corpora: `docstrings` (embedded), `wikipedia`, any local text, any Hub data set."""

import hashlib
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ..errors import UserError
from ..runs.provenance import portable_path
from .docstrings import fingerprint, load_docstrings
from .sources import (
    BATCH,
    check_column,
    data_root,
    each_text,
    first_of_equal,
    key_order,
    read_source,
    reading,
    seeded_order,
    tells_rows_apart,
    text_hash,
    text_keys,
)
from .streaming import UNITS, stream_corpus
from .subsets import ID, describe_split

logger = logging.getLogger(__name__)

WIKIPEDIA = ("wikimedia/wikipedia", "20231101.en")
WIKIPEDIA_REVISION = "b04c8d1ceb2f5cd4588862100d08de323dccfbaa"
STREAMED_TEXTS = 40_000
"""Training texts of a streamed Wikipedia where no number is given."""
TABLE_VERSION = 1  # raise it with any change of `_take`, so that tables cached before are not taken for the same
_FEATURES = datasets.Features({"text": datasets.Value("string"), ID: datasets.Value("string")})


def load_corpus(
    name: str,
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

    Texts are stripped; empty ones and exact duplicates are dropped and counted. Subsets are seeded and nested: the
    first 20,000 texts of a seed are the first half of its first 40,000. The held-out texts are the same for every seed
    and size. Each split keeps its facts (see `subsets.facts_of`): source, config, revision (the commit, where it comes
    from the Hub, else `sha256:` and `sources.files_hash`), unit, seed and the counts of what was dropped. A column `id`
    of the source is kept where it tells the rows apart (strings, none missing, all different); else the id says where
    the row stands.

    The texts are never in memory all at once, but for those chosen of a streamed Wikipedia; choosing takes 64 bytes a
    text of the whole corpus.

    Args:
        name: `docstrings`; `wikipedia` (the folder `wikipedia` under the data root where there is one, else streamed);
            `wikimedia/wikipedia`, streamed from the Hub (see `streaming.stream_corpus`); a file or folder; or
            `owner/name` on the Hub.
        num_texts: texts to train on; None for all (40,000 for a streamed Wikipedia).
        validation_texts: texts held out for the fixed-mask loss (at most a tenth of the corpus; of a streamed one as
            many as asked for); from the source's own validation split where it has one.
        text_column: column that holds the text.
        config: configuration of a Hub data set, or of a folder that `prepare_data` wrote; None for `20231101.en` of a
            streamed Wikipedia.
        revision: revision of a Hub data set; None for a known commit of a streamed Wikipedia.
        root: data root; None for the variable TLM_DATA.
        seed: chooses the subset.
        unit: what a text of a streamed Wikipedia is, `article` (the default) or `paragraph`; the rows of a local folder
            `wikipedia` are taken as they are.

    Raises:
        UserError: no such corpus, no such column, no text in it, more texts asked for than there are, or an option that
            the corpus has no use for (a unit where rows are texts, a revision of local files, whatever else for
            `docstrings`).
    """
    if num_texts is not None and num_texts < 1:
        raise UserError(f"{num_texts} texts were asked for: ask for at least 1.")
    is_wikipedia = name == "wikipedia" or (name == WIKIPEDIA[0] and not Path(name).exists())
    if unit is not None and (unit not in UNITS or not is_wikipedia):
        known = f"choose {' or '.join(UNITS)}" if is_wikipedia else f"{name!r} has one text a row"
        raise UserError(f"The unit {unit!r} does not fit the corpus {name!r}: {known}.")
    if name == "docstrings":
        if config is not None or revision is not None or text_column != "text":
            raise UserError(
                "The corpus 'docstrings' is part of the package, with one configuration, revision and text column: "
                "leave these out."
            )
        splits = load_docstrings()
        facts = {"source": name, "config": None, "revision": fingerprint(), "unit": "row"}
        validation = splits["validation"]
        held_out = seeded_order(each_text(validation["text"]), "validation")[:validation_texts]
        train = splits["train"]
        order = seeded_order(each_text(train["text"]), seed)
        chosen = _prefix(order, num_texts, name, len(held_out))
        return datasets.DatasetDict(
            train=describe_split(_take(train, "text", chosen, ids="row_id"), **facts, seed=seed),
            validation=describe_split(_take(validation, "text", held_out, ids="row_id"), **facts, seed=None),
        )
    source = name
    if is_wikipedia:
        folder = data_root(root)
        if folder is None or name != "wikipedia" or not (folder / "wikipedia").is_dir():
            return stream_corpus(
                WIKIPEDIA[0],
                config=config or WIKIPEDIA[1],
                revision=revision or WIKIPEDIA_REVISION,
                num_texts=num_texts or STREAMED_TEXTS,
                validation_texts=validation_texts,
                unit=unit or UNITS[0],
                text_column=text_column,
                seed=seed,
            )
        source = str(folder / "wikipedia")
        if unit is not None or revision is not None:
            option = f"unit {unit!r}" if unit is not None else f"revision {revision!r}"
            raise UserError(
                f"The {option} does not fit the local folder {source!r}, whose rows are taken as they are: leave it "
                f"out, or give {WIKIPEDIA[0]} for the one on the Hub."
            )
    table, revision = read_source(source, config=config, revision=revision)
    split = "train" if "train" in table else next(iter(table))
    is_local = Path(source).expanduser().exists()
    facts = {
        "source": portable_path(str(Path(source).expanduser())) if is_local else source,
        "config": config,
        "revision": revision,
        "unit": "row",
    }
    given = table.get("validation") if split == "train" else None
    return _choose(table[split], split, source, text_column, num_texts, validation_texts, seed, facts, given)


def _choose(
    table: datasets.Dataset,
    split: str,
    name: str,
    column: str,
    num_texts: int | None,
    validation_texts: int,
    seed: int,
    facts: dict[str, Any],
    given: datasets.Dataset | None,
) -> datasets.DatasetDict:
    """Hold out texts and choose training texts by the order of keys that depend on nothing but seed and text.

    `given` is the source's own validation split, from which held-out texts come then.
    """
    rows, held_out_keys, train_keys = _keys(table, column, seed, name)
    # A subset that was published says where its rows came from.
    ids = ID if column != ID and tells_rows_apart([table] if given is None else [table, given], ID) else None
    order = first_of_equal(held_out_keys)
    if len(order) < 2:
        raise UserError(f"{name!r} has {len(order)} usable texts in column {column!r}: give a corpus with text.")
    dropped = {"empty": len(table) - len(rows), "duplicates": len(rows) - len(order)}
    if given is None:
        held_out = order[: max(1, min(validation_texts, len(order) // 10))]
        order = order[len(held_out) :]
        validation = _take(table, column, rows[held_out], place=split, ids=ids)
    else:
        own_rows, own_keys, _ = _keys(given, column, seed, name)
        held_out = first_of_equal(own_keys)[:validation_texts]
        if not len(held_out):
            raise UserError(f"The validation split of {name!r} has no text in column {column!r}: give it text.")
        known = {key.tobytes() for key in own_keys}
        order = order[[key.tobytes() not in known for key in held_out_keys[order]]]
        validation = _take(given, column, own_rows[held_out], place="validation", ids=ids)
    rest = np.sort(order)
    chosen = _prefix(rest[key_order(train_keys[rest])], num_texts, name, len(held_out))
    return datasets.DatasetDict(
        train=describe_split(_take(table, column, rows[chosen], place=split, ids=ids), **facts, **dropped, seed=seed),
        validation=describe_split(validation, **facts, **dropped, seed=None),
    )


def _keys(table: datasets.Dataset, column: str, seed: int, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of the rows with text, int64 (texts,), and their keys for held-out and training texts, (texts, 4)."""
    check_column(table, column, name, "--text-column")
    if getattr(table.features[column], "dtype", None) not in ("string", "large_string"):
        raise UserError(f"Column {column!r} of {name!r} holds no text: set --text-column.")
    with reading(column, name):
        return _read_keys(table, column, seed)


def _read_keys(table: datasets.Dataset, column: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, held_out, train = [], [], []
    values = table[column]
    for start in range(0, len(table), BATCH):
        stripped = [value.strip() if value is not None else "" for value in values[start : start + BATCH]]
        texts = [text for text in stripped if text]
        rows.append(np.array([start + index for index, text in enumerate(stripped) if text], dtype=np.int64))
        held_out.append(text_keys(texts, "validation"))
        train.append(text_keys(texts, seed))
    return np.concatenate(rows), np.concatenate(held_out), np.concatenate(train)


def _prefix(order: Sequence[int] | np.ndarray, wanted: int | None, name: str, held_out: int) -> np.ndarray:
    if wanted is not None and wanted > len(order):
        raise UserError(
            f"{wanted} texts were asked for, but {name!r} has {len(order)} (besides {held_out} held out): "
            f"ask for at most {len(order)}."
        )
    return np.asarray(order[:wanted], dtype=np.int64)


def _take(
    table: datasets.Dataset, column: str, rows: Sequence[int] | np.ndarray, *, place: str = "", ids: str | None = None
) -> datasets.Dataset:
    """Rows of a table, in the given order, as `text` (stripped) and `id` (`place/row`, or the column `ids`).

    The result is a file in the cache of `datasets`, memory-mapped; where the disk is full it stays in memory.
    """
    numbers = np.asarray(rows, dtype=np.int64)
    selected = table.select_columns([column] if ids is None else [column, ids]).select(numbers)

    def finish(batch: dict[str, list[str]], indices: list[int]) -> dict[str, list[str]]:
        places = [f"{place}/{number}" for number in numbers[indices]] if ids is None else batch[ids]
        return {"text": [text.strip() for text in batch[column]], ID: places}

    key = [TABLE_VERSION, table._fingerprint, column, place, ids, hashlib.sha256(numbers.tobytes()).hexdigest()]
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
