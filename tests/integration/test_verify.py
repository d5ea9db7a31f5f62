#!/usr/bin/python3
"""A directory that lost commits in a failover: whoever comes next gets nothing of what the lost account has, and thurn verify names it."""
import imaplib
import smtplib
import sqlite3

import harness


def login(server, name):
    c = imaplib.IMAP4(*server.address("imap"))
    c.login(f"{name}@example.test", harness.PASSWORD)
    return c


def deliver(server, name, subject):
    with smtplib.LMTP(*server.address("lmtp")) as s:
        s.sendmail("x@elsewhere.test", [f"{name}@example.test"], f"Subject: {subject}\r\n\r\nx\r\n".encode())


def verify(server, status):
    r = server.admin("verify", check=False)
    assert r.returncode == status, r
    return r.stdout


def directory(server, text):
    with sqlite3.connect(server.folder / "data/directory.db") as db:
        return db.execute(text).fetchall()


def test_lost_commits():
    with harness.Server("sqlite-local", accounts=("ann", "idle")) as server:
        deliver(server, "ann", "kept")
        assert verify(server, 0) == "2 accounts in the directory; 1 mailbox on 1 shard; none differs\n"
        # What the backup, or the standby, has of the directory does not know the victim yet.
        server.front.stop()
        before = directory(server, "SELECT count(*) FROM dir_account")
        backup = {p: p.read_bytes() for p in (server.folder / "data").glob("directory.db*")}
        server.front.start()
        server.admin("account", "add", "victim@example.test", "--password", harness.PASSWORD)
        deliver(server, "victim", "secret")
        victim = directory(server, "SELECT account_id FROM dir_account WHERE key = 'victim@example.test'")[0][0]
        server.front.stop()
        for p in (server.folder / "data").glob("directory.db*"):
            p.unlink()
        for p, content in backup.items():
            p.write_bytes(content)
        assert directory(server, "SELECT count(*) FROM dir_account") == before
        server.front.start()
        found = verify(server, 4)
        assert f"account {victim}, 1 messages" in found and "does not know it" in found and "2 accounts in the directory; 2 mailboxes on 1 shard; 1 differs\n" in found, found
        # The next who comes, of whatever name, is somebody else.
        for name in ("other", "victim"):
            server.admin("account", "add", f"{name}@example.test", "--password", harness.PASSWORD)
            c = login(server, name)
            assert c.select("INBOX")[1] == [b"0"], name
            deliver(server, name, "mine")
            c.noop()
            assert c.select("INBOX")[1] == [b"1"], name
            c.logout()
        assert f"account {victim}, 1 messages" in verify(server, 4)
        # Even one who has the very number, as a directory that counts would give it, sees nothing of it.
        server.admin("account", "add", "same@example.test", "--password", harness.PASSWORD)
        server.front.stop()
        directory(server, f"UPDATE dir_account SET account_id = {victim} WHERE key = 'same@example.test'")
        server.front.start()
        c = login(server, "same")
        assert c.select("INBOX")[0] == "NO"
        c.logout()
        found = verify(server, 4)
        assert f"account {victim} same@example.test, 1 messages" in found and "another account of this number" in found, found
        assert f'"what": "another"' in server.admin("verify", "--json", check=False).stdout


if __name__ == "__main__":
    harness.run_tests(globals())
