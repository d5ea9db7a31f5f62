#!/usr/bin/python3
"""PostgreSQL with a streaming standby, both in the DSN: the standby is passed over, and when the primary dies and it is promoted the server goes on by itself."""
import imaplib
import smtplib
import subprocess
import time

import harness
from harness import ROOT, wait_until


def pg(verb, *args):
    subprocess.run([str(ROOT / "tests/integration/pg.sh"), verb, *map(str, args)], check=True, timeout=120)


class Replicated(harness.Server):
    """Each database is named with the standby first, which takes no writes."""

    def databases(self):
        text = super().databases()
        self.standby = self.folder / "standby"
        pg("standby", self.standby, self.pg)
        return text.replace(f"host={self.pg} port=5432", f"host={self.standby},{self.pg} port=5432 target_session_attrs=read-write")

    def cleanup(self):
        if getattr(self, "standby", None):
            pg("stop", self.standby)
        super().cleanup()


def deliver(server, n):
    """True when it was taken; a temporary refusal is what a failover may cost."""
    try:
        with smtplib.LMTP(*server.address("lmtp"), timeout=30) as s:
            s.sendmail("x@elsewhere.test", ["ann@example.test"], f"Subject: {n}\r\n\r\nx\r\n".encode())
        return True
    except smtplib.SMTPRecipientsRefused as e:
        assert all(code < 500 for code, _ in e.recipients.values()), e
    except smtplib.SMTPResponseException as e:
        assert e.smtp_code < 500, e
    return False


def test_failover():
    with Replicated("pg-local", accounts=("ann",)) as server:
        taken = [n for n in range(5) if deliver(server, n)]
        assert taken == list(range(5))
        # the standby has all of it before the primary goes
        def caught_up():
            r = subprocess.run(["psql", "-h", server.pg, "-U", "test", "-d", "postgres", "-qtAc",
                                "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_lsn()"], capture_output=True, text=True, check=True)
            return r.stdout.strip() == "1"
        wait_until(caught_up, "the standby")
        pg("kill", server.pg)
        assert not deliver(server, 5)
        began = time.monotonic()
        pg("promote", server.standby)
        n = 6
        while not deliver(server, n):
            n += 1
            assert time.monotonic() - began < 30
        print(f"      taken again {time.monotonic() - began:.1f} s after the promotion began")
        wait_until(lambda: harness.http_get(server.front.http, "/readyz")[0] == 200, "readiness")
        c = imaplib.IMAP4(*server.address("imap"))
        c.login("ann@example.test", harness.PASSWORD)
        assert int(c.select("INBOX")[1][0]) >= 6
        c.logout()


if __name__ == "__main__":
    harness.run_tests(globals())
