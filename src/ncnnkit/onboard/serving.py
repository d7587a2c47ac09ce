"""The command ``serve``: a process that serves one network, see :class:`ncnnkit.onboard.network.Network`."""

from __future__ import annotations

from .process import guarded


def main() -> None:
    guarded(_serve)


def _serve() -> None:
    from .messages import serve
    from .network import Network

    serve(Network)
