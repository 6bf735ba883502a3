"""The picture of what the model saw: read by Pillow, compared with means of the images' columns."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.serving import pictures
from pipeline.serving.pictures import MAX_COLUMNS, Picture

HEIGHT = 12


def drawn(*images):
    """The picture of some images: its levels (indices of the palette), and its colours."""
    picture = Picture()
    for image in images:
        picture.add(image)
    with Image.open(io.BytesIO(picture.png())) as opened:
        assert (opened.format, opened.mode) == ("PNG", "P")
        return np.asarray(opened).astype(float), np.asarray(opened.convert("RGB")).astype(float)


def window(columns=20, seed=0, height=HEIGHT):
    return np.random.default_rng(seed).uniform(-1, 1, (height, columns)).astype(np.float32)


def levels_of(image):
    """What levels should be drawn: the lowest frequency in the last line."""
    return np.round(np.flipud(np.float64(image) + 1) * 127.5)


def brightness(colours):
    return colours @ [0.299, 0.587, 0.114]


def test_one_window_is_drawn_column_by_column():
    image = window()
    levels, _ = drawn(image)
    np.testing.assert_allclose(levels, levels_of(image), atol=1)


def test_low_frequencies_are_at_the_bottom_and_time_goes_to_the_right():
    image = np.full((HEIGHT, 20), -1, np.float32)
    image[0, 3] = 1
    _, colours = drawn(image)
    lit = brightness(colours)
    assert np.unravel_index(lit.argmax(), lit.shape) == (HEIGHT - 1, 3)


def test_minus_one_is_darkest_and_one_is_brightest_and_all_between_in_order():
    image = np.linspace(-1, 1, 256, dtype=np.float32)[None].repeat(HEIGHT, axis=0)
    _, colours = drawn(image)
    lit = brightness(colours[0])
    assert (np.diff(lit) > 0).all()
    assert lit[0] < 3
    assert lit[-1] > 240


def test_what_is_beyond_full_scale_is_brightest_and_not_wrapped_around():
    image = np.float32([[-1.7, -1, 1, 1.4]])
    levels, _ = drawn(image)
    assert levels.tolist() == [[0, 0, 255, 255]]


def test_windows_stand_side_by_side():
    images = [window(columns, columns) for columns in (20, 7, 1)]
    levels, _ = drawn(*images)
    np.testing.assert_allclose(levels, levels_of(np.concatenate(images, axis=1)), atol=1)


def expected(levels, width):
    """Each column as the mean over its share, which is the same for all but the last."""
    factor = 1
    while -(-levels.shape[1] // factor) > width:
        factor *= 2
    parts = [levels[:, at : at + factor] for at in range(0, levels.shape[1], factor)]
    return np.stack([part.mean(axis=1) for part in parts], axis=1)


@settings(deadline=None, max_examples=200)
@given(widths=st.lists(st.integers(1, 40), min_size=1, max_size=60), most=st.integers(2, 50))
def test_what_does_not_fit_is_pooled_evenly(widths, most):
    images = [window(columns, seed, 3) for seed, columns in enumerate(widths)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "MAX_COLUMNS", most)
        levels, _ = drawn(*images)
    assert levels.shape[1] <= most
    whole = levels_of(np.concatenate(images, axis=1))
    assert levels.shape[1] >= min(whole.shape[1], most // 2)
    means = expected(whole, levels.shape[1])
    assert means.shape == levels.shape
    np.testing.assert_allclose(levels, means, atol=6)  # half a level for each halving


def test_ten_thousand_windows():
    rising = np.linspace(-1, 1, 10_000, dtype=np.float32)
    picture, most = Picture(), 0
    for level in rising:
        picture.add(np.full((HEIGHT, 5), level, np.float32))
        most = max(most, picture._columns)
    with Image.open(io.BytesIO(picture.png())) as opened:
        levels = np.asarray(opened).astype(float)
    assert most <= MAX_COLUMNS
    assert MAX_COLUMNS // 2 <= levels.shape[1] <= MAX_COLUMNS
    time = (np.arange(levels.shape[1]) + 0.5) / (50_000 / 16)
    np.testing.assert_allclose(levels[0], np.clip(255 * time, 0, 255), atol=4)
