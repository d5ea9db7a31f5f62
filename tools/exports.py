#!/usr/bin/python3
"""That a program exports no function of our libraries: a shared library that has one of the same name would call ours.

usage: exports.py PROGRAM LIBRARY.a …
"""
import subprocess
import sys


def names(*args):
    out = subprocess.run(["nm", "--defined-only", *args], check=True, capture_output=True, text=True).stdout
    return {words[2] for words in (line.split() for line in out.splitlines()) if len(words) == 3 and words[1].isupper()}


def main():
    program, *libraries = sys.argv[1:]
    ours = set().union(*(names(library) for library in libraries))
    assert "event_add" in ours and len(ours) > 500, f"{len(ours)} names in the libraries"
    seen = {n for n in names("-D", program) & ours if not n.startswith("_")}
    for name in sorted(seen):
        print(f"{program} exports {name}")
    return 1 if seen else 0


if __name__ == "__main__":
    sys.exit(main())
