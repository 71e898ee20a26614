#!/usr/bin/env python3
"""Checks the dependencies: which crate may depend on which, what the sans-IO crates may reach, no circles within a crate.

Run by `.ci/run arrows`; needs cargo and python3's standard library.

    arrows.py              check this repository; exit 1 and one line for each fault
    arrows.py --self-test  run the checks on doctored trees; exit 1 when a fault in one is not noticed

What it holds:
  1. The arrows between our crates are those of ARROWS, in dev- and build-dependencies too.
  2. `sse`, `proto` and `core` reach, over any number of steps, with every feature and on every platform,
     only the crates of PURE: no tokio, no hyper, no SQL, no clock, no entropy.
  3. Of those crates they enable no feature that brings a clock or entropy (REFUSED_FEATURES).
  4. Their own sources use no clock, no entropy and no operating system (REFUSED_CODE).
  5. `sse` is no_std: it declares so, does not import std, and enables no `std` feature but for speed. With these the compiler
     itself refuses `std::` in it; a build for a bare-metal target would need a target that is not installed.
  6. The top-level modules of a crate form no circle (`modules.py` reads them); nor do those of PROGRAMS.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

from modules import circle_faults, hidden_faults

# Who may depend on whom; `hub` and `client` never meet. None: sees everything, and only tests may depend on it.
ARROWS = {
    "bellwire-sse": set(),
    "bellwire-proto": set(),
    "bellwire-core": {"bellwire-proto"},
    "bellwire-hub": {"bellwire-core", "bellwire-proto", "bellwire-sse"},
    "bellwire-client": {"bellwire-proto", "bellwire-sse"},
    "bellwire": {"bellwire-hub", "bellwire-client", "bellwire-proto", "bellwire-sse"},
    "bellwire-testkit": None,
    "bellwire-bench": None,
}
TESTKIT = "bellwire-testkit"

SANS_IO = ["bellwire-sse", "bellwire-proto", "bellwire-core"]
NO_STD = "bellwire-sse"

# Modules that are a program in themselves: their submodules form no circle either.
PROGRAMS = {"bellwire-client": [("agent",)]}

# Crates that compute and do nothing else. Before you add one: it reads no clock, draws no entropy, opens nothing.
PURE = {
    "bellwire-proto",
    "bytes",
    "itoa",
    "jiff",  # as a calendar; its own clock is behind `std`
    "jiff-core",
    "memchr",
    "portable-atomic",
    "portable-atomic-util",
    "ryu",
    "serde",
    "serde_core",
    "serde_json",
    "simdutf8",
    "thin-vec",
    "strsim", "thiserror",
    "uuid",  # as a parser; its generators are behind features
    "zmij",
}

# Crates whose `std` does no more than choose instructions at run time. The no_std crate may offer it as a feature.
STD_FOR_SPEED = {"memchr", "simdutf8"}

# Only for the message: what the commonest foreign crates would bring.
KNOWN_FOREIGN = [
    (r"tokio.*|mio|async-std|smol|futures.*", "an async runtime"),
    (r"hyper.*|http|http-body.*|axum.*|tower.*|reqwest|h2", "HTTP"),
    (r"rusqlite|libsqlite3-sys|sqlx.*|diesel.*|redb|sled", "a database"),
    (r"getrandom|rand|rand_.*|fastrand|ahash", "entropy"),
    (r"time|chrono|web-time|quanta|coarsetime|instant|iana-time-zone", "a clock"),
    (r"socket2|rustls.*|libc|rustix|nix|windows-sys", "the operating system"),
]

REFUSED_FEATURES = {
    "jiff": r"std|tz-system|tzdb-.*|default",
    "uuid": r"v1|v4|v6|v7|rng.*|fast-rng|default",
}

REFUSED_CODE = [
    (r"\b(SystemTime|Instant|Timestamp|Zoned|Utc|Local)::now\b", "a clock: time is handed in"),
    (r"\bUuid::(new_v4|now_v\d)\b", "a clock or entropy: ids are handed in"),
    (r"\b(getrandom|rand|fastrand)::|\bthread_rng\b|\bRandomState\b", "entropy: it is handed in"),
    (r"\bstd::(\{[^}]*\b)?(fs|net|process|env|thread|os)\b", "the operating system"),
    (r"\btokio::", "an async runtime"),
]


def arrow_faults(packages):
    """Faults in the arrows; `packages` as in `cargo metadata --no-deps`."""
    for package in packages:
        name = package["name"]
        if name not in ARROWS:
            yield f"{name} has no row in ARROWS: add what it may depend on"
            continue
        for dependency in package["dependencies"]:
            target, kind = dependency["name"], dependency["kind"] or "normal"
            if target == name or not re.fullmatch(r"bellwire(-.*)?", target):
                continue
            if kind == "dev" and target == TESTKIT:
                continue
            if ARROWS[name] is not None and target not in ARROWS[name]:
                yield f"{name} -> {target} ({kind} dependency) is not an arrow of the design"


def parse_tree(text):
    """Lines of `cargo tree --prefix depth -f '|{p}|{f}'` as (path from the root, features)."""
    path = []
    for line in text.splitlines():
        match = re.match(r"(\d+)\|(\S+) v[^|]*\|(\S*)", line)
        if not match:
            raise SystemExit(f"arrows: cannot read this line of cargo tree: {line!r}")
        depth, name, features = int(match[1]), match[2], match[3]
        path[depth:] = [name]
        yield list(path), set(filter(None, features.split(",")))


def tree_faults(root, tree):
    """Faults in what `root`, a sans-IO crate, reaches; `tree` is the text for `parse_tree`."""
    entries = list(parse_tree(tree))
    if not entries or entries[0][0] != [root]:
        raise SystemExit(f"arrows: cargo tree printed nothing about {root}")
    faults = {}  # a crate is reached by many ways, and reported by the first
    for path, features in entries[1:]:
        name, way = path[-1], " -> ".join(path)
        if not PURE.issuperset(path[1:-1]):
            continue  # what a foreign crate brings along is no fault of its own
        if name not in PURE:
            bringing = [what for pattern, what in KNOWN_FOREIGN if re.fullmatch(pattern, name)]
            reason = f"brings {bringing[0]}" if bringing else "is not in PURE"
            faults.setdefault(name, f"{way}: {name} {reason}")
        refused = {f for f in features if re.fullmatch(REFUSED_FEATURES.get(name, "(?!)"), f)}
        if root == NO_STD and name not in STD_FOR_SPEED:
            refused |= features & {"std"}
        for feature in sorted(refused):
            faults.setdefault((name, feature), f"{way}: the feature `{feature}` of {name} is not for {root}")
    yield from faults.values()


def source_faults(sources):
    """Faults in the code of the sans-IO crates; `sources` maps a path to its text. Comments are not code."""
    for path, text in sources.items():
        for number, line in enumerate(text.splitlines(), start=1):
            code = line.split("//")[0]
            for pattern, what in REFUSED_CODE:
                if found := re.search(pattern, code):
                    yield f"{path}:{number}: `{found[0]}` is {what}"


def no_std_faults(path, lib_rs):
    """Faults in the root module of the no_std crate."""
    if not re.search(r"^#!\[(no_std|cfg_attr\(not\(test\), no_std\))\]", lib_rs, re.M):
        yield f"{path}: no `#![no_std]`"
    if re.search(r"(?<!#\[cfg\(test\)\]\n)^extern crate std\b", lib_rs, re.M):
        yield f"{path}: `extern crate std` takes std back"


def cargo(*arguments):
    done = subprocess.run(["cargo", *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"arrows: `cargo {' '.join(arguments)}` failed")
    return done.stdout


def repository_faults(root):
    metadata = json.loads(cargo("metadata", "--format-version=1", "--no-deps", "--locked"))
    yield from arrow_faults(metadata["packages"])
    directories = {p["name"]: Path(p["manifest_path"]).parent.relative_to(root) for p in metadata["packages"]}
    for name in SANS_IO:
        tree = cargo(
            *["tree", "--locked", "-p", name, "-e", "normal,no-proc-macro", "--all-features"],
            *["--target", "all", "--no-dedupe", "--prefix", "depth", "-f", "|{p}|{f}"],
        )
        yield from tree_faults(name, tree)
        files = sorted((root / directories[name] / "src").rglob("*.rs"))
        yield from source_faults({f.relative_to(root): f.read_text() for f in files})
    for name, directory in sorted(directories.items()):
        source = root / directory / "src"
        sources = {f.relative_to(source).as_posix(): f.read_text() for f in sorted(source.rglob("*.rs"))}
        yield from hidden_faults(name, sources)
        for under in [(), *PROGRAMS.get(name, [])]:
            yield from circle_faults(name, sources, under)
    lib_rs = directories[NO_STD] / "src/lib.rs"
    yield from no_std_faults(lib_rs, (root / lib_rs).read_text())


def circle_cases():
    """Doctored crates for `circle_faults`: modules `a` and `b`, of which `b` uses `a` in every one."""

    def crate(a, lib="mod a;\nmod b;\n", **others):
        files = {"lib.rs": lib, "a.rs": a, "b.rs": "use crate::a::One;\n"}
        return {**files, **{name.replace("_", "/") + ".rs": text for name, text in others.items()}}

    def faults(sources, under=()):
        return circle_faults("x", sources, under)

    nested = {"lib.rs": "mod p;", "p.rs": "mod a;\nmod b;", "p/a.rs": "use super::b::X;", "p/b.rs": "use super::a::Y;"}
    circle, both, calling = "a, b are a circle", "mod a;\nmod b;\n", "mod a;\nfn f() {\n    b::two()\n}"
    return [
        ("modules in one direction", faults(crate("pub struct One;")), None),
        ("two modules use each other", faults(crate("use crate::b::Two;")), circle),
        ("a circle in a group", faults(crate("use crate::{\n    b::{Two, Three as T},\n};")), circle),
        ("a circle by `super`", faults(crate("use super::b;")), circle),
        ("a circle in an expression", faults(crate("fn f() {\n    crate::b::two()\n}")), "a.rs:2"),
        ("a circle by a submodule", faults(crate("mod c;", a_c="use super::super::b::Two;")), "a/c.rs:1"),
        ("a circle by a re-export", faults(crate("use crate::Two;", lib=both + "pub use b::Two;")), circle),
        ("a circle by an import", faults(crate("use crate::Y;", lib=both + "use b::Two as Y;")), circle),
        ("a circle of three", faults(crate("use crate::c::X;", c="use crate::b::Two;\nstruct X;")), "a, b, c are"),
        ("a module uses the root's code", faults(crate("", lib=calling, b="use crate::f;")), "(root), b"),
        ("a module of tests", faults(crate("fn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::b::Two;\n}")), None),
        ("a file of tests", faults(crate("#[cfg(test)]\nmod tests;", a_tests="use crate::b::Two;")), None),
        ("a use for tests", faults(crate("#[cfg(test)]\nuse crate::{b::Two};\nfn one() {}")), None),
        ("code behind a test's", faults(crate("#[cfg(test)]\nfn f() { 1 }\nuse crate::b::Two;")), "a.rs:3"),
        ("a comment and a string", faults(crate("//! See `crate::b::Two`.\nconst A: &str = \"crate::b::Two\";")), None),
        ("names behind a star", hidden_faults("x", crate("use super::*;")), "a.rs:1"),
        ("names behind the root's star", hidden_faults("x", crate("", lib=both + "pub use b::*;")), "lib.rs:3"),
        ("the root by another name", hidden_faults("x", crate("use crate as c;")), "a.rs:1"),
        ("a file of elsewhere", hidden_faults("x", crate('#[path = "../c.rs"]\nmod c;')), "a.rs:1"),
        ("a star in a test", hidden_faults("x", crate("#[cfg(test)]\nmod tests {\n    use super::*;\n}")), None),
        ("a module's contents", hidden_faults("x", crate("mod c;\npub use c::*;", a_c="pub struct X;")), None),
        ("modules of a folder are not judged", faults(nested), None),
        ("modules of a program are", faults(nested, ("p",)), circle),
    ]


def self_test():
    """Each check, given one sound input and then doctored ones: it must be silent, then name the culprit."""

    def packages(name, *dependencies):
        return [{"name": name, "dependencies": [{"name": n, "kind": k} for n, k in dependencies]}]

    def tree(root, *lines):
        return "\n".join([f"0|{root} v0.1.0 (/src)|", *lines])

    sse, proto, core, hub, client = (f"bellwire-{n}" for n in ["sse", "proto", "core", "hub", "client"])
    # (the input, the check's answer, a part of the one expected fault, or None for a sound input)
    cases = [
        ("the hub as designed", arrow_faults(packages(hub, (core, None), ("tokio", None))), None),
        ("tests may use the kit", arrow_faults(packages(hub, (TESTKIT, "dev"))), None),
        ("hub meets client", arrow_faults(packages(hub, (client, None))), client),
        ("client meets hub in its tests", arrow_faults(packages(client, (hub, "dev"))), hub),
        ("core looks up", arrow_faults(packages(core, (hub, None))), hub),
        ("core frames events", arrow_faults(packages(core, (sse, None))), sse),
        ("sse has a neighbour", arrow_faults(packages(sse, (proto, None))), proto),
        ("the kit is shipped", arrow_faults(packages("bellwire", (TESTKIT, None))), TESTKIT),
        ("a crate without a row", arrow_faults(packages("bellwire-common")), "ARROWS"),
        ("core as designed", tree_faults(core, tree(core, f"1|{proto} v0.1.0 (/src)|", "2|uuid v1.2.3|std")), None),
        ("tokio two steps away", tree_faults(core, tree(core, f"1|{proto} v0.1.0|", "2|tokio v1.0.0|rt")), "runtime"),
        ("SQL in core", tree_faults(core, tree(core, "1|rusqlite v0.41.0|", "2|libc v0.2.0|")), "database"),
        ("hyper in proto", tree_faults(proto, tree(proto, "1|hyper v1.0.0|")), "HTTP"),
        ("entropy by a feature", tree_faults(proto, tree(proto, "1|uuid v1.2.3|std,v7")), "`v7`"),
        ("a clock by a feature", tree_faults(proto, tree(proto, "1|jiff v0.2.0|alloc,std")), "`std`"),
        ("a crate that was not reviewed", tree_faults(proto, tree(proto, "1|newcomer v0.1.0|")), "PURE"),
        ("sse with std", tree_faults(sse, tree(sse, "1|serde v1.0.0|alloc,std")), "`std`"),
        ("sse with faster instructions", tree_faults(sse, tree(sse, "1|memchr v2.0.0|alloc,std")), None),
        ("a clock in a comment", source_faults({"a.rs": "let x = now; // not Instant::now()"}), None),
        ("a clock in code", source_faults({"a.rs": "let now = std::time::Instant::now();"}), "a.rs:1"),
        ("an id made here", source_faults({"a.rs": "\nUuid::now_v7()"}), "a.rs:2"),
        ("a file in a grouped import", source_faults({"a.rs": "use std::{fmt, fs};"}), "operating system"),
        ("no_std", no_std_faults("lib.rs", "//! x\n#![no_std]\nextern crate alloc;\n"), None),
        ("std in tests", no_std_faults("lib.rs", "#![no_std]\n#[cfg(test)]\nextern crate std;\n"), None),
        ("std by default", no_std_faults("lib.rs", "//! x\n"), "no_std"),
        ("std taken back", no_std_faults("lib.rs", "#![no_std]\nextern crate std;\n"), "extern crate std"),
        *circle_cases(),
    ]
    failures = 0
    for name, faults, expected in cases:
        faults = list(faults)
        sound = not faults if expected is None else len(faults) == 1 and expected in faults[0]
        if not sound:
            failures += 1
            print(f"arrows self-test: {name}: expected {expected or 'silence'}, got {faults}")
    if failures == 0:
        print(f"arrows self-test: {len(cases)} cases, all as expected")
    return failures


def main():
    if sys.argv[1:] == ["--self-test"]:
        sys.exit(1 if self_test() else 0)
    if sys.argv[1:]:
        sys.exit(__doc__)
    faults = list(repository_faults(Path(__file__).resolve().parent.parent))
    for fault in faults:
        print(f"arrows: {fault}", file=sys.stderr)
    if not faults:
        print(f"arrows: as designed; {', '.join(SANS_IO)} compute and do nothing else")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
