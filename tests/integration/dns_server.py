"""A DNS server for tests: answers from a table, over UDP and TCP, on one loopback port.

records: {("name.", "MX"): ["10 mx.name."], ("mx.name.", "A"): ["127.0.0.1"]}; other names are NXDOMAIN.
"""
import socket
import socketserver
import struct
import threading

TYPES = {"A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28}


def _name(text):
    out = b""
    for label in text.rstrip(".").split("."):
        if label:
            out += bytes([len(label)]) + label.encode()
    return out + b"\0"


def _rdata(kind, text):
    if kind == "A":
        return socket.inet_aton(text)
    if kind == "AAAA":
        return socket.inet_pton(socket.AF_INET6, text)
    if kind == "MX":
        preference, host = text.split()
        return struct.pack("!H", int(preference)) + _name(host)
    if kind == "TXT":
        return b"".join(bytes([len(text[i:i + 255])]) + text[i:i + 255].encode() for i in range(0, len(text) or 1, 255))
    return _name(text)


def answer(records, query):
    ident, flags, questions = struct.unpack("!HHH", query[:6])
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode("latin-1").lower())
        at += query[at] + 1
    name = ".".join(labels) + "."
    kind_number = struct.unpack("!H", query[at + 1:at + 3])[0]
    question = query[12:at + 5]
    kind = next((k for k, v in TYPES.items() if v == kind_number), "")
    found = records.get((name, kind), [])
    exists = any(n == name for n, _ in records)
    body = b"".join(struct.pack("!HHHIH", 0xC00C, TYPES[kind], 1, 60, len(r)) + r for r in (_rdata(kind, t) for t in found))
    code = 0 if exists else 3
    return struct.pack("!HHHHHH", ident, 0x8580 | (flags & 0x0100) | code, 1, len(found), 0, 0) + question + body


class DnsServer:
    def __init__(self, records):
        self.records = records

        class Udp(socketserver.BaseRequestHandler):
            def handle(handler):
                data, sock = handler.request
                sock.sendto(answer(self.records, data), handler.client_address)

        class Tcp(socketserver.StreamRequestHandler):
            def handle(handler):
                head = handler.rfile.read(2)
                if len(head) == 2:
                    reply = answer(self.records, handler.rfile.read(struct.unpack("!H", head)[0]))
                    handler.wfile.write(struct.pack("!H", len(reply)) + reply)

        class TcpServer(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self.tcp = TcpServer(("127.0.0.1", 0), Tcp)
        self.port = self.tcp.server_address[1]
        self.udp = socketserver.ThreadingUDPServer(("127.0.0.1", self.port), Udp)
        self.udp.daemon_threads = True

    def __enter__(self):
        for server in (self.tcp, self.udp):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *unused):
        for server in (self.tcp, self.udp):
            server.shutdown()
            server.server_close()
