"""Fibers in gdb, in a running process or a core:

    (gdb) source tools/gdb/fibers.py
    (gdb) fibers                 all live fibers: name, state, what they wait for, age, session
    (gdb) fiber-bt ADDRESS       the stack of one (or of all: fiber-bt all)

The stack is walked by frame pointers, which all of our code keeps; frames of libraries built without them may be missing.
"""
import gdb

STATES = ["ended", "ready", "running", "waiting"]
REG_RBP, REG_RSP, REG_RIP = 10, 15, 16
FRAMES_MAX = 100


def live():
    head = gdb.parse_and_eval("&fiber_runtime.live.head")
    fiber = gdb.lookup_type("struct fiber")
    offset = next(f.bitpos // 8 for f in fiber.fields() if f.name == "all")
    node = head["next"]
    while int(node) != int(head):
        address = int(node) - offset
        yield gdb.Value(address).cast(fiber.pointer())
        node = node["next"]


def text(value):
    return value.string() if int(value) else "-"


def monotonic_ms():
    try:
        with open("/proc/uptime") as f:
            return int(float(f.read().split()[0]) * 1000)
    except OSError:
        return None


def symbol(pc):
    where = gdb.execute("info symbol %#x" % pc, to_string=True).split(" in section")[0].strip()
    line = gdb.find_pc_line(pc)
    if line.symtab:
        where += " at %s:%d" % (line.symtab.filename, line.line)
    return where


def word(address):
    memory = gdb.selected_inferior().read_memory(address, 8)
    return int.from_bytes(bytes(memory), "little")


def backtrace(fiber):
    regs = fiber["ctx"]["uc"]["uc_mcontext"]["gregs"]
    low, high = int(fiber["ctx"]["bottom"]), int(fiber["ctx"]["bottom"]) + int(fiber["ctx"]["size"])
    pc, bp = int(regs[REG_RIP]) & (2**64 - 1), int(regs[REG_RBP]) & (2**64 - 1)
    for n in range(FRAMES_MAX):
        print("  #%-2d %#018x %s" % (n, pc, symbol(pc)))
        if not low <= bp <= high - 16:
            break
        pc, bp = word(bp + 8), word(bp)
        if pc == 0:
            break


class Fibers(gdb.Command):
    """List live fibers."""

    def __init__(self):
        super().__init__("fibers", gdb.COMMAND_STACK)

    def invoke(self, argument, from_tty):
        now = monotonic_ms()
        print("%-18s %-8s %-14s %-20s %10s %s" % ("address", "state", "waits for", "name", "age ms", "session"))
        for f in live():
            age = now - int(f["started_mono_ms"]) if now else 0
            print("%#-18x %-8s %-14s %-20s %10d %d" % (int(f), STATES[int(f["state"])], text(f["waiting_for"]),
                                                       text(f["name"]), age, int(f["context"]["session_id"])))


class FiberBacktrace(gdb.Command):
    """Backtrace of one fiber by its address, or of all."""

    def __init__(self):
        super().__init__("fiber-bt", gdb.COMMAND_STACK)

    def invoke(self, argument, from_tty):
        wanted = None if argument.strip() == "all" else int(gdb.parse_and_eval(argument))
        for f in live():
            if wanted is None or int(f) == wanted:
                print("%s (%s)" % (text(f["name"]), STATES[int(f["state"])]))
                if STATES[int(f["state"])] == "running":
                    gdb.execute("bt")
                else:
                    backtrace(f)


Fibers()
FiberBacktrace()
