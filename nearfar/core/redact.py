"""Takes secrets out of addresses before they are printed, stored or put into an error."""

from __future__ import annotations

import re
from urllib.parse import unquote

HIDDEN = "***"
_SHORTEST = 4  # letters: a shorter part stands in many words that are no secret
_MISTYPED = r"(?i:postgres)\w*[^\s/]*/+(?=[^\s]*@)"  # without its colon
_ADDRESS = re.compile(rf"([\s'\"]*(?:[A-Za-z][A-Za-z0-9+.-]+:/+|{_MISTYPED}))(.*)", re.DOTALL)
_SECRET = re.compile(
    r"((?:pass|pwd|secret|token|key|credential|sig)[\w%.-]*\s*=).*", re.DOTALL | re.IGNORECASE
)
_NO_PORT = re.compile(r"^([^/?#:\[\]]*:)(?!\d*(?:[/?#]|$))[^/?#]*")  # user:password and no host
_HUB = re.compile(r"([\s'\"]*hf:[^?]*\?)(.*)", re.DOTALL)  # a data set's name, which holds no parameters
_IN_TEXT = re.compile(rf"(?:[A-Za-z][A-Za-z0-9+.-]+:/+|{_MISTYPED}|hf:[^\s?]*\?)\S+")


def redact(address: str) -> str:
    """Leave the passwords of an address out; a folder's name is returned as it is.

    What stands before the last @ is reduced to the user's name, so that a password with / ? # or @ in it goes
    too. From the first parameter that is named like a secret on, all is left out.

    Args:
        address: as typed, sound or not.

    Returns:
        The address without secrets.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None:
        hub = _HUB.fullmatch(address)
        return f"{hub[1]}{HIDDEN}" if hub and _SECRET.search(unquote(hub[2])) else _keywords(address)
    scheme, rest = found.groups()
    path, mark, query = rest.partition("?")
    if _SECRET.search(query):
        query = _SECRET.sub(rf"\1{HIDDEN}", query)
    elif _SECRET.search(unquote(query)):  # p%61ssword
        query = HIDDEN
    rest = f"{path}{mark}{query}"
    if "@" not in rest:
        return scheme + _NO_PORT.sub(rf"\1{HIDDEN}", rest)
    before, at, after = rest.rpartition("@")
    user = re.split(r"[:/?#]", before, maxsplit=1)[0]
    return f"{scheme}{user}{at}{after}"


def _keywords(address: str) -> str:
    """Leave the passwords of "host=a password=b" out."""
    return _SECRET.sub(rf"\1{HIDDEN}", address) if re.match(r"\s*\w+\s*=", address) else address


def _left_out(address: str) -> str:
    """Give the part of an address that `redact` leaves out, without the marks around it."""
    shown = redact(address).replace(HIDDEN, "")
    if len(shown) >= len(address):
        return ""
    pairs = enumerate(zip(address, shown, strict=False))
    start = next((at for at, (own, other) in pairs if own != other), len(shown))
    end = len(address) - (len(shown) - start)
    return address[start:end].strip(":/?#@&= '\"")


def redact_text(text: str, *addresses: str) -> str:
    """Leave the passwords of all addresses in a sentence out.

    Args:
        text: a message, perhaps of another program.
        addresses: those that may be in it and hold blanks.

    Returns:
        The message without secrets.
    """
    for address in addresses:
        text = text.replace(address, redact(address))
        if len(secret := _left_out(address)) >= _SHORTEST:  # a library, or a suffix, repeats a part of it
            text = text.replace(secret, HIDDEN)
    return _IN_TEXT.sub(lambda found: redact(found[0]), text)
