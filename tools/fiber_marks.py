#!/usr/bin/env python3
"""Whoever calls a function marked FIBER is marked FIBER himself: tools/fiber_marks.py [--fix] FOLDER...

Reads all C sources of the tree for the marks and checks the functions defined in the named folders. Functions that only
hand a suspending function on (fiber_spawn and the like) are not callers. --fix puts the missing marks.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = ["lib", "frontend", "auth-service", "store-service", "queue-service", "server"]
DEFINITION = re.compile(r"^((?:[A-Za-z_][\w ]*[ *])\(?)(\w+)\(([^;{}]*)\)\s*\n?\{", re.M)
MARKED = re.compile(r"\bFIBER\b[\w\s*]*?[\s*](\w+)\(")
MARKED_POINTER = re.compile(r"\bFIBER\b[\w\s*]*\(\*(\w+)\)\(")
DECLARED = re.compile(r"^(?!FIBER)[A-Za-z_][\w *]*[ *](\w+)\([^;{}]*\)[^;{}]*;", re.M)
IMPLIED = {"FIBER_GROUP": "fiber_group_done"}


def bare(text):
    """Comments, strings and preprocessor lines out, length kept."""
    blank = lambda m: re.sub(r"[^\n]", " ", m.group(0))
    text = re.sub(r"/\*.*?\*/|//[^\n]*", blank, text, flags=re.S)
    text = re.sub(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blank, text)
    return re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", blank, text, flags=re.M)


def definitions(text):
    for m in DEFINITION.finditer(text):
        end = text.find("\n}", m.end())
        yield m.group(2), m.start(), m.group(1), text[m.end() : end if end >= 0 else len(text)]


def main():
    fix = "--fix" in sys.argv
    folders = [str((ROOT / a).resolve()) for a in sys.argv[1:] if not a.startswith("--")] or [str(ROOT)]
    files = {p: bare(p.read_text()) for s in SOURCES for p in (ROOT / s).rglob("*.[ch]")}
    public, pointers, local, unmarked = set(), set(), {}, {}
    for path, text in files.items():
        marked = set(MARKED.findall(text))
        pointers |= set(MARKED_POINTER.findall(text))
        if path.suffix == ".h":
            public |= marked
            unmarked.setdefault(path.parent, set()).update(DECLARED.findall(text))
        local[path] = marked
    n_missing = 0
    for path, text in sorted(files.items()):
        if path.suffix != ".c" or not any(str(path).startswith(f) for f in folders):
            continue
        found = list(definitions(text))
        changed, missing = True, {}
        while changed:
            changed = False
            # A name of another folder does not count where this folder has its own.
            known = (public - unmarked.get(path.parent, set())) | local[path]
            for name, start, head, body in found:
                if name in known or name == "main": # which runs before there are fibers
                    continue
                calls = set(re.findall(r"(?<![\w>.])(\w+)\s*\(", body))
                calls |= {IMPLIED[c] for c in calls if c in IMPLIED}
                why = next(iter(sorted(calls & known - {name})), None)
                for p in pointers:
                    if not why and re.search(r"(?:->|\.)%s\(" % p, body):
                        why = "->" + p
                if why:
                    local[path].add(name)
                    missing[start] = (name, why)
                    changed = True
        n_missing += len(missing)
        if fix and missing:
            source = path.read_text()
            for start in sorted(missing, reverse=True):
                source = source[:start] + "FIBER " + source[start:]
            for name, _ in missing.values(): # forward declarations
                source = re.sub(r"^(static [\w ]+[ *]%s\([^;{}]*\);)" % name, r"FIBER \1", source, flags=re.M)
            path.write_text(source)
        elif missing:
            for name, why in missing.values():
                print("%s: %s calls %s and is not marked FIBER" % (path.relative_to(ROOT), name, why))
    return 1 if n_missing and not fix else 0


sys.exit(main())
