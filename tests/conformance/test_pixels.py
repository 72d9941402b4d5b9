"""The image nodes compute what ComfyUI's do.

Each case is a small graph; `pixels/` holds what a real ComfyUI 0.3.75 made of it. A pixel may
differ by one step of 255: sums are in another order, and PNGs cut fractions off.
"""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import aiohttp
import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from jupyter_comfy_lock.embedded import EmbeddedComfy

PIXELS = Path(__file__).parent / "pixels"
A, B, MASK = ["a", 0], ["b", 0], ["b", 1]
METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
MODES = ("normal", "multiply", "screen", "overlay", "soft_light", "difference")
DITHERS = ("none", "floyd-steinberg", "bayer-2", "bayer-4", "bayer-16")


def one(class_type: str, **inputs):
    return {"x": {"class_type": class_type, "inputs": inputs}}


def scaled(method: str, width: int, height: int, crop: str):
    size = {"width": width, "height": height}
    return one("ImageScale", image=A, upscale_method=method, crop=crop, **size)


def composed(x: int, y: int, **inputs):
    return one("ImageCompositeMasked", destination=A, source=B, x=x, y=y, **inputs)


CASES = {
    "empty": one("EmptyImage", width=9, height=5, batch_size=1, color=0x12AB7F),
    "invert": one("ImageInvert", image=A),
    "crop": one("ImageCrop", image=A, width=12, height=50, x=20, y=9),
    "crop-outside": one("ImageCrop", image=A, width=5, height=5, x=900, y=900),
    "blur-1": one("ImageBlur", image=A, blur_radius=1, sigma=1.0),
    "blur-5": one("ImageBlur", image=A, blur_radius=5, sigma=0.4),
    "sharpen-1": one("ImageSharpen", image=A, sharpen_radius=1, sigma=1.0, alpha=1.0),
    "sharpen-3": one("ImageSharpen", image=A, sharpen_radius=3, sigma=0.5, alpha=0.2),
    "batch": one("ImageBatch", image1=A, image2=B),
    "compose": composed(5, 3, resize_source=False),
    "compose-resized": composed(0, 0, resize_source=True, mask=MASK),
    "compose-masked": composed(25, 17, resize_source=False, mask=MASK),
    "compose-solid": {
        "m": {"class_type": "SolidMask", "inputs": {"value": 0.3, "width": 7, "height": 7}},
        **composed(2, 2, resize_source=False, mask=["m", 0]),
    },
    "scale-keep-aspect": scaled("bilinear", 0, 14, "disabled"),
    "scale-by": one("ImageScaleBy", image=A, upscale_method="bicubic", scale_by=1.37),
    **{f"scale-up-{m}": scaled(m, 71, 45, "disabled") for m in METHODS},
    **{f"scale-down-{m}": scaled(m, 17, 11, "disabled") for m in METHODS},
    **{f"scale-crop-{m}": scaled(m, 30, 30, "center") for m in METHODS},
    **{
        f"blend-{m}": one("ImageBlend", image1=A, image2=B, blend_factor=0.7, blend_mode=m)
        for m in MODES
    },
    **{f"quantize-{d}": one("ImageQuantize", image=A, colors=12, dither=d) for d in DITHERS},
}


@pytest_asyncio.fixture
async def url(lasting_url):
    if lasting_url:
        yield lasting_url
        return
    async with EmbeddedComfy("pixels") as comfy:
        yield comfy.url


def source(width: int, height: int, seed: int, mode: str) -> bytes:
    """Return a PNG with gradients, hard edges and some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = [x * 255 // width, y * 255 // height, (x // 5 + y // 4) % 2 * 200, (x + y) * 3 % 256]
    pixels = np.stack(planes[: len(mode)], -1) + rng.integers(-20, 20, (height, width, 1))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), mode).save(buffer, "PNG")
    return buffer.getvalue()


async def upload(session, url: str, name: str, content: bytes) -> None:
    form = aiohttp.FormData({"overwrite": "true"})
    form.add_field("image", content, filename=name)
    async with session.post(f"{url}/upload/image", data=form) as response:
        assert response.status == 200


async def pictures(session, url: str, graph) -> list[np.ndarray]:
    """Run a graph whose result is node "x" and return the pictures it makes."""
    await upload(session, url, "pixels-a.png", source(40, 28, 1, "RGB"))
    await upload(session, url, "pixels-b.png", source(33, 31, 2, "RGBA"))
    prompt = {
        "a": {"class_type": "LoadImage", "inputs": {"image": "pixels-a.png"}},
        "b": {"class_type": "LoadImage", "inputs": {"image": "pixels-b.png"}},
        **graph,
        "out": {"class_type": "PreviewImage", "inputs": {"images": ["x", 0]}},
    }
    async with session.post(f"{url}/prompt", json={"prompt": prompt}) as response:
        answer = await response.json()
    assert answer.get("node_errors") == {}, answer
    files = await finished_files(session, url, answer["prompt_id"])
    found = []
    for file in files:
        async with session.get(f"{url}/view", params=file) as response:
            found.append(np.asarray(Image.open(io.BytesIO(await response.read()))))
    return found


async def finished_files(session, url: str, prompt_id: str) -> list[dict[str, str]]:
    async with asyncio.timeout(30):
        while True:
            async with session.get(f"{url}/history/{prompt_id}") as response:
                entry = (await response.json()).get(prompt_id)
            if entry:
                assert entry["status"]["status_str"] == "success", entry["status"]
                return entry["outputs"]["out"]["images"]
            await asyncio.sleep(0.01)  # there is no event without a socket


@pytest.mark.asyncio
@pytest.mark.parametrize("name", CASES)
async def test_a_node_makes_comfyuis_pixels(name, url):
    async with aiohttp.ClientSession() as session:
        made = await pictures(session, url, CASES[name])
    expected = sorted(PIXELS.glob(f"{name}.*.png"))
    assert len(made) == len(expected)
    for picture, path in zip(made, expected, strict=True):
        recorded = np.asarray(Image.open(path)).astype(int)
        assert picture.shape == recorded.shape
        assert np.abs(picture - recorded).max() <= 1
