"""Videos, as animated pictures that need no player and no encoder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from psec_jax import storage


def animation(
    path: Path,
    pictures: Sequence[UInt8[np.ndarray, "height width 3"]],
    pictures_per_second: float = 5.0,
) -> None:
    """The pictures one after another, over and over, as a GIF file."""
    first, *others = map(Image.fromarray, pictures)
    milliseconds = round(1000 / pictures_per_second)
    with storage.new_file(path) as temporary:
        first.save(temporary, save_all=True, append_images=others, duration=milliseconds, loop=0)
