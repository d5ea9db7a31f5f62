#!/usr/bin/python3
"""What /readyz says of databases that lack a step of the schema, and of databases that hang: the truth, and at once."""
import contextlib
import select
import socket
import subprocess
import sys
import threading
import time

import harness
from harness import free_ports, http_get, wait_until


class Way:
    """A TCP port that leads to a server's Unix socket, and can be made to hang: nothing is lost, nothing gets through."""

    def __init__(self, path):
        self.path = path
        self.may_pass = threading.Event()
        self.may_pass.set()
        self.port = free_ports(1)[0]
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client = self.listener.accept()[0]
                server = socket.socket(socket.AF_UNIX)
                server.connect(self.path)
                threading.Thread(target=self.pass_on, args=(client, server), daemon=True).start()

    def pass_on(self, client, server):
        with contextlib.suppress(OSError), client, server:
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    self.may_pass.wait()
                    (server if ready is client else client).sendall(data)

    def close(self):
        self.may_pass.set()
        self.listener.close()


class Hanging(harness.Server):
    """A server that reaches the directory and the first shard by ways that can hang."""

    def databases(self):
        text = super().databases()
        self.ways = {name: Way(f"{self.pg}/.s.PGSQL.5432") for name in ("directory", "shard1")}
        for name, way in self.ways.items():
            text = text.replace(self.pg_url(name), f"host=127.0.0.1 port={way.port} user=test dbname={name}")
        return text

    def cleanup(self):
        for way in getattr(self, "ways", {}).values():
            way.close()
        super().cleanup()


def readyz(server):
    """The status and the text; asking must never take long."""
    began = time.monotonic()
    answer = http_get(server.front.http, "/readyz")
    took = time.monotonic() - began
    assert took < 2, f"/readyz took {took:.1f} s"
    return answer


def test_older_schema():
    """A process on databases of an older release is not ready and says what to do; it becomes so without a restart."""
    server = harness.Server("pg-local")
    try:
        databases = server.databases()
        config = f"data: {server.folder}/data\n{server.listeners()}{databases}"
        server.processes = [harness.Process(server.folder, "thurn", config, server.ports["http"], server.binary)]
        server.run("migrate", "--new", "--config", str(server.front.config))
        subprocess.run(["psql", "-h", server.pg, "-U", "test", "-d", "directory", "-qc",
                        "DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE TABLE thurn_set (member text PRIMARY KEY, id text NOT NULL)"], check=True)
        ident = subprocess.run(["psql", "-h", server.pg, "-U", "test", "-d", "queue", "-qtAc", "SELECT id FROM thurn_set"], check=True,
                               capture_output=True, text=True).stdout.strip()
        subprocess.run(["psql", "-h", server.pg, "-U", "test", "-d", "directory", "-qc",
                        f"INSERT INTO thurn_set VALUES ('directory', '{ident}')"], check=True)
        server.front.start(wait=False)
        wait_until(lambda: "run thurn migrate" in readyz(server)[1], "the advice")
        assert readyz(server)[0] == 503
        assert server.front.metric('thurn_database_ready{database="directory"}') == 0
        wait_until(lambda: "run thurn migrate" in server.front.log.read_text(), "the advice in the log")
        server.run("migrate", "--config", str(server.front.config))
        wait_until(lambda: readyz(server)[0] == 200, "readiness")
        assert server.front.metric('thurn_database_ready{database="directory"}') == 1
        server.front.stop()
    finally:
        server.cleanup()


def test_hanging():
    """One shard of two that hangs leaves the process ready; a directory that hangs does not. The page never waits."""
    with Hanging("pg-local") as server:
        server.ways["shard1"].may_pass.clear()
        end = time.monotonic() + 4
        while time.monotonic() < end:
            assert readyz(server)[0] == 200
        wait_until(lambda: "degraded: database.shard-1: " in readyz(server)[1], "the name of what hangs", 10)
        assert server.front.metric('thurn_degraded{what="database.shard-1"}') == 1
        server.ways["directory"].may_pass.clear()
        wait_until(lambda: readyz(server)[0] == 503, "the end of readiness", 10)
        assert "the directory database has not answered" in readyz(server)[1]
        for way in server.ways.values():
            way.may_pass.set()
        wait_until(lambda: readyz(server) == (200, "ok\n"), "readiness, without complaint", 30)


if __name__ == "__main__":
    harness.run_tests(globals())
