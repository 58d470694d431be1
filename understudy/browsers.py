"""Keeping pages of other sites out of a service that needs no key because it listens on this machine only.

A browser on this machine runs strangers' pages, and they reach 127.0.0.1 in three ways. A page's own name can be
pointed at 127.0.0.1 after it was loaded (DNS rebinding); the request then has the stranger's name in `Host`. Any page
may post a form (CSRF); a browser then says in `Origin` whose page it was. And any page may name an address for an
image, or lead the browser there: a GET, which has no `Origin`, but says in `Sec-Fetch-Site` how the page's site is
related to the address. That one matters where a GET does something, as those of a model's facts do, which load the
model: KServe's protocols ask for facts by GET, and clients of ours learn from them which model it is that will answer
before they send any work. Other GETs may be followed from anywhere, so that a link to `/docs` or to a dashboard works.

A host that is an address cannot be rebound, so probes by address pass; a request without these headers is of no
browser.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from understudy.errors import Forbidden

__all__ = ["is_loopback", "refuse_foreign_pages"]

_WAY_OUT = "give the service API keys, or set its ..._ALLOW_ANONYMOUS=true where pages of other sites may use it"
_SAFE = ("GET", "HEAD", "OPTIONS")
_OWN = ("same-origin", "none")  # a page of the service itself, or what somebody typed; another port is another site's


def is_loopback(host: str) -> bool:
    """True for an address that only this machine itself reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def refuse_foreign_pages(method: str, headers: Iterable[tuple[bytes, bytes]], *, acts: bool = False) -> None:
    """Raise Forbidden for a request under a name that is not this machine's, or one that another site's page makes.

    Pages may make those that only read; where an address `acts`, even a GET does more than that.
    """
    given = {name: value.decode("latin-1") for name, value in headers}
    host = given.get(b"host", "")
    if host and not _is_this_machine(host):
        raise Forbidden(
            f"'{host[:100]}' is not a name of this machine: ask for localhost or an address; else {_WAY_OUT}",
            param="Host",
        )
    if method in _SAFE and not acts:
        return
    origin = given.get(b"origin")
    if origin is not None and _host_of(origin) != host.lower():
        raise Forbidden(f"a page of '{origin[:100]}' may not do this: {_WAY_OUT}", param="Origin")
    if given.get(b"sec-fetch-site", _OWN[0]) not in _OWN:
        raise Forbidden(f"a page of another site may not do this: {_WAY_OUT}", param="Sec-Fetch-Site")


def _is_this_machine(host: str) -> bool:
    """An address, `localhost`, or a name below it, with or without a port."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _host_of(origin: str) -> str:
    """The host and port of an origin as `Host` has them; empty for `null`."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
