r"""Text that is safe to show: control characters, and marks that reorder or break a line, become escapes.

Text from outside (a message key, a device's strings, an error that quotes either) may hold sequences that
retitle a terminal, write its clipboard, erase a line, or show a line in another order than it has. Ordinary
text of any language stays as it is. An escape looks as in Python: ``\x1b``, ``\u202e``.

Imports nothing but the standard library: the pump of a child's log loads this file by its path.
"""

from __future__ import annotations

import re

_CONTROLS = "\x00-\x1f\x7f-\x9f"
_BREAKS = "\u2028\u2029"
_BIDI = "\u202a-\u202e\u2066-\u2069"
_SURROGATES = "\ud800-\udfff"
"""Half of a character: no encoding has it, so printing it would raise."""
_LINE = re.compile(f"[{_CONTROLS}{_BREAKS}{_BIDI}{_SURROGATES}]")
_BLOCK = re.compile(f"(?!\r\n|[\n\t])[{_CONTROLS}{_BREAKS}{_BIDI}{_SURROGATES}]")
_JSON = re.compile(f"[\x7f-\x9f{_BREAKS}{_BIDI}{_SURROGATES}]")


def escaped_line(text: str) -> str:
    r"""Text that stays on one line.

    Examples:
        >>> escaped_line("key \x1b[2J\nALL GOOD"), escaped_line("Ölpumpe 水 🙂")
        ('key \\x1b[2J\\nALL GOOD', 'Ölpumpe 水 🙂')
    """
    return _LINE.sub(_escape, text)


def escaped_block(text: str) -> str:
    r"""Text of several lines: line ends and tabs stay.

    Examples:
        >>> escaped_block("one\ttwo\r\nthree\x9b31m\u202e")
        'one\ttwo\r\nthree\\x9b31m\\u202e'
    """
    return _BLOCK.sub(_escape, text)


def escaped_json(text: str) -> str:
    r"""JSON text with escapes that JSON understands: it reads back as the same value.

    Examples:
        >>> escaped_json('["\x9b31m", "水"]')
        '["\\u009b31m", "水"]'
    """
    return _JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escape(found: re.Match[str]) -> str:
    return _NAMED.get(found[0]) or (f"\\x{code:02x}" if (code := ord(found[0])) < 256 else f"\\u{code:04x}")


_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
