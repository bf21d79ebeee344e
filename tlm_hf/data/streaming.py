"""A corpus streamed from parquet files on the Hub: only the row groups that the chosen texts stand in are read.

A *piece* is one row group of one file (in `wikimedia/wikipedia` some thousand neighbouring articles). The pieces are
ordered by the SHA-256 of seed and name, and so are the rows in a piece: the first n texts of a seed are the same with
every version of every library, and among its first n + 1. A hundredth of the pieces, the first in an order of their
own, is kept for held-out texts and never trained on, whatever the seed and the sizes.

Whatever was read stays in the cache folder: a call that was broken off, or one that asks for more, reads what is
missing and nothing else.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import datasets
import pyarrow as pa
from tqdm import tqdm

from ..errors import UserError
from .remote_parquet import HubParquet, StreamBrokenError
from .sources import seeded_order
from .subsets import ID, describe_split

logger = logging.getLogger(__name__)

UNITS = ("article", "paragraph")
HELD_OUT_SHARE = 0.01
"""Share of the pieces from which held-out texts come (at least one piece)."""
SHORTEST_PARAGRAPH, LONGEST_PARAGRAPH = 40, 600
PARAGRAPHS_PER_ARTICLE = 30
_SENTENCE_END = re.compile(r"""[.!?…]["'”’»)\]]*\Z""")
_MARKUP = re.compile(r"\{\{|\}\}|\[\[|\]\]|\{\||\|\}|</?\w+[^<>]*>")
Piece = tuple[str, int]
"""File and number of the row group."""


def paragraphs(article: str) -> list[tuple[int, str]]:
    """Cut the clean paragraphs out of an article.

    Every line is a candidate (in `wikimedia/wikipedia` a prose paragraph is one line; headings and list items are lines
    too); runs of white space in it become one space. It is kept if it has `SHORTEST_PARAGRAPH` to `LONGEST_PARAGRAPH`
    words between spaces, ends with `.`, `!`, `?` or `…` (then perhaps closing quotes or brackets), and has no left-over
    mark-up (double braces or brackets, `{|`, `|}`, HTML tags). Of these the first `PARAGRAPHS_PER_ARTICLE` are taken.

    Args:
        article: any text.

    Returns:
        Number of the line in the article (from 0, empty lines counted) and the paragraph, in order.
    """
    found: list[tuple[int, str]] = []
    for number, line in enumerate(article.split("\n")):
        words = line.split()
        if not SHORTEST_PARAGRAPH <= len(words) <= LONGEST_PARAGRAPH:
            continue
        text = " ".join(words)
        if _SENTENCE_END.search(text) and not _MARKUP.search(text):
            found.append((number, text))
            if len(found) == PARAGRAPHS_PER_ARTICLE:
                break
    return found


def stream_corpus(
    repository: str,
    *,
    config: str | None,
    revision: str | None,
    num_texts: int,
    validation_texts: int = 1000,
    unit: str = "article",
    text_column: str = "text",
    seed: int = 0,
    endpoint: str | None = None,
) -> datasets.DatasetDict:
    """Read the first texts of a seeded order of a Hub data set of parquet files.

    Exact duplicates (after stripping), texts of white space alone and articles without a paragraph are dropped and
    counted; a text that is held out is never a training text.

    Args:
        repository: `owner/name` of the data set.
        config: folder of the parquet files in it; None for the whole repository. Files whose names begin with `train`
            are read, or all where there are none such.
        revision: commit, or a tag or branch, which is resolved to its commit; None for the default branch.
        num_texts: training texts.
        validation_texts: held-out texts, the same for every seed and `num_texts`, nested in themselves.
        unit: `article` (a row is a text) or `paragraph` (see `paragraphs`).
        text_column: column that holds the text.
        seed: chooses the training texts.
        endpoint: the Hub's address; None for that of the variable HF_ENDPOINT, or the public Hub.

    Returns:
        Splits `train` and `validation` with the columns `text` and `id` (`config/file/row`, and `/line` for a
        paragraph), with their facts (see `subsets.facts_of`): source, config, revision (the commit), unit, seed, and
        how many empty and duplicate texts were passed over.

    Raises:
        UserError: no such data set, column or unit, more texts asked for than there are, or a connection that stayed
            broken (then the same command continues where it stood).
    """
    if unit not in UNITS:
        raise UserError(f"The unit {unit!r} is not known: choose {' or '.join(UNITS)}.")
    for name, count in (("num_texts", num_texts), ("validation_texts", validation_texts)):
        if count < 1:
            raise UserError(f"{name} is {count}: ask for at least 1 text.")
    remote = HubParquet(repository, config, revision, text_column, endpoint)
    with tqdm(
        total=num_texts + validation_texts, desc=repository, unit="text", mininterval=1.0,
        disable=True if datasets.are_progress_bars_disabled() else None,  # None: where there is no terminal
    ) as bar:  # fmt: skip
        progress = _Progress(bar)
        try:
            return _read(remote, num_texts, validation_texts, unit, seed, progress)
        except StreamBrokenError as error:
            kept = "what was read is kept, so the same command continues there"
            if remote.cache_error:
                kept = f"nothing could be kept in the cache ({remote.cache_error}), so the same command begins anew"
            raise UserError(
                f"The stream of {repository!r} broke off after {progress.done} of {bar.total} texts ({error}): {kept}."
            ) from error


@dataclass
class _Progress:
    """Texts that were taken so far, and the bar that shows them (which does not count where it is off)."""

    bar: tqdm
    done: int = 0

    def advance(self, texts: int) -> None:
        self.done += texts
        self.bar.update(texts)


def _read(
    remote: HubParquet, num_texts: int, validation_texts: int, unit: str, seed: int, progress: _Progress
) -> datasets.DatasetDict:
    rows = remote.row_counts()
    pieces = {f"{file}#{group}": (file, group) for file, counts in rows.items() for group in range(len(counts))}
    if len(pieces) < 2:
        raise UserError(
            f"{remote.name} has {len(pieces)} row groups, but some are for training and others are held out: load it "
            "whole, by its name."
        )
    reserved = _in_order(pieces, "validation")[: max(1, round(HELD_OUT_SHARE * len(pieces)))]
    held_out = set(reserved)
    trained_on = [piece for piece in _in_order(pieces, seed) if piece not in held_out]
    per_row = PARAGRAPHS_PER_ARTICLE if unit == "paragraph" else 1
    splits = {}
    seen: set[bytes] = set()
    # Held-out texts first, so that a training text can be told from all of them.
    for split, wanted, order, key in (
        ("validation", validation_texts, reserved, "validation"),
        ("train", num_texts, trained_on, seed),
    ):
        what = "held-out texts" if split == "validation" else "texts"
        # Said before the download where the footers alone can tell.
        most = per_row * sum(rows[file][group] for file, group in order)
        if wanted <= most:
            found = _choose(remote, order, unit, wanted, key, seen, progress)
            most = found.count
        if wanted > most:
            raise UserError(
                f"{wanted} {what} were asked for, but {remote.name} has no more than {most}: ask for at most {most}."
            )
        splits[split] = _describe(found, remote, unit, seed if split == "train" else None)
    return datasets.DatasetDict(train=splits["train"], validation=splits["validation"])


def _in_order(pieces: dict[str, Piece], seed: int | str) -> list[Piece]:
    names = sorted(pieces)
    return [pieces[names[index]] for index in seeded_order(names, seed)]


@dataclass
class _Chosen:
    """Chosen texts, one table a piece, and what was passed over on the way."""

    tables: list[pa.Table] = field(default_factory=list)
    count: int = 0
    empty: int = 0
    duplicates: int = 0


def _choose(
    remote: HubParquet,
    order: Sequence[Piece],
    unit: str,
    wanted: int,
    seed: int | str,
    seen: set[bytes],
    progress: _Progress,
) -> _Chosen:
    """Take texts from piece after piece until there are enough; `seen` holds digests of texts that are taken."""
    chosen = _Chosen()
    for piece in order:
        texts, ids = [], []
        for place, text in _in_piece(remote, piece, unit, seed):
            digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
            if not text:
                chosen.empty += 1
            elif digest in seen:
                chosen.duplicates += 1
            else:
                seen.add(digest)
                texts.append(text)
                ids.append(place)
                if chosen.count + len(texts) == wanted:
                    break
        chosen.tables.append(pa.table({"text": pa.array(texts, pa.string()), ID: pa.array(ids, pa.string())}))
        chosen.count += len(texts)
        progress.advance(len(texts))
        if chosen.count == wanted:
            break
    return chosen


def _in_piece(remote: HubParquet, piece: Piece, unit: str, seed: int | str) -> Iterator[tuple[str, str]]:
    """Ids and stripped texts of one piece in the seeded order; an empty text stands for a row without any."""
    first, column = remote.read(*piece)
    rows: list[tuple[str, str]] = []
    for row, value in enumerate(column.to_pylist(), first):
        place = f"{piece[0]}/{row}"
        if unit == "article":
            rows.append((place, (value or "").strip()))
        else:
            rows += [(f"{place}/{line}", text) for line, text in paragraphs(value or "")] or [(place, "")]
    yield from (rows[index] for index in seeded_order([place for place, _ in rows], seed))


def _describe(chosen: _Chosen, remote: HubParquet, unit: str, seed: int | None) -> datasets.Dataset:
    facts = {
        "source": remote.repository,
        "config": remote.config,
        "revision": remote.revision,
        "unit": unit,
        "seed": seed,
        "empty": chosen.empty,
        "duplicates": chosen.duplicates,
    }
    # Named by what it is: `datasets` would else hash the table by pickling it.
    name = hashlib.sha256(json.dumps([facts, chosen.count, remote.text_column]).encode()).hexdigest()[:32]
    return describe_split(datasets.Dataset(pa.concat_tables(chosen.tables), fingerprint=name), **facts)
