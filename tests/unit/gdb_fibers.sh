#!/bin/sh
# tools/gdb/fibers.py against a live program: PROGRAM. It stops itself in a known place. Skipped (77) without gdb.
command -v gdb >/dev/null || exit 77
out=$(gdb -q -batch -ex 'set debuginfod enabled off' -ex 'set confirm off' -ex 'break gdb_stop_here' -ex run \
      -ex 'source tools/gdb/fibers.py' -ex fibers -ex 'fiber-bt all' "$1" 2>&1)
case $out in *"ptrace: Operation not permitted"*) exit 77 ;; esac
for want in 'waiting  sleep          sleeper-in-gdb' 'running ' 'fiber_sleep_ms' 'sleep_forever' 'gdb_stop_here'; do
    case $out in
    *"$want"*) ;;
    *) echo "no '$want' in:"; echo "$out"; exit 1 ;;
    esac
done
