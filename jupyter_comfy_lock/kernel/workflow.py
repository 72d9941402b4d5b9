"""A workflow in the hands of a notebook: loaded from any format, changed, checked, shown, saved."""

import copy
import json
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, overload

from jupyter_comfy_lock.domain.errors import ComfyLockError, InvalidWorkflow, NoLock, NotYours
from jupyter_comfy_lock.domain.workflow import check_api_workflow
from jupyter_comfy_lock.domain.workflow.check import Fault, check, node_label, title_of
from jupyter_comfy_lock.domain.workflow.graph import is_ui_format, read_ui
from jupyter_comfy_lock.domain.workflow.nodes import NodeSpec
from jupyter_comfy_lock.domain.workflow.parameters import (
    Parameter,
    find_node,
    find_parameter,
    inputs_of,
    parameters,
    with_value,
)
from jupyter_comfy_lock.domain.workflow.ui import ui_to_prompt
from jupyter_comfy_lock.domain.workflow.values import close_to
from jupyter_comfy_lock.kernel.bad_input import NoSuchAttribute
from jupyter_comfy_lock.kernel.drawing import drawing
from jupyter_comfy_lock.kernel.pictures import Upload, as_upload
from jupyter_comfy_lock.kernel.session import current
from jupyter_comfy_lock.kernel.show import say_lock
from jupyter_comfy_lock.kernel.tables import Listing
from jupyter_comfy_lock.kernel.workflow_source import Source, read_source, view_query

_KEPT = ("inputs", "class_type", "_meta")


class Workflow:
    """What a ComfyServer is to run: nodes, their links and their values.

    `Workflow.load()` makes one. `workflow["KSampler"].seed = 7` sets a value and
    `workflow.set(seed=7)` finds the node itself; while this kernel holds a lock, each value is
    checked against what the node takes. `comfy.submit(workflow)` runs it.
    """

    def __init__(
        self, prompt: Mapping[str, Any], *, specs: Mapping[str, NodeSpec] | None = None
    ) -> None:
        self._prompt = {
            # What ComfyUI has noted down while it ran (`is_changed`) is no part of it.
            node_id: {key: copy.deepcopy(node[key]) for key in _KEPT if key in node}
            for node_id, node in check_api_workflow(prompt).items()
        }
        self._specs: Mapping[str, NodeSpec] = specs or {}
        #: What has to be uploaded first, by node and input.
        self._uploads: dict[tuple[str, str], Upload] = {}

    @classmethod
    def load(cls, source: "Source | Workflow") -> "Workflow":
        """Return the workflow that `source` holds.

        `source`: a mapping, JSON, the path of a file or the URL of a picture on the ComfyServer.
        It may be in ComfyUI's API format or as its editor saves it, or a PNG or WebP picture that
        ComfyUI has made of it. What the editor saves is converted by what the locked ComfyServer
        says of its nodes; without a lock one is taken as by `comfy.lock()`, and a line says which.

        Raises:
            InvalidWorkflow: it is none, or cannot be converted; the message names each node.
            NotYours: the URL is not of the locked ComfyServer; nothing was sent there.
        """
        if isinstance(source, Workflow):
            return source.copy()
        found = read_source(source, _fetch)
        if not is_ui_format(found):
            return cls(found)
        saved = read_ui(found)  # what is no workflow at all locks nothing
        session = current()
        specs = session.node_specs(session.ensure_lock(say_lock))
        prompt = ui_to_prompt(saved, specs, choose=random.randrange, now=datetime.now())
        return cls(prompt, specs=specs)

    # -- what is in it --------------------------------------------------------------------------

    @property
    def prompt(self) -> dict[str, Any]:
        """A copy of the workflow in ComfyUI's API format."""
        return copy.deepcopy(self._prompt)

    @property
    def nodes(self) -> "Nodes":
        """The nodes."""
        return Nodes([Node(self, node_id) for node_id in self._prompt])

    @property
    def parameters(self) -> "Parameters":
        """The values that can be set. `parameters["3.seed"]` is one, by node and input."""
        return Parameters(parameters(self._prompt, self._known_specs()))

    def __getitem__(self, key: object) -> "Node":
        """Return a node by its title, its class or its id.

        Raises:
            InvalidWorkflow: there is none, or several; the message lists them.
        """
        return Node(self, find_node(self._prompt, key))

    def __len__(self) -> int:
        return len(self._prompt)

    def __iter__(self) -> Iterator["Node"]:
        return iter(self.nodes)

    def _ipython_key_completions_(self) -> list[str]:
        titles = [title_of(node) for node in self._prompt.values()]
        once = [title for title in titles if titles.count(title) == 1]
        return [*once, *(x for x in self._prompt if titles.count(title_of(self._prompt[x])) > 1)]

    # -- changing it ----------------------------------------------------------------------------

    def set(self, **values: Any) -> "Workflow":
        """Set values by name, all or none, and return the workflow.

        A name is an input that one node alone has (`seed=7`), the title of a node with one value
        (`my_text="…"` for "My text"), or `prompt` and `negative_prompt` for the texts that lead to
        the inputs of that kind. `set(**{"3.seed": 7})` names node and input.

        Raises:
            InvalidWorkflow: a name means nothing or several things, or a value does not fit; the
                message says which nodes there are, or what is allowed. Nothing was set.
        """
        changed = self.copy()
        for name, value in values.items():
            changed._set(*find_parameter(changed._prompt, name, changed._known_specs()), value)
        self._prompt, self._uploads = changed._prompt, changed._uploads
        return self

    def copy(self) -> "Workflow":
        """Return another one like this; changes to one do not concern the other."""
        made = Workflow(self._prompt, specs=self._specs)
        made._uploads = dict(self._uploads)
        return made

    def _set(self, node_id: str, name: str, value: Any) -> None:
        specs = self._known_specs()
        upload = value if isinstance(value, Upload) else as_upload(value)
        if upload is not None:
            spec = inputs_of(self._prompt, node_id, specs).get(name)
            if spec is not None and not spec.upload:
                label = _label(self._prompt, node_id)
                msg = f"{label}, input {name!r}: takes no file, so no picture can be put there."
                raise InvalidWorkflow(msg, node_id=node_id, input=name)
            value = upload.name
        self._prompt = with_value(self._prompt, node_id, name, value, specs)
        self._uploads.pop((node_id, name), None)
        if upload is not None:
            self._uploads[node_id, name] = upload

    # -- checking, sending, saving --------------------------------------------------------------

    def check(self) -> "Faults":
        """Return all that the locked ComfyServer would refuse, at once; nothing is sent.

        Raises:
            NoLock: it is the locked ComfyServer that knows its nodes, and none is locked.
        """
        session = current()
        held = session.locked()
        if held is None:
            raise NoLock(session.kernel)
        self._specs = session.node_specs(held)
        return Faults(check(self._prompt, self._specs))

    def ready(self) -> dict[str, Any]:
        """Return the prompt to send: pictures that belong to it are uploaded, each once.

        Raises:
            StaleLock: this kernel had a lock and lost it; nothing was uploaded.
        """
        prompt = self.prompt
        if self._uploads:
            session = current()
            held = session.ensure_lock(say_lock)
            for (node_id, name), upload in self._uploads.items():
                there = session.upload(held, upload.name, upload.content)
                prompt[node_id]["inputs"][name] = there
        return prompt

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the workflow as JSON in ComfyUI's API format.

        Raises:
            InvalidWorkflow: the file cannot be written, or a value is none that JSON has.
        """
        where = Path(path).expanduser()
        try:
            text = json.dumps(self._prompt, indent=2, ensure_ascii=False, allow_nan=False)
            where.write_text(text + "\n", encoding="utf-8")
        except (OSError, TypeError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            msg = f"Cannot write the workflow to {str(where)!r}: {why}."
            raise InvalidWorkflow(msg, path=str(where)) from error

    @property
    def specs(self) -> Mapping[str, NodeSpec]:
        """What is known of the node classes: of the locked ComfyServer's, or the last one's."""
        return self._known_specs()

    def _known_specs(self) -> Mapping[str, NodeSpec]:
        """Return what is known of the nodes: of the locked ComfyServer's, or the last one's."""
        with suppress(ComfyLockError):  # without a Jupyter server nothing is known, and none needed
            self._specs = current().known_specs() or self._specs
        return self._specs

    # -- showing it -----------------------------------------------------------------------------

    def __repr__(self) -> str:
        lines = [f"Workflow of {len(self)} node{'s' if len(self) != 1 else ''}"]
        for node in self.nodes:
            lines.append(f"  {node!r}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return drawing(self._prompt, self._specs)


class Node:
    """One node of a workflow; its values are its attributes."""

    __slots__ = ("_id", "_workflow")
    _id: str
    _workflow: Workflow

    def __init__(self, workflow: Workflow, node_id: str) -> None:
        object.__setattr__(self, "_workflow", workflow)
        object.__setattr__(self, "_id", node_id)

    def __getattr__(self, name: str) -> Any:
        """Return a value; of a linked input, `[node id, number of its output]`."""
        inputs = self._inputs()
        if name in inputs:
            return inputs[name]
        if name.startswith("_"):
            raise AttributeError(name)
        known = inputs_of(self._workflow._prompt, self._id, self._workflow._known_specs())
        label = _label(self._workflow._prompt, self._id)
        if name in known:
            msg = f"{label}: the input {name!r} is not set"
        else:
            hint = close_to(name, known) or f". It has: {', '.join(known) or 'none'}"
            msg = f"{label} has no input {name!r}{hint}"
        raise NoSuchAttribute(msg)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a value, after checking it.

        Raises:
            InvalidWorkflow: there is no such input, or the value does not fit it.
        """
        self._workflow._set(self._id, name, value)

    def __getitem__(self, name: str) -> Any:
        """Return a value whose name is no name in Python."""
        return getattr(self, name)

    def __setitem__(self, name: str, value: Any) -> None:
        self._workflow._set(self._id, name, value)

    def __dir__(self) -> list[str]:
        return list(inputs_of(self._workflow._prompt, self._id, self._workflow._known_specs()))

    def _ipython_key_completions_(self) -> list[str]:
        return dir(self)

    def _inputs(self) -> Mapping[str, Any]:
        inputs = self._workflow._prompt[self._id].get("inputs")
        return inputs if isinstance(inputs, Mapping) else {}

    def __repr__(self) -> str:
        node = self._workflow._prompt[self._id]
        values = ", ".join(f"{name}={_short(value)}" for name, value in self._inputs().items())
        return f"{node_label(self._id, title_of(node), str(node.get('class_type')))}: {values}"


class Nodes(Listing[Node]):
    """The nodes of a workflow."""

    columns: ClassVar[tuple[str, ...]] = ("id", "title", "class", "values")
    nothing: ClassVar[str] = "The workflow has no nodes."

    def row(self, item: Node) -> tuple[str, ...]:
        """Return the cells of a node."""
        node = item._workflow._prompt[item._id]
        values = ", ".join(f"{name}={_short(value)}" for name, value in item._inputs().items())
        return (item._id, title_of(node), str(node.get("class_type")), values)


class Parameters(Listing[Parameter]):
    """The values of a workflow that can be set."""

    columns: ClassVar[tuple[str, ...]] = ("parameter", "node", "value", "allowed")
    nothing: ClassVar[str] = "The workflow has no values that can be set."

    def row(self, item: Parameter) -> tuple[str, ...]:
        """Return the cells of a parameter."""
        return (f"{item.node_id}.{item.name}", item.node, _short(item.value), _allowed(item))

    @overload
    def __getitem__(self, index: int) -> Parameter: ...

    @overload
    def __getitem__(self, index: slice) -> list[Parameter]: ...

    @overload
    def __getitem__(self, index: str) -> Parameter: ...

    def __getitem__(self, index: int | slice | str) -> Parameter | list[Parameter]:
        """Return a parameter by its number, or by "node id.input".

        Raises:
            InvalidWorkflow: there is none of that name; the message has the nearest.
        """
        if not isinstance(index, str):
            return super().__getitem__(index)
        named = {f"{each.node_id}.{each.name}": each for each in self}
        if index not in named:
            hint = close_to(index, named) or ". `workflow.parameters` lists them."
            msg = f"The workflow has no parameter {index!r}{hint}"
            raise InvalidWorkflow(msg)
        return named[index]

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the values by name, as `workflow.set(**values)` takes them."""
        return {f"{each.node_id}.{each.name}": each.value for each in self}


class Faults(Listing[Fault]):
    """What is wrong with a workflow; empty if nothing is."""

    columns: ClassVar[tuple[str, ...]] = ("node", "input", "fault")
    nothing: ClassVar[str] = "Nothing is wrong with this workflow."

    def row(self, item: Fault) -> tuple[str, ...]:
        """Return the cells of a fault."""
        node = node_label(item.node_id, item.title, item.class_type) if item.node_id else ""
        return (node, item.input, item.why)


def _fetch(url: str) -> bytes:
    session = current()
    held = session.ensure_lock(say_lock)
    bases = [str(session.url), held.url]
    query = view_query(url, bases=bases)
    if query is None:
        msg = (
            "A workflow is loaded from a URL only if that is a picture on the locked ComfyServer "
            f"({held.comfy_id}): its /view, or that of comfy.url. Download any other file first."
        )
        raise NotYours(msg)
    return session.view(query)


def _label(prompt: Mapping[str, Any], node_id: str) -> str:
    node = prompt[node_id]
    return node_label(node_id, title_of(node), str(node.get("class_type")))


def _short(value: Any) -> str:
    text = f"→ {value[0]}" if isinstance(value, list) and value else repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _allowed(item: Parameter) -> str:
    spec = item.spec
    if spec is None:
        return ""
    if spec.choices:
        listed = ", ".join(map(str, spec.choices[:4]))
        return listed if len(spec.choices) <= 4 else f"{listed}… ({len(spec.choices)})"
    least, most = spec.range
    if least is not None or most is not None:
        return f"{spec.type} {'' if least is None else least} to {'' if most is None else most}"
    return spec.type
