"""What two pages of the plugin API differ in, and the version that it takes.

Each entry of a page is the text of one name. What a plugin may rely on is every line of it: one
that is gone, or is not what it was, may break a plugin. What may be there besides: another name,
another member, an argument that need not be given, and in a hook any argument, as plugins take a
subset.
"""

from __future__ import annotations

import ast
import re
from typing import NamedTuple

VERSION = re.compile(r"^Version (\d+)\.(\d+)\.(\d+)$", re.MULTILINE)
ENTRY = re.compile(r"^### (\S+)$.*?^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MEMBER = re.compile(r"(?:def |hook )?(\w+)")
SENTINEL = re.compile(r"<[^<>]*>")
"""A default whose `repr` is no Python: `<factory>`, `<Signals.SIGINT: 2>`."""
KEYWORD_ONLY = "  # keyword only"


class Arguments(NamedTuple):
    """What a call takes; each argument as it is written, with type and default."""

    rest: str
    """All that may not change at all: name, `*args`, `**kwargs`, what is returned."""
    positional: list[str]
    keyword: list[str]

    def admits(self, before: Arguments, *, required: bool = False) -> bool:
        """Whether every call of what was there `before` works here.

        Args:
            before: the same, as it was.
            required: an argument more is no harm, also where it has no default.
        """
        added = [*self.positional[len(before.positional) :], *self.keyword]
        new = (argument for argument in added if argument not in before.keyword)
        return (
            self.rest == before.rest
            and self.positional[: len(before.positional)] == before.positional
            and {*before.keyword} <= {*self.keyword}
            and (required or all(" = " in argument for argument in new))
        )


def unversioned(before: str, after: str) -> str:
    """Why the page `after` must not take the place of `before`; empty where it may.

    What may break a plugin needs a new first number, what is added or told otherwise a new second.
    """
    old, new = dict(ENTRY.findall(before)), dict(ENTRY.findall(after))
    changed = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    if not old or not changed:
        return ""
    broken = [
        told for name in changed if name in old and (told := breach(old[name], new.get(name)))
    ]
    was, now = _version(before), _version(after)
    if broken and now[0] <= was[0]:
        what = f"a plugin may break, which needs a new first number: {'; '.join(broken)}"
    elif now[:2] <= was[:2]:
        what = f"the plugin API grew, which needs a new second number: {', '.join(changed)}"
    else:
        return ""
    return f"{what}. Raise API_VERSION in unlearn_cli/api, and say so in CHANGELOG.md"


def breach(before: str, after: str | None) -> str:
    """What a plugin could rely on in an entry and no longer can; empty where there is nothing."""
    (head, old), (new_head, new) = _parts(before), _parts(after or "")
    name = head[-1]
    if after is None:
        return f"{name} is gone"
    if not old:
        return "" if _admits(name, new_head[-1]) else f"{name} is another"
    if head != new_head:
        return f"{' '.join(head)} is now {' '.join(new_head)}"
    for member, line in old.items():
        if member not in new:
            return f"{member} is gone from {name}"
        if not _admits(line, new[member]):
            return f"{member} of {name} is another"
    if "(Protocol" in name and {*new} - {*old}:  # plugins have what it asks for
        return f"{name} asks for more"
    is_made = head[0].startswith("@dataclass")
    return f"{name} is made otherwise" if is_made and not _made(new).admits(_made(old)) else ""


def _parts(entry: str) -> tuple[list[str], dict[str, str]]:
    """The lines of its head; and those of its members, by name."""
    lines = entry.splitlines()
    members = [line.strip() for line in lines if line.startswith(" ")]
    named = {found[1]: line for line in members if (found := MEMBER.match(line))}
    return [line for line in lines if not line.startswith(" ")], named


def _admits(before: str, after: str) -> bool:
    if before == after:
        return True
    was, now = _arguments(before), _arguments(after)
    is_hook = before.startswith("hook ")
    return was is not None and now is not None and now.admits(was, required=is_hook)


def _arguments(line: str) -> Arguments | None:
    """Of a line `def f(...)` or `hook f(...)`; None of another."""
    kind, _, call = line.partition(" ")
    if kind not in ("def", "hook"):
        return None
    text, _, options = call.partition("  # ")
    node = ast.parse(f"def {SENTINEL.sub(lambda found: repr(found[0]), text)}: ...").body[0]
    assert isinstance(node, ast.FunctionDef)
    args, plain = node.args, [*node.args.posonlyargs, *node.args.args]
    first = [None] * (len(plain) - len(args.defaults))
    stars = [ast.unparse(star) if star else "" for star in (args.vararg, args.kwarg)]
    returns = ast.unparse(node.returns) if node.returns else ""
    return Arguments(
        " ".join([kind, node.name, *stars, returns, options]),
        [*map(_written, plain, [*first, *args.defaults])],
        [*map(_written, args.kwonlyargs, args.kw_defaults)],
    )


def _written(argument: ast.arg, default: ast.expr | None) -> str:
    text = ast.unparse(argument)
    return f"{text} = {ast.unparse(default)}" if default else text


def _made(members: dict[str, str]) -> Arguments:
    """The arguments with which a dataclass is made: its fields."""
    other = ("def ", "hook ")
    fields = [m for m in members.values() if not m.startswith(other) and "  # property" not in m]
    keyword = [field for field in fields if field.endswith(KEYWORD_ONLY)]
    return Arguments("", [field for field in fields if field not in keyword], keyword)


def _version(page: str) -> tuple[int, ...]:
    found = VERSION.search(page)
    assert found is not None, "the page names no version"
    return tuple(map(int, found.groups()))
