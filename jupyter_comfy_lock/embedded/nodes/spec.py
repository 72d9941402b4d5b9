"""What a node is: its inputs, its outputs and the function that does the work.

This is our own interface, not ComfyUI's. A node is one `NodeSpec`; its `run` gets a
`NodeContext` and the input values by name, and returns a `NodeResult`:

    def brighten(context: NodeContext, image: ImageBatch, amount: float) -> NodeResult:
        return NodeResult((np.clip(image + amount, 0, 1),))

    BRIGHTEN = NodeSpec(
        "Brighten",
        brighten,
        inputs=(Input("image", "IMAGE"), Input("amount", "FLOAT", {"default": 0.1})),
        outputs=("IMAGE",),
    )

Values: IMAGE is a float32 array [batch, height, width, 3] in 0..1, MASK a float32 array
[batch, height, width] in 0..1, INT, FLOAT, STRING and BOOLEAN are Python values.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

    from jupyter_comfy_lock.embedded.files import Folders

ImageBatch: TypeAlias = NDArray[np.float32]
MaskBatch: TypeAlias = NDArray[np.float32]

#: ComfyUI's largest edge of a picture, in pixels.
MAX_RESOLUTION = 16384
MAX_SEED = 0xFFFFFFFFFFFFFFFF


class Interrupted(Exception):
    """Somebody asked for the running prompt to stop."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """A value that keeps every node that would use it from running.

    With a message, the first node that meets it reports it; without, silence.
    """

    message: str | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """Output `slot` of the node `node_id`."""

    node_id: str
    slot: int = 0


@dataclass(frozen=True, slots=True)
class NodeResult:
    """What a node made."""

    outputs: tuple[Any, ...] = ()
    #: Shown to the user and kept in the history, e.g. `{"images": [...]}`.
    ui: Mapping[str, Any] | None = None
    #: Nodes to run in place of this one; `outputs` may then hold `Link`s to them.
    expand: Mapping[str, dict[str, Any]] | None = None


class NodeContext(Protocol):
    """The running prompt, as one of its nodes sees it."""

    @property
    def node_id(self) -> str:
        """This node's id in the prompt."""
        ...

    @property
    def prompt(self) -> Mapping[str, Any]:
        """The prompt as it was sent, after validation."""
        ...

    @property
    def extra_pnginfo(self) -> Mapping[str, Any] | None:
        """What the client wants kept in picture files, e.g. the workflow."""
        ...

    @property
    def folders(self) -> Folders:
        """Where files go."""
        ...

    @property
    def memory(self) -> dict[str, Any]:
        """This node's own, kept while following prompts have a node of this id and class."""
        ...

    def progress(self, value: int, total: int, preview: Image.Image | None = None) -> None:
        """Say that `value` of `total` steps are done.

        Raises:
            Interrupted: somebody asked for the prompt to stop; let it through.
        """
        ...

    def show_picture(self, value: int, total: int, picture: Image.Image) -> None:
        """As `progress`, with a full-size PNG in place of a small JPEG."""
        ...

    def say(self, text: str) -> None:
        """Send a line of text to every client, as ComfyUI does."""
        ...

    def subgraph(self) -> Subgraph:
        """Return an empty graph for `NodeResult.expand`."""
        ...


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a node."""

    name: str
    #: "IMAGE", "INT", … or, for a choice, "COMBO".
    type: str
    #: ComfyUI's options: default, min, max, step, tooltip, …; None for none.
    options: Mapping[str, Any] | None = None
    choices: tuple[str, ...] | Callable[[Folders], list[str]] = ()
    required: bool = True

    def choices_now(self, folders: Folders) -> list[str]:
        """The values a choice may have at this moment."""
        return self.choices(folders) if callable(self.choices) else list(self.choices)


def _always_valid(folders: Folders, values: Mapping[str, Any]) -> str | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A rule of a node's own on its values, in place of range and list checks."""

    #: The inputs it looks at.
    inputs: tuple[str, ...]
    #: Returns what is wrong, or None.
    complaint: Callable[[Folders, Mapping[str, Any]], str | None] = _always_valid


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node class."""

    class_type: str
    run: Callable[..., NodeResult]
    inputs: tuple[Input, ...] = ()
    outputs: tuple[str, ...] = ()
    output_names: tuple[str, ...] | None = None
    #: Output nodes are why a prompt runs; a prompt without one is refused.
    output_node: bool = False
    display_name: str | None = None
    description: str = ""
    category: str = "image"
    python_module: str = "nodes"
    #: ComfyUI's hidden inputs as it lists them, e.g. `{"prompt": "PROMPT"}`.
    hidden: Mapping[str, str] = field(default_factory=dict)
    check: Check | None = None
    #: Returns what the result depends on beside the inputs, e.g. a file's hash.
    fingerprint: Callable[[Folders, Mapping[str, Any]], str] | None = None
    #: ComfyUI describes nodes in two styles, 1 and 3; clients must cope with both.
    style: int = 1
    #: Further keys of `object_info`.
    about: Mapping[str, Any] = field(default_factory=dict)

    def input(self, name: str) -> Input | None:
        """The input of that name, if there is one."""
        return next((x for x in self.inputs if x.name == name), None)

    def result_depends_on_id(self) -> bool:
        """Whether two equal nodes of different id may differ in result."""
        return "UNIQUE_ID" in self.hidden.values()


class Subgraph:
    """Collects the nodes that one node expands into, with ids as ComfyUI makes them."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._ids: Iterator[int] = itertools.count(1)
        self.nodes: dict[str, dict[str, Any]] = {}

    def add(self, class_type: str, **inputs: Any) -> Link:
        """Add a node; an input may be a `Link`. Returns its first output."""
        node_id = f"{self._prefix}{next(self._ids)}"
        wired = {k: [v.node_id, v.slot] if isinstance(v, Link) else v for k, v in inputs.items()}
        self.nodes[node_id] = {"class_type": class_type, "inputs": wired}
        return Link(node_id)


def input_config(item: Input, folders: Folders, style: int = 1) -> list[Any]:
    """Return ComfyUI's `[type, options]`; options are always there, even when empty."""
    options = dict(item.options or {})
    if item.type != "COMBO":
        return [item.type, options]
    choices = item.choices_now(folders)
    if style == 1:
        return [choices, options]
    return ["COMBO", {"multiselect": False, "options": choices, **options}]


def object_info(spec: NodeSpec, folders: Folders) -> dict[str, Any]:
    """Describe a node class as ComfyUI's `/object_info` does."""
    groups: dict[str, dict[str, Any]] = {}
    for item in spec.inputs:
        config = input_config(item, folders, spec.style)
        if spec.style == 1 and item.options is None:
            config = config[:1]
        groups.setdefault("required" if item.required else "optional", {})[item.name] = config
    if spec.style == 1:
        groups.setdefault("required", {})
    if spec.hidden:
        groups["hidden"] = dict(spec.hidden)
    info: dict[str, Any] = {
        "input": groups,
        "input_order": {group: list(items) for group, items in groups.items()},
        "is_input_list": False,
        "output": list(spec.outputs),
        "output_is_list": [False] * len(spec.outputs),
        "output_name": list(spec.output_names or spec.outputs),
        "name": spec.class_type,
        "display_name": spec.display_name or spec.class_type,
        "description": spec.description,
        "python_module": spec.python_module,
        "category": spec.category,
        "output_node": spec.output_node,
        "has_intermediate_output": False,
    }
    if spec.style == 1:
        info["search_aliases"] = []
    else:
        info |= {
            "output_tooltips": [None] * len(spec.outputs),
            "output_matchtypes": None,
            "deprecated": False,
            "experimental": False,
            "dev_only": False,
            "api_node": False,
            "price_badge": None,
            "search_aliases": None,
            "essentials_category": None,
        }
    return info | dict(spec.about)
