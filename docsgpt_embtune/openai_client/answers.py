"""What a server's answers, refusals and broken connections say."""

import json
import math
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from docsgpt_embtune.urls import without_credentials

_MAY_PASS = frozenset({408, 409, 425, 429})


def joined(lines: Iterable[str]) -> dict[str, Any]:
    """Assemble a streamed chat completion into the form of an unstreamed one.

    Args:
        lines: Server-sent events.

    Raises:
        ValueError: If the events do not follow the protocol, report an error, or break off.
    """
    text: list[str] = []
    usage = finished = None
    for line in lines:
        field, _, data = line.partition(":")
        if field != "data":  # other lines only keep the connection alive
            continue
        if data.strip() == "[DONE]":  # some servers end with it alone
            finished = finished or "stop"
            continue
        piece = json.loads(data)
        if piece.get("error"):
            raise ValueError(str(piece["error"]))
        usage = piece.get("usage") or usage
        for choice in piece.get("choices") or ():
            text.append((choice.get("delta") or {}).get("content") or "")
            finished = choice.get("finish_reason") or finished
    if finished is None:
        raise ValueError("it broke off")
    return {"choices": [{"message": {"content": "".join(text)}, "finish_reason": finished}], "usage": usage}


def cannot_agree_on_tls(error: BaseException | None) -> bool:
    """Tell whether an error comes of a failed handshake, but not of one that broke off, as under load."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error is not None and not isinstance(error, ssl.SSLEOFError)


def may_pass(status: int) -> bool:
    """Tell whether the same request may be answered later, by the HTTP status of its refusal."""
    return status in _MAY_PASS or status >= 500


def content_of(response: Any) -> dict[str, Any]:
    """Return an answer's JSON object; empty if it is anything else."""
    try:
        content = response.json()
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def error_code(response: Any) -> int:
    """Return the HTTP status that a relay gives in the JSON of its own answer with 200; 0 without one."""
    error = content_of(response).get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) else 0


def moved_to(location: str | None) -> str:
    """Say where a redirect leads, for a message; empty if it does not say so."""
    return f", moved to {without_credentials(location)!r}" if location else ""


def retry_after(header: str | None) -> float:
    """Parse a Retry-After, a number of seconds or a date, into seconds from now; 0 if there is none."""
    if not header:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0
