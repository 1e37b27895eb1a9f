"""What an address shows of itself before any call: whether it can be used, and its key as a header carries it."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx

from agents.models import Address


def unfit(address: Address) -> str | None:
    """A sentence, if the base URL can't be called or the key can't be sent; either may be missing."""
    if address.base_url and not _callable(address.base_url):
        return f"The address of {address.title} can't be read: check {address.base_url_variable}."
    if not sendable(key_of(address)):
        return f"The key of {address.title} has signs that no key has: check {address.variable}."
    return None


def is_here(address: Address) -> bool:
    """Whether its server is a program on this machine."""
    host = urlsplit(address.base_url or "").hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def key_of(address: Address) -> str:
    """The key without the blanks and line ends that were copied with it; empty if there is none."""
    return address.key.strip()


def bearer(address: Address) -> dict[str, str]:
    """The header with which most servers are told the key; none if there is no key."""
    key = key_of(address)
    return {"authorization": f"Bearer {key}"} if key else {}


def sendable(key: str) -> bool:
    """Whether a key can stand in a header."""
    return key.isascii() and key.isprintable() and " " not in key


def shown(url: str) -> str:
    """A URL without what may be secret in it."""
    try:
        found = httpx.URL(url)
    except httpx.InvalidURL:
        return "another address"
    return str(found.copy_with(username=None, password=None, query=None, fragment=None)) if found.host else found.path


def _callable(url: str) -> bool:
    try:
        httpx.URL(url)  # finds signs that no URL has, which urlsplit drops
        parts = urlsplit(url)  # finds odd hosts and ports, which httpx lets pass
        return bool(parts.hostname) and parts.port != 0
    except (httpx.InvalidURL, ValueError):
        return False
