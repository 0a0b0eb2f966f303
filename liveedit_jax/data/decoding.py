"""The border for pictures: what users hand in becomes an upright image of 8 bits a channel.

Every picture from outside passes here. Its pixels are counted before they are decoded, and
whatever a decoder raises becomes a ValueError that names the picture.
"""

from __future__ import annotations

import io
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from liveedit_jax.data.files import first_line, read_file

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
FILE_MOST = 2**28  # bytes of a picture's file
EDGE_MOST = 2**16  # pixels along an edge: resizing needs 32 bytes for each
PIXELS_MOST = 2**26  # pixels in memory at once: with every decoder less than 1.2 GB
SHARES = {"JPEG": 2, "MPO": 2, "JPEG2000": 1 / 4}  # of it: decoded smaller; needs more for each
LARGE = 2**23  # pixels of a picture that threads decode one at a time, to bound their memory
OVERSAMPLING = 2  # a large JPEG is decoded to at least so many times the pixels needed
ADVICE = "use a PNG or JPEG"

FLOAT_SCALES = (1, 255, 2**16 - 1)  # what white may be in a picture of floats
WHOLE_SCALES = (255, 2**16 - 1, 2**31 - 1, 2**32 - 1)  # and in one of 32-bit whole numbers
DARKEST = 1 / 8  # of white: a picture of a wider scale whose brightest pixel is below it is refused

_ORIENTATION, _TILE_WIDTH, _TILE_LENGTH, _SAMPLE_FORMAT = 274, 322, 323, 339  # EXIF and TIFF tags
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_decoding_alone = threading.Lock()


class _Refusal(Exception):
    """Carries the rest of a sentence that begins with a picture's name and says what is wrong."""


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into a ValueError that names the picture."""
    try:
        yield
    except _Refusal as refusal:
        raise ValueError(f"{name} {refusal}") from None
    except MemoryError as error:
        raise ValueError(f"{name} needs more memory than there is; shrink it first") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} is too large ({error}); shrink it first") from error
    except Exception as error:  # a decoder may raise anything at all
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "unknown format" if unknown else first_line(error)
        raise ValueError(f"{name} is not a readable image ({reason}); {ADVICE}") from error


def read_bytes(file: str | Path) -> bytes:
    """Read an image file's bytes, undecoded.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is larger than FILE_MOST.
    """
    return read_file(file, FILE_MOST, "image file")


def check_header(data: bytes, name: str = "image") -> None:
    """Refuse bytes that do not begin as a picture, or as a too large one; nothing is decoded.

    Raises:
        ValueError: no picture, or more pixels than can be decoded.
    """
    with _refusing(name):
        _open_header(data).close()


def open_picture(
    data: bytes, name: str = "image", short: int | None = None, exact: bool = False
) -> Image.Image:
    """Decode image bytes: the first frame, upright, as RGB or (with transparent parts) RGBA.

    Metadata that is damaged is left out of account: such a picture is taken as it is stored.

    Args:
        data: the encoded bytes, of one of FORMATS.
        name: what an error calls them.
        short: pixels needed along the shorter edge; a JPEG of more than OVERSAMPLING times as many
            may come back smaller (None: never).
        exact: reduce only where the proportions stay exactly the same.

    Raises:
        ValueError: the bytes are not a complete image, have more than PIXELS_MOST pixels, or
            brightness on no known scale.
    """
    with _refusing(name):
        picture = _open_header(data)
        if short is not None:
            _decode_smaller(picture, short, exact)
        return _load(picture)


def encode_picture(picture: Image.Image | np.ndarray, name: str = "the picture") -> bytes:
    """Encode a picture in memory as PNG bytes, after the same checks as `open_picture`.

    Args:
        picture: a PIL image, or uint8[H, W, 3], [H, W, 4] or [H, W].
        name: what an error calls it.

    Raises:
        ValueError: an array of another dtype or shape, or a picture as in `open_picture`.
    """
    if isinstance(picture, np.ndarray):
        shape = picture.shape
        fits = len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
        if picture.dtype != np.uint8 or not fits:
            raise ValueError(
                f"{name} is an array {picture.dtype}{list(shape)}: give uint8[H, W, 3], [H, W, 4] "
                "or [H, W] with values from 0 to 255"
            )
        with _refusing(name):
            _check_size((shape[1], shape[0]), PIXELS_MOST)
            picture = Image.fromarray(np.ascontiguousarray(picture))
    out = io.BytesIO()
    with _refusing(name):
        plain = _load(picture).copy()
        plain.info = {}  # the same pixels are the same bytes, whatever is noted beside them
        plain.save(out, "PNG")
    return out.getvalue()


def _check_length(data: bytes) -> None:
    if len(data) > FILE_MOST:
        raise _Refusal(f"is too large: more than {FILE_MOST >> 20} MiB; shrink it first")


def _check_size(size: tuple[int, int], most: int) -> None:
    """Refuse a picture by its width and height."""
    shown = f"{size[0]:,} x {size[1]:,} pixels"
    if min(size) < 1:
        raise _Refusal(f"is not a readable image ({shown}); {ADVICE}")
    if max(size) > EDGE_MOST:
        raise _Refusal(
            f"is too large: {shown}, an edge may have {EDGE_MOST:,}; shrink or crop it first"
        )
    if math.prod(size) > most:
        raise _Refusal(f"is too large: {shown}, {most:,} can be decoded; shrink it first")


def _open_header(data: bytes) -> Image.Image:
    """Open encoded bytes, and refuse what would take too much memory to decode."""
    if not data:
        raise _Refusal(f"is not a readable image (it is empty); {ADVICE}")
    _check_length(data)
    picture = Image.open(io.BytesIO(data), formats=FORMATS)
    _check_size(picture.size, int(PIXELS_MOST * SHARES.get(str(picture.format), 1)))
    if isinstance(picture, TiffImageFile):  # a tile may be larger than the picture
        tile = [picture.tag_v2.get(tag, 1) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
        if not all(isinstance(n, int) for n in tile) or math.prod(tile) > PIXELS_MOST:
            raise _Refusal(f"is not a readable image (tiles of {tile[0]} x {tile[1]}); {ADVICE}")
    return picture


def _decode_smaller(picture: Image.Image, short: int, exact: bool) -> None:
    """Have an unread JPEG decoded at 1/8, 1/4 or 1/2 of its size where enough pixels remain."""
    if not isinstance(picture, JpegImageFile):
        return
    for scale in (8, 4, 2):
        size = (picture.width // scale, picture.height // scale)
        whole = all(n % scale == 0 for n in picture.size)
        if min(size) >= OVERSAMPLING * short and (whole or not exact):
            picture.draft(None, size)
            return


def _load(picture: Image.Image) -> Image.Image:
    """Decode an opened picture, turn it upright and give it 8 bits a channel."""
    _check_size(picture.size, PIXELS_MOST)
    is_tiff = getattr(picture, "format", None) == "TIFF"
    alone = _decoding_alone if is_tiff or math.prod(picture.size) > LARGE else nullcontext()
    with alone, _without_stderr() if is_tiff else nullcontext():
        picture.load()
        _check_size(picture.size, PIXELS_MOST)  # few formats say it again, and otherwise
        return _upright(_to_eight_bits(picture), _turn_of(picture))


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Keep off standard error what libtiff itself writes there; only one thread may do this."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _turn_of(picture: Image.Image) -> Image.Transpose | None:
    """Find how a picture has to be turned; damaged metadata says nothing."""
    try:
        return _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    except Exception:
        return None


def _upright(picture: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    return picture if turn is None else picture.transpose(turn)


def _to_eight_bits(picture: Image.Image) -> Image.Image:
    """Convert any mode to RGB, or to RGBA where parts are transparent."""
    if picture.mode == "F" or picture.mode.startswith("I"):
        return Image.fromarray(_to_bytes(picture)).convert("RGB")
    mode = "RGBA" if picture.has_transparency_data else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


def _to_bytes(picture: Image.Image) -> np.ndarray:
    """Scale grey values of 16 or 32 bits to uint8[H, W]; Pillow would clip them."""
    values = np.asarray(picture)
    if picture.mode.startswith("I;16"):
        return (values // 257).astype(np.uint8)
    if picture.mode == "F":
        white = _white(values, FLOAT_SCALES)
        return np.rint(values * np.float32(255 / white)).astype(np.uint8)
    if picture.format in ("PNG", "PPM"):  # 16 bits by their own definition
        white = 2**16 - 1
    else:
        if getattr(picture, "tag_v2", {}).get(_SAMPLE_FORMAT) in (1, (1,)):
            values = values.view(np.uint32)  # Pillow reads unsigned numbers as signed ones
        white = _white(values, WHOLE_SCALES)
    return (values.clip(0, white) // (white // 255)).clip(0, 255).astype(np.uint8)


def _white(values: np.ndarray, scales: tuple[int, ...]) -> int:
    """Choose what value is white: the smallest of some scales that holds all values."""
    low, high = float(values.min()), float(values.max())  # a NaN makes both of them NaN
    white = next((scale for scale in scales if high <= scale), None)
    is_dark = white is not None and white > scales[0] and high < white * DARKEST
    if white is None or is_dark or not low >= 0:
        raise _Refusal(
            f"has grey values from {low:g} to {high:g}, which is no known scale; save it with 8 "
            "bits a channel"
        )
    return white
