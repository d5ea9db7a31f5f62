#!/usr/bin/env python3
"""Every setting that the mail front-ends read is marked WORKER in config.def, and no secret is: tools/worker_settings.py

Where a process listens is not the workers' matter: they inherit the sockets.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROW = re.compile(r'^SETTING\((\w+), "[^"]*", (\w+), "[^"]*", \d+, \d+, ([A-Z0-9 |]+),', re.M)
PARENTS = re.compile(r"LISTEN_\w+|PORT_OFFSET|RPC_LISTEN")


def main():
    rows = {name: (kind, marks) for name, kind, marks in ROW.findall((ROOT / "lib/base/config.def").read_text())}
    read = {name for name in re.findall(r"\bCFG_(\w+)", (ROOT / "server/frontends.c").read_text()) if not PARENTS.fullmatch(name)}
    complaints = [f"{name} is read by front-ends, but workers are not told it" for name in sorted(read) if "WORKER" not in rows[name][1]]
    complaints += [f"{name} is a secret, and workers are told it" for name, (kind, marks) in rows.items() if kind.startswith("SECRET") and "WORKER" in marks]
    print("\n".join(complaints) or f"{len(read)} settings, all told")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
