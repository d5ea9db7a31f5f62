#!/usr/bin/python3
"""Hostile peers cost bounded memory and only their own session: a line of a gigabyte, a million pipelined commands, half a TLS
record, a slow-loris, a MIME bomb, endless literals. Another session is served all the while."""
import imaplib
import os
import smtplib
import socket
import ssl
import sys
import threading
import time

import harness
from harness import PASSWORD

LINE = int(1 << 30)
GROWTH_KIB = 64 * 1024


def connect(server, kind):
    s = socket.create_connection(server.address(kind), 30)
    s.settimeout(60)
    return s


def flood(sock, piece, total):
    """Send total bytes of repeated piece, or until the server has had enough; how much went."""
    sent = 0
    try:
        while sent < total:
            sock.sendall(piece)
            sent += len(piece)
    except OSError:
        pass
    return sent


def drain(sock, out):
    try:
        while piece := sock.recv(1 << 16):
            out.append(len(piece))
    except OSError:
        pass


def long_line(server, kind):
    with connect(server, kind) as s:
        s.recv(1000)
        flood(s, b"a" * (1 << 20), LINE)


def million_commands(server, kind, command):
    """Pipelined without reading the answers, then reading them all."""
    with connect(server, kind) as s:
        s.recv(1000)
        got = []
        reader = threading.Thread(target=drain, args=(s, got))
        reader.start()
        flood(s, command * 1000, len(command) * 10 ** 6)
        try:
            s.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        reader.join(300)
        assert not reader.is_alive(), "the answers do not end"


def deaf(server):
    """Commands without end, answers never read."""
    s = connect(server, "imap")
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.settimeout(3)
    flood(s, b"a CAPABILITY\r\n" * 1000, 200 << 20)
    return s


def half_record(server):
    s = connect(server, "imaps")
    s.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
    return s


def half_record_after_handshake(server):
    raw = connect(server, "imaps")
    tls = harness.client_tls().wrap_socket(raw)
    fd = socket.socket(fileno=tls.detach())
    fd.sendall(b"\x17\x03\x03\x40\x00abc")
    return fd


def loris(server, kind):
    s = connect(server, kind)
    s.recv(1000)
    s.sendall(b"E")
    return s


def mime_bomb(server):
    nested = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (i, i) for i in range(20000))
    many = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\n" * 500000
    headers = b"".join(b"X-%d: y\r\n" % i for i in range(300000)) + b"\r\nx\r\n"
    params = b"Content-Type: text/plain" + b"; a=b" * 300000 + b"\r\n\r\nx\r\n"
    with smtplib.SMTP(*server.address("smtp")) as smtp:
        for name, bomb in (("nested", nested), ("many", many), ("headers", headers), ("params", params)):
            try:
                smtp.sendmail("x@elsewhere.test", ["ann@example.test"], bomb)
            except smtplib.SMTPResponseException as e:
                assert 400 <= e.smtp_code < 600
                smtp.rset()
    with imaplib.IMAP4(*server.address("imap")) as c:
        c.login("ann@example.test", PASSWORD)
        n = int(c.select("INBOX")[1][0])
        for i in range(1, n + 1):
            assert c.fetch(str(i), "(BODYSTRUCTURE ENVELOPE RFC822.SIZE)")[0] == "OK"
            assert c.search(None, "TEXT", "zzzz")[0] == "OK"


def literals(server):
    with connect(server, "imap") as s:
        s.recv(1000)
        s.sendall(b"a LOGIN {4294967295}\r\n")
        assert b"+" not in s.recv(1000)
    with connect(server, "imap") as s:
        s.recv(1000)
        s.sendall(b"a LOGIN {4294967295+}\r\n")
        flood(s, b"x" * (1 << 20), 100 << 20)
    with connect(server, "imap") as s:
        s.recv(1000)
        s.sendall(b"a SEARCH " + b"(" * 60000 + b"\r\n")
        s.recv(1000)
        s.sendall(b"b NOOP\r\n")


def main():
    # Sanitizers hold freed memory back, which is not what is measured here.
    os.environ["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "detect_stack_use_after_return=1:exitcode=99") + ":quarantine_size_mb=4"
    with harness.Server("sqlite-local") as server:
        p = server.front
        held = []
        stop = threading.Event()
        worst = [0.0]

        def honest():
            """What another user sees: a command every 100 ms, and how long the slowest took."""
            with imaplib.IMAP4(*server.address("imap")) as c:
                c.login("bob@example.test", PASSWORD)
                c.select("INBOX")
                while not stop.is_set():
                    start = time.monotonic()
                    assert c.noop()[0] == "OK"
                    worst[0] = max(worst[0], time.monotonic() - start)
                    stop.wait(0.1)
        user = threading.Thread(target=honest)
        user.start()
        try:
            literals(server)
            mime_bomb(server)
            base = p.rss_kib()
            for name, attack in (
                    ("a line of a gigabyte, SMTP", lambda: long_line(server, "smtp")),
                    ("a line of a gigabyte, IMAP", lambda: long_line(server, "imap")),
                    ("a line of a gigabyte, HTTP", lambda: long_line_http(server)),
                    ("a million commands, SMTP", lambda: million_commands(server, "smtp", b"NOOP\r\n")),
                    ("a million commands, IMAP", lambda: million_commands(server, "imap", b"a NOOP\r\n")),
                    ("answers never read", lambda: held.append(deaf(server))),
                    ("half TLS records", lambda: held.extend(half_record(server) for _ in range(50))),
                    ("half records after the handshake", lambda: held.extend(half_record_after_handshake(server) for _ in range(50))),
                    ("slow-loris", lambda: held.extend(loris(server, k) for k in ("smtp", "imap") for _ in range(50)))):
                start = time.monotonic()
                attack()
                grown = p.rss_kib() - base
                print(f"ok    {name}: {time.monotonic() - start:.1f} s, resident memory {grown:+d} KiB", flush=True)
                assert grown < GROWTH_KIB, f"{name}: {grown} KiB more"
                assert user.is_alive(), "the other user was cut off"
        finally:
            stop.set()
            user.join(60)
            for s in held:
                s.close()
        assert not user.is_alive()
        print(f"slowest answer to another user meanwhile: {worst[0] * 1000:.0f} ms")
        assert server.admin("account", "list").stdout.count("example.test") == 3


def long_line_http(server):
    with connect(server, "http") as s:
        s.sendall(b"GET /")
        flood(s, b"a" * (1 << 20), LINE)


if __name__ == "__main__":
    sys.exit(main())
