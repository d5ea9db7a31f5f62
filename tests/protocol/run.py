#!/usr/bin/python3
"""Protocol scripts: plain text, one file a behaviour, run against a real server of one of the four shapes.

    # comment
    use imap [NAME]      open a connection (imap, imaps, smtp, submission, submissions, lmtp) and make it the current one
    switch NAME          make another connection the current one
    login ann            IMAP: log in and read the answer;   SMTP: EHLO and AUTH PLAIN
    starttls             wrap the current connection in TLS (the script has done the protocol's part)
    C: text              send text and CRLF       C- text   send without CRLF       (\\r \\n \\0 \\t \\\\ \\xHH are understood)
    S: pattern           the next line must match; * stands for anything, {name} captures a word, $name repeats it
    S* pattern           lines are skipped until one matches
    S! pattern           no line matching it may come before the next S: or S* line matches
    closed               the server has closed the connection
    bytes N text         send text N times
A script is run with a fresh account name in place of each of ann, bob, cleo.
"""
import fnmatch
import pathlib
import re
import socket
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import harness  # noqa: E402

TIMEOUT = 20


class Failure(Exception):
    pass


class Connection:
    def __init__(self, kind, address):
        self.kind = kind
        self.sock = socket.create_connection(address, TIMEOUT)
        self.buffer = b""
        if kind in ("imaps", "submissions"):
            self.tls()

    def tls(self):
        self.sock = harness.client_tls().wrap_socket(self.sock, server_hostname="mx.example.test")

    def send(self, data):
        self.sock.sendall(data)

    def line(self):
        while b"\n" not in self.buffer:
            try:
                piece = self.sock.recv(65536)
            except (TimeoutError, socket.timeout):
                raise Failure(f"no line within {TIMEOUT} s") from None
            except OSError as e:
                raise Failure(f"connection broke: {e}") from None
            if not piece:
                raise Failure("the server closed the connection" + (f" after {self.buffer!r}" if self.buffer else ""))
            self.buffer += piece
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.rstrip(b"\r").decode("utf-8", "backslashreplace")

    def closed(self):
        try:
            while True:
                piece = self.sock.recv(65536)
                if not piece:
                    return
        except (TimeoutError, socket.timeout):
            raise Failure("the connection is still open") from None
        except OSError:
            return


def unescape(text):
    simple = {"r": "\r", "n": "\n", "0": "\0", "t": "\t", "\\": "\\"}
    def one(m):
        return chr(int(m[2], 16)) if m[2] else simple.get(m[1], m[0])
    return re.sub(r"\\(?:x([0-9a-fA-F]{2})|(.))",
                  lambda m: chr(int(m[1], 16)) if m[1] else simple.get(m[2], m[0]), text).encode("latin-1")


class Script:
    def __init__(self, path, server, names):
        self.path, self.server, self.names = path, server, names
        self.connections, self.current, self.variables = {}, None, {}
        self.forbidden = []
        self.tags = 0

    def own(self, text):
        """ann, bob and cleo are fresh accounts of this script."""
        return re.sub(r"\b(ann|bob|cleo)\b", lambda m: self.names[m[1]], text)

    def expand(self, text):
        return re.sub(r"\$(\w+)", lambda m: self.variables.get(m[1], m[0]), text)

    def matches(self, pattern, line):
        names = re.findall(r"\{(\w+)\}", pattern)
        parts = re.split(r"(\{\w+\}|\*)", self.expand(pattern))
        expression = "".join("(\\S+?)" if re.fullmatch(r"\{\w+\}", p) and p[1:-1] in names else ".*" if p == "*" else re.escape(p)
                             for p in parts)
        m = re.fullmatch(expression, line, re.S)
        if m:
            self.variables.update(zip(names, m.groups()))
        return m is not None

    def expect(self, pattern, may_skip):
        seen = []
        while True:
            line = self.current.line()
            seen.append(line)
            if self.matches(pattern, line):
                self.forbidden = []
                return
            for bad in self.forbidden:
                if self.matches(bad, line):
                    raise Failure(f"came but must not: {line!r}")
            if not may_skip:
                raise Failure(f"wanted {self.expand(pattern)!r}\n    got    {line!r}")

    def login(self, name):
        import base64
        account = f"{self.names[name]}@example.test"
        if self.current.kind.startswith("imap"):
            self.current.send(f'login0 LOGIN {account} "{harness.PASSWORD}"\r\n'.encode())
            self.expect("login0 OK *", True)
            return
        self.current.send(b"EHLO client.test\r\n")
        self.expect("250 *", True)
        token = base64.b64encode(f"\0{account}\0{harness.PASSWORD}".encode()).decode()
        self.current.send(f"AUTH PLAIN {token}\r\n".encode())
        self.expect("235 *", False)

    def step(self, line):
        word, _, rest = line.partition(" ")
        if word == "use":
            kind, _, name = rest.partition(" ")
            self.current = Connection(kind, self.server.address(kind))
            self.connections[name or kind] = self.current
        elif word == "switch":
            self.current = self.connections[rest]
        elif word == "login":
            self.login(rest)
        elif word == "starttls":
            self.current.tls()
        elif word == "C:":
            self.current.send(unescape(self.expand(self.own(rest))) + b"\r\n")
        elif word == "C-":
            self.current.send(unescape(self.expand(self.own(rest))))
        elif word == "bytes":
            n, _, text = rest.partition(" ")
            self.current.send(unescape(text) * int(n))
        elif word == "S:":
            self.expect(self.own(rest), False)
        elif word == "S*":
            self.expect(self.own(rest), True)
        elif word == "S!":
            self.forbidden.append(self.own(rest))
        elif word == "closed":
            self.current.closed()
        else:
            raise Failure(f"what is {word!r}?")

    def run(self):
        try:
            for number, line in enumerate(self.path.read_text().splitlines(), 1):
                line = line.strip(" ")
                if not line or line.startswith("#"):
                    continue
                try:
                    self.step(line)
                except (Failure, OSError) as e:
                    raise Failure(f"{self.path.name}:{number}: {line}\n    {e}") from None
        finally:
            for c in self.connections.values():
                c.sock.close()


def main():
    combo = sys.argv[1]
    folder = pathlib.Path(__file__).parent / "scripts"
    chosen = sys.argv[2:]
    paths = sorted(p for p in folder.glob("*.txt") if not chosen or any(fnmatch.fnmatch(p.name, f"*{c}*") for c in chosen))
    if not paths:
        sys.exit("no scripts")
    failed = 0
    with harness.Server(combo, accounts=()) as server:
        rows = []
        for i, _ in enumerate(paths):
            rows += [f"{n}{i}@example.test,{harness.PASSWORD},100M" for n in ("ann", "bob", "cleo")]
        server.admin("account", "add", "--from-file", "-", stdin="\n".join(rows) + "\n")
        for i, path in enumerate(paths):
            names = {n: f"{n}{i}" for n in ("ann", "bob", "cleo")}
            try:
                Script(path, server, names).run()
                print(f"ok    {path.name}")
            except Failure as e:
                failed += 1
                print(f"FAIL  {e}")
        if failed:
            for p in server.processes:
                print(f"--- {p.name} ---\n{p.tail(40)}")
    print(f"{len(paths) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
