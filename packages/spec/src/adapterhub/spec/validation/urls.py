"""Which addresses may stand in metadata: plain http(s) to a public host. Nothing here is ever fetched."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

__all__ = ["url_problem"]

MAX_LENGTH = 2_000
_CHARACTERS = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&()*+,;=%\u00a1-\ud7ff\uf900-\U0003ffff-]+")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_PRIVATE_SUFFIXES = ("localhost", "local", "internal", "intranet", "lan", "home", "corp", "private", "localdomain")


def url_problem(text: str) -> str | None:
    """What is wrong with `text` as an address in metadata, to follow "the address …"; None when nothing is."""
    if len(text) > MAX_LENGTH:
        return f"has more than {MAX_LENGTH:,} characters"
    if not text.lower().startswith(("http://", "https://")):
        return "is not http:// or https://"
    if not _CHARACTERS.fullmatch(text):
        return "holds a blank, a quote or another character an address cannot have"
    if re.search(r"%(?:[01][0-9a-fA-F]|7[fF])|%(?![0-9a-fA-F]{2})", text):
        return "holds an encoded control character or a broken percent sign"
    try:
        parts = urlsplit(text)
        host = parts.hostname
        port = parts.port
    except ValueError as error:
        return f"cannot be read: {error}"
    if not host:
        return "has no host"
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        return "holds credentials"
    if port == 0:
        return "has port 0"
    return _host_problem(host)


def _host_problem(host: str) -> str | None:
    if not host.isascii():
        return "has a host that is not ASCII (write international names as xn--…)"
    host = host.removesuffix(".").lower()
    if ":" in host:
        try:
            address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return "has no valid host"
        return _address_problem(address)
    number = _ipv4(host)
    if number is not None:
        return _address_problem(number)
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return "has no valid host"
    if _looks_numeric(labels[-1]):
        return "has a host that is neither a name nor an address"
    if len(labels) == 1 or labels[-1] in _PRIVATE_SUFFIXES:
        return "points at an internal host"
    return None


def _looks_numeric(label: str) -> bool:
    return bool(re.fullmatch(r"[0-9]+|0[xX][0-9a-fA-F]*", label))


def _ipv4(host: str) -> ipaddress.IPv4Address | None:
    """The address `inet_aton` makes of `host`: one to four parts, each decimal, octal (`0…`) or hexadecimal (`0x…`)."""
    parts = host.split(".")
    if not 1 <= len(parts) <= 4 or not all(_looks_numeric(part) for part in parts):
        return None
    numbers = []
    for part in parts:
        base = 16 if part[:2].lower() == "0x" else 8 if part[0] == "0" and len(part) > 1 else 10
        try:
            numbers.append(int(part[2:] or "0", 16) if base == 16 else int(part[:20], base))
        except ValueError:
            return None
    *leading, last = numbers
    if any(number > 255 for number in leading) or last >= 256 ** (5 - len(numbers)):
        return None
    value = last
    for position, number in enumerate(leading):
        value |= number << (24 - 8 * position)
    return ipaddress.IPv4Address(value)


def _address_problem(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str | None:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _address_problem(inner)
    if not address.is_global or address.is_multicast:
        return "points at an internal address"
    return None
