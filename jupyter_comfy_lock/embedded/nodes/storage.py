"""Nodes that read and write picture files."""

from __future__ import annotations

import hashlib
import json
import secrets
import string
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence
from PIL.PngImagePlugin import PngInfo

from jupyter_comfy_lock.embedded.files import Folders
from jupyter_comfy_lock.embedded.nodes.resize import to_picture
from jupyter_comfy_lock.embedded.nodes.spec import (
    Check,
    ImageBatch,
    Input,
    NodeContext,
    NodeResult,
    NodeSpec,
)

_SAVE_COMPRESSION = 4
_PREVIEW_COMPRESSION = 1


def load_image(context: NodeContext, image: str) -> NodeResult:
    """Read a file of the input folder; the mask is what is transparent."""
    path = context.folders.input_file(image)
    if path is None:
        raise FileNotFoundError(image)
    pictures: list[NDArray[np.float32]] = []
    masks: list[NDArray[np.float32]] = []
    with Image.open(path) as opened:
        for frame in ImageSequence.Iterator(opened):
            turned = ImageOps.exif_transpose(frame)
            picture = np.asarray(turned.convert("RGB")).astype(np.float32) / np.float32(255)
            if pictures and picture.shape != pictures[0].shape:
                continue
            pictures.append(picture)
            masks.append(_transparency(turned))
    return NodeResult((np.stack(pictures), np.stack(masks)))


def _transparency(picture: Image.Image) -> NDArray[np.float32]:
    if "A" not in picture.getbands():
        return np.zeros((64, 64), np.float32)
    return 1 - np.asarray(picture.getchannel("A")).astype(np.float32) / np.float32(255)


def _loaded_file_hash(folders: Folders, values: Mapping[str, Any]) -> str:
    path = folders.input_file(values["image"])
    if path is None:
        raise FileNotFoundError(values["image"])
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _missing_file(folders: Folders, values: Mapping[str, Any]) -> str | None:
    name = values["image"]
    if isinstance(name, str) and folders.input_file(name):
        return None
    return f"Invalid image file: {name}"


def save_image(context: NodeContext, images: ImageBatch, filename_prefix: str) -> NodeResult:
    """Write PNG files to the output folder."""
    files = _write(context, images, (filename_prefix, "output"), _SAVE_COMPRESSION)
    return NodeResult((images,), ui={"images": files})


def preview_image(context: NodeContext, images: ImageBatch) -> NodeResult:
    """Write PNG files to the temp folder."""
    if "prefix" not in context.memory:
        tail = "".join(secrets.choice(string.ascii_lowercase) for _ in range(5))
        context.memory["prefix"] = f"ComfyUI_temp_{tail}"
    files = _write(context, images, (context.memory["prefix"], "temp"), _PREVIEW_COMPRESSION)
    return NodeResult((images,), ui={"images": files})


def save_image_websocket(context: NodeContext, images: ImageBatch) -> NodeResult:
    """Send the pictures to the client and keep nothing."""
    for index, image in enumerate(images):
        context.show_picture(index, len(images), to_picture(image))
    return NodeResult()


def _write(
    context: NodeContext, images: ImageBatch, where: tuple[str, str], compression: int
) -> list[dict[str, str]]:
    prefix, kind = where
    height, width = images.shape[1:3]
    target = context.folders.save_target(prefix, kind, width, height)
    info = _metadata(context)
    files = []
    for index, image in enumerate(images):
        name = target.filename(index)
        context.folders.check_room()
        to_picture(image).save(target.folder / name, pnginfo=info, compress_level=compression)
        files.append({"filename": name, "subfolder": target.subfolder, "type": kind})
    return files


def _metadata(context: NodeContext) -> PngInfo:
    """Keep the prompt, and what the client gave along, as text in the file."""
    info = PngInfo()
    info.add_text("prompt", json.dumps(context.prompt))
    for key, value in (context.extra_pnginfo or {}).items():
        info.add_text(key, json.dumps(value))
    return info


_HIDDEN = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}
_PREFIX_TIP = (
    "The prefix for the file to save; %width%, %height%, %year%, %month%, %day%, %hour%, "
    "%minute%, %second% and %batch_num% are replaced by their values."
)

NODES = (
    NodeSpec(
        "LoadImage",
        load_image,
        inputs=(Input("image", "COMBO", {"image_upload": True}, choices=Folders.input_pictures),),
        outputs=("IMAGE", "MASK"),
        display_name="Load Image",
        check=Check(inputs=("image",), complaint=_missing_file),
        fingerprint=_loaded_file_hash,
        about={"essentials_category": "Basics"},
    ),
    NodeSpec(
        "SaveImage",
        save_image,
        inputs=(
            Input("images", "IMAGE", {"tooltip": "What to save."}),
            Input("filename_prefix", "STRING", {"default": "ComfyUI", "tooltip": _PREFIX_TIP}),
        ),
        outputs=("IMAGE",),
        output_names=("images",),
        output_node=True,
        display_name="Save Image",
        description="Saves the images to the output folder.",
        hidden=_HIDDEN,
        about={"essentials_category": "Basics"},
    ),
    NodeSpec(
        "PreviewImage",
        preview_image,
        inputs=(Input("images", "IMAGE"),),
        outputs=("IMAGE",),
        output_names=("images",),
        output_node=True,
        display_name="Preview Image",
        description="Shows the images without keeping them in the output folder.",
        hidden=_HIDDEN,
        about={"essentials_category": "Basics"},
    ),
    NodeSpec(
        "SaveImageWebsocket",
        save_image_websocket,
        inputs=(Input("images", "IMAGE"),),
        output_node=True,
        category="api/image",
        python_module="custom_nodes.websocket_image_save",
    ),
)
