#!/usr/bin/python3
"""Nothing that was acknowledged is lost or doubled: senders run against a whole cluster while its parts are killed in turn.

  tests/fault/cluster_loss.py [--senders 20] [--seconds 6] [--victims store-1,queue-1,…] [--pause 0.05] [--binary build/release/thurn]
                              [--keep]

Starts deploy/dev-cluster (2 front-ends, stores, queues, auths, shards), then, with the senders running, `kill -9`s one store, one
queue owner, one auth, one front-end, Redis, the queue's PostgreSQL and a shard's, each started again after a while. Senders are of four kinds:
mail from outside for one account; for an alias of two accounts on two shards; with a wish for a notice, so that it goes through the
queue; and submission after a login. Who cannot connect tries the other front-end, as mail servers do. A reader looks at the mailboxes all
the time. In the end each message that got its 250 must be once in each of its mailboxes, what got none at most once; UIDs ascend
without a repeat, and none ever appears below one that was seen before. Prints what was sent, refused and found, and how long each
kill kept mail from being taken.
"""
import argparse
import base64
import collections
import imaplib
import pathlib
import random
import re
import smtplib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import harness  # noqa: E402
from cluster import Cluster  # noqa: E402
from harness import PASSWORD, wait_until  # noqa: E402

ACCOUNTS = 10
VICTIMS = ("store-1", "queue-1", "auth-1", "frontend-1", "redis", "pg-shard-1", "pg-queue")
SIZES = (100, 3000, 60000, 200000)
ERRORS = (OSError, smtplib.SMTPException, imaplib.IMAP4.error)


def targets_of(to):
    i = int(re.sub(r"\D", "", to))
    return [f"u{i}", f"u{i % ACCOUNTS + 1}"] if to.startswith("alias") else [f"u{i}"]


class Sender(threading.Thread):
    """Sends numbered messages until told to stop; remembers which got their 250."""

    def __init__(self, number, cluster, stop, pause):
        super().__init__(daemon=True)
        self.number, self.stop_event, self.pause = number, stop, pause
        self.kind = ("direct", "alias", "queue", "submission")[number // 2 % 4]
        port = "SUBMISSION" if self.kind == "submission" else "SMTP"
        self.addresses = [cluster.address(f"{port}_{1 + (number + i) % 2}") for i in range(2)]
        self.accepted, self.unknown, self.deferred, self.times = {}, {}, {}, []
        self.refused = collections.Counter()
        self.permanent = []
        self.noise = base64.encodebytes(random.randbytes(max(SIZES))).decode().replace("\n", "\r\n")
        self.smtp = None

    def connect(self):
        self.addresses.reverse()
        self.smtp = smtplib.SMTP(*self.addresses[0], timeout=60)
        self.smtp.ehlo("sender.test")
        if self.kind == "submission":
            self.smtp.login(f"u{self.number % ACCOUNTS + 1}@example.test", PASSWORD)

    def expect(self, command, want):
        code, text = self.smtp.docmd(command)
        if code != want:
            raise smtplib.SMTPResponseException(code, text)

    def send(self, ident, to):
        """True once it may have been taken."""
        sender = f"u{self.number % ACCOUNTS + 1}@example.test" if self.kind == "submission" else "" if self.kind == "queue" else "s@out.test"
        if not self.smtp:
            self.connect()
        self.expect(f"MAIL FROM:<{sender}>", 250)
        self.expect(f"RCPT TO:<{to}@example.test>" + (" NOTIFY=SUCCESS" if self.kind == "queue" else ""), 250)
        self.expect("DATA", 354)
        body = self.noise[:random.choice(SIZES)].rpartition("\r\n")[0]
        message = f"From: <{sender or 'daemon@out.test'}>\r\nTo: {to}@example.test\r\nSubject: m {ident}\r\nX-Id: {ident}\r\n\r\n{body}\r\n"
        self.unknown[ident] = to
        self.smtp.send(message.encode() + b".\r\n")
        code, text = self.smtp.getreply()
        del self.unknown[ident]
        if code != 250:
            self.deferred[ident] = to
            raise smtplib.SMTPResponseException(code, text)
        self.accepted[ident] = to

    def failed(self, e):
        if isinstance(e, smtplib.SMTPResponseException) and e.smtp_code > 0:
            self.refused[e.smtp_code] += 1
            if e.smtp_code >= 500:
                self.permanent.append(str(e))
        try:
            if self.smtp:
                self.smtp.close()
        except OSError:
            pass
        self.smtp = None
        self.stop_event.wait(0.1)

    def run(self):
        n = 0
        while not self.stop_event.is_set():
            n += 1
            to = f"{'alias' if self.kind == 'alias' else 'u'}{random.randint(1, ACCOUNTS)}"
            try:
                self.send(f"{self.number}-{n}", to)
                self.times.append(time.monotonic())
            except ERRORS as e:
                self.failed(e)
            self.stop_event.wait(self.pause)
        if self.smtp:
            self.smtp.close()


class Mailbox:
    """One INBOX as a reader sees it while it grows."""

    def __init__(self, cluster, user):
        self.cluster, self.user, self.imap, self.validity = cluster, user, None, None
        self.found, self.highest, self.late = collections.Counter(), 0, []
        self.uids = set()
        self.front = 2

    def look(self):
        """Fetch what is new. Raises when that cannot be had now."""
        try:
            if not self.imap:
                self.imap = self.cluster.imap(f"{self.user}@example.test", self.front)
                kind, data = self.imap.select("INBOX", readonly=True)
                if kind != "OK":
                    raise imaplib.IMAP4.error(str(data))
                validity = self.imap.response("UIDVALIDITY")[1][0]
                assert self.validity in (None, validity), "UIDVALIDITY changed"
                self.validity = validity
            self.imap.noop()
            kind, data = self.imap.uid("FETCH", f"{self.highest + 1}:*", "(UID BODY.PEEK[HEADER.FIELDS (X-Id)])")
            if kind != "OK":
                raise imaplib.IMAP4.error(str(data))
        except ERRORS:
            self.imap = None
            self.front = 3 - self.front
            raise
        self.take(data)

    def take(self, data):
        for item, after in zip(data, data[1:] + [b""]):
            if not isinstance(item, tuple):
                continue
            uid = int(re.search(rb"UID (\d+)", item[0] + (after if isinstance(after, bytes) else b""))[1])
            if uid in self.uids:
                continue
            if uid < self.highest:
                self.late.append(uid)
            self.uids.add(uid)
            self.highest = max(self.highest, uid)
            if b":" in item[1]:
                self.found[item[1].split(b":", 1)[1].strip().decode()] += 1

    def look_at_all(self):
        """Everything again, from the start and in a session of its own: UIDs that came late show."""
        self.imap = None
        highest, seen = self.highest, set(self.uids)
        self.highest, self.uids = 0, set()
        self.found.clear()
        self.look()
        self.late += [u for u in self.uids if u <= highest and u not in seen]
        self.late += [u for u in seen if u not in self.uids]


class Reader(threading.Thread):
    def __init__(self, boxes, stop):
        super().__init__(daemon=True)
        self.boxes, self.stop_event, self.failures = boxes, stop, 0

    def run(self):
        while not self.stop_event.is_set():
            for box in self.boxes:
                try:
                    box.look()
                except ERRORS:
                    self.failures += 1
            self.stop_event.wait(0.5)


def missing(senders, boxes):
    return sum(not boxes[user].found[ident] for s in senders for ident, to in list(s.accepted.items()) for user in targets_of(to))


def judge(senders, boxes):
    accepted = {i: to for s in senders for i, to in s.accepted.items()}
    unknown = {i: to for s in senders for i, to in s.unknown.items()}
    deferred = {i for s in senders for i in s.deferred}
    both = {i for b in boxes.values() for i in b.found if i in deferred}
    wanted = {user: {i for i, to in accepted.items() if user in targets_of(to)} for user in boxes}
    lost = [(i, user) for user in boxes for i in wanted[user] if not boxes[user].found[i]]
    doubled = [(i, user) for user in boxes for i, n in boxes[user].found.items() if n > 1]
    alien = [(i, user) for user in boxes for i in boxes[user].found if i not in accepted and i not in unknown and i not in deferred]
    late = [(uid, user) for user in boxes for uid in boxes[user].late]
    kinds = collections.Counter(s.kind for s in senders for _ in s.accepted)
    refused = sum((s.refused for s in senders), collections.Counter())
    print(f"{len(accepted)} accepted ({', '.join(f'{n} {k}' for k, n in kinds.items())}), {sum(refused.values())} refused {dict(refused)}, "
          f"{len(unknown)} without an answer; {len(both)} deferred and yet there; {sum(sum(b.found.values()) for b in boxes.values())} found, {len(lost)} lost, "
          f"{len(doubled)} doubled, {len(alien)} that nobody sent, {len(late)} UIDs out of order")
    permanent = [p for s in senders for p in s.permanent]
    assert not permanent, permanent[:5]
    assert not lost and not doubled and not alien and not late, (lost[:10], doubled[:10], alien[:10], late[:10])


def longest_gap(senders, start, end):
    """The longest time within [start, end] in which nobody's mail was taken, and the longest of any one sender."""
    def gap(times):
        points = [start] + sorted(t for t in times if start < t < end) + [end]
        return max(b - a for a, b in zip(points, points[1:]))
    return gap([t for s in senders for t in s.times]), max(gap(s.times) for s in senders)


def queue_shards_taken(cluster, victim):
    """How many seconds pass until the other queue node owns all shards."""
    other = "QUEUE_HTTP_2" if victim == "queue-1" else "QUEUE_HTTP_1"
    start = time.monotonic()
    wait_until(lambda: "thurn_queue_shards_owned 256" in harness.http_get(cluster.address(other), "/metrics")[1],
               "the other queue node to take over", 60)
    return time.monotonic() - start


def kill_and_return(cluster, senders, victim, seconds):
    before, start = sum(len(s.accepted) for s in senders), time.monotonic()
    cluster.do("kill", victim, "KILL")
    words = ""
    if victim.startswith("queue-"):
        words = f"; its shards were taken over after {queue_shards_taken(cluster, victim):.1f} s"
    time.sleep(max(seconds - (time.monotonic() - start), 0))
    cluster.do("run", victim)
    up = time.monotonic()
    time.sleep(seconds / 2)
    total = lambda: sum(len(s.accepted) for s in senders)  # noqa: E731
    again = total()
    wait_until(lambda: total() > again + 5, f"mail to be taken after {victim} came back", 60)
    all_, one = longest_gap(senders, start, time.monotonic())
    print(f"{victim:12} away {up - start:4.1f} s: {total() - before:5} taken; nobody's for at most {all_:.2f} s, a sender's "
          f"for {one:.2f} s{words}", flush=True)


def hurry(cluster, condition):
    """Whether it is so within five seconds of asking for all deliveries to be tried now."""
    cluster.thurn("queue", "retry", "--all", check=False)
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


def run(cluster, a):
    cluster.thurn("domain", "add", "example.test")
    cluster.thurn("account", "add", "--from-file", "-", stdin="".join(f"u{i}@example.test,{PASSWORD},\n" for i in range(1, ACCOUNTS + 1)))
    for i in range(1, ACCOUNTS + 1):
        cluster.thurn("alias", "set", f"alias{i}@example.test", *(f"{u}@example.test" for u in targets_of(f"alias{i}")))
    stop, stop_reading = threading.Event(), threading.Event()
    boxes = {f"u{i}": Mailbox(cluster, f"u{i}") for i in range(1, ACCOUNTS + 1)}
    senders = [Sender(i, cluster, stop, a.pause) for i in range(a.senders)]
    reader = Reader(boxes.values(), stop_reading)
    for t in (*senders, reader):
        t.start()
    wait_until(lambda: all(s.accepted for s in senders), "everybody's first message")
    for victim in a.victims.split(","):
        time.sleep(a.seconds / 2)
        kill_and_return(cluster, senders, victim, a.seconds)
    time.sleep(a.seconds / 2)
    stop.set()
    for s in senders:
        s.join(90)
        assert not s.is_alive(), "a sender hangs"
    try:
        start = time.monotonic()
        wait_until(lambda: hurry(cluster, lambda: not missing(senders, boxes)), "every accepted message to be in its mailboxes", 90)
        print(f"the last was there {time.monotonic() - start:.1f} s after the end; the reader was refused {reader.failures} times")
    finally:
        stop_reading.set()
        reader.join(90)
        for box in boxes.values():
            box.look_at_all()
        judge(senders, boxes)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--senders", type=int, default=20)
    p.add_argument("--seconds", type=float, default=6, help="how long each victim is away at least")
    p.add_argument("--pause", type=float, default=0.05, help="of a sender between two messages")
    p.add_argument("--victims", default=",".join(VICTIMS))
    p.add_argument("--binary", default=None)
    p.add_argument("--keep", action="store_true")
    a = p.parse_args()
    with Cluster("--s3", "bluestore", binary=a.binary, keep=a.keep) as cluster:
        run(cluster, a)
        print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
