#!/usr/bin/python3
"""What people see when something is in the way: each screen names the thing and the remedy."""
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import smtplib
import socket
import subprocess
import tempfile

import harness

STRONG = "five wooden geese 71"


def thurn(*args, stdin=None, user=None):
    return subprocess.run([str(harness.BINARY), *map(str, args)], input=stdin, capture_output=True, text=True, timeout=120, user=user,
                          stdin=None if stdin is not None else subprocess.DEVNULL)


def said(r, status, *texts):
    lines = [line for line in r.stderr.splitlines() if line.startswith("thurn: ")]
    assert r.returncode == status and len(lines) == 1 and all(t in lines[0] for t in texts), (r.returncode, lines, r.stdout[-300:], r.stderr[-300:])
    assert "serve" in map(str, r.args) or "event=" not in r.stderr, r.stderr


def in_folder(test):
    with tempfile.TemporaryDirectory(prefix="thurn-screens-", dir="/tmp") as d:
        os.chmod(d, 0o755)
        test(pathlib.Path(d))


def config_of(d, **more):
    ports = dict(zip(harness.KINDS, harness.free_ports(len(harness.KINDS))))
    text = f"hostname: mx.first.test\ndata: {d}/data\nlisten:\n" + "".join(f"  {k}: 127.0.0.1:{p}\n" for k, p in ports.items())
    path = d / "c.yaml"
    path.write_text(text + "".join(f"{k}: {v}\n" for k, v in more.items()))
    return path, ports


def test_port_taken():
    """A server that is to start now says so before anything is made, and names the program; one that starts later warns."""
    def walk(d):
        config, ports = config_of(d)
        with socket.create_server(("127.0.0.1", ports["imap"])):
            me = f"(pid {os.getpid()}) listens there"
            r = thurn("setup", "me@first.test", "--config", config, "--serve")
            said(r, 1, "listen.imap", str(ports["imap"]), me, "python3 ")
            assert not r.stdout and not (d / "data").exists(), r.stdout
            r = thurn("setup", "me@first.test", "--config", config)
            said(r, 0, "warning", "listen.imap", me)
            assert "Thurn is set up" in r.stdout
            said(thurn("serve", "--config", config), 1, me)
    in_folder(walk)


def test_data_is_a_file():
    def walk(d):
        (d / "f").write_text("")
        said(thurn("setup", "me@first.test", "--dev", "--data", d / "f", "--port-offset", "12000"), 2, f"'{d}/f' is a file, and a folder is wanted")
    in_folder(walk)


def test_damaged_database():
    """Each of the three files, its head or its inside: the file is named, and what to do."""
    def walk(d):
        config, _ = config_of(d)
        assert thurn("setup", "me@first.test", "--config", config).returncode == 0
        shutil.copytree(d / "data", d / "whole")
        for name in ("directory.db", "queue.db", "mail.db"):
            for offset in (0, 100):
                with open(d / "data" / name, "r+b") as f:
                    f.seek(offset)
                    f.write(b"\xff" * 3000)
                said(thurn("serve", "--config", config), 1, f"'{d}/data/{name}': the database is damaged", "put a backup in its place", ".recover")
                shutil.rmtree(d / "data")
                shutil.copytree(d / "whole", d / "data")
    in_folder(walk)


def test_certificate_files():
    def walk(d):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", d / "k.pem", "-out", d / "c.pem", "-subj", "/CN=x", "-days", "2"],
                       check=True, capture_output=True)
        for pair, text in ((f"{d}/c.pem {d}/c.pem", f"key '{d}/c.pem' holds a certificate, and no private key"),
                           (f"{d}/k.pem {d}/c.pem", f"certificate '{d}/k.pem' holds a key: the certificate comes first")):
            config, _ = config_of(d, **{"tls.certificates": f"['{pair}']"})
            said(thurn("config", "check", "--config", config), 2, "tls.certificates", text)
    in_folder(walk)


def test_addresses():
    def walk(d):
        data = ("--dev", "--data", d / "data", "--port-offset", "12000")
        said(thurn("setup", "a b@c.test", *data), 2, "'a b@c.test' is no mail address", "there is a space in it")
        for address in ("me@192.0.2.1", "me@10.1"):
            said(thurn("setup", address, *data), 2, f"'{address}' has an IP address for a domain")
        assert not (d / "data").exists()
    in_folder(walk)
    with harness.Server("sqlite-local", accounts=()) as server:
        said(server.admin("account", "add", "a b@example.test", "--password", STRONG, check=False), 2, "there is a space in it")
        said(server.admin("domain", "add", "192.0.2.1", check=False), 2, "'192.0.2.1' is an IP address, and no domain")
        server.admin("account", "add", '"a b"@example.test', "--password", STRONG)


def test_first_screen():
    """The certificate, the name of the address, and with --dev no word of publishing."""
    def walk(d):
        config, _ = config_of(d)
        text = thurn("setup", "me@first.test", "--config", config).stdout
        assert re.search(r"self-signed\): mail programs will warn", text) and "tls.certificates" in text, text
        assert re.search(r"PTR +mx\.first\.test\.", text) and "MX   10 mx.first.test." in text, text
        text = thurn("setup", "me@first.test", "--dev", "--data", d / "dev", "--port-offset", "12000").stdout
        assert "publish:" not in text and "PTR" not in text and "this machine alone" in text, text
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", d / "k.pem", "-out", d / "c.pem", "-subj", "/CN=x", "-days", "2"],
                       check=True, capture_output=True)
        shutil.rmtree(d / "data")
        config, _ = config_of(d, **{"tls.certificates": f"['{d}/c.pem {d}/k.pem']"})
        assert "self-signed" not in thurn("setup", "me@first.test", "--config", config).stdout
    in_folder(walk)


def test_socket_of_another_user():
    if os.geteuid() != 0:
        print("without: root, who can be another user")
        return
    with harness.Server("sqlite-local", accounts=()) as server:
        binary = pathlib.Path(shutil.copy(harness.BINARY, "/tmp/thurn-screens-program"))  # where anybody may run it
        try:
            os.chmod(server.folder, 0o755)
            r = subprocess.run([binary, "--data", server.folder / "data", "domain", "list"], capture_output=True, text=True, timeout=60, user="nobody",
                               stdin=subprocess.DEVNULL)
        finally:
            binary.unlink()
        said(r, 1, "belongs to user root", "run this as that user (sudo -u root) or as root")


def test_settings_out_of_reach():
    """A folder or file of another user is not one without settings; nor is one that is not there."""
    def walk(d):
        said(thurn("config", "check", "--data", d / "nope"), 3, f"there is no folder '{d}/nope'", "thurn setup")
        config, ports = config_of(d)
        with socket.create_server(("127.0.0.1", ports["imap"])):  # which it does not come to
            said(thurn("serve", "--config", config), 4, f"'{d}/data' was never set up")
        (d / "data").mkdir(mode=0o700)
        (d / "data/thurn.yaml").write_text("hostname: mx.first.test\n")
        assert thurn("config", "check", "--data", d / "data").stdout == f"{d}/data/thurn.yaml: good\n"
        if os.geteuid() != 0:
            print("without: root, who can be another user")
            return
        binary = shutil.copy(harness.BINARY, d / "program")  # where anybody may run it
        remedy = ("run this as that user (sudo -u root) or as root",)
        for words in (("config", "check"), ("serve",), ("setup", "me@first.test")):
            def as_nobody(data, *texts, words=words):
                r = subprocess.run([binary, *words, "--data", data], capture_output=True, text=True, timeout=60, user="nobody", stdin=subprocess.DEVNULL)
                said(r, 1, f"cannot read '{data}/thurn.yaml': Permission denied", *texts)
            os.chmod(d / "data", 0o700)
            as_nobody(d / "data", "(the folder belongs to user root)", *remedy)
            as_nobody(d / "data/below", f"(the folder '{d}/data' belongs to user root)", *remedy)
            os.chmod(d / "data", 0o755)
            os.chmod(d / "data/thurn.yaml", 0o600)
            as_nobody(d / "data", "(the file belongs to user root)", *remedy)
    in_folder(walk)


def test_queue_without_effect():
    """What a command on the queue did not do has a reason for each message."""
    with harness.Server("sqlite-local", extra="outbound.relay: 127.0.0.1:1\n", accounts=("ann",)) as server:  # where nobody listens
        with smtplib.SMTP(*server.address("submission")) as s:
            s.login("ann@example.test", harness.PASSWORD)
            s.sendmail("ann@example.test", ["x@nowhere.invalid.test"], "Subject: s\r\n\r\nx\r\n")
        ident = harness.wait_until(lambda: [line.split()[0] for line in server.admin("queue", "list").stdout.splitlines() if " left" in line], "the message")[0]
        server.admin("queue", "hold", ident)
        said(server.admin("queue", "retry", ident, check=False), 4, f"{ident} is held: release it with `thurn queue release {ident}`")
        said(server.admin("queue", "retry", "12345", check=False), 3, "there is no message 12345 in the queue")
        server.admin("queue", "release", ident)


def test_names():
    """A name that is refused is named; what is removed is said to be."""
    with harness.Server("sqlite-local", accounts=()) as server:
        said(server.admin("domain", "add", "bad domain", check=False), 2, "'bad domain' is no domain: there is a space in it")
        said(server.admin("account", "add", "ann", "--password", STRONG, check=False), 2, "'ann' is no mail address: ")
        r = server.admin("account", "add", "--from-file", "-", stdin=f"a b@example.test,{STRONG},\n", check=False)
        assert r.returncode == 5 and "-:1: 'a b@example.test' is no mail address: there is a space in it" in r.stderr, r
        said(server.admin("domain", "add", "a " + "\u00fc" * 90, check=False), 2, "is no domain: there is a space in it")  # cut in a character, or not
        said(server.admin("domain", "add", "a  " + "\u00fc" * 90, check=False), 2, "is no domain: there is a space in it")
        said(server.admin("alias", "set", "t@example.test", "a b@example.test", check=False), 2, "target: 'a b@example.test' is no mail address: there is a")
        # before a password is asked for
        for address, status, text in (("a b@example.test", 2, "there is a space in it"), ("ann@", 2, "'ann@' is no mail address"), ("ann@none.test", 3, "no domain 'none.test'"),
                                      ("ann@example.test", 2, "no password on standard input")):
            said(server.admin("account", "add", address, check=False), status, text)
        said(server.admin("account", "passwd", "nobody@example.test", check=False), 3, "nobody@example.test")
        server.admin("account", "add", "ben@example.test", "--password", STRONG)
        said(server.admin("account", "add", "ben@example.test", check=False), 4, "'ben@example.test' exists")
        server.admin("domain", "add", "gone.test")
        assert server.admin("domain", "remove", "gone.test").stdout == "The domain gone.test is removed; mail for it is refused.\n"


def test_start_words():
    for words, text in ((("me",), "'me' is no mail address such as you@example.com"), (("--data", "X"), "settings of the server go after --, as in: ./start -- --data X"),
                        (("--colour",), "there is no option '--colour'")):
        r = subprocess.run([harness.ROOT / "start", *words], capture_output=True, text=True, timeout=60)
        assert r.returncode == 2 and r.stderr.startswith("start: ") and text in r.stderr and not r.stdout, r
    # what the program would say of an address after the build is said before
    for address, why in (("a b@example.com", "there is a space"), ("you@10.0.0.1", "no IP address"), ("you@[10.0.0.1]", "no IP address"),
                         ("you@a@example.com", "more than one @"), ("you@localhost", "has no dot"), ("@example.com", "is empty"), ("you@", "is empty"),
                         ("you@a..b", "is empty"), ("you@exa mple.com", "there is a space")):
        r = subprocess.run([harness.ROOT / "start", address], capture_output=True, text=True, timeout=60)
        assert r.returncode == 2 and f"start: '{address}' is no mail address" in r.stderr and why in r.stderr and not r.stdout, (address, r)


def test_start_build():
    """With a ninja of its own: whoever waits is told, one who need not is not, and a failure ends with the end of the log."""
    def walk(d):
        (d / "build/release").mkdir(parents=True)
        (d / "build/release/build.ninja").write_text("")
        (d / "bin").mkdir()
        shutil.copy(harness.ROOT / "start", d)
        shutil.copytree(harness.ROOT / "deploy", d / "deploy")
        (d / "bin/dpkg-query").write_text("#!/bin/sh\necho install ok installed\n")
        (d / "bin/ninja").write_text('#!/bin/sh\nsleep $SECONDS_; echo "[1/1] it is $SAYS"; exit $STATUS\n')
        for name in ("ninja", "dpkg-query"):
            os.chmod(d / "bin" / name, 0o755)

        def start(seconds, says, status, stdout=subprocess.PIPE):
            env = dict(os.environ, PATH=f"{d}/bin:{os.environ['PATH']}", SECONDS_=str(seconds), SAYS=says, STATUS=str(status))
            return subprocess.run([d / "start", "--build-only"], stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, env=env)
        line = "Building (a few minutes; progress in build/release/build.log)\n"
        assert start(0, "up to date", 0).stdout == "Built build/release/thurn\n"
        assert start(4, "built", 0).stdout == line + "Built build/release/thurn\n"
        assert (d / "build/release/build.log").read_text() == "[1/1] it is built\n"
        r = start(0, "broken", 1)
        assert r.returncode == 1 and not r.stdout and "it is broken" in r.stderr and "The build failed; the whole output is in" in r.stderr, r
        for seconds in (0, 4):
            main, sub = pty.openpty()
            start(seconds, "built", 0, stdout=sub)
            os.close(sub)
            shown = os.read(main, 4096).decode()
            os.close(main)
            assert ("Building (a few minutes)" in shown) == (seconds > 0) and "[1/1] it is built" in shown, shown
    in_folder(walk)


def test_start_user():
    """Root's server is a user of its own, which ./start makes; where none can be made it says so; one that is named is taken."""
    def walk(d):
        (d / "build/release").mkdir(parents=True)
        (d / "build/release/build.ninja").write_text("")
        (d / "bin").mkdir()
        shutil.copy(harness.ROOT / "start", d)
        shutil.copytree(harness.ROOT / "deploy", d / "deploy")
        for name, text in (("bin/ninja", "exit 0"), ("bin/dpkg-query", "echo install ok installed"), ("bin/id", '[ "$1" = -u ] && echo $ME'),
                           ("bin/useradd", f'echo "$@" >{d}/made; exit $FAILS'), ("build/release/thurn", 'echo "$@"')):
            (d / name).write_text(f"#!/bin/sh\n{text}\n")
            os.chmod(d / name, 0o755)
        for me, fails, words, said_, made in ((0, 0, (), "setup --serve --user thurn --\n", True), (0, 1, (), "setup --serve --\n", True), (1000, 0, (), "setup --serve --\n", False),
                                              (0, 0, ("--", "--user", "root"), "setup --serve -- --user root\n", False)):
            (d / "made").unlink(missing_ok=True)
            r = subprocess.run([d / "start", *words], capture_output=True, text=True, timeout=60,
                               env=dict(os.environ, PATH=f"{d}/bin:{os.environ['PATH']}", ME=str(me), FAILS=str(fails)))
            assert r.returncode == 0 and r.stdout == said_ and (d / "made").exists() == made and ("goes on as root" in r.stderr) == bool(fails), r
            assert not made or "--system" in (d / "made").read_text() and (d / "made").read_text().endswith(" thurn\n")
    in_folder(walk)


def test_attempt_under_way():
    """Where a message is being sent, and since when; in the log an act has its word, and a line its trace once."""
    with socket.create_server(("127.0.0.1", 0)) as silent, harness.Server("sqlite-local", extra=f"outbound.relay: 127.0.0.1:{silent.getsockname()[1]}\n",
                                                                          accounts=("ann",)) as server:
        with smtplib.SMTP(*server.address("submission")) as s:
            s.login("ann@example.test", harness.PASSWORD)
            s.sendmail("ann@example.test", ["x@nowhere.invalid.test"], "Subject: s\r\n\r\nx\r\n")
        text = harness.wait_until(lambda: (lambda t: t if " active" in t else None)(server.admin("queue", "list").stdout), "the attempt", 20)
        assert re.search(r"<x@nowhere\.invalid\.test> active, 0 attempts, being sent to \S*127\.0\.0\.1\S* since \d{4}-", text), text
        server.admin("queue", "drop", "--all")
        log = server.front.log.read_text()
        assert "event=queue.act op=drop " in log, log[-2000:]
        line = next(line for line in log.splitlines() if "event=queue.enqueued" in line)
        assert line.count(" trace=") == 1, line


def test_packages_are_broken_off():
    """Stopped while packages are installed, nothing is left in /tmp."""
    if os.geteuid() != 0:
        print("without: root, who installs")
        return

    def walk(d):
        for name in ("bin", "tmp"):
            (d / name).mkdir()
        for name, text in (("apt-get", f"echo $$ >{d}/there; exec sleep 60"), ("dpkg-query", "exit 1")):
            (d / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
            (d / "bin" / name).chmod(0o755)
        p = subprocess.Popen(["sh", "-c", ". deploy/packages.sh; ensure_packages It this-package"], cwd=harness.ROOT, start_new_session=True,
                             env=dict(os.environ, PATH=f"{d}/bin:{os.environ['PATH']}", TMPDIR=str(d / "tmp")), stdout=subprocess.DEVNULL)
        harness.wait_until((d / "there").exists, "the installation", 20)
        assert list((d / "tmp").iterdir())
        os.killpg(p.pid, signal.SIGINT)
        assert p.wait(20) and not list((d / "tmp").iterdir())
    in_folder(walk)


def test_folder_that_is_no_longer_ours():
    """A data folder or spool whose rights were changed under a running server: /readyz names it, and when it is over."""
    with harness.Server("sqlite-local") as server:
        data = server.folder / "data"
        if os.geteuid() == 0 and "CapEff:\t0000000000000000" not in pathlib.Path(f"/proc/{server.front.popen.pid}/status").read_text():
            print("without: a server that has no capability")
            return
        page = lambda: harness.http_get(("127.0.0.1", server.ports["http"]), "/readyz")[1]
        assert "folder" not in page()
        os.chmod(data, 0o500)
        harness.wait_until(lambda: f"degraded: folder: cannot write in folder '{data}'" in page(), "the folder to be named", 20)
        os.chmod(data, 0o700)
        os.chmod(data / "spool", 0o500)
        with smtplib.SMTP("127.0.0.1", server.ports["smtp"]) as s:
            try:
                s.sendmail("x@elsewhere.test", ["ann@example.test"], b"Subject: large\r\n\r\n" + (b"x" * 70 + b"\r\n") * 100000)
            except smtplib.SMTPException:
                pass
        harness.wait_until(lambda: "degraded: spool: " in page() and "degraded: folder" not in page(), "the spool to be named", 20)
        os.chmod(data / "spool", 0o700)


def test_setup_closes_its_folder():
    def walk(d):
        config, _ = config_of(d)
        (d / "data").mkdir()
        os.chmod(d / "data", 0o755)
        assert thurn("setup", "me@first.test", "--config", config).returncode == 0
        assert (d / "data").stat().st_mode & 0o777 == 0o700 and d.stat().st_mode & 0o777 == 0o755
    in_folder(walk)


def on_terminal(server, *args, answer):
    """A verb with a terminal on standard input: what was asked, and how it ended."""
    main, sub = pty.openpty()
    p = subprocess.Popen([harness.BINARY, "--data", server.folder / "data", *args], stdin=sub, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.close(sub)
    os.write(main, answer.encode())
    out, err = p.communicate(timeout=60)
    os.close(main)
    return p.returncode, out, err


def test_accounts():
    """Removal asks and says what goes; aliases that lead there are named; renaming; a password that is done, and one that is refused."""
    with harness.Server("sqlite-local", weak_passwords="false", accounts=("ann", "bob")) as server:
        def admin(*args, **more):
            return server.admin(*args, check=False, **more)
        r = admin("account", "passwd", "ann@example.test", "--password", STRONG)
        assert r.returncode == 0 and r.stdout.startswith("The password of ann@example.test is changed"), r
        for password, why in (("password", "common words"), ("annexample", "address"), ("qwertyuio", "keys"), ("kQ3", "too short")):
            said(admin("account", "passwd", "ann@example.test", "--password", password), 2, "too easy to guess", why)
            said(admin("account", "add", "ann2@example.test", "--password", password), 2, "too easy to guess")
        r = admin("account", "add", "--from-file", "-", stdin=f"c1@example.test,password,\nc2@example.test,{STRONG},\n")
        assert r.returncode == 5 and "-:1: the password is too easy to guess" in r.stderr and "1 accounts added, 1 refused" in r.stdout, r

        server.admin("alias", "set", "team@example.test", "ann@example.test", "bob@example.test")
        server.admin("alias", "set", "solo@example.test", "Ann+x@example.test")
        server.admin("domain", "set", "example.test", "--catch-all", "ann@example.test")
        said(admin("account", "remove", "ann@example.test"), 2, "say --yes")
        status, out, err = on_terminal(server, "account", "remove", "ann@example.test", answer="n\n")
        assert status == 2 and not out and "ann@example.test is not removed" in err, (status, out, err)
        assert "with all its mail (0 messages, 0 bytes) will be gone for good" in err, err
        assert all(f"\n  {a}\n" in err for a in ("team@example.test", "solo@example.test", "@example.test (catch-all)")) and "--with-aliases" in err, err
        r = server.admin("account", "rename", "ann@example.test", "lee@example.test", "--keep-alias")
        assert "lee@example.test now, with its mail and password" in r.stdout and "goes there too" in r.stdout, r
        assert "team@example.test -> lee@example.test bob@example.test" in server.admin("alias", "list").stdout
        said(admin("account", "rename", "lee@example.test", "bob@example.test"), 4, "'bob@example.test' exists")
        status, out, err = on_terminal(server, "account", "remove", "lee@example.test", "--with-aliases", answer="y\n")
        assert status == 0 and out.startswith("lee@example.test is removed, with its mail. It was taken out of:") and "team@example.test" in out, (status, out, err)
        assert server.admin("alias", "list").stdout == "team@example.test -> bob@example.test\n"
        assert "catch-all" not in server.admin("domain", "show", "example.test").stdout
        r = server.admin("account", "remove", "bob@example.test", "--yes")
        assert "These still lead to it:\n  team@example.test\n" in r.stdout, r
        assert admin("account", "show", "bob@example.test").returncode == 3


def test_no_log_among_answers():
    """The command line speaks by its answers: a fiber that waits for the password is kept for long, and no line of the log says so."""
    with harness.Server("sqlite-local", accounts=()) as server:
        p = subprocess.Popen([harness.BINARY, "--data", server.folder / "data", "account", "add", "slow@example.test", "--password-stdin"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        select.select([p.stderr], [], [], 1.5)  # while it has no answer
        out, err = p.communicate(STRONG.encode() + b"\n", timeout=60)
        assert p.returncode == 0 and b"event=" not in err + out, (out, err)


if __name__ == "__main__":
    harness.run_tests(globals())
