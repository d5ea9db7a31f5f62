"""Postfix and Dovecot as they are out of the box, on loopback, for benches: Postfix takes mail for bench.test and hands it to
Dovecot by LMTP (Maildir, fsync on delivery), and relays relay.test to a sink. Must run as root; other instances are not touched."""
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
from harness import free_ports, wait_until  # noqa: E402

TICK = os.sysconf("SC_CLK_TCK")


def tree(pid):
    """pid and every process below it."""
    children = {}
    for p in pathlib.Path("/proc").iterdir():
        if p.name.isdigit():
            try:
                fields = (p / "stat").read_text().rsplit(") ", 1)[1].split()
            except (OSError, IndexError):
                continue
            children.setdefault(int(fields[1]), []).append(int(p.name))
    found, todo = [], [pid]
    while todo:
        p = todo.pop()
        found.append(p)
        todo += children.get(p, [])
    return found


def cpu_seconds(pids):
    """User and system time of the trees below pids, with that of children that have ended and were waited for."""
    total = 0
    for root in pids:
        for p in tree(root):
            try:
                fields = pathlib.Path(f"/proc/{p}/stat").read_text().rsplit(") ", 1)[1].split()
            except OSError:
                continue
            total += sum(int(fields[i]) for i in (11, 12, 13, 14))
    return total / TICK


class SyncCount:
    """fsync, fdatasync, syncfs and sync_file_range calls of process trees while the block runs, by strace. Slows them: never
    time inside."""

    def __init__(self, pids):
        self.pids = pids

    def __enter__(self):
        self.file = tempfile.NamedTemporaryFile(prefix="thurn-strace-", suffix=".txt", mode="r")
        args = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync,syncfs,sync_file_range", "-e", "signal=none", "-o", self.file.name]
        for root in self.pids:
            for p in tree(root):
                args += ["-p", str(p)]
        self.strace = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: all("TracerPid:\t0\n" not in _status(p) for root in self.pids for p in [root]), "strace to attach", 20)
        return self

    def __exit__(self, *unused):
        self.strace.send_signal(signal.SIGINT)
        self.strace.wait()
        self.count = sum(1 for line in self.file if "sync" in line and "resumed" not in line)
        self.file.close()


def _status(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""


class Peers:
    def __init__(self, users=20, sink_port=None):
        self.users, self.sink_port = users, sink_port or 9
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="thurn-peers-", dir="/tmp"))
        self.smtp, self.lmtp, self.imap, self.imaps = free_ports(4)

    def __enter__(self):
        os.chmod(self.folder, 0o755)
        try:
            self.start_dovecot()
            self.start_postfix()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *unused):
        subprocess.run(["postfix", "-c", str(self.folder / "postfix"), "stop"], capture_output=True, check=False)
        if (self.folder / "dovecot.conf").exists():
            subprocess.run(["doveadm", "-c", str(self.folder / "dovecot.conf"), "stop"], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def pids(self):
        postfix = (self.folder / "spool/pid/master.pid").read_text().strip()
        dovecot = (self.folder / "run/master.pid").read_text().strip()
        return [int(postfix), int(dovecot)]

    def certificate(self):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
                        "-subj", "/CN=localhost", "-keyout", self.folder / "key.pem", "-out", self.folder / "cert.pem"],
                       check=True, capture_output=True)

    def start_dovecot(self):
        self.certificate()
        mail = self.folder / "mail"
        mail.mkdir()
        shutil.chown(mail, 5000, 5000)
        (self.folder / "users").write_text("".join(
            f"u{i:04}@bench.test:{{PLAIN}}pass:5000:5000::{mail}/u{i:04}::\n" for i in range(1, self.users + 1)))
        (self.folder / "dovecot.conf").write_text(f"""
base_dir = {self.folder}/run
state_dir = {self.folder}/state
instance_name = bench{self.imap}
log_path = {self.folder}/dovecot.log
protocols = imap lmtp
listen = 127.0.0.1
ssl = yes
ssl_cert = <{self.folder}/cert.pem
ssl_key = <{self.folder}/key.pem
disable_plaintext_auth = no
passdb {{
  driver = passwd-file
  args = username_format=%u {self.folder}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {self.folder}/users
}}
mail_location = maildir:~/Maildir
mail_max_userip_connections = 1000
first_valid_uid = 5000
default_process_limit = 1000
default_client_limit = 6000
namespace inbox {{
  inbox = yes
}}
service imap-login {{
  inet_listener imap {{
    port = {self.imap}
  }}
  inet_listener imaps {{
    port = {self.imaps}
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {self.lmtp}
  }}
}}
""")
        subprocess.run(["dovecot", "-c", str(self.folder / "dovecot.conf")], check=True)
        wait_until(lambda: _listens(self.imap) and _listens(self.lmtp), "Dovecot", 20)

    def start_postfix(self):
        config = self.folder / "postfix"
        config.mkdir()
        for d in ("spool", "data"):
            (self.folder / d).mkdir()
        shutil.chown(self.folder / "data", "postfix")
        (config / "main.cf").write_text(f"""
compatibility_level = 3.6
queue_directory = {self.folder}/spool
data_directory = {self.folder}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file_prefixes = {self.folder}
maillog_file = {self.folder}/postfix.log
myhostname = mx.bench.test
mydestination =
local_recipient_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtp_dns_support_level = disabled
smtpd_peername_lookup = no
virtual_mailbox_domains = bench.test
virtual_mailbox_maps = static:1
virtual_transport = lmtp:inet:127.0.0.1:{self.lmtp}
relay_domains = relay.test
transport_maps = inline:{{relay.test=smtp:[127.0.0.1]:{self.sink_port}}}
alias_maps =
alias_database =
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
""")
        services = f"127.0.0.1:{self.smtp} inet n - n - - smtpd\n" + """
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""
        (config / "master.cf").write_text(services)
        subprocess.run(["postfix", "-c", str(config), "start"], check=True, capture_output=True)
        wait_until(lambda: _listens(self.smtp), "Postfix", 20)

    def delivered(self):
        """Messages in all Maildirs."""
        return sum(len(os.listdir(d)) for d in self.folder.glob("mail/*/Maildir/new"))


def _listens(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0
