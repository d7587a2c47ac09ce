"""``python -m ncnnkit`` is the ``ncnnkit`` command."""

from .cli import main

main()
