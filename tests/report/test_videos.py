import numpy as np
from PIL import Image, ImageSequence

from psec_jax.evaluation import Trace
from psec_jax.report import videos


def test_an_animation_holds_every_picture_in_order_for_its_time(tmp_path):
    shades = (0, 90, 250)
    pictures = [np.full((6, 8, 3), shade, np.uint8) for shade in shades]
    videos.animation(tmp_path / "a.gif", pictures, pictures_per_second=4)
    with Image.open(tmp_path / "a.gif") as file:
        frames = [
            (frame.info["duration"], np.asarray(frame.convert("RGB")))
            for frame in ImageSequence.Iterator(file)
        ]
    assert [duration for duration, _ in frames] == [250, 250, 250]
    for shade, (_, frame) in zip(shades, frames, strict=True):
        assert frame.shape == (6, 8, 3) and abs(frame.astype(int) - shade).max() <= 4


def test_under_each_picture_the_curves_are_drawn_up_to_its_step():
    images = np.random.default_rng(0).integers(0, 255, (3, 30, 320, 3), dtype=np.uint8)
    pictures = tuple(zip((0, 45, 89), images, strict=True))
    weights = np.linspace(0, 1, 90)[:, None]
    first, middle, last = videos.with_weights(
        Trace(weights, np.ones(90), np.zeros(90), pictures), ["walk"]
    )
    for picture, image in zip((first, middle, last), images, strict=True):
        assert picture.shape == (210, 320, 3) and picture.dtype == np.uint8
        np.testing.assert_array_equal(picture[:30], image)
    cursors = [int((picture[30:] == 0).all(axis=(0, 2)).nonzero()[0][0])
               for picture in (first, middle, last)]  # fmt: skip
    assert cursors == sorted(cursors) and cursors[1] - cursors[0] > 50 < cursors[2] - cursors[1]
    np.testing.assert_array_equal(middle[30:, : cursors[1]][:, cursors[0] + 1 :],
                                  last[30:, : cursors[1]][:, cursors[0] + 1 :])  # fmt: skip
    ahead = slice(cursors[1] + 1, cursors[2])
    np.testing.assert_array_equal(first[30:, ahead], middle[30:, ahead])
    assert first[30:, ahead].min() > last[30:, ahead].min()


def test_pictures_that_are_too_small_for_curves_are_enlarged():
    image = np.arange(8 * 64 * 3, dtype=np.uint8).reshape(8, 64, 3)
    trace = Trace(np.ones((5, 2)), np.zeros(5), np.zeros(5), ((0, image), (4, image)))
    for picture in videos.with_weights(trace, ["a", "b"]):
        assert picture.shape == (32 + 180, 256, 3)
        np.testing.assert_array_equal(picture[:32:4, ::4], image)
