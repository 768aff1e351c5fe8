"""Videos, as animated pictures that need no player and no encoder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from psec_jax import storage
from psec_jax.evaluation import Trace

# Pixels that curves need.
LEAST_WIDTH = 200


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


def with_weights(trace: Trace, names: Sequence[str]) -> list[UInt8[np.ndarray, "taller width 3"]]:
    """The pictures of ``trace``, each above the curves of weights and rewards up to its step.

    Pictures that are too small for curves are enlarged.
    """
    # Needs Matplotlib, which an animation does not.
    from psec_jax.report import figures

    steps, images = zip(*trace.pictures, strict=True)
    factor = -(-LEAST_WIDTH // images[0].shape[1])
    images = [image.repeat(factor, axis=0).repeat(factor, axis=1) for image in images]
    curves, columns = figures.episode_strip(trace, names, images[0].shape[1])
    faded = (255 - (255 - curves) // 4).astype(np.uint8)
    pictures = []
    for step, image in zip(steps, images, strict=True):
        panel, now = faded.copy(), columns[step]
        panel[:, :now] = curves[:, :now]
        panel[:, now : now + 1] = 0
        pictures.append(np.concatenate([image, panel]))
    return pictures
