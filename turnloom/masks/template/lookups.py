"""Compile what templates do most often to less Python than Jinja writes.

`message.role`, `message['role']` and `message.get('role')` become a look into the dict that `message` nearly always is.
Templates look up some thirty keys a message, and a call of the environment costs five times as much. Steps of loops
need no macro.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame

from turnloom.masks.template.steps import STEPS

#: Attributes that dicts have; the sandbox decides about them.
DICT_ATTRIBUTES: Final = frozenset(dir(dict))


class LookupGenerator(CodeGenerator):
    """Jinja's generator of Python, whose lookups in plain dicts need no call."""

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:  # noqa: N802  # Jinja's own
        """Write `name.attribute`."""
        looked = node.attr not in DICT_ATTRIBUTES and self._write_look(node.node, node.attr, frame)
        super().visit_Getattr(node, frame)
        if looked:
            self.write(")")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802  # Jinja's own
        """Write `name['key']`."""
        key = node.arg.value if isinstance(node.arg, nodes.Const) else None
        looked = isinstance(key, str) and self._write_look(node.node, key, frame)
        super().visit_Getitem(node, frame)
        if looked:
            self.write(")")

    def visit_Call(self, node: nodes.Call, frame: Frame, forward_caller: bool = False) -> None:  # noqa: N802
        """Write `name.get('key')`; other calls are Jinja's."""
        got = not forward_caller and self._write_get(node, frame)  # `get` refuses a caller
        super().visit_Call(node, frame, forward_caller=forward_caller)
        if got:
            self.write(")")

    def visit_CallBlock(self, node: nodes.CallBlock, frame: Frame) -> None:  # noqa: N802  # Jinja's own
        """Write a step: ask before the body, and hand over what it printed. Other blocks are Jinja's."""
        steps = node.call.node
        if not (isinstance(steps, nodes.Name) and steps.name == STEPS):
            super().visit_CallBlock(node, frame)
            return
        text = self.temporary_identifier()
        self.writeline(f"{text} = ", node)
        self._write_call(steps, "begin", node.call.args, frame)
        self.write(")")
        self.writeline(f"if {text} is None:")
        self.indent()
        body = frame.inner()
        body.symbols.analyze_node(node)
        self.enter_frame(body)
        self.buffer(body)
        self.blockvisit(node.body, body)
        self.writeline(f"{text} = ")
        self._write_call(steps, "end", node.call.args[2:3], frame)
        self.write(f"concat({body.buffer}))")
        self.leave_frame(body)
        self.outdent()
        self.start_write(frame, node)
        self.write(text)
        self.end_write(frame)

    def _write_call(self, called: nodes.Name, method: str, arguments: Sequence[nodes.Expr], frame: Frame) -> None:
        self.visit(called, frame)
        self.write(f".{method}(")
        for argument in arguments:
            self.visit(argument, frame)
            self.write(", ")

    def _write_look(self, looked: nodes.Expr, key: str, frame: Frame) -> bool:
        """Write the look into a variable, open where it is no dict or has no such key. Return whether it is one."""
        if not isinstance(looked, nodes.Name):
            return False
        name = frame.symbols.ref(looked.name)
        self.write(f"({name}[{key!r}] if type({name}) is dict and {key!r} in {name} else ")
        return True

    def _write_get(self, node: nodes.Call, frame: Frame) -> bool:
        """Write what `get` of a variable gives, open where it is no dict. Return whether it is such a call."""
        method, arguments = node.node, node.args
        if not (isinstance(method, nodes.Getattr) and method.attr == "get" and isinstance(method.node, nodes.Name)):
            return False
        if node.kwargs or node.dyn_args or node.dyn_kwargs or len(arguments) not in (1, 2):
            return False
        if any(isinstance(one, nodes.Call) or one.find(nodes.Call) for one in arguments):
            return False  # arguments are written twice
        name = frame.symbols.ref(method.node.name)
        self.write(f"({name}.get(")
        for argument in arguments:
            self.visit(argument, frame)
            self.write(", ")
        self.write(f") if type({name}) is dict else ")
        return True
