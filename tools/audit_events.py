#!/usr/bin/env python3
"""docs/operations.md lists every event of the record of administration, and no other: tools/audit_events.py

An event is a literal "noun.verb" in what writes the record, the auth service and the admin API; acts on the queue are
"queue." and the words of the API's table.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOUNS = "account|alias|domain|tenant|queue|store|token"


def written():
    found = set()
    for path in [*(ROOT / "auth-service").glob("*.c"), *(ROOT / "frontend/admin").glob("*.c")]:
        text = re.sub(r'\blog_\w+\(\s*"[^"]+"', "", path.read_text())
        found |= set(re.findall(rf'"((?:{NOUNS})\.[a-z_]+)"', text))
    ops = re.search(r"parse_op\(.*?ops\[\] = \{(.*?)\}", (ROOT / "frontend/admin/queue.c").read_text(), re.S)[1]
    return found | {f"queue.{op}" for op in re.findall(r'"(\w+)"', ops)}


def listed():
    """`account.add`, `.set`: the noun is said once."""
    text = re.search(r"is not done when that fails\. Events:(.*?)They are kept", (ROOT / "docs/operations.md").read_text(), re.S)[1]
    found, noun = set(), None
    for name in re.findall(r"`([a-z_.]+)`", text):
        head, verb = name.split(".")
        noun = head or noun
        found.add(f"{noun}.{verb}")
    return found


def main():
    code, doc = written(), listed()
    for e in sorted(code - doc):
        print(f"docs/operations.md: the event {e} is not listed")
    for e in sorted(doc - code):
        print(f"docs/operations.md: the event {e} is listed and nothing writes it")
    return 1 if code != doc or len(code) < 10 else 0


if __name__ == "__main__":
    sys.exit(main())
