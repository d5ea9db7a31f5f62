#!/usr/bin/python3
"""deploy/install.sh below a folder of its own: what is put where, and that what the unit says runs as its user."""
import os
import pathlib
import pwd
import re
import shutil
import signal
import subprocess
import tempfile

import harness

USER = "daemon"


def install(root, *args):
    return subprocess.run([harness.ROOT / "deploy/install.sh", harness.BINARY, "--destdir", root, "--user", USER, *args], capture_output=True, text=True,
                          timeout=120, stdin=subprocess.DEVNULL)


def unit_value(unit, key):
    return re.search(rf"^{key}=(.*)$", unit, re.M)[1]


def test_service():
    if os.geteuid() != 0:
        print("without: root, who installs")
        return
    with tempfile.TemporaryDirectory(prefix="thurn-install-", dir="/tmp") as d:
        os.chmod(d, 0o755)
        root = pathlib.Path(d)
        r = install(root, "me@first.test")
        assert r.returncode == 0 and "Thurn is set up" in r.stdout and "systemctl start thurn\n    thurn account passwd me@first.test\n" in r.stdout, r
        assert r.stdout.endswith("To begin: systemctl start thurn\n"), r.stdout
        # what is where, and whose it is
        user = pwd.getpwnam(USER)
        config, data, unit_file = root / "etc/thurn/thurn.yaml", root / "var/lib/thurn", root / "etc/systemd/system/thurn.service"
        text = config.read_text()
        assert "\ndata: /var/lib/thurn\n" in text and "default_domain: first.test\n" in text and "port_offset" not in text, text
        assert (config.stat().st_mode & 0o777, config.stat().st_uid, config.stat().st_gid) == (0o640, 0, user.pw_gid)
        assert data.stat().st_mode & 0o777 == 0o700 and {"directory.db", "mail.db", "queue.db", "tls"} <= {p.name for p in data.iterdir()}
        assert all(p.lstat().st_uid == user.pw_uid for p in [data, *data.rglob("*")])
        # the unit: hardened, and right in systemd's eyes
        unit = unit_file.read_text()
        assert unit_value(unit, "User") == USER and unit_value(unit, "ExecStart") == "/usr/local/bin/thurn serve --config /etc/thurn/thurn.yaml"
        for line in ("ProtectSystem=strict", "StateDirectory=thurn", "AmbientCapabilities=CAP_NET_BIND_SERVICE", "CapabilityBoundingSet=CAP_NET_BIND_SERVICE",
                     "NoNewPrivileges=yes",
                     "SystemCallFilter=seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self", "SystemCallErrorNumber=EPERM"):
            assert f"\n{line}\n" in unit, line
        if shutil.which("systemd-analyze"):
            (root / "thurn.service").write_text(unit.replace("/usr/local/bin/", f"{root}/usr/local/bin/"))
            r = subprocess.run(["systemd-analyze", "verify", root / "thurn.service"], capture_output=True, text=True, timeout=60)
            assert r.returncode == 0 and "thurn.service" not in r.stderr, r
        else:
            print("without: systemd-analyze")
        # ExecStart by hand, with the rights that the unit gives: as the user, and one capability
        program, *args = unit_value(unit, "ExecStart").split()
        ports = dict(zip(harness.KINDS, harness.free_ports(len(harness.KINDS))))
        listen = "listen:\n" + "".join(f"  {k}: 127.0.0.1:{p}\n" for k, p in ports.items())
        config.write_text(text.replace("/var/lib/thurn", str(data)) + listen)  # of this test's folder, on ports of its own
        args = [str(root) + a if a.startswith("/") else a for a in args]
        with open(root / "log", "wb") as log:
            p = subprocess.Popen(["setpriv", "--reuid", USER, "--regid", str(user.pw_gid), "--init-groups", "--bounding-set", "-all,+net_bind_service",
                                  "--inh-caps", "-all,+net_bind_service", "--ambient-caps", "-all,+net_bind_service", "--no-new-privs", str(root) + program, *args],
                                 stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            def ready():
                assert p.poll() is None, (root / "log").read_text()
                return harness.http_get(("127.0.0.1", ports["http"]), "/readyz")[0] == 200
            harness.wait_until(ready, "the service to be ready", 60)
            status = pathlib.Path(f"/proc/{p.pid}/status").read_text()
            assert re.search(rf"^Uid:\t{user.pw_uid}\t{user.pw_uid}\t{user.pw_uid}\t{user.pw_uid}$", status, re.M), status
            assert re.search(r"^NoNewPrivs:\t1$", status, re.M), status
            # the command line of root, as README has it
            r = subprocess.run([root / "usr/local/bin/thurn", "--data", data, "account", "show", "me@first.test"], capture_output=True, text=True, timeout=60)
            assert r.returncode == 0 and "active" in r.stdout, r
            # installed over it: config and data stay
            before = config.read_text()
            r = install(root)
            assert r.returncode == 0 and "Thurn is set up" not in r.stdout and config.read_text() == before, r
            assert install(root, "you@other.test").stderr.count("stays") == 1
        finally:
            p.send_signal(signal.SIGTERM)
            p.wait(timeout=60)
        assert p.returncode == 0, (root / "log").read_text()[-3000:]


def test_takes_over():
    """What a server of root's left: refused while it runs, taken over with all that is in it when it is stopped. What is not ours is refused."""
    if os.geteuid() != 0:
        print("without: root, who installs")
        return
    with tempfile.TemporaryDirectory(prefix="thurn-install-", dir="/tmp") as d:
        os.chmod(d, 0o755)
        root = pathlib.Path(d)
        user = pwd.getpwnam(USER)
        data, config = root / "var/lib/thurn", root / "etc/thurn/thurn.yaml"
        for folder in (root / "var", root / "var/lib"):
            folder.mkdir()
            os.chmod(folder, 0o755)
        offset = harness.free_ports(1)[0] - 100
        words = ("--dev", "--data", data, "--port-offset", str(offset))
        with open(root / "log", "wb") as log:
            p = subprocess.Popen([harness.BINARY, "setup", "me@first.test", "--serve", *words], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            harness.wait_until(lambda: p.poll() is not None or "server.ready" in (root / "log").read_text(), "the server of root's", 60)
            before = {q: q.lstat().st_uid for q in root.rglob("*")}
            r = install(root, "me@first.test")
            assert r.returncode == 4 and f"is running (pid {p.pid})" in r.stderr and r.stderr.endswith("install: nothing was changed\n"), r
            assert {q: q.lstat().st_uid for q in root.rglob("*") if q in before} == before and not (root / "usr").exists() and not (root / "etc").exists()
        finally:
            p.send_signal(signal.SIGTERM)
            p.wait(timeout=60)
        os.chown(data, user.pw_uid, user.pw_gid)  # as an installation that failed leaves it
        settings = (data / "thurn.yaml").read_text()
        r = install(root, "me@first.test")
        assert r.returncode == 0 and f"belongs to user {USER} now" in r.stdout and "The settings moved" in r.stdout and "there already is" in r.stdout, r
        assert config.read_text() == settings + "data: /var/lib/thurn\n" and not (data / "thurn.yaml").exists()
        assert {q.lstat().st_uid for q in (data, *data.rglob("*"))} == {user.pw_uid}
        # an address that is not there changes no settings, and says what does
        shutil.copy(config, data / "thurn.yaml")
        config.unlink()
        r = install(root, "you@other.test")
        assert r.returncode == 4 and "thurn domain add other.test" in r.stderr and not config.exists(), r
    with tempfile.TemporaryDirectory(prefix="thurn-install-", dir="/tmp") as d:
        os.chmod(d, 0o755)
        root = pathlib.Path(d)
        (root / "var/lib/thurn").mkdir(parents=True)
        (root / "var/lib/thurn/letters").write_text("")
        r = install(root, "me@first.test")
        assert r.returncode == 2 and "was not set up by Thurn" in r.stderr and (root / "var/lib/thurn").stat().st_uid == 0, r
        assert sorted(q.name for q in root.rglob("*")) == ["letters", "lib", "thurn", "var"]


def test_mistakes():
    def said(*args):
        r = subprocess.run([harness.ROOT / "deploy/install.sh", *args], capture_output=True, text=True, timeout=60)
        return r.returncode, r.stderr
    assert said("/nonexistent") == (2, "install: '/nonexistent' is no program; build it by ./start --build-only\n")
    assert said(str(harness.BINARY), "--prefix")[0] == 2
    assert said(str(harness.BINARY), "what")[0] == 2


if __name__ == "__main__":
    harness.run_tests(globals())
