"""What is a URL, and what of it may be shown."""

import re

# Up to the last @: who forgot to write one as %40 must not see half of the password either.
_USER_INFO = re.compile(r"^([\w+.-]+://).*@|^[^/@]*:.*@", re.DOTALL)


def is_url(name: str) -> bool:
    """Tell whether a model's name is the address of a server that has one."""
    return name.startswith(("http://", "https://"))


def shown(setting: str) -> str:
    """Return a setting's value as it may be shown: a URL without credentials, anything else as it is."""
    return without_credentials(setting) if is_url(setting) else setting


def without_credentials(url: str) -> str:
    """Return a URL without user, password and query, which may hold a key."""
    return _USER_INFO.sub(lambda match: match[1] or "", url).partition("?")[0]
