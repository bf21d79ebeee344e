"""Pre-training corpora: `docstrings` (embedded), `wikipedia`, any local text, any Hub data set, any loaded table."""

import logging
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ..errors import UserError, listed
from ..runs.atomic_files import Json
from . import sources
from .docstrings import load_docstrings
from .tables import find_text
from .task_options import PLAIN, TextFormat
from .wikipedia import CONFIG, REPOSITORY, REVISION, stream_wikipedia

logger = logging.getLogger(__name__)
STREAMED_TEXTS = 40_000  # training texts of a streamed Wikipedia where no number is given


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
    written: TextFormat = PLAIN,
) -> datasets.DatasetDict:
    """Load a corpus as the splits `train` and `validation` with the columns `text` and `id`, its place.

    `corpus` is `docstrings`, `wikipedia` (of the data root, else streamed), a path, `owner/name` on the Hub, or tables;
    other options are those of `sources.read_source`. Texts are stripped; empty ones and duplicates are left out and
    counted. `num_texts` None means all (40,000 of a streamed Wikipedia); subsets are seeded and nested. At most
    `validation_texts` are held out, of the source's validation split or a tenth of the corpus, the same for every seed
    and size. Raises UserError for no such corpus or column, too few texts, or an option without use.
    """
    for use, count in (("training", num_texts), ("held-out", validation_texts)):
        if count is not None and count < 1:
            raise UserError(f"{count} {use} texts were asked for: ask for at least 1.")
    if corpus == "wikipedia":
        folder = sources.data_root(root)
        corpus = f"{folder}/wikipedia" if folder and (folder / "wikipedia").is_dir() else REPOSITORY
    name = corpus if isinstance(corpus, str) else type(corpus).__name__
    units = ("line", "paragraph") if isinstance(corpus, str) and sources.is_text(corpus) else ()
    if unit not in (None, *units):
        choices = f"choose {' or '.join(units)}" if units else "leave --text-unit out, each row is a text"
        raise UserError(f"{name!r} has no texts by {unit!r}: {choices}.")
    if corpus == REPOSITORY and not Path(REPOSITORY).exists():
        if text_column != "text":
            raise UserError(f"{corpus!r} is read by its column 'text', not {text_column!r}: leave --text-column out.")
        place = {"config": config or CONFIG, "revision": revision or REVISION}
        return stream_wikipedia(num_texts or STREAMED_TEXTS, validation_texts, seed=seed, **place)
    options = {"config": config, "revision": revision, "written": written, "text_unit": unit}
    tables, text_column = _read(corpus, name, text_column, options)
    texts = [_clean(table, split, text_column) for split, table in tables.items()]
    if len(tables) > 1 and not len(texts[1]):
        raise UserError(f"The validation split of {name!r} has no text in {text_column!r}: give it text.")
    empty = sum(map(len, tables.values())) - sum(map(len, texts))
    return _choose(name, texts, empty, num_texts, validation_texts, seed)


def _read(corpus: Any, name: str, column: str, options: Json) -> tuple[dict[str, datasets.Dataset], str]:
    """The training split, and the validation split if there is one, else the first split; the column of texts."""
    if (corpus == "docstrings" or not isinstance(corpus, str)) and (options["config"] or options["revision"]):
        raise UserError(f"The corpus {name!r} has neither configurations nor revisions: leave these out.")
    if not isinstance(corpus, str):
        splits = corpus if isinstance(corpus, datasets.DatasetDict) else datasets.DatasetDict(train=corpus)
        splits = splits.with_format(None)
    elif corpus == "docstrings":
        splits = load_docstrings()
        del splits["test"]  # the task's
    else:
        splits = sources.read_source(corpus, **options).splits
    names = [split for split in ("train", "validation") if split in splits] if "train" in splits else list(splits)[:1]
    if unread := [split for split in splits if split not in names]:
        logger.warning("Note: splits of %s that are not read: %s.", name, listed(unread))
    tables = {split: splits[split] for split in names}
    column = find_text(tables[names[0]].features, "label") if column == "text" else column
    for table in tables.values():
        sources.check_column(table, column, name, "--text-column")
        if getattr(table.features[column], "dtype", None) not in sources.TEXT_TYPES:
            raise UserError(f"Column {column!r} of {name!r} holds no text: set --text-column.")
    return tables, column


def _clean(table: datasets.Dataset, split: str, column: str) -> datasets.Dataset:
    """The rows with text as `text` (stripped) and `id`, in the cache files of `datasets`."""

    def finish(batch: dict[str, list[str]], rows: list[int]) -> dict[str, list[str]]:
        texts = {f"{split}/{row}": (text or "").strip() for row, text in zip(rows, batch[column], strict=True)}
        return {"text": [*filter(None, texts.values())], sources.ID: [place for place, text in texts.items() if text]}

    features = datasets.Features({"text": datasets.Value("string"), sources.ID: datasets.Value("string")})
    options = {"with_indices": True, "features": features, "desc": "Reading texts"}
    return sources.mapped(table.select_columns([column]), finish, **options)


def _choose(
    name: str, tables: list[datasets.Dataset], empty: int, num_texts: int | None, validation_texts: int, seed: int
) -> datasets.DatasetDict:
    """Hold out texts (of the source's validation split, the second table, if any) and choose training texts."""
    texts, own = tables[0], tables[-1]
    keys, own_keys = (sources.text_keys(table["text"], "validation") for table in (texts, own))
    order = np.unique(keys, return_index=True)[1]  # of equal texts the first
    if len(order) < 2:
        raise UserError(f"{name!r} has {len(order)} usable texts: give a corpus with text, or set --text-column.")
    counts = {"empty": empty, "duplicates": len(texts) - len(order)}
    if own is texts:
        held_out = order[: max(1, min(validation_texts, len(order) // 10))]
        rest = np.sort(order[len(held_out) :])
    else:
        held_out = np.unique(own_keys, return_index=True)[1][:validation_texts]
        rest = np.sort(order[~np.isin(keys[order], own_keys)])
        counts["also in the validation split"] = len(order) - len(rest)
    if words := sources.left_out(counts):
        logger.warning(f"Note: {name}: {words}.")
    if not len(rest):
        raise UserError(f"Every training text of {name!r} is in its validation split too: give other texts to one.")
    if num_texts is not None and num_texts > len(rest):
        held = f"{len(rest)} (besides {len(held_out)} held out)"
        raise UserError(f"{num_texts} texts were asked for, but {name!r} has {held}: ask for at most {len(rest)}.")
    train = texts.select(rest[np.argsort(sources.text_keys(texts["text"], seed)[rest], kind="stable")][:num_texts])
    return datasets.DatasetDict(train=train, validation=own.select(held_out))


def corpus_hash(corpus: datasets.DatasetDict) -> str:
    """SHA-256 over the training texts, then the held-out texts."""
    splits = (corpus[split]["text"] for split in ("train", "validation"))
    return sources.text_hash(text for texts in splits for text in sources.each_text(texts))
