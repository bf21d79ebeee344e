"""The Hub through `huggingface_hub`: every failure in one sentence, those that pass tried again.

`huggingface_hub` itself repeats uploads of files only.
"""

import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx2
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from ..errors import UserError
from .safety import redact

Answer = TypeVar("Answer")
PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""Answers that may be others a moment later."""
WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds between attempts."""


class ParentChangedError(Exception):
    """The branch is no longer at the commit that a commit was made for (HTTP 412)."""


class Hub:
    """`HfApi` whose failures are sentences.

    Args:
        token: of the user; None for the one that `hf auth login` or HF_TOKEN left.
        endpoint: address of the Hub; None for HF_ENDPOINT or the public one.

    Raises:
        UserError: there is no token.
    """

    def __init__(self, token: str | None = None, endpoint: str | None = None) -> None:
        self.token = token or get_token()
        if self.token is None:
            raise UserError("There is no token for the Hub: run `hf auth login`, or set HF_TOKEN.")
        self.api = HfApi(endpoint=endpoint, token=self.token, library_name="tlm_hf")

    def call(
        self,
        what: str,
        function: Callable[..., Answer],
        *arguments: Any,
        expected: tuple[type[Exception], ...] = (),
        **options: Any,
    ) -> Answer:
        """Call a method of `api`.

        Args:
            what: in words, for messages, such as `making tiny-lab/tlm-bert1`.
            function: the method; called again after a failure that may pass, so its work must bear repetition.
            *arguments: its arguments.
            expected: errors that the caller handles.
            **options: its keyword arguments.

        Raises:
            UserError: one sentence for every other failure.
            Exception: one of `expected`; ParentChangedError for HTTP 412.
        """
        for wait in (*WAITS, None):
            try:
                return function(*arguments, **options)
            except expected:
                raise
            except Exception as error:
                cause = _cause(error)
                status = _status(cause)
                if status == 412 and ParentChangedError in expected:
                    raise ParentChangedError(what) from error
                offline = isinstance(cause, OfflineModeIsEnabled)
                is_network = isinstance(cause, httpx2.TransportError | ConnectionError | TimeoutError) and not offline
                if wait is None or not (is_network or status in PASSING):
                    raise self._sentence(what, cause, status) from error
                time.sleep(wait)
        raise AssertionError("unreachable")

    def _sentence(self, what: str, cause: BaseException, status: int | None) -> UserError:
        """What went wrong and what to do, in one sentence, without the token."""
        text = " ".join(str(getattr(cause, "server_message", None) or cause).split()) or type(cause).__name__
        reason = redact(text, self.token)[:300].rstrip(". ")
        if isinstance(cause, OfflineModeIsEnabled):
            remedy = "HF_HUB_OFFLINE is set, so the Hub is not asked: unset it to push or look"
        elif status == 401:
            remedy = "the Hub does not accept the token: log in again with `hf auth login`, or set HF_TOKEN"
        elif status in (400, 403, 413, 507):
            remedy = f"the Hub refuses it ({reason}): correct that, or use a token with write access, then push again"
        elif status is None and isinstance(cause, OSError) and not isinstance(cause, ConnectionError | TimeoutError):
            remedy = f"a file of this machine cannot be read ({reason}): stage and verify again"
        else:
            kind = f"HTTP {status}" if status else type(cause).__name__
            remedy = f"the Hub does not answer as it should ({kind}: {reason}): push again later, it continues"
        return UserError(f"Failed at {what}, since {remedy}.")

    def check_namespace(self, namespace: str) -> None:
        """Refuse a namespace that the token may not write to.

        Raises:
            UserError: one sentence.
        """
        user = self.call("asking who the token belongs to", self.api.whoami)
        name = user["name"]
        organizations = {each["name"]: each.get("roleInOrg") for each in user.get("orgs", [])}
        role = ((user.get("auth") or {}).get("accessToken") or {}).get("role")
        if role == "read":
            raise UserError(f"The token of {name} may only read: make one with write access.")
        if namespace != name and namespace not in organizations:
            raise UserError(
                f"The namespace {namespace!r} does not exist or is not one of this token's "
                f"({', '.join([name, *organizations])}): correct it in the release file."
            )
        if organizations.get(namespace) == "read":
            raise UserError(f"{name} may only read in {namespace}: ask for write access there.")


def _cause(error: BaseException) -> BaseException:
    """The HTTP or network failure behind an error of huggingface_hub; the error itself where there is none."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HfHubHTTPError | httpx2.HTTPError | ConnectionError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)
