"""How soon a change of the directory acts on what is open or was answered a moment ago: for the tests of one process and of a cluster."""
import imaplib
import time

from harness import PASSWORD

BIG = b"Subject: big\r\n\r\n" + (b"x" * 70 + b"\r\n") * 1000
SOON = 2.0  # seconds; what is kept lives longer than that without news (answers 5 s, logins 3 s, a full mailbox 30 s)


def _acts(what, condition, times):
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < 30, f"{what}: not within 30 s"
        time.sleep(0.01)
    times[what] = time.monotonic() - began


def _code(smtp, address):
    """Of RCPT in a transaction of its own."""
    smtp.rset()
    assert smtp.mail("s@out.test")[0] == 250
    return smtp.rcpt(address)[0]


def _sent(smtp, address, message):
    smtp.rset()
    assert smtp.mail("s@out.test")[0] == 250
    return smtp.rcpt(address)[0] == 250 and smtp.data(message)[0] == 250


def check(admin, imap, smtp):
    """admin(*words) changes the directory; imap(user) and smtp() open sessions, best with other processes. Returns what took how long."""
    times = {}
    admin("account", "add", "news@example.test", "--password", PASSWORD)
    s, c = smtp(), imap("news@example.test")
    s.ehlo()
    assert _code(s, "news@example.test") == 250

    admin("account", "set", "news@example.test", "--quota", "20000")
    _acts("quota lowered, for mail", lambda: not _sent(s, "news@example.test", BIG), times)
    _acts("quota lowered, for an open session", lambda: b"OVERQUOTA" in c.append("INBOX", None, None, BIG)[1][0], times)
    admin("account", "set", "news@example.test", "--quota", "10000000")
    _acts("quota raised, for mail", lambda: _sent(s, "news@example.test", BIG), times)
    _acts("quota raised, for an open session", lambda: c.append("INBOX", None, None, BIG)[0] == "OK", times)

    admin("alias", "set", "way@example.test", "news@example.test")
    assert _code(s, "way@example.test") == 250
    admin("alias", "remove", "way@example.test")
    _acts("alias removed", lambda: _code(s, "way@example.test") == 550, times)

    admin("account", "set", "news@example.test", "--state", "closed")
    _acts("account closed, for mail", lambda: _code(s, "news@example.test") == 550, times)
    _acts("account closed, for an open session", lambda: _is_over(c), times)
    admin("account", "set", "news@example.test", "--state", "active")
    _acts("account opened", lambda: _code(s, "news@example.test") == 250, times)

    c = imap("news@example.test")
    admin("account", "remove", "news@example.test", "--yes")
    _acts("account removed, for mail", lambda: _code(s, "news@example.test") == 550, times)
    _acts("account removed, for an open session", lambda: _is_over(c), times)

    admin("domain", "add", "soon.test")
    admin("account", "add", "a@soon.test", "--password", PASSWORD)
    assert _code(s, "a@soon.test") == 250
    admin("domain", "set", "soon.test", "--disable")
    _acts("domain disabled", lambda: _code(s, "a@soon.test") >= 400, times)
    s.close()
    print("directory changes act after (ms): " + ", ".join(f"{what} {took * 1000:.0f}" for what, took in times.items()))
    assert max(times.values()) < SOON, times


def _is_over(c):
    try:
        return c.noop()[0] == "BYE"
    except (imaplib.IMAP4.abort, OSError):
        return True
