import numpy as np
from PIL import Image, ImageSequence

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
