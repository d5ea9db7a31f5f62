#!/usr/bin/python3
"""How long one user waits for another's command.

A first user has 128,000 messages and runs each IMAP command over all of them; meanwhile a second one sends NOOP after NOOP. For
each command: how long it took, and the second user's longest wait, its 99th percentile, and how many NOOPs that is of.

usage: longest_wait.py [--binary THURN] [--messages N] [--limit-ms MS] [COMBO …]     (sqlite-local, pg-local, sqlite-remote, …)
With --limit-ms the status is 1 when a wait was longer. Measure with an optimized build on an idle machine.
"""
import argparse
import multiprocessing
import pathlib
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import harness  # noqa: E402

COMMANDS = (
    "SELECT INBOX", "FETCH 1:* (FLAGS)", "FETCH 1:* (UID FLAGS RFC822.SIZE INTERNALDATE)", "FETCH 1:* (ENVELOPE)",
    "FETCH 1:* (BODYSTRUCTURE)", "FETCH 1:* (BODY.PEEK[HEADER.FIELDS (SUBJECT FROM)])", "FETCH 1:20000 (BODY.PEEK[])",
    "SEARCH UNSEEN", "SEARCH SUBJECT foo", "SEARCH BODY foo", "UID SEARCH SENTSINCE 1-Jan-2020", "STORE 1:* +FLAGS (\\Flagged)",
    "STORE 1:* +FLAGS.SILENT (kw)", "COPY 1:50000 Archive", "COPY 1:* Trash", "STATUS Trash (MESSAGES UNSEEN SIZE)", 'LIST "" *',
    "NOOP", "STORE 2:64000 +FLAGS.SILENT (\\Deleted)", "EXPUNGE", "SELECT Trash", "DELETE Archive", "CLOSE",
)


class Client:
    def __init__(self, address, user):
        self.socket = socket.create_connection(address, timeout=600)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.n, self.rest = 0, b""
        self.socket.recv(65536)
        assert self.run(f'LOGIN {user}@example.test "{harness.PASSWORD}"') == "OK"

    def run(self, command):
        """Sends it, reads up to its tagged reply, and returns OK, NO or BAD."""
        self.n += 1
        tag = f"t{self.n:06}".encode()
        self.socket.sendall(tag + b" " + command.encode() + b"\r\n")
        tail = b"\r\n"
        while True:
            piece = self.socket.recv(1 << 20)
            if not piece:
                raise AssertionError(f"{command}: the connection was closed")
            tail = (tail + piece)[-4096:]
            at = tail.rfind(b"\r\n" + tag + b" ")
            if at >= 0 and tail.endswith(b"\r\n"):
                return tail[at + 2 + len(tag) + 1:].split(b" ", 1)[0].decode()

    def append(self, box, message):
        self.n += 1
        self.socket.sendall(f"t{self.n:06} APPEND {box} {{{len(message)}+}}\r\n".encode() + message + b"\r\n")
        answer = b""
        while not answer.endswith(b"\r\n") or f"t{self.n:06}".encode() not in answer:
            answer += self.socket.recv(65536)
        assert b" OK " in answer, answer


def fill(client, n):
    for i in range(min(n, 500)):
        text = "".join(f"line {i * 31 + k} of a message that says this and that\r\n" for k in range(20))
        client.append("INBOX", (f"From: Person {i} <p{i}@example.org>\r\nTo: ann@example.test, b{i}@example.net\r\nSubject: number {i}\r\n"
                                f"Message-ID: <{i}@example.org>\r\nDate: Mon, 6 Jul 2026 10:00:00 +0000\r\n\r\n{text}").encode())
    have = min(n, 500)
    client.run("SELECT INBOX")
    while have < n:
        more = min(have, n - have, 50000)
        assert client.run(f"COPY 1:{more} INBOX") == "OK"
        have += more


def knock(address, stop, out):
    """The second user, in a process of its own: what the first one's client does must not count."""
    bob, waits = Client(address, "bob"), []
    assert bob.run("SELECT INBOX") == "OK"
    while not stop.is_set():
        began = time.monotonic()
        bob.run("NOOP")
        waits.append((began, (time.monotonic() - began) * 1000))
    out.put(waits)


def measure(combo, binary, n):
    worst = 0.0
    with harness.Server(combo, binary=binary) as server:
        ann = Client(server.address("imap"), "ann")
        fill(ann, n)
        stop, out = multiprocessing.Event(), multiprocessing.Queue()
        other = multiprocessing.Process(target=knock, args=(server.address("imap"), stop, out))
        other.start()
        ran = []
        for command in COMMANDS:
            time.sleep(0.1)
            began = time.monotonic()
            answer = ann.run(command)
            ran.append((command, answer, began, time.monotonic()))
        stop.set()
        waits = out.get()
        other.join()
        print(f"{combo}, {n} messages\n{'command':62} {'took ms':>9} {'longest':>8} {'p99':>7} {'NOOPs':>7}")
        for command, answer, began, ended in ran:
            mine = sorted(ms for at, ms in waits if began - 0.02 < at < ended) or [0.0]
            worst = max(worst, mine[-1])
            print(f"{command[:62]:62} {(ended - began) * 1000:9.1f} {mine[-1]:8.1f} {mine[int(len(mine) * 0.99) - 1]:7.1f} "
                  f"{len(mine):7} {answer}", flush=True)
    return worst


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--binary", default=str(harness.BINARY))
    p.add_argument("--messages", type=int, default=128000)
    p.add_argument("--limit-ms", type=float)
    p.add_argument("combos", nargs="*", default=["sqlite-local", "pg-local"])
    a = p.parse_args()
    worst = max(measure(c, a.binary, a.messages) for c in a.combos)
    print(f"longest of all: {worst:.1f} ms")
    return 1 if a.limit_ms and worst > a.limit_ms else 0


if __name__ == "__main__":
    sys.exit(main())
