"""Tracks to training data: what the stages make, as it is kept in shards."""

import fcntl
import json
import os

import numpy as np
import pytest
import soundfile as sf

from pipeline import prepare
from pipeline.prepare import Shards, prepare_windows, to_float, to_int16
from pipeline.runner import run_locally
from tests.audio_files import noise, write_soundfile
from tests.checkpoints import tiny_front_end
from tests.interruptions import InterruptionError
from transforms.errors import UsageError
from transforms.mel import to_image
from transforms.models.front_end import PRESETS

FRONT_END = tiny_front_end(remove_dc=False)
RATE_HZ = FRONT_END.sample_rate_hz
FRAMES = PRESETS["speech_frames"]


def write_noise(path, seconds, seed=1, rate_hz=RATE_HZ):
    return write_soundfile(path, noise(seconds, rate_hz, 1, seed), rate_hz, "FLAC", "PCM_16")


def test_prepared_windows_are_what_the_stages_make(tmp_path):
    long, short, silent = (tmp_path / f"{name}.flac" for name in ("long", "short", "silent"))
    write_noise(long, 5.0)
    write_noise(short, 1.0, 2)
    write_soundfile(silent, 0 * noise(1.0, RATE_HZ, 1, 3), RATE_HZ, "FLAC", "PCM_16")
    missing = str(tmp_path / "missing.flac")
    uris = [missing, str(short), str(silent), str(long)]
    found = prepare_windows(uris, FRONT_END, workers=1)
    assert found.track.tolist() == [1, 3, 3, 3]
    np.testing.assert_allclose(found.content_s, [1, 2, 2, 1], atol=1e-6)
    assert list(found.failures) == [missing]
    assert found.failures[missing].startswith("not_found")
    samples, _ = sf.read(long, dtype="float32")
    size = FRONT_END.window_samples
    for index, image in enumerate(found.images[1:3]):
        expected = to_image(samples[index * size : (index + 1) * size], FRONT_END)
        np.testing.assert_allclose(image, expected, atol=1e-5)


def test_half_precision_is_close(tmp_path):
    path = write_noise(tmp_path / "a.flac", 2.0)
    full, half = (
        prepare_windows([str(path)], FRONT_END, workers=1, kind=kind).images
        for kind in ("images", "half_images")
    )
    assert (full.dtype, half.dtype) == (np.float32, np.float16)
    np.testing.assert_allclose(half, full, atol=1e-3)


def test_frames_are_the_columns_that_hold_sound(tmp_path):
    """Against the image of the padded window: its columns over the sound, and no others."""
    rate_hz = FRAMES.sample_rate_hz
    seconds = [0.5, 3.0]  # the second one ends in its second window
    paths = [write_noise(tmp_path / f"{s}.flac", s, rate_hz=rate_hz) for s in seconds]
    uris = [str(path) for path in paths]
    frames = prepare_windows(uris, FRAMES, workers=1, kind="frames")
    images = prepare_windows(uris, FRAMES, workers=1)
    assert frames.track.tolist() == images.track.tolist() == [0, 1, 1]
    lengths = [1 + round(s * rate_hz) // FRAMES.hop_length for s in (0.5, 2.0, 1.0)]
    for found, image, length in zip(frames.images, images.images, lengths, strict=True):
        assert found.shape == (length, FRAMES.n_mels)
        assert found.dtype == np.float16
        np.testing.assert_allclose(found, image[:, :length].T, atol=1e-3)


def test_samples_come_without_padding(tmp_path):
    path = write_noise(tmp_path / "a.flac", 5.0)
    found = prepare_windows([str(path)], FRONT_END, workers=1, kind="samples")
    expected, _ = sf.read(path, dtype="int16")
    assert [len(samples) / RATE_HZ for samples in found.images] == [2.0, 2.0, 1.0]
    assert all(samples.dtype == np.int16 for samples in found.images)
    difference = np.concatenate(found.images).astype(int) - expected
    assert np.abs(difference).max() <= 1


def test_integers_and_back():
    samples = np.array([-2.0, -1.0, -0.25, 0.0, 1e-6, 0.5, 1.0, 3.0], np.float32)
    assert to_int16(samples).tolist() == [-32767, -32767, -8192, 0, 0, 16384, 32767, 32767]
    np.testing.assert_allclose(
        to_float(to_int16(samples)), np.clip(samples, -1, 1), atol=1.001 / 65534
    )


def counting_shards(folder):
    """Shards on this process, and a list that grows with every run of Beam."""
    runs = []

    def run_beam(build):
        runs.append(len(runs))
        run_locally(build, 1)

    return Shards(folder, run_beam), runs


def test_shards_are_read_again_without_the_audio(tmp_path):
    paths = [write_noise(tmp_path / f"{name}.flac", 3.0, seed) for seed, name in enumerate("ab")]
    missing = str(tmp_path / "missing.flac")
    uris = [str(path) for path in paths] + [missing]
    shards, runs = counting_shards(tmp_path / "shards")
    first = shards.windows(uris, FRONT_END, "images")
    for path in paths:
        path.unlink()
    again = shards.windows(uris, FRONT_END, "images")
    assert runs == [0]
    np.testing.assert_array_equal(again.images, first.images)
    assert again.track.tolist() == first.track.tolist() == [0, 0, 1, 1]
    assert again.failures == first.failures
    assert list(again.failures) == [missing]


def test_shards_come_in_the_order_that_is_asked_for(tmp_path):
    uris = [str(write_noise(tmp_path / f"{n}.flac", 2.0, n)) for n in range(3)]
    shards, _ = counting_shards(tmp_path / "shards")
    there = shards.windows(uris, FRONT_END, "half_images").images
    back = shards.windows(uris[::-1], FRONT_END, "half_images").images
    np.testing.assert_array_equal(there, back[::-1])


def test_shards_of_other_tracks_are_refused(tmp_path):
    uris = [str(write_noise(tmp_path / f"{n}.flac", 2.0, n)) for n in range(2)]
    shards, runs = counting_shards(tmp_path / "shards")
    shards.windows(uris[:1], FRONT_END, "images")
    with pytest.raises(UsageError, match="other tracks; remove it, or name another.*--shards"):
        shards.windows(uris, FRONT_END, "images")
    assert runs == [0]


def test_kinds_and_front_ends_have_shards_of_their_own(tmp_path):
    uris = [str(write_noise(tmp_path / "a.flac", 2.0))]
    shards, runs = counting_shards(tmp_path / "shards")
    shards.windows(uris, FRONT_END, "images")
    shards.windows(uris, FRONT_END, "samples")
    shards.windows(uris, tiny_front_end(32), "images")
    assert runs == [0, 1, 2]
    assert len(list((tmp_path / "shards").iterdir())) == 3


def test_trainings_that_prepare_the_same_do_not_disturb_each_other(tmp_path):
    """Another one begins and ends while the first is at its shards; both read whole ones."""
    uris = [str(write_noise(tmp_path / f"{n}.flac", 2.0, n)) for n in range(2)]
    inner, inner_runs = counting_shards(tmp_path / "shards")
    meanwhile = []

    def run_beam(build):
        run_locally(build, 1)
        meanwhile.append(inner.windows(uris, FRONT_END, "images"))

    found = Shards(tmp_path / "shards", run_beam).windows(uris, FRONT_END, "images")
    again = inner.windows(uris, FRONT_END, "images")
    assert inner_runs == [0]
    for other in (*meanwhile, again):
        np.testing.assert_array_equal(found.images, other.images)
    assert len(list((tmp_path / "shards").iterdir())) == 1  # and no draft


def test_drafts_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path):
    shards, _ = counting_shards(tmp_path / "shards")
    for name in ("dead", "living"):
        (tmp_path / "shards" / f".draft-{name}").mkdir(parents=True)
        (tmp_path / "shards" / f".draft-{name}" / "lock").touch()
    uris = [str(write_noise(tmp_path / "a.flac", 2.0))]
    with open(tmp_path / "shards" / ".draft-living" / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shards.windows(uris, FRONT_END, "images")
    drafts = [path.name for path in (tmp_path / "shards").glob(".draft-*")]
    assert drafts == [".draft-living"]


def test_a_preparation_that_fails_leaves_no_shards(tmp_path):
    def run_beam(build):
        run_locally(build, 1)
        raise InterruptionError

    uris = [str(write_noise(tmp_path / "a.flac", 2.0))]
    with pytest.raises(InterruptionError):
        Shards(tmp_path / "shards", run_beam).windows(uris, FRONT_END, "images")
    assert list((tmp_path / "shards").iterdir()) == []


@pytest.mark.parametrize("how", ["content", "time"])
def test_shards_of_audio_that_has_changed_are_refused(tmp_path, how):
    path = write_noise(tmp_path / "a.flac", 2.0)
    shards, runs = counting_shards(tmp_path / "shards")
    shards.windows([str(path)], FRONT_END, "images")
    if how == "content":
        write_noise(path, 3.0, 7)
    else:
        os.utime(path, (1, 1))
    with pytest.raises(UsageError, match=r"before .*a\.flac changed; remove it, or name another"):
        shards.windows([str(path)], FRONT_END, "images")
    assert runs == [0]


def test_shards_of_a_track_that_has_come_since_are_refused(tmp_path):
    """It stands among the failures of the shards."""
    path = tmp_path / "a.flac"
    shards, _ = counting_shards(tmp_path / "shards")
    shards.windows([str(path)], FRONT_END, "images")
    write_noise(path, 2.0)
    with pytest.raises(UsageError, match=r"before .*a\.flac changed"):
        shards.windows([str(path)], FRONT_END, "images")


def test_shards_of_another_version_are_refused(tmp_path, monkeypatch):
    uris = [str(write_noise(tmp_path / "a.flac", 2.0))]
    shards, _ = counting_shards(tmp_path / "shards")
    shards.windows(uris, FRONT_END, "images")
    monkeypatch.setattr(prepare, "__version__", "99.0")
    with pytest.raises(UsageError, match=r"by version \d.*; remove it, or name another"):
        shards.windows(uris, FRONT_END, "images")


def test_an_interrupted_preparation_is_made_again(tmp_path):
    """Without complete.json nothing is read, not even shards that look finished."""
    uris = [str(write_noise(tmp_path / "a.flac", 2.0))]
    shards, runs = counting_shards(tmp_path / "shards")
    first = shards.windows(uris, FRONT_END, "images")
    (folder,) = (tmp_path / "shards").iterdir()
    (folder / "complete.json").unlink()
    (part,) = folder.glob("part-*")
    part.rename(folder / "part-00000-of-00002.parquet")
    again = shards.windows(uris, FRONT_END, "images")
    assert runs == [0, 1]
    np.testing.assert_array_equal(again.images, first.images)
    facts = json.loads((folder / "complete.json").read_text())
    assert facts["front_end"]["n_mels"] == FRONT_END.n_mels
