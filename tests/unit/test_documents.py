"""The documents: links lead somewhere, the site has every page, and what is generated is what the programs say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("examples/*.md"), *ROOT.glob("clients/*/*.md")])
WITHIN = 60  # seconds; a bound, never a wait


def prose(page: Path) -> str:
    """Without what is shown as code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL))


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub and mkdocs make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), target


def test_the_site_has_every_page() -> None:
    site = (ROOT / "mkdocs.yml").read_text()
    named = set(re.findall(r": ([\w/.-]+\.md)$|- ([\w/.-]+\.md)$", site, re.MULTILINE))
    listed = {one or other for one, other in named}
    decisions = {f"adr/{page.name}" for page in (DOCS / "adr").glob("[0-9]*.md")}  # scripts/site_links.py has them
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert pages - decisions <= listed
    made = set(re.findall(r'^    "([\w/-]+\.md)": "', (ROOT / "scripts" / "site_links.py").read_text(), re.MULTILINE))
    assert listed - pages == made


def test_the_list_of_decisions_has_every_one() -> None:
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (DOCS / "adr" / "README.md").read_text())
    assert sorted(listed) == sorted(page.name for page in (DOCS / "adr").glob("[0-9]*.md"))


def test_the_list_of_decisions_has_their_titles() -> None:
    listed = re.findall(
        r"^(\d+)\. \[(.*)\]\((\d{4}-[\w-]+\.md)\)", (DOCS / "adr" / "README.md").read_text(), re.MULTILINE
    )
    titles = [(page, (DOCS / "adr" / page).read_text().splitlines()[0]) for _, _, page in listed]
    assert titles == [(page, f"# {number}. {title}") for number, title, page in listed]


def test_the_reference_is_what_the_programs_say() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "reference-pages", "--check"],
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_variable_is_described() -> None:
    """Those that the programs read, by the names that stand in the code."""
    described = (DOCS / "reference" / "environment.md").read_text()
    code = "\n".join(
        path.read_text() for name in ("fabstird", "fabstir_client") for path in (ROOT / name).rglob("*.py")
    )
    read = set(
        re.findall(r'"(FABSTIRD?_[A-Z]+(?:_FILE)?|XDG_[A-Z]+_[A-Z]+|[A-Z]+_DIRECTORY|[A-Z]+_SOCKET|NO_COLOR)"', code)
    )
    assert {"FABSTIR_API", "FABSTIRD_CONFIG", "XDG_STATE_HOME", "STATE_DIRECTORY", "NOTIFY_SOCKET"} <= read
    assert sorted(name for name in read if f"`{name}`" not in described) == []


def test_the_documents_agree_on_what_status_prints() -> None:
    """The README's rows are those that are printed, as its own test sees."""

    def rows(page: Path) -> list[str]:
        shown = re.search(r"^\$ \S*fabstir status\n(state .*?)^(?:```|\$)", page.read_text(), re.MULTILINE | re.DOTALL)
        assert shown is not None, page
        return [line.split("  ")[0] for line in shown[1].splitlines()]

    for page in (DOCS / "operations.md", DOCS / "terminal.md"):
        assert rows(page) == rows(ROOT / "README.md"), page
