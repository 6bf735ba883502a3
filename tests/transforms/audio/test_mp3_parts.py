from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile as sf

from tests.audio_files import noise, sine, write_pyav
from tests.damage import damage, flip_bits
from tests.decoding import damaged, decode
from tests.transforms.audio.mp3_files import behind_id3, untagged, write_mp3
from transforms.audio import mp3_parts
from transforms.audio.decoders import open_audio
from transforms.errors import StageError

KINDS = [  # rate, channels, mode, level
    (44_100, 2, "CONSTANT", 0.6), (44_100, 1, "CONSTANT", 0.6), (44_100, 2, "CONSTANT", 0.9),
    (44_100, 2, "VARIABLE", 0.3), (44_100, 2, "VARIABLE", 0.9), (44_100, 1, "VARIABLE", 0.5),
    (48_000, 2, "CONSTANT", 0.0), (48_000, 1, "VARIABLE", 0.9), (32_000, 2, "AVERAGE", 0.9),
    (24_000, 2, "VARIABLE", 0.9), (22_050, 1, "CONSTANT", 0.99), (22_050, 2, "AVERAGE", 0.5),
    (16_000, 1, "VARIABLE", 0.7), (11_025, 2, "CONSTANT", 0.5), (8_000, 1, "CONSTANT", 0.99),
]  # fmt: skip


def music(seconds, rate, channels):
    """Tones with noise that comes and goes: variable rates go up and down with it."""
    loud = np.sin(np.arange(round(seconds * rate)) / rate * 5)[:, np.newaxis] > 0
    sound = sine(seconds, rate, channels) + noise(seconds, rate, channels) * loud
    return sound.astype(np.float32)


def whole(path):
    """The oracle: decoded at once, by soundfile alone. (`sf.read` seeks before it reads.)"""
    with sf.SoundFile(path) as file:
        return file.read(dtype="float32", always_2d=True)


def bounds_of(frames, count, seed=0):
    rng = np.random.default_rng(seed)
    ends = [(0, 1), (0, 3_000), (frames - 1, frames), (frames - 3_000, frames), (0, frames)]
    return ends + [sorted(int(n) for n in rng.integers(0, frames + 1, 2)) for _ in range(count)]


def check_parts(path, count=25):
    expected = whole(path)
    with open_audio(path) as audio:
        assert audio.exact_frames == len(expected)
        for first, last in bounds_of(len(expected), count):
            part = np.concatenate([expected[:0], *audio.part(first, last)])
            np.testing.assert_array_equal(part, expected[first:last])
        assert audio.warnings == ()
    return expected


def exact_frames(path):
    with open_audio(path) as audio:
        return audio.exact_frames


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_mp3(tmp_path_factory.mktemp("mp3") / "a", music(4.0, 44_100, 2), 44_100)


@pytest.fixture
def copy(plain, tmp_path):
    path = tmp_path / "copy"
    path.write_bytes(plain.read_bytes())
    return path


@pytest.mark.parametrize(("rate", "channels", "mode", "level"), KINDS)
def test_parts_equal_the_full_decode(tmp_path, rate, channels, mode, level):
    sound = music(max(3.0, 130_000 / rate), rate, channels)
    check_parts(write_mp3(tmp_path / "a", sound, rate, mode, level))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_blocks_equal_one_read(tmp_path, channels, mode):
    """soundfile seeks behind each read, which disturbs its MP3 decoder: the reader must not."""
    path = write_mp3(tmp_path / "a", music(7.0, 44_100, channels), 44_100, mode, 0.9)
    np.testing.assert_array_equal(decode(path)[0], whole(path))


@pytest.mark.parametrize(
    "change",
    [
        untagged,
        lambda content: behind_id3(content, 5_000),
        lambda content: behind_id3(behind_id3(content, 3_000), 10),
        lambda content: content + b"TAG" + bytes(125),
        lambda content: untagged(content) + b"TAG" + bytes(125),
        lambda content: untagged(content)[:-100],  # the last packet is cut off
        lambda content: content[content.index(content[:3], 30_000) :],  # its main data is missing
    ],
    ids="untagged id3 id3s id3v1 untagged_id3v1 cut beheaded".split(),
)
def test_tags_and_splits(copy, change):
    copy.write_bytes(change(copy.read_bytes()))
    check_parts(copy)


def test_another_encoder(tmp_path):
    check_parts(write_pyav(tmp_path / "a", music(4.0, 44_100, 2), 44_100, "mp3", "libmp3lame"))


def test_silence_in_front_is_passed_over(tmp_path):
    sound = np.concatenate([np.zeros((120_000, 2), np.float32), music(3.0, 44_100, 2)])
    check_parts(write_mp3(tmp_path / "a", sound, 44_100))


def test_long_parts_come_in_pieces(plain, monkeypatch):
    monkeypatch.setattr(mp3_parts, "_PIECE_PACKETS", 16)
    expected = check_parts(plain)
    with open_audio(plain) as audio:
        blocks = list(audio.part(100, len(expected)))
    assert max(len(block) for block in blocks) <= 16 * 1_152


def test_a_part_is_one_of_many(plain):
    """Reading parts does not disturb the blocks, nor the other way round."""
    expected = whole(plain)
    with open_audio(plain) as audio:
        blocks = audio.blocks()
        taken = [next(blocks)]
        list(audio.part(100_000, 101_000))
        np.testing.assert_array_equal(np.concatenate([*taken, *blocks]), expected)
        np.testing.assert_array_equal(np.concatenate([*audio.part(50, 60)]), expected[50:60])


def test_little_is_read_for_a_part(tmp_path, monkeypatch):
    path = write_mp3(tmp_path / "a", noise(60.0, 22_050, 1), 22_050)
    decoded = []

    def noting(stream):
        decoded.append(len(stream.getvalue()))
        return sequential(stream)

    with open_audio(path) as audio:
        middle = audio.exact_frames // 2
        sequential = mp3_parts.SequentialSoundFile
        monkeypatch.setattr(mp3_parts, "SequentialSoundFile", noting)
        assert sum(len(block) for block in audio.part(middle, middle + 22_050)) == 22_050
    assert sum(decoded) < path.stat().st_size / 30  # a sixtieth, and the warm-up


def other(tmp_path, rate, channels):
    return write_mp3(tmp_path / "other", music(4.0, rate, channels), rate).read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-3_000],
        lambda content: content + content,
        lambda content: content[:40_000] + bytes(1_500) + content[40_000:],
        lambda content: content[:40_000] + b"ID3\x03\0\0\0\0\7\x76" + content[40_000:],
        lambda content: b"junk" * 100 + content,
        lambda content: untagged(content) + bytes(20_000),
    ],
    ids="half cut twice hole id3_inside junk_before junk_behind".split(),
)
def test_no_parts_of_what_is_odd(copy, change):
    copy.write_bytes(change(copy.read_bytes()))
    assert exact_frames(copy) is None


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 2), (44_100, 1), (22_050, 2)])
def test_no_parts_where_the_kind_changes(copy, tmp_path, rate, channels):
    content = untagged(copy.read_bytes()) + untagged(other(tmp_path, rate, channels))
    copy.write_bytes(content)
    assert exact_frames(copy) is None


def test_no_parts_of_silence_and_short_sounds(tmp_path):
    silence = write_mp3(tmp_path / "a", np.zeros((200_000, 1), np.float32), 44_100)
    short = write_mp3(tmp_path / "b", sine(0.3), 44_100)
    assert exact_frames(silence) is None
    assert exact_frames(short) is None


def test_no_parts_of_layer_two(tmp_path):
    path = write_pyav(tmp_path / "a", music(4.0, 44_100, 2), 44_100, "mp2", "mp2")
    assert exact_frames(path) is None


def test_a_tag_that_is_wrong_about_the_delay(copy):
    def delayed(content):
        content[content.index(b"LAME") + 21] ^= 0x10
        return content

    expected = whole(damaged(copy, delayed))
    assert len(expected) != 4 * 44_100
    check_parts(copy)  # believed, as the decoder does


def test_what_cannot_be_decoded_alone_is_decoded_from_the_beginning(plain, monkeypatch):
    expected = whole(plain)
    with open_audio(plain) as audio:
        assert audio.exact_frames == len(expected)

        def fails(stream):
            raise RuntimeError("no")

        monkeypatch.setattr(mp3_parts, "SequentialSoundFile", fails)
        part = np.concatenate(list(audio.part(100_000, 120_000)))
    np.testing.assert_array_equal(part, expected[100_000:120_000])


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    found = []
    for rate, channels, mode, level in KINDS[:2] + KINDS[8:11]:
        path = write_mp3(folder / "a", music(130_000 / rate, rate, channels), rate, mode, level)
        content = path.read_bytes()
        found += [(path.name, content), ("untagged", behind_id3(untagged(content), 500))]
    return found


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", range(8))
def test_damaged_files_give_the_same_or_nothing(samples, tmp_path, seed):
    """Rounding apart: behind damaged packets libmpg123 sums in another order."""
    exact = 0
    for case in range(40):
        number = 1_000 * seed + case
        if case % 2:
            name, content = damage(samples, number)
        else:  # damage inside of packets, mostly, that the headers do not tell of
            name, good = samples[case // 2 % len(samples)]
            content = bytes(flip_bits(bytearray(good), b"", np.random.default_rng(number)))
        path = tmp_path / "damaged"
        path.write_bytes(content)
        try:
            frames = exact_frames(path)
        except StageError:
            continue
        if frames is None:
            continue
        exact += 1
        expected, info, _ = decode(path)
        assert (frames, info.decoder) == (len(expected), "soundfile"), name
        with open_audio(path) as audio:
            assert audio.exact_frames == frames
            for first, last in bounds_of(frames, 3, seed):
                part = np.concatenate([expected[:0], *audio.part(first, last)])
                most = 1e-6 * max(1.0, float(np.abs(expected).max()))
                np.testing.assert_allclose(
                    part, expected[first:last], rtol=0, atol=most, err_msg=name
                )
    assert exact >= 8


def test_the_file_is_closed(plain):
    with open_audio(plain) as audio:
        assert audio.exact_frames is not None
        file = audio._seeking[0]._file
        assert isinstance(file, io.FileIO)
        assert not file.closed
    assert file.closed
