"""The page's files as they are served: types, tags, policy, size, and nothing beside them."""

from __future__ import annotations

import re

import pytest

from intarsia.server.routes.page_files import PAGE_FOLDER

MOST_BYTES = 200_000

TYPES = {
    "/": "text/html; charset=utf-8",
    "/page/app.js": "text/javascript; charset=utf-8",
    "/page/style.css": "text/css; charset=utf-8",
    "/page/icon.svg": "image/svg+xml",
    "/page/examples/sky.webp": "image/webp",
}


@pytest.mark.parametrize(("path", "media_type"), TYPES.items())
def test_files_have_their_types_tags_and_a_strict_policy(idle, path, media_type):
    reply = idle.client.get(path)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == media_type
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["cache-control"] == "no-cache"

    policy = dict(part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in reply.headers["content-security-policy"]

    tag = reply.headers["etag"]
    again = idle.client.get(path, headers={"If-None-Match": f'"other", W/{tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert idle.client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_every_file_is_served_as_it_is(idle):
    for path in PAGE_FOLDER.rglob("*"):
        if path.is_file():
            name = path.relative_to(PAGE_FOLDER).as_posix()
            assert idle.client.get(f"/page/{name}").content == path.read_bytes(), name


@pytest.mark.parametrize("name", ["nothing.js", "../services.py", "%2e%2e/services.py", "/etc/passwd", "", "app.js/"])
def test_nothing_else_is_served(idle, name):
    assert idle.client.get(f"/page/{name}").status_code in (400, 404)


def test_all_of_it_is_small():
    assert sum(path.stat().st_size for path in PAGE_FOLDER.rglob("*") if path.is_file()) <= MOST_BYTES


def test_nothing_is_named_that_lies_elsewhere():
    """No address of another host, no style or script in the markup, no HTML made of text."""
    namespaces = "http://www.w3.org/"
    for path in PAGE_FOLDER.rglob("*"):
        if path.suffix not in (".js", ".html", ".css", ".svg"):
            continue
        text = path.read_text(encoding="utf-8")
        assert [url for url in re.findall(r"https?://[^\s\"')]+", text) if not url.startswith(namespaces)] == [], path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            path
        )
        assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?! type=\"module\" src=)", text), path


def test_every_text_is_in_the_dictionary():
    """Each name that markup and modules use is in it, and each that is in it is used."""
    texts = (PAGE_FOLDER / "texts.js").read_text(encoding="utf-8")
    known = set(re.findall(r"^  (\w+):", texts, re.MULTILINE))
    markup = (PAGE_FOLDER / "index.html").read_text(encoding="utf-8")
    used = set(re.findall(r'data-(?:text|label|hint|placeholder)="(\w+)"', markup))
    assert used <= known
    visible = re.sub(r"<svg.*?</svg>|<title>.*?</title>|<[^>]*>", " ", markup, flags=re.DOTALL)
    assert visible.split() == ["intarsia"]

    modules = "".join(path.read_text(encoding="utf-8") for path in PAGE_FOLDER.glob("*.js") if path.name != "texts.js")
    assert set(re.findall(r'\btext\("(\w+)"', modules)) <= known
    quoted = set(re.findall(r'"(\w+)"', modules)) | set(re.findall(r"^  (\w+): \"", modules, re.MULTILINE))
    fields = set(re.findall(r'^  "(\w+)",$', (PAGE_FOLDER / "settings.js").read_text(encoding="utf-8"), re.MULTILINE))
    hints = {f"{field}Hint" for field in {*fields, "other"}}
    own = {name for name in known if re.search(rf'"{name}"', texts)}
    assert known - used - quoted - fields - hints - own == set()
