"""Small wrong changes of a module's syntax tree, one at a time, and what is left out of them."""

from __future__ import annotations

import ast
import copy
import difflib
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

# why a part of a module is not changed
DOCSTRING = "docstrings: for readers"
ANNOTATION = "annotations, imports, TYPE_CHECKING and Protocols: mypy answers for them"
DECORATOR = "decorators: how a class is made (frozen, slots), how often a property"
LOG = "calls of a logger"
ASSERT = "assert, and zip's strict: notes for mypy and readers"
SHOWN = "__repr__"
_NAMES = {**dict.fromkeys(("annotation", "returns", "bases", "type_params"), ANNOTATION), "decorator_list": DECORATOR}

_BOUNDS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_SUMS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_EMPTY = {"list": "[]", "dict": "{}", "tuple": "()", "str": "''", "int": "0", "float": "0.0"}
_TEXT_METHODS = {"strip", "lstrip", "rstrip", "lower", "upper", "casefold", "removeprefix", "removesuffix"}
_LOGGERS = {"log", "_log", "logger", "_logger", "logging", "LOG", "_LOG"}


@dataclass(frozen=True)
class Mutant:
    """One changed module. `line` is the first of the changed statement; `diff` has no context."""

    where: str
    line: int
    operator: str
    diff: tuple[str, ...]
    number: int  # of those with this diff in this function
    source: str = field(repr=False)

    @property
    def name(self) -> str:
        """What it is known by in a report, the same in every run over the same source."""
        return "\n".join((f"{self.where} {self.number}", *self.diff))


@dataclass(frozen=True)
class _Site:
    """A node, where it hangs, and what is around it."""

    node: ast.AST
    parent: ast.AST
    name: str
    index: int | None
    where: tuple[str, ...]
    statement: ast.stmt | None
    line: int
    returns: ast.expr | None

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.name, node)
        else:
            getattr(self.parent, self.name)[self.index] = node


def mutants(text: str, skipped: Counter[str] | None = None) -> list[Mutant]:
    """Return every mutant of a module's source, in its order; count in `skipped` what is left out, and why."""
    source, line_of = plain(text)
    lines, tree = source.splitlines(), ast.parse(source)
    seen, made, alike = set[tuple[int, str]](), [], Counter[tuple[str, tuple[str, ...]]]()
    start = _Site(tree, tree, "", None, (), None, 1, None)
    for site in list(_sites(start, Counter() if skipped is None else skipped)):
        for operator, node in _changes(site):
            part = _part(site, node, lines)
            new = part.text.splitlines()
            key = (part.first, part.text)
            if part.text == part.was or key in seen or not _compiles(part.text):
                continue
            seen.add(key)
            where, diff = ".".join(site.where), _diff(part.was, part.text)
            alike[where, diff] += 1
            whole = "\n".join([*lines[: part.first], *new, *lines[part.last :]])
            made.append(Mutant(where, line_of[site.line], operator, diff, alike[where, diff], whole))
    return made


@dataclass(frozen=True)
class _Part:
    """A statement that is changed: which lines of the module it takes, as it was and as it is then."""

    first: int
    last: int
    was: str
    text: str


def _part(site: _Site, node: ast.AST, lines: list[str]) -> _Part:
    """Write the statement anew that holds `site`, with `node` in its place."""
    whole = site.statement
    assert whole is not None
    site.put(node)
    changed = node if whole is site.node else whole
    text = ast.unparse(ast.fix_missing_locations(changed))
    site.put(site.node)
    first = min([whole.lineno, *(one.lineno for one in getattr(whole, "decorator_list", []))]) - 1
    last = whole.end_lineno or whole.lineno
    indent = lines[first][: len(lines[first]) - len(lines[first].lstrip())]
    if lines[first].lstrip().startswith("elif "):
        text = f"el{text}"
    return _Part(first, last, "\n".join(lines[first:last]), textwrap.indent(text, indent))


def plain(text: str) -> tuple[str, dict[int, int]]:
    """Return a module's source as a mutant has it, with nothing changed, and its lines in `text`."""
    tree = ast.parse(text)
    source = ast.unparse(tree)
    pairs = zip(ast.walk(ast.parse(source)), ast.walk(tree), strict=True)
    return source, {
        node.lineno: was.lineno
        for node, was in pairs
        if isinstance(node, (ast.stmt, ast.ExceptHandler)) and isinstance(was, (ast.stmt, ast.ExceptHandler))
    }


def _compiles(text: str) -> bool:
    """Whether a statement is one, wherever it may stand."""
    kind = "async def" if "await " in text or "async " in text else "def"
    body = textwrap.indent(textwrap.dedent(text), "  ")
    body = f"  if 0: pass\n{body}" if body.lstrip().startswith("elif ") else body
    try:
        compile(f"{kind} _():\n while 1:\n{body}", "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _diff(one: str, other: str) -> tuple[str, ...]:
    lines = difflib.unified_diff(one.splitlines(), other.splitlines(), lineterm="", n=0)
    return tuple(f"{line[0]} {line[1:].strip()}" for line in lines if not line.startswith(("---", "+++", "@@")))


# ---- what may be changed


def _sites(at: _Site, skipped: Counter[str]) -> Iterator[_Site]:
    for name, value in ast.iter_fields(at.node):
        children = value if isinstance(value, list) else [value]
        for number, child in enumerate(children):
            if not isinstance(child, ast.AST):
                continue
            if reason := _left_out(at.node, name, child):
                skipped[reason] += 1
                continue
            site = _below(at, name, number if isinstance(value, list) else None, child)
            yield site
            yield from _sites(site, skipped)


def _below(at: _Site, name: str, index: int | None, child: ast.AST) -> _Site:
    where, line, returns, statement = at.where, at.line, at.returns, at.statement
    if isinstance(child, (ast.stmt, ast.ExceptHandler)):
        line = child.lineno
    if isinstance(child, ast.stmt):
        statement = child
    if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
        where, returns = (*where, child.name), child.returns
    elif isinstance(child, ast.ClassDef):
        where = (*where, child.name)
    return _Site(child, at.node, name, index, where, statement, line, returns)


def _left_out(parent: ast.AST, name: str, child: ast.AST) -> str:
    """Return why a node is left out, nothing if it is not."""
    if name in _NAMES or isinstance(child, (ast.Import, ast.ImportFrom)):
        return _NAMES.get(name, ANNOTATION)
    if isinstance(child, (ast.ClassDef, ast.If)):
        return ANNOTATION if _is_for_mypy(child) else ""
    if isinstance(child, ast.Expr):
        return _left_out_alone(child.value)
    if isinstance(child, ast.FunctionDef):
        return SHOWN if child.name == "__repr__" else ""
    noted = isinstance(child, ast.Assert) or (isinstance(child, ast.keyword) and child.arg == "strict")
    return ASSERT if noted else ""


def _is_for_mypy(node: ast.ClassDef | ast.If) -> bool:
    """Whether it is a Protocol, or an import that no run does."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test).endswith("TYPE_CHECKING")
    return any(ast.unparse(base).startswith("Protocol") for base in node.bases)


def _left_out_alone(value: ast.expr) -> str:
    if isinstance(value, ast.Constant):
        return DOCSTRING if isinstance(value.value, str) else ANNOTATION  # `...` in a Protocol
    called = value.func if isinstance(value, ast.Call) else None
    if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id in _LOGGERS:
        return LOG
    return ""


# ---- the changes


def _changes(site: _Site) -> Iterator[tuple[str, ast.AST]]:
    node = site.node
    unpacked = isinstance(site.parent, ast.Assign) and isinstance(site.parent.targets[0], ast.Tuple)
    for change in (_of_tests, _of_operators, _of_calls, *(() if unpacked else (_of_values,))):
        yield from change(node)
    if isinstance(node, ast.stmt):
        yield from _of_statements(node, site)
    elif isinstance(node, ast.ExceptHandler):
        yield from _of_handlers(node)
    elif isinstance(node, ast.Slice):
        yield from (("slice", _with(node, **{end: None})) for end in ("lower", "upper") if getattr(node, end))
    elif isinstance(node, ast.comprehension):
        yield from (("condition", _with(node, ifs=_without(node.ifs, i))) for i in range(len(node.ifs)))


def _with(node: ast.AST, **fields: object) -> ast.AST:
    """Return a shallow copy of a node with other fields."""
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def _without(items: list[ast.expr], number: int) -> list[ast.expr]:
    return items[:number] + items[number + 1 :]


def _code(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _of_tests(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Take one way whatever is so; a loop that would never end is left out."""
    if isinstance(node, (ast.If, ast.IfExp)):
        yield "condition", _with(node, test=ast.Constant(True))
        yield "condition", _with(node, test=ast.Constant(False))
    elif isinstance(node, ast.While):
        yield "condition", _with(node, test=ast.Constant(False))


def _of_operators(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.Compare):
        for number, operator in enumerate(node.ops):
            for other in _BOUNDS[type(operator)]:
                ops = [*node.ops[:number], other(), *node.ops[number + 1 :]]
                yield "comparison", _with(node, ops=ops)
    elif isinstance(node, ast.BoolOp):
        yield "and/or", _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        for number in range(len(node.values)):
            rest = _without(node.values, number)
            yield "and/or", rest[0] if len(rest) == 1 else _with(node, values=rest)
    elif isinstance(node, ast.UnaryOp):
        yield ("not" if isinstance(node.op, ast.Not) else "arithmetic"), node.operand
    elif isinstance(node, ast.BinOp):
        yield from _of_sums(node)
    elif isinstance(node, ast.AugAssign) and type(node.op) in _SUMS:
        yield "arithmetic", _with(node, op=_SUMS[type(node.op)]())


def _of_sums(node: ast.BinOp) -> Iterator[tuple[str, ast.AST]]:
    """Calculate otherwise; of texts and lists, which cannot be subtracted, leave one out."""
    joined = (ast.Constant, ast.JoinedStr, ast.List, ast.ListComp)
    sides = [side for side in (node.left, node.right) if isinstance(side, joined)]
    if any(not isinstance(side, ast.Constant) or isinstance(side.value, str) for side in sides):
        yield "arithmetic", node.left
        yield "arithmetic", node.right
    elif type(node.op) in _SUMS:
        yield "arithmetic", _with(node, op=_SUMS[type(node.op)]())


def _of_values(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.Constant):
        value = node.value
        if isinstance(value, bool):
            yield "constant", ast.Constant(not value)
        elif isinstance(value, (int, float)):
            yield "constant", ast.Constant(value + 1)
            yield "constant", ast.Constant(value - 1)
        elif isinstance(value, (str, bytes)):
            yield "constant", ast.Constant(value[:0] if value else "x")
    elif isinstance(node, (ast.List, ast.Tuple)) and node.elts and isinstance(node.ctx, ast.Load):
        yield "constant", _code(_EMPTY[type(node).__name__.lower()])
    elif isinstance(node, ast.Set):
        yield "constant", _code("set()")
    elif isinstance(node, ast.Dict) and node.values:
        yield "constant", _code("{}")


def _of_calls(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Leave out a keyword, the last of several arguments, and what a text is cleaned of."""
    if not isinstance(node, ast.Call):
        return
    for number in range(len(node.keywords)):
        if node.keywords[number].arg == "strict":
            continue
        yield "argument", _with(node, keywords=node.keywords[:number] + node.keywords[number + 1 :])
    alone = ast.unparse(node.func).rpartition(".")[2] == "suppress"
    if len(node.args) > 1 or (alone and node.args):
        yield "argument", _with(node, args=node.args[:-1])
    if isinstance(node.func, ast.Attribute) and node.func.attr in _TEXT_METHODS:
        yield "text method", node.func.value


def _of_statements(node: ast.stmt, site: _Site) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.Return) and node.value is not None:
        yield from _of_returns(node.value, site.returns)
    elif isinstance(node, (ast.With, ast.AsyncWith)):
        yield from _of_withs(node)
    elif isinstance(node, (ast.Break, ast.Continue)):
        other = ast.Continue() if isinstance(node, ast.Break) else ast.Break()
        yield "statement", other
    elif _can_go(node):
        yield "statement", ast.Pass()


def _can_go(node: ast.stmt) -> bool:
    """Whether a statement can be removed, other than by leaving a name without a value: any run would tell."""
    if isinstance(node, ast.Assign):
        return not all(isinstance(target, (ast.Name, ast.Tuple)) for target in node.targets)
    if isinstance(node, ast.AnnAssign):
        return node.value is not None and not isinstance(node.target, ast.Name)
    return isinstance(node, (ast.Expr, ast.AugAssign, ast.Raise, ast.Delete))


def _of_returns(value: ast.expr, returns: ast.expr | None) -> Iterator[tuple[str, ast.AST]]:
    kind = ast.unparse(returns) if returns is not None else ""
    head = kind.split("[")[0].lower()
    if kind == "bool":
        yield "return", ast.Return(ast.UnaryOp(ast.Not(), value))
    elif head in _EMPTY or head == "sequence":
        yield "return", ast.Return(_code(_EMPTY.get(head, "[]")))
    else:
        yield "return", ast.Return(ast.Constant(None))


def _of_withs(node: ast.With | ast.AsyncWith) -> Iterator[tuple[str, ast.AST]]:
    """Leave out each context that gives nothing to the body."""
    for number, item in enumerate(node.items):
        if item.optional_vars is None:
            rest = node.items[:number] + node.items[number + 1 :]
            yield "statement", _with(node, items=rest) if rest else ast.If(ast.Constant(True), node.body, [])


def _of_handlers(node: ast.ExceptHandler) -> Iterator[tuple[str, ast.AST]]:
    yield "except", _with(node, type=ast.Name("Exception", ast.Load()))
    yield "except", _with(node, body=[ast.Raise()])
    if isinstance(node.type, ast.Tuple):
        for number in range(len(node.type.elts)):
            yield "except", _with(node, type=ast.Tuple(_without(node.type.elts, number), ast.Load()))
