"""A hook of mkdocs for `make docs-site`: some files outside docs/ become pages, the decisions come into the navigation,
and links that lead out of docs/ are turned to these pages, or stand as plain text."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
# What a page of the site is made from
PAGES = {
    "reference/typescript.md": "clients/typescript/README.md",
    "reference/changes.md": "CHANGELOG.md",
    "explanation/architecture.md": "ARCHITECTURE.md",
}
OTHER_PAGES = {"config.example.toml": "reference/configuration.md", "docs": "index.md", "docs/adr": "adr/README.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_config(config: Any) -> Any:
    """Each decision by the title that it has."""
    adrs = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
    listed = [{one.read_text().splitlines()[0].lstrip("# "): f"adr/{one.name}"} for one in adrs]
    explanation = next(each["Explanation"] for each in config["nav"] if "Explanation" in each)
    decisions = next(each["Decisions"] for each in explanation if "Decisions" in each)
    decisions[-1:] = listed
    return config


def on_files(files: Files, config: Any) -> Files:
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    place = page.file.src_uri
    source = PAGES.get(place, f"docs/{place}")
    pages = {path: uri for uri, path in PAGES.items()} | OTHER_PAGES
    # What is drawn by a program that would have to be loaded from elsewhere is left out: the repository shows it
    markdown = re.sub(
        r"^```mermaid\n.*?^```\n", "*(A picture is here in the repository.)*\n", markdown, flags=re.M | re.S
    )

    def turned(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        path, hash_, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:") or not path:
            return match[0]
        whole = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        inside = whole.removeprefix("docs/")
        found = pages.get(whole, inside if inside != whole and files.get_file_from_path(inside) is not None else None)
        if found is None:  # a file of the project that is no page; what is not there at all, mkdocs complains about
            return text if (ROOT / whole).exists() and not (ROOT / "docs" / inside).is_file() else match[0]
        return f"{picture}[{text}]({posixpath.relpath(found, posixpath.dirname(place) or '.')}{hash_}{anchor})"

    return LINK.sub(turned, markdown)
