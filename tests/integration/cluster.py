"""A whole cluster on this machine for tests: deploy/dev-cluster with a block of ports of its own."""
import fcntl
import imaplib
import pathlib
import shutil
import smtplib
import socket
import subprocess
import sys
import tempfile

import harness

FIRST_PORT, BLOCK, BLOCKS = 14000, 250, 16  # below harness.free_ports
LOCKS = "/tmp/thurn-dev-cluster.{}.lock"


def take_block():
    """(port offset, lock) of ports that nobody listens on; they are ours while the lock file is open."""
    for offset in range(BLOCK * 4, BLOCK * BLOCKS, BLOCK):
        lock = open(LOCKS.format(offset), "a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for port in (0, 1, 2, 50, 60, 111, 131, 151, 210, 214, 216):
                with socket.socket() as s:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    s.bind(("127.0.0.1", FIRST_PORT + offset + port))
            return offset, lock
        except OSError:
            lock.close()
    raise AssertionError("no free block of ports")


class Running:
    """A cluster that dev-cluster started in `folder`, to which the tests are guests."""

    def __init__(self, folder, binary=None):
        self.folder = pathlib.Path(folder)
        self.binary = str(binary or harness.BINARY)
        self.script = str(harness.ROOT / "deploy/dev-cluster")

    def do(self, verb, *args, timeout=300):
        r = subprocess.run([self.script, verb, str(self.folder), *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True, timeout=timeout)
        assert r.returncode == 0, f"dev-cluster {verb} {' '.join(args)}: {r.stdout}"
        return r.stdout

    def env(self):
        return dict(line.split("=", 1) for line in (self.folder / "cluster.env").read_text().splitlines())

    def pid(self, name):
        return int(self.env()["PID_" + name.upper().replace("-", "_")])

    def address(self, name):
        host, port = self.env()[name].split(":")
        return host, int(port)

    def thurn(self, *args, stdin=None, check=True):
        e = self.env()
        r = subprocess.run([self.binary, "--url", e["THURN_ADMIN_URL"], "--token", e["THURN_ADMIN_TOKEN"], *args], input=stdin,
                           capture_output=True, text=True, timeout=120)
        assert not check or r.returncode == 0, f"thurn {' '.join(args)}: status {r.returncode}\n{r.stdout}{r.stderr}"
        return r

    def imap(self, user, front=1, password=harness.PASSWORD):
        c = imaplib.IMAP4(*self.address(f"IMAP_{front}"), timeout=60)
        c.login(user, password)
        return c

    def smtp(self, front=1):
        s = smtplib.SMTP(*self.address(f"SMTP_{front}"), timeout=60)
        s.ehlo("client.test")
        return s

    def log_tails(self, n=30):
        return "\n".join(f"--- {p.name} ---\n" + "\n".join(p.read_text(errors="replace").splitlines()[-n:])
                         for p in sorted((self.folder / "log").glob("*.log")))


class Cluster(Running):
    """One of our own; use as a context manager. Options are dev-cluster's."""

    def __init__(self, *options, binary=None, keep=False):
        harness.needs("pg", "s3", "redis")
        super().__init__(tempfile.mkdtemp(prefix="thurn-cluster-", dir="/tmp"), binary)
        self.options, self.keep = options, keep
        self.offset, self.lock = take_block()

    def links(self):
        """With --proxy yes: name to (port that others use, port of its own)."""
        out = self.do("links", "--port-offset", str(self.offset), *self.options)
        return {name: (int(port), int(target)) for name, port, target in (line.split() for line in out.splitlines())}

    def __enter__(self):
        try:
            self.do("start", "--binary", self.binary, "--port-offset", str(self.offset), *self.options)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind, value, trace):
        if kind:
            print(self.log_tails(), file=sys.stderr)
        self.stop()
        return False

    def stop(self):
        subprocess.run([self.script, "stop", str(self.folder), *([] if self.keep else ["--purge"])], check=False, timeout=300)
        self.lock.close()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)
