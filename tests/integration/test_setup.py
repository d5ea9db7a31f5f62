#!/usr/bin/python3
"""thurn setup: a mistake leaves nothing behind, everything is where the settings say, a running server is noticed, one that is there stays."""
import contextlib
import os
import pathlib
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile

import harness


def thurn(*args):
    return subprocess.run([str(harness.BINARY), *args], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


def complaint(r):
    """The one line that was said (the log's lines apart)."""
    lines = [line for line in r.stderr.splitlines() if line.startswith("thurn: ")]
    assert len(lines) == 1, r
    return lines[0]


def setup(folder, *args):
    return thurn("setup", *args, "--dev", "--data", str(folder))


def test_mistakes():
    """What is wrong is said before anything is made, and the next try finds an empty folder."""
    with tempfile.TemporaryDirectory(prefix="thurn-setup-") as d:
        data = pathlib.Path(d) / "data"
        for address in ("me@exa mple", "me@", "@b.test", "me", "a@b@c.test", "me@-x.test", "me@x..test", "me@[192.0.2.1]", "me@" + "a" * 64 + ".test",
                        "x" * 65 + "@b.test", "me@" + ".".join(["a" * 61] * 4) + ".test"):
            r = setup(data, address)
            assert r.returncode == 2 and complaint(r) and not data.exists(), (address, r)
        # one that fails later, when all that was given is right
        data.mkdir()
        (data / "directory.db").mkdir()
        r = setup(data, "me@wrong.test")
        assert r.returncode != 0 and not list(data.glob("thurn.yaml*")), (r, list(data.iterdir()))
        (data / "directory.db").rmdir()
        r = setup(data, "me@bücher.test")
        assert r.returncode == 0 and "me@xn--bcher-kva.test" in r.stdout, r
        config = (data / "thurn.yaml").read_text()
        assert "default_domain: xn--bcher-kva.test\n" in config and "wrong" not in config and not list(data.glob("*.new")), config
        assert f"{data}/thurn.yaml says" not in r.stdout
        assert setup(pathlib.Path(d) / "long", "me@" + ".".join(["a" * 60] * 4) + ".test").returncode == 0 # longer than a certificate's common name
        # the name stays, and it is said where it comes from
        r = setup(data, "me@bücher.test")
        assert r.returncode == 0 and f"as {data}/thurn.yaml says" in r.stdout and (data / "thurn.yaml").read_text() == config, r


def test_again():
    """What is set up is just served: no second domain, no second administrator; an address that is not there is refused."""
    with tempfile.TemporaryDirectory(prefix="thurn-setup-") as d:
        data = pathlib.Path(d) / "data"
        ports = ("--port-offset", str(harness.free_ports(1)[0] - 100))
        assert setup(data, "me@first.test").returncode == 0
        r = setup(data)
        assert r.returncode == 0 and r.stdout.count("\n") == 1 and "set up for first.test" in r.stdout and "account add ann@first.test" in r.stdout, r
        r = setup(data, "me@first.test")
        assert r.returncode == 0 and "there already is me@first.test" in r.stdout and "password   as before" in r.stdout, r
        for words in ((), ("--serve", *ports)):
            for address in ("you@first.test", "you@other.test"):
                r = setup(data, address, *words)
                assert r.returncode == 4 and not r.stdout, r
                text = complaint(r)
                assert "is set up already" in text and f"thurn account add {address}" in text, text
                assert ("thurn domain add other.test" in text) == ("other" in address) and "domain add first" not in text, text
        with serving("--dev", "--data", str(data), *ports) as (p, log):
            wait_for(log, p, "server.ready")
            text = log.read_text()
            assert "Thurn serves first.test" in text and "password" not in text, text
            domains = thurn("--data", str(data), "domain", "list").stdout
            assert domains.count("\n") == 1 and "first.test" in domains, domains
            accounts = thurn("--data", str(data), "account", "list").stdout
            assert accounts.count("@") == 1 and "me@first.test" in accounts, accounts


@contextlib.contextmanager
def serving(*args):
    with tempfile.TemporaryDirectory(prefix="thurn-setup-log-") as d:
        log = pathlib.Path(d) / "log"
        with open(log, "wb") as f:
            p = subprocess.Popen([str(harness.BINARY), "setup", "--serve", *args], stdout=f, stderr=f, stdin=subprocess.DEVNULL)
        try:
            yield p, log
        finally:
            p.send_signal(signal.SIGTERM)
            p.wait(60)


def wait_for(log, p, text):
    def is_there():
        assert p.poll() is None, log.read_text()
        return text in log.read_text()
    harness.wait_until(is_there, text, 60)


def test_http_as_given():
    """An address that is given is the one that answers, in the run that makes the config, from the config, and in a later run with another."""
    with tempfile.TemporaryDirectory(prefix="thurn-setup-") as d:
        offset, first, second = str(harness.free_ports(1)[0] - 100), *harness.free_ports(2)
        words = ("--dev", "--data", f"{d}/data")
        for given, port in ((("--http", f"127.0.0.1:{first}", "--port-offset", offset), first), ((), first), (("--port-offset", offset), first),
                            ((f"--http=127.0.0.1:{second}",), second)):
            with serving("me@first.test", *words, *given) as (p, log):
                wait_for(log, p, "server.ready")
                assert f"http://127.0.0.1:{port}/readyz" in log.read_text(), log.read_text()
                assert harness.http_get(("127.0.0.1", port), "/livez")[0] == 200


USER = "daemon"


def owners(folder):
    return {p.lstat().st_uid for p in (folder, *folder.rglob("*"))}


def test_user():
    """Root's setup gives the folder to the user that serves: a new one, and one that was root's with all that is in it."""
    if os.geteuid() != 0:
        print("without: root, who gives")
        return
    uid = pwd.getpwnam(USER).pw_uid
    offset = ("--port-offset", str(harness.free_ports(1)[0] - 100))
    with tempfile.TemporaryDirectory(prefix="thurn-setup-", dir="/tmp") as d:
        d = pathlib.Path(d)
        os.chmod(d, 0o755)
        for name, before in (("new", False), ("roots", True)):
            data = d / name
            if before:
                assert setup(data, "me@first.test").returncode == 0 and owners(data) == {0}
                (d / "outside").write_text("root's")
                (data / "link").symlink_to(d / "outside")
                (data / "folder-link").symlink_to("/etc")
                # what is not given says so before anything is
                os.link(d / "outside", data / "hard")
                r = setup(data, "me@first.test", "--user", USER)
                assert r.returncode == 1 and "hard link" in complaint(r) and owners(data) == {0}, r
                (data / "hard").unlink()
                r = setup(data, "me@first.test", "--user", USER, "--dry-run")
                assert r.returncode == 0 and owners(data) == {0}, r
            with serving("me@first.test", "--dev", "--data", str(data), *offset, "--user", USER) as (p, log):
                wait_for(log, p, "server.ready")
                status = pathlib.Path(f"/proc/{p.pid}/status").read_text()
                assert re.search(rf"^Uid:\t{uid}\t{uid}\t{uid}\t{uid}$", status, re.M), status
                assert owners(data) == {uid} and ("it belongs to user daemon now" in log.read_text()) == before, log.read_text()
                r = thurn("--data", str(data), "account", "add", "ann@first.test", "--password", "five wooden geese 71")
                assert r.returncode == 0, r
        assert (d / "outside").stat().st_uid == 0 and os.stat("/etc").st_uid == 0
        # half of it was given already, by whatever
        os.chown(d / "roots/mail.db", 0, 0)
        r = setup(d / "roots", "--user", USER)
        assert r.returncode == 0 and "(1 changed)" in r.stdout and owners(d / "roots") == {uid}, r
        # not ours, and out of reach
        (d / "foreign").mkdir()
        (d / "foreign/notes").write_text("")
        r = setup(d / "foreign", "me@first.test", "--user", USER)
        assert r.returncode == 2 and "was not set up by Thurn and holds other things ('notes')" in complaint(r), r
        assert [p.name for p in (d / "foreign").iterdir()] == ["notes"] and owners(d / "foreign") == {0}
        (d / "closed").mkdir(mode=0o700)
        r = setup(d / "closed/data", "me@first.test", "--user", USER)
        assert r.returncode == 1 and f"cannot enter '{d}/closed'" in complaint(r) and not (d / "closed/data").exists(), r
        assert setup(d / "closed/data", "me@first.test", "--user", "root").returncode == 0
        r = setup(d / "x", "me@first.test", "--user", "no-such-user")
        assert r.returncode == 2 and "there is no user 'no-such-user'" in complaint(r) and not (d / "x").exists(), r


def test_config_file():
    """With --config, that file says where everything lies and what listens; the commands that are shown name it."""
    with tempfile.TemporaryDirectory(prefix="thurn-setup-") as d:
        data, conf = pathlib.Path(d) / "data", pathlib.Path(d) / "c.yaml"
        conf.write_text(f"hostname: mx.first.test\ndata: {data}\nlisten: {{smtp: '127.0.0.1:2525', submission: '127.0.0.1:2587', submissions: [],"
                        " imap: [], imaps: [], http: []}\n")
        r = thurn("setup", "me@first.test", "--config", str(conf))
        assert r.returncode == 0, r
        made = {p.name for p in data.iterdir()}
        assert {"tls", "directory.db", "mail.db", "queue.db", "blobs"} <= made and "thurn.yaml" not in made, made
        assert (data / "tls/self-signed.pem").exists()
        assert "port 0" not in r.stdout and "port 2587  STARTTLS" in r.stdout and "IMAP  not listened on" in r.stdout and "readyz" not in r.stdout, r.stdout
        assert f" --config {conf} account passwd me@first.test" in r.stdout and f" --config {conf} serve\n" in r.stdout, r.stdout
        assert f"as {conf} says" in r.stdout, r.stdout


def test_shard_order():
    """A database knows which shard it is: the same ones in another order do not start."""
    with tempfile.TemporaryDirectory(prefix="thurn-setup-", dir="/tmp") as d:
        conf = pathlib.Path(d) / "c.yaml"
        for names, status in ((("a", "b"), 0), (("a", "b", "c"), 0), (("b", "a", "c"), 4), (("a", "c"), 4), (("a", "b"), 0)):
            shards = ", ".join(f"'sqlite:{d}/{n}.db'" for n in names)
            conf.write_text(f"data: {d}/data\nstore.shards: [{shards}]\n")
            r = thurn("migrate", "--new", "--config", str(conf))
            assert r.returncode == status and (not status or "the order of store.shards" in complaint(r)), (names, r)


def test_running_server():
    """Beside a running server neither setup nor serve touches anything; both name the process."""
    with harness.Server("sqlite-local") as server:
        data = server.folder / "data"
        before = {p.name for p in data.iterdir()}
        for args in (("setup", "me@second.test"), ("setup", "me@second.test", "--serve"), ("serve",)):
            r = thurn(*args, "--data", str(data))
            text = f"the folder '{data}' is running (pid {server.front.popen.pid})"
            assert r.returncode == 4 and text in complaint(r) and not r.stdout, (args, r)
        assert {p.name for p in data.iterdir()} == before
        assert "second.test" not in server.admin("domain", "list").stdout
        # what a killed server leaves behind is no server
        server.front.kill()
        assert (data / "control.sock").exists()
        server.front.start()


if __name__ == "__main__":
    harness.run_tests(globals())
