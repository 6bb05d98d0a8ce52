"""Contact sheets: what is in them and in which order, that text stays text, and that they go on where they stopped."""

from __future__ import annotations

import json
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from intarsia import batch
from intarsia.batch.ledger import results
from intarsia.batch.ledger.records import Record
from intarsia.batch.running.task import prepare
from intarsia.batch.sheet import contact_sheet, thumbnail_pool, thumbnails
from intarsia.batch.sheet.sheet_rows import SheetRow, group_of, in_order
from intarsia.batch.sheet.thumbnails import GAP, SIDE, Thumbnail, ThumbnailTask, make_thumbnail
from intarsia.errors import OutputError, RequestError
from tests.batch.conftest import Album

STEP = SIDE + GAP


class Page(HTMLParser):
    """What a browser makes of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.images: list[Path] = []
        self.links: list[Path] = []
        self.texts: list[str] = []
        self._folder = path.parent
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        for name, found in (("src", self.images), ("href", self.links)):
            target = values.get(name)
            if target is not None:
                assert "//" not in target
                found.append(self._folder / unquote(target))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "\n".join(filter(None, map(str.strip, self.texts)))


def squares(path: Path) -> list[np.ndarray[Any, Any]]:
    """The squares of a thumbnail."""
    with Image.open(path) as image:
        pixels = np.asarray(image).astype(int)
    return [pixels[:, left : left + SIDE] for left in range(0, pixels.shape[1], STEP)]


def center(square: np.ndarray[Any, Any]) -> list[int]:
    return [int(level) for level in square[SIDE // 2 - 4 : SIDE // 2 + 4, SIDE // 2 - 4 : SIDE // 2 + 4].mean((0, 1))]


def fabricated(out: Path, rows: list[dict[str, Any]]) -> None:
    """Results of rows that nobody ran."""
    out.mkdir(exist_ok=True)
    lines = [{"line": number, "status": "ok", "run": 1, **row} for number, row in enumerate(rows, 1)]
    (out / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_sheet_of_a_run(album: Album, tmp_path: Path) -> None:
    """Every image that it shows or links to is there, and the failed row is the first."""
    rows = [*album.rows(3), album.row(3, samples=2), album.row(4, init_image="photos/gone.png")]
    out = tmp_path / "out"
    batch.run(album.manifest(rows), out, album.options)

    done = album.call("sheet", out, "--picture", tmp_path / "all.png", "--workers", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [str(out / "sheet.html"), str(tmp_path / "all.png")]

    page = Page(out / "sheet.html")
    assert next(line for line in page.texts if line.startswith("row-")) == "row-4"
    assert "io: init_image: file not found" in page.text
    assert len(page.images) == 5
    assert all(path.is_file() for path in page.images)
    assert all(path.is_file() for path in page.links)
    assert {(out / name).resolve() for name in ("row-0.png", "row-3-1.png", "row-3-2.png")} < {
        path.resolve() for path in page.links
    }
    assert "script" not in page.tags
    assert not [path for path in out.rglob("*") if path.name.endswith(".part")]


def test_a_thumbnail_is_before_mask_and_after(tmp_path: Path) -> None:
    before, after = Image.new("RGB", (400, 200), (200, 30, 30)), Image.new("RGB", (400, 200), (200, 30, 30))
    mask = Image.new("L", (400, 200))
    mask.paste(255, (150, 50, 250, 150))
    after.paste((30, 30, 200), (150, 50, 250, 150))
    for name, image in (("before.png", before), ("mask.png", mask), ("after.png", after)):
        image.save(tmp_path / name)
    paths = {name: str(tmp_path / f"{name}.png") for name in ("before", "mask")}
    task = ThumbnailTask(key="a" * 32, after=(str(tmp_path / "after.png"), str(tmp_path / "gone.png")), **paths)

    made = make_thumbnail(task, tmp_path)

    shown = squares(tmp_path / made.name)
    colors = [[200, 30, 30], [255, 255, 255], [30, 30, 200], [208, 208, 208]]
    assert np.abs(np.array([center(square) for square in shown]) - colors).max() < 6
    assert (shown[0][:20] > 245).all()  # wider than high: paper above it
    assert made.change is not None
    assert abs(made.change - (170 + 170) / 3) <= 2  # two of three channels, all over the mask
    in_memory = make_thumbnail(task, tmp_path, [after])
    assert in_memory == made
    assert Thumbnail.of_name(made.name) == made


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "rgba.png", "cmyk.jpg", "1.png", "p.gif", "16.png", "tif"])
def test_images_of_every_kind_are_upright_and_of_their_colors(tmp_path: Path, kind: str) -> None:
    """Left half black, right half white; where EXIF turns it, the upper half black."""
    levels = np.zeros((600, 800), np.uint8)
    levels[:, 400:] = 255
    image = Image.fromarray(levels)
    modes = {"rgba.png": "RGBA", "cmyk.jpg": "CMYK", "1.png": "1", "p.gif": "P", "16.png": "I;16"}
    image = (
        Image.fromarray(levels.astype(np.uint16) * 257) if kind == "16.png" else image.convert(modes.get(kind, "RGB"))
    )
    path = tmp_path / f"x.{kind}"
    exif = Image.Exif()
    exif[0x0112] = 6 if kind in ("jpg", "png", "webp") else 1
    image.save(path, exif=exif) if kind in ("jpg", "png", "webp") else image.save(path)

    made = make_thumbnail(ThumbnailTask(key="b" * 32, before=str(path), mask=None, after=()), tmp_path)

    shown = squares(tmp_path / made.name)[0].mean(axis=2)
    if kind in ("jpg", "png", "webp"):
        two = shown[10 : SIDE // 2 - 10, 40:-40], shown[SIDE // 2 + 10 : -10, 40:-40]
    else:
        two = shown[40:-40, 10 : SIDE // 2 - 10], shown[40:-40, SIDE // 2 + 10 : -10]
    assert two[0].mean() < 12
    assert two[1].mean() > 243


def row(number: int, change: int | None = None, **fields: Any) -> SheetRow:
    record = Record(id=f"r{number}", line=number, **{"status": "ok", **fields})
    return SheetRow(record=record, group=group_of(record), thumbnail=Thumbnail("x.jpg", change))


def test_what_needs_a_look_comes_first() -> None:
    rows = [
        row(1, 40), row(2, 3), row(3, None), row(4, 3, warnings=("w",)), row(5, 50, degraded=("d",)),
        row(6, 9, nsfw=(False, True)), row(7, status="error", error="mask"), row(8, status="error", error="io"),
        row(9, status="cancelled"), row(10, status="skipped"), row(11, 9, nsfw=(False,)),
    ]  # fmt: skip
    assert [each.record.line for each in in_order(rows)] == [8, 7, 9, 10, 6, 5, 4, 2, 11, 1, 3]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many thumbnails each sheet has had made."""
    counts: list[int] = []
    real = thumbnail_pool.thumbnails

    def counted(tasks: list[ThumbnailTask], *arguments: Any) -> Any:
        counts.append(len(tasks))
        return real(tasks, *arguments)

    monkeypatch.setattr(contact_sheet, "thumbnails", counted)
    return counts


def sheet_files(out: Path) -> dict[str, bytes]:
    folder = out / "sheet-files"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.jpg")}


def test_a_run_makes_the_thumbnails_that_its_sheet_would_make(album: Album, tmp_path: Path, asked: list[int]) -> None:
    """Of the same names, with the same bytes; so that nothing is left for the sheet to make."""
    for name in ("photos/0.png", "masks/0.png", "photos/1.png", "masks/1.png"):
        Image.open(album.folder / name).resize((300, 201)).save(album.folder / name)
    with_alpha = Image.open(album.folder / "photos/2.png").convert("RGBA")
    with_alpha.putalpha(128)
    with_alpha.save(album.folder / "photos/2.png")
    manifest = album.manifest([*album.rows(3), album.row(3, samples=2), album.row(4, init_image="photos/gone.png")])

    out = tmp_path / "out"
    batch.run(manifest, out, album.with_options(thumbnails=True))
    made = sheet_files(out)
    assert len(made) == 4

    batch.sheet(out, workers=1)
    of_sheet = sheet_files(out)
    shutil.rmtree(out / "sheet-files")
    batch.sheet(out, workers=1)
    assert asked == [1, 5]  # the first time that of the failed row alone
    assert made.items() < of_sheet.items()
    assert sheet_files(out) == of_sheet


@pytest.mark.parametrize(
    ("rows", "asked_for", "makes_them"), [(3, None, True), (2, None, False), (2, True, True), (3, False, False)]
)
def test_a_large_run_makes_them_unasked(
    album: Album, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, asked_for: bool | None, makes_them: bool
) -> None:
    monkeypatch.setattr("intarsia.batch.running.task._MANY", 3)
    task = prepare(album.manifest(album.rows(rows)), tmp_path / "out", album.with_options(thumbnails=asked_for))
    assert task.options.thumbnails is makes_them
    # a part of a large run, too, and a run of its first rows
    options = album.with_options(thumbnails=asked_for, limit=1, shard=(1, 2))
    assert prepare(album.manifest(album.rows(rows)), tmp_path / "out", options).options.thumbnails is makes_them


def test_a_row_is_done_also_where_its_thumbnail_cannot_be_written(album: Album, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "sheet-files").write_text("")
    stats = batch.run(album.manifest(album.rows(1)), out, album.with_options(thumbnails=True))
    [line] = map(json.loads, (out / "results.jsonl").read_text().splitlines())
    assert (stats.failed, line["status"]) == (0, "ok")
    assert line["warnings"] == ["the contact sheet's thumbnail was not written: Not a directory"]


def test_a_sheet_leaves_alone_what_a_run_is_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thumbnails of rows that are done after the results were read, and files that are not finished."""
    out, inner = tmp_path / "out", tmp_path / "out/sheet-files/ab"
    fabricated(out, [{"id": "a"}])
    inner.mkdir(parents=True)
    unfinished, abandoned = inner / ".intarsia-new.jpg.part", inner / ".intarsia-old.jpg.part"
    stale, new = inner / f"{'ab' * 16}-001.jpg", inner / f"{'ab' * 16}-002.jpg"
    for path in (unfinished, abandoned, stale):
        path.write_bytes(b"")
    os.utime(abandoned, (0, 0))

    real = results.read_history

    def read_history(*arguments: Any) -> Any:
        new.write_bytes(b"")
        return real(*arguments)

    monkeypatch.setattr(contact_sheet, "read_history", read_history)
    batch.sheet(out, workers=1)
    assert {path: path.exists() for path in (unfinished, new, abandoned, stale)} == {
        unfinished: True,
        new: True,
        abandoned: False,
        stale: False,
    }


def test_a_mask_is_read_once_for_rows_that_share_it_and_again_once_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "mask.png")
    read: list[str | None] = []
    real = thumbnails._small

    def small(path: str | None) -> Image.Image | None:
        read.append(path)
        return real(path)

    monkeypatch.setattr(thumbnails, "_small", small)
    is_white = []
    for side, level in ((40, 255), (50, 0)):
        Image.new("L", (side, side), level).save(path)
        for key in "cd":
            made = make_thumbnail(ThumbnailTask(key=key * 32, before=None, mask=path, after=()), tmp_path)
            is_white.append(center(squares(tmp_path / made.name)[1])[0] > 127)
    assert is_white == [True, True, False, False]
    assert read.count(path) == 2


@pytest.mark.slow
def test_it_goes_on_where_it_stopped_and_drops_what_has_changed(album: Album, tmp_path: Path, asked: list[int]) -> None:
    manifest, out = album.manifest(album.rows(3)), tmp_path / "out"
    batch.run(manifest, out, album.options)
    batch.sheet(out, workers=1)
    first = {path.name: path.stat().st_mtime_ns for path in out.rglob("sheet-files/*/*.jpg")}
    left = out / "sheet-files" / next(iter(first))[:2] / ".intarsia-x.jpg.part"
    left.write_bytes(b"torn")
    os.utime(left, (0, 0))

    batch.sheet(out)
    batch.run(album.manifest([album.row(0), album.row(1, seed=5), album.row(2)]), out, album.options)
    batch.sheet(out, workers=1)

    again = {path.name: path.stat().st_mtime_ns for path in out.rglob("sheet-files/*/*.jpg")}
    assert asked == [3, 0, 1]
    assert len(first.items() & again.items()) == 2
    assert len(again) == 3
    assert not left.exists()


def test_many_rows_are_divided_into_pages_and_old_pages_go(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fabricated(out, [{"id": f"r{number}"} for number in range(250)])
    made = batch.sheet(out, workers=1)
    assert (made.rows, made.pages, made.unreadable) == (250, 3, 0)
    pages = [out / "sheet.html", out / "sheet-files/page-2.html", out / "sheet-files/page-3.html"]
    ids = [line for page in pages for line in Page(page).texts if line.startswith("r") and line[1:].isdigit()]
    assert ids == [f"r{number}" for number in range(250)]
    for page in pages:
        inner = {path.resolve() for path in Page(page).links}
        assert {other.resolve() for other in pages if other != page} <= inner

    fabricated(out, [{"id": f"r{number}"} for number in range(150)])
    assert batch.sheet(out, workers=1).pages == 2
    assert not pages[2].exists()


def test_text_of_strangers_is_text(tmp_path: Path) -> None:
    evil = "<script>alert('1')</script>\x1b[31m&\"\u202e/../<b>"
    out = tmp_path / "out"
    fabricated(out, [
        {"id": evil, "status": "error", "error": "decode", "text": evil},
        {"id": f"{evil}2", "outputs": [f"{evil}.png"], "sha256": ["1"], "warnings": [evil],
         "sources": {"init_image": f"/{evil}", "mask_image": "/a:b?c#d"}},
    ])  # fmt: skip
    batch.sheet(out, workers=1)
    page = Page(out / "sheet.html")
    assert "script" not in page.tags
    assert page.text.count("<script>alert('1')</script>\\x1b[31m&\"\\u202e/../<b>") == 4
    assert Path("/a:b?c#d") in {Path(os.path.normpath(path)) for path in page.links}


class Deadly:
    """A process that dies of one task."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def ask(self, group: list[ThumbnailTask]) -> list[str] | None:
        self.asked.append(len(group))
        return None if any(task.key == "bad" for task in group) else [f"aa/{task.key}-007.jpg" for task in group]


def test_a_decoder_that_crashes_costs_one_thumbnail() -> None:
    tasks = [ThumbnailTask(key=key, before=None, mask=None, after=()) for key in ("one", "bad", "two")]
    worker: Any = Deadly()
    made = dict(thumbnail_pool._made(worker, tasks))
    assert made == {"one": Thumbnail("aa/one-007.jpg", 7), "bad": Thumbnail(""), "two": Thumbnail("aa/two-007.jpg", 7)}
    assert worker.asked == [3, 1, 1, 1]


def test_a_process_that_is_killed_is_started_again(tmp_path: Path) -> None:
    worker = thumbnail_pool._Worker(tmp_path)
    task = ThumbnailTask(key="c" * 32, before=None, mask=None, after=())
    try:
        assert worker.ask([task]) == [f"cc/{'c' * 32}-none.jpg"]
        assert worker._process is not None
        worker._process.kill()
        worker._process.wait()
        assert worker.ask([task]) is None
        assert worker.ask([task]) == [f"cc/{'c' * 32}-none.jpg"]
    finally:
        worker.close()


def test_what_cannot_be_made_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no results of a batch run"):
        batch.sheet(tmp_path)
    fabricated(tmp_path, [{"id": "a"}])
    with pytest.raises(RequestError, match="first must be between 1 and 400, not 0"):
        batch.sheet(tmp_path, first=0)
    with pytest.raises(OutputError, match=r"all\.bmp"):
        batch.sheet(tmp_path, overview=tmp_path / "all.bmp")
    assert not (tmp_path / "sheet.html").exists()
    (tmp_path / "sheet-files").write_text("")
    with pytest.raises(OutputError, match="sheet-files cannot be used for a contact sheet: File exists"):
        batch.sheet(tmp_path)


def test_no_row_writes_where_the_sheet_is(album: Album) -> None:
    rows = [album.row(0, output="sheet-files/a.png"), album.row(1, output="Sheet.HTML/a.png")]
    found = batch.validate(album.manifest(rows), album.options)
    assert ["of the batch runner's own" in problem.text for problem in found.problems] == [True, True]


def test_results_name_files_and_no_addresses(album: Album, tmp_path: Path) -> None:
    """A signed address is a key; and what stands in the row itself is not written once more."""
    rows = [album.row(0), album.row(1, init_image="https://127.0.0.1/a.png?sig=secret"), album.row(2, mask_image=None)]
    batch.run(album.manifest(rows), tmp_path / "out", album.options)
    text = (tmp_path / "out/results.jsonl").read_text()
    sources = {line["id"]: line.get("sources") for line in map(json.loads, text.splitlines())}
    photo, mask = (str(album.folder / sort / "{}.png") for sort in ("photos", "masks"))
    assert sources["row-0"] == {"init_image": photo.format(0), "mask_image": mask.format(0)}
    assert sources["row-1"] == {"mask_image": mask.format(1)}
    assert "secret" not in text
