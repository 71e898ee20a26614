"""Reads which module of a crate uses which, for `arrows.py`; it judges nothing but circles.

A *top-level* module of a crate is its file, and the folder beside it. It uses another when its code names a path into it,
in a `use` or in an expression; a name that a parent module re-exports counts as a path to where it is defined.
`#[cfg(test)]` code, comments and strings do not count. Methods that are called without naming a path are not seen; uses
that would hide a path (`use x::*`, `use crate as c`) are faults of their own.

The root (`lib.rs`, or the file above the top-level modules) counts as one too. What it only declares (`mod`, `pub use`) is
its table of contents and no use.
"""

import re

BLANKED = re.compile(
    r"""//[^\n]*|/\*.*?\*/|\bb?r(\#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?'(?:\\[^']+|\\'|[^\\'\n])'""", re.S
)
TEST_ONLY = re.compile(r"#\[cfg\((?:test|all\(test\b[^\]]*\))\)\]\s*(?:#\[[^\]]*\]\s*)*")
ITEM = re.compile(r"(pub\b|fn|mod|impl|struct|enum|union|const|static|use|trait|type|async|unsafe|extern|macro_rules)\b")
USE = re.compile(r"\b(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);")
PATH = re.compile(r"(?<![\w:])\w+(?:\s*::\s*\w+)+")


def blank(match):
    return re.sub(r"[^\n]", " ", match[0])


def item_end(text, start):
    """Where the item, statement or field that begins at `start` ends."""
    is_use = re.match(r"(pub(\([^)]*\))?\s+)?use\b", text[start:])
    is_item = ITEM.match(text, start)
    depth = 0
    for at in range(start, len(text)):
        char = text[at]
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth < 0 or (char == "}" and depth == 0 and not is_use):
                return at + (depth == 0)
        elif depth == 0 and (char == ";" or (char == "," and not is_item)):
            return at + 1
    return len(text)


def code_of(text):
    """The text without comments, strings and test-only code, each line where it was; and the test-only modules."""
    text = BLANKED.sub(blank, text)
    if re.search(r"^#!\[cfg\(test\)\]", text, re.M):
        return "", []
    tests = []
    while found := TEST_ONLY.search(text):
        end = item_end(text, found.end())
        if module := re.match(r"(?:pub\S*\s+)?mod\s+(\w+)\s*;", text[found.end() : end]):
            tests.append(module[1])
        text = text[: found.start()] + re.sub(r"[^\n]", " ", text[found.start() : end]) + text[end:]
    return text, tests


def leaves(tree):
    """The paths of a use tree, as (segments, name in scope)."""
    parts, depth, start = [], 0, 0
    for at, char in enumerate(tree + ","):
        depth += (char == "{") - (char == "}")
        if char == "," and depth == 0:
            parts.append(tree[start:at].strip())
            start = at + 1
    for part in filter(None, parts):
        if group := re.fullmatch(r"(.*?)(?:::)?\s*\{(.*)\}", part, re.S):
            prefix = [s.strip() for s in group[1].split("::") if s.strip()]
            for segments, name in leaves(group[2]):
                if segments == ["self"]:
                    segments, name = [], name if name != "self" else prefix[-1]
                yield prefix + segments, name
        else:
            path, _, alias = part.partition(" as ")
            segments = [s.strip() for s in path.split("::") if s.strip()]
            yield segments, alias.strip() or segments[-1]


class Crate:
    """The modules of one crate; `sources` maps a path below `src` to its text."""

    def __init__(self, sources):
        self.code, self.paths, skipped = {}, {}, []
        for path, text in sources.items():
            segments = tuple(re.sub(r"(/mod)?\.rs$", "", path).split("/"))
            if segments[0] == "bin":
                continue  # a program of one file
            module = () if segments in [("lib",), ("main",)] else segments
            code, tests = code_of(text)
            skipped += [module + (name,) for name in tests]
            self.code.setdefault(module, []).append((path, code))
            self.paths[module] = path
        for test in skipped:
            for module in [m for m in self.code if m[: len(test)] == test]:
                del self.code[module]
        self.names = {module: dict(self.imports(module)) for module in self.code}

    def imports(self, module):
        for _, code in self.code[module]:
            for use in USE.finditer(code):
                for segments, name in leaves(use[2]):
                    yield name, segments

    def resolve(self, module, segments, hops=0):
        """The module in which what `segments` name is defined; None outside of the crate."""
        at, rest = module, list(segments)
        if rest[0] == "crate":
            at, rest = (), rest[1:]
        elif rest[0] in ("self", "super"):
            while rest and rest[0] in ("self", "super"):
                at, rest = (at[:-1] if rest[0] == "super" else at), rest[1:]
        elif at + (rest[0],) not in self.code:
            return None
        while rest:
            if at + (rest[0],) in self.code:
                at, rest = at + (rest[0],), rest[1:]
            elif rest[0] in self.names.get(at, {}) and hops < 8:
                known = self.names[at][rest[0]]
                return self.resolve(at, known + rest[1:], hops + 1) if known != [rest[0]] else None
            else:
                break
        return at

    def uses(self):
        """Every use as (module, module used, file, line); a `pub use` is none in the file that declares the module."""
        for module, files in self.code.items():
            for path, code in files:
                found = []
                for use in USE.finditer(code):
                    for segments, _ in leaves(use[2]):
                        found.append((use.start(2), segments, bool(use[1])))
                rest = re.sub(r"\bpub\(in[^)]*\)", blank, USE.sub(blank, code))
                for match in PATH.finditer(rest):
                    found.append((match.start(), re.split(r"\s*::\s*", match[0]), False))
                for start, segments, is_public in found:
                    target = self.resolve(module, segments)
                    if target is None or (is_public and target[: len(module)] == module):
                        continue
                    yield module, target, path, code.count("\n", 0, start) + 1

    def hidden(self):
        """Every use that the above cannot follow, as (file, line, what it is). Tests may have them."""
        for module, files in self.code.items():
            for path, code in files:
                for use in USE.finditer(code):
                    for segments, _ in leaves(use[2]):
                        line = code.count("\n", 0, use.start(2)) + 1
                        if segments[-1] == "*":
                            target = self.resolve(module, segments[:-1])
                            is_contents = use[1] and module and target and target[: len(module)] == module
                            if target is not None and not is_contents:
                                yield path, line, "a `*` hides which names are used: list them"
                        elif segments in (["crate"], ["super"]) and re.search(r"\bas\b", use[2]):
                            yield path, line, "a module under another name hides what is used of it"
                if found := re.search(r"#\[path\b", code):
                    line = code.count("\n", 0, found.start()) + 1
                    yield path, line, "a file that stands elsewhere is no module of this crate"


def circles(edges):
    """The strongly connected parts of a graph that have more than one member."""
    reach = {}
    for start in edges:
        seen, queue = set(), [start]
        while queue:
            for after in edges.get(queue.pop(), ()):
                if after not in seen:
                    seen.add(after)
                    queue.append(after)
        reach[start] = seen
    parts = {frozenset(b for b in reach[a] if a in reach.get(b, ())) for a in edges if a in reach[a]}
    return sorted((sorted(part) for part in parts if len(part) > 1))


def hidden_faults(name, sources):
    """One line for each use that would hide a circle."""
    for path, line, what in Crate(sources).hidden():
        yield f"{name}: {path}:{line}: {what}"


def circle_faults(name, sources, under=()):
    """One line for each circle between the modules directly below the module `under` of the crate `name`."""
    edges, where = {}, {}
    for module, target, path, line in Crate(sources).uses():
        if module[: len(under)] != under or target[: len(under)] != under:
            continue
        one, other = (m[len(under) : len(under) + 1] for m in (module, target))
        if one != other:
            one, other = "".join(one) or "(root)", "".join(other) or "(root)"
            edges.setdefault(one, set()).add(other)
            where.setdefault((one, other), f"{path}:{line}")
    for circle in circles(edges):
        uses = [
            f"{one} uses {other} ({where[one, other]})" for one in circle for other in circle if (one, other) in where
        ]
        yield f"{'::'.join((name, *under))}: {', '.join(circle)} are a circle: {'; '.join(uses)}"
