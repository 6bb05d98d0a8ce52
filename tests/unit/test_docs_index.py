"""The documents lead to each other: every page is in the index, every link has a target."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*(REPOSITORY / "docs").rglob("*.md"), *REPOSITORY.glob("*.md"), *(REPOSITORY / "examples").glob("*.md")]
)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def targets(page: Path) -> list[Path]:
    """Files that a page links to."""
    links = LINK.findall(page.read_text(encoding="utf-8"))
    return [page.parent / link for link in links if "://" not in link]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(REPOSITORY)) for page in PAGES])
def test_links_have_targets(page):
    assert [str(target) for target in targets(page) if not target.exists()] == []


def test_the_index_has_every_page():
    listed = {target.resolve() for target in targets(REPOSITORY / "docs" / "README.md")}
    pages = {page for page in (REPOSITORY / "docs").rglob("*.md") if page.parent.name != "decisions"}
    assert pages - listed == {REPOSITORY / "docs" / "README.md"}
