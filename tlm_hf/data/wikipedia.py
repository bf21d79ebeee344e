"""Wikipedia read from the Hub: only the row groups that hold the chosen texts are downloaded.

A row group holds about a thousand neighbouring articles. Row groups are ordered by the SHA-256 of seed and name, and so
are the texts of a row group, so subsets are nested. One row group in a hundred, in an order that no seed changes, is
held out. Row groups that were read stay in the cache of `datasets`: an interrupted or larger request reads the rest.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi, HfFileSystem
from huggingface_hub.errors import HTTPError  # of the client that this version of the Hub's library uses
from tqdm import tqdm

from ..errors import UserError
from ..runs.atomic_files import Json
from .sources import ID, cached_table, describe_split, seeded_order

REPOSITORY, CONFIG = "wikimedia/wikipedia", "20231101.en"
REVISION = "b04c8d1ceb2f5cd4588862100d08de323dccfbaa"
UNITS = ("article", "paragraph")
HELD_OUT_SHARE = 0.01
SHORTEST_PARAGRAPH, LONGEST_PARAGRAPH = 40, 600
PARAGRAPHS_PER_ARTICLE = 30
_SENTENCE_END = re.compile(r"""[.!?…]["'”’»)\]]*\Z""")
_MARKUP = re.compile(r"\{\{|\}\}|\[\[|\]\]|\{\||\|\}|</?\w+[^<>]*>")


def paragraphs(article: str) -> list[tuple[int, str]]:
    """The first `PARAGRAPHS_PER_ARTICLE` paragraphs of an article, each with the number of its line (from 0).

    A line is a paragraph if it has `SHORTEST_PARAGRAPH` to `LONGEST_PARAGRAPH` words, ends like a sentence and has no
    left-over mark-up. Runs of white space become one space.
    """
    result: list[tuple[int, str]] = []
    for number, line in enumerate(article.split("\n")):
        words = line.split()
        text = " ".join(words)
        has_length = SHORTEST_PARAGRAPH <= len(words) <= LONGEST_PARAGRAPH
        if has_length and _SENTENCE_END.search(text) and not _MARKUP.search(text):
            result.append((number, text))
    return result[:PARAGRAPHS_PER_ARTICLE]


def stream_wikipedia(
    num_texts: int,
    validation_texts: int,
    *,
    config: str = CONFIG,
    revision: str = REVISION,
    unit: str = "article",
    seed: int = 0,
    endpoint: str | None = None,
) -> datasets.DatasetDict:
    """Read the first texts of a seeded order; empty texts and exact duplicates are dropped and counted.

    Held-out texts are the same for every seed and `num_texts`; none of them is a training text.

    Args:
        num_texts: training texts, which `seed` chooses.
        validation_texts: held-out texts.
        config: dump and language, a folder of the repository.
        revision: commit, tag or branch.
        unit: `article` (a row is a text) or `paragraph` (see `paragraphs`).
        seed: chooses the training texts.
        endpoint: address of the Hub; None for HF_ENDPOINT or the public one.

    Returns:
        Splits `train` and `validation` with `text`, `id` (`config/file/row[/line]`) and facts (`sources.facts_of`).

    Raises:
        UserError: no connection, no such configuration or revision, or more texts asked for than there are.
    """
    total = num_texts + validation_texts
    source = _Wikipedia(config, revision, unit, endpoint)
    hide = True if datasets.are_progress_bars_disabled() else None  # None: shown where there is a terminal
    with tqdm(total=total, desc=REPOSITORY, unit="text", mininterval=1.0, disable=hide) as source.progress:
        try:
            held_out, trained_on = source.divide(seed)
            # Held-out texts come first, so that no training text repeats one of them.
            validation = source.choose(held_out, validation_texts, "validation")
            train = source.choose(trained_on, num_texts, seed)
        except (HTTPError, OSError, pa.ArrowException) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".: ")
            progress = f"; {len(source.seen)} of {total} texts were read and are kept" if source.seen else ""
            raise UserError(
                f"{source.name} cannot be read from the Hub ({reason}{progress}): check the network, set TLM_DATA or "
                "--data-root to a folder that holds wikipedia/, or take --corpus docstrings."
            ) from error
    return datasets.DatasetDict(train=train, validation=validation)


class _Wikipedia:
    """One configuration at one commit, whose column `text` is read and cached by row group."""

    progress: tqdm

    def __init__(self, config: str, revision: str, unit: str, endpoint: str | None) -> None:
        self.config, self.revision, self.unit = config, revision, unit
        self.name = f"{REPOSITORY}/{config}@{revision}"
        self.seen: set[bytes] = set()  # digests of the texts chosen so far
        self._endpoint = endpoint
        self._hub = HfFileSystem(endpoint=endpoint, skip_instance_cache=True)
        self._files: dict[str, pq.ParquetFile] = {}

    def divide(self, seed: int) -> tuple[list[Json], list[Json]]:
        """Row groups (file, group, number of the first row, rows) for held-out texts and for training, in order."""
        if not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            self.revision = str(HfApi(self._endpoint).dataset_info(REPOSITORY, revision=self.revision).sha)
        self._folder = f"datasets/{REPOSITORY}@{self.revision}"
        self._cache = Path(datasets.config.HF_DATASETS_CACHE, "tlm_hf", "wikipedia", self.revision, self.config)
        index = cached_table(self._cache / "row_groups.parquet", self._read_index)
        pieces = {f"{row['file']}#{row['group']}": row for row in index.to_pylist()}
        names = sorted(pieces)
        held_out = [names[place] for place in seeded_order(names, "validation")]
        held_out = held_out[: max(1, round(HELD_OUT_SHARE * len(names)))]
        trained_on = [names[place] for place in seeded_order(names, seed)]
        return [pieces[name] for name in held_out], [pieces[name] for name in trained_on if name not in held_out]

    def choose(self, pieces: list[Json], count: int, seed: int | str) -> datasets.Dataset:
        """Take texts from row group after row group until there are `count`."""
        most = sum(piece["rows"] for piece in pieces) * (PARAGRAPHS_PER_ARTICLE if self.unit == "paragraph" else 1)
        texts: dict[str, str] = {}  # by id
        empty = duplicates = 0
        if count <= most:  # what the footers rule out is refused before the download
            for place, text in (row for piece in pieces for row in self._texts(piece, seed)):
                digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
                if not text:
                    empty += 1
                elif digest in self.seen:
                    duplicates += 1
                else:
                    self.seen.add(digest)
                    texts[place] = text
                    self.progress.update()
                    if len(texts) == count:
                        break
            most = len(texts)
        if count > most:
            use = "held-out" if seed == "validation" else "training"
            raise UserError(f"{count} {use} texts were asked for, but {self.name} has {most}: ask for at most {most}.")
        facts: Json = {"source": REPOSITORY, "config": self.config, "revision": self.revision, "unit": self.unit}
        facts |= {"seed": None if seed == "validation" else seed, "empty": empty, "duplicates": duplicates}
        table = pa.table({"text": pa.array(texts.values(), pa.string()), ID: pa.array(texts, pa.string())})
        fingerprint = hashlib.sha256(json.dumps([facts, count]).encode()).hexdigest()[:32]
        return describe_split(datasets.Dataset(table, fingerprint=fingerprint), **facts)

    def _texts(self, piece: Json, seed: int | str) -> Iterator[tuple[str, str]]:
        """Ids and stripped texts of a row group in seeded order; a row without a text gives an empty one."""
        file, group = piece["file"], piece["group"]
        path = self._cache / f"{file}-{group:05}.parquet"
        table = cached_table(path, lambda: self._open(file).read_row_group(group, columns=["text"]))
        rows: list[tuple[str, str]] = []
        for number, article in enumerate(table["text"].to_pylist(), start=piece["first"]):
            place = f"{file}/{number}"
            if self.unit == "article":
                rows.append((place, (article or "").strip()))
            else:
                rows += [(f"{place}/{line}", text) for line, text in paragraphs(article or "")] or [(place, "")]
        for index in seeded_order([place for place, _ in rows], seed):
            yield rows[index]

    def _read_index(self) -> pa.Table:
        """All row groups of the configuration, from the files' footers: file, group, first row and rows."""
        pieces = []
        for path in self._hub.glob(f"{self._folder}/{self.config}/train*.parquet"):
            file = path.removeprefix(f"{self._folder}/")
            footer, first = self._open(file).metadata, 0
            for group in range(footer.num_row_groups):
                rows = footer.row_group(group).num_rows
                pieces.append({"file": file, "group": group, "first": first, "rows": rows})
                first += rows
        if not pieces:
            raise FileNotFoundError("there is no such configuration at this revision")
        return pa.Table.from_pylist(pieces)

    def _open(self, file: str) -> pq.ParquetFile:
        """A remote file with its footer; each further read is one request of a byte range."""
        if file not in self._files:
            remote = self._hub.open(f"{self._folder}/{file}", "rb", cache_type="none")
            self._files[file] = pq.ParquetFile(remote, pre_buffer=True)
        return self._files[file]
