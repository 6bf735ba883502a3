from __future__ import annotations

import io
import uuid

import pytest

from tests.audio_files import sine, write_pyav
from tests.decoding import decode
from transforms.audio.protection import refuse_protected
from transforms.errors import Reason, StageError

CODEC_LIST = uuid.UUID("86d15240-311d-11d0-a3a4-00a0c90348f6").bytes_le
CONTENT_ENCRYPTION = uuid.UUID("2211b3fb-bd23-11d2-b4b7-00a0c955fc6e").bytes_le


def refusal(path) -> StageError:
    with pytest.raises(StageError) as caught:
        decode(path)
    return caught.value


@pytest.mark.parametrize("kind", [b"enca", b"drms"])
@pytest.mark.parametrize("codec", ["aac", "alac"])
def test_protected_mp4(tmp_path, kind, codec):
    path = write_pyav(tmp_path / "a", sine(1.0), 44_100, "ipod", codec)
    entry = b"mp4a" if codec == "aac" else b"alac"
    content = path.read_bytes()
    at = content.index(entry, content.index(b"stsd"))
    path.write_bytes(content[:at] + kind + content[at + 4 :])
    error = refusal(path)
    assert error.reason is Reason.UNSUPPORTED_CODEC
    assert "protected" in error.message


def test_protected_asf(tmp_path):
    path = write_pyav(tmp_path / "a", sine(1.0), 44_100, "asf", "wmav2")
    content = path.read_bytes()
    assert content.count(CODEC_LIST) == 1
    path.write_bytes(content.replace(CODEC_LIST, CONTENT_ENCRYPTION))
    error = refusal(path)
    assert error.reason is Reason.UNSUPPORTED_CODEC
    assert "protected" in error.message


@pytest.mark.parametrize(("container", "codec"), [("ipod", "aac"), ("asf", "wmav2")])
def test_what_is_not_protected_is_decoded(tmp_path, container, codec):
    path = write_pyav(tmp_path / "a", sine(1.0), 44_100, container, codec)
    path.write_bytes(path.read_bytes() + b"enca drms" + CONTENT_ENCRYPTION)  # not in its place
    assert len(decode(path)[0])


def box(name: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + name + content


def nested(content: bytes) -> bytes:
    for name in (b"stsd", b"stbl", b"minf", b"mdia", b"trak", b"moov"):
        content = box(name, (bytes(8) if name == b"stsd" else b"") + content)
    return content


@pytest.mark.parametrize(
    ("content", "protected"),
    [
        (nested(box(b"enca", bytes(28))), True),
        (nested(box(b"mp4a", bytes(28))), False),
        (nested(box(b"enca", b"") + box(b"mp4a", b"")), False),  # one track is clear
        (nested(box(b"enca", b"") + box(b"encv", b"")), True),
        (b"\0\0\0\1mdat" + (16).to_bytes(8, "big") + nested(box(b"drms", b"")), True),
        (b"\0\0\0\1mdat" + b"\xff" * 8 + nested(box(b"drms", b"")), False),  # behind the end
        (b"\0\0\0\4moov" + nested(box(b"drms", b"")), False),  # smaller than its own header
        (nested(box(b"drms", b""))[:-5], False),
        (b"\0\0\0\0moov" + nested(box(b"drms", b""))[8:], True),  # up to the end of the file
        (b"\0\0\0\x08free" * 50_000, False),
        (b"", False),
    ],
)
def test_boxes_are_walked_within_bounds(content, protected):
    if not protected:
        refuse_protected(io.BytesIO(content), "mp4")
        return
    with pytest.raises(StageError):
        refuse_protected(io.BytesIO(content), "mp4")


@pytest.mark.parametrize("size", [0, 23, 24, (1 << 64) - 1])
def test_objects_are_walked_within_bounds(size):
    for_all = bytes(16) + size.to_bytes(8, "little")
    header = bytes(16) + b"\xff" * 8 + bytes(6) + for_all * 3
    refuse_protected(io.BytesIO(header), "asf")
