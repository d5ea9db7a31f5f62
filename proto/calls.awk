# Typed call wrappers from a .proto: awk -v base=store -f calls.awk store.proto > store_calls.h
function snake(s,   o, i, c, p) {
    o = ""
    for (i = 1; i <= length(s); i++) {
        c = substr(s, i, 1); p = i > 1 ? substr(s, i - 1, 1) : ""
        if (c ~ /[A-Z]/ && p ~ /[a-z0-9]/) o = o "_"
        o = o tolower(c)
    }
    return o
}
BEGIN {
    guard = toupper(base) "_CALLS_H"
    printf "/* Made from %s.proto: call a method and wait for its reply. See rpc/call.h. */\n", base
    printf "#ifndef %s\n#define %s\n\n#include \"proto/%s.pb-c.h\"\n#include \"rpc/call.h\"\n\n", guard, guard, base
}
/^ *message / { message = $2 }
/ AccountRef account = [0-9]+;/ { has_account[message] = 1 }
/(request_id|enqueue_id|delivery_key) = [0-9]+;/ { has_key[message] = 1 }
/recipients = / && /DeliverRecipient / { has_key[message] = 1 }
/^[ \t]*rpc / {
    if (!match($0, /\[by( (frontend|queue|store|auth|account|admin))+\]/)) { print base ".proto:" NR ": a method says who may call it: [by …]" > "/dev/stderr"; exit bad = 1 }
    by = toupper(substr($0, RSTART + 4, RLENGTH - 5)); gsub(/ /, " | RPC_BY_", by)
    n_marks = gsub(/\[again\]/, "&") + gsub(/\[once\]/, "&") + gsub(/\[key\]/, "&")
    is_once = /\[once\]/
    if (n_marks != 1) { print base ".proto:" NR ": a method says one of [again], [key] and [once]" > "/dev/stderr"; exit bad = 1 }
    match($0, /rpc [A-Za-z0-9]+/); name = substr($0, RSTART + 4, RLENGTH - 4)
    match($0, /\([A-Za-z0-9]+\)/); req = substr($0, RSTART + 1, RLENGTH - 2)
    rest = substr($0, RSTART + RLENGTH)
    match(rest, /\([A-Za-z0-9]+\)/); rep = substr(rest, RSTART + 1, RLENGTH - 2)
    printf "enum { %s_callers_%s = RPC_BY_%s };\n", base, snake(name), by
    printf "static inline const Thurn__AccountRef *%s_account_of_%s(const Thurn__%s *q)\n{\n", base, snake(name), req
    if (by ~ /ACCOUNT/) {
        if (!has_account[req]) { print base ".proto:" NR ": " req " names no account" > "/dev/stderr"; exit bad = 1 }
        print "    return q->account;\n}"
    } else {
        print "    (void)q;\n    return NULL;\n}"
    }
    printf "FIBER WARN_UNUSED static inline bool %s_%s(struct rpc_call *c, ProtobufCService *s,\n", base, snake(name)
    printf "        const Thurn__%s *q, const Thurn__%s **r)\n{\n", req, rep
    if (/\[key\]/ && !has_key[req]) { print base ".proto:" NR ": " req " carries no key" > "/dev/stderr"; exit bad = 1 }
    if (is_once) {
        print "    bool may_repeat = c->is_idempotent;\n    c->is_idempotent = false;"
        printf "    bool ok = rpc_invoke(s, %d, &q->base, c);\n", n
        print "    c->is_idempotent = may_repeat;\n    if (!ok)\n        return false;"
    } else {
        printf "    if (!rpc_invoke(s, %d, &q->base, c))\n        return false;\n", n
    }
    printf "    if (r)\n        *r = (const Thurn__%s *)(const void *)c->reply;\n    return true;\n}\n\n", rep
    printf "#define %s_METHOD_%s %d\n\n", toupper(base), toupper(snake(name)), n
    n++
}
END { if (bad) exit 1; print "#endif" }
