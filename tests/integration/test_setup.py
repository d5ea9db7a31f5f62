#!/usr/bin/python3
"""thurn setup: a mistake leaves nothing behind, everything is where the settings say, a running server is noticed."""
import pathlib
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
        r = setup(data, "me@other.test")
        assert r.returncode == 0 and f"as {data}/thurn.yaml says" in r.stdout and (data / "thurn.yaml").read_text() == config, r


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
