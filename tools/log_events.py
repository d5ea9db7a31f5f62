#!/usr/bin/env python3
"""docs/log.md lists every event of the log once, with its level, in order: tools/log_events.py

An event is the string literal of a log call. Some calls choose among several: those need only be literals somewhere.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = ["lib", "frontend", "auth-service", "store-service", "queue-service", "server"]
CALL = re.compile(r'\blog_(error|warn|info|debug)\(\s*"([^"]+)"')
ROW = re.compile(r"\| ([a-z0-9_., ]+) \| ([a-z, ]+) \| [^|]*\| [^|]+ \|$", re.M)


def main():
    calls, literals, complaints = {}, set(), []
    for path in sorted(p for folder in SOURCES for p in (ROOT / folder).rglob("*.c")):
        text = path.read_text()
        literals |= set(re.findall(r'"([a-z]+\.[a-z_]+)"', text))
        for level, event in CALL.findall(text):
            calls.setdefault(event, set()).add(level)
    listed = {}
    for names, levels in ROW.findall((ROOT / "docs/log.md").read_text()):
        names, levels = names.split(", "), levels.split(", ")
        for i, name in enumerate(names):
            if name in listed:
                complaints.append(f"{name} is listed twice")
            listed[name] = {levels[i]} if len(levels) == len(names) else set(levels)
    listed.pop("event", None)
    complaints += [f"{e} is not listed" for e in calls if e not in listed]
    complaints += [f"{e} is listed and nothing logs it" for e in listed if e not in literals]
    complaints += [f"{e} is logged as {', '.join(sorted(calls[e]))}, not as {', '.join(sorted(listed[e]))}"
                   for e in calls if e in listed and calls[e] != listed[e]]
    firsts = [names.split(", ")[0] for names, _ in ROW.findall((ROOT / "docs/log.md").read_text()) if names != "event"]
    complaints += [f"{b} stands after {a}" for a, b in zip(firsts, firsts[1:]) if a > b]
    for c in sorted(complaints):
        print(f"docs/log.md: {c}")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
