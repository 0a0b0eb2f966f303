"""Each model's picture against its original processor, on real drawings and on odd files."""

import io

import numpy as np
import pytest
from PIL import Image

from liveedit_jax.backbone_presets import BACKBONES
from liveedit_jax.data.facts import entities
from liveedit_jax.data.images import drawing_png, preprocess
from liveedit_jax.data.layout import tokens_n

PNGS = [
    drawing_png(entities()[i], source, 200) for i, source in ((3, "twemoji"), (900, "openmoji"))
]


def shaped(data: bytes, size) -> bytes:
    """A drawing stretched to `size` (width, height), as PNG."""
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").resize(size).save(out, "png")
    return out.getvalue()


PICTURES = [*PNGS, *(shaped(PNGS[0], size) for size in ((640, 427), (300, 800), (91, 40)))]


def processor(name):
    from transformers import models

    if name.startswith("llava-next"):
        return models.llava_next.image_processing_pil_llava_next.LlavaNextImageProcessorPil(
            size={"shortest_edge": 336},
            crop_size={"height": 336, "width": 336},
            image_grid_pinpoints=[[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
        )
    if name.startswith("llava"):
        return models.clip.image_processing_pil_clip.CLIPImageProcessorPil(
            size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
        )
    return models.blip.image_processing_pil_blip.BlipImageProcessorPil(
        size={"height": 224, "width": 224}
    )


@pytest.mark.parametrize(
    "name", ["llava-1.5-7b", "llava-next-7b", "blip2-opt-2.7b", "minigpt-4-vicuna-7b"]
)
def test_equals_the_original_processor(name):
    theirs = processor(name)
    for data in PICTURES:
        picture = Image.open(io.BytesIO(data))
        want = theirs(images=picture, return_tensors="np")
        ours = preprocess(BACKBONES[name], data)
        pixels = np.moveaxis(np.asarray(want["pixel_values"][0]), -3, -1)
        n = len(pixels) if pixels.ndim == 4 else None
        np.testing.assert_allclose(ours.pixels[:n], pixels, atol=2e-6)
        if n is not None:
            assert not ours.pixels[n:].any()


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_odd_files_give_pictures(name):
    cfg = BACKBONES[name]
    base = Image.open(io.BytesIO(PNGS[0])).convert("RGB").resize((60, 40))
    wide = Image.fromarray((np.arange(2400).reshape(40, 60) * 27).astype(np.uint16))
    odd = {
        "palette": (base.quantize(16), "png", {}),
        "cmyk": (base.convert("CMYK"), "jpeg", {}),
        "sixteen bits": (wide, "png", {}),
        "grey with alpha": (base.convert("LA"), "png", {}),
        "one bit": (base.convert("1"), "png", {}),
        "animated": (base, "gif", {"save_all": True, "append_images": [base.rotate(90)]}),
        "one pixel": (base.resize((1, 1)), "png", {}),
        "very wide": (base.resize((10_000, 10)), "png", {}),
    }
    for kind, (picture, form, options) in odd.items():
        out = io.BytesIO()
        picture.save(out, form, **options)
        found = preprocess(cfg, out.getvalue())
        assert found.pixels.shape == cfg.image_shape and np.isfinite(found.pixels).all(), kind
        if cfg.tiles:
            assert tokens_n(found.layout) >= cfg.vision_n  # of 1000:1 no line is left, as in theirs
    out = io.BytesIO()
    wide.save(out, "png")
    scaled = preprocess(cfg, out.getvalue()).pixels  # not clipped to white
    assert len(np.unique(scaled.round(2))) > 20


def test_a_picture_is_turned_upright():
    tall = Image.fromarray(np.repeat(np.arange(0, 240, 4, np.uint8)[:, None], 30, 1)).convert("RGB")
    out, plain = io.BytesIO(), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    tall.rotate(90, expand=True).save(out, "png", exif=exif)
    tall.save(plain, "png")
    cfg = BACKBONES["blip2-opt-2.7b"]
    turned, want = preprocess(cfg, out.getvalue()), preprocess(cfg, plain.getvalue())
    np.testing.assert_allclose(turned.pixels, want.pixels, atol=1e-5)


@pytest.mark.parametrize("data", [b"", b"not an image", PNGS[0][:100]])
def test_a_broken_file_is_named(data):
    with pytest.raises(ValueError, match="my.png is not a readable image"):
        preprocess(BACKBONES["llava-1.5-7b"], data, "my.png")
