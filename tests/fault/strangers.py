#!/usr/bin/python3
"""Strangers at their caps on port 25, from many addresses, while users log in.

Each of --addresses loopback addresses holds as many connections as it is let, does what is slow with them (half a command, a handshake
that does not go on, a message of a byte now and then), and comes back when it is turned away. Meanwhile users log in by
submission with STARTTLS and by IMAPS, one after the other. All of them must get in; printed is how long that took, beside the same without strangers.

usage: strangers.py [--binary THURN] [--addresses N] [--each N] [--seconds N]
"""
import argparse
import collections
import imaplib
import multiprocessing
import pathlib
import resource
import selectors
import smtplib
import socket
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import harness  # noqa: E402

WAYS = (b"EHLO slow", b"EHLO s.test\r\nSTARTTLS\r\n", b"EHLO s.test\r\nMAIL FROM:<x@e.test>\r\nRCPT TO:<ann@example.test>\r\nDATA\r\nSubject: s")


def open_files():
    """As many as may be open; the server that is started from here has the same."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def strangers(port, addresses, each, is_over, held):
    """In a process of its own. held: how many connections are open just now."""
    room = open_files()
    ready = selectors.EpollSelector()
    due = collections.deque()  # (when, address, way) of those to open
    for k in range(min(each, (room - 100) // addresses)):
        for a in range(addresses):
            due.append((0, f"127.{1 + a // 200}.0.{1 + a % 200}", WAYS[(a + k) % len(WAYS)]))
    last_drip, opened = time.monotonic(), {}
    while not is_over.value:
        now = time.monotonic()
        for _ in range(200):
            if not due or due[0][0] > now:
                break
            _, address, way = due.popleft()
            s = socket.socket()
            s.setblocking(False)
            s.bind((address, 0))
            s.connect_ex(("127.0.0.1", port))
            ready.register(s, selectors.EVENT_READ, (address, way))
        for key, _ in ready.select(0.01):
            s, (address, way) = key.fileobj, key.data
            try:
                gone = not s.recv(65536)
                if not gone and s not in opened:  # the greeting
                    opened[s] = way
                    s.send(way)
            except BlockingIOError:
                continue
            except OSError:
                gone = True
            if gone:
                opened.pop(s, None)
                ready.unregister(s)
                s.close()
                due.append((now + 1, address, way))
        if now - last_drip > 10:
            last_drip = now
            for s, way in list(opened.items()):
                try:
                    s.send(b"x")
                except OSError:
                    pass  # its end is read above
        held.value = len(opened)


def by_submission(server):
    with smtplib.SMTP(*server.address("submission"), timeout=30) as s:
        s.starttls(context=harness.client_tls())
        s.login("ann@example.test", harness.PASSWORD)


def by_imaps(server):
    c = imaplib.IMAP4_SSL(*server.address("imaps"), ssl_context=harness.client_tls(), timeout=30)
    c.login("bob@example.test", harness.PASSWORD)
    assert c.select("INBOX")[0] == "OK"
    c.logout()


def measure(server, seconds):
    """{service: (times in ms, failures)}"""
    results, end = {}, time.monotonic() + seconds

    def go_on(name, log_in):
        times, failures = [], []
        while time.monotonic() < end:
            began = time.monotonic()
            try:
                log_in(server)
            except (OSError, smtplib.SMTPException, imaplib.IMAP4.error) as e:
                failures.append(repr(e))
            times.append((time.monotonic() - began) * 1000)
        results[name] = sorted(times), failures
    threads = [threading.Thread(target=go_on, args=a) for a in (("submission", by_submission), ("imaps", by_imaps))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return results


def show(what, results):
    for name, (times, failures) in results.items():
        print(f"{what}: {name}: {len(times)} log-ins, p50 {times[len(times) // 2]:.1f} ms, p99 {times[len(times) * 99 // 100]:.1f} ms, "
              f"longest {times[-1]:.1f} ms, {len(failures)} failed {failures[:2]}", flush=True)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--binary")
    ap.add_argument("--addresses", type=int, default=200)
    ap.add_argument("--each", type=int, default=100, help="connections that each address tries to hold")
    ap.add_argument("--seconds", type=float, default=20)
    o = ap.parse_args()
    open_files()
    with harness.Server("sqlite-local", binary=o.binary) as server:
        before = measure(server, o.seconds / 2)
        show("alone", before)
        is_over, held = multiprocessing.Value("b", 0), multiprocessing.Value("i", 0)
        p = multiprocessing.Process(target=strangers, args=(server.ports["smtp"], o.addresses, o.each, is_over, held), daemon=True)
        p.start()
        last = -1
        while held.value > last:  # as many as they get
            last = held.value
            time.sleep(3)
        beside = measure(server, o.seconds)
        show(f"beside {held.value} strangers of {o.addresses} addresses", beside)
        metrics = harness.http_get(("127.0.0.1", server.ports["http"]), "/metrics")[1]
        for line in metrics.splitlines():
            if line.startswith(("thurn_caps_reached_total", "thurn_connections_active", "thurn_connections_refused_total", "thurn_smtp_refused_total", "thurn_fibers ")):
                print("  " + line)
        print("  " + harness.http_get(("127.0.0.1", server.ports["http"]), "/readyz")[1].strip().replace("\n", "\n  "))
        is_over.value = 1
        p.join(10)
        failed = sum(len(f) for _, f in list(before.values()) + list(beside.values()))
        print(f"{failed} log-ins failed")
        return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
