"""Texts in the languages that ncnnkit writes: each stays one text there, whatever its characters are.

Names and texts of models, cards, run folders and boards may be a stranger's. Every generator writes them with these
functions, and none quotes by itself. HTML is escaped by Jinja2 and :func:`html.escape`, JSON by ``json`` and msgspec,
TOML by tomli-w.
"""

from __future__ import annotations

import re
import shlex
import string

import numpy as np

from .errors import printable

shell = shlex.quote
"""A word for a POSIX shell."""


def line(text: str) -> str:
    """A text in one line: each run of white space and control characters is one space."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def cpp(text: str) -> str:
    r"""A string literal of C++ with these characters in UTF-8.

    Example:
        >>> print(cpp('a"b'))
        "a\042b"
    """
    plain = (chr(byte) if chr(byte) in _PLAIN else f"\\{byte:03o}" for byte in text.encode("utf-8", "replace"))
    return f'"{"".join(plain)}"'


_PLAIN = set(string.ascii_letters + string.digits + " .,:;_-+/()[]@=")
"""Characters that mean themselves in a string literal of C++, which is not so of ``?`` (trigraphs)."""


def python(text: str) -> str:
    r"""A string literal of Python, in ASCII.

    Example:
        >>> print(python("a'b é"))
        "a'b \xe9"
    """
    return ascii(text)


def cmake(text: str) -> str:
    r"""A quoted argument of CMake. Control characters become spaces, since CMake can escape only a few.

    Example:
        >>> print(cmake("${a};b"))
        "\${a};b"
    """
    return '"' + re.sub(r'[\\"$@]', r"\\\g<0>", line(text)) + '"'


def markdown(text: str) -> str:
    r"""A text in a line or a table cell of Markdown.

    Example:
        >>> print(markdown("a_b <b>|[c](d)"))
        a_b \<b\>\|\[c\](d)
    """
    # An underscore within a word means nothing in GitHub's Markdown.
    return re.sub(r"[\\`*\[\]<>|~&#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", line(text))


def markdown_code(text: str) -> str:
    r"""A text as code in a line or a table cell of Markdown.

    Example:
        >>> print(markdown_code("a`b|c"))
        `` a`b\|c ``
    """
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if len(fence) > 1 else ""
    code = line(text).replace("|", "\\|") or " "
    return f"{fence}{space}{code}{space}{fence}"


def xml_characters(text: str) -> str:
    """A text with signs for control characters, and U+FFFD for the others that XML cannot hold. A writer of XML escapes
    the rest."""
    return re.sub("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", printable(text))


def float32(value: float) -> str:
    """The shortest literal of C++ of a number's nearest float32. Raises ValueError if that is not finite."""
    with np.errstate(over="ignore"):
        number = np.float32(value)
    if not np.isfinite(number):
        raise ValueError(f"{value} is no float32")
    return f"{number!s}f"


def float64(value: float) -> str:
    """The shortest literal of C++ of a number. Raises ValueError if it is not finite."""
    if not np.isfinite(value):
        raise ValueError(f"{value} is no number")
    return repr(float(value))
