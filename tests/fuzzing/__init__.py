"""The formats that ncnnkit reads, for scripts/fuzz.py: small valid files of each, and what reads them.

``read`` must return or raise one of ``raises``. It also checks what must hold of each file that is read: written and
read again, it is the same.
"""

from __future__ import annotations

from . import devices, models, records, samples
from .format import Format

FORMATS: dict[str, Format] = {**models.FORMATS, **samples.FORMATS, **records.FORMATS, **devices.FORMATS}
"""Name -> format."""
