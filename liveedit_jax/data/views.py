"""Another view of a picture: mirrored, cropped and brighter.

The view is a function of a key, so that every machine makes the same one. As probes of image
generality, views test whether an edit is also found on a picture that no training has paired with
the edited one.
"""

from __future__ import annotations

import io

from PIL import Image, ImageEnhance, ImageOps

from liveedit_jax.data.decoding import open_picture
from liveedit_jax.data.facts import digest

CROP_RANGE = (0.80, 0.92)  # share of each side that is left after the crop
LIGHT_RANGE = (1.10, 1.25)  # factor of brightness
PLAIN_MODES = ("L", "LA", "RGB", "RGBA")  # modes that need no conversion


def _hashed_uniform(low: float, high: float, *key: object) -> float:
    """Return a number between `low` and `high`, uniform over keys and fixed for each."""
    return low + (high - low) * digest("view", *key) / 2**64


def _to_plain_mode(picture: Image.Image) -> Image.Image:
    """Convert a picture to 8 bits a channel, without a palette."""
    if picture.mode in PLAIN_MODES:
        return picture
    if picture.mode == "1":
        return picture.convert("L")
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def crop_and_brighten(
    picture: Image.Image, box: tuple[float, float, float, float], light: float
) -> Image.Image:
    """Resize a box of a picture to the picture's size and multiply its colours by `light`.

    Args:
        picture: in a mode of 8 bits a channel.
        box: left, top, right and bottom edge in pixels.
        light: 1 leaves colours as they are; products are cut to integers, at most 255.
    """
    view = picture.resize(picture.size, Image.Resampling.BICUBIC, box)
    return ImageEnhance.Brightness(view).enhance(light)


def view_of(picture: Image.Image, *key: object) -> Image.Image:
    """Make another view of a picture, of the same size; transparency is kept.

    The view is mirrored, cropped to 80 to 92 % of each side and 10 to 25 % brighter. Pictures that
    this does not change, such as black or white ones, are blended with grey instead.

    Args:
        picture: in any mode.
        key: determines the view.
    """
    picture = _to_plain_mode(picture)
    width, height = picture.size
    kept = _hashed_uniform(*CROP_RANGE, *key, "kept")
    left = _hashed_uniform(0.0, (1 - kept) * width, *key, "left")
    top = _hashed_uniform(0.0, (1 - kept) * height, *key, "top")
    box = (left, top, left + kept * width, top + kept * height)
    light = _hashed_uniform(*LIGHT_RANGE, *key, "light")
    view = crop_and_brighten(ImageOps.mirror(picture), box, light)
    return view if view.tobytes() != picture.tobytes() else _blend_grey(view, light - 1)


def _blend_grey(picture: Image.Image, share: float) -> Image.Image:
    """Blend a picture's colours with this share of grey."""
    grey = Image.new("L", picture.size, 128).convert(picture.mode)
    if "A" in picture.getbands():
        grey.putalpha(picture.getchannel("A"))
    return Image.blend(picture, grey, share)


def another_view(picture: bytes, *key: object) -> bytes:
    """Make another view (`view_of`) of encoded image bytes, as PNG bytes.

    Raises:
        ValueError: the bytes are not a complete image.
    """
    out = io.BytesIO()
    view_of(open_picture(picture), *key).save(out, format="PNG")
    return out.getvalue()
