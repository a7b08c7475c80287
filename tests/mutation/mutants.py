"""What is changed: signs, operations, numbers and elementary functions in the arithmetic of a source file."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

SWAPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult}
SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}
FUNCTIONS = {"exp", "log", "sqrt", "square", "rsqrt", "lgamma", "digamma", "log1p", "expm1", "mvlgamma"}
LIMITS = {"max", "min", "clamp", "clamp_min", "clamp_max", "clamp_min_", "clamp_max_", "maximum", "minimum"}
BLANKS = {"ones", "zeros", "ones_like", "zeros_like", "new_ones", "new_zeros"}
CONTAINERS = (ast.List, ast.Tuple, ast.Set, ast.Dict, ast.ListComp, ast.SetComp, ast.JoinedStr)


@dataclass(frozen=True)
class Mutant:
    """One change: the file, its number among the changes of that file, its line, its function, and what it is."""

    path: Path
    number: int
    line: int
    function: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


def mutants(path: Path) -> list[Mutant]:
    tree = ast.parse(path.read_text())
    return [Mutant(path, i, node.lineno, at, what) for i, (node, at, what, _) in enumerate(_changes(tree))]


def compiled(mutant: Mutant) -> CodeType:
    tree = ast.parse(mutant.path.read_text())
    node, _, _, new = list(_changes(tree))[mutant.number]
    return compile(_Replace(node, new).visit(tree), str(mutant.path.resolve()), "exec")


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return ast.copy_location(self.new, node) if node is self.old else self.generic_visit(node)


def _changes(tree: ast.AST) -> Iterator[tuple[ast.expr, str, str, ast.expr]]:
    """Nodes in the order of the file, the name of their function, what becomes of them in words, and that."""
    for name, function in functions(tree):
        for statement in function.body:
            for node in _arithmetic(statement):
                for new in _new(node):
                    yield node, name, f"{ast.unparse(node)[:70]}  ->  {ast.unparse(new)[:70]}", new


def functions(tree: ast.AST, within: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Outermost functions and methods by their qualified names; what stands in them is theirs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield within + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{within}{node.name}.")


def _arithmetic(node: ast.AST) -> Iterator[ast.expr]:
    """Expressions below a node, but for messages, annotations, indices, and how much counts as rounding."""
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert):
        return
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith(("Error", "Warning")):
        return
    if isinstance(node, ast.expr):
        yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "slice"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not (_limits(node, name) and _tolerance(child)):
                yield from _arithmetic(child)


def _limits(node: ast.AST, name: str) -> bool:
    """Whether what is in a field of a node is only held against something: a side of a comparison, a floor, a cap."""
    match node:
        case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called)):
            return name == "args" and called in LIMITS
    return isinstance(node, ast.Compare)


def _tolerance(node: ast.AST) -> bool:
    """Whether it is a constant named in capitals, a number below 1e-5 or torch.finfo's, or a multiple of one."""
    match node:
        case ast.Name(id=name):
            return name.isupper()
        case ast.Constant(value=float() as value):
            return value < 1e-5
        case ast.Attribute(value=ast.Call(func=ast.Attribute(attr="finfo"))):
            return True
        case ast.BinOp(op=ast.Mult(), left=left, right=right):
            return _tolerance(left) or _tolerance(right)
        case ast.BinOp(op=ast.Div() | ast.FloorDiv(), left=left):
            return _tolerance(left)
    return False


def _new(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.BinOp(op=op, left=left, right=right) if type(op) in SWAPS and not any(map(_other, (left, right))):
            if not _neutral(right):
                yield _with(node, op=SWAPS[type(op)]())
            for side in ("left", "right"):
                match getattr(node, side):
                    case ast.Constant(value=bool()):
                        pass
                    case ast.Constant(value=int() | float() as value):
                        yield _with(node, **{side: ast.Constant(value + 1 if isinstance(value, int) else 2 * value)})
        case ast.UnaryOp(op=ast.USub(), operand=operand) if not isinstance(operand, ast.Constant):
            yield operand
        case ast.Call(func=ast.Attribute(value=inner, attr=name), args=[], keywords=[]) if name in FUNCTIONS:
            yield inner
        case ast.Call(func=ast.Attribute(value=ast.Name(id="torch" | "math" | "np"), attr=name), args=[inner]) if (
            name in FUNCTIONS
        ):
            yield inner


def _with(node: ast.expr, **changes: ast.AST) -> ast.expr:
    new = copy.copy(node)
    for name, value in changes.items():
        setattr(new, name, ast.copy_location(value, node) if isinstance(value, ast.expr) else value)
    return new


def _neutral(node: ast.expr) -> bool:
    """Whether it is all ones, or all zeros: that gives a shape, whether they are multiplied or divided by."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in BLANKS


def _other(node: ast.expr) -> bool:
    """Whether it is text or a container, whose + is none of arithmetic."""
    return isinstance(node, CONTAINERS) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
