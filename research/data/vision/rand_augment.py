"""RandAugment (Cubuk et al. 2020): a few operations drawn at random, all of one strength, for one image at a time.

The fourteen operations and their ranges are those of the paper, in the scale of torchvision (strengths 0 to 30). An
image is [height width channels], float32, with pixels from 0 to 255; what comes in from outside the frame is black.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Image = Float[Array, "height width channels"]
Number = Float[Array, ""]

STRONGEST = 30
GEOMETRIC = 5  # rotate, two shears, two translations


def rand_augment(key: Key[Array, ""], image: Image, layers: int, magnitude: int) -> Image:
    """Applies `layers` operations, drawn with replacement, at strength `magnitude` of 30 in a random direction."""
    strength = magnitude / STRONGEST
    for layer in jax.random.split(key, layers):
        choice, direction = jax.random.split(layer)
        signed = jax.random.rademacher(direction, (), jnp.float32) * strength
        image = operate(jax.random.randint(choice, (), 0, len(COLOUR) + GEOMETRIC), image, signed)
    return image


def operate(index: Array, image: Image, strength: Number) -> Image:
    """Applies operation `index`: those of `COLOUR` in order, then rotate, shear x, shear y, translate x, translate y.

    `strength` is from -1 to 1. The geometric operations share one branch, because `vmap` computes every branch.
    """
    matrix = geometry(strength, *image.shape[:2])[jnp.maximum(index - len(COLOUR), 0)]
    branches = [*COLOUR, lambda image, _: affine(image, matrix)]
    return jax.lax.switch(jnp.minimum(index, len(COLOUR)), branches, image, strength)


def geometry(strength: Number, height: int, width: int) -> Float[Array, "5 2 3"]:
    """Returns the matrices of rotate (up to 30 degrees), shear (up to 0.3), translate (up to 150/331 of the side)."""
    angle, shear, shift = strength * jnp.pi / 6, strength * 0.3, strength * 150 / 331
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    return jnp.array(
        [
            [[cosine, -sine, 0], [sine, cosine, 0]],
            [[1, shear, 0], [0, 1, 0]],
            [[1, 0, 0], [shear, 1, 0]],
            [[1, 0, shift * width], [0, 1, 0]],
            [[1, 0, 0], [0, 1, shift * height]],
        ]
    )


def affine(image: Image, matrix: Float[Array, "2 3"]) -> Image:
    """Gives position (x, y), counted from the centre, the pixel nearest to `matrix @ (x, y, 1)`."""
    height, width, _ = image.shape
    y = (jnp.arange(height) + 0.5 - height / 2)[:, None]
    x = (jnp.arange(width) + 0.5 - width / 2)[None, :]
    # Not a matrix product: accelerators would round the coordinates.
    column = jnp.floor(matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] + width / 2).astype(jnp.int32)
    row = jnp.floor(matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] + height / 2).astype(jnp.int32)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    pixels = image[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
    return jnp.where(inside[:, :, None], pixels, 0)


def auto_contrast(image: Image) -> Image:
    """Stretches each channel to the whole range."""
    low, high = image.min((0, 1)), image.max((0, 1))
    return jnp.where(high > low, (image - low) * 255 / jnp.maximum(high - low, 1e-6), image)


def equalize(image: Image) -> Image:
    """Makes each channel's histogram as flat as a table of its levels can (the rule of Pillow's ImageOps.equalize)."""

    def channel(pixels: Float[Array, "height width"]) -> Float[Array, "height width"]:
        levels = pixels.astype(jnp.int32)
        histogram = jnp.zeros(256, jnp.int32).at[levels].add(1)
        step = (levels.size - histogram[levels.max()]) // 255
        below = jnp.cumsum(histogram) - histogram
        table = jnp.clip((step // 2 + below) // jnp.maximum(step, 1), 0, 255).astype(jnp.float32)
        return jnp.where(step > 0, table[levels], pixels)

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)


def solarize(image: Image, strength: Number) -> Image:
    """Inverts the pixels above a threshold, which falls from 255 to 0 with strength."""
    return jnp.where(image >= 255 * (1 - jnp.abs(strength)), 255 - image, image)


def posterize(image: Image, strength: Number) -> Image:
    """Keeps 8 to 4 bits of each pixel."""
    level = 2 ** jnp.round(4 * jnp.abs(strength))
    return jnp.floor(image / level) * level


def colour(image: Image, strength: Number) -> Image:
    """Moves towards grey, or away from it."""
    return blend(grey(image)[:, :, None], image, strength)


def contrast(image: Image, strength: Number) -> Image:
    """Moves towards the mean grey, or away from it."""
    return blend(grey(image).mean(), image, strength)


def brightness(image: Image, strength: Number) -> Image:
    """Moves towards black, or away from it."""
    return blend(jnp.float32(0), image, strength)


def sharpness(image: Image, strength: Number) -> Image:
    """Moves towards the image smoothed by [[1 1 1], [1 5 1], [1 1 1]] / 13, or away from it; the border stays."""
    height, width, _ = image.shape
    shifted = [image[i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3)]
    smooth = image.at[1:-1, 1:-1].set((sum(shifted) + 4 * image[1:-1, 1:-1]) / 13)
    return blend(smooth, image, strength)


def blend(origin: Float[Array, "..."], image: Image, strength: Number) -> Image:
    """Scales the image's distance from `origin` by 0.1 (strength -1) to 1.9 (strength 1)."""
    return jnp.clip(origin + (1 + 0.9 * strength) * (image - origin), 0, 255)


def grey(image: Image) -> Float[Array, "height width"]:
    """Returns the luma (ITU-R 601) of red, green and blue, or the mean of other channels."""
    return image @ jnp.float32([0.299, 0.587, 0.114]) if image.shape[-1] == 3 else image.mean(-1)


COLOUR: tuple[Callable[[Image, Number], Image], ...] = (
    lambda image, _: image,
    lambda image, _: auto_contrast(image),
    lambda image, _: equalize(image),
    solarize,
    posterize,
    colour,
    contrast,
    brightness,
    sharpness,
)
