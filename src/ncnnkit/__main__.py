"""``python -m ncnnkit`` is the ``ncnnkit`` command."""

from .cli import main

if __name__ == "__main__":
    main()
