"""What hostile image files cost: ``python -m tools.picture_bombs [part of a name …]``.

Each file is decoded (or refused) in a process of its own, which says how much processor time and memory that took above
what it had before. Files that are full of something else than an image must stay within 0.5 s and 300 MiB. Images as
large as the limit of pixels allows cost what they cost: their figures are what the limit means (decision 0008).
"""

from __future__ import annotations

import argparse
import io
import json
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from intarsia.batch.running.process import peak_memory
from intarsia.images.access import MAX_PIXELS

__all__ = ["main"]

SECONDS, MEBIBYTES = 0.5, 300
FULL = 60_000_000
"""Bytes of a file that a URL may still give."""
SIDE = 8192  # squared it is the limit of pixels


def main(wanted: list[str]) -> int:
    """A line for each file; 1 where one of the small images is out of bounds."""
    Image.MAX_IMAGE_PIXELS = None  # to make them
    bad = 0
    for name, make in BOMBS.items():
        if wanted and not any(part in name for part in wanted):
            continue
        with tempfile.NamedTemporaryFile() as file:
            file.write(make())
            file.flush()
            size = Path(file.name).stat().st_size
            command = [sys.executable, "-m", "tools.picture_bombs", "--decode", file.name]
            answer = subprocess.run(command, capture_output=True, text=True, check=False)
        found = json.loads(answer.stdout or "{}") or {"seconds": 0, "mebibytes": 0, "text": answer.stderr[-200:]}
        is_large = name.startswith("large: ")
        is_bad = not answer.stdout or (not is_large and (found["seconds"] > SECONDS or found["mebibytes"] > MEBIBYTES))
        bad += is_bad
        mark = "BAD " if is_bad else "    "
        cost = f"{found['seconds']:6.2f} s {found['mebibytes']:6.0f} MiB"
        print(f"{mark}{name:44} {size / 1e6:7.2f} MB {cost}  {found['text'][:110]}", flush=True)
    return min(bad, 1)


def decode(path: str) -> None:
    """What one file takes, as JSON."""
    from intarsia.errors import IntarsiaError
    from intarsia.images.rgb_image import from_bytes

    data = Path(path).read_bytes()
    warm = _encoded(Image.new("RGB", (8, 8)), "PNG")
    from_bytes("init_image", warm, "it")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began = peak_memory(), time.process_time()
    try:
        picture = from_bytes("init_image", data, "it")
        text = f"{picture.size[0]}x{picture.size[1]} {'; '.join(picture.warnings)}"
    except IntarsiaError as exc:
        text = f"{type(exc).__name__}: {exc}"
    cost = {"seconds": time.process_time() - began, "mebibytes": peak_memory() - before}
    print(json.dumps(cost | {"text": text.replace("\n", "\\n")}))


def _encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, bits: int, colour: int, *extra: bytes, interlaced: int = 0) -> bytes:
    """Black or transparent."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    packer, row = zlib.compressobj(1), bytes(1 + -(-width * bits * samples // 8))
    passes = ((8, 8, 0, 0), (8, 8, 4, 0), (4, 8, 0, 4), (4, 4, 2, 0), (2, 4, 0, 2), (2, 2, 1, 0), (1, 2, 0, 1))
    sizes = [(len(row), height)]
    if interlaced:
        sides = [((width - x + w - 1) // w, (height - y + h - 1) // h) for w, h, x, y in passes]
        sizes = [(1 + (across * bits * samples + 7) // 8, down) for across, down in sides]
    total = sum(length * rows for length, rows in sizes)
    parts = [packer.compress(bytes(min(1 << 20, total - done))) for done in range(0, total, 1 << 20)]
    data = b"".join([*parts, packer.flush()])
    header = _header(width, height, bits, colour, interlaced)
    return b"\x89PNG\r\n\x1a\n" + b"".join([header, *extra, _chunk(b"IDAT", data), _chunk(b"IEND", b"")])


def _header(width: int, height: int, bits: int, colour: int, interlaced: int = 0) -> bytes:
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced))


def _small_png(*extra: bytes) -> bytes:
    return _png(16, 16, 8, 2, *extra)


_JPEG = _encoded(Image.new("RGB", (16, 16)), "JPEG")


def _jpeg(extra: bytes) -> bytes:
    """With something behind the first marker."""
    return _JPEG[:2] + extra + _JPEG[2:]


def _scans(image: Image.Image, count: int) -> bytes:
    """A progressive image whose last scan comes again and again."""
    data = _encoded(image, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


def _gif(comments: bytes = b"", frames: int = 0) -> bytes:
    data = _encoded(Image.new("L", (16, 16)), "GIF")
    image = data.index(b",\0\0\0\0\x10\0")
    return data[:image] + comments + data[image:-1] + data[image:-1] * frames + b";"


def _tiff(tags: list[tuple[int, int, int, int]], body: bytes = b"", following: int = 0) -> bytes:
    """One page whose directory comes first; ``body`` lies behind it."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + struct.pack("<I", following) + body


def _pages(count: int) -> bytes:
    """Pages of 42 bytes, each with a size and nothing else."""
    page = b"".join(struct.pack("<HHII", tag, 4, 1, 1) for tag in (256, 257, 262))
    pages = [struct.pack("<H", 3) + page + struct.pack("<I", 8 + 42 * (number + 1)) for number in range(count)]
    return b"II\x2a\0\x08\0\0\0" + b"".join(pages)[:-4] + bytes(4)


def _strips(count: int) -> bytes:
    start = 8 + 2 + 8 * 12 + 4
    tags = [(256, 4, 1, 8), (257, 4, 1, count), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, count, start)]
    return _tiff([*tags, (278, 4, 1, 1), (279, 4, count, start)], struct.pack("<I", 8) * count)


def _big_tiff(count: int) -> bytes:
    entry = struct.pack("<HHQQ", 60000, 3, 1, 1)
    return struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, count) + entry * count + bytes(8)


def _webp(*chunks: bytes) -> bytes:
    data = _encoded(Image.new("RGB", (16, 16)), "WEBP")
    header = b"VP8X" + struct.pack("<IB3x", 10, 0) + b"\x0f\0\0\x0f\0\0"
    body = b"WEBP" + header + b"".join(chunks) + data[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _frames_of_webp(count: int) -> bytes:
    data = _encoded(Image.new("RGB", (16, 16)), "WEBP", lossless=True)[12:]
    frame = bytes(6) + b"\x0f\0\0\x0f\0\0" + bytes(4) + data
    header = b"VP8X" + struct.pack("<IB3x", 10, 2) + b"\x0f\0\0\x0f\0\0" + b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    body = b"WEBP" + header + (b"ANMF" + struct.pack("<I", len(frame)) + frame) * count
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _ico(count: int, content: bytes) -> bytes:
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(content), 6 + 16 * count)
    return struct.pack("<HHH", 0, 1, count) + entry * count + content


_JP2 = _encoded(Image.new("RGB", (16, 16)), "JPEG2000")
_J2K = _encoded(Image.new("RGB", (16, 16)), "JPEG2000", no_jp2=True)


def _boxes(count: int) -> bytes:
    return _JP2[:12] + struct.pack(">I4s", 8, b"free") * count + _JP2[12:]


def _markers(count: int) -> bytes:
    at = 2 + 2 + struct.unpack_from(">H", _J2K, 4)[0]
    return _J2K[:at] + b"\xff\x5f\0\2" * count + _J2K[at:]


def _tiles(side: int, tile: int) -> bytes:
    """An image of that side in tiles, of which none is there."""
    data = bytearray(_J2K)
    struct.pack_into(">II", data, 8, side, side)
    struct.pack_into(">II", data, 24, tile, tile)
    return bytes(data)


def _runs(size: int) -> bytes:
    """A run-length encoded BMP of runs of one pixel."""
    header = struct.pack("<2sIIIIiiHHIIiiII", b"BM", 0, 0, 54 + 1024, 40, 8000, 8000, 1, 8, 1, size, 0, 0, 256, 0)
    return header + bytes(1024) + b"\1\7" * (size // 2)


def _exif(tags: int) -> bytes:
    return b"II\x2a\0\x08\0\0\0" + struct.pack("<H", tags) + struct.pack("<HHII", 1, 3, 1, 1) * tags + bytes(4)


def _large(mode: str, format: str, side: int = SIDE, **options: Any) -> bytes:
    return _encoded(Image.new(mode, (side, side)), format, **options)


_PACKED_900_MB = zlib.compress(bytes(9 << 20), 9)[:-4]

BOMBS: dict[str, Callable[[], bytes]] = {
    "PNG 9459² 1 bit": lambda: _png(9459, 9459, 1, 0),
    "PNG 9459² RGBA": lambda: _png(9459, 9459, 8, 6),
    "PNG 1 x 89 M": lambda: _png(1, 89_400_000, 8, 0),
    "PNG 1 x 60 M": lambda: _png(1, 60_000_000, 8, 0),
    "PNG 60 M x 1": lambda: _png(60_000_000, 1, 8, 0),
    "PNG 2e9²": lambda: _small_png()[:8] + _header(2_000_000_000, 2_000_000_000, 8, 2) + _small_png()[33:],
    "TIFF F 9459²": lambda: _large("F", "TIFF", 9459, compression="tiff_adobe_deflate"),
    "TIFF I 9459²": lambda: _large("I", "TIFF", 9459, compression="tiff_adobe_deflate"),
    "WebP 16383 x 5400": lambda: _encoded(Image.new("RGB", (16383, 5400)), "WEBP", method=0),
    "JPEG 65500²": lambda: _JPEG.replace(struct.pack(">HH", 16, 16), struct.pack(">HH", 65500, 65500), 1),
    "JPEG empty APP0": lambda: _jpeg(b"\xff\xe0\0\2" * (FULL // 4)),
    "JPEG fill bytes": lambda: _jpeg(b"\xff" * FULL),
    "JPEG junk before its frame": lambda: _jpeg(bytes(FULL)),
    "JPEG comments": lambda: _jpeg((b"\xff\xfe\xff\xff" + bytes(65533)) * (FULL // 65537)),
    "JPEG full APP2 of a profile": lambda: _jpeg((b"\xff\xe2\xff\xffICC_PROFILE\0\1\xff" + bytes(65519)) * 900),
    "JPEG full APP1 of EXIF": lambda: _jpeg((b"\xff\xe1\xff\xffExif\0\0" + bytes(65527)) * 900),
    "JPEG tables": lambda: _jpeg((b"\xff\xdb\0\x43\0" + b"\1" * 64) * (FULL // 69)),
    "JPEG restart markers in front": lambda: _jpeg(b"\xff\xd0" * (FULL // 2)),
    "JPEG 20,000 scans": lambda: _scans(Image.new("L", (256, 256)), 20_000),
    "JPEG comments between scans": lambda: _JPEG[:-2] + b"\xff\xfe\0\2" * (FULL // 4) + _JPEG[-2:],
    "JPEG 60 MB behind its end": lambda: _JPEG + b"\xff\xd8" * (FULL // 2),
    "GIF comments of 255": lambda: _gif(b"!\xfe" + (b"\xff" + bytes(255)) * (FULL // 256) + b"\0"),
    "GIF comments of 1": lambda: _gif(b"!\xfe" + b"\1\1" * (FULL // 2) + b"\0"),
    "GIF empty comments": lambda: _gif(b"!\xfe\0" * (FULL // 3)),
    "GIF 1 M frames": lambda: _gif(frames=1_000_000),
    "GIF junk between blocks": lambda: _gif(bytes(FULL)),
    "PNG private chunks": lambda: _small_png(_chunk(b"prVt", b"") * (FULL // 12)),
    "PNG full private chunks": lambda: _small_png(_chunk(b"prVt", bytes(1 << 20)) * (FULL >> 20)),
    "PNG texts": lambda: _small_png(_chunk(b"tEXt", b"a\0b") * (FULL // 15)),
    "PNG empty IDAT": lambda: _small_png().replace(
        b"\0\0\0\0IEND", _chunk(b"IDAT", b"") * (FULL // 12) + b"\0\0\0\0IEND"
    ),
    "PNG zTXt of 9 MB, 5000 times": lambda: _small_png(_chunk(b"zTXt", b"a\0\0" + _PACKED_900_MB) * 5000),
    "PNG raw EXIF of 9 MB, 2000 times": lambda: _small_png(
        _chunk(b"zTXt", b"Raw profile type exif\0\0" + _PACKED_900_MB) * 2000
    ),
    "PNG XMP of 9 MB, 2000 times": lambda: _small_png(
        _chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + _PACKED_900_MB) * 2000
    ),
    "PNG profile of 900 MB": lambda: _small_png(_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(900_000_000), 9))),
    "PNG profiles of 9 MB, 2000 times": lambda: _small_png(_chunk(b"iCCP", b"a\0\0" + _PACKED_900_MB) * 2000),
    "PNG 400 MB of pixels in 16²": lambda: _small_png(_chunk(b"IDAT", zlib.compress(bytes(400_000_000), 9))),
    "PNG EXIF of 60 MB": lambda: _small_png(_chunk(b"eXIf", _exif(65535) + bytes(FULL))),
    "APNG 1 M controls": lambda: _small_png(
        _chunk(b"acTL", struct.pack(">II", 1_000_000, 0)), _chunk(b"fcTL", bytes(26)) * 1_000_000
    ),
    "TIFF 100,000 pages": lambda: _pages(100_000),
    "TIFF 1.4 M pages": lambda: _pages(1_400_000),
    "TIFF 65,535 tags": lambda: _tiff([(number, 3, 1, 1) for number in range(65535)]),
    "TIFF 65,535 tags of 60 MB": lambda: _tiff([(number, 1, FULL, 8) for number in range(65535)], bytes(FULL)),
    "TIFF 3 M tags, BigTIFF": lambda: _big_tiff(FULL // 20),
    "TIFF 7 M strips": lambda: _strips(FULL // 8),
    "TIFF 30,000 strips": lambda: _strips(30_000),
    "TIFF tile of 2 G": lambda: _tiff(
        [
            (256, 4, 1, 8),
            (257, 4, 1, 8),
            (258, 3, 1, 8),
            (259, 3, 1, 8),
            (262, 3, 1, 1),
            (322, 4, 1, 65536),
            (323, 4, 1, 32768),
            (324, 4, 1, 200),
            (325, 4, 1, 2_000_000),
        ],
        bytes(100) + zlib.compress(bytes(2_000_000_000), 1),
    ),
    "TIFF directory in a circle": lambda: _tiff([(256, 4, 1, 8), (257, 4, 1, 8)], following=8),
    "WebP small chunks": lambda: _webp(struct.pack("<4sI", b"prVt", 0) * (FULL // 8)),
    "WebP 1 M frames": lambda: _frames_of_webp(700_000),
    "ICO 65,535 icons": lambda: _ico(65535, _small_png()),
    "ICO of a PNG of 9459²": lambda: _ico(1, _png(9459, 9459, 8, 6)),
    "ICO of a PNG of private chunks": lambda: _ico(1, _small_png(_chunk(b"prVt", b"") * (FULL // 12))),
    "JPEG 2000 boxes": lambda: _boxes(FULL // 8),
    "JPEG 2000 markers": lambda: _markers(FULL // 4),
    "JPEG 2000 1 M tiles": lambda: _tiles(8192, 8),
    "JPEG 2000 9459², nothing there": lambda: _tiles(9459, 9459),
    "JPEG 2000 8192², nothing there": lambda: _tiles(8192, 8192),
    "BMP runs of one pixel": lambda: _runs(FULL),
    "BMP runs of one pixel, 1 MB": lambda: _runs(1_000_000),
    "PPM comment of 60 MB": lambda: b"P6\n#" + bytes(FULL) + b"\n1 1 255\nabc",
    "PPM blanks": lambda: b"P6" + b" " * FULL + b"1 1 255\nabc",
    "PPM plain, 60 MB": lambda: b"P2 5000 5000 255\n" + b"1 " * (FULL // 2),
    "PPM plain, 12 MB": lambda: b"P2 2400 2400 255\n" + b"1 " * 5_800_000,
    "PFM blanks": lambda: b"Pf" + b" " * FULL,
    "AVIF boxes": lambda: _encoded(Image.new("RGB", (16, 16)), "AVIF") + struct.pack(">I4s", 8, b"free") * (FULL // 8),
    "large: PNG 1 bit": lambda: _png(SIDE, SIDE, 1, 0),
    "large: PNG palette with alpha": lambda: _png(
        SIDE, SIDE, 8, 3, _chunk(b"PLTE", bytes(768)), _chunk(b"tRNS", bytes(range(256)))
    ),
    "large: PNG RGB": lambda: _png(SIDE, SIDE, 8, 2),
    "large: PNG RGBA": lambda: _png(SIDE, SIDE, 8, 6),
    "large: PNG RGBA, interlaced": lambda: _png(SIDE, SIDE, 8, 6, interlaced=1),
    "large: PNG gray 16 bits": lambda: _png(SIDE, SIDE, 16, 0),
    "large: PNG RGB 16 bits": lambda: _png(SIDE, SIDE, 16, 2),
    "large: PNG 64 x 1 M": lambda: _png(64, 1 << 20, 8, 2),
    "large: PNG 1 M x 64": lambda: _png(1 << 20, 64, 8, 2),
    "large: JPEG": lambda: _large("RGB", "JPEG"),
    "large: JPEG progressive": lambda: _large("RGB", "JPEG", progressive=True, subsampling=0),
    "large: JPEG of 60 scans": lambda: _scans(Image.new("L", (SIDE, SIDE)), 50),
    "large: JPEG CMYK": lambda: _large("CMYK", "JPEG"),
    "large: GIF": lambda: _large("L", "GIF"),
    "large: TIFF F": lambda: _large("F", "TIFF", compression="tiff_adobe_deflate"),
    "large: TIFF I": lambda: _large("I", "TIFF", compression="tiff_adobe_deflate"),
    "large: TIFF RGBA": lambda: _large("RGBA", "TIFF", compression="tiff_lzw"),
    "large: WebP": lambda: _large("RGB", "WEBP", method=0),
    "large: WebP lossless": lambda: _large("RGBA", "WEBP", lossless=True, method=0),
    "large: JPEG 2000": lambda: _large("RGB", "JPEG2000"),
    "large: AVIF": lambda: _large("RGB", "AVIF", speed=10),
    "large: PPM 16 bits": lambda: b"P6 3162 3162 65535\n" + bytes(6 * 3162 * 3162),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of the names of files")
    parser.add_argument("--decode", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.decode is not None:
        decode(arguments.decode)
    else:
        assert SIDE * SIDE == MAX_PIXELS
        sys.exit(main(arguments.names))
