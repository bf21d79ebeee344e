"""Parquet files of a Hub data set at one commit, read by byte ranges: footers first, then single row groups.

Connections are retried with growing pauses. Lists, footers and row groups stay in a cache folder, each written under
a temporary name and renamed, so that a half-written one is never used; a damaged one is noticed and read again.
"""

import contextlib
import io
import itertools
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import datasets
import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

from ..errors import UserError

logger = logging.getLogger(__name__)

RETRY_PAUSES: tuple[float, ...] = (1, 2, 4, 8, 16)
"""Seconds to wait before each further attempt at a request."""
COMMIT = re.compile(r"[0-9a-f]{40}")
Result = TypeVar("Result")


class StreamBrokenError(Exception):
    """The connection stayed broken after all attempts."""


class HubParquet:
    """Column `text_column` of the parquet files in a folder of a Hub data set.

    Args:
        repository: `owner/name`.
        config: folder of the files; None for the whole repository.
        revision: commit, tag or branch; None for the default branch. The attribute is the commit once it is known.
        text_column: column that is read.
        endpoint: the Hub's address; None for the default.
    """

    def __init__(
        self, repository: str, config: str | None, revision: str | None, text_column: str, endpoint: str | None = None
    ) -> None:
        self.repository = repository
        self.config = config
        self.revision = revision
        self.text_column = text_column
        self.endpoint = endpoint
        self.name = repr(repository if config is None else f"{repository}/{config}")
        self.cache_error = ""
        self._sizes: dict[str, int] = {}
        self._footers: dict[str, pq.FileMetaData] = {}

    @property
    def cache(self) -> Path:
        """Folder of what was read, one for each repository, commit and configuration."""
        root = Path(datasets.config.HF_DATASETS_CACHE) / "tlm_hf" / "streams"
        return root / self.repository.replace("/", "___") / str(self.revision) / (self.config or "_")

    def row_counts(self) -> dict[str, list[int]]:
        """Rows of each row group of each file, files in order; reads the list of files and their footers.

        Raises:
            UserError: no such data set or revision, no parquet file, a damaged one, or no such column of text.
            StreamBrokenError: the connection stayed broken.
        """
        if self.revision is None or not COMMIT.fullmatch(self.revision):
            api = HfApi(endpoint=self.endpoint)
            wanted = self.revision
            self.revision = self._attempt(lambda: str(api.dataset_info(self.repository, revision=wanted).sha))
        self._sizes = self._list_files()
        for file in self._sizes:
            self._footers[file] = self._footer(file)
        return {
            file: [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
            for file, footer in self._footers.items()
        }

    def read(self, file: str, group: int) -> tuple[int, pa.ChunkedArray]:
        """Read a row group's texts, from the cache where it is whole there.

        Args:
            file: a file that `row_counts` named.
            group: number of its row group.

        Returns:
            The first row's number in the file, and the strings of the row group.

        Raises:
            UserError: the row group is damaged.
            StreamBrokenError: the connection stayed broken.
        """
        footer = self._footers[file]
        rows = [footer.row_group(index).num_rows for index in range(group + 1)]
        path = self.cache / "rows" / file / f"{self.text_column}-{group:05}.parquet"
        if path.is_file():
            try:
                table = pq.read_table(path, partitioning=None, page_checksum_verification=True)
                if table.column_names == [self.text_column] and len(table) == rows[group]:
                    return sum(rows[:group]), table[self.text_column]
                logger.warning("%s has other rows than its source and is read again.", path)
            except (OSError, pa.ArrowException) as error:
                logger.warning("%s is damaged and is read again (%s).", path, _first_line(error))
        with self._open(file) as source:
            try:
                parquet = pq.ParquetFile(source, metadata=footer, pre_buffer=True)
                table = parquet.read_row_group(group, columns=[self.text_column])
            except (pa.ArrowException, OSError) as error:
                raise self._damaged(file, error) from error
        self._store(path, lambda draft: pq.write_table(table, draft, compression="zstd", write_page_checksum=True))
        return sum(rows[:group]), table[self.text_column]

    def _list_files(self) -> dict[str, int]:
        """Sizes by name, from the cache where the list is there."""
        path = self.cache / "files.json"
        with contextlib.suppress(OSError, ValueError):
            listed: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
            if listed and isinstance(listed, dict):
                return listed
        api = HfApi(endpoint=self.endpoint)
        tree = self._attempt(
            lambda: list(
                api.list_repo_tree(
                    self.repository, self.config, recursive=True, revision=self.revision, repo_type="dataset"
                )
            )
        )
        found = {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}
        found = {file: size for file, size in sorted(found.items()) if file.endswith(".parquet")}
        sizes = {file: size for file, size in found.items() if Path(file).name.startswith("train")} or found
        if not sizes:
            raise UserError(f"{self.name} has no parquet file at revision {self.revision}: name another data set.")
        self._store(path, lambda draft: draft.write_text(json.dumps(sizes), encoding="utf-8"))
        return sizes

    def _footer(self, file: str) -> pq.FileMetaData:
        path = self.cache / "footers" / file
        footer = None
        if path.is_file():
            try:
                footer = pq.read_metadata(path)
            except (OSError, pa.ArrowException) as error:
                logger.warning("%s is damaged and is read again (%s).", path, _first_line(error))
        if footer is None:
            with self._open(file) as source:
                try:
                    footer = pq.read_metadata(source)
                except (pa.ArrowException, OSError) as error:
                    raise self._damaged(file, error) from error
            self._store(path, footer.write_metadata_file)
        schema = footer.schema.to_arrow_schema()
        if self.text_column not in schema.names:
            raise UserError(
                f"{self.name} has no column {self.text_column!r} (it has {', '.join(schema.names)}): set --text-column."
            )
        kind = schema.field(self.text_column).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise UserError(f"Column {self.text_column!r} of {self.name} holds {kind}, no text: set --text-column.")
        return footer

    def _damaged(self, file: str, error: Exception) -> UserError:
        return UserError(
            f"{file} of {self.repository!r} at revision {self.revision} is no whole parquet file "
            f"({_first_line(error)}): choose another revision."
        )

    def _open(self, file: str) -> pa.PythonFile:
        """The file as pyarrow reads it, by ranges."""
        url = hf_hub_url(self.repository, file, repo_type="dataset", revision=self.revision, endpoint=self.endpoint)
        return pa.PythonFile(_RangeFile(lambda start, end: self._fetch(url, start, end), self._sizes[file]), mode="r")

    def _fetch(self, url: str, start: int, end: int) -> bytes:
        def get() -> bytes:
            headers = {**build_hf_headers(), "range": f"bytes={start}-{end - 1}"}
            response = http_backoff(
                "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
                max_retries=0, retry_on_status_codes=(),
            )  # fmt: skip
            hf_raise_for_status(response)
            content = response.content if response.status_code == 206 else response.content[start:end]
            if len(content) != end - start:
                raise ConnectionError(f"{len(content)} bytes came of {end - start}")
            return content

        return self._attempt(get)

    def _attempt(self, request: Callable[[], Result]) -> Result:
        """Make a request, again after each of `RETRY_PAUSES` while its failure looks as if it would pass."""
        for attempt in itertools.count():
            try:
                return request()
            except OfflineModeIsEnabled as error:
                raise UserError(
                    f"{self.name} is neither under the data root nor whole in the cache, and HF_HUB_OFFLINE is set: "
                    "set TLM_DATA or --data-root to a folder that holds wikipedia/, or allow the Hub."
                ) from error
            except (httpx2.HTTPError, HFValidationError, OSError) as error:
                if not _may_pass(error):
                    raise UserError(
                        f"{self.name} cannot be read from the Hub: {_first_line(error)} (check name and revision, or "
                        "set TLM_DATA to local text)."
                    ) from error
                if attempt >= len(RETRY_PAUSES):
                    raise StreamBrokenError(_first_line(error)) from error
                pause = RETRY_PAUSES[attempt]
                logger.info("%s: %s; trying again in %g s.", self.name, _first_line(error), pause)
                time.sleep(pause)
        raise AssertionError("unreachable")

    def _store(self, path: Path, write: Callable[[Path], Any]) -> None:
        """Write a file of the cache and rename it; a disk that is full or read-only costs the cache, not the corpus."""
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(draft)
            os.replace(draft, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            if not self.cache_error:
                self.cache_error = error.strerror or _first_line(error)
                logger.warning(
                    "The cache folder %s cannot be written (%s), so what is read now is read again the next time: free "
                    "space, or set HF_DATASETS_CACHE to a folder of your own.", self.cache, self.cache_error,
                )  # fmt: skip


class _RangeFile(io.RawIOBase):
    """A file of known size whose every read is one call of `fetch(start, end)`."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        self.fetch, self.size, self.position = fetch, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        self.position = start + offset
        return self.position

    def tell(self) -> int:
        return self.position

    def read(self, size: int | None = -1) -> bytes:
        end = self.size if size is None or size < 0 else min(self.position + size, self.size)
        if end <= self.position:
            return b""
        content = self.fetch(self.position, end)
        self.position = end
        return content


def _may_pass(error: Exception) -> bool:
    """Whether a failed request may succeed later: a broken connection or a server's own error, not a refusal."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    return isinstance(error, httpx2.TransportError | ConnectionError | TimeoutError)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".: ")
