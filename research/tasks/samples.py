"""What a task's `sample` returns for a person to look at: a text, images, or audio.

A notebook shows them as a picture or a player; the training loop writes them into the run directory by
`research/runs/sample_files.py`, and the report shows those files.
"""

import base64
import dataclasses
import html
import io
import wave
from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float32, UInt8
from PIL import Image

MAX_IMAGES = 16  # of a sample that are shown
MAX_SIDE = 1024  # pixels of a grid, which is scaled down to it
MAX_CLIPS = 4  # of a sample that are played
MAX_SECONDS = 10  # of a clip, which loses the rest

Text = str


@dataclasses.dataclass(frozen=True)
class Images:
    """Images of one size, at least one, with one channel (grey), three (red, green, blue) or four (and opacity).

    >>> squares = Images(np.zeros((4, 8, 8, 1), np.uint8), captions=("zero", "one", "two", "three"))
    >>> squares.png()[1:4]
    b'PNG'
    """

    pixels: UInt8[Array, "count height width channels"] | UInt8[np.ndarray, "count height width channels"]
    captions: tuple[str, ...] = ()
    """of each image, or none"""

    def png(self) -> bytes:
        """Returns the first MAX_IMAGES as one picture, in rows of about the same length as there are rows."""
        pixels = np.asarray(self.pixels[:MAX_IMAGES])
        count, height, width, channels = pixels.shape
        columns = int(np.ceil(np.sqrt(count)))
        rows = -(-count // columns)
        grid = np.zeros((rows * columns, height + 1, width + 1, channels), np.uint8)  # a line of one pixel in between
        grid[:count, :height, :width] = pixels
        grid = grid.reshape(rows, columns, height + 1, width + 1, channels).swapaxes(1, 2)
        grid = grid.reshape(rows * (height + 1), columns * (width + 1), channels)[:-1, :-1]
        picture = Image.fromarray(grid[..., 0] if channels == 1 else grid)
        picture.thumbnail((MAX_SIDE, MAX_SIDE))
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG", optimize=True)
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        return f'<img alt="samples" src="{data_uri("image/png", self.png())}">{_caption(self.captions[:MAX_IMAGES])}'


@dataclasses.dataclass(frozen=True)
class Audio:
    """Clips of one length and one channel, samples between -1 and 1.

    >>> tone = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000).astype(np.float32)
    >>> len(Audio(tone[None], rate=8000).wav()[0])  # a header of 44 bytes, and two bytes a sample
    16044
    """

    waves: Float32[Array, "count samples"] | Float32[np.ndarray, "count samples"]
    rate: int
    """samples per second"""
    captions: tuple[str, ...] = ()
    """of each clip, or none"""

    def wav(self) -> list[bytes]:
        """Returns the first MAX_CLIPS as WAV files of 16 bits; values beyond -1 and 1 are clipped, NaN is silence."""
        waves = np.asarray(self.waves[:MAX_CLIPS, : MAX_SECONDS * self.rate])
        return [_wav(clip, self.rate) for clip in np.nan_to_num(waves).clip(-1, 1)]

    def _repr_html_(self) -> str:
        captions = (*self.captions, *("",) * MAX_CLIPS)
        players = [
            f'<audio controls src="{data_uri("audio/wav", clip)}"></audio>{_caption([caption])}'
            for clip, caption in zip(self.wav(), captions, strict=False)
        ]
        return "<br>".join(players)


Sample = Text | Images | Audio


def data_uri(media_type: str, content: bytes) -> str:
    """Returns an address that holds the content itself."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _wav(clip: Float32[np.ndarray, " samples"], rate: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(clip * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def _caption(captions: Sequence[str]) -> str:
    return f"<p>{html.escape(', '.join(captions))}</p>" if any(captions) else ""
