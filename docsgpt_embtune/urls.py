"""Recognition of URLs, and removal of their credentials."""

import re

# Up to the last @, so that a password with an @ not written as %40 is hidden as a whole.
_USER_INFO = re.compile(r"^([\w+.-]+://).*@|^[^/@]*:.*@", re.DOTALL)


def is_url(name: str) -> bool:
    """Tell whether a model's name is a server's address."""
    return name.startswith(("http://", "https://"))


def shown(setting: str) -> str:
    """Return a setting's value for display: a URL without credentials, anything else as it is."""
    return without_credentials(setting) if is_url(setting) else setting


def without_credentials(url: str) -> str:
    """Return a URL without user, password and query, which may hold a key."""
    return _USER_INFO.sub(lambda match: match[1] or "", url).partition("?")[0]
