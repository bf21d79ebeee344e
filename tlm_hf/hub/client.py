"""The Hub through `huggingface_hub`, which repeats uploads and lists only: failures as sentences, and tried again."""

import functools
import inspect
import time
from collections.abc import Callable
from typing import Any

import httpx2
from huggingface_hub import HfApi, get_token
from huggingface_hub import errors as hub_errors

from ..errors import UserError
from .safety import redact

MISSING = (hub_errors.RepositoryNotFoundError, hub_errors.RevisionNotFoundError)
PASSING = frozenset({408, 429, 500, 502, 503, 504})  # statuses of which the next attempt may be free
REFUSING = frozenset({400, 403, 404, 413, 507})
NETWORK = (httpx2.TransportError, ConnectionError, TimeoutError)
KNOWN = (hub_errors.HfHubHTTPError, httpx2.HTTPError, ConnectionError)
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds between attempts


class ParentChangedError(Exception):
    """The branch is no longer at the commit that a commit was made for (HTTP 412)."""


class Hub:
    """The methods of `HfApi`, repeated after a failure that may pass; they raise UserError, or one of `MISSING`."""

    def __init__(self, token: str | None = None, endpoint: str | None = None) -> None:
        self._token = token or get_token()
        if self._token is None:
            raise UserError("There is no token for the Hub: run `hf auth login`, or set HF_TOKEN.")
        self._api = HfApi(endpoint=endpoint, token=self._token, library_name="tlm_hf")

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return functools.partial(self._call, method, getattr(self._api, method))

    def _call(self, method: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        what = " ".join([method.replace("_", " "), *map(str, arguments[:1])])
        for wait in (*WAITS, None):
            try:
                answer = function(*arguments, **options)
                return list(answer) if inspect.isgenerator(answer) else answer
            except MISSING:
                raise
            except Exception as error:
                cause: BaseException | None = error
                while cause is not None and not isinstance(cause, KNOWN):
                    cause = cause.__cause__ or cause.__context__
                cause = cause or error
                status = getattr(getattr(cause, "response", None), "status_code", None)
                if status == 412 and method == "create_commit":
                    raise ParentChangedError(what) from error
                is_offline = isinstance(cause, hub_errors.OfflineModeIsEnabled)
                if wait is None or not (status in PASSING or (isinstance(cause, NETWORK) and not is_offline)):
                    raise UserError(f"Failed at {what!r}, since {self._remedy(cause, status)}.") from error
                time.sleep(wait)
        raise AssertionError("unreachable")

    def _remedy(self, cause: BaseException, status: int | None) -> str:
        """What went wrong and what to do, without the token."""
        text = " ".join(str(getattr(cause, "server_message", None) or cause).split()) or type(cause).__name__
        reason = redact(text, self._token)[:300].rstrip(". ")
        if isinstance(cause, hub_errors.OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set: unset it to push or look"
        if status == 401:
            return "the Hub does not accept the token: log in again with `hf auth login`, or set HF_TOKEN"
        if status in REFUSING:
            return f"the Hub refuses it ({reason}): correct that, or use a token with write access, then push again"
        kind = f"HTTP {status}" if status else type(cause).__name__
        return f"it did not work ({kind}: {reason}): push again later, it continues"
