#!/usr/bin/python3
"""A folder or database that nobody set up, a member that is missing, or one of another installation: the server does not start, says why and what
to do, and makes nothing. See server/installation.h."""
import os
import pathlib
import re
import shutil
import smtplib
import sqlite3
import subprocess
import tempfile

import harness
from harness import wait_until

MEMBERS = ("directory.db", "queue.db", "mail.db", "blobs")


def thurn(*args):
    return subprocess.run([str(harness.BINARY), *args], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


def complaint(r):
    lines = [line for line in r.stderr.splitlines() if line.startswith("thurn: ")]
    assert len(lines) == 1, r
    return lines[0]


def config(folder, name):
    """A config whose only listener is for health: what starts by mistake is seen by its success."""
    path = folder / f"{name}.yaml"
    http = harness.free_ports(1)[0]
    path.write_text(f"data: {folder}/{name}\nhostname: mx.{name}.test\nlisten: {{smtp: [], submission: [], submissions: [], imap: [], imaps: [],"
                    f" http: '127.0.0.1:{http}'}}\n")
    return path


def refused(conf, *words, verb="serve"):
    r = thurn(verb, "--config", str(conf))
    assert r.returncode == 4, (conf, r)
    for word in words:
        assert word in complaint(r), (word, complaint(r))


def remove(path):
    """A member with all that SQLite keeps beside it."""
    if path.is_dir():
        shutil.rmtree(path)
    for p in path.parent.glob(path.name + "*"):
        p.unlink()


def contents(folder):
    return {p.relative_to(folder) for p in folder.rglob("*")}


def starts(conf):
    """The server starts, and ends when asked."""
    p = harness.Process(conf.parent, conf.stem, conf.read_text(), int(conf.read_text().rsplit(":", 1)[1].split("'")[0]), harness.BINARY)
    p.start()
    p.stop()


def test_empty_folder():
    """An empty volume and a folder that is not there: refused, and nothing is made in it, until somebody sets it up."""
    with tempfile.TemporaryDirectory(prefix="thurn-installation-", dir="/tmp") as d:
        folder = pathlib.Path(d)
        conf = config(folder, "data")
        refused(conf, f"'{folder}/data'", "never set up", "thurn setup")
        refused(conf, "never set up", "thurn setup", verb="migrate")
        assert not (folder / "data").exists()
        (folder / "data").mkdir()
        refused(conf, "never set up", "mounted", "thurn setup")
        assert not contents(folder / "data")
        (folder / "data/directory.db").touch()  # an empty file is as good as none
        refused(conf, "never set up")
        (folder / "data/directory.db").unlink()
        r = thurn("setup", "me@first.test", "--config", str(conf))
        assert r.returncode == 0, r
        starts(conf)


def test_unmarked():
    """Databases of a release that marked nothing: they are not called new, and one command marks them."""
    with tempfile.TemporaryDirectory(prefix="thurn-installation-", dir="/tmp") as d:
        folder = pathlib.Path(d)
        conf = config(folder, "data")
        assert thurn("setup", "me@first.test", "--config", str(conf)).returncode == 0
        for name in ("directory.db", "queue.db", "mail.db"):
            db = sqlite3.connect(folder / "data" / name)
            db.execute("DROP TABLE thurn_set")
            db.commit()
            db.close()
        (folder / "data/blobs/installation").unlink()
        refused(conf, "did not mark", "migrate --new")
        r = thurn("migrate", "--new", "--config", str(conf))
        assert r.returncode == 0, r
        starts(conf)


def test_missing_members():
    """Each member missing, or empty: named, with what to do. A backup that is put back starts."""
    with tempfile.TemporaryDirectory(prefix="thurn-installation-", dir="/tmp") as d:
        folder = pathlib.Path(d)
        conf = config(folder, "data")
        assert thurn("setup", "me@first.test", "--config", str(conf)).returncode == 0
        shutil.copytree(folder / "data", folder / "backup")
        for member in MEMBERS:
            for is_empty in (False, True):
                remove(folder / "data" / member)
                if is_empty:
                    (folder / "data" / member).mkdir() if member == "blobs" else (folder / "data" / member).touch()
                refused(conf, f"'{folder}/data/{member}'", "missing or empty", "put it back", "migrate --new")
                if member == "directory.db": # what asks is one function
                    for args in (("migrate",), ("setup", "me@first.test"), ("serve", "--dev")):
                        r = thurn(*args, "--config", str(conf))
                        assert r.returncode == 4 and "missing or empty" in complaint(r), (args, r)
                shutil.rmtree(folder / "data")
                shutil.copytree(folder / "backup", folder / "data")
        starts(conf)


def test_swapped_members():
    """A member of another installation."""
    with tempfile.TemporaryDirectory(prefix="thurn-installation-", dir="/tmp") as d:
        folder = pathlib.Path(d)
        confs = [config(folder, name) for name in ("one", "two")]
        for conf in confs:
            assert thurn("setup", f"me@{conf.stem}.test", "--config", str(conf)).returncode == 0
        for member in MEMBERS:
            keep = folder / "kept"
            os.rename(folder / "one" / member, keep)
            (shutil.copytree if member == "blobs" else shutil.copy)(folder / "two" / member, folder / "one" / member)
            refused(confs[0], f"one/{member}'", "two installations")
            for args in (("setup", "me@one.test"), ("migrate",), ("migrate", "--new"), ("serve", "--dev")) if member == "mail.db" else ():
                r = thurn(*args, "--config", str(confs[0]))
                assert r.returncode == 4 and "two installations" in complaint(r), (args, r)
            remove(folder / "one" / member)
            os.rename(keep, folder / "one" / member)
        starts(confs[0])


def test_shards_join():
    """A shard that is added is made only by --new, and then it belongs to the others."""
    with tempfile.TemporaryDirectory(prefix="thurn-installation-", dir="/tmp") as d:
        folder = pathlib.Path(d)
        conf = config(folder, "data")
        text = conf.read_text()
        conf.write_text(text + f"store.shards: ['sqlite:{d}/a.db']\n")
        assert thurn("migrate", "--new", "--config", str(conf)).returncode == 0
        conf.write_text(text + f"store.shards: ['sqlite:{d}/a.db', 'sqlite:{d}/b.db']\n")
        refused(conf, "shard 2 of 'store.shards'", "missing or empty")
        refused(conf, "shard 2 of 'store.shards'", verb="migrate")
        assert not (folder / "b.db").exists()
        assert thurn("migrate", "--new", "--config", str(conf)).returncode == 0
        assert thurn("migrate", "--config", str(conf)).stdout == "0 steps applied\n"
        # a part of an installation cannot be made by a config that does not see the rest
        alone = folder / "alone.yaml"
        alone.write_text(f"data: {d}/alone\nroles: [store]\nstore.shards: ['sqlite:{d}/c.db']\nlisten.http: []\n")
        r = thurn("migrate", "--new", "--config", str(alone))
        assert r.returncode == 2 and "auth, store and queue" in complaint(r), r


def psql(server, database, text):
    return subprocess.run(["psql", "-h", server.pg, "-U", "test", "-d", database, "-qtAc", text], check=True, capture_output=True, text=True).stdout


def test_postgres():
    """Empty databases are refused at the start; one that is emptied while the server runs is temporarily away, and never says that there is nobody."""
    with harness.Server("pg-local") as server:
        front = server.front
        psql(server, "postgres", "CREATE DATABASE empty")
        shutil.copytree(server.folder / "data/blobs", server.folder / "other/blobs")
        for name, words in (("directory", "the database of 'directory.database'"), ("queue", "the database of 'queue.database'"),
                            ("shard1", "shard 1 of 'store.shards'"), ("shard2", "shard 2 of 'store.shards'")):
            conf = server.folder / "wrong.yaml"
            text = front.config.read_text().replace(server.pg_url(name), server.pg_url("empty")).replace(f"{server.folder}/data", f"{server.folder}/other")
            conf.write_text(re.sub(r"(?m)^(  \w+): 127\.0\.0\.1:\d+$", r"\1: []", text)) # the ports are in use, which would be said first
            refused(conf, words, "missing or empty")
        # The server loses its volume and comes back empty: here, the database is put away under the running process.
        with smtplib.LMTP(*server.address("lmtp")) as s:
            s.sendmail("x@elsewhere.test", ["ann@example.test"], b"Subject: a\r\n\r\nx\r\n")
        psql(server, "postgres", "ALTER DATABASE directory WITH ALLOW_CONNECTIONS false")
        psql(server, "postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'directory'")
        psql(server, "postgres", "ALTER DATABASE directory RENAME TO put_away")
        psql(server, "postgres", "CREATE DATABASE directory TEMPLATE empty")
        wait_until(lambda: "never set up" in harness.http_get(front.http, "/readyz")[1], "the verdict")
        with smtplib.LMTP(*server.address("lmtp")) as s:
            s.ehlo()
            s.mail("x@elsewhere.test")
            for address in ("bob@example.test", "nobody@example.test"):  # neither is in a cache
                code, text = s.rcpt(address)
                assert 400 <= code < 500, (address, code, text)
        psql(server, "postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'directory'")
        psql(server, "postgres", "DROP DATABASE directory WITH (FORCE)")
        psql(server, "postgres", "ALTER DATABASE put_away RENAME TO directory")
        psql(server, "postgres", "ALTER DATABASE directory WITH ALLOW_CONNECTIONS true")
        wait_until(lambda: harness.http_get(front.http, "/readyz")[0] == 200, "readiness")
        with smtplib.LMTP(*server.address("lmtp")) as s:
            s.sendmail("x@elsewhere.test", ["bob@example.test"], b"Subject: b\r\n\r\nx\r\n")


if __name__ == "__main__":
    harness.run_tests(globals())
