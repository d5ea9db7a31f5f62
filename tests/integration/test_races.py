#!/usr/bin/python3
"""Commands that name one mailbox at the same moment, from many clients of one process and of two front-ends.

Each round races DELETE and APPEND against RENAME, or two RENAMEs, for a mailbox that holds one message. Nothing may be lost: a
message is where a RENAME that said OK took its mailbox, or it went with a DELETE that said OK when no RENAME did; an APPEND that
said OK is in a mailbox of the name that it gave, or of the name that this one was given since. usage: test_races.py [TEST …]
"""
import imaplib
import random
import threading

import harness
from harness import PASSWORD, Process, Server, free_ports

ROUNDS = 60
MESSAGE = b"Subject: kept\r\n\r\nbody\r\n"


def login(address):
    c = imaplib.IMAP4(*address, timeout=60)
    c.login("ann@example.test", PASSWORD)
    return c


def names(c):
    return {line.split()[-1].strip(b'"').decode() for line in c.list()[1] if line}


def count(c, name):
    kind, data = c.status(name, "(MESSAGES)")
    return int(data[0].rstrip(b")").split()[-1]) if kind == "OK" else None


def at_once(*acts):
    """The replies ("OK" or "NO") of functions that all begin at the same moment."""
    barrier, replies = threading.Barrier(len(acts)), [None] * len(acts)

    def run(i):
        barrier.wait()
        replies[i] = acts[i]()[0]
    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(acts))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(r in ("OK", "NO") for r in replies), replies
    return replies


def race(one, two):
    """Rounds between clients of two addresses."""
    clients = [login(random.choice((one, two))) for _ in range(4)]
    clients[0], clients[1] = login(one), login(two)
    a, b, d, e = clients
    won = {"rename": 0, "delete": 0}
    for i in range(ROUNDS):
        box, left, right = f"Race{i}", f"Left{i}", f"Right{i}"
        assert a.create(box)[0] == "OK" and a.append(box, None, None, MESSAGE)[0] == "OK"
        if i % 2:
            replies = at_once(lambda: a.rename(box, left), lambda: b.rename(box, right))
            assert sorted(replies) == ["NO", "OK"], f"two RENAMEs said {replies}"
            there = names(a) & {box, left, right}
            assert there == {left if replies[0] == "OK" else right}, f"{replies}: {there}"
            assert count(a, there.pop()) == 1
            continue
        renamed, deleted, appended, subscribed = at_once(
            lambda: a.rename(box, left), lambda: b.delete(box), lambda: d.append(box, None, None, MESSAGE),
            lambda: e.subscribe(box))
        there = names(a) & {box, left}
        assert subscribed == "OK"
        assert (renamed == "OK") != (deleted == "OK"), f"RENAME {renamed}, DELETE {deleted}"
        if renamed == "OK":
            won["rename"] += 1
            assert there == {left}, there
            assert count(a, left) == (2 if appended == "OK" else 1), f"lost: RENAME OK, APPEND {appended}"
        else:
            won["delete"] += 1
            assert there == set(), there
    print(f"      of {ROUNDS // 2} races RENAME won {won['rename']}, DELETE {won['delete']}", flush=True)
    for c in clients:
        c.logout()


def test_one_process():
    with Server("sqlite-local") as server:
        race(server.address("imap"), server.address("imap"))


def second_frontend(server):
    """Another front-end process on the services of a remote server."""
    http_port, imap_port = free_ports(2)
    text = server.processes[1].config.read_text()
    listen = text[text.index("listen:\n"):]
    rest = "".join(line for line in listen.splitlines(True)[1:] if not line.startswith("  "))
    config = (text[:text.index("listen:\n")].replace(f"{server.folder}/data\n", f"{server.folder}/data2\n") +
              f"listen:\n  imap: 127.0.0.1:{imap_port}\n  http: 127.0.0.1:{http_port}\n" + rest)
    process = Process(server.folder, "frontend2", config, http_port, server.binary)
    server.processes.append(process)
    process.start()
    return "127.0.0.1", imap_port


def test_two_frontends():
    for combo in ("sqlite-remote", "pg-remote"):
        with Server(combo) as server:
            race(server.address("imap"), second_frontend(server))


if __name__ == "__main__":
    harness.run_tests(globals())
