#!/usr/bin/python3
"""Every sample message goes in over SMTP and over APPEND and comes back byte for byte by FETCH BODY[].

Samples are read from THURN_SHARED_DATA (or ../shared/data); without them a set made here is used: bad charsets, lone
headers, NULs, very long lines, deep nesting. usage: test_corpus.py COMBO|cluster|cluster:DIR [EVERY]
EVERY: take each n-th sample. cluster: in a cluster of its own, in through the first front-end and read through the second;
cluster:DIR: in the one that dev-cluster started in DIR.
"""
import concurrent.futures
import contextlib
import imaplib
import smtplib
import sys

import cluster
import harness
from harness import PASSWORD


def made():
    yield "empty body", b"Subject: x\r\n\r\n"
    yield "no header", b"\r\nbody\r\n"
    yield "only text", b"not a header at all\r\nsecond line\r\n"
    yield "8-bit", b"Subject: \xff\xfe raw\r\nX: \xe4\r\n\r\n" + bytes(range(1, 10)) + bytes(range(14, 256)) + b"\r\n"
    yield "dots", b"Subject: dots\r\n\r\n.\r\n..\r\n. \r\n.x\r\n"
    yield "long header", b"X-Long: " + b"a" * 900 + b"\r\n" + b" b" * 400 + b"\r\n\r\nx\r\n"
    yield "large", b"Subject: large\r\n\r\n" + (b"0123456789" * 9 + b"\r\n") * 20000
    nested = b"Content-Type: text/plain\r\n\r\ndeep\r\n"
    for i in range(80):
        nested = b"Content-Type: message/rfc822\r\n\r\n" + nested
    yield "nested", nested
    parts = b"".join(b"--b\r\nContent-Type: text/plain\r\n\r\n%d\r\n" % i for i in range(1500))
    yield "many parts", b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + parts + b"--b--\r\n"


def sendable(raw):
    """What an SMTP client may send: no NUL, lines within the limit of RFC 5321 4.5.3.1.6 stretched to ours."""
    return b"\0" not in raw and max(map(len, raw.split(b"\r\n"))) <= 2000 and raw.count(b"\nReceived:") < 40


USERS = [f"corpus{i}" for i in range(8)]


@contextlib.contextmanager
def addresses_of(combo):
    """(SMTP to send to, IMAP to append to, IMAP to read from) of a server where the users have nothing yet."""
    if not combo.startswith("cluster"):
        with harness.Server(combo, accounts=USERS) as server:
            yield server.address("smtp"), server.address("imap"), server.address("imap")
        return
    folder = combo.partition(":")[2]
    with contextlib.nullcontext(cluster.Running(folder)) if folder else cluster.Cluster() as c:
        c.thurn("domain", "add", "example.test", check=False)
        for user in USERS:
            c.thurn("account", "remove", "--yes", f"{user}@example.test", check=False)
            c.thurn("account", "add", f"{user}@example.test", "--password", PASSWORD)
        yield c.address("SMTP_1"), c.address("IMAP_1"), c.address("IMAP_2")


def by_smtp(address, user, samples):
    """Send what can be sent; what was."""
    smtp = smtplib.SMTP(*address)
    smtp.ehlo("client.test")
    sent = []
    for name, raw in samples:
        if not sendable(raw):
            continue
        for reply, want in ((smtp.docmd("MAIL FROM:<s@elsewhere.test> BODY=8BITMIME"), 250),
                            (smtp.docmd(f"RCPT TO:<{user}@example.test>"), 250), (smtp.docmd("DATA"), 354)):
            assert reply[0] == want, (name, reply)
        lines = raw.split(b"\r\n")[:-1]
        smtp.send(b"".join((b"." + line if line.startswith(b".") else line) + b"\r\n" for line in lines) + b".\r\n")
        try:
            reply = smtp.getreply()
        except smtplib.SMTPServerDisconnected as e:
            raise AssertionError(f"{name}: {e}") from None
        assert reply[0] == 250, (name, reply)
        sent.append((name, raw))
    smtp.quit()
    return sent


def one_user(addresses, user, samples):
    """A slice of the samples through one account; how many went by SMTP and by APPEND."""
    sent = by_smtp(addresses[0], user, samples)
    c = imaplib.IMAP4(*addresses[2])
    c.login(f"{user}@example.test", PASSWORD)
    assert int(c.select("INBOX")[1][0]) == len(sent)
    for i, (name, raw) in enumerate(sent, 1):
        got = c.fetch(str(i), "(BODY.PEEK[])")[1][0][1]
        head, ours = got[:len(got) - len(raw)], got[len(got) - len(raw):]
        assert ours == raw, f"{name}: by SMTP came back changed"
        assert head.startswith(b"Return-Path: <s@elsewhere.test>\r\nReceived: from client.test"), (name, head)
    c.create("Appended")
    writer = imaplib.IMAP4(*addresses[1])
    writer.login(f"{user}@example.test", PASSWORD)
    for name, raw in samples:
        kind, answer = writer.append("Appended", None, None, raw)
        assert kind == "OK", (name, answer)
    writer.logout()
    assert int(c.select("Appended")[1][0]) == len(samples)
    for i, (name, raw) in enumerate(samples, 1):
        kind, data = c.fetch(str(i), "(RFC822.SIZE BODYSTRUCTURE ENVELOPE BODY.PEEK[])")
        got = next(d[1] for d in data if isinstance(d, tuple) and len(d[1]) == len(raw)) if len(raw) else b""
        assert got == raw, f"{name}: by APPEND came back changed"
    c.logout()
    return len(sent), len(samples)


def main():
    combo, every = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1
    samples = list(made()) + [(str(p), raw) for p, raw in harness.corpus()][::every]
    with addresses_of(combo) as addresses, concurrent.futures.ThreadPoolExecutor(len(USERS)) as pool:
        slices = [pool.submit(one_user, addresses, user, samples[i::len(USERS)]) for i, user in enumerate(USERS)]
        counts = [s.result() for s in slices]
    print(f"{sum(c[0] for c in counts)} messages by SMTP and {sum(c[1] for c in counts)} by APPEND, byte for byte")


if __name__ == "__main__":
    main()
