#!/usr/bin/python3
"""A wrong setting, file or command stops with one line that names the place and the remedy."""
import pathlib
import subprocess
import sys
import tempfile

import harness


def thurn(*args):
    r = subprocess.run([str(harness.BINARY), *args], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    return r.returncode, r.stdout, r.stderr


def fails(args, status, *words):
    code, out, err = thurn(*args)
    assert code == status, (args, code, out, err)
    complaints = [line for line in err.splitlines() if line.startswith("thurn: ")]
    assert len(complaints) == 1, (args, err)
    err = complaints[0]
    for w in words:
        assert w in err, (args, w, err)
    return err


def main():
    with tempfile.TemporaryDirectory() as d:
        folder = pathlib.Path(d)
        conf = folder / "c.yaml"

        def config(text, status, *words):
            conf.write_text(text)
            fails(["config", "check", "--config", str(conf), "--data", d], status, *words)
            return fails(["serve", "--config", str(conf), "--data", d], status, *words)

        config("listen:\n  smpt: 1\n", 2, f"{conf}:2", "listen.smpt", "did you mean 'listen.smtp'")
        config("workers: many\n", 2, f"{conf}:1", "whole number from 0 to 64")
        config("\n\nlog: {level: loud}\n", 2, f"{conf}:3", "error warn debug")
        config("listen.smtp: nonsense\nlisten.http: []\n", 2, f"{conf}:1", "listen.smtp", "nonsense")
        config("listen.smtp: '*:99999'\n", 2, f"{conf}:1", "listen.smtp")
        config("hostname: two words\n", 2, f"{conf}:1", "hostname")
        config("roles: [frontend, cook]\n", 2, f"{conf}:1", "cook", "frontend, queue, store and auth")
        config("roles: [frontend]\n", 2, "rpc.auth")
        config("roles: [store]\nworkers: 2\n", 2, f"{conf}:2", "workers", "frontend")
        config("roles: [frontend]\nrpc: {auth: 'a:1', store: 'a:2', queue: 'a:3', listen: '127.0.0.1:7000'}\n", 2, f"{conf}:2", "rpc.listen", "no service")
        config("blobs: {kind: s3}\n", 2, f"{conf}:1", "blobs.s3.endpoint")
        config("rpc:\n  listen: 0.0.0.0:7000\nlisten: {smtp: [], submission: [], submissions: [], imap: [], imaps: [], http: []}\n", 2,
               f"{conf}:2", "rpc.tls")
        config("rpc:\n  listen: 127.0.0.1:7000\n  secret: " + "s" * 32 + "\n", 2, f"{conf}:2", "rpc.listen", "rpc.tls", "unix:")
        config("rpc:\n  listen: unix:/tmp/none.sock\n", 2, "rpc.secret", "openssl rand")
        config("rpc:\n  listen: unix:/tmp/none.sock\n  secret: short\n", 2, f"{conf}:3", "rpc.secret", "32")
        config("roles: [frontend]\nrpc: {auth: 'a:1', store: 'a:2', queue: 'a:3', secret: '" + "s" * 32 + "'}\n", 2, f"{conf}:2", "rpc.secret",
               "front-end")
        config(f"tls:\n  certificates: ['{folder}/none.pem {folder}/none.key']\n", 2, f"{conf}:2", "none.pem", "No such file")
        config("store:\n  shards: ['mysql://x']\n", 2, f"{conf}:2", "store.shards", "postgresql://")
        config("store:\n  shards: ['sqlite:a.db', 'sqlite:b.db', 'sqlite:a.db']\n", 2, f"{conf}:2", "store.shards", "shard 1", "shard 3")
        config("dns:\n  servers: [127.0.0.1, not-an-ip]\n", 2, f"{conf}:2", "dns.servers", "not-an-ip")
        config("dns:\n  trust_anchor: /no/such/file\n", 2, f"{conf}:2", "dns.trust_anchor")
        config("outbound:\n  relay: 'smart host:25'\n", 2, f"{conf}:2", "outbound.relay", "smart host")
        config("queue:\n  retry: [5x]\n", 2, f"{conf}:2", "queue.retry", "5x")
        config("default_domain: no_such domain\n", 2, f"{conf}:1", "default_domain")
        config("hostname: a..b\n", 2, f"{conf}:1", "hostname")
        config("roles: [frontend]\nrpc:\n  store: 'here:1'\n  queue: 'here:2'\n  auth: [nonsense]\n", 2, f"{conf}:5", "rpc.auth", "nonsense")
        config("rpc:\n  tls: {ca: /no/ca.pem, certificate: /no/c.pem, key: /no/k.pem}\n", 2, f"{conf}:2", "rpc.tls.ca", "/no/")
        config("blobs: {kind: s3, s3: {endpoint: s3.example.net, bucket: b}}\n", 2, f"{conf}:1", "blobs.s3.endpoint", "https://")
        config("listen:\n  imap: '127.0.0.1:9143'\n  imaps: '*:9143'\n", 2, f"{conf}:3", "listen.imaps", "9143", "'imap'")
        config("listen:\n  smtp: ['127.0.0.1:9025', '127.0.0.1:9025']\n", 2, f"{conf}:2", "listen.smtp", "9025")
        # what may hold a password is not repeated
        for text in ('directory: { database: "postgres://u:geheim@[bad:5432/x" }', 'directory: { database: "postgres://u:top@geheim@host/x" }',
                     'redis: { url: "http://:geheim@x" }', 'redis: { url: "redis://:geheim" }', 'store: { shards: ["host=x password=\'geheim"] }'):
            assert "geheim" not in config(text + "\n", 2, f"{conf}:1", text[:5]), text
        fails(["serve", "--config", "/no/such/file.yaml"], 3, "/no/such/file.yaml")
        fails(["serve", "--config"], 2, "--config needs a value")
        fails(["serve", "--colour"], 2, "--colour", "thurn serve --help")
        fails(["account", "add"], 2, "thurn account --help")
        fails(["--data", d, "account", "list"], 1, "no server answers", "thurn serve")
        fails(["cook"], 2, "there is no verb 'cook'")
        fails(["setup", "not-an-address", "--data", d], 2, "not-an-address")
        # a port that is taken: which one, and what to do
        port = harness.free_ports(1)[0]
        import socket
        conf.write_text("listen: {smtp: [], submission: [], submissions: [], imap: [], imaps: [], http: []}\n")
        fails(["serve", "--config", str(conf), "--data", f"{d}/new"], 4, f"'{d}/new' was never set up", "thurn setup")
        with socket.socket() as s:
            s.bind(("127.0.0.1", port))
            s.listen()
            conf.write_text(f"listen: {{smtp: '127.0.0.1:{port}', submission: [], submissions: [], imap: [], imaps: [], http: []}}\n")
            assert thurn("migrate", "--new", "--data", f"{d}/new")[0] == 0
            fails(["serve", "--config", str(conf), "--data", f"{d}/new"], 1, f"127.0.0.1:{port}", "listens there: stop it, or choose another port")
    code, out, _ = thurn("version")
    assert code == 0 and out.startswith("thurn "), out
    code, out, _ = thurn("config", "reference")
    assert code == 0 and "`listen.smtp`" in out
    reference = (harness.ROOT / "docs/configuration.md").read_text()
    assert out in reference, "docs/configuration.md is not what `thurn config reference` prints"
    print("1 passed, 0 failed")


if __name__ == "__main__":
    sys.exit(main())
