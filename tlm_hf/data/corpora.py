"""Pre-training corpora: `docstrings` (embedded), `wikipedia`, any local text, any Hub data set, any loaded table."""

import itertools
from pathlib import Path

import datasets
import numpy as np

from ..errors import UserError
from ..runs.atomic_files import Json
from ..runs.provenance import portable_path
from .docstrings import fingerprint, load_docstrings
from .sources import (
    BATCH,
    ID,
    TEXT_TYPES,
    check_column,
    data_root,
    describe_split,
    each_text,
    first_of_equal,
    is_text,
    key_order,
    read_source,
    tells_rows_apart,
    text_hash,
    text_keys,
)
from .task_options import PLAIN, TextFormat
from .wikipedia import CONFIG, REPOSITORY, REVISION, UNITS, stream_wikipedia

TEXT_UNITS = ("line", "paragraph")
STREAMED_TEXTS = 40_000
"""Training texts of a streamed Wikipedia where no number is given."""


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
    """Load a corpus as the splits `train` and `validation` with the columns `text` and `id`.

    Texts are stripped; empty ones and duplicates are dropped and counted. Subsets are seeded and nested; held-out texts
    are the same for every seed and size. Texts stay on disk; their id is the source's, or the row's place.

    Args:
        corpus: `docstrings`; `wikipedia` (of the data root, else streamed); a path; `owner/name` on the Hub; or tables.
        num_texts: texts to train on; None for all (40,000 of a streamed Wikipedia).
        validation_texts: texts held out, at most: of the source's own validation split, or a tenth of the corpus.
        text_column: column that holds the text.
        config: configuration of a Hub data set or of a folder whose README.md names some.
        revision: revision of a Hub data set; None for the pinned commit of Wikipedia.
        root: data root; None for the variable TLM_DATA.
        seed: chooses the subset.
        unit: `article` (default) or `paragraph` of a streamed Wikipedia; `line` or `paragraph` of text files.
        written: encoding and quoting of local files.

    Raises:
        UserError: no such corpus, column or text, too few texts, or an option that the corpus has no use for.
    """
    for use, count in (("training", num_texts), ("held-out", validation_texts)):
        if count is not None and count < 1:
            raise UserError(f"{count} {use} texts were asked for: ask for at least 1.")
    if corpus == "wikipedia":
        folder = data_root(root)
        corpus = f"{folder}/wikipedia" if folder and (folder / "wikipedia").is_dir() else REPOSITORY
    is_streamed = corpus == REPOSITORY and not Path(REPOSITORY).exists()
    name = corpus if isinstance(corpus, str) else type(corpus).__name__
    units = UNITS if is_streamed else TEXT_UNITS if isinstance(corpus, str) and is_text(corpus) else ()
    if unit not in (None, *units):
        choices = f"choose {' or '.join(units)}" if units else "leave --text-unit out, each row is a text"
        raise UserError(f"{name!r} has no texts by {unit!r}: {choices}.")
    if is_streamed:
        if text_column != "text":
            raise UserError(f"{corpus!r} is read by its column 'text', not {text_column!r}: leave --text-column out.")
        return stream_wikipedia(
            num_texts or STREAMED_TEXTS,
            validation_texts,
            config=config or CONFIG,
            revision=revision or REVISION,
            unit=unit or UNITS[0],
            seed=seed,
        )
    tables, facts = _read(corpus, name, text_column, config, revision, unit, written)
    ids = ID if text_column != ID and tells_rows_apart(list(tables.values()), ID) else None
    texts, *own = (_Texts(table, split, text_column, ids, seed) for split, table in tables.items())
    return _choose(name, texts, own[0] if own else None, facts, num_texts, validation_texts, seed)


class _Texts:
    """The rows with text of one table.

    Attributes:
        rows: their numbers, int64 (texts,).
        held_out_keys: sort keys for held-out texts, uint64 (texts, 4); they depend on the text alone.
        train_keys: sort keys for training texts; they depend on the seed too.
    """

    def __init__(self, table: datasets.Dataset, place: str, column: str, ids: str | None, seed: int) -> None:
        self.table, self.place, self.column, self.ids = table, place, column, ids
        rows: list[int] = []
        held_out_keys, train_keys = [text_keys([], seed)], [text_keys([], seed)]
        values = table[column]
        for start in range(0, len(table), BATCH):
            texts = {start + row: (text or "").strip() for row, text in enumerate(values[start : start + BATCH])}
            texts = {row: text for row, text in texts.items() if text}
            rows += texts
            held_out_keys.append(text_keys(texts.values(), "validation"))
            train_keys.append(text_keys(texts.values(), seed))
        self.rows = np.array(rows, dtype=np.int64)
        self.held_out_keys, self.train_keys = np.concatenate(held_out_keys), np.concatenate(train_keys)

    def take(self, chosen: np.ndarray) -> datasets.Dataset:
        """The texts at these places of `rows` as `text` (stripped) and `id`, in the cache files of `datasets`."""
        rows, place, column, id_column = self.rows[chosen], self.place, self.column, self.ids

        def finish(batch: dict[str, list[str]], indices: list[int]) -> dict[str, list[str]]:
            ids = batch[id_column] if id_column else [f"{place}/{number}" for number in rows[indices]]
            return {"text": [text.strip() for text in batch[column]], "id": ids}

        selected = self.table.select_columns([column, id_column] if id_column else [column]).select(rows)
        try:
            return selected.map(
                finish,
                batched=True,
                with_indices=True,
                remove_columns=selected.column_names,
                features=datasets.Features({"text": datasets.Value("string"), ID: datasets.Value("string")}),
                desc="Choosing texts",
            )
        except OSError as error:
            raise UserError(f"The texts cannot be kept ({error}): free space, or set HF_DATASETS_CACHE.") from error


def _read(
    corpus: str | datasets.Dataset | datasets.DatasetDict,
    name: str,
    column: str,
    config: str | None,
    revision: str | None,
    unit: str | None,
    written: TextFormat,
) -> tuple[dict[str, datasets.Dataset], Json]:
    """The tables `train` and, where the source has it, `validation`, and the facts of the source."""
    if (corpus == "docstrings" or not isinstance(corpus, str)) and (config is not None or revision is not None):
        raise UserError(f"The corpus {name!r} has neither configurations nor revisions: leave these out.")
    if not isinstance(corpus, str):
        splits = corpus if isinstance(corpus, datasets.DatasetDict) else datasets.DatasetDict(train=corpus)
    elif corpus == "docstrings":
        splits, revision = load_docstrings(), fingerprint()
    else:
        splits, revision, _ = read_source(corpus, config=config, revision=revision, written=written, text_unit=unit)
    tables = {split: splits[split] for split in ("train", "validation") if "train" in splits and split in splits}
    tables = tables or dict(itertools.islice(splits.items(), 1))
    for table in tables.values():
        check_column(table, column, name, "--text-column")
        if getattr(table.features[column], "dtype", None) not in TEXT_TYPES:
            raise UserError(f"Column {column!r} of {name!r} holds no text: set --text-column.")
    if not isinstance(corpus, str):
        texts = itertools.chain.from_iterable(each_text(table[column]) for table in tables.values())
        revision = f"sha256:{text_hash(text or '' for text in texts)}"
    path = Path(name).expanduser()
    place = portable_path(str(path)) if path.exists() else name
    return tables, {"source": place, "config": config, "revision": revision, "unit": "row"}


def _choose(
    name: str, texts: _Texts, own: _Texts | None, facts: Json, num_texts: int | None, validation_texts: int, seed: int
) -> datasets.DatasetDict:
    """Hold out texts (of `own`, the source's validation split, if any) and choose training texts by their keys."""
    order = first_of_equal(texts.held_out_keys)
    if len(order) < 2:
        raise UserError(f"{name!r} has {len(order)} usable texts in {texts.column!r}: give a corpus with text.")
    facts |= {"empty": len(texts.table) - len(texts.rows), "duplicates": len(texts.rows) - len(order)}
    if own is None:
        held_out = order[: max(1, min(validation_texts, len(order) // 10))]
        order = order[len(held_out) :]
        validation = texts.take(held_out)
    else:
        held_out = first_of_equal(own.held_out_keys)[:validation_texts]
        if not len(held_out):
            raise UserError(f"The validation split of {name!r} has no text in {own.column!r}: give it text.")
        not_for_training = {key.tobytes() for key in own.held_out_keys}
        order = order[[key.tobytes() not in not_for_training for key in texts.held_out_keys[order]]]
        validation = own.take(held_out)
    if num_texts is not None and num_texts > len(order):
        raise UserError(
            f"{num_texts} texts were asked for, but {name!r} has {len(order)} (besides {len(held_out)} held out): ask "
            f"for at most {len(order)}."
        )
    rest = np.sort(order)
    train = texts.take(rest[key_order(texts.train_keys[rest])][:num_texts])
    return datasets.DatasetDict(
        train=describe_split(train, **facts, seed=seed), validation=describe_split(validation, **facts, seed=None)
    )


def corpus_hash(corpus: datasets.DatasetDict) -> str:
    """SHA-256 over the training texts, then the held-out texts."""
    return text_hash(itertools.chain(each_text(corpus["train"]["text"]), each_text(corpus["validation"]["text"])))
