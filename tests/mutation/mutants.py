"""Every small change of a module's source that a test should notice: one node of its syntax tree at a time.

Operators are exchanged (`<` for `<=`, `+` for `-`, `and` for `or`, ...), whole numbers grow by one, truth
values and conditions turn over, `min` and `max` and the like change places, an entry of a written list of
values is left out, an assignment in place is reversed, a statement that is nothing but a call is left out.
"""

from __future__ import annotations

import ast
import copy
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_LEFT_ALONE = {"annotation", "returns", "decorator_list"}
_NO_LOGIC = {"setting", "UserError", "WorkError", "say"}  # defaults are choices, and messages are for people
_PAIRS = [("min", "max"), ("any", "all"), ("floor", "ceil"), ("minimum", "maximum"), ("zeros", "ones")]
_EXCHANGED = {one: other for a, b in _PAIRS for one, other in ((a, b), (b, a))} | {"most_common": "items"}


class Mutant(NamedTuple):
    """A changed module.  name: what was changed, the same wherever in the file it stands."""

    name: str
    tree: ast.Module


def mutants(source: str) -> Iterator[Mutant]:
    """Yield every change of a module; annotations, docstrings, messages and `strict=` are left alone."""
    whole, seen = ast.parse(source), Counter[str]()
    for number, place in enumerate(_places(whole, "", whole)):
        for changed in _changes(place.node):
            tree = copy.deepcopy(whole)
            copied = next(itertools.islice(_places(tree, "", tree), number, None))
            before = _shown(copied.statement)
            for name, value in changed.items():
                setattr(copied.node, name, value)
            name = f"{place.owner or 'module'}: {before} => {_shown(copied.statement)}"
            seen[name] += 1
            again = f" (no. {seen[name]})" if seen[name] > 1 else ""
            yield Mutant(name + again, ast.fix_missing_locations(tree))


class _Place(NamedTuple):
    """A node that may be changed, in which function or class it stands, and in which statement."""

    owner: str
    statement: ast.AST
    node: ast.AST


def _places(node: ast.AST, owner: str, statement: ast.AST) -> Iterator[_Place]:
    kept = {name: value for name, value in ast.iter_fields(node) if name not in _LEFT_ALONE}
    for child in (c for value in kept.values() for c in (value if isinstance(value, list) else [value])):
        if not isinstance(child, ast.AST) or isinstance(child, ast.Raise | ast.JoinedStr | ast.arguments):
            continue
        if isinstance(child, ast.Call) and ast.unparse(child.func) in _NO_LOGIC:
            continue
        if isinstance(child, ast.keyword) and child.arg == "strict":
            continue  # a guard of `zip` against what does not happen
        if isinstance(child, ast.Subscript) and ast.unparse(child.value) == "Literal":
            continue
        named = isinstance(child, ast.FunctionDef | ast.ClassDef)
        inner = f"{owner}.{child.name}".lstrip(".") if named else owner  # type: ignore[attr-defined]
        within = child if isinstance(child, ast.stmt) else statement
        yield _Place(inner, within, child)
        yield from _places(child, inner, within)


def _changes(node: ast.AST) -> Iterator[dict[str, object]]:
    """Yield the new values of a node's fields, for each change of it."""
    match node:
        case ast.Compare(ops=[op, *rest]) if type(op) in _COMPARED:
            yield {"ops": [_COMPARED[type(op)](), *rest]}
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in _COMPUTED:
            yield {"op": _COMPUTED[type(op)]()}
        case ast.BoolOp(op=op):
            yield {"op": ast.Or() if isinstance(op, ast.And) else ast.And()}
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield {"operand": ast.UnaryOp(ast.Not(), operand)}
        case ast.Constant(value=bool(value)):
            yield {"value": not value}
        case ast.Constant(value=int(value)):
            yield {"value": value + 1}
        case ast.Call(func=ast.Name(id=name)) if name in _EXCHANGED:
            yield {"func": ast.Name(_EXCHANGED[name], ast.Load())}
        case ast.Call(func=ast.Attribute(value=value, attr=name)) if name in _EXCHANGED:
            yield {"func": ast.Attribute(value, _EXCHANGED[name], ast.Load())}
        case ast.Tuple(elts=elts, ctx=ast.Load()) | ast.List(elts=elts, ctx=ast.Load()) | ast.Set(elts=elts):
            if len(elts) > 1 and all(isinstance(entry, ast.Constant) for entry in elts):
                yield from ({"elts": elts[:n] + elts[n + 1 :]} for n in range(len(elts)))
        case ast.If(test=test) | ast.IfExp(test=test) if not isinstance(test, ast.Compare | ast.UnaryOp):
            yield {"test": ast.UnaryOp(ast.Not(), test)}
        case ast.Expr(value=ast.Call()):
            yield {"value": ast.Constant(None)}


def _shown(statement: ast.AST) -> str:
    """Return a statement in one line, without the statements inside it."""
    text = ast.unparse(statement)
    return text.partition("\n")[0] if hasattr(statement, "body") else " ".join(text.split())
