"""Wikipedia read from the Hub: only the row groups (of a thousand neighbouring articles) that are needed.

They, and the articles of each, are ordered by the SHA-256 of seed and name, so subsets are nested. One in a hundred is
held out, whatever the seed. What was read stays in the cache of `datasets`: a larger request reads the rest.
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

from ..errors import UserError, first_line
from ..runs.atomic_files import Json
from .sources import ID, cached, seeded_order

REPOSITORY, CONFIG = "wikimedia/wikipedia", "20231101.en"
REVISION = "b04c8d1ceb2f5cd4588862100d08de323dccfbaa"
HELD_OUT_SHARE = 0.01
INDEX = pa.schema({"file": pa.string(), "group": pa.int64(), "first": pa.int64(), "rows": pa.int64()})
TEXTS = pa.schema({"text": pa.string()})


def stream_wikipedia(
    num_texts: int, validation_texts: int, config: str, revision: str, seed: int = 0, endpoint: str | None = None
) -> datasets.DatasetDict:
    """Read the first articles of a seeded order, none empty or twice; held-out texts are always the same."""
    total, source = num_texts + validation_texts, _Wikipedia(config, revision, endpoint)
    hide = True if datasets.are_progress_bars_disabled() else None  # None: shown where there is a terminal
    with tqdm(total=total, desc=REPOSITORY, unit="text", mininterval=1.0, disable=hide) as source.progress:
        try:
            held_out, trained_on = source.divide(seed)
            # Held-out texts come first, so that no training text repeats one of them.
            validation = source.choose(held_out, validation_texts, "validation")
            train = source.choose(trained_on, num_texts, seed)
        except (HTTPError, OSError, pa.ArrowException) as error:
            progress = f"; {len(source.seen)} of {total} texts were read and are kept" if source.seen else ""
            remedy = "set TLM_DATA or --data-root to a folder that holds wikipedia/, or take --corpus docstrings"
            fault = f"cannot be read from the Hub ({first_line(error)}{progress})"
            raise UserError(f"{source.name} {fault}: check the network, {remedy}.") from error
    return datasets.DatasetDict(train=train, validation=validation)


class _Wikipedia:
    """One configuration at one commit, whose column `text` is read and cached by row group."""

    progress: tqdm

    def __init__(self, config: str, revision: str, endpoint: str | None) -> None:
        self.config, self.revision = config, revision
        self.name = f"{REPOSITORY}/{config}@{revision}"
        self.seen: set[bytes] = set()  # digests of the texts chosen so far
        self._endpoint, self._hub = endpoint, HfFileSystem(endpoint=endpoint, skip_instance_cache=True)
        self._files: dict[str, pq.ParquetFile] = {}

    def divide(self, seed: int) -> tuple[list[Json], list[Json]]:
        """Row groups (rows of `INDEX`) for held-out texts and for training, in order."""
        if not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            self.revision = str(HfApi(self._endpoint).dataset_info(REPOSITORY, revision=self.revision).sha)
        self._folder = f"datasets/{REPOSITORY}@{self.revision}"
        self._cache = Path(datasets.config.HF_DATASETS_CACHE, "tlm_hf", "wikipedia", self.revision, self.config)
        index = cached(self._cache / "row_groups.arrow", INDEX, self._read_index)
        pieces = {f"{row['file']}#{row['group']}": row for row in index.to_list()}
        names = sorted(pieces)
        if len(names) < 2:
            raise UserError(f"{self.name} is one piece, none of which could be held out: choose a larger Wikipedia.")
        count = max(1, round(HELD_OUT_SHARE * len(names)))
        held_out = [names[place] for place in seeded_order(names, "validation")][:count]
        trained_on = [names[place] for place in seeded_order(names, seed)]
        return [pieces[name] for name in held_out], [pieces[name] for name in trained_on if name not in held_out]

    def choose(self, pieces: list[Json], count: int, seed: int | str) -> datasets.Dataset:
        """Take texts from row group after row group until there are `count`."""
        most = sum(piece["rows"] for piece in pieces)
        texts: dict[str, str] = {}  # by id
        if count <= most:  # what the footers rule out is refused before the download
            for place, text in (row for piece in pieces for row in self._texts(piece, seed)):
                digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
                if text and digest not in self.seen:
                    self.seen.add(digest)
                    texts[place] = text
                    self.progress.update()
                if len(texts) == count:
                    break
            most = len(texts)
        if count > most:
            use = "held-out" if seed == "validation" else "training"
            raise UserError(f"{count} {use} texts were asked for, but {self.name} has {most}: ask for at most {most}.")
        table = pa.table({"text": pa.array(texts.values(), pa.string()), ID: pa.array(texts, pa.string())})
        fingerprint = hashlib.sha256(json.dumps([self.name, self.revision, seed, count]).encode()).hexdigest()[:32]
        return datasets.Dataset(table, fingerprint=fingerprint)

    def _texts(self, piece: Json, seed: int | str) -> Iterator[tuple[str, str]]:
        """Ids and stripped texts of a row group in seeded order."""
        file, group = piece["file"], piece["group"]

        def read() -> list[pa.RecordBatch]:
            return self._open(file).read_row_group(group, columns=["text"]).cast(TEXTS).to_batches()

        texts = cached(self._cache / f"{file}-{group:05}.arrow", TEXTS, read)["text"][:]
        places = [f"{file}/{piece['first'] + row}" for row in range(len(texts))]
        for index in seeded_order(places, seed):
            yield places[index], (texts[index] or "").strip()

    def _read_index(self) -> list[pa.RecordBatch]:
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
        return [pa.RecordBatch.from_pylist(pieces, INDEX)]

    def _open(self, file: str) -> pq.ParquetFile:
        """A remote file with its footer; each further read is one request of a byte range."""
        if file not in self._files:
            remote = self._hub.open(f"{self._folder}/{file}", "rb", cache_type="none")
            self._files[file] = pq.ParquetFile(remote, pre_buffer=True)
        return self._files[file]
