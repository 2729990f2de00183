"""Random changes of training images, as pure functions of a key, run on the device inside the training step.

Each function changes one image [height width channels] with pixels from 0 to 255; `Augmentation` chooses among
them, maps them over a batch with one key an example, and mixes the batch. Example i draws from `fold_in(key, i)`: its
change depends neither on the other examples nor on their number, until mixup joins two of them.
"""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Num

from research.core.errors import UserError
from research.core.ranges import Range
from research.data.vision.rand_augment import rand_augment

Image = Float[Array, "height width channels"]

Pixels = Annotated[int, Range(0, 8192)]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Which changes to make, in this order; by default none."""

    crop: Pixels = 0
    """pixels of black padding on each side, from which an image of the old size is cut (He et al. 2015)"""
    flip: bool = False
    """mirror half of the images left to right"""
    random_layers: Annotated[int, Range(0, 100)] = 0
    """RandAugment: how many random operations, one after another (Cubuk et al. 2020)"""
    random_magnitude: Annotated[int, Range(0, 30)] = 9
    """RandAugment: how strong, from 0 to 30"""
    cutout: Pixels = 0
    """side of the square that is painted over with the image's mean (DeVries & Taylor 2017)"""
    mixup: Annotated[float, Range(0, 1000)] = 0.0
    """alpha of the Beta distribution that images and labels are mixed by (Zhang et al. 2018); 0: not"""

    def apply(
        self, key: Key[Array, ""], images: Num[Array, "batch *image"], labels: Float[Array, "batch classes"]
    ) -> tuple[Num[Array, "batch *image"], Float[Array, "batch classes"]]:
        """Returns changed images, in float32 where anything changes, and soft labels.

        Raises:
            UserError: crop, flip, RandAugment or cutout of examples that are not images.
        """
        single, mixing = jax.random.split(key)
        if self.crop or self.flip or self.random_layers or self.cutout:
            if images.ndim != 4:
                raise UserError(
                    "Crop, flip, RandAugment and cutout change images [height width channels], found examples of "
                    f"shape {images.shape[1:]}: set the fields of the augmentation to 0, except mixup."
                )
            keys = jax.vmap(lambda index: jax.random.fold_in(single, index))(jnp.arange(images.shape[0]))
            images = jax.vmap(self._change)(keys, images.astype(jnp.float32))
        if self.mixup:
            images, labels = mixup(mixing, images.astype(jnp.float32), labels, self.mixup)
        return images, labels

    def _change(self, key: Key[Array, ""], image: Image) -> Image:
        crop_key, flip_key, random_key, cutout_key = jax.random.split(key, 4)
        if self.crop:
            image = random_crop(crop_key, image, self.crop)
        if self.flip:
            image = jnp.where(jax.random.bernoulli(flip_key), flip(image), image)
        if self.random_layers:
            image = rand_augment(random_key, image, self.random_layers, self.random_magnitude)
        if self.cutout:
            image = cutout(cutout_key, image, self.cutout)
        return image


def random_crop(key: Key[Array, ""], image: Image, padding: int) -> Image:
    """Cuts the image's own size from the image padded by `padding` black pixels on each side."""
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    row, column = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    return jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)


def flip(image: Image) -> Image:
    """Mirrors the image left to right."""
    return image[:, ::-1]


def cutout(key: Key[Array, ""], image: Image, size: int) -> Image:
    """Paints a square of side `size` with the image's mean colour; its centre is any pixel, so it may be cut off."""
    row, column = jax.random.randint(key, (2,), 0, jnp.asarray(image.shape[:2]))
    rows = jnp.arange(image.shape[0]) - (row - size // 2)
    columns = jnp.arange(image.shape[1]) - (column - size // 2)
    inside = ((rows >= 0) & (rows < size))[:, None] & ((columns >= 0) & (columns < size))
    return jnp.where(inside[:, :, None], image.mean((0, 1)), image)


def mixup(
    key: Key[Array, ""], images: Float[Array, "batch *image"], labels: Float[Array, "batch classes"], alpha: float
) -> tuple[Float[Array, "batch *image"], Float[Array, "batch classes"]]:
    """Mixes each example with the next of its batch by a fraction drawn from Beta(alpha, alpha) for each."""
    fraction = jax.random.beta(key, alpha, alpha, (images.shape[0],))

    def mix(x: Float[Array, "batch *rest"]) -> Float[Array, "batch *rest"]:
        weight = fraction.reshape(-1, *(1,) * (x.ndim - 1))
        return weight * x + (1 - weight) * jnp.roll(x, -1, axis=0)

    return mix(images), mix(labels)
