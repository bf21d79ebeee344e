"""The Hub through `huggingface_hub`: each call tried again where that helps, every other failure in one sentence."""

import email.utils
import logging
import math
import random
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx2
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from ..errors import UserError
from .safety import redact

logger = logging.getLogger(__name__)
Found = TypeVar("Found")
NETWORK = (httpx2.TransportError, ConnectionError, TimeoutError, socket.gaierror, ssl.SSLError)
"""Failures of the way to the Hub; other errors of the operating system are of this machine's files."""
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that may be others a moment later."""
ATTEMPTS = 6
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 300.0


class ParentChangedError(Exception):
    """The branch is no longer where the commit was made for (HTTP 412)."""


class Hub:
    """`HfApi` with patience.

    Args:
        token: of the user; None for the one that `hf auth login` or HF_TOKEN left.
        endpoint: address of the Hub; None for HF_ENDPOINT or the public one.
        sleep: how to wait, in seconds.

    Raises:
        UserError: there is no token.
    """

    def __init__(
        self, token: str | None = None, endpoint: str | None = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.token = token or get_token()
        if self.token is None:
            raise UserError("There is no token for the Hub: run `hf auth login`, or set HF_TOKEN.")
        self.api = HfApi(endpoint=endpoint, token=self.token, library_name="tlm_hf")
        self.sleep = sleep

    def call(
        self,
        what: str,
        function: Callable[..., Found],
        *arguments: Any,
        expected: tuple[type[Exception], ...] = (),
        **options: Any,
    ) -> Found:
        """Call a method of `api`, again after network failures and answers that say "later".

        Args:
            what: in words, for messages, such as `making tiny-lab/tlm-bert1`.
            function: the method.
            *arguments: its arguments.
            expected: errors that the caller handles.
            **options: likewise.

        Raises:
            UserError: one sentence for what does not go away: a token that is not taken, no rights, no space, a bad
                card, a file of this machine that cannot be read, offline mode, or a Hub that did not answer in all
                attempts.
            Exception: one of `expected`; ParentChangedError stands for HTTP 412.
        """
        for attempt in range(ATTEMPTS):
            try:
                return function(*arguments, **options)
            except Exception as error:
                cause = _cause(error)
                status = _status(cause)
                if isinstance(error, expected):
                    raise
                if status == 412 and ParentChangedError in expected:
                    raise ParentChangedError(what) from error
                if isinstance(cause, OfflineModeIsEnabled):
                    raise UserError(
                        f"HF_HUB_OFFLINE is set, so the Hub is not asked ({what}): unset it to push or look."
                    ) from error
                passing = status in AGAIN or (status is None and isinstance(cause, NETWORK))
                if not passing:
                    raise self.refusal(what, error, cause, status) from error
                if attempt == ATTEMPTS - 1:
                    reason = f"HTTP {status}" if status else type(cause).__name__
                    raise UserError(
                        f"The Hub did not answer in {ATTEMPTS} attempts ({what}: {reason}): push again later, it goes "
                        "on where it stood."
                    ) from error
                wait = self._wait(cause, attempt)
                logger.info("%s: %s; again in %.0f s.", what, f"HTTP {status}" if status else "no connection", wait)
                self.sleep(wait)
        raise AssertionError("unreachable")

    @staticmethod
    def _wait(cause: BaseException, attempt: int) -> float:
        """Seconds until the next attempt: what the Hub asks for, or twice as long as before, with some chance."""
        response = getattr(cause, "response", None)
        asked = response.headers.get("Retry-After") if response is not None else None
        if asked:
            try:
                seconds = float(asked)
            except ValueError:
                try:
                    seconds = email.utils.parsedate_to_datetime(asked).timestamp() - time.time()
                except (ValueError, TypeError, OverflowError):
                    seconds = math.nan
            if math.isfinite(seconds):  # what is neither seconds nor a date is as if it were not there
                return min(max(0.0, seconds), LONGEST_WAIT_SECONDS)
        return min(FIRST_WAIT_SECONDS * 2**attempt * random.uniform(0.8, 1.2), LONGEST_WAIT_SECONDS)

    def refusal(self, what: str, error: BaseException, cause: BaseException, status: int | None) -> UserError:
        """What the Hub refused for good, in one sentence, without the token."""
        said = redact(" ".join(str(getattr(cause, "server_message", None) or cause).split()), self.token)[:300].rstrip(
            ". "
        )
        if status == 401:
            return UserError(
                f"The Hub does not take the token ({what}): log in again with `hf auth login`, or set HF_TOKEN."
            )
        if status == 507 or (status in (403, 413) and any(word in said.lower() for word in ("storage", "quota"))):
            return UserError(f"There is no space left on the Hub ({what}: {said}): free some there, then push again.")
        if status == 403:
            return UserError(
                f"The token may not do that ({what}: {said}): take one with write access to the namespace, or another "
                "namespace."
            )
        if status == 400:
            return UserError(f"The Hub refuses the content ({what}: {said}): correct it, then stage and verify again.")
        if status is None and isinstance(cause, OSError):
            return UserError(
                f"A file of this machine cannot be read ({what}: {said or type(cause).__name__}): stage and verify "
                "again."
            )
        kind = f"HTTP {status}" if status else type(error).__name__
        return UserError(f"The Hub refused ({what}: {kind}, {said}): push again, and nothing that is up is lost.")

    def check_namespace(self, namespace: str) -> str:
        """Refuse a namespace that the token may not write to; returns the user's name.

        Raises:
            UserError: one sentence.
        """
        found = self.call("asking who the token belongs to", self.api.whoami)
        name: str = found["name"]
        role = ((found.get("auth") or {}).get("accessToken") or {}).get("role")
        if role == "read":
            raise UserError(f"The token of {name} may only read: make one with write access.")
        organizations = {each["name"]: each.get("roleInOrg") for each in found.get("orgs", [])}
        if namespace != name and namespace not in organizations:
            known = ", ".join([name, *organizations])
            raise UserError(
                f"The namespace {namespace!r} does not exist or is not one of this token's ({known}): correct it in "
                "the release file."
            )
        if organizations.get(namespace) == "read":
            raise UserError(f"{name} may only read in {namespace}: ask for write access there.")
        return name


def _cause(error: BaseException) -> BaseException:
    """The HTTP or network failure behind an error of huggingface_hub; the error itself where there is none."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, HfHubHTTPError | httpx2.HTTPError | ConnectionError | OfflineModeIsEnabled):
            return seen
        seen = seen.__cause__ or seen.__context__
    return error


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)
