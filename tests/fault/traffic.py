"""The traffic of fault runs: senders of several kinds, readers of the mailboxes, a host that mail leads away to, and the judgement in the end.

Each message that got its 250 must be once in each of its mailboxes (at the other host: at least once), what got none at most once; UIDs ascend
without a repeat, none ever appears below one that was seen before, and nobody is told for good (5xx) that an address which exists does not.
"""
import base64
import collections
import imaplib
import pathlib
import random
import re
import smtplib
import socketserver
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import harness  # noqa: E402
from cluster import Cluster  # noqa: E402
from dns_server import DnsServer  # noqa: E402
from harness import PASSWORD, wait_until  # noqa: E402

ACCOUNTS = 10
SIZES = {100: 30, 3000: 30, 16384: 10, 60000: 10, 200000: 10, 524288: 4, 600000: 4, 5 << 20: 2}  # bytes: how often
KINDS = ("direct", "alias", "queue", "submission", "away")
ERRORS = (OSError, smtplib.SMTPException, imaplib.IMAP4.error)
NOISE = base64.encodebytes(random.randbytes(4 << 20)).decode().replace("\n", "\r\n")


class Sink:
    """A host that takes everything, and remembers which messages it saw."""

    def __init__(self):
        sink = self
        self.found = collections.Counter()
        self.lock = threading.Lock()

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                self.wfile.write(b"220 sink.test\r\n")
                for line in self.rfile:
                    word = line[:4].upper()
                    if word == b"DATA":
                        self.wfile.write(b"354 go on\r\n")
                        self.read_message()
                        self.wfile.write(b"250 2.0.0 taken\r\n")
                    elif word == b"EHLO":
                        self.wfile.write(b"250-sink.test\r\n250 8BITMIME\r\n")
                    elif word == b"QUIT":
                        self.wfile.write(b"221 bye\r\n")
                        return
                    else:
                        self.wfile.write(b"250 ok\r\n")

            def read_message(self):
                ident = None
                for line in self.rfile:
                    if line == b".\r\n":
                        break
                    if ident is None and line.lower().startswith(b"x-id:"):
                        ident = line.split(b":", 1)[1].strip().decode()
                else:
                    return
                with sink.lock:
                    sink.found[ident] += 1

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address, daemon_threads = True, True

            def handle_error(self, request, address):
                pass  # a peer that was killed

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def targets_of(to):
    i = int(re.sub(r"\D", "", to))
    if to.startswith("away"):
        return ["sink"]
    return [f"u{i}", f"u{i % ACCOUNTS + 1}"] if to.startswith("alias") else [f"u{i}"]


class Sender(threading.Thread):
    """Sends numbered messages until told to stop; remembers which got their 250."""

    def __init__(self, number, cluster, stop, pause, kind=None):
        super().__init__(daemon=True)
        self.number, self.stop_event, self.pause = number, stop, pause
        self.kind = kind or KINDS[number // 2 % len(KINDS)]
        port = "SUBMISSION" if self.kind == "submission" else "SMTP"
        self.addresses = [cluster.address(f"{port}_{1 + (number + i) % 2}") for i in range(2)]
        self.accepted, self.unknown, self.deferred, self.times = {}, {}, {}, []
        self.refused = collections.Counter()
        self.permanent = []
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
        size = random.choices(list(SIZES), SIZES.values())[0]
        start = random.randrange(0, len(NOISE) - size) // 78 * 78 if size < len(NOISE) else 0
        body = NOISE[start:start + size].rpartition("\r\n")[0]
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
            to = f"{self.kind if self.kind in ('alias', 'away') else 'u'}{random.randint(1, ACCOUNTS)}"
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
    doubled = [(i, user) for user in boxes if user != "sink" for i, n in boxes[user].found.items() if n > 1]
    twice_away = sum(n > 1 for n in boxes["sink"].found.values()) if "sink" in boxes else 0
    alien = [(i, user) for user in boxes for i in boxes[user].found if i not in accepted and i not in unknown and i not in deferred]
    late = [(uid, user) for user in boxes if user != "sink" for uid in boxes[user].late]
    kinds = collections.Counter(s.kind for s in senders for _ in s.accepted)
    refused = sum((s.refused for s in senders), collections.Counter())
    print(f"{len(accepted)} accepted ({', '.join(f'{n} {k}' for k, n in kinds.items())}), {sum(refused.values())} refused {dict(refused)}, "
          f"{len(unknown)} without an answer; {len(both)} deferred and yet there; {sum(sum(b.found.values()) for b in boxes.values())} found, {len(lost)} lost, "
          f"{len(doubled)} doubled, {twice_away} at the other host more than once, {len(alien)} that nobody sent, {len(late)} UIDs out of order")
    permanent = [p for s in senders for p in s.permanent]
    assert not permanent, permanent[:5]
    assert not lost and not doubled and not alien and not late, (lost[:10], doubled[:10], alien[:10], late[:10])


def longest_gap(senders, start, end):
    """The longest time within [start, end] in which nobody's mail was taken, and the longest of any one sender."""
    def gap(times):
        points = [start] + sorted(t for t in times if start < t < end) + [end]
        return max(b - a for a, b in zip(points, points[1:]))
    return gap([t for s in senders for t in s.times]), max(gap(s.times) for s in senders)


def hurry(cluster, condition):
    """Whether it is so within five seconds of asking for all deliveries to be tried now."""
    cluster.thurn("queue", "retry", "--all", check=False)
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


class World:
    """A cluster with accounts on both shards, aliases of two, aliases that lead away, and all that traffic."""

    def __init__(self, senders, pause, binary=None, keep=False, *options, records=None, proxies=None):
        self.n_senders, self.pause, self.records, self.proxies_of = senders, pause, records or {}, proxies
        self.options = (binary, keep, options)

    def __enter__(self):
        binary, keep, options = self.options
        self.sink = Sink().__enter__()
        records = {("remote.test.", "MX"): ["10 mx.remote.test."], ("mx.remote.test.", "A"): ["127.0.0.1"]}
        self.dns = DnsServer(records | self.records).__enter__()
        self.cluster = Cluster("--s3", "bluestore", "--dns", f"127.0.0.1:{self.dns.port}", "--outbound-port", str(self.sink.port), *options,
                               binary=binary, keep=keep)
        self.proxies = self.proxies_of(self.cluster.links()).__enter__() if self.proxies_of else None
        self.cluster.__enter__()
        return self

    def __exit__(self, *why):
        self.cluster.__exit__(*why)
        if self.proxies:
            self.proxies.__exit__(*why)
        self.dns.__exit__(*why)
        self.sink.__exit__(*why)

    def start(self):
        c = self.cluster
        c.thurn("domain", "add", "example.test")
        c.thurn("account", "add", "--from-file", "-", stdin="".join(f"u{i}@example.test,{PASSWORD},\n" for i in range(1, ACCOUNTS + 1)))
        for i in range(1, ACCOUNTS + 1):
            c.thurn("alias", "set", f"alias{i}@example.test", *(f"{u}@example.test" for u in targets_of(f"alias{i}")))
            c.thurn("alias", "set", f"away{i}@example.test", f"someone{i}@remote.test")
        self.stop_sending, self.stop_reading = threading.Event(), threading.Event()
        self.boxes = {f"u{i}": Mailbox(c, f"u{i}") for i in range(1, ACCOUNTS + 1)}
        self.senders = [Sender(i, c, self.stop_sending, self.pause) for i in range(self.n_senders)]
        self.reader = Reader(list(self.boxes.values()), self.stop_reading)
        self.boxes["sink"] = self.sink
        for t in (*self.senders, self.reader):
            t.start()
        wait_until(lambda: all(s.accepted for s in self.senders), "everybody's first message", 60)

    def total(self):
        return sum(len(s.accepted) for s in self.senders)

    def taken_again(self, what):
        again = self.total()
        wait_until(lambda: self.total() > again + 5, f"mail to be taken after {what}", 90)

    def end(self):
        self.stop_sending.set()
        for s in self.senders:
            s.join(120)
            assert not s.is_alive(), "a sender hangs"
        try:
            start = time.monotonic()
            wait_until(lambda: hurry(self.cluster, lambda: not missing(self.senders, self.boxes)), "every accepted message to be where it belongs", 120)
            print(f"the last was there {time.monotonic() - start:.1f} s after the end; the reader was refused {self.reader.failures} times")
        finally:
            self.stop_reading.set()
            self.reader.join(90)
            for name, box in self.boxes.items():
                if name != "sink":
                    box.look_at_all()
            judge(self.senders, self.boxes)
