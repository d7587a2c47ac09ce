"""The command ``serve``: a process that serves one network.

See :class:`ncnnkit.onboard.network.Network`, and :class:`ncnnkit.onboard.engines.network.EngineNetwork` for engines
other than ncnn.
"""

from __future__ import annotations

from .process import guarded


def main(engine: str = "ncnn") -> None:
    """Answer requests for a network of this engine until stdin ends."""
    guarded(lambda: _serve(engine))


def _serve(engine: str) -> None:
    from .messages import serve

    if engine == "ncnn":
        from .network import Network

        serve(Network)
    else:
        from .engines.network import EngineNetwork

        serve(lambda _: EngineNetwork(engine))
