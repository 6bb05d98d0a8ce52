"""Headers of safetensors files: what is valid is read, and everything else refused by name, before any tensor is."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from intarsia.checkpoints.header import MOST_HEADER, read_header
from intarsia.errors import WeightsError
from tests.tiny_files import encoded, header, write

SHAPES = {"a.weight": (2, 3), "b.bias": (4,), "scale": ()}


def test_a_header_gives_names_types_shapes_and_places(tmp_path):
    path = write(tmp_path / "a.safetensors", SHAPES, "F16", {"modelspec.title": "Ink"})
    found = read_header(path)
    length = int.from_bytes(path.read_bytes()[:8], "little")

    assert list(found.tensors) == list(SHAPES)
    assert [tensor.shape for tensor in found.tensors.values()] == [(2, 3), (4,), ()]
    assert {tensor.dtype for tensor in found.tensors.values()} == {"F16"}
    assert [(tensor.start, tensor.end) for tensor in found.tensors.values()] == [
        (8 + length, 8 + length + 12),
        (8 + length + 12, 8 + length + 20),
        (8 + length + 20, 8 + length + 22),
    ]
    assert found.metadata == {"modelspec.title": "Ink"}
    assert found.size == path.stat().st_size


def test_it_agrees_with_the_library_of_the_format(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    import numpy as np

    arrays = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "y": np.ones((0, 4), np.int64), "z": np.float16(1)}
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    path = tmp_path / "library.safetensors"
    numpy.save_file(arrays, path)
    content = path.read_bytes()
    for name, tensor in read_header(path).tensors.items():
        assert tensor.shape == arrays[name].shape
        assert content[tensor.start : tensor.end] == arrays[name].tobytes()


def test_padding_behind_the_json_is_part_of_the_header(tmp_path):
    fields, size = header(SHAPES)
    path = tmp_path / "padded.safetensors"
    path.write_bytes(encoded(json.dumps(fields).encode() + b"   ", bytes(size)))
    assert len(read_header(path).tensors) == 3


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"state_dict": {}}))
    return buffer.getvalue()


FORMATS: list[tuple[str, bytes, str]] = [
    ("empty", b"", "is empty"),
    ("short", b"\x10\0\0", "truncated"),
    ("git lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a Git LFS pointer"),
    ("web page", b"<!DOCTYPE html><html><title>Log in</title></html>", "a web page"),
    ("web page, indented", b"\xef\xbb\xbf\n  <html lang=en>", "a web page"),
    ("error", b'{"error": "Unauthorized", "status": 401}', "a JSON text"),
    ("xml", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML text"),
    ("pickle", pickle.dumps({"state_dict": {}}), "a pickled checkpoint, which can run code"),
    ("old pickle", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + bytes(64), "a pickled checkpoint"),
    ("zip", zipped(), "a zip archive: a pickled checkpoint"),
    ("gguf", b"GGUF\x03\0\0\0" + bytes(64), "a GGUF file"),
    ("hdf5", b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file"),
    ("png", b"\x89PNG\r\n\x1a\n" + bytes(64), "an image"),
    ("7z", b"7z\xbc\xaf\x27\x1c" + b"\x01" * 64, "a 7-Zip archive"),
    ("noise", bytes(range(1, 200)), "not a safetensors file"),
    ("zeros", bytes(200), "does not begin with a brace"),
]


@pytest.mark.parametrize(("content", "sentence"), [row[1:] for row in FORMATS], ids=[row[0] for row in FORMATS])
def test_what_is_no_safetensors_is_named_by_its_first_bytes(tmp_path, content, sentence):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    refused(path, sentence)


def entry(shape: Any = (2,), offsets: Any = (0, 4), dtype: Any = "F16", **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


DATA = bytes(8)
HOSTILE: list[tuple[str, Any, str]] = [
    ("overlap", {"a": entry((2,), (0, 4)), "b": entry((2,), (2, 6))}, "'b' overlaps"),
    ("same bytes", {"a": entry((4,), (0, 8)), "b": entry((4,), (0, 8))}, "'b' overlaps"),
    ("gap", {"a": entry((1,), (0, 2)), "b": entry((2,), (4, 8))}, "2 bytes before 'b' belong to no tensor"),
    ("gap in front", {"a": entry((2,), (4, 8))}, "4 bytes before 'a' belong to no tensor"),
    ("rest", {"a": entry((2,), (0, 4))}, "the last 4 bytes of the file belong to no tensor"),
    ("beyond the end", {"a": entry((8,), (0, 16))}, "truncated: it has"),
    ("backwards", {"a": entry((2,), (8, 4))}, "-4 bytes for F16"),
    ("too few bytes", {"a": entry((2, 3), (0, 8))}, r"8 bytes for F16 \[2, 3\], which has 12"),
    ("huge shape", {"a": entry((2**40, 2**40), (0, 8))}, "8 bytes for F16"),
    ("huge number", {"a": entry((10**400,), (0, 8))}, "shape must be a list of sizes"),
    ("overflow to the right size", {"a": entry((2**62, 2**62, 16), (0, 8))}, "8 bytes for F16"),
    ("negative size", {"a": entry((-2, -2), (0, 8))}, "shape must be a list of sizes"),
    ("true for one", {"a": entry((True, 4), (0, 8))}, "shape must be a list of sizes"),
    ("float", {"a": entry((4.0,), (0, 8))}, "shape must be a list of sizes"),
    ("many dimensions", {"a": entry((1,) * 100, (0, 2))}, "shape must be a list of sizes"),
    ("negative offset", {"a": entry((4,), (-8, 0))}, "data_offsets must be two numbers"),
    ("three offsets", {"a": entry((4,), (0, 4, 8))}, "data_offsets must be two numbers"),
    ("offsets as text", {"a": entry((4,), ("0", "8"))}, "data_offsets must be two numbers"),
    ("unknown type", {"a": entry((4,), (0, 8), "Q4_K")}, "dtype 'Q4_K' is not known"),
    ("type as a list", {"a": entry((4,), (0, 8), ["F16"])}, "dtype .* is not known"),
    ("another key", {"a": entry((4,), (0, 8), compressed=True)}, "must have dtype, shape and data_offsets"),
    ("no offsets", {"a": {"dtype": "F16", "shape": [4]}}, "must have dtype, shape and data_offsets"),
    ("a number", {"a": 5}, "must have dtype, shape and data_offsets"),
    ("metadata of numbers", {"__metadata__": {"step": 5}, "a": entry((4,), (0, 8))}, "__metadata__ must hold texts"),
    ("metadata as a list", {"__metadata__": [], "a": entry((4,), (0, 8))}, "__metadata__ must hold texts"),
    ("a line break in a name", {"a\nb": entry((4,), (0, 8))}, "characters that cannot be shown"),
    ("a mark of direction", {"a\u202eb": entry((4,), (0, 8))}, "characters that cannot be shown"),
    ("half of a character", {"a\ud800": entry((4,), (0, 8))}, "characters that cannot be shown"),
]


@pytest.mark.parametrize(("fields", "sentence"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_a_header_that_contradicts_itself_or_the_file_is_refused(tmp_path, fields, sentence):
    path = tmp_path / "model.safetensors"
    path.write_bytes(encoded(json.dumps(fields).encode(), DATA))
    refused(path, sentence)


GOOD = '{"dtype":"F16","shape":[4],"data_offsets":[0,8]}'
TEXTS: list[tuple[str, bytes, str]] = [
    ("the same name twice", f'{{"a":{GOOD},"a":{GOOD}}}'.encode(), "'a' is there twice"),
    ("the same name, escaped", f'{{"a":{GOOD},"\\u0061":{GOOD}}}'.encode(), "'a' is there twice"),
    ("the same key twice", b'{"a":{"dtype":"F16","dtype":"F32","shape":[4],"data_offsets":[0,8]}}', "'dtype' is there"),
    ("metadata twice", f'{{"__metadata__":{{}},"__metadata__":{{}},"a":{GOOD}}}'.encode(), "is there twice"),
    ("nested", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply|must have dtype"),
    ("not a number", b'{"a":{"dtype":"F16","shape":[NaN],"data_offsets":[0,8]}}', "NaN is no JSON"),
    ("other encoding", '{"ä":1}'.encode("latin-1"), "header not readable as JSON"),
    ("cut", b'{"a":{"dtype":"F1', "header not readable as JSON"),
    ("digits", b'{"a":{"dtype":"F16","shape":[' + b"9" * 10_000 + b'],"data_offsets":[0,8]}}', "JSON|shape must be"),
]


@pytest.mark.parametrize(("text", "sentence"), [row[1:] for row in TEXTS], ids=[row[0] for row in TEXTS])
def test_a_header_that_is_read_in_two_ways_or_none_is_refused(tmp_path, text, sentence):
    path = tmp_path / "model.safetensors"
    path.write_bytes(encoded(text, DATA))
    refused(path, sentence)


def test_a_gigantic_header_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write((MOST_HEADER + 1).to_bytes(8, "little") + b"{")
        file.truncate(MOST_HEADER + 100)  # a hole: no bytes on the disk
    monkeypatch.setattr(json, "loads", None)
    refused(path, f"a header of {MOST_HEADER + 1} bytes")


def test_a_file_that_ends_early_says_by_how_much(tmp_path):
    path = write(tmp_path / "model.safetensors", {"a": (1000,)})
    whole = path.read_bytes()
    path.write_bytes(whole[:-500])
    refused(path, f"truncated: it has {len(whole) - 500} bytes of {len(whole)}")
    path.write_bytes(whole[:20])
    refused(path, "ends within its header")


@pytest.mark.skipif(os.name != "posix", reason="makes a named pipe")
def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    refused(tmp_path / "pipe.safetensors", "not a named pipe")
    refused(tmp_path, "not a folder")
    refused(tmp_path / "gone.safetensors", r"gone\.safetensors: no such file$")


def refused(path: Path, sentence: str) -> None:
    with pytest.raises(WeightsError) as caught:
        read_header(path)
    message = str(caught.value)
    assert str(path) in message
    assert re.search(sentence, message), message
    assert message.isprintable()
