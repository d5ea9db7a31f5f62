#!/usr/bin/python3
"""The record of administration as an operator meets it: thurn audit after changes by the command line, by the API and by setup."""
import json
import os
import pathlib
import pwd
import smtplib
import subprocess
import tempfile

import harness

ME = pwd.getpwuid(os.getuid()).pw_name


def events(server, *args):
    text = server.admin("audit", "--json", *args).stdout
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text.rstrip()):
        event, at = decoder.raw_decode(text, at)
        found.append(event)
        at += len(text[at:]) - len(text[at:].lstrip())
    return found


def send(server, n, start):
    """A message of bea's to n addresses that waits; its id."""
    with smtplib.SMTP(*server.address("submission")) as s:
        s.login("bea@example.test", "geheim und geheimer")
        s.sendmail("bea@example.test", [f"r{start + i}@nowhere.invalid.test" for i in range(n)], b"Subject: x\r\n\r\nx\r\n")
    def waits():
        page = json.loads(server.admin("queue", "list", "--recipient", f"r{start}@nowhere.invalid.test", "--json").stdout)
        return page["messages"] and page["messages"][0]["queue_id"]
    return harness.wait_until(waits, "the message to wait", 30)


def queue_acts(server):
    """An act on the queue says whose mail it was, when the mail is gone too; a filter what was given, in words."""
    server.admin("account", "set", "bea@example.test", "--state", "active")
    one, many, *rest = [send(server, n, start) for n, start in ((1, 100), (8, 200), (1, 300), (1, 301), (1, 302), (1, 303), (1, 304))]
    server.admin("queue", "drop", one)
    server.admin("queue", "hold", many, *rest)
    server.admin("queue", "drop", "--sender", "@slow.example", "--older-than", "2d", "--state", "held", check=False)
    server.admin("queue", "drop", "--all")
    drop, hold, filtered, everything = events(server, "--what", "queue.")[-4:]
    assert drop["subject"] == f"{one} from <bea@example.test> to <r100@nowhere.invalid.test>" and not drop["before"], drop
    assert hold["subject"].startswith(f"{many} from <bea@example.test> to <r200@") and hold["subject"].endswith(" and 3 more and 5 more messages"), hold
    assert len(hold["before"]["messages"]) == 4 and hold["before"]["more"] == 1, hold
    assert all(f"{i} from <bea@example.test> to <r30" in line for i, line in zip(rest, hold["before"]["messages"])), hold
    assert filtered["subject"] == "mail from @slow.example that is held older than 2 days" and everything["subject"] == "all mail", (filtered, everything)
    assert [e["what"] for e in events(server, "--what", "r100@nowhere")] == ["queue.drop"]
    text = server.admin("audit", "--what", "queue.").stdout
    assert "filter" not in text and "-> -" not in text and '""' not in text, text


def walk(combo):
    with harness.Server(combo, extra="admin.token: token-of-the-test\noutbound.relay: 127.0.0.1:1\n", accounts=("ann",)) as server:
        here = f"unix socket, uid {os.getuid()} ({ME})"
        assert [(e["what"], e["subject"]) for e in events(server)] == [("domain.add", "example.test"), ("account.add", "ann@example.test")]
        steps = (
            (("account", "set", "ann@example.test", "--quota", "1G", "--state", "suspended"), "account.set"),
            (("account", "passwd", "ann@example.test", "--password", "geheim und geheimer"), "account.set"),
            (("account", "add", "--from-file", "-"), "account.add"),
            (("alias", "set", "info@example.test", "ann@example.test"), "alias.set"),
            (("domain", "set", "example.test", "--catch-all", "ann@example.test"), "domain.set"),
            (("account", "rename", "ann@example.test", "bea@example.test"), "account.rename"),
            (("queue", "hold", "--sender", "@slow.example"), "queue.hold"),
            (("queue", "drop", "--all"), "queue.drop"),
            (("sweep",), "store.sweep"),
            (("alias", "remove", "info@example.test"), "alias.remove"),
            (("tenant", "add", "others"), "tenant.add"),
            (("account", "remove", "many1@example.test", "--yes"), "account.remove"),
        )
        for args, what in steps:
            before = events(server)
            rows = "".join(f"many{i}@example.test,geheim und geheimer,\n" for i in range(3))
            server.admin(*args, stdin=rows if "--from-file" in args else None, check=args[0] != "queue")
            made = events(server)[len(before):]
            count = 3 if "--from-file" in args else 3 if what == "account.remove" else 1  # it is closed first, and its mail goes
            assert len(made) == count and made[-1]["what"] == what, (args, made)
            assert all(e["who"] == ME and e["from"] == here for e in made), made
        queue_acts(server)
        # what nobody may change makes no event, nor does what is only looked at
        before = len(events(server))
        for args in (("account", "list"), ("domain", "show", "example.test"), ("account", "show", "nobody@example.test"), ("queue", "list"),
                     ("sweep", "--dry-run"), ("account", "remove", "nobody@example.test", "--yes"), ("domain", "remove", "example.test")):
            server.admin(*args, check=False)
        assert len(events(server)) == before
        # the token: its use once, and each change by it
        url = f"http://127.0.0.1:{server.ports['http']}"
        for _ in range(2):
            server.run("--url", url, "--token", "token-of-the-test", "account", "show", "bea@example.test")
        server.run("--url", url, "--token", "token-of-the-test", "domain", "add", "example.org")
        made = events(server)[before:]
        assert [(e["what"], e["who"], e["from"]) for e in made] == [("token.use", "admin token", "127.0.0.1"),
                                                                    ("domain.add", "admin token", "127.0.0.1")], made
        assert server.run("--url", url, "--token", "bad", "domain", "list", check=False).returncode != 0
        assert len(events(server)) == before + 2
        # as people read it
        text = server.admin("audit").stdout
        assert "geheim" not in text and "argon2" not in text and "tok\n" not in text, text
        assert '  state: "active" -> "suspended"' in text and "quota_bytes: 0 -> 1073741824" in text and 'password: "changed"' in text, text
        assert [e["after"]["catch_all"] for e in events(server, "--what", "domain.set")] == ["ann@example.test"]
        assert len(events(server, "--who", "TOKEN")) == 2 and not events(server, "--since", "0s", "--what", "domain.set")
        assert {e["subject"] for e in events(server, "--what", "many1@")} == {"many1@example.test"}
        assert server.admin("audit", "--since", "yesterday", check=False).returncode == 2
        return text


def test_sqlite_local():
    print(walk("sqlite-local"))


def test_pg_remote():
    walk("pg-remote")


def test_setup():
    """What setup makes is on record, with its own name for where it came from."""
    with tempfile.TemporaryDirectory(prefix="thurn-audit-") as d:
        data = pathlib.Path(d) / "data"
        ports = dict(zip(harness.KINDS, harness.free_ports(len(harness.KINDS))))
        config = pathlib.Path(d) / "c.yaml"
        config.write_text(f"data: {data}\nhostname: mx.first.test\nlisten:\n" + "".join(f"  {k}: 127.0.0.1:{p}\n" for k, p in ports.items()))
        subprocess.run([str(harness.BINARY), "setup", "me@first.test", "--config", str(config)], check=True, capture_output=True, timeout=60)
        p = harness.Process(pathlib.Path(d), "thurn", config.read_text(), ports["http"], harness.BINARY)
        p.start()
        text = subprocess.run([str(harness.BINARY), "audit", "--data", str(data)], check=True, capture_output=True, text=True, timeout=60).stdout
        p.stop()
        assert f"{ME}  domain.add  first.test" in text and f"{ME}  account.add  me@first.test" in text, text
        assert text.count(f"(thurn setup, uid {os.getuid()})") == 2, text


if __name__ == "__main__":
    harness.run_tests(globals())
