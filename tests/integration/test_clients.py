#!/usr/bin/python3
"""Real mail programs: swaks, curl, mbsync, Python's smtplib and imaplib, against one process and against split roles."""
import email.message
import imaplib
import os
import smtplib
import subprocess
import sys
import tempfile

import harness
from harness import PASSWORD, wait_until


def curl(*args):
    return subprocess.run(["curl", "-sk", "--max-time", "30", *args], capture_output=True, check=True).stdout


def test_swaks_to_curl(server):
    """A mail sent with swaks is read with curl over IMAPS."""
    subprocess.run(["swaks", "--server", f"127.0.0.1:{server.ports['smtp']}", "--tls", "--from", "x@elsewhere.test", "--to",
                    "ann@example.test", "--header", "Subject: by swaks", "--body", "hello ann"], check=True,
                   stdout=subprocess.DEVNULL)
    url = f"imaps://127.0.0.1:{server.ports['imaps']}/INBOX"
    text = curl("-u", f"ann@example.test:{PASSWORD}", url + ";MAILINDEX=1")
    assert b"Subject: by swaks" in text and b"hello ann" in text, text
    assert text.startswith(b"Return-Path: <x@elsewhere.test>"), text[:200]
    # and what curl appends is there
    with tempfile.NamedTemporaryFile() as f:
        f.write(b"Subject: appended\r\n\r\nby curl\r\n")
        f.flush()
        curl("-u", f"ann@example.test:{PASSWORD}", "-T", f.name, url)
    assert b"by curl" in curl("-u", f"ann@example.test:{PASSWORD}", url + ";MAILINDEX=2")


def test_swaks_auth(server):
    for kind, tls in (("submission", "--tls"), ("submissions", "--tlsc")):
        subprocess.run(["swaks", "--server", f"127.0.0.1:{server.ports[kind]}", tls, "--auth", "LOGIN", "--auth-user",
                        "ann@example.test", "--auth-password", PASSWORD, "--from", "ann@example.test", "--to", "bob@example.test",
                        "--header", f"Subject: {kind}"], check=True, stdout=subprocess.DEVNULL)
    bad = subprocess.run(["swaks", "--server", f"127.0.0.1:{server.ports['submission']}", "--tls", "--auth", "PLAIN", "--auth-user",
                          "ann@example.test", "--auth-password", "wrong", "--from", "ann@example.test", "--to", "bob@example.test"],
                         capture_output=True, text=True)
    assert bad.returncode != 0 and "535" in bad.stdout, bad.stdout
    with imaplib.IMAP4_SSL("127.0.0.1", server.ports["imaps"], ssl_context=harness.client_tls()) as c:
        c.login("bob@example.test", PASSWORD)
        assert c.select("INBOX")[1] == [b"2"]
        found = c.search(None, "SUBJECT", "submissions")[1]
        assert found == [b"2"], found


def test_smtplib_imaplib(server):
    m = email.message.EmailMessage()
    m["From"], m["To"], m["Subject"] = "cleo@example.test", "bob@example.test", "Grüße"
    m.set_content("Zeile eins\n.\n..zwei\n")
    m.add_attachment(os.urandom(300000), maintype="application", subtype="octet-stream", filename="bin.dat")
    with smtplib.SMTP("127.0.0.1", server.ports["submission"]) as s:
        s.starttls(context=harness.client_tls())
        s.login("cleo@example.test", PASSWORD)
        s.send_message(m, mail_options=("BODY=8BITMIME",))
    with imaplib.IMAP4("127.0.0.1", server.ports["imap"]) as c:
        c.starttls(harness.client_tls())
        c.login("bob@example.test", PASSWORD)
        n = int(c.select("INBOX")[1][0])
        kind, data = c.fetch(str(n), "(BODY.PEEK[] BODYSTRUCTURE FLAGS ENVELOPE)")
        raw = data[0][1]
        again = email.message_from_bytes(raw, policy=email.policy.default)
        assert again["Subject"] == "Grüße"
        assert again.get_body().get_content().replace("\r\n", "\n") == "Zeile eins\n.\n..zwei\n", again.get_body().get_content()
        assert next(again.iter_attachments()).get_content() == next(m.iter_attachments()).get_content()
        assert c.store(str(n), "+FLAGS", r"(\Seen Work)")[0] == "OK"
        assert c.copy(str(n), "Archive")[0] == "OK"
        assert c.select("Archive")[1] == [b"1"]
        assert b"Work" in c.fetch("1", "(FLAGS)")[1][0]
        assert c.append("Drafts", r"(\Draft)", imaplib.Time2Internaldate(1700000000), b"Subject: d\r\n\r\nx\r\n")[0] == "OK"
        assert sorted(x.split(b'"/" ')[1] for x in c.list()[1])[:3] == [b"Archive", b"Drafts", b"INBOX"]


def test_mbsync(server):
    """Pull everything into a Maildir, change it there, push it back."""
    with tempfile.TemporaryDirectory() as home:
        rc = os.path.join(home, "mbsyncrc")
        with open(rc, "w") as f:
            f.write(f"""IMAPAccount a
Host 127.0.0.1
Port {server.ports['imap']}
User bob@example.test
Pass "{PASSWORD}"
SSLType None
AuthMechs LOGIN

IMAPStore r
Account a

MaildirStore l
Path {home}/mail/
Inbox {home}/mail/INBOX
SubFolders Verbatim

Channel c
Far :r:
Near :l:
Patterns *
Create Both
Expunge Both
SyncState *
""")
        os.makedirs(os.path.join(home, "mail"))
        run = lambda: subprocess.run(["mbsync", "-c", rc, "-a"], check=True, env={"HOME": home, "PATH": os.environ["PATH"]},
                                     capture_output=True, timeout=120)
        run()
        inbox = os.path.join(home, "mail/INBOX")
        files = [os.path.join(inbox, d, f) for d in ("new", "cur") for f in os.listdir(os.path.join(inbox, d))]
        with imaplib.IMAP4("127.0.0.1", server.ports["imap"]) as c:
            c.login("bob@example.test", PASSWORD)
            before = int(c.select("INBOX")[1][0])
            assert len(files) == before, (files, before)
            c.unselect()
            # one new message by Maildir, one marked read, one deleted
            with open(os.path.join(inbox, "cur", "1700000000.x.host:2,S"), "wb") as f:
                f.write(b"Subject: from maildir\n\nlocal\n")
            os.unlink(files[0])
            run()
            assert int(c.select("INBOX")[1][0]) == before  # one came, one went
            assert c.search(None, "SUBJECT", '"from maildir"')[1] != [b""]


def main():
    combo = sys.argv[1]
    chosen = sys.argv[2:]
    with harness.Server(combo) as server:
        for name, test in list(globals().items()):
            if name.startswith("test_") and (not chosen or name in chosen):
                test(server)
                print(f"ok    {name}", flush=True)


if __name__ == "__main__":
    main()
