"""Talking to the Hub: bounded retries, and every refusal as one line that says what to do."""

from __future__ import annotations

import email.utils
import logging
import re
import time
from collections.abc import Callable
from typing import TypeVar

from adapt.errors import WorkspaceError

logger = logging.getLogger("adapt")
Result = TypeVar("Result")

RETRIES = 3
LONGEST_WAIT = 300.0  # seconds; who is told to wait longer is told so, instead of waiting
_SILENCE = 300.0  # seconds without a byte, after which a connection counts as lost
_LATER = "run it again later: what is uploaded already is not sent twice"

# By status: what is wrong, what to do.
_REFUSALS = {
    401: (
        "the Hub does not know who is asking",
        "log in with `hf auth login`, or set HF_TOKEN to a token that may write",
    ),
    403: (
        "this login may not write there",
        "use a token with write access to that namespace, or propose the change by --pr",
    ),
    404: (
        "the Hub has no such repository or namespace",
        "check the name; a private one is hidden from logins without access",
    ),
    409: ("something else is changing it, or the name is taken", "wait a little and run it again"),
    412: ("it changed during the upload", "run it again"),
    413: ("a file is larger than the Hub takes", "push it in smaller shards"),
}


def retried(call: Callable[[], Result], repo_id: str, *, drops: bool = True) -> Result:
    """Calls the Hub, again where that may help: `RETRIES` times at most.

    Retried are 408, 429 after the time that its `Retry-After` says, 5xx, and lost connections.
    The client retries some requests by itself (where to upload, the upload of large files); what
    it gave up is not begun anew.

    Args:
        call: Makes requests through `huggingface_hub`, and may be made twice.
        repo_id: For the message.
        drops: Whether a lost connection is retried too; not where the request may have been
            carried out and would be a second time.

    Raises:
        WorkspaceError: One line: what the Hub said and what to do.
    """
    from huggingface_hub import get_session

    for attempt in range(RETRIES + 1):
        try:
            get_session().timeout = _SILENCE  # by default the client waits for ever
            return call()
        except Exception as error:  # the HTTP client's own tree, which changes with hub versions
            cause = _cause(error)
            wait = None if _given_up(error, cause) else _wait(cause, attempt, drops)
            if wait is None or attempt == RETRIES:
                raise explained(cause, repo_id) from None
            said = status(cause) or type(cause).__name__
            logger.warning("Hub: %s; again in %.0f s", said, wait)
            time.sleep(wait)
    raise AssertionError("unreachable")


def explained(error: BaseException, repo_id: str) -> WorkspaceError:
    """A failure in one line; no address of it is shown, for addresses of uploads are signed."""
    from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled

    code = status(error)
    if isinstance(error, LocalTokenNotFoundError):
        code = 401
    if code in _REFUSALS:
        what, fix = _REFUSALS[code]
        what += f" ({code})"
    elif code == 429:
        seconds = _retry_after(error)
        what = "the Hub takes no more requests for now (429)"
        fix = f"run it again in {seconds:.0f} s" if seconds else _LATER
    elif code is not None and code >= 500:
        what, fix = f"the Hub has trouble of its own ({code})", _LATER
    elif isinstance(error, OfflineModeIsEnabled):
        what, fix = "the Hub is switched off here", "unset HF_HUB_OFFLINE and run it again"
    elif _dropped(error):
        what, fix = f"the connection was lost ({type(error).__name__})", _LATER
    else:
        what, fix = f"the upload failed ({_reason(error)})", "run it again when that is mended"
    return WorkspaceError(
        f"{what}; no file was changed there", where="the Hub", got=repo_id, fix=fix
    )


def status(error: BaseException) -> int | None:
    """The HTTP status of an error, where it has one."""
    code = getattr(getattr(error, "response", None), "status_code", None)
    return code if isinstance(code, int) else None


def _cause(error: BaseException) -> BaseException:
    """The Hub's answer or the lost connection behind an error of an upload's thread."""
    found: BaseException | None = error
    while found is not None:
        if status(found) is not None or _dropped(found):
            return found
        found = found.__cause__
    return error


def _given_up(error: BaseException, cause: BaseException) -> bool:
    """Whether the client has tried several times already."""
    address = _address(cause)
    return error is not cause or "/preupload/" in address or ".git/info/lfs" in address


def _address(error: BaseException) -> str:
    try:
        request = getattr(getattr(error, "response", error), "request", None)
    except RuntimeError:  # httpx: no request was set
        return ""
    return str(getattr(request, "url", ""))


def _dropped(error: BaseException) -> bool:
    """Whether the connection failed; the client's library is httpx or its successor."""
    return type(error).__module__.partition(".")[0] in ("httpx", "httpx2") and status(error) is None


def _wait(error: BaseException, attempt: int, drops: bool) -> float | None:
    """Seconds until the next try; None where there is no use."""
    code = status(error)
    if code == 429:
        seconds = _retry_after(error)
        seconds = 2.0**attempt if seconds is None else seconds
        return seconds if seconds <= LONGEST_WAIT else None
    if code == 408 or (code is not None and code >= 500) or (drops and _dropped(error)):
        return 2.0**attempt
    return None


def _retry_after(error: BaseException) -> float | None:
    """`Retry-After` in seconds; it is given as such, or as a date."""
    value = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = re.sub(r"\w+://\S+", "(address)", " ".join(lines[:2]))
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
