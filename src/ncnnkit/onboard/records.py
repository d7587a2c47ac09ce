"""JSON objects as dataclasses, without checks: the sender is this program itself.

The host reads them with ``ncnnkit.codec`` instead, because a board may be broken or hostile.
"""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints


def from_json(value: Any, kind: Any) -> Any:
    """Convert a value that ``json`` read to a dataclass, or to lists, mappings and optional values of dataclasses.

    Example:
        >>> from_json({"cold": 3.0, "warm": 1.0}, Load)
        Load(cold=3.0, warm=1.0)
    """
    if value is None:
        return None
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: from_json(item, hints[name]) for name, item in value.items()})
    origin, parts = get_origin(kind), get_args(kind)
    if origin is list:
        return [from_json(item, parts[0]) for item in value]
    if origin is dict:
        return {name: from_json(item, parts[1]) for name, item in value.items()}
    return from_json(value, parts[0]) if origin is Union else value
