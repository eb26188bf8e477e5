"""Opening files for reading: regular ones only, and never a wait."""

import os
import socket
from pathlib import Path

import pytest

from generation.files import open_file, read_file, read_json, read_utf8

unix = pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes and devices as files")


def strange(kind: str, folder: Path) -> Path:
    """A file system entry of this kind that is no regular file."""
    place = folder / f"{kind}.png"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(folder)  # a socket's path is short
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(place.name)
        finally:
            os.chdir(here)
    elif kind == "device":
        place.symlink_to("/dev/zero")
    elif kind == "terminal":
        place.symlink_to("/dev/tty")
    elif kind == "linked pipe":
        os.mkfifo(folder / "target")
        place.symlink_to("target")
    elif kind == "loop":
        place.symlink_to("other.png")
        (folder / "other.png").symlink_to(place.name)
    elif kind == "itself":
        place.symlink_to(place.name)
    elif kind == "dangling":
        place.symlink_to("nothing")
    else:
        place.mkdir()
    return place


STRANGE = ("pipe", "socket", "device", "terminal", "linked pipe", "loop", "itself", "dangling",
           "folder")  # fmt: skip


@unix
@pytest.mark.parametrize("kind", STRANGE)
def test_only_regular_files_are_opened(kind, tmp_path):
    with pytest.raises(OSError):
        open_file(strange(kind, tmp_path))


@pytest.mark.parametrize("name", ["a\0b.png", "half\ud800.png", "", "x" * 5000])
def test_a_name_that_no_file_can_have_is_an_os_error(name, tmp_path):
    with pytest.raises(OSError):
        open_file(str(tmp_path) + "/" + name)


def test_a_linked_file_is_read(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf{}")
    (tmp_path / "b").symlink_to("a")
    assert read_file(tmp_path / "b") == b"\xef\xbb\xbf{}"
    assert read_utf8(tmp_path / "b") == "{}"
    assert read_json(tmp_path / "b") == {}


def test_a_larger_file_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_file(tmp_path / "a", 5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_file(tmp_path / "a", 4)


@pytest.mark.parametrize("text", ["[" * 200_000, "{", "", "\ufffe", "1" * 10_000])
def test_json_that_cannot_be_read_is_a_value_error(text, tmp_path):
    (tmp_path / "a.json").write_text(text, "utf-8")
    with pytest.raises(ValueError):
        read_json(tmp_path / "a.json")
