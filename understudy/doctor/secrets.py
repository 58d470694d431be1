"""Texts without the secrets that this process knows: keys in its environment, and passwords in addresses."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

__all__ = ["hidden"]

_SECRET = re.compile(r"KEY|PASSWORD|SECRET|TOKEN|CREDENTIAL", re.IGNORECASE)
_IN_URL = re.compile(r"://[^/\s@]*@")
_SHORTEST = 4
"""Characters of a value that is taken for a secret: a flag such as `1` is none."""


def hidden(text: str) -> str:
    """The same text with `***` for each secret."""
    text = _IN_URL.sub("://***@", text)
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _secrets() -> set[str]:
    found = set()
    for name, value in os.environ.items():
        if _SECRET.search(name):
            found |= {value, *re.split(r"[,\s\"\[\]]+", value)}
        for one in re.findall(r"://[^:/\s@]*:([^/\s@]+)@", value):
            found |= {one, unquote(one)}
    return {one for one in found if len(one) >= _SHORTEST}
