#!/usr/bin/python3
"""run.py SHAPE [PART OF A SCRIPT'S NAME]…: the scripts of imap and mail against a whole server of that shape (harness.py).

Before each script the accounts alice and bob (3000 bytes), with the password "secret", are made anew. THURN_DIALOG is the program
that runs a script: dialog.c.
"""
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import harness  # noqa: E402

DIALOG = os.environ.get("THURN_DIALOG", harness.ROOT / "build/asan/tests/dialog")
LIMITS = "limits.message_size: 2M\nlimits.imap_sessions_per_account: 3\n"
ACCOUNTS = {"alice@example.test": "100M", "bob@example.test": "3000"}


def main():
    folder = pathlib.Path(__file__).parent
    paths = sorted(p for part in ("imap", "mail") for p in (folder / part).glob("*.txt")
                   if len(sys.argv) == 2 or any(c in p.name for c in sys.argv[2:]))
    failed = 0
    with harness.Server(sys.argv[1], accounts=(), extra=LIMITS) as server:
        listeners = [f"{kind}=127.0.0.1:{port}" for kind, port in server.ports.items()]
        rows = "".join(f"{address},secret,{quota}\n" for address, quota in ACCOUNTS.items())
        for i, path in enumerate(paths):
            for address in ACCOUNTS if i else ():
                server.admin("account", "remove", "--yes", address)
            server.admin("account", "add", "--from-file", "-", stdin=rows)
            if path.parent.name == "mail":  # it remembers for some seconds whose mailbox an address is
                server.front.stop()
                server.front.start()
            r = subprocess.run([DIALOG, path, *listeners], capture_output=True, text=True, errors="backslashreplace", timeout=120)
            print("FAIL " if r.returncode else "ok   ", path.name, r.stderr, flush=True)
            failed += r.returncode != 0
        for p in server.processes if failed else ():
            print(f"--- {p.name} ---\n{p.tail(40)}")
    print(f"{len(paths) - failed} passed, {failed} failed")
    return 1 if failed or not paths else 0


if __name__ == "__main__":
    sys.exit(main())
