"""What a ComfyServer's node classes take and give: its `/object_info`, as values.

Both layouts are read: V1 writes a list of choices where others write a type, V3 writes "COMBO"
and the choices among the options.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jupyter_comfy_lock.domain.comfy import items, mapping

COMBO = "COMBO"
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
AUTOGROW = "COMFY_AUTOGROW_V3"
MATCH_TYPE = "COMFY_MATCHTYPE_V3"
#: Takes any type.
ANY = "*"

#: The types that ComfyUI's editor shows as a field of the node.
WIDGET_TYPES = frozenset(
    {
        *("INT", "FLOAT", "BOOLEAN", "STRING", COMBO, DYNAMIC_COMBO),
        *("MARKDOWN", "TEXTAREA", "COLOR", "COLORS", "CURVE", "RANGE", "CHART", "GALLERIA"),
        *("BOUNDING_BOX", "BOUNDING_BOXES", "IMAGECOMPARE", "PAINTER", "COMPOSITOR", "VIDEO_EDIT"),
        *("RESOLUTION_PREVIEW", "IMAGEUPLOAD", "AUDIO_UI", "AUDIOUPLOAD", "AUDIO_RECORD"),
        *("WEBCAM", "LOAD_3D", "PREVIEW_3D"),
    }
)
#: What an input takes whose value is a file's name, by the option that says so.
_UPLOADS = {
    "image_upload": "image",
    "animated_image_upload": "image",
    "video_upload": "video",
    "audio_upload": "audio",
    "file_upload": "file",
}


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a node class."""

    name: str
    #: ComfyUI's name of the type; "COMBO" for a list of choices. May be several: "INT,FLOAT".
    type: str
    required: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    #: What may be chosen; None where it is no list, or one that only the editor asks for.
    choices: tuple[Any, ...] | None = None

    @property
    def default(self) -> Any:
        """The value that the editor gives a new node; None if it is to be linked."""
        if self.options.get("default") is not None:
            return self.options["default"]
        if self.type in (COMBO, DYNAMIC_COMBO):
            return self.choices[0] if self.choices else None
        if self.type == "IMAGECOMPARE":
            return ["", ""]
        return {"INT": 0, "FLOAT": 0, "BOOLEAN": False, "STRING": ""}.get(self.type)

    @property
    def is_widget(self) -> bool:
        """Whether it is a field of the node, which may be linked as well."""
        shown = self.options.get("widgetType") or self.type
        return shown in WIDGET_TYPES and not self.options.get("forceInput")

    @property
    def range(self) -> tuple[float | None, float | None]:
        """The least and the greatest number, None where there is no end."""
        return _number(self.options.get("min")), _number(self.options.get("max"))

    @property
    def upload(self) -> str | None:
        """What kind of file's name it takes ("image", "audio"…), None if none."""
        return next((kind for key, kind in _UPLOADS.items() if self.options.get(key)), None)

    @property
    def many(self) -> bool:
        """Whether several of the choices may be chosen at once."""
        return bool(self.options.get("multi_select") or self.options.get("multiselect"))

    def accepts(self, given: str) -> bool:
        """Whether a link that brings `given` may lead here."""
        mine = set(self.types)
        theirs = {each.strip() for each in given.split(",")}
        return ANY in mine or ANY in theirs or bool(mine & theirs)

    @property
    def types(self) -> tuple[str, ...]:
        """The types of links that it takes."""
        if self.type == MATCH_TYPE:
            allowed = mapping(self.options.get("template")).get("allowed_types")
            return tuple(str(allowed or ANY).split(","))
        return tuple(each.strip() for each in self.type.split(","))


@dataclass(frozen=True)
class NodeSpec:
    """One node class."""

    name: str
    display_name: str
    #: In the order in which the editor shows them.
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    output_names: tuple[str, ...]
    is_output: bool
    #: As told: required inputs first, each group in the order of its own listing.
    told: tuple[InputSpec, ...] = ()

    @cached_property
    def by_name(self) -> dict[str, InputSpec]:
        """The inputs by name."""
        return {each.name: each for each in self.inputs}


def node_specs(object_info: Mapping[str, Any]) -> dict[str, NodeSpec]:
    """Return the node classes of a ComfyServer by name. What cannot be read is left out."""
    return {
        str(name): node_spec(str(name), info)
        for name, info in object_info.items()
        if isinstance(info, Mapping)
    }


def node_spec(name: str, info: Mapping[str, Any]) -> NodeSpec:
    """Return one node class from its entry in `/object_info`."""
    groups = mapping(info.get("input"))
    told = tuple(
        input_spec(str(key), entry, required=group == "required")
        for group in ("required", "optional")
        for key, entry in mapping(groups.get(group)).items()
    )
    outputs = tuple(COMBO if isinstance(x, list) else str(x) for x in items(info.get("output")))
    names = tuple(str(each) for each in items(info.get("output_name")))
    return NodeSpec(
        name=name,
        display_name=str(info.get("display_name") or name),
        inputs=tuple(_ordered(told, mapping(info.get("input_order")))),
        outputs=outputs,
        output_names=names + outputs[len(names) :],
        is_output=bool(info.get("output_node")),
        told=told,
    )


def input_spec(name: str, entry: object, *, required: bool) -> InputSpec:
    """Return one input from its entry: `[type, options]`, or `[choices, options]`."""
    parts = items(entry)
    kind = parts[0] if parts else ANY
    options = mapping(parts[1]) if len(parts) > 1 else {}
    if isinstance(kind, list):
        return InputSpec(name, COMBO, required, options, tuple(kind))
    choices = None
    if kind == COMBO and not options.get("remote"):
        choices = tuple(items(options.get("options")))
    elif kind == DYNAMIC_COMBO:
        choices = tuple(mapping(each).get("key") for each in items(options.get("options")))
    return InputSpec(name, str(kind), required, options, choices)


def chosen_inputs(spec: InputSpec, choice: object) -> list[InputSpec]:
    """Return the inputs that a dynamic combo has when `choice` is chosen."""
    for option in items(spec.options.get("options")):
        if mapping(option).get("key") == choice:
            groups = mapping(mapping(option).get("inputs"))
            return [
                input_spec(f"{spec.name}.{key}", entry, required=group == "required")
                for group in ("required", "optional")
                for key, entry in mapping(groups.get(group)).items()
            ]
    return []


def grown_input(spec: InputSpec, name: str) -> InputSpec | None:
    """Return the input `name` ("images.image0") of one that grows as it is linked, None if none."""
    if spec.type != AUTOGROW or not name.startswith(f"{spec.name}."):
        return None
    template = mapping(spec.options.get("template"))
    groups = mapping(template.get("input"))
    for group in ("required", "optional"):
        for entry in mapping(groups.get(group)).values():
            return input_spec(name, entry, required=False)
    return None


def _ordered(told: tuple[InputSpec, ...], order: Mapping[str, Any]) -> Iterator[InputSpec]:
    left = {each.name: each for each in told}
    for group, required in (("required", True), ("optional", False)):
        for name in items(order.get(group)):
            if name in left and left[name].required is required:
                yield left.pop(name)
    yield from left.values()


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value
