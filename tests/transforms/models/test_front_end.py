from __future__ import annotations

import dataclasses
import json
import math

import pytest

from transforms.errors import CatalogError, FrontEndError
from transforms.models.checkpoint import SHIPPED
from transforms.models.front_end import (
    CCMUSIC_LABELS,
    FRONT_END_FILE,
    PRESETS,
    FrontEnd,
    load_front_end,
)

CCMUSIC = PRESETS["ccmusic"]

# A valid other value for every setting. A new setting must be added here, or the tests fail.
OTHER = {
    "sample_rate_hz": 44_100,
    "n_fft": 1_024,
    "hop_length": 256,
    "n_mels": 64,
    "fmin_hz": 20.0,
    "fmax_hz": 11_025.0,
    "top_db": 60.0,
    "image_height": 128,
    "image_width": 256,
    "window_seconds": 10.0,
    "hop_seconds": 15.0,
    "windows": "middle",
    "channel_rule": "first",
    "remove_dc": True,
    "denoise": "spectral_gate",
    "trim_silence_db": 60.0,
    "normalize_peak": True,
    "max_seconds": 60.0,
    "reference": "full_scale",
    "resampler": "VHQ",
}


def test_the_ccmusic_preset_is_the_published_recipe():
    published = {"sample_rate_hz": 22_050, "n_fft": 2_048, "hop_length": 512, "n_mels": 128,
                 "fmin_hz": 0.0, "fmax_hz": 8_000.0, "top_db": 80.0,
                 "image_height": 224, "image_width": 224, "channel_rule": "mean",
                 "remove_dc": False, "denoise": "none", "normalize_peak": False}  # fmt: skip
    assert dataclasses.asdict(CCMUSIC).items() >= published.items()
    assert len(set(CCMUSIC_LABELS)) == 16


def test_every_setting_has_a_case():
    assert set(OTHER) == {f.name for f in dataclasses.fields(FrontEnd)}


@pytest.mark.parametrize("name", OTHER)
def test_fingerprint_changes_with_every_setting(name):
    changed = dataclasses.replace(CCMUSIC, **{name: OTHER[name]})
    assert changed.fingerprint() != CCMUSIC.fingerprint()
    assert len(changed.fingerprint()) == 16
    assert int(changed.fingerprint(), 16) >= 0


@pytest.mark.parametrize(
    ("front_end", "fingerprint"),
    [
        (PRESETS["ccmusic"], "b097cb25889ec9bf"),
        (PRESETS["spectra"], "39fec486660abcc9"),
        (load_front_end(SHIPPED / "genre-vit"), "39fec486660abcc9"),
    ],
)
def test_settings_added_later_leave_known_fingerprints(front_end, fingerprint):
    # As the first release wrote them into its rows, which must stay known.
    assert front_end.fingerprint() == fingerprint


def test_an_enhancer_is_part_of_the_fingerprint():
    first, second = (CCMUSIC.changed(denoise=f"model:{digit * 16}") for digit in "0f")
    assert first.needs_enhancer
    assert not CCMUSIC.needs_enhancer
    assert not CCMUSIC.changed(denoise="spectral_gate").needs_enhancer
    gated = CCMUSIC.changed(denoise="spectral_gate")
    assert len({f.fingerprint() for f in (first, second, gated, CCMUSIC)}) == 4


def test_a_file_from_before_a_setting_was_added_loads(tmp_path):
    CCMUSIC.save(tmp_path)
    path = tmp_path / FRONT_END_FILE
    content = json.loads(path.read_text())
    assert content.pop("reference") == "peak"
    assert content.pop("resampler") == "HQ"
    path.write_text(json.dumps(content))
    assert load_front_end(tmp_path) == CCMUSIC


def test_a_track_in_one_image_has_a_bound():
    whole = CCMUSIC.changed(windows="whole")
    assert (CCMUSIC.decoded_seconds, whole.decoded_seconds) == (86_400.0, 1_800.0)
    assert whole.changed(max_seconds=60.0).decoded_seconds == 60.0
    with pytest.raises(FrontEndError, match="window_seconds must be from one sample to 1800 s"):
        CCMUSIC.changed(window_seconds=1e9)


def test_equal_front_ends_have_equal_fingerprints():
    assert dataclasses.replace(CCMUSIC).fingerprint() == CCMUSIC.fingerprint()


@pytest.mark.parametrize(
    ("sample_rate_hz", "fmin_hz", "window_seconds"), [(22_050, 0, 30), (22_050, 0.0, 30.0)]
)
def test_whole_numbers_and_floats_are_the_same_setting(sample_rate_hz, fmin_hz, window_seconds):
    # JSON written by hand says 30 where we say 30.0.
    front_end = dataclasses.replace(
        CCMUSIC, sample_rate_hz=sample_rate_hz, fmin_hz=fmin_hz, window_seconds=window_seconds
    )
    assert front_end == CCMUSIC
    assert front_end.fingerprint() == CCMUSIC.fingerprint()


@pytest.mark.parametrize("name", OTHER)
def test_saved_and_loaded_it_is_the_same(tmp_path, name):
    front_end = dataclasses.replace(CCMUSIC, **{name: OTHER[name]})
    front_end.save(tmp_path)
    assert load_front_end(tmp_path) == front_end


def test_no_file_is_no_front_end(tmp_path):
    assert load_front_end(tmp_path) is None


def test_file_states_every_setting_by_its_name(tmp_path):
    CCMUSIC.save(tmp_path)
    content = json.loads((tmp_path / FRONT_END_FILE).read_text())
    assert FRONT_END_FILE == "preprocessor_config.json"
    assert content.pop("feature_extractor_type") == "LogMelFrontEnd"
    assert set(content) == set(OTHER)
    assert content["sample_rate_hz"] == 22_050


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"image_processor_type": "ViTImageProcessor", "size": 224}', "--front_end=ccmusic"),
        ('{"feature_extractor_type": "ASTFeatureExtractor"}', "--front_end=ccmusic"),
        ("[1, 2]", "no log-mel front end"),
        ("null", "no log-mel front end"),
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ('{"feature_extractor_type": "LogMelFrontEnd"}', "missing settings fmax_hz"),
    ],
)
def test_what_is_no_front_end_is_refused(tmp_path, content, message):
    (tmp_path / FRONT_END_FILE).write_text(content)
    with pytest.raises(FrontEndError, match=message):
        load_front_end(tmp_path)


def edit(folder, **changes):
    CCMUSIC.save(folder)
    path = folder / FRONT_END_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_unknown_setting_is_named(tmp_path):
    edit(tmp_path, power=1.0)
    with pytest.raises(FrontEndError, match="unknown settings power"):
        load_front_end(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sample_rate_hz", "22050"),
        ("sample_rate_hz", None),
        ("sample_rate_hz", 22_050.5),
        ("n_mels", [128]),
        ("fmax_hz", "8k"),
        ("windows", 3),
        ("windows", None),
        ("channel_rule", ["mean"]),
        ("remove_dc", "false"),
        ("trim_silence_db", "60"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(tmp_path, name, value):
    edit(tmp_path, **{name: value})
    with pytest.raises(FrontEndError, match=name):
        load_front_end(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, bad) for name in ("sample_rate_hz", "n_fft", "hop_length", "n_mels", "top_db",
                                   "image_height", "image_width", "window_seconds", "hop_seconds")
          for bad in (0, -1, math.nan)),
        ("window_seconds", math.inf),
        ("window_seconds", 1e-9),  # not one sample
        ("hop_seconds", 1e-9),  # would never get to the track's end
        ("fmin_hz", -1.0),
        ("fmin_hz", 8_000.0),
        ("fmax_hz", 11_025.1),
        ("fmax_hz", math.nan),
        ("windows", "0"),
        ("windows", "-1"),
        ("windows", "1.5"),
        ("windows", "every"),
        ("windows", ""),
        ("channel_rule", "sum"),
        ("denoise", "rnnoise"),
        ("denoise", "model:"),
        ("denoise", "model:0123456789ABCDEF"),
        ("denoise", "model:0123456789abcdef0"),
        ("denoise", "model:../../enhancer00"),
        ("reference", "noise"),
        ("resampler", "MQ"),
        ("trim_silence_db", 0.0),
        ("trim_silence_db", -60.0),
        ("trim_silence_db", math.nan),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused(name, value):
    with pytest.raises(FrontEndError, match=name):
        dataclasses.replace(CCMUSIC, **{name: value})


def test_errors_are_of_one_root():
    assert issubclass(FrontEndError, CatalogError)


@pytest.mark.parametrize(
    ("rate", "seconds", "samples"),
    [(22_050, 30.0, 661_500), (8_000, 0.5, 4_000), (22_050, 1 / 22_050, 1), (44_100, 0.1, 4_410)],
)
def test_window_samples(rate, seconds, samples):
    front_end = dataclasses.replace(
        CCMUSIC, sample_rate_hz=rate, fmax_hz=4_000.0, window_seconds=seconds
    )
    assert front_end.window_samples == samples


def test_changed_leaves_what_is_not_given():
    changed = CCMUSIC.changed(windows="middle", denoise=None)
    assert changed == dataclasses.replace(CCMUSIC, windows="middle")
    with pytest.raises(FrontEndError, match="windows"):
        CCMUSIC.changed(windows="none")
