"""Numbers as people read them, without their units.

None is always :data:`NOTHING`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

NOTHING = "–"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def plain(value: float | None) -> str:
    """Three significant digits, never an exponent: 0.0123, 5.23, 52.3, 1234. For ms and MB."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    rounded = float(f"{value:.2e}")  # 9.999 becomes 10.0
    digits = max(0, min(6, 2 - math.floor(math.log10(abs(rounded)))))
    return f"{value:.{digits}f}"


def exact(value: float | None) -> str:
    """Three significant digits, with a power of ten if that is shorter: 0.0187, 1.87e-05."""
    return NOTHING if value is None else f"{value:.3g}"


def typeset(number: str) -> str:
    """A number with e-notation, as books print it: 1.87e-05 becomes 1.87·10⁻⁵."""
    mantissa, e, exponent = number.partition("e")
    return f"{mantissa}·10{str(int(exponent)).translate(_SUPERSCRIPT)}" if e else number


def megabytes(size: int | None) -> str:
    """Bytes as MB (10^6 bytes)."""
    return NOTHING if size is None else plain(size / 1e6)


def decibel(value: float | None) -> str:
    """An SQNR in dB; None means that there is no error."""
    return "exact" if value is None else f"{value:.1f}"


def cosine(value: float | None, decimals: int = 6) -> str:
    """A cosine, truncated: 0.9999996 gives 0.999999. Only values that differ from 1 by less than 1 % of the last digit
    give 1.000000."""
    if value is None:
        return NOTHING
    if value > 1 - 10.0 ** -(decimals + 2):
        return f"{1:.{decimals}f}"
    return f"{math.floor(value * 10**decimals) / 10**decimals:.{decimals}f}"


def counted(count: int, thing: str) -> str:
    """A number of things: one image, 2 images."""
    return f"one {thing}" if count == 1 else f"{count} {thing}s"


def first_few(items: Sequence[str], most: int) -> str:
    """A list in a sentence, with only its first items: a, b and 3 more."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return f"{', '.join(items[:most])}{more}"


def percent(share: float | None) -> str:
    """A share as a percentage: 0.966 is 96.6."""
    return NOTHING if share is None else f"{share * 100:.1f}"


def ratio(value: float | None, base: float | None) -> float | None:
    """A value divided by a base; None if either is missing."""
    return None if value is None or base is None or base <= 0 else value / base


def shape_option(*sizes: int) -> str:
    """How a user gives the shape of an input: ``--shape 8,4, in Python shapes=[(8, 4)]``."""
    return f"--shape {','.join(map(str, sizes))}, in Python shapes=[{sizes}]"


def duration(seconds: float) -> str:
    """Seconds as people read them: 0.4 s, 12 s, 3 min 05 s, 1 h 02 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def with_article(value: Any) -> str:
    """The type of a value with its article: a list, an int, None."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def object_name(value: Any) -> str:
    """The name of an object in a recipe: ``<DataLoader>``, its type, or ``<module:name>`` for a function or a class.

    Example:
        >>> object_name([1, 2]), object_name(object_name)
        ('<list>', '<ncnnkit.formatting:object_name>')
    """
    if hasattr(value, "__module__") and hasattr(value, "__qualname__"):
        return f"<{value.__module__}:{value.__qualname__}>"
    return f"<{type(value).__name__}>"
