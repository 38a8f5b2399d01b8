"""What a server refuses before a route sees it: bodies that are not JSON, and what other web pages send.

A page that a person looks at may send requests to servers of that person's own machine. It cannot read the answers, but
a server without a key would work for it, and through a name that leads to 127.0.0.1 it could read them too.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from dataclasses import dataclass

Refusal = tuple[int, str, str]
"""Status, kind and message."""

_LOCAL = ("localhost", "ip6-localhost", "ip6-loopback")


@dataclass(frozen=True)
class Guard:
    """Of a server without a key.

    Args:
        hosts: names by which it may be called besides those of this machine alone; None: any name.
    """

    hosts: Collection[str] | None = None

    def refusal(self, method: str, headers: Mapping[str, str]) -> Refusal | None:
        """Why a request with these headers (names in lower case) is refused; None lets it through."""
        host = headers.get("host", "").lower()
        allowed = [name.lower() for name in self.hosts or ()]
        if self.hosts is not None and host and not (_is_local(_name(host)) or _name(host) in allowed):
            return _forbidden(f"This server does not answer to the name {_name(host)[:80]!r}.")
        if method in ("GET", "HEAD", "OPTIONS"):
            return None
        origin = headers.get("origin", "").lower()
        own = origin.partition("://")[2]
        known = bool(own) and (own == host or _name(own) in allowed)
        if (origin and not known) or (headers.get("sec-fetch-site") == "cross-site" and not known):
            return _forbidden(f"This server takes no requests from the web page {origin[:80] or 'of another site'!r}.")
        return None


def no_json(headers: Mapping[str, str]) -> Refusal | None:
    """Why a body with these headers is refused; None where it is to be JSON, as no page can send unasked."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return None
    message = f"The body is {kind[:80] or 'of no type'!r}. Send JSON with the header Content-Type: application/json."
    return 415, "unsupported_media_type", message


def _forbidden(message: str) -> Refusal:
    return 403, "forbidden", f"{message} Start it with --allow-host NAME to let it, or with --api-key."


def _name(host: str) -> str:
    """A host without its port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if host.count(":") < 2 else host


def _is_local(name: str) -> bool:
    if name in _LOCAL or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
