#!/usr/bin/python3
"""Sizes x ways: what is accepted arrives in each place that it was sent to, once, byte for byte.

usage: test_matrix.py sqlite-local | pg-s3-remote [WAY …]

Each way has boxes (mailboxes here, addresses at a sink elsewhere), each size a content of its own. A cell is one size on one way; it is good
when every box of the way has exactly one message that is this content behind trace fields of ours. The sizes lie on both sides of
where the place of a body changes: what the queue keeps in its database is counted with the trace fields, whose length is
measured first on every way.
"""
import concurrent.futures
import contextlib
import imaplib
import re
import smtplib
import socketserver
import subprocess
import sys
import tempfile
import threading
import time

import harness
from dns_server import DnsServer
from harness import PASSWORD, free_ports, wait_until

KIB = 1024
LIMIT = 5 * KIB * KIB + 1        # so that 5 MiB is the limit less one
IN_MEMORY = 512 * KIB - 3072     # of a client's bytes: larger ones stream to the store
PROBE = 1000
TRACE = re.compile(rb"(?:(?:Return-Path|Received|Date|Message-ID):[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)*(?:\r\n)?\Z")


def sizes(overhead):
    """name -> bytes that the client sends; overhead: of the trace fields on this way."""
    stored = {f"16K{d:+d}": 16 * KIB - overhead + d for d in (-1, 0, 1)}
    memory = {f"memory{d:+d}": IN_MEMORY + d for d in (0, 1)}
    half = {f"512K{d:+d}": 512 * KIB + d for d in (-1, 0, 1)}
    return {"0": 0, "line": None, **stored, **memory, **half, "limit-1": LIMIT - 1, "limit": LIMIT, "limit+1": LIMIT + 1}


def slug(name):
    """A size's name as a part of an address."""
    return name.replace("+", "p").replace("-", "m").lower()


def content(way, name, size):
    """Deterministic, with dots at line starts, lines of many lengths; in UTF-8 on the ways that are for it."""
    if size == 0:
        return b""
    if size is None:
        return f"one line by {way.name}\r\n".encode()
    word = "grüße " if way.is_8bit else "word. "
    subject = "Grüße" if way.is_utf8 else "matrix"
    head = f"Subject: {subject} {way.name} {name}\r\nDate: Mon, 2 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{way.name}-{name}@x.test>\r\n\r\n".encode()
    lines = b"".join((b"." * (i % 3) + (word * (i % 23)).encode()[:180] + b"%d\r\n" % i) for i in range(200))
    if way.is_8bit:  # a line cut in the middle of a character is no UTF-8
        lines = b"\r\n".join(line.decode(errors="ignore").encode() for line in lines.split(b"\r\n"))
    text = head + lines * ((size - len(head)) // len(lines))
    left = size - len(text)
    while left > 2:
        n = min(left, 78 if left - 78 > 2 or left <= 78 else 70)
        text += b"x" * (n - 2) + b"\r\n"
        left -= n
    if left:  # 1 or 2: into the last line
        text = text[:-2] + b"y" * left + b"\r\n"
    assert len(text) == size and text.endswith(b"\r\n"), (len(text), size)
    return text


class Way:
    def __init__(self, name, recipients, boxes, port="smtp", sender=None, mail_options=(), by_chunks=False, is_8bit=False, is_utf8=False):
        self.name, self.recipients, self.boxes, self.port = name, recipients, boxes, port
        self.sender = sender or f"{name}@outside.test"
        self.mail_options, self.by_chunks, self.is_8bit, self.is_utf8 = list(mail_options), by_chunks, is_8bit, is_utf8
        self.sent = {}      # size name -> content
        self.refused = {}   # size name -> reply

    def connect(self, server):
        if self.port == "lmtp":
            c = smtplib.LMTP("127.0.0.1", server.ports["lmtp"], local_hostname="client.test")
        else:
            c = smtplib.SMTP("127.0.0.1", server.ports[self.port], local_hostname="client.test", timeout=120)
        c.ehlo_or_helo_if_needed()
        if self.port == "submission":
            c.starttls(context=harness.client_tls())
            c.login(self.sender, PASSWORD)
        return c

    def send(self, c, name, text):
        """One message; what was said to its end."""
        to = [r.format(size=slug(name)) for r in self.recipients]
        code, text_of = c.mail(self.sender, self.mail_options)
        assert code == 250, (self.name, name, code, text_of)
        for r in to:
            code, text_of = c.rcpt(r)
            assert code == 250, (self.name, name, r, code, text_of)
        if self.by_chunks:
            return self.chunks(c, text)
        if self.port != "lmtp":
            return c.data(text)
        c.putcmd("data")
        assert c.getreply()[0] == 354
        c.send(b"".join(b"." + line if line.startswith(b".") else line for line in text.splitlines(keepends=True)) + b".\r\n")
        return [c.getreply() for _ in to][-1]

    @staticmethod
    def chunks(c, text):
        third = len(text) // 3 + 1
        pieces = [text[i:i + third] for i in range(0, len(text), third)] or [b""]
        for i, piece in enumerate(pieces):
            c.send(b"BDAT %d%s\r\n" % (len(piece), b" LAST" if i == len(pieces) - 1 else b"") + piece)
        return [c.getreply() for _ in pieces][-1]

    def run(self, server, names):
        c = self.connect(server)
        for name, size in names.items():
            text = content(self, name, size)
            code, said = self.send(c, name, text)
            if name == "limit+1":
                self.refused[name] = (code, said)
            else:
                assert code == 250, (self.name, name, code, said)
                self.sent[name] = text
        c.quit()


def ways():
    utf8 = ["SMTPUTF8", "BODY=8BITMIME"]
    return [
        Way("local", ["local@example.test"], ["local"]),
        Way("several", ["several1@example.test", "several2@example.test"], ["several1", "several2"]),
        Way("alias", ["alias@example.test"], ["alias@remote.test"]),
        Way("alias-chunks", ["alias-chunks@example.test"], ["alias-chunks@chunks.test"]),
        Way("submission", ["submission@remote.test"], ["submission@remote.test"], port="submission", sender="sub@example.test"),
        Way("lmtp", ["lmtp1@example.test", "lmtp2@example.test"], ["lmtp1", "lmtp2"], port="lmtp"),
        Way("mixed", ["mixed@example.test", "mixed@remote.test", "mixed@chunks.test"], ["mixed", "mixed@remote.test", "mixed@chunks.test"],
            port="submission", sender="sub@example.test"),
        Way("quota", ["quota@example.test", "quota-{size}@example.test"], ["quota", "quota-*"]),
        Way("chunking", ["chunking@example.test", "chunking-away@example.test"], ["chunking", "chunking@remote.test"], by_chunks=True),
        Way("8bit", ["8bit@example.test", "8bit-away@example.test"], ["8bit", "8bit@remote.test", ], mail_options=["BODY=8BITMIME"], is_8bit=True),
        Way("utf8", ["utf8@example.test", "utf8-away@example.test"], ["utf8", "utf8@chunks.test"], sender="grüße@outside.test", mail_options=utf8,
            is_8bit=True, is_utf8=True),
    ]


# --- the other hosts ---

class Sink(socketserver.ThreadingTCPServer):
    """Keeps what it is given, by recipient."""
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address, keywords):
        self.keywords, self.mails, self.lock = keywords, {}, threading.Lock()
        super().__init__(address, SinkSession)


class SinkSession(socketserver.StreamRequestHandler):
    def say(self, text):
        self.wfile.write(text.encode() + b"\r\n")

    def data(self):
        self.say("354 go on")
        lines = []
        for line in self.rfile:
            if line == b".\r\n":
                return b"".join(lines)
            lines.append(line[1:] if line.startswith(b".") else line)
        raise EOFError

    def taken(self, rcpts, text):
        with self.server.lock:
            for r in rcpts:
                self.server.mails.setdefault(r, []).append(text)
        self.say("250 2.0.0 taken")

    def handle(self):
        rcpts, parts = [], []
        self.say("220 sink.test ESMTP")
        for line in self.rfile:
            verb = line[:4].upper()
            if verb == b"EHLO":
                self.wfile.write(b"".join(b"250-" + k + b"\r\n" for k in [b"sink.test", *self.server.keywords]) + b"250 HELP\r\n")
            elif verb == b"RCPT":
                rcpts.append(re.search(rb"<(.*?)>", line)[1].decode())
                self.say("250 2.1.5 ok")
            elif verb == b"DATA":
                self.taken(rcpts, self.data())
                rcpts = []
            elif verb == b"BDAT":
                words = line.split()
                parts.append(self.rfile.read(int(words[1])))
                if len(words) == 3:
                    self.taken(rcpts, b"".join(parts))
                    rcpts, parts = [], []
                else:
                    self.say("250 2.0.0 more")
            elif verb == b"QUIT":
                self.say("221 2.0.0 bye")
                return
            else:
                if verb == b"RSET":
                    rcpts, parts = [], []
                self.say("250 2.0.0 ok")


@contextlib.contextmanager
def sinks():
    """Two hosts on one port: one with CHUNKING, one without."""
    common = [b"PIPELINING", b"8BITMIME", b"SMTPUTF8", b"SIZE 20000000", b"ENHANCEDSTATUSCODES"]
    port = free_ports(1)[0]
    found = [Sink(("127.0.0.2", port), common), Sink(("127.0.0.3", port), common + [b"CHUNKING"])]
    for s in found:
        threading.Thread(target=s.serve_forever, daemon=True).start()
    try:
        yield port, found
    finally:
        for s in found:
            s.shutdown()
            s.server_close()


@contextlib.contextmanager
def s3(folder):
    script = str(harness.ROOT / "tests/integration/s3.sh")
    subprocess.run([script, "start", folder], check=True)
    try:
        endpoint, bucket, access, secret = open(folder + "/env").read().strip().split(",")
        yield (f"blobs.kind: s3\nblobs.s3.endpoint: {endpoint}\nblobs.s3.bucket: {bucket}\nblobs.s3.access_key: {access}\n"
               f"blobs.s3.secret_key: {secret}\n")
    finally:
        subprocess.run([script, "stop", folder], check=False)


# --- what arrived ---

def mailbox(server, name):
    with imaplib.IMAP4("127.0.0.1", server.ports["imap"]) as c:
        c.login(f"{name}@example.test", PASSWORD)
        c.select("INBOX", readonly=True)
        n = int(c.untagged_responses.get("EXISTS", [b"0"])[-1] or 0)
        return [c.fetch(str(i), "(BODY.PEEK[])")[1][0][1] for i in range(1, n + 1)]


def arrivals(server, sink, box):
    if "@" not in box:
        return mailbox(server, box)
    for s in sink:
        with s.lock:
            if box in s.mails:
                return list(s.mails[box])
    return []


def is_it(arrived, text):
    return arrived.endswith(text) and TRACE.match(arrived[:len(arrived) - len(text)]) is not None


def missing(way, boxes):
    """The cells of this way that are not as they should be; boxes: box -> messages, where a star stands for each size's own."""
    bad = []
    for name, text in way.sent.items():
        for box in way.boxes:
            key = box.replace("*", slug(name))
            n = sum(is_it(one, text) for one in boxes[key])
            if n != 1:
                bad.append(f"{way.name} x {name}: {n} times in {key} (of {len(boxes[key])} there)")
    for box in way.boxes:
        if "*" not in box and len(boxes[box]) != len(way.sent):
            bad.append(f"{way.name}: {len(boxes[box])} messages in {box}, not {len(way.sent)}")
    for name, (code, said) in way.refused.items():
        if code != 552 or b"5.3.4" not in said:
            bad.append(f"{way.name} x {name}: {code} {said}")
    return bad


def queue_is_empty(server):
    return '"total": 0' in server.admin("queue", "list", "--json", "--limit", "1").stdout


def collect(server, sink, all_ways, names):
    boxes = set()
    for w in all_ways:
        for box in w.boxes:
            boxes |= {box.replace("*", slug(n)) for n in names} if "*" in box else {box}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return dict(zip(sorted(boxes), pool.map(lambda b: arrivals(server, sink, b), sorted(boxes))))


def set_up(server, all_ways, names):
    local = {b for w in all_ways for b in w.boxes if "@" not in b and "*" not in b}
    if any(w.port == "submission" for w in all_ways):
        local.add("sub")
    for name in sorted(local):
        server.admin("account", "add", f"{name}@example.test", "--password-stdin", stdin=PASSWORD + "\n")
    if any(w.name == "quota" for w in all_ways):
        for name in names:
            box = f"quota-{slug(name)}@example.test"
            server.admin("account", "add", box, "--password-stdin", "--quota", "10", stdin=PASSWORD + "\n")
    for address, to in (("alias", "alias@remote.test"), ("alias-chunks", "alias-chunks@chunks.test"), ("chunking-away", "chunking@remote.test"),
                        ("8bit-away", "8bit@remote.test"), ("utf8-away", "utf8@chunks.test")):
        server.admin("alias", "set", f"{address}@example.test", to)


def send_all(server, all_ways, names):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(w.run, server, names[w.name]) for w in all_ways]:
            done.result()


def overhead(way, boxes):
    """Of the trace fields, without the Return-Path that is no part of the content."""
    one = boxes[way.boxes[0]][0]
    return len(one) - PROBE - (one.index(b"\n") + 1 if one.startswith(b"Return-Path") else 0)


def main():
    shape, only = sys.argv[1], sys.argv[2:]
    all_ways = [w for w in ways() if not only or w.name in only]
    names = ["probe", *sizes(0)]
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        port, sink = stack.enter_context(sinks())
        records = {(f"{d}.test.", "MX"): [f"10 mx.{d}.test."] for d in ("remote", "chunks")}
        records |= {("mx.remote.test.", "A"): ["127.0.0.2"], ("mx.chunks.test.", "A"): ["127.0.0.3"]}
        dns = stack.enter_context(DnsServer(records))
        extra = f"dns.servers: 127.0.0.1:{dns.port}\noutbound.port: {port}\nlimits.message_size: {LIMIT}\n"
        if shape == "pg-s3-remote":
            harness.needs("s3")
            extra += stack.enter_context(s3(str(tempfile.mkdtemp(prefix="thurn-s3-")) + "/s3"))
        server = stack.enter_context(harness.Server("sqlite-local" if shape == "sqlite-local" else "pg-remote", extra=extra, accounts=()))
        set_up(server, all_ways, names)
        print(f"set up after {time.monotonic() - start:.0f} s", flush=True)
        send_all(server, all_ways, {w.name: {"probe": PROBE} for w in all_ways})
        firsts = [w for w in all_ways if w.name != "quota"]
        wait_until(lambda: all(arrivals(server, sink, w.boxes[0]) for w in firsts), "the probes", 30)
        boxes = collect(server, sink, all_ways, names)
        send_all(server, all_ways, {w.name: sizes(overhead(w, boxes)) for w in all_ways})
        print(f"sent after {time.monotonic() - start:.0f} s", flush=True)
        if any(w.name == "quota" for w in all_ways):
            for name in names:
                server.admin("account", "set", f"quota-{slug(name)}@example.test", "--quota", "1G")

        def is_over():
            server.admin("queue", "retry", "--all", check=False)
            return queue_is_empty(server)
        wait_until(is_over, "the queue to be empty", 60)
        boxes = collect(server, sink, all_ways, names)
        bad = [cell for w in all_ways for cell in missing(w, boxes)]
        n = sum(len(w.sent) + len(w.refused) for w in all_ways)
        print(f"{n} cells of {len(all_ways)} ways, {len(bad)} bad, after {time.monotonic() - start:.0f} s", flush=True)
        assert not bad, "\n".join(bad)
        assert n == len(all_ways) * len(names), "a cell is missing"


if __name__ == "__main__":
    main()
