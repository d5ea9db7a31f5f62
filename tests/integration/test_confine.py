"""What a process may still do: its user, its capabilities, its fences; and the modes of what it writes."""
import imaplib
import os
import pathlib
import pwd
import re
import shutil
import signal
import smtplib
import socket
import stat
import subprocess
import tempfile

import harness
from harness import PASSWORD, free_ports, http_get, wait_until

IS_ROOT = os.geteuid() == 0
USER = "nobody"


def status(pid):
    return dict(re.findall(r"^(\w+):\s*(.*)$", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M))


def children(pid):
    return [int(p) for t in pathlib.Path(f"/proc/{pid}/task").iterdir() for p in (t / "children").read_text().split()]


def check_status(pid, uid):
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        s = status(f"{pid}/task/{task.name}")
        assert s["Uid"].split() == [str(uid)] * 4, s["Uid"]
        assert uid == os.geteuid() or "0" not in s["Groups"].split(), s["Groups"]
        assert int(s["CapEff"], 16) == int(s["CapPrm"], 16) == int(s["CapAmb"], 16) == 0, (task.name, s["CapEff"])
        assert s["NoNewPrivs"] == "1" and s["Seccomp"] == "2", (task.name, s)


def wide(folder):
    """What others may read, write or enter."""
    return [p for p in [pathlib.Path(folder), *pathlib.Path(folder).rglob("*")]
            if not p.is_symlink() and stat.S_IMODE(p.lstat().st_mode) & 0o077]


def deliver(server, to="ann"):
    with smtplib.LMTP(*server.address("lmtp")) as s:
        s.sendmail("x@elsewhere.test", [f"{to}@example.test"], b"Subject: a\r\n\r\n" + b"x" * 200000 + b"\r\n")


def read(server, name="ann"):
    with imaplib.IMAP4(*server.address("imap")) as c:
        c.login(f"{name}@example.test", PASSWORD)
        assert c.select("INBOX")[0] == "OK"
        return int(c.response("EXISTS")[1][0] or 0)


def test_modes():
    """Whatever the umask and the folder: all that is written is the user's alone, and what a release before left is narrowed."""
    before = os.umask(0)
    try:
        with harness.Server("sqlite-local", extra="workers: 1\n") as server:
            deliver(server)
            data = server.folder / "data"
            assert (data / "directory.db-wal").exists() and list((data / "blobs").rglob("*")) and list(data.glob("*.sock"))
            assert not wide(data), wide(data)
            server.front.stop()
            for p in [data, *data.rglob("*")]:
                if not p.is_socket():
                    p.chmod(0o755 if p.is_dir() else 0o644)
            server.front.start()
            assert not wide(data), wide(data)
            assert re.search(r"server\.narrowed .*n=\d", server.front.log.read_text())
            deliver(server)
    finally:
        os.umask(before)


def test_user():
    """Started as root it becomes the user of the setting, or the folder's owner; workers come again, certificates are read again."""
    if not IS_ROOT:
        print("not root: nothing to become")
        return
    uid = pwd.getpwnam(USER).pw_uid
    for how in ("setting", "owner"):
        with tempfile.TemporaryDirectory(prefix="thurn-user-", dir="/tmp") as d:
            os.chmod(d, 0o755)
            for name in ("a", "b"):
                subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "9", "-subj",
                                f"/CN={name}", "-keyout", f"{d}/{name}.key", "-out", f"{d}/{name}.pem"], check=True, capture_output=True)
                os.chown(f"{d}/{name}.key", uid, -1)
            shutil.copy(f"{d}/a.pem", f"{d}/c.pem")
            shutil.copy(f"{d}/a.key", f"{d}/c.key")
            os.chown(f"{d}/c.key", uid, -1)
            ports = free_ports(4)
            config = pathlib.Path(f"{d}/c.yaml")
            config.write_text(f"data: {d}/data\nworkers: 2\ndefault_domain: example.test\n" + (f"user: {USER}\n" if how == "setting" else "") +
                              f"limits.allow_plain_login: loopback\ntls.certificates: ['{d}/c.pem {d}/c.key']\n"
                              f"listen: {{smtp: '127.0.0.1:{ports[0]}', imap: '127.0.0.1:{ports[1]}', imaps: '127.0.0.1:{ports[2]}', submission: [],"
                              f" submissions: [], http: '127.0.0.1:{ports[3]}'}}\n")
            p = harness.Process(pathlib.Path(d), "c", config.read_text(), ports[3], harness.BINARY)
            if how == "owner":
                os.mkdir(f"{d}/data", 0o700)
                os.chown(f"{d}/data", uid, -1)
            subprocess.run([str(harness.BINARY), "migrate", "--new", "--config", str(config)], check=True, capture_output=True)
            p.start()
            try:
                for path in pathlib.Path(f"{d}/data").rglob("*"):
                    assert path.lstat().st_uid == uid, path
                workers = children(p.popen.pid)
                assert len(workers) == 2
                for pid in (p.popen.pid, *workers):
                    check_status(pid, uid)
                os.kill(workers[0], signal.SIGKILL)
                wait_until(lambda: len(set(children(p.popen.pid)) - set(workers)) == 1, "another worker")
                shutil.copy(f"{d}/b.pem", f"{d}/c.pem")
                shutil.copy(f"{d}/b.key", f"{d}/c.key")
                p.popen.send_signal(signal.SIGHUP)
                import ssl
                want = pathlib.Path(f"{d}/b.pem").read_text()
                wait_until(lambda: all(ssl.get_server_certificate(("127.0.0.1", ports[2])) == want for _ in range(10)), "the new certificate")
                subprocess.run([str(harness.BINARY), "--data", f"{d}/data", "domain", "add", "example.test"], check=True, capture_output=True)
            finally:
                p.stop()


def test_user_of_a_new_folder():
    """The folders above a new data folder are made so that the user can pass them."""
    if not IS_ROOT:
        return
    with tempfile.TemporaryDirectory(prefix="thurn-user-", dir="/tmp") as d:
        os.chmod(d, 0o755)
        config = pathlib.Path(f"{d}/c.yaml")
        config.write_text(f"user: {USER}\ndata: {d}/srv/mail/data\n")
        subprocess.run([str(harness.BINARY), "migrate", "--new", "--config", str(config)], check=True, capture_output=True)
        assert [stat.S_IMODE(os.stat(f"{d}/srv{x}").st_mode) for x in ("", "/mail", "/mail/data")] == [0o755, 0o755, 0o700]
        assert os.stat(f"{d}/srv/mail/data").st_uid == pwd.getpwnam(USER).pw_uid and os.stat(f"{d}/srv").st_uid == 0


def test_user_is_wrong():
    """What cannot be done is said, and nothing is served as root by mistake."""
    if not IS_ROOT:
        return
    with tempfile.TemporaryDirectory(prefix="thurn-user-", dir="/tmp") as d:
        os.chmod(d, 0o755)
        listen = "listen: {smtp: [], imap: [], imaps: [], submission: [], submissions: [], http: []}\n"
        subprocess.run([str(harness.BINARY), "migrate", "--new", "--data", f"{d}/roots"], check=True, capture_output=True)
        for user, want in (("no-such-user", "names no user"), (USER, "chown")):
            text = f"user: {user}\ndata: {d}/roots\n"
            pathlib.Path(f"{d}/c.yaml").write_text(text + listen)
            r = subprocess.run([str(harness.BINARY), "serve", "--config", f"{d}/c.yaml"], capture_output=True, text=True, timeout=60)
            assert r.returncode != 0 and want in r.stderr, r
    with harness.Server("sqlite-local") as server:
        assert "event=server.root" in server.front.log.read_text()
        check_status(server.front.popen.pid, 0)


def test_sessions_of_a_killed_worker():
    """What a worker held when it was killed is free at once, not when its leases have run out."""
    with harness.Server("sqlite-local", extra="workers: 1\nlimits.imap_sessions_per_account: 3\n") as server:
        def log_in():
            c = imaplib.IMAP4(*server.address("imap"))
            return c, c.login("ann@example.test", PASSWORD)[0]
        held = [log_in()[0] for _ in range(3)]
        try:
            log_in()
            raise AssertionError("a fourth session")
        except imaplib.IMAP4.error as e:
            assert "LIMIT" in str(e) or "connections" in str(e), e
        worker, = children(server.front.popen.pid)
        os.kill(worker, signal.SIGKILL)
        for c in held:
            c.sock.close()
        wait_until(lambda: set(children(server.front.popen.pid)) - {worker}, "another worker")
        wait_until(lambda: http_get(server.front.http, "/readyz")[0] == 200, "it to be ready")
        again = [log_in() for _ in range(3)] # the first try goes
        assert [ok for _, ok in again] == ["OK"] * 3
        for c, _ in again:
            c.logout()


# --- from within: a process under the same fences tries ---

def probe(*args):
    """{what was tried: errno's name or "ok"}."""
    binary = harness.BINARY.parent / "tests/confine_probe"
    r = subprocess.run([str(binary), *args], capture_output=True, text=True, timeout=60)
    assert r.returncode == 0, r
    return dict(line.split(" ", 1) for line in r.stdout.splitlines())


def test_from_within():
    with tempfile.TemporaryDirectory(prefix="thurn-probe-", dir="/tmp") as d:
        for name in ("data", "data/tls", "other", "certs"):
            os.mkdir(f"{d}/{name}")
        for name in ("data/mail.db", "data/tls/key", "other/file", "certs/c.key", "certs/c.pem"):
            pathlib.Path(f"{d}/{name}").write_text("x")
        with socket.socket(socket.AF_UNIX) as database:
            database.bind(f"{d}/other/.s.PGSQL.5432")
            database.listen(8)
            for kind, want in EXPECTED.items():
                got = probe(d, kind)
                assert got == want, "\n".join(f"{kind}: {k}: {got.get(k)} instead of {want.get(k)}" for k in {*got, *want} if got.get(k) != want.get(k))


SYSCALLS = {k: "EPERM" for k in ("keyctl", "mount", "unshare", "user-namespace", "bpf", "process_vm_readv", "io_uring")}
EXPECTED = {
    # all services in one process, without workers
    "whole": {"read-settings": "ok", "read-database": "ok", "read-certificate": "ok", "read-other": "ok", "write-data": "ok", "write-other": "EACCES", "remove-other": "EACCES",
              "connect-database": "ok", "exec": "EPERM", "exec-self": "EPERM", "thread": "ok", **SYSCALLS},
    # a parent of workers: may start itself
    "parent": {"read-settings": "ok", "read-database": "ok", "read-certificate": "ok", "read-other": "ok", "write-data": "ok", "write-other": "EACCES", "remove-other": "EACCES",
               "connect-database": "ok", "exec": "EACCES", "exec-self": "ok", "thread": "ok", **SYSCALLS},
    # its worker
    "worker": {"read-settings": "EACCES", "read-database": "EACCES", "read-certificate": "ok", "read-other": "EACCES", "write-data": "EACCES", "write-other": "EACCES",
               "remove-other": "EACCES", "connect-database": "ok", "exec": "EPERM", "exec-self": "EPERM", "thread": "ok", **SYSCALLS},
    # a front-end of a cluster with workers
    "frontend-parent": {"read-settings": "ok", "read-database": "ok", "read-certificate": "ok", "read-other": "EACCES", "write-data": "ok", "write-other": "EACCES",
                        "remove-other": "EACCES", "connect-database": "ok", "exec": "EACCES", "exec-self": "ok", "thread": "ok", **SYSCALLS},
    # a front-end of a cluster
    "frontend": {"read-settings": "ok", "read-database": "ok", "read-certificate": "ok", "read-other": "EACCES", "write-data": "ok", "write-other": "EACCES",
                 "remove-other": "EACCES", "connect-database": "EPERM", "exec": "EPERM", "exec-self": "EPERM", "thread": "ok", **SYSCALLS},
}


if __name__ == "__main__":
    harness.run_tests(globals())
