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
    ID,
    TEXT_TYPES,
    check_column,
    data_root,
    describe_split,
    each_text,
    is_text,
    mapped,
    read_source,
    tells_rows_apart,
    text_hash,
    text_keys,
)
from .task_options import PLAIN, TextFormat
from .wikipedia import CONFIG, REPOSITORY, REVISION, stream_wikipedia

TEXT_UNITS = ("line", "paragraph")
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
    """Load a corpus as the splits `train` and `validation` with the columns `text` and `id`.

    Texts are stripped; empty ones and duplicates are dropped and counted. Subsets are seeded and nested; held-out texts
    are the same for every seed and size. Texts stay on disk; their id is the source's, or the row's place. Raises
    UserError for no such corpus or column, too few texts, or an option that the corpus has no use for.

    `corpus` is `docstrings`, `wikipedia` (of the data root, else streamed), a path, `owner/name` on the Hub, or tables;
    `num_texts` None means all (40,000 of a streamed Wikipedia); at most `validation_texts` are held out, of the
    source's own validation split, or a tenth of the corpus. `config`, `revision` (of Wikipedia a pinned one), `unit`
    and `written` are those of `sources.read_source`; `root` is the data root, None for the variable TLM_DATA.
    """
    for use, count in (("training", num_texts), ("held-out", validation_texts)):
        if count is not None and count < 1:
            raise UserError(f"{count} {use} texts were asked for: ask for at least 1.")
    if corpus == "wikipedia":
        folder = data_root(root)
        corpus = f"{folder}/wikipedia" if folder and (folder / "wikipedia").is_dir() else REPOSITORY
    name = corpus if isinstance(corpus, str) else type(corpus).__name__
    units = TEXT_UNITS if isinstance(corpus, str) and is_text(corpus) else ()
    if unit not in (None, *units):
        choices = f"choose {' or '.join(units)}" if units else "leave --text-unit out, each row is a text"
        raise UserError(f"{name!r} has no texts by {unit!r}: {choices}.")
    if corpus == REPOSITORY and not Path(REPOSITORY).exists():
        if text_column != "text":
            raise UserError(f"{corpus!r} is read by its column 'text', not {text_column!r}: leave --text-column out.")
        return stream_wikipedia(
            num_texts or STREAMED_TEXTS,
            validation_texts,
            config=config or CONFIG,
            revision=revision or REVISION,
            seed=seed,
        )
    tables, facts = _read(corpus, name, text_column, config, revision, unit, written)
    ids = ID if text_column != ID and tells_rows_apart(list(tables.values()), ID) else None
    texts = [_clean(table, split, text_column, ids) for split, table in tables.items()]
    facts["empty"] = len(next(iter(tables.values()))) - len(texts[0])
    if len(tables) > 1 and not len(texts[1]):
        raise UserError(f"The validation split of {name!r} has no text in {text_column!r}: give it text.")
    return _choose(name, texts, facts, num_texts, validation_texts, seed)


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
    place = portable_path(str(Path(name).expanduser())) if Path(name).expanduser().exists() else name
    return tables, {"source": place, "config": config, "revision": revision, "unit": "row"}


def _clean(table: datasets.Dataset, place: str, column: str, id_column: str | None) -> datasets.Dataset:
    """The rows with text as `text` (stripped) and `id`, in the cache files of `datasets`."""

    def finish(batch: dict[str, list[str]], rows: list[int]) -> dict[str, list[str]]:
        texts = [(text or "").strip() for text in batch[column]]
        ids = batch[id_column] if id_column else [f"{place}/{row}" for row in rows]
        return {"text": [*filter(None, texts)], ID: [own for own, text in zip(ids, texts, strict=True) if text]}

    chosen = table.select_columns([column, id_column] if id_column else [column])
    features = datasets.Features({"text": datasets.Value("string"), ID: datasets.Value("string")})
    return mapped(chosen, finish, with_indices=True, features=features, desc="Reading texts")


def _choose(
    name: str, tables: list[datasets.Dataset], facts: Json, num_texts: int | None, validation_texts: int, seed: int
) -> datasets.DatasetDict:
    """Hold out texts (of the source's validation split, the second table, if any) and choose training texts."""
    texts, own = tables[0], tables[-1]
    keys, own_keys = (text_keys(each_text(table["text"]), "validation") for table in (texts, own))
    order = np.unique(keys, return_index=True)[1]  # of equal texts the first
    if len(order) < 2:
        raise UserError(f"{name!r} has {len(order)} usable texts: give a corpus with text, or set --text-column.")
    facts["duplicates"] = len(texts) - len(order)
    if own is texts:
        held_out = order[: max(1, min(validation_texts, len(order) // 10))]
        rest = np.sort(order[len(held_out) :])
    else:
        held_out = np.unique(own_keys, return_index=True)[1][:validation_texts]
        rest = np.sort(order[~np.isin(keys[order], own_keys)])
    if num_texts is not None and num_texts > len(rest):
        raise UserError(
            f"{num_texts} texts were asked for, but {name!r} has {len(rest)} (besides {len(held_out)} held out): ask "
            f"for at most {len(rest)}."
        )
    train = texts.select(rest[np.argsort(text_keys(each_text(texts["text"]), seed)[rest], kind="stable")][:num_texts])
    return datasets.DatasetDict(
        train=describe_split(train, **facts, seed=seed),
        validation=describe_split(own.select(held_out), **facts, seed=None),
    )


def corpus_hash(corpus: datasets.DatasetDict) -> str:
    """SHA-256 over the training texts, then the held-out texts."""
    return text_hash(itertools.chain(each_text(corpus["train"]["text"]), each_text(corpus["validation"]["text"])))
