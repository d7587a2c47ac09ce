"""The documentation site builds without warnings, all its links are valid, and it needs no other host."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import ncnnkit

pytest.importorskip("material")
pytest.importorskip("mkdocstrings")
from site_hooks import with_links

ROOT = Path(__file__).parents[1]

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
"""Element -> the attribute that makes a browser load something."""


@dataclass
class Page:
    """The links of a page of the site, the files that it loads, and its anchors."""

    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)


class Reader(HTMLParser):
    """Reads a :class:`Page` from HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.page = Page()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.page.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.page.links.append(given["href"])
        if (attribute := LOADED.get(tag)) and given.get(attribute) and given.get("rel") != "canonical":
            self.page.loads.append(given[attribute])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    found = {}
    for path in site.rglob("*.html"):
        reader = Reader()
        reader.feed(path.read_text(encoding="utf-8"))
        found[path] = reader.page
    return found


def test_every_page_exists(site: Path, pages: dict[Path, Page]) -> None:
    expected = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    missing = expected - {path.relative_to(site) for path in pages}
    assert not missing
    assert {site / "index.html", site / "changelog.html"} <= set(pages)


def test_every_link_is_valid(site: Path, pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if parts.scheme not in ("http", "https", "mailto") or not (parts.netloc or parts.path):
                    broken.append(f"{path.name}: {link} is not an address")
                continue
            # The error page is served at any address, so its links begin at the root.
            home = site if parts.path.startswith("/") else path.parent
            file = (home / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            file = file / "index.html" if file.is_dir() else file
            if not file.is_file():
                broken.append(f"{path.name}: {link}: no such file")
            elif parts.fragment and file in pages and unquote(parts.fragment) not in pages[file].anchors:
                broken.append(f"{path.name}: {link}: no such anchor")
    assert sum(len(page.links) for page in pages.values()) > 1000, "the links are not read"
    assert not broken, "\n".join(broken)


def test_nothing_is_loaded_from_another_host(pages: dict[Path, Page]) -> None:
    foreign = {load for page in pages.values() for load in page.loads if urlsplit(load).netloc}
    assert not foreign


def test_every_exported_name_is_in_the_reference(site: Path, pages: dict[Path, Page]) -> None:
    anchors = pages[site / "reference/python.html"].anchors
    missing = [name for name in ncnnkit.__all__ if f"ncnnkit.{name}" not in anchors]
    assert not missing


@pytest.mark.parametrize(
    ("text", "source", "target", "expected"),
    [
        pytest.param("[a](docs/a.md)", "", "", "[a](a.md)", id="from the readme"),
        pytest.param("[a](../README.md)", "docs", "", "[a](index.md)", id="to the readme"),
        pytest.param("[a](../../CHANGELOG.md#x)", "docs/t", "t", "[a](../changelog.md#x)", id="from a folder"),
        pytest.param("[`a`](../src/a.py)", "docs", "", "`a`", id="to a source file"),
        pytest.param("[a](https://x.org/a#b)", "docs", "", "[a](https://x.org/a#b)", id="to another site"),
        pytest.param("[a](gone.md)", "docs", "", "[a](gone.md)", id="a broken link stays for MkDocs to report"),
        pytest.param("[![a](docs/a.png)](docs/a.md)", "", "", "[![a](a.png)](a.md)", id="a picture with a link"),
        pytest.param("```\n[a](docs/a.md)\n```", "", "", "```\n[a](docs/a.md)\n```", id="code"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(text: str, source: str, target: str, expected: str) -> None:
    assert with_links(text, source, target, {"a.md", "a.png", "index.md", "changelog.md"}) == expected
