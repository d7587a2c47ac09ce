"""Controls Chromium without a window through a pipe: opens pages, reads their errors, and takes pictures.

The protocol is Chromium's own (DevTools): JSON with a zero byte between messages, over two pipes that Chromium has as
file descriptors 3 and 4. One browser opens many pages, because its start takes most of the time.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from ncnnkit.older import Self

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 60.0  # for one answer, on a busy machine


def program() -> str | None:
    """The browser; None if there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class BrowserError(Exception):
    """The browser refused, or did not answer."""


@dataclass
class Page:
    """An open page.

    Attributes:
        errors: the errors in its console, and the exceptions of its scripts.
    """

    browser: Browser
    session: str
    errors: list[str] = field(default_factory=list)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer of the page to a message of Chromium's protocol."""
        return self.browser.ask(method, self.session, **params)

    def open(self, path: Path, width: int = 1200, height: int = 900, *, dark: bool = False) -> float:
        """Open a file. Returns the seconds until it was loaded completely."""
        self.resize(width, height)
        scheme = "dark" if dark else "light"
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        start = time.perf_counter()
        self.ask("Page.navigate", url=path.resolve().as_uri())
        self.browser.wait_for("Page.loadEventFired", self.session)
        return time.perf_counter() - start

    def resize(self, width: int, height: int) -> None:
        """Set the size of the window, pixels."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page. Raises BrowserError for an exception."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserError(json.dumps(answer["exceptionDetails"])[:500])
        return answer["result"].get("value")

    def picture(self, *, whole: bool = False) -> bytes:
        """A PNG of the window, or of the whole page."""
        answer = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])

    def pdf(self) -> bytes:
        """The printed page as PDF."""
        return base64.b64decode(self.ask("Page.printToPDF", printBackground=True)["data"])


class Browser:
    """A running Chromium. A context manager; leaving it ends the browser.

    Raises:
        BrowserError: there is no browser, or it does not answer.
    """

    def __init__(self) -> None:
        found = program()
        if found is None:
            raise BrowserError("Chromium is missing (Debian: chromium)")
        self._profile = TemporaryDirectory(prefix="ncnnkit-browser-", ignore_cleanup_errors=True)
        ours_out, self._to = os.pipe()
        self._from, theirs = os.pipe()
        # The shell moves the pipes to the file descriptors that Chromium needs.
        line = f'exec 3<&{ours_out} 4>&{theirs}; exec "$@"'
        self._process = subprocess.Popen(
            [
                "bash", "-c", line, "browser", found, "--headless=new", "--no-sandbox", "--disable-gpu",
                "--remote-debugging-pipe", "--hide-scrollbars", "--no-first-run", "--disable-dev-shm-usage",
                "--disable-background-networking", "--disable-extensions", "--font-render-hinting=none",
                f"--user-data-dir={self._profile.name}",
            ],
            pass_fds=(ours_out, theirs), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(ours_out)
        os.close(theirs)
        self._numbers = itertools.count(1)
        self._rest = b""
        self._pages: dict[str, Page] = {}
        self._events: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._to)  # Chromium ends when its pipe is closed
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._from)
        self._profile.cleanup()

    @contextmanager
    def page(self) -> Iterator[Page]:
        """A new page, which is closed at the end."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log"):
            page.ask(f"{domain}.enable")
        yield page
        self.ask("Target.closeTarget", targetId=target)

    def ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """The answer to a message. Raises BrowserError if the answer is an error."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        raw = json.dumps(message).encode() + b"\0"
        while raw:
            raw = raw[os.write(self._to, raw) :]
        while (answer := self._next()).get("id") != number:
            pass
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def wait_for(self, event: str, session: str) -> None:
        """Wait until a page has sent an event, since the last wait for it."""
        while (session, event) not in self._events:
            self._next()
        self._events.remove((session, event))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._from], [], [], SECONDS)[0]:
                raise BrowserError(f"Chromium did not answer for {SECONDS:.0f} s")
            read = os.read(self._from, 1 << 20)
            if not read:
                raise BrowserError("Chromium ended")
            self._rest += read
        raw, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        if "method" in message:
            self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        """Keep an event, and the errors of pages."""
        session, params = message.get("sessionId", ""), message["params"]
        if message["method"] == "Page.loadEventFired":
            self._events.append((session, message["method"]))
        page = self._pages.get(session)
        if page is None:
            return
        if message["method"] == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            page.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif message["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            page.errors.append(params["entry"]["text"])
        elif message["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            page.errors.append(" ".join(str(each.get("value", "")) for each in params["args"]))
