"""The URI of DocsGPT's PostgreSQL database, and a connection to it."""

import re
from typing import Any

from docsgpt_embtune.deployment.stores import NOT_OPENED, as_deployment_error
from docsgpt_embtune.errors import DeploymentError


def connect(uri: str, *, autocommit: bool) -> Any:
    """Open a psycopg connection to a database.

    Args:
        uri: The host's PGVECTOR_CONNECTION_STRING or POSTGRES_URI.
        autocommit: Whether each statement is a transaction of its own.

    Raises:
        DeploymentError: If psycopg is not installed, the URI is invalid, or the database cannot be reached.
    """
    try:
        import psycopg
    except ImportError as error:
        raise DeploymentError("PostgreSQL needs psycopg; run: pip install 'psycopg[binary]'") from error
    uri = libpq_uri(uri)
    with as_deployment_error("PostgreSQL", (psycopg.Error,), NOT_OPENED):
        return psycopg.connect(uri, autocommit=autocommit)


def libpq_uri(uri: str) -> str:
    """Turn a URI in SQLAlchemy's spelling, as in POSTGRES_URI, into PostgreSQL's.

    Raises:
        DeploymentError: If the URI is invalid. PostgreSQL's own message is left out, since it contains the password.
    """
    uri = re.sub(r"^(postgres(?:ql)?)\+\w+://", r"\1://", uri)
    if not _is_valid(uri):
        raise DeploymentError(
            "PostgreSQL: the URI is not valid (it is not shown, for its password); it is to be "
            "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with % @ : / ? # [ ] in a password written as %25 %40 %3A "
            "%2F %3F %23 %5B %5D"
        )
    return uri


def _is_valid(uri: str) -> bool:
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        parts = conninfo_to_dict(uri)
    except ProgrammingError:
        return False
    # If the password contains @ or /, a part of it is parsed as host or port, which an error message would print.
    return "@" not in str(parts.get("host", "")) and bool(re.fullmatch(r"[\d,]*", str(parts.get("port", ""))))
