"""Who may call which method: every method of every service, with the certificate of every role, with and without passes.

The table is docs/rpc.md's, which people read; the methods are those of the .proto files. A method that is in one of them and not in the other fails.
"""
import pathlib
import re
import socket
import ssl
import struct
import subprocess
import tempfile

import harness
from harness import PASSWORD, free_ports

ROLES = ("frontend", "queue", "store", "auth")
DENIED = 4 # enum err_kind
TOKEN, SECRET = "a token of this test", "s" * 32


def methods():
    """(service, number, name, type of the request) of each."""
    for service in ("auth", "store", "queue"):
        text = (harness.ROOT / f"proto/{service}.proto").read_text()
        for number, (name, request) in enumerate(re.findall(r"^\s*rpc (\w+)\((\w+)\)", text, re.M)):
            yield service.capitalize(), number, name, request


def table():
    """{"Store.Fetch": {"account"}} as the document says."""
    rows = re.findall(r"^\| `(\w+)\.(\w+)` \| ([a-z, ]+) \|$", (harness.ROOT / "docs/rpc.md").read_text(), re.M)
    return {f"{service}.{method}": set(by.split(", ")) for service, method, by in rows}


# --- enough of the wire to make a call ---

def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def fields(message):
    """Of a reply: {number: value}; fixed64 and varints as numbers."""
    out, i = {}, 0

    def number():
        nonlocal i
        n = shift = 0
        while True:
            n |= (message[i] & 127) << shift
            shift, i = shift + 7, i + 1
            if not message[i - 1] & 128:
                return n
    while i < len(message):
        key = number()
        if key & 7 == 0:
            out[key >> 3] = number()
        elif key & 7 == 1:
            out[key >> 3], i = struct.unpack_from("<Q", message, i)[0], i + 8
        else:
            n = number()
            out[key >> 3], i = message[i:i + n], i + n
    return out


class Peer:
    """A connection with the certificate of these roles, which claims them."""

    def __init__(self, folder, port, name, roles, service):
        context = ssl.create_default_context(cafile=f"{folder}/ca.pem")
        context.load_cert_chain(f"{folder}/{name}.pem", f"{folder}/{name}.key")
        self.socket = context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=60), server_hostname="127.0.0.1")
        self.call = 0
        roles, service = " ".join(roles).encode(), f"thurn.{service}".encode()
        self.send(1, b"THRN" + struct.pack(">HHB", 2, 2, len(roles)) + roles + b"\1" + bytes([len(service)]) + service + b"\0")
        assert self.receive()[0] == 1

    def send(self, kind, content):
        self.socket.sendall(struct.pack(">IB", len(content) + 1, kind) + content)

    def take(self, n):
        out = b""
        while len(out) < n:
            piece = self.socket.recv(n - len(out))
            if not piece:
                raise ConnectionError("closed")
            out += piece
        return out

    def receive(self):
        n, kind = struct.unpack(">IB", self.take(5))
        return kind, self.take(n - 1)

    def ask(self, method, message=b"", pass_=b""):
        """(0, reply) or (kind of the error, text)."""
        self.call += 1
        self.send(2, struct.pack(">IBHBI", self.call, 0, method, 0, 5000) + bytes([len(pass_)]) + pass_ + struct.pack(">QQ", 1, 0) + message)
        while True:
            kind, content = self.receive()
            if kind in (3, 4):
                return (0, content[4:]) if kind == 3 else (content[4], content[5:].decode())
            assert kind in (5, 7, 9, 11), kind

    def close(self):
        self.socket.close()


def certificates(folder):
    def openssl(*args):
        subprocess.run(["openssl", *args], check=True, capture_output=True)
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *new, "-subj", "/CN=ca", "-days", "9", "-keyout", f"{folder}/ca.key", "-out", f"{folder}/ca.pem")
    for name, roles in [(r, [r]) for r in ROLES] + [("none", []), ("services", ["auth", "store", "queue"])]:
        openssl("req", *new, "-subj", f"/CN={name}", "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/csr")
        pathlib.Path(f"{folder}/ext").write_text("subjectAltName=IP:127.0.0.1" + "".join(f",URI:thurn:role:{r}" for r in roles) + "\n")
        openssl("x509", "-req", "-in", f"{folder}/csr", "-CA", f"{folder}/ca.pem", "-CAkey", f"{folder}/ca.key", "-CAcreateserial",
                "-days", "9", "-extfile", f"{folder}/ext", "-out", f"{folder}/{name}.pem")


def start(folder):
    """The three services in one process, and its port for calls."""
    rpc, http = free_ports(2)
    config = (f"data: {folder}/data\nroles: [auth, store, queue]\ndefault_domain: example.test\nadmin.token: {TOKEN}\n"
              f"rpc:\n  listen: 127.0.0.1:{rpc}\n  secret: {SECRET}\n"
              f"  tls: {{ca: {folder}/ca.pem, certificate: {folder}/services.pem, key: {folder}/services.key}}\nlisten.http: 127.0.0.1:{http}\n")
    p = harness.Process(pathlib.Path(folder), "services", config, http, harness.BINARY)

    def thurn(*args):
        subprocess.run([str(harness.BINARY), *args], check=True, capture_output=True)
    thurn("migrate", "--new", "--config", str(p.config))
    p.start()
    thurn("--data", f"{folder}/data", "domain", "add", "example.test")
    for name in ("ann", "bob"):
        thurn("--data", f"{folder}/data", "account", "add", f"{name}@example.test", "--password", PASSWORD)
    return p, rpc


def request_of(request, account):
    """Empty, but for the account; of an unknown one, so that no call does anything: what is asked is whether it may."""
    text = "".join((harness.ROOT / f"proto/{p}.proto").read_text() for p in ("auth", "store", "queue", "common"))
    body = re.search(rf"message {request} \{{(.*?)\}}", text, re.S).group(1)
    return field(1, account) if re.search(r"\bAccountRef account = 1;", body) else b""


def test_every_method_with_every_certificate():
    by_name, all_methods = table(), list(methods())
    assert set(by_name) == {f"{s}.{m}" for s, _, m, _ in all_methods}, "docs/rpc.md and the .proto files name other methods"
    for name, by in by_name.items():
        assert by <= {*ROLES, "account", "admin"}, (name, by)
    with tempfile.TemporaryDirectory(prefix="thurn-rights-", dir="/tmp") as folder:
        certificates(folder)
        process, port = start(folder)
        try:
            check_connections(folder, port)
            check_calls(folder, port, by_name, all_methods)
        finally:
            process.stop()


def check_connections(folder, port):
    """Who claims what his certificate does not name is turned away, whatever else it names."""
    for name in (*ROLES, "none"):
        for claimed in (*ROLES, "", "administrator"):
            peer = None
            try:
                peer = Peer(folder, port, name, [claimed] if claimed else [], "Auth")
                peer.ask(0)
                served = True
            except (ConnectionError, ssl.SSLError):
                served = False
            finally:
                if peer:
                    peer.close()
            assert served == (name == claimed), f"{name} as '{claimed}': {'served' if served else 'turned away'}"


def check_calls(folder, port, by_name, all_methods):
    numbers = {f"{s}.{m}": n for s, n, m, _ in all_methods}
    front = Peer(folder, port, "frontend", ["frontend"], "Auth")

    def log_in(name):
        kind, reply = front.ask(numbers["Auth.Authenticate"], field(1, f"{name}@example.test".encode()) + field(2, PASSWORD.encode()) +
                                field(3, b"192.0.2.1") + field(4, b"imap"))
        assert kind == 0, reply
        return fields(reply)[1], fields(reply)[7] # AccountRef, pass
    ann, ann_pass = log_in("ann")
    bob, bob_pass = log_in("bob")
    assert front.ask(numbers["Auth.AuthenticateAdmin"], field(1, b"guess"))[0] == DENIED
    kind, reply = front.ask(numbers["Auth.AuthenticateAdmin"], field(1, TOKEN.encode()))
    assert kind == 0, reply
    admin_pass = fields(reply)[1]
    made_up = bytes([1]) + ann_pass[1:] # "of an administrator"
    front.close()
    passes = {"no pass": b"", "ann's": ann_pass, "bob's": bob_pass, "an administrator's": admin_pass, "a made up one": made_up,
              "one of zeros": bytes(len(ann_pass))}
    wrong, n_calls, n_allowed = [], 0, 0
    # What ends or takes away comes last.
    order = sorted(all_methods, key=lambda m: (m[2] == "Drain", m[0], m[1]))
    for service, number, method, request in order:
        by = by_name[f"{service}.{method}"]
        for role in ROLES:
            peer = Peer(folder, port, role, [role], service)
            for which, pass_ in passes.items():
                kind, text = peer.ask(number, request_of(request, ann), pass_)
                may = role in by or (role == "frontend" and ("account" in by and which == "ann's" or
                                                             "admin" in by and which == "an administrator's"))
                # What the rights let through may fail for other reasons, and one of them (a wrong login) is DENIED too.
                is_refused = kind == DENIED and bool(re.search(r"^(the method is not for role|the pass is not|there is no pass)", str(text)))
                n_calls, n_allowed = n_calls + 1, n_allowed + may
                if is_refused == may:
                    wrong.append(f"{service}.{method} by {role} with {which}: {kind} {text}")
            peer.close()
    assert not wrong, f"{len(wrong)} of {n_calls}:\n" + "\n".join(wrong)
    assert n_allowed > len(all_methods)
    print(f"{len(all_methods)} methods, {n_calls} calls, {n_allowed} of them allowed")


if __name__ == "__main__":
    harness.run_tests(globals())
