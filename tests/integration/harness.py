"""What integration tests, protocol scripts and benches share: a Thurn server of their own on free loopback ports.

Server(combo) starts one of four shapes: "sqlite-local" (one process), "sqlite-remote" (front-end and services in two
processes), "pg-local", "pg-remote". Everything lives in a temporary folder and is gone afterwards; only processes started
here are ended.
"""
import contextlib
import http.client
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("THURN_BINARY", ROOT / "build/asan/thurn"))
SHARED_DATA = pathlib.Path(os.environ.get("THURN_SHARED_DATA", ROOT.parent / "shared/data"))
PASSWORD = "correct horse"
KINDS = ("smtp", "submission", "submissions", "lmtp", "imap", "imaps", "http")


def needs(*names):
    """Ends the test, visibly skipped, when THURN_TEST_WITHOUT names one of the servers that it needs: see tests/unit/needs.h."""
    left_out = [n for n in names if n in os.environ.get("THURN_TEST_WITHOUT", "").split()]
    if left_out:
        print("without:", *left_out)
        sys.exit(0)


def run_tests(names):
    """Run the functions test_… of a module's globals, or those that the command line names."""
    for name, test in list(names.items()):
        if name.startswith("test_") and (len(sys.argv) < 2 or name in sys.argv[1:]):
            test()
            print(f"ok    {name}", flush=True)


def wait_until(condition, what, timeout=30.0):
    """Poll condition() until it is true; its value."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"timed out after {timeout:.0f} s waiting for {what}")
        time.sleep(0.02)


_next_port = 18000 + (os.getpid() * 37) % 12000


def free_ports(n):
    """n TCP ports that nobody listens on, none given out before, below the ephemeral range so that no outgoing connection takes
    them."""
    global _next_port
    found = []
    while len(found) < n:
        _next_port = _next_port + 1 if _next_port < 32000 else 18000
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", _next_port))
            except OSError:
                continue
        found.append(_next_port)
    return found


def http_get(address, path):
    host, port = address
    c = http.client.HTTPConnection(host, port, timeout=5)
    try:
        c.request("GET", path)
        r = c.getresponse()
        return r.status, r.read().decode()
    except OSError:
        return 0, ""
    finally:
        c.close()


class Process:
    """One `thurn serve`."""

    def __init__(self, folder, name, config, http_port, binary):
        self.name, self.folder, self.http = name, folder, ("127.0.0.1", http_port)
        self.binary = binary
        self.config = folder / f"{name}.yaml"
        self.config.write_text(config)
        self.log = folder / f"{name}.log"
        self.popen = None

    def start(self, wait=True):
        env = dict(os.environ)
        env.setdefault("ASAN_OPTIONS", "detect_stack_use_after_return=1:abort_on_error=0:exitcode=99")
        with open(self.log, "ab") as log:
            self.popen = subprocess.Popen([str(self.binary), "serve", "--config", str(self.config)], stdout=log, stderr=log,
                                          stdin=subprocess.DEVNULL, env=env)
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout=60):
        def ready():
            if self.popen.poll() is not None:
                raise AssertionError(f"{self.name} ended with {self.popen.returncode}:\n{self.tail()}")
            return http_get(self.http, "/readyz")[0] == 200
        try:
            wait_until(ready, f"{self.name} to be ready", timeout)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.tail()}") from None

    def tail(self, n=60):
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-n:])
        except OSError:
            return ""

    def kill(self, signum=signal.SIGKILL):
        if self.popen and self.popen.poll() is None:
            self.popen.send_signal(signum)
            self.popen.wait(timeout=60)

    def stop(self):
        """TERM; a sanitizer report or a crash makes the test fail."""
        if not self.popen:
            return
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
                raise AssertionError(f"{self.name} did not stop:\n{self.tail()}") from None
        text = self.log.read_text(errors="replace")
        if self.popen.returncode not in (0, -signal.SIGKILL) or "ERROR: AddressSanitizer" in text or "runtime error:" in text:
            raise AssertionError(f"{self.name} ended with {self.popen.returncode}:\n{self.tail(200)}")

    def metric(self, series):
        """The value of one series of /metrics, 0 when it is not there."""
        for line in http_get(self.http, "/metrics")[1].splitlines():
            if line.startswith(series + " "):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def rss_kib(self):
        for line in pathlib.Path(f"/proc/{self.popen.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        return 0

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.popen.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return sum(int(fields[i]) for i in (11, 12, 13, 14)) / os.sysconf("SC_CLK_TCK")


class Server:
    """A whole server with the domain example.test and the accounts ann, bob and cleo."""

    def __init__(self, combo="sqlite-local", extra="", accounts=("ann", "bob", "cleo"), binary=None, pg_dir=None, fsync=False,
                 listen_extra="", durable=False, weak_passwords="true"):
        if combo.startswith("pg"):
            needs("pg")
        self.combo, self.extra, self.names = combo, extra, accounts
        self.binary = pathlib.Path(binary or BINARY)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="thurn-test-"))
        self.ports = dict(zip(KINDS, free_ports(len(KINDS))))
        self.pg = None
        self.durable = durable
        self.weak_passwords = weak_passwords
        self.processes = []
        self.listen_extra = listen_extra

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.cleanup()
            raise
        return self

    def __exit__(self, kind, value, trace):
        try:
            if kind is None:
                for p in reversed(self.processes):
                    p.stop()
            elif os.environ.get("THURN_TEST_VERBOSE", "1") == "1":
                for p in self.processes:
                    print(f"--- {p.name} log ---\n{p.tail(80)}", file=sys.stderr)
        finally:
            self.cleanup()
        return False

    def cleanup(self):
        for p in self.processes:
            p.kill()
        if self.pg:
            subprocess.run([str(ROOT / "tests/integration/pg.sh"), "stop", self.pg], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def pg_url(self, database):
        return f"host={self.pg} port=5432 user=test dbname={database}"

    def databases(self):
        if not self.combo.startswith("pg"):
            return ""
        self.pg = str(self.folder / "pg")
        os.chmod(self.folder, 0o755)
        subprocess.run([str(ROOT / "tests/integration/pg.sh"), "start", self.pg], check=True,
                       env=dict(os.environ, PG_FSYNC="on" if self.durable else "off"))
        psql = shutil.which("psql") or "psql"
        for name in ("directory", "queue", "shard1", "shard2"):
            subprocess.run([psql, "-h", self.pg, "-U", "test", "-d", "postgres", "-qc", f"CREATE DATABASE {name}"], check=True)
        return (f'directory.database: "{self.pg_url("directory")}"\nqueue.database: "{self.pg_url("queue")}"\n'
                f'store.shards: ["{self.pg_url("shard1")}", "{self.pg_url("shard2")}"]\n')

    def listeners(self):
        lines = "".join(f"  {k}: 127.0.0.1:{p}\n" for k, p in self.ports.items())
        return f"listen:\n{lines}{self.listen_extra}"

    def start(self):
        common = f"hostname: mx.example.test\ndefault_domain: example.test\npasswords.allow_weak: {self.weak_passwords}\n"
        front = f"limits.allow_plain_login: loopback\noutbound.allow_private_addresses: true\n{self.extra}"
        databases = self.databases()
        if self.combo.endswith("local"):
            config = common + f"data: {self.folder}/data\n" + self.listeners() + databases + front
            self.processes = [Process(self.folder, "thurn", config, self.ports["http"], self.binary)]
        else:
            port, http_port = free_ports(2)
            rpc = f"127.0.0.1:{port}" if "rpc.tls" in self.extra else f"unix:{self.folder}/rpc.sock"
            services = (common + f"data: {self.folder}/services\nroles: [auth, store, queue]\nrpc.listen: {rpc}\n"
                        f"rpc.secret: {'5' * 32}\nlisten.http: 127.0.0.1:{http_port}\n" + databases + front)
            frontend = (common + f"data: {self.folder}/data\nroles: [frontend]\n" + self.listeners() +
                        "".join(f"rpc.{s}: {rpc}\n" for s in ("auth", "store", "queue")) + front)
            self.processes = [Process(self.folder, "services", services, http_port, self.binary),
                              Process(self.folder, "frontend", frontend, self.ports["http"], self.binary)]
        self.run("migrate", "--new", "--config", str(self.processes[0].config))
        for p in self.processes:
            p.start()
        self.admin("domain", "add", "example.test")
        for name in self.names:
            self.admin("account", "add", f"{name}@example.test", "--password", PASSWORD)

    @property
    def front(self):
        """The process that speaks the mail protocols."""
        return self.processes[-1]

    def run(self, *args, stdin=None, check=True):
        r = subprocess.run([str(self.binary), *args], input=stdin, capture_output=True, text=True, timeout=120)
        if check and r.returncode != 0:
            raise AssertionError(f"thurn {' '.join(args)}: status {r.returncode}\n{r.stdout}{r.stderr}")
        return r

    def admin(self, *args, stdin=None, check=True):
        """A verb of the command line on this server."""
        has_auth = "data" if len(self.processes) == 1 else "services" # who trusts its control socket
        return self.run("--data", str(self.folder / has_auth), *args, stdin=stdin, check=check)

    def address(self, kind):
        return "127.0.0.1", self.ports[kind]


def client_tls():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@contextlib.contextmanager
def smtp_sink(port, options=()):
    """Postfix's smtp-sink on 127.0.0.1:port, keeping each message in a folder; yields a function that reads them."""
    with tempfile.TemporaryDirectory(prefix="thurn-sink-") as folder:
        os.chmod(folder, 0o777)
        needs("postfix")
        sink = subprocess.Popen(["/usr/sbin/smtp-sink", "-u", "nobody", "-R", folder, "-d", "mail.", *options,
                                 f"127.0.0.1:{port}", "200"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: _connects(port), "smtp-sink", 10)
            yield lambda: _mails(folder)
        finally:
            sink.kill()
            sink.wait()


def _mails(folder):
    """What the sink wrote, oldest first. Its names have no order, and a file is empty until its message is complete."""
    files = sorted(pathlib.Path(folder).iterdir(), key=lambda p: p.stat().st_mtime_ns)
    return [text for text in (p.read_bytes() for p in files) if text]


def _connects(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def corpus():
    """(path, bytes as they go over the wire) of every sample message; empty when the data is not on this machine."""
    for part in ("mailcorpus", "mime"):
        for path in sorted((SHARED_DATA / part).rglob("*")):
            if not path.is_file() or path.suffix in (".json", ".tsv", ".xml", ".out", ".md", ".txt"):
                continue
            if path.name.startswith(("COPYING", "LICENSE", "README")):
                continue
            raw = path.read_bytes()
            if raw.startswith(b"From "):
                raw = raw[raw.find(b"\n") + 1:]
            yield path, wire_form(raw)


def wire_form(raw):
    """Every line end as CRLF, and a last line that has one: what SMTP and APPEND can carry."""
    raw = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    return raw if raw.endswith(b"\r\n") else raw + b"\r\n"
