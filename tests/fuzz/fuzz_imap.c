#include "frontend/imap/format.h"
#include "frontend/imap/list_pattern.h"
#include "frontend/imap/parse_fetch.h"
#include "frontend/imap/parse_search.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Ranges of a resolved set ascend and do not touch; written and read again they are the same. */
static void check_set(str in, const struct uid_map *uids, struct arena *a)
{
    struct imap_set set, again;
    Thurn__Range **v, **w;
    size_t n, m;
    struct cursor c = cur_of(in);
    if (!imap_parse_set(&c, a, &set) || !imap_set_resolve(&set, uids, true, true, a, &v, &n) || n == 0)
        return;
    for (size_t i = 0; i < n; i++)
        assert(v[i]->first <= v[i]->last && (i == 0 || v[i]->first > v[i - 1]->last + 1));
    BUF(out, 1u << 20);
    imap_add_set(&out, v, n, NULL);
    c = cur_of(buf_str(&out));
    assert(imap_parse_set(&c, a, &again) && imap_parse_end(&c));
    assert(imap_set_resolve(&again, uids, true, true, a, &w, &m) && m == n);
}

/* What is written as a string is read as the same string. */
static void check_string(str in, struct arena *a)
{
    BUF(out, in.n * 2 + 64);
    str back;
    imap_add_string(&out, in);
    struct cursor c = cur_of(buf_str(&out));
    if (!memchr(in.n ? in.p : "", 0, in.n))
        assert(imap_parse_string(&c, a, &back) && imap_parse_end(&c) && str_eq(in, back));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 20000)
        return 0;
    ARENA(a, 256u << 20);
    str in = str_n(size ? (const void *)data : "", size), before, name;
    struct uid_map uids = {0};
    uid_map_append(&uids, 3, 9);
    uid_map_append(&uids, 20, 20);
    struct cursor c = cur_of(in);
    struct imap_fetch fetch;
    if (imap_parse_fetch(&c, &a, &fetch)) {
        BUF(out, 1u << 20);
        for (size_t i = 0; i < fetch.n_items; i++)
            if (fetch.items[i].kind == FETCH_SECTION)
                imap_add_section_name(&out, &fetch.items[i]);
    }
    c = cur_of(in);
    struct imap_search search;
    imap_parse_search(&c, &a, &uids, &uids, &search);
    c = cur_of(in);
    struct imap_flags flags;
    imap_parse_flags(&c, &a, false, &flags);
    uint64_t n;
    bool is_sync, is_valid;
    if (imap_line_literal(in, &before, &n, &is_sync))
        assert(before.n < in.n);
    c = cur_of(in);
    if (imap_parse_mailbox(&c, &a, &name, &is_valid) && is_valid) {
        BUF(out, 65536);
        str back;
        imap_add_mailbox(&out, name);
        c = cur_of(buf_str(&out));
        assert(imap_parse_mailbox(&c, &a, &back, &is_valid) && is_valid && str_eq(name, back));
    }
    check_set(in, &uids, &a);
    check_string(in, &a);
    if (imap_pattern_make(S(""), in, &a, &name))
        imap_pattern_matches(name, S("a/b/c"));
    uid_map_done(&uids);
    return 0;
}
