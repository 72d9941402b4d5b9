"""Nodes that make and change pictures."""

from __future__ import annotations

import numpy as np

from jupyter_comfy_lock.embedded.nodes.resize import METHODS, resize
from jupyter_comfy_lock.embedded.nodes.spec import (
    MAX_RESOLUTION,
    ImageBatch,
    Input,
    MaskBatch,
    NodeContext,
    NodeResult,
    NodeSpec,
)


def _size(name: str, lowest: int) -> Input:
    return Input(name, "INT", {"default": 512, "min": lowest, "max": MAX_RESOLUTION, "step": 1})


def _offset(name: str) -> Input:
    return Input(name, "INT", {"default": 0, "min": 0, "max": MAX_RESOLUTION, "step": 1})


def empty_image(
    context: NodeContext,
    width: int,
    height: int,
    batch_size: int,
    color: int,
) -> NodeResult:
    """Make pictures of one colour, 0xRRGGBB."""
    rgb = [(color >> shift & 0xFF) / 0xFF for shift in (16, 8, 0)]
    images = np.broadcast_to(np.asarray(rgb, np.float32), (batch_size, height, width, 3))
    return NodeResult((images.copy(),))


def image_scale(
    context: NodeContext,
    image: ImageBatch,
    upscale_method: str,
    width: int,
    height: int,
    crop: str,
) -> NodeResult:
    """Resize; a width or height of 0 keeps the aspect, both 0 the picture."""
    old_height, old_width = image.shape[1:3]
    if width == height == 0:
        return NodeResult((image,))
    width = width or max(1, round(old_width * height / old_height))
    height = height or max(1, round(old_height * width / old_width))
    return NodeResult((resize(image, width, height, upscale_method, crop=crop == "center"),))


def image_scale_by(
    context: NodeContext,
    image: ImageBatch,
    upscale_method: str,
    scale_by: float,
) -> NodeResult:
    """Resize by a factor."""
    height, width = (round(x * scale_by) for x in image.shape[1:3])
    return NodeResult((resize(image, width, height, upscale_method),))


def image_invert(context: NodeContext, image: ImageBatch) -> NodeResult:
    """Turn black to white."""
    return NodeResult((1.0 - image,))


def image_crop(
    context: NodeContext,
    image: ImageBatch,
    width: int,
    height: int,
    x: int,
    y: int,
) -> NodeResult:
    """Cut a piece out; what lies outside the picture is missing from the piece."""
    left, top = min(x, image.shape[2] - 1), min(y, image.shape[1] - 1)
    return NodeResult((image[:, top : top + height, left : left + width],))


def image_batch(
    context: NodeContext,
    image1: ImageBatch,
    image2: ImageBatch,
) -> NodeResult:
    """Put two batches together; the second is made as large as the first."""
    if image1.shape[1:3] != image2.shape[1:3]:
        height, width = image1.shape[1:3]
        image2 = resize(image2, width, height, "bilinear", crop=True)
    return NodeResult((np.concatenate([image1, image2]),))


def solid_mask(
    context: NodeContext,
    value: float,
    width: int,
    height: int,
) -> NodeResult:
    """Make a mask of one value."""
    return NodeResult((np.full((1, height, width), value, np.float32),))


def image_composite_masked(
    context: NodeContext,
    destination: ImageBatch,
    source: ImageBatch,
    x: int,
    y: int,
    resize_source: bool,
    mask: MaskBatch | None = None,
) -> NodeResult:
    """Lay `source` over `destination` at x, y; where the mask is 0 it does not show."""
    count, height, width = destination.shape[:3]
    if resize_source:
        source = resize(source, width, height, "bilinear")
    source = _repeated(source, count)
    if mask is None:
        opacity = np.ones((1, 1, 1, 1), np.float32)
    else:
        opacity = resize(mask[..., None], source.shape[2], source.shape[1], "bilinear")
        opacity = _repeated(opacity, count)
    result = destination.copy()
    under = result[:, y : y + source.shape[1], x : x + source.shape[2]]
    over = source[:, : under.shape[1], : under.shape[2]]
    opacity = opacity[:, : under.shape[1], : under.shape[2]]
    under[...] = over * opacity + under * (1 - opacity)
    return NodeResult((result,))


def _repeated(images: ImageBatch, count: int) -> ImageBatch:
    """Return `count` images: the first ones, starting over when there are too few."""
    return images[np.arange(count) % len(images)]


_POST = "comfy_extras.nodes_images"
_MASK = "comfy_extras.nodes_mask"
_METHOD = Input("upscale_method", "COMBO", choices=METHODS)

NODES = (
    NodeSpec(
        "EmptyImage",
        empty_image,
        inputs=(
            _size("width", 1),
            _size("height", 1),
            Input("batch_size", "INT", {"default": 1, "min": 1, "max": 4096}),
            Input(
                "color",
                "INT",
                {"default": 0, "min": 0, "max": 0xFFFFFF, "step": 1, "display": "color"},
            ),
        ),
        outputs=("IMAGE",),
        display_name="Empty Image",
    ),
    NodeSpec(
        "ImageScale",
        image_scale,
        inputs=(
            Input("image", "IMAGE"),
            _METHOD,
            _size("width", 0),
            _size("height", 0),
            Input("crop", "COMBO", choices=("disabled", "center")),
        ),
        outputs=("IMAGE",),
        display_name="Upscale Image",
        category="image/upscaling",
        about={"essentials_category": "Image Tools"},
    ),
    NodeSpec(
        "ImageScaleBy",
        image_scale_by,
        inputs=(
            Input("image", "IMAGE"),
            _METHOD,
            Input("scale_by", "FLOAT", {"default": 1.0, "min": 0.01, "max": 8.0, "step": 0.01}),
        ),
        outputs=("IMAGE",),
        display_name="Upscale Image By",
        category="image/upscaling",
        about={"essentials_category": "Image Tools"},
    ),
    NodeSpec(
        "ImageInvert",
        image_invert,
        inputs=(Input("image", "IMAGE"),),
        outputs=("IMAGE",),
        display_name="Invert Image Colors",
        category="image/color",
        about={"essentials_category": "Image Tools"},
    ),
    NodeSpec(
        "ImageCrop",
        image_crop,
        inputs=(
            Input("image", "IMAGE"),
            _size("width", 1),
            _size("height", 1),
            _offset("x"),
            _offset("y"),
        ),
        outputs=("IMAGE",),
        display_name="Crop Image (DEPRECATED)",
        category="image/transform",
        python_module=_POST,
        style=3,
        about={"deprecated": True, "essentials_category": "Image Tools"},
    ),
    NodeSpec(
        "ImageBatch",
        image_batch,
        inputs=(Input("image1", "IMAGE"), Input("image2", "IMAGE")),
        outputs=("IMAGE",),
        display_name="Batch Images (DEPRECATED)",
        category="image/batch",
        about={"deprecated": True},
    ),
    NodeSpec(
        "SolidMask",
        solid_mask,
        inputs=(
            Input("value", "FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}),
            _size("width", 1),
            _size("height", 1),
        ),
        outputs=("MASK",),
        display_name="Create Solid Mask",
        category="image/mask",
        python_module=_MASK,
        style=3,
    ),
    NodeSpec(
        "ImageCompositeMasked",
        image_composite_masked,
        inputs=(
            Input("destination", "IMAGE"),
            Input("source", "IMAGE"),
            _offset("x"),
            _offset("y"),
            Input("resize_source", "BOOLEAN", {"default": False}),
            Input("mask", "MASK", required=False),
        ),
        outputs=("IMAGE",),
        display_name="Image Composite Masked",
        category="image/compositing",
        python_module=_MASK,
        style=3,
    ),
)
