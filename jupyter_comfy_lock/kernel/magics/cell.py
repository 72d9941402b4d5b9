"""The commands of `%%comfy`, whose workflow is the rest of the cell."""

# IPython's decorators have no types.
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False

import ast
import itertools
import json
from types import CodeType
from typing import Any, cast

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic_arguments import magic_arguments

import jupyter_comfy_lock as comfy
from jupyter_comfy_lock.kernel.magics.commands import TIMEOUT, VALUES
from jupyter_comfy_lock.kernel.magics.declared import Commands

#: What is a word in JSON and none in Python.
_JSON_WORDS = {"true", "false", "null"}


@magic_arguments("%comfy run")
@VALUES
@TIMEOUT
def run(args: Any, workflow: Any) -> Any:
    """Run the workflow in the cell and wait for its pictures; %%comfy alone does the same."""
    return comfy.run(workflow, timeout=args.timeout, **args.values)


@magic_arguments("%comfy submit")
@VALUES
def submit(args: Any, workflow: Any) -> Any:
    """Send the workflow in the cell and return its task at once."""
    return comfy.submit(workflow, **args.values)


@magic_arguments("%comfy check")
@VALUES
def check(args: Any, workflow: Any) -> Any:
    """Tell all that the locked ComfyServer would refuse in the workflow."""
    return comfy.Workflow.load(workflow).set(**args.values).check()


@magic_arguments("%comfy set")
@VALUES
def set(args: Any, workflow: Any) -> Any:
    """Return the workflow with these values, without running it: `wf = _` keeps it."""
    return comfy.Workflow.load(workflow).set(**args.values)


CELL_COMMANDS = Commands("%%comfy", (run, submit, check, set))


class Cell:
    """The rest of a cell that begins with `%%comfy`: JSON, or Python that ends in a workflow."""

    def __init__(self, shell: InteractiveShell, text: str) -> None:
        self._shell = shell
        # The line of the magic itself is left empty, so that lines have the numbers of the cell.
        self._text = f"\n{text}"

    def workflow(self) -> Any:
        """Return the workflow, whatever it is.

        Raises:
            InvalidWorkflow: it is neither JSON nor Python; the message has the line of the cell.
            UsageError: its last line gives nothing.
        """
        __tracebackhide__ = True
        try:
            return json.loads(self._text)
        except json.JSONDecodeError as error:
            fault = error
        if self._text.lstrip().startswith("{") and not self._is_python():
            msg = (
                f"The workflow in this cell is not JSON: line {fault.lineno}, column "
                f"{fault.colno}: {fault.msg}."
            )
            raise comfy.InvalidWorkflow(msg)
        found = self._run()
        if found is None:
            msg = "%%comfy: the last line of the cell gives no workflow; end it with one, as in: wf"
            raise UsageError(msg)
        return found

    def _is_python(self) -> bool:
        try:
            tree = ast.parse(self._text)
        except SyntaxError:
            return False
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        return not (names & _JSON_WORDS) - self._shell.user_ns.keys()

    def _run(self) -> Any:
        """Run the cell as IPython runs any other; return the value of its last line."""
        __tracebackhide__ = True
        found = None
        for code in self._compiled():
            found = eval(code, self._shell.user_global_ns, self._shell.user_ns)
        return found

    def _compiled(self) -> list[CodeType]:
        """Return the cell's statements and, if it ends in an expression, that one."""
        shell = self._shell
        try:
            # IPython's transformers drop empty lines at the beginning, and they count.
            empty = itertools.takewhile(lambda line: not line.strip(), self._text.splitlines())
            source = "\n" * len(list(empty)) + shell.transform_cell(self._text)
            # The shell's own count may be that of the next cell already.
            number = shell.displayhook.prompt_count
            name = shell.compile.cache(source, number, raw_code=self._text)
            tree = shell.transform_ast(shell.compile.ast_parse(source, name))
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            codes = [shell.compile(tree, name, "exec")]
            if last is not None:
                # A codeop.Compile takes trees too; its types do not say so.
                codes.append(shell.compile(cast(str, ast.Expression(last.value)), name, "eval"))
        except SyntaxError as error:
            msg = f"The code in this cell is no Python: line {error.lineno}: {error.msg}."
            raise comfy.InvalidWorkflow(msg) from None
        return codes
