#!/usr/bin/python3
"""Mail for other domains: found by MX, delivered to smtp-sink, retried, bounced; and the queue's command line."""
import imaplib
import json
import smtplib
import sys

import harness
from dns_server import DnsServer
from harness import PASSWORD, free_ports, smtp_sink, wait_until


def submit(server, recipients, subject, **options):
    with smtplib.SMTP("127.0.0.1", server.ports["submission"]) as s:
        s.starttls(context=harness.client_tls())
        s.login("ann@example.test", PASSWORD)
        s.sendmail("ann@example.test", recipients, f"Subject: {subject}\r\n\r\n.dot first\r\nbody\r\n".encode(), **options)


def queue(server, *args):
    return json.loads(server.admin("queue", "list", "--json", *args).stdout)


def inbox(server, name, subject):
    with imaplib.IMAP4("127.0.0.1", server.ports["imap"]) as c:
        c.login(f"{name}@example.test", PASSWORD)
        c.select("INBOX")
        ids = c.search(None, "SUBJECT", f'"{subject}"')[1][0].split()
        return [c.fetch(i, "(BODY.PEEK[])")[1][0][1] for i in ids]


def test_mx(server, sink):
    submit(server, ["someone@remote.test"], "to the sink")
    mails = wait_until(sink, "the mail at the sink")
    text = mails[0]
    assert b"Subject: to the sink" in text and b"\n.dot first" in text, text
    assert b"someone@remote.test" in text and b"ann@example.test" in text
    assert b"Return-Path" not in text.split(b"Subject")[0] or b"Received: from" in text
    wait_until(lambda: queue(server)["total"] == 0, "the queue to be empty")


def test_two_kinds_of_recipient(server, sink):
    before = len(sink())
    submit(server, ["bob@example.test", "one@remote.test", "two@remote.test"], "mixed")
    wait_until(lambda: len(sink()) >= before + 1, "the remote part")
    assert len(wait_until(lambda: inbox(server, "bob", "mixed"), "the local part")) == 1


def test_unknown_domain_bounces(server, sink):
    submit(server, ["x@nowhere.test"], "to nobody")
    bounce = wait_until(lambda: inbox(server, "ann", "Undeliver") or inbox(server, "ann", "failed") or inbox(server, "ann", "returned")
                        or inbox(server, "ann", "Delivery"), "a bounce")[0]
    assert b"multipart/report" in bounce and b"message/delivery-status" in bounce, bounce
    assert b"x@nowhere.test" in bounce and b"Action: failed" in bounce and b"Return-Path: <>" in bounce, bounce


def test_null_mx(server, sink):
    submit(server, ["x@nullmx.test"], "to a null mx")
    wait_until(lambda: any(b"x@nullmx.test" in b and b"5.1.10" in b for b in
                           inbox(server, "ann", "Undeliver") + inbox(server, "ann", "Delivery")), "the bounce of a null MX")


def test_deferred_and_queue_commands(server, sink):
    submit(server, ["x@dead.test"], "waits")
    waiting = wait_until(lambda: [m for m in queue(server)["messages"] if m["recipients"] and m["recipients"][0]["text"]],
                         "a first attempt")[0]
    recipient = waiting["recipients"][0]
    assert recipient["address"] == "x@dead.test" and recipient["state"] == "due" and recipient["text"], recipient
    ident = waiting["queue_id"]
    assert "x@dead.test" in server.admin("queue", "show", ident).stdout
    assert "waits" in server.admin("queue", "show", ident).stdout
    server.admin("queue", "hold", ident)
    assert queue(server)["messages"][0]["recipients"][0]["state"] == "held"
    assert [m["queue_id"] for m in queue(server, "--state", "held", "--recipient", "@dead.test")["messages"]] == [ident]
    for args in (("--state", "due,active"), ("--older-than", "1h"), ("--state", "held", "--sender", "@nowhere.test")):
        assert queue(server, *args) | {"messages": []} == {"messages": [], "total": 0} and not queue(server, *args)["messages"], args
    assert server.admin("queue", "list", "--state", "none", check=False).returncode == 2
    assert server.admin("queue", "drop", "--state", "held", "--older-than", "1d", check=False).returncode == 3
    server.admin("queue", "release", "--state", "held")
    due = queue(server)["messages"][0]["recipients"][0]["due_unix"]
    server.admin("queue", "retry", ident)
    wait_until(lambda: queue(server)["messages"][0]["recipients"][0]["due_unix"] != due, "another attempt")
    server.admin("queue", "drop", ident)
    wait_until(lambda: queue(server)["total"] == 0, "the queue to be empty")
    assert server.admin("queue", "show", ident, check=False).returncode == 3


def test_queue_pages(server, sink):
    """More messages than a page has, over the API and on the command line."""
    for i in range(3):
        submit(server, [f"p{i}@dead.test"], f"page {i}")
    first = queue(server, "--limit", "2")
    assert len(first["messages"]) == 2 and first["total"] == 3 and first["next"] == first["messages"][1]["queue_id"], first
    text = server.admin("queue", "list", "--limit", "1000").stdout
    assert all(f"p{i}@dead.test" in text for i in range(3)) and text.endswith("3 messages in the queue\n"), text
    server.admin("queue", "drop", "--recipient", "@dead.test")
    wait_until(lambda: queue(server)["total"] == 0, "the queue to be empty")


def test_survives_restart(server, sink):
    """What was accepted is tried again after a crash."""
    submit(server, ["x@later.test"], "after the crash")
    wait_until(lambda: queue(server)["total"] == 1, "the message in the queue")
    for p in server.processes:
        p.kill()
    server.dns.records[("later.test.", "MX")] = [f"10 mx.remote.test."]
    for p in server.processes:
        p.start()
    server.admin("queue", "retry", "--all", check=False)
    wait_until(lambda: any(b"after the crash" in m for m in sink()), "the mail at the sink")


def main():
    combo = sys.argv[1]
    sink_port = free_ports(1)[0]
    records = {("remote.test.", "MX"): ["10 mx.remote.test."], ("mx.remote.test.", "A"): ["127.0.0.1"],
               ("nullmx.test.", "MX"): ["0 ."], ("dead.test.", "MX"): ["10 mx.dead.test."], ("mx.dead.test.", "A"): ["127.0.0.2"],
               ("later.test.", "MX"): ["10 mx.dead.test."]}
    with DnsServer(records) as dns, smtp_sink(sink_port) as sink:
        extra = f"dns.servers: 127.0.0.1:{dns.port}\noutbound.port: {sink_port}\n"
        with harness.Server(combo, extra=extra) as server:
            server.dns = dns
            for name, test in list(globals().items()):
                if name.startswith("test_") and (len(sys.argv) < 3 or name in sys.argv[2:]):
                    test(server, sink)
                    print(f"ok    {name}", flush=True)


if __name__ == "__main__":
    main()
