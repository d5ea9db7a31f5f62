#!/usr/bin/python3
"""Bad links do no harm: a proxy of ours on every link of a cluster delays, stalls, or lets through one way only, while mail comes in.

  tests/fault/links.py [--senders 10] [--seconds 8] [--pause 0.05] [--links auth,store,queue,redis,pg-directory,pg-queue,pg-shard-1,s3]
                       [--ways delay-50,delay-500,stall,one-way] [--binary build/release/thurn] [--keep]

delay-MS: what either side sends comes so much later. stall: connections stay, and new ones are taken, but nothing comes through. one-way: what the
caller sends arrives, and the answer does not: things are done of which nobody hears. A link is all connections to the nodes of that name;
"auth", "store" and "queue" are those of the first node only, as a broken cable would have it. What must hold in the end is in traffic.py.
"""
import argparse
import asyncio
import threading
import time

from traffic import World, longest_gap

LINKS = ("auth", "store", "queue", "redis", "pg-directory", "pg-queue", "pg-shard-1", "s3")
WAYS = ("delay-50", "delay-500", "stall", "one-way")
PIECE = 65536


class Proxy:
    """One listener, whose way of passing things on can be changed at any time."""

    def __init__(self, port, target):
        self.port, self.target = port, target
        self.way, self.delay = "", 0.0
        self.changed = asyncio.Event()

    def set(self, way):
        self.way = way
        self.delay = int(way.split("-")[1]) / 1000 if way.startswith("delay") else 0.0
        self.changed.set()
        self.changed = asyncio.Event()

    def passes(self, is_answer):
        return not (self.way == "stall" or (self.way == "one-way" and is_answer))

    async def send(self, queue, writer, is_answer):
        """In order, each piece when its time has come and the way is free."""
        while True:
            due, piece = await queue.get()
            await asyncio.sleep(max(due - time.monotonic(), 0))
            while not self.passes(is_answer):
                await self.changed.wait()
            if not piece:
                writer.write_eof()
                return
            writer.write(piece)
            await writer.drain()

    async def pump(self, reader, writer, is_answer):
        queue = asyncio.Queue(64)  # beyond that the sender feels it
        sender = asyncio.ensure_future(self.send(queue, writer, is_answer))
        try:
            while True:
                piece = await reader.read(PIECE)
                await queue.put((time.monotonic() + self.delay, piece))
                if not piece:
                    break
            await sender
        finally:
            sender.cancel()

    async def connected(self, reader, writer):
        other = None
        try:
            there, other = await asyncio.open_connection("127.0.0.1", self.target)
            done, rest = await asyncio.wait([asyncio.ensure_future(self.pump(reader, other, False)), asyncio.ensure_future(self.pump(there, writer, True))],
                                            return_when=asyncio.FIRST_EXCEPTION)
            for t in done | rest:
                t.cancel()
            await asyncio.gather(*done, *rest, return_exceptions=True)
        except OSError:
            pass
        finally:
            for w in (writer, other):
                if w:
                    w.close()


class Proxies:
    """Of a whole cluster, on a thread of their own."""

    def __init__(self, ports):
        self.loop = asyncio.new_event_loop()
        self.by_name = {name: Proxy(port, target) for name, (port, target) in ports.items()}

    def __enter__(self):
        async def listen():
            self.servers = [await asyncio.start_server(p.connected, "127.0.0.1", p.port) for p in self.by_name.values()]
        self.loop.run_until_complete(listen())
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()

    def set(self, name, way):
        self.loop.call_soon_threadsafe(self.by_name[name].set, way)


def disturb(world, proxies, link, way, seconds):
    name = link + "-1" if link in ("auth", "store", "queue") else link
    start, before = time.monotonic(), world.total()
    proxies.set(name, way)
    try:
        time.sleep(seconds)
    finally:
        proxies.set(name, "")
    during = world.total() - before
    world.taken_again(f"the link to {name} was good again")
    all_, one = longest_gap(world.senders, start, time.monotonic())
    print(f"{name:12} {way:9} {seconds:4.0f} s: {during:5} taken; nobody's for at most {all_:.2f} s, a sender's for {one:.2f} s", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--senders", type=int, default=10)
    p.add_argument("--seconds", type=float, default=8)
    p.add_argument("--pause", type=float, default=0.05, help="of a sender between two messages")
    p.add_argument("--links", default=",".join(LINKS))
    p.add_argument("--ways", default=",".join(WAYS))
    p.add_argument("--binary", default=None)
    p.add_argument("--keep", action="store_true")
    a = p.parse_args()
    with World(a.senders, a.pause, a.binary, a.keep, "--proxy", "yes", proxies=Proxies) as world:
        world.start()
        for way in a.ways.split(","):
            for link in a.links.split(","):
                time.sleep(1)
                disturb(world, world.proxies, link, way, a.seconds)
        world.end()
        print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
