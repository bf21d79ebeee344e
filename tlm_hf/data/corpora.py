"""Pre-training corpora: `docstrings` (embedded), `wikipedia`, any local text, any Hub data set."""

import datasets

from ..errors import UserError
from .docstrings import load_docstrings
from .sources import check_column, data_root, read_table, seeded_order, text_hash

WIKIPEDIA = ("wikimedia/wikipedia", "20231101.en")
STREAM_BUFFER = 10_000


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
) -> datasets.DatasetDict:
    """Load a corpus as the splits `train` and `validation` with the column `text`.

    Subsets are seeded and nested: the first 20,000 texts of a seed are among its first 40,000. The held-out texts are
    the same for every seed and size (but for a streamed Wikipedia, of which only what is asked for is read).

    Args:
        name: `docstrings`; `wikipedia` (the folder `wikipedia` under the data root where there is one, else streamed
            from the Hub's `wikimedia/wikipedia`); a file or folder; or `owner/name` on the Hub.
        num_texts: texts to train on; None for all (40,000 for a streamed Wikipedia).
        validation_texts: texts held out for the fixed-mask loss (at most a tenth of the corpus).
        text_column: column that holds the text.
        config: configuration of a Hub data set.
        revision: revision of a Hub data set.
        root: data root; None for the variable TLM_DATA.
        seed: chooses the subset.

    Raises:
        UserError: no such corpus, no such column, no text in it, or more texts asked for than there are.
    """
    if name == "docstrings":
        splits = load_docstrings()
        train, validation = splits["train"], splits["validation"]
        held_out = seeded_order(validation["text"][:], "validation")[:validation_texts]
        return _finish(name, train["text"][:], validation.select(held_out)["text"][:], num_texts, seed)
    texts = _read_texts(name, num_texts, validation_texts, text_column, config, revision, root, seed)
    if len(texts) < 2:
        raise UserError(f"{name!r} has {len(texts)} usable texts in column {text_column!r}: give a corpus with text.")
    order = seeded_order(texts, "validation")
    held_out = order[: max(1, min(validation_texts, len(texts) // 10))]
    excluded = set(held_out)
    train = [text for index, text in enumerate(texts) if index not in excluded]
    return _finish(name, train, [texts[index] for index in held_out], num_texts, seed)


def _finish(
    name: str, train: list[str], validation: list[str], num_texts: int | None, seed: int
) -> datasets.DatasetDict:
    if num_texts is not None and num_texts > len(train):
        raise UserError(
            f"{num_texts} texts were asked for, but {name!r} has {len(train)} (besides {len(validation)} held out): "
            f"ask for at most {len(train)}."
        )
    chosen = [train[index] for index in seeded_order(train, seed)[:num_texts]]
    return datasets.DatasetDict(
        train=datasets.Dataset.from_dict({"text": chosen}), validation=datasets.Dataset.from_dict({"text": validation})
    )


def _read_texts(
    name: str,
    num_texts: int | None,
    validation_texts: int,
    text_column: str,
    config: str | None,
    revision: str | None,
    root: str | None,
    seed: int,
) -> list[str]:
    """All usable texts (non-empty strings, exact duplicates dropped) in the source's order."""
    if name == "wikipedia":
        folder = data_root(root)
        if folder is not None and (folder / "wikipedia").is_dir():
            name = str(folder / "wikipedia")
        elif datasets.config.HF_HUB_OFFLINE:
            raise UserError(
                "The corpus 'wikipedia' is not under the data root and HF_HUB_OFFLINE is set: set TLM_DATA or "
                "--data-root to a folder that holds wikipedia/*.parquet, or allow the Hub."
            )
        else:
            wanted = (num_texts or 40_000) + validation_texts
            return _stream_wikipedia(wanted, revision, seed)
    table = read_table(name, config=config, revision=revision)
    split = table["train"] if "train" in table else next(iter(table.values()))
    check_column(split, text_column, name, "--text-column")
    values = split[text_column][:]
    if not any(isinstance(value, str) for value in values):
        raise UserError(f"Column {text_column!r} of {name!r} holds no text: set --text-column.")
    stripped = (value.strip() for value in values if isinstance(value, str))
    return list(dict.fromkeys(text for text in stripped if text))


def _stream_wikipedia(wanted: int, revision: str | None, seed: int) -> list[str]:
    """The first `wanted` different articles of a seeded shuffle of the Hub's Wikipedia; the rest is not read."""
    texts: dict[str, None] = {}
    try:
        stream = datasets.load_dataset(*WIKIPEDIA, split="train", streaming=True, revision=revision)
        for row in stream.shuffle(seed=seed, buffer_size=STREAM_BUFFER):
            if row["text"].strip():
                texts[row["text"].strip()] = None
            if len(texts) == wanted:
                break
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"Wikipedia cannot be read from the Hub: {reason} (or set TLM_DATA to local text).") from error
    return list(texts)


def corpus_hash(corpus: datasets.DatasetDict) -> str:
    """SHA-256 over the training texts, then the held-out texts."""
    return text_hash([*corpus["train"]["text"][:], *corpus["validation"]["text"][:]])
