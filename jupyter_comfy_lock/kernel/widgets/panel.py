"""A form for a workflow: its parameters, a button that submits it, and what came of it."""

from collections.abc import Mapping
from typing import Any

import traitlets

from jupyter_comfy_lock.domain.errors import ComfyLockError, InvalidWorkflow
from jupyter_comfy_lock.domain.workflow.parameters import Parameter, find_parameter
from jupyter_comfy_lock.kernel.pictures import as_file
from jupyter_comfy_lock.kernel.session import current
from jupyter_comfy_lock.kernel.task import Task
from jupyter_comfy_lock.kernel.widgets.fields import field_of, shown_value
from jupyter_comfy_lock.kernel.widgets.task_view import (
    PreviewPush,
    nodes_of,
    parameters_of,
    read_of,
)
from jupyter_comfy_lock.kernel.widgets.view import View, in_background, writer
from jupyter_comfy_lock.kernel.workflow import Workflow
from jupyter_comfy_lock.kernel.workflow_source import Source

#: So many of the last tasks are kept under the form, with their pictures.
KEPT = 12


class Panel(View):
    """A form of a workflow's parameters. `panel.workflow` has what is set in it.

    Each value is checked when it is set; what does not fit is told beside it, and the workflow
    keeps the value that it had.
    """

    view = traitlets.Unicode("panel").tag(sync=True)
    fields: traitlets.List[Any] = traitlets.List().tag(sync=True)
    #: The values of the workflow, by field.
    values = traitlets.Dict().tag(sync=True)
    #: Why what was set does not fit, by field.
    errors = traitlets.Dict().tag(sync=True)
    #: Why nothing was submitted; "" where nothing is wrong.
    note = traitlets.Unicode("").tag(sync=True)
    #: Whether a workflow is on its way.
    submitting = traitlets.Bool(False).tag(sync=True)
    #: The newest task as TaskView has it; {} before the first one.
    task = traitlets.Dict().tag(sync=True)
    nodes: traitlets.List[Any] = traitlets.List().tag(sync=True)
    parameters: traitlets.List[Any] = traitlets.List().tag(sync=True)
    #: The tasks before it that left pictures, newest first.
    history: traitlets.List[Any] = traitlets.List().tag(sync=True)

    def __init__(self, workflow: Workflow, names: tuple[str, ...] = (), **traits: Any) -> None:
        #: What the form changes and submits.
        self.workflow = workflow
        #: What was submitted, newest first.
        self.tasks: list[Task] = []
        self._chosen = [field_of(each) for each in _chosen(workflow, names)]
        self._keys = {each["key"]: (each["node_id"], each["name"]) for each in self._chosen}
        self._errors: dict[str, str] = {}
        self._note = ""
        self._submitting = False
        self._previews: PreviewPush | None = None
        super().__init__(fields=self._chosen, values=self._values(), **traits)

    def write(self) -> None:
        """Show values, faults and the newest task as they are now."""
        newest, before = self.tasks[:1], self.tasks[1:]
        with self.hold_sync():
            self.values = self._values()
            self.errors = dict(self._errors)
            self.note = self._note
            self.submitting = self._submitting
            for task in newest:
                self.nodes = nodes_of(task.prompt or {})
                self.parameters = parameters_of(task.prompt or {})
                self.task = dict(task.json)
            self.history = [dict(task.json) for task in before if task.json.get("files")]
        if self.by_comm and self._previews is not None:
            self._previews.push()

    def answer(self, kind: str, content: Mapping[str, Any]) -> None:
        """Set values, take a picture, submit, or cancel."""
        if kind == "set":
            self._set_all(content.get("values"))
        elif kind == "picture" and content["buffers"]:
            name = str(content.get("filename") or "picture.png")
            self._set(str(content.get("key")), as_file(bytes(content["buffers"][0]), name))
        elif kind == "submit" and not self._submitting:
            self._set_all(content.get("values"))
            self._note = "" if not self._errors else "Nothing was submitted: see the fields."
            if not self._errors:
                self._submitting = True
                in_background(self._submit, name="comfy-lock-submit")
        elif kind == "cancel" and self.tasks:
            in_background(self.tasks[0].cancel, name="comfy-lock-cancel")
        writer.mark(self)

    def read(self, path: str) -> bytes:
        """Return a file or a preview of one of the tasks."""
        for task in self.tasks:
            if task.id in path:
                return read_of(task, path)
        return super().read(path)

    def _set_all(self, values: Any) -> None:
        for key, value in values.items() if isinstance(values, dict) else ():
            self._set(str(key), value)

    def _set(self, key: str, value: Any) -> None:
        if key not in self._keys:
            return
        node_id, name = self._keys[key]
        if shown_value(self._values()[key]) == value:
            self._errors.pop(key, None)
            return
        try:
            self.workflow[node_id][name] = value
        except InvalidWorkflow as error:
            self._errors[key] = error.message
        else:
            self._errors.pop(key, None)

    def _submit(self) -> None:
        session = current()
        try:
            task = session.submit(self.workflow.ready(), on_lock=lambda _: None)
        except ComfyLockError as error:
            self._note = error.message
        else:
            task.on_change(lambda: writer.mark(self))
            self.tasks = [task, *self.tasks][:KEPT]
            self._previews = PreviewPush(self, task)
        finally:
            self._submitting = False
            writer.mark(self)

    def _values(self) -> dict[str, Any]:
        prompt = self.workflow.prompt
        return {
            key: shown_value(prompt[node_id]["inputs"].get(name))
            for key, (node_id, name) in self._keys.items()
        }

    def __repr__(self) -> str:
        return f"Panel({len(self._chosen)} fields)"


def panel(workflow: Workflow | Source, *names: str) -> Panel:
    """Return a form for `workflow`: set its values, submit it, see what comes of it.

    `names` choose the parameters, as `workflow.set` names them: `comfy.panel(wf, "seed",
    "prompt", "3.cfg")`; all without names. A `comfy.Workflow` is changed as the form is; what else
    `comfy.Workflow.load` takes becomes `panel.workflow`.

    Raises:
        InvalidWorkflow: it is none, or has no parameter of that name.
    """
    loaded = workflow if isinstance(workflow, Workflow) else Workflow.load(workflow)
    return Panel(loaded, names)


def _chosen(workflow: Workflow, names: tuple[str, ...]) -> list[Parameter]:
    everything = {(each.node_id, each.name): each for each in workflow.parameters}
    if not names:
        return list(everything.values())
    prompt, specs = workflow.prompt, workflow.specs
    places = [find_parameter(prompt, name, specs) for name in names]
    for name, place in zip(names, places, strict=True):
        if place not in everything:
            msg = f"{name!r} cannot be set: it is linked, or the node has no such input."
            raise InvalidWorkflow(msg)
    return [everything[place] for place in dict.fromkeys(places)]
