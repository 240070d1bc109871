"""Reads the text of a live source's address: scheme, place, path, and options behind ``?``. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs

from schemas.errors import SourceError


@dataclass(frozen=True)
class SourceAddress:
    """``scheme://host:port/path?option=value``.

    Attributes:
        text: As it was given.
        path: Without its first slash.
        options: Those that were given.
    """

    text: str
    scheme: str
    host: str
    port: int
    path: str
    options: Mapping[str, str]

    @property
    def place(self) -> str:
        """Host and port, as they stand in an address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def option(self, name: str, default: str, allowed: Sequence[str] = ()) -> str:
        """An option's value.

        Raises:
            SourceError: It is not one of those that are allowed.
        """
        given = self.options.get(name, default)
        if allowed and given not in allowed:
            raise SourceError(f"source '{self.text}': {name} has to be one of {', '.join(allowed)}")
        return given

    def number(self, name: str, default: int, most: int, least: int = 0) -> int:
        """An option's value as a number.

        Raises:
            SourceError: It is none, or outside its bounds.
        """
        return _number(self.text, name, self.options.get(name, ""), default, most, least)


def parse_address(text: str, ports: Mapping[str, int], options: Sequence[str], example: str) -> SourceAddress:
    """An address from its text.

    Args:
        text: As the settings say it.
        ports: By scheme, the port where none is named.
        options: Names of those that there are.
        example: How such an address looks, for the message.

    Raises:
        SourceError: It is malformed; the message says how one looks.
    """
    # Not by urlsplit: '#' is a wildcard of topics, and may stand in a name.
    scheme, _, rest = text.partition("://")
    front, _, query = rest.partition("?")
    place, _, path = front.partition("/")
    if "@" in place:
        raise SourceError(f"{scheme}://…: name user and password by the settings, not in the address")
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, port = place, ""
    host = host.strip("[]")
    given = parse_qs(query, keep_blank_values=True)
    strange = sorted(set(given) - set(options))
    if scheme not in ports or not host or strange:
        problem = f"has unknown options {', '.join(strange)}" if strange else "is no address"
        raise SourceError(
            f"source '{text}' {problem}: write {example}, "
            f"and behind it, after '?', any of {', '.join(options)}"
        )
    number = _number(text, "port", port, ports[scheme], 65535)
    return SourceAddress(text, scheme, host, number, path, {n: values[-1] for n, values in given.items()})


def _number(text: str, name: str, given: str, default: int, most: int, least: int = 0) -> int:
    if not given:
        return default
    if not given.isdecimal() or not least <= int(given) <= most:
        between = f"from {least} to {most}" if least else f"up to {most}"
        raise SourceError(f"source '{text}': {name} has to be a number {between}")
    return int(given)
