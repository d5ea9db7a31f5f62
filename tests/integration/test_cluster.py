#!/usr/bin/python3
"""A whole cluster: PostgreSQL (directory, queue, two shards), Redis, S3, and every role twice in processes of its own.

News across front-ends, what a front-end knows and holds, the command line over HTTP, and what goes on while a store node, a shard,
Redis or the S3 server is away. usage: test_cluster.py [TEST …]
"""
import base64
import imaplib
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import threading
import time

import directory_news
import harness
from cluster import Cluster
from harness import PASSWORD, wait_until

USERS = [f"u{i}@example.test" for i in range(1, 9)]


def send(cluster, to, subject, size=100, front=1, sender="s@out.test"):
    """The reply to the message: (code, text), of RCPT when that is refused."""
    with cluster.smtp(front) as s:
        body = base64.encodebytes(random.randbytes(size)).decode().replace("\n", "\r\n")
        assert s.mail(sender)[0] == 250
        reply = s.rcpt(to)
        if reply[0] != 250:
            return reply
        return s.data(f"Subject: {subject}\r\nTo: {to}\r\n\r\n{body}")


def subjects(cluster, user, front=1):
    c = cluster.imap(user, front)
    try:
        if int(c.select("INBOX", readonly=True)[1][0]) == 0:
            return []
        kind, data = c.fetch("1:*", "(ENVELOPE)")
        assert kind == "OK", data
        return [re.search(rb'ENVELOPE \((?:NIL|"[^"]*") "([^"]*)"', d)[1].decode() for d in data]
    finally:
        c.logout()


def arrives(cluster, user, subject, front=1, timeout=60):
    """Waits until it is there, and is there once."""
    def there():
        try:
            return subject in subjects(cluster, user, front)
        except cluster_errors:
            return False
    wait_until(there, f"'{subject}' in the mailbox of {user}", timeout)
    assert subjects(cluster, user, front).count(subject) == 1


cluster_errors = (OSError, imaplib.IMAP4.error)


def idle_times(cluster, n=10):
    """How long after its 250 through front-end 1 an IDLE on front-end 2 tells of a message, in ms."""
    c = cluster.imap(USERS[0], 2)
    c.select("INBOX")
    c.send(b"i IDLE\r\n")
    assert c.readline().startswith(b"+")
    times = []
    with cluster.smtp(1) as s:
        for i in range(n):
            told = []

            def listen():
                while b"EXISTS" not in (line := c.readline()):
                    assert line, "the connection ended"
                told.append(time.monotonic())
            listener = threading.Thread(target=listen, daemon=True)
            listener.start()
            assert s.mail("s@out.test")[0] == 250 and s.rcpt(USERS[0])[0] == 250 and s.data(f"Subject: idle {i}\r\n\r\nx")[0] == 250
            taken = time.monotonic()
            listener.join(20)
            assert told, "IDLE was not told"
            times.append((told[0] - taken) * 1000)
    c.send(b"DONE\r\n")
    while not c.readline().startswith(b"i OK"):
        pass
    kind, data = c.fetch("*", "(BODY.PEEK[])")
    assert f"Subject: idle {n - 1}".encode() in data[0][1]
    c.logout()
    return sorted(times)


def test_idle_across_frontends(cluster):
    times = idle_times(cluster)
    print(f"IDLE on the other front-end is told {times[0]:.0f} to {times[-1]:.0f} ms (median {times[len(times) // 2]:.0f}) after the 250")
    assert times[-1] < 1000, times


def test_change_of_password_ends_sessions(cluster):
    """On every front-end, in IDLE and between commands; nobody else's."""
    cluster.thurn("account", "add", "turn@example.test", "--password", PASSWORD)
    open_sessions = [cluster.imap("turn@example.test", front) for front in (1, 2)]
    others = [cluster.imap(USERS[0], front) for front in (1, 2)]
    open_sessions[1].select("INBOX")
    open_sessions[1].send(b"i IDLE\r\n")
    assert open_sessions[1].readline().startswith(b"+")
    cluster.thurn("account", "passwd", "turn@example.test", "--password", "another one of 42 trees")
    changed = time.monotonic()
    for c in open_sessions:
        c.sock.settimeout(20)
        assert c.readline().startswith(b"* BYE [AUTHENTICATIONFAILED]")
        assert c.readline() == b""
    took = time.monotonic() - changed
    print(f"sessions end {took:.1f} s after the change of their password")
    assert took < 10
    for c in others:
        assert c.noop()[0] == "OK"
        c.logout()
    cluster.imap("turn@example.test", 2, "another one of 42 trees").logout()
    cluster.thurn("account", "remove", "--yes", "turn@example.test")


def test_directory_news(cluster):
    """Changed through one front-end, noticed on the other within two seconds."""
    directory_news.check(cluster.thurn, lambda user: cluster.imap(user, 2), lambda: cluster.smtp(2))


def peers(pid):
    """TCP ports that this process is connected to."""
    inodes = set()
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            if m := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(fd)):
                inodes.add(m[1])
        except OSError:
            pass
    rows = [line.split() for name in ("tcp", "tcp6") for line in pathlib.Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]]
    return {int(r[2].rsplit(":", 1)[1], 16) for r in rows if r[9] in inodes and r[3] == "01"}


def test_front_end_has_no_credentials(cluster):
    """Neither its configuration nor its memory of settings, environment or sockets reaches a database, Redis or the S3 server."""
    e = cluster.env()
    backends = {int(re.search(r":(\d+)(/|$)", e[k])[1]) for k in e if k.startswith("PG_") or k in ("REDIS", "S3")}
    assert len(backends) == 6, backends
    rpc = set()
    for front in ("frontend-1", "frontend-2"):
        pid = cluster.pid(front)
        config = (cluster.folder / "conf" / f"{front}.yaml").read_text()
        for secret in ("postgresql:", "redis:", "access_key", "secret_key", "s3", "database"):
            assert secret not in config, (front, secret)
        environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes()
        assert b"postgresql://" not in environment and b"devclustersecret" not in environment
        connected = peers(pid)
        assert not connected & backends, (front, connected & backends)
        rpc |= connected
        files = [os.readlink(f) for f in pathlib.Path(f"/proc/{pid}/fd").iterdir() if f.is_symlink()]
        assert not any(".db" in f or "/blobs" in f or "/spool" in f for f in files), files
    services = {int(line.split(":")[-1].strip('"\n ')) for f in (cluster.folder / "conf").glob("*.yaml") for line in f.read_text().splitlines()
                if re.fullmatch(r' +listen: "127.0.0.1:\d+"', line)}
    assert len(services & rpc) >= 3, (services, rpc)  # the check sees connections, and they are those to services
    assert peers(cluster.pid("store-1")) & backends, "the check does not see a store's connections"


def test_modes(cluster):
    """Keys, passwords and mail are the user's alone; the databases' own folders are theirs."""
    ours = [p for part in ("conf", "tls", "data", "log", "pid", "token", "secret", "cluster.env")
            for p in [cluster.folder / part, *(cluster.folder / part).rglob("*")]]
    assert len(ours) > 40
    assert not [p for p in ours if p.lstat().st_mode & 0o077]


def test_admin_verbs(cluster):
    assert "example.test" in cluster.thurn("domain", "list").stdout
    cluster.thurn("account", "add", "late@example.test", "--password", PASSWORD)
    assert "late@example.test" in cluster.thurn("account", "list").stdout
    assert "shard" in cluster.thurn("account", "show", "late@example.test").stdout
    cluster.thurn("alias", "set", "all@example.test", *USERS)
    assert send(cluster, "all@example.test", "to all", front=2)[0] == 250
    for user in USERS:
        arrives(cluster, user, "to all")
    cluster.thurn("queue", "list")
    cluster.thurn("account", "remove", "--yes", "late@example.test")
    refused = cluster.thurn("--token", "wrong", "account", "list", check=False)
    assert refused.returncode != 0, refused


def shard_of(cluster, user):
    return int(re.search(r"shard (\d+)", cluster.thurn("account", "show", user).stdout)[1])


def test_store_node_away(cluster):
    """Every account goes on through the other node, at once."""
    cluster.do("kill", "store-1", "KILL")
    try:
        for front in (1, 2):
            for user in USERS:
                assert send(cluster, user, f"no store {front}", front=front)[0] == 250
                assert f"no store {front}" in subjects(cluster, user, front)
    finally:
        cluster.do("run", "store-1")


def test_shard_away(cluster):
    """Its accounts wait: mail for them is taken into the queue, or deferred if it is large; IMAP says UNAVAILABLE. Nobody else
    notices."""
    shards = {user: shard_of(cluster, user) for user in USERS}
    lost = [u for u in USERS if shards[u] == 1]
    others = [u for u in USERS if shards[u] != 1]
    assert lost and others, shards
    assert send(cluster, lost[0], "before")[0] == 250
    open_before = cluster.imap(lost[0], 2)
    open_before.select("INBOX")
    cluster.do("kill", "pg-shard-1", "KILL")
    try:
        for user in others:
            assert send(cluster, user, "other shard", 400000, front=2)[0] == 250
            assert "other shard" in subjects(cluster, user)
        taken = []
        for user in lost:
            for size in (100, 40000, 400000):
                code, text = send(cluster, user, f"shard away {size}", size)
                assert code == 250 or size > 300000 and 400 <= code < 500, (size, code, text)
                if code == 250:
                    taken.append((user, f"shard away {size}"))
        kind, text = open_before._simple_command("FETCH", "1:*", "(BODY.PEEK[])")
        assert kind == "NO" and b"[UNAVAILABLE]" in text[0], (kind, text)
        kind, text = open_before._simple_command("SELECT", "INBOX")
        assert kind == "NO" and b"[UNAVAILABLE]" in text[0], (kind, text)
    finally:
        cluster.do("run", "pg-shard-1")
    wait_until(lambda: open_before._simple_command("SELECT", "INBOX")[0] == "OK", "the session to go on", 30)
    open_before.logout()

    def are_there():
        cluster.thurn("queue", "retry", "--all", check=False)
        return all(subject in subjects(cluster, user) for user, subject in taken)
    wait_until(are_there, "what was taken to be delivered", 60)
    for user, subject in taken:
        arrives(cluster, user, subject)


def test_removal_while_shard_is_away(cluster):
    """The account is closed at once; what it had goes when it is removed again."""
    names = ["gone1@example.test", "gone2@example.test"]  # they are placed in turn
    for name in names:
        cluster.thurn("account", "add", name, "--password", PASSWORD)
    gone = next(name for name in names if shard_of(cluster, name) == 1)
    number = re.search(r'"account_id": *(\d+)', cluster.thurn("--json", "account", "show", gone).stdout)[1]
    assert send(cluster, gone, "to be removed")[0] == 250
    arrives(cluster, gone, "to be removed")

    def rows():
        return int(subprocess.run(["psql", cluster.env()["PG_SHARD_1"], "-Atc", f"SELECT count(*) FROM s_msg WHERE account_id = {number}"],
                                  capture_output=True, text=True, check=True).stdout)
    assert rows() == 1
    cluster.do("kill", "pg-shard-1", "KILL")
    try:
        failed = cluster.thurn("account", "remove", "--yes", gone, check=False)
        assert failed.returncode != 0 and "remove it again" in failed.stderr, failed
        assert "closed" in cluster.thurn("account", "show", gone).stdout
        wait_until(lambda: send(cluster, gone, "too late")[0] == 550, "mail to be refused", 30)
    finally:
        cluster.do("run", "pg-shard-1")
    wait_until(lambda: cluster.thurn("account", "remove", "--yes", gone, check=False).returncode == 0, "the account to be removed", 30)
    assert rows() == 0
    assert cluster.thurn("account", "show", gone, check=False).returncode == 3
    for name in names:
        cluster.thurn("account", "remove", "--yes", name, check=name != gone)


def test_redis_away(cluster):
    """Mail and logins go on; news comes again once Redis is back."""
    cluster.do("kill", "redis", "KILL")
    try:
        for user in USERS:
            start = time.monotonic()
            assert send(cluster, user, "no redis", front=2)[0] == 250
            assert "no redis" in subjects(cluster, user)
            assert time.monotonic() - start < 5, "mail is slow without Redis"
    finally:
        cluster.do("run", "redis")
    wait_until(lambda: idle_times(cluster, 2)[-1] < 1000, "news to be quick again", 30)


def test_s3_away(cluster):
    """Small mail goes on; large mail is deferred, and taken again later."""
    assert send(cluster, USERS[1], "large before", 400000)[0] == 250
    cluster.do("kill", "s3", "KILL")
    try:
        for user in USERS[:3]:
            assert send(cluster, user, "small")[0] == 250
            assert "small" in subjects(cluster, user, 2)
        code, text = send(cluster, USERS[1], "large", 400000)
        assert 400 <= code < 500, (code, text)
    finally:
        cluster.do("run", "s3")
    wait_until(lambda: send(cluster, USERS[1], "large after", 400000)[0] == 250, "large mail to be taken", 30)
    with cluster.imap(USERS[1], 2) as c:
        c.select("INBOX", readonly=True)
        for subject in ("large before", "large after"):  # both read whole: the first was kept over the restart
            number = c.search(None, "SUBJECT", f'"{subject}"')[1][0].decode()
            assert len(c.fetch(number, "(BODY.PEEK[])")[1][0][1]) > 400000, subject


def main():
    cluster = Cluster("--s3", "bluestore")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with cluster:
        cluster.thurn("domain", "add", "example.test")
        cluster.thurn("account", "add", "--from-file", "-", stdin="".join(f"{u},{PASSWORD},\n" for u in USERS))
        only = sys.argv[1:]
        tests = [(n, f) for n, f in globals().items() if n.startswith("test_") and (not only or n in only)]
        for name, test in tests:
            start = time.monotonic()
            test(cluster)
            print(f"{name}: passed, {time.monotonic() - start:.1f} s", flush=True)
        print(f"{len(tests)} passed, 0 failed")


if __name__ == "__main__":
    main()
