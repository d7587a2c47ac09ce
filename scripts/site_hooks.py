"""Hooks of MkDocs, which adapt pages of the repository to the site.

README.md becomes the first page and CHANGELOG.md a page, so that each text exists once. A link to a file that is not
part of the site, such as a source file, becomes its plain text. In the
navigation, a folder means its pages, and ``*`` the pages of docs/ that have no other place.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
"""File at the root of the repository -> its page of the site."""

_LINK = re.compile(r"(?P<mark>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\](?:\([^)]*\))?)*)\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"^(`{3,}).*?^\1$", re.MULTILINE | re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages to the navigation that it does not name one by one."""
    docs = Path(config.docs_dir)
    named = set(PAGES.values()) | set(names(config.nav))
    other = [path.name for path in sorted(docs.glob("*.md")) if path.name not in named]
    config.nav = with_pages(config.nav, docs, other)
    return config


def names(nav: Any) -> list[str]:
    """The pages and folders that a part of the navigation names."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [name for part in parts for name in names(part)]


def with_pages(nav: Any, docs: Path, other: list[str]) -> Any:
    """A part of the navigation with each folder (``how-to/``) and ``*`` replaced by their pages."""
    if isinstance(nav, dict):
        return {title: with_pages(part, docs, other) for title, part in nav.items()}
    if not isinstance(nav, list):
        return nav
    made: list[Any] = []
    for part in nav:
        if part == "*":
            made += other
        elif isinstance(part, str) and part.endswith("/"):
            made += sorted(path.relative_to(docs).as_posix() for path in (docs / part).glob("*.md"))
        else:
            made.append(with_pages(part, docs, other))
    return made


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that come from the root of the repository."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, *, page: Page, files: Files, **_: Any) -> str:
    """Change the links of a page to links of the site."""
    at_root = page.file.src_uri in PAGES.values()
    folder = "" if at_root else posixpath.dirname(f"docs/{page.file.src_uri}")
    return with_links(markdown, folder, posixpath.dirname(page.file.src_uri), {file.src_uri for file in files})


def with_links(markdown: str, source: str, target: str, known: set[str]) -> str:
    """A text with its links changed from paths of the repository to paths of the site.

    Args:
        markdown: the text. Blocks of code stay as they are.
        source: the folder of the text in the repository, ``docs/tasks``.
        target: the folder of its page in the site, ``tasks``.
        known: the files of the site.
    """

    def replaced(match: re.Match[str]) -> str:
        path, mark, anchor = match["target"].partition("#")
        text = _LINK.sub(replaced, match["text"])  # a picture that is a link
        if not path or ":" in path:
            return f"{match['mark']}[{text}]({match['target']})"
        place = posixpath.normpath(posixpath.join(source, path))
        place = PAGES.get(place, place.removeprefix("docs/") if place.startswith("docs/") else "")
        if place not in known:
            # A link within docs/ that leads nowhere stays, so that MkDocs reports it.
            return match[0] if posixpath.normpath(posixpath.join(source, path)).startswith("docs/") else text
        return f"{match['mark']}[{text}]({posixpath.relpath(place, target or '.')}{mark}{anchor})"

    made, at = [], 0
    for block in _CODE.finditer(markdown):
        made += [_LINK.sub(replaced, markdown[at : block.start()]), block[0]]
        at = block.end()
    return "".join([*made, _LINK.sub(replaced, markdown[at:])])
