#!/usr/bin/python3
"""Nothing that was acknowledged is lost or doubled: senders run against a whole cluster while its parts are killed in turn.

  tests/fault/cluster_loss.py [--senders 20] [--seconds 6] [--binary build/release/thurn] [--keep]

Starts deploy/dev-cluster (2 front-ends, stores, queues, auths, shards), then, with the senders running, `kill -9`s one store, one
queue owner, one auth, one front-end, Redis, and a shard's PostgreSQL, each started again after a while. Half of the senders use
submission (their mail for local accounts goes directly into the store), half send to an alias and through the other front-end. In the end each message
that got its 250 must be in its mailbox exactly once, and UIDs must ascend without a repeat. Prints what was sent, refused and found, and how
long each kill kept mail from being taken.
"""
import argparse
import imaplib
import pathlib
import random
import smtplib
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import harness  # noqa: E402
from harness import wait_until  # noqa: E402

ACCOUNTS = 10


class Cluster:
    def __init__(self, folder, binary, *options):
        self.folder = folder
        self.script = str(harness.ROOT / "deploy/dev-cluster")
        self.do("start", "--binary", binary, *options)
        self.binary = binary

    def do(self, verb, *args):
        subprocess.run([self.script, verb, self.folder, *args], check=True, stdout=subprocess.DEVNULL, timeout=300)

    def env(self):
        return dict(line.split("=", 1) for line in (pathlib.Path(self.folder) / "cluster.env").read_text().splitlines())

    def address(self, name):
        host, port = self.env()[name].split(":")
        return host, int(port)

    def thurn(self, *args, stdin=None):
        e = self.env()
        subprocess.run([self.binary, "--url", e["THURN_ADMIN_URL"], "--token", e["THURN_ADMIN_TOKEN"], *args], input=stdin, text=True,
                       check=True, stdout=subprocess.DEVNULL, timeout=120)


class Sender(threading.Thread):
    """Sends numbered messages until told to stop; remembers which got their 250."""

    def __init__(self, number, cluster, stop):
        super().__init__(daemon=True)
        self.number, self.stop_event = number, stop
        self.address = cluster.address(f"SMTP_{number % 2 + 1}")
        self.accepted, self.unknown, self.refused, self.last = [], [], 0, 0
        self.gaps = []

    def run(self):
        smtp, n = None, 0
        while not self.stop_event.is_set():
            n += 1
            ident = f"{self.number}-{n}"
            to = f"u{random.randint(1, ACCOUNTS)}" if self.number % 4 else f"alias{random.randint(1, ACCOUNTS)}"
            body = f"From: s@out.test\r\nTo: {to}@example.test\r\nSubject: m {ident}\r\nX-Id: {ident}\r\n\r\n{'x' * random.choice((100, 3000, 60000))}\r\n"
            sent_all = False
            try:
                if not smtp:
                    smtp = smtplib.SMTP(*self.address, timeout=30)
                    smtp.ehlo("sender.test")
                for command, want in (("MAIL FROM:<s@out.test>", 250), (f"RCPT TO:<{to}@example.test>", 250), ("DATA", 354)):
                    code, _ = smtp.docmd(command)
                    if code != want:
                        raise smtplib.SMTPResponseException(code, "")
                sent_all = True
                smtp.send(body.encode() + b".\r\n")
                code, _ = smtp.getreply()
                if code != 250:
                    raise smtplib.SMTPResponseException(code, "")
                self.accepted.append(ident)
                now = time.monotonic()
                self.last = now
            except (OSError, smtplib.SMTPException) as e:
                if isinstance(e, smtplib.SMTPResponseException) and 400 <= e.smtp_code < 500:
                    self.refused += 1
                elif isinstance(e, smtplib.SMTPResponseException) and e.smtp_code >= 500:
                    raise AssertionError(f"a permanent refusal of a good address: {e}")
                elif sent_all:
                    self.unknown.append(ident)  # may be there or not, but at most once
                try:
                    if smtp:
                        smtp.close()
                except OSError:
                    pass
                smtp = None
                time.sleep(0.05)
        if smtp:
            smtp.close()


def found(cluster):
    """How often each id is in a mailbox; UIDs are checked on the way."""
    count = {}
    for i in range(1, ACCOUNTS + 1):
        c = imaplib.IMAP4(*cluster.address("IMAP_1"))
        c.login(f"u{i}@example.test", harness.PASSWORD)
        if int(c.select("INBOX")[1][0]):
            last = 0
            for item in c.fetch("1:*", "(UID BODY.PEEK[HEADER.FIELDS (X-Id)])")[1]:
                if not isinstance(item, tuple):
                    continue
                uid = int(item[0].split(b"UID ")[1].split()[0].rstrip(b")"))
                assert uid > last, f"uid {uid} after {last}"
                last = uid
                ident = item[1].split(b":", 1)[1].strip().decode()
                count[ident] = count.get(ident, 0) + 1
        c.logout()
    return count


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--senders", type=int, default=20)
    p.add_argument("--seconds", type=float, default=6)
    p.add_argument("--binary", default=str(harness.ROOT / "build/release/thurn"))
    p.add_argument("--keep", action="store_true")
    p.add_argument("--port-offset", default="0")
    a = p.parse_args()
    folder = tempfile.mkdtemp(prefix="thurn-cluster-", dir="/tmp")
    cluster = Cluster(folder, a.binary, "--s3", "bluestore", "--port-offset", a.port_offset)
    try:
        run(cluster, a)
    finally:
        subprocess.run([cluster.script, "stop", folder] + ([] if a.keep else ["--purge"]), check=False)


def run(cluster, a):
    cluster.thurn("domain", "add", "example.test")
    cluster.thurn("account", "add", "--from-file", "-",
                  stdin="".join(f"u{i}@example.test,{harness.PASSWORD},\n" for i in range(1, ACCOUNTS + 1)))
    for i in range(1, ACCOUNTS + 1):
        cluster.thurn("alias", "set", f"alias{i}@example.test", f"u{i}@example.test")
    stop = threading.Event()
    senders = [Sender(i, cluster, stop) for i in range(a.senders)]
    for s in senders:
        s.start()
    total = lambda: sum(len(s.accepted) for s in senders)  # noqa: E731
    wait_until(lambda: total() > a.senders, "the first messages")
    for victim in ("store-1", "queue-1", "auth-1", "frontend-1", "redis", "pg-shard-1"):
        time.sleep(a.seconds / 2)
        before, start = total(), time.monotonic()
        cluster.do("kill", victim, "KILL")
        killed = time.monotonic()
        moved = total()
        wait_until(lambda: total() > moved + 5 or victim == "pg-shard-1", f"mail to be taken without {victim}", 60)
        pause = time.monotonic() - killed
        time.sleep(a.seconds)
        cluster.do("run", victim)
        up = time.monotonic()
        again = total()
        wait_until(lambda: total() > again + 5, f"mail to be taken after {victim} came back", 60)
        print(f"{victim:12} killed: {total() - before:5} taken meanwhile; next five after {pause:.2f} s; after its return {time.monotonic() - up:.2f} s", flush=True)
    time.sleep(a.seconds)
    stop.set()
    for s in senders:
        s.join(60)
        assert not s.is_alive(), "a sender hangs"
    accepted = {i for s in senders for i in s.accepted}
    unknown = {i for s in senders for i in s.unknown}
    refused = sum(s.refused for s in senders)
    wait_until(lambda: accepted <= set(found(cluster)), "every accepted message to be in its mailbox", 120) \
        if not accepted <= set(found(cluster)) else None
    count = found(cluster)
    lost = sorted(accepted - set(count))
    doubled = sorted(i for i, n in count.items() if n > 1)
    alien = sorted(set(count) - accepted - unknown)
    print(f"{len(accepted)} accepted, {refused} refused for a time, {len(unknown)} without an answer; {sum(count.values())} found, "
          f"{len(lost)} lost, {len(doubled)} doubled, {len(alien)} that nobody was told of")
    assert not lost and not doubled, (lost[:10], doubled[:10])
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
