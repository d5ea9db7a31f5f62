#include "unit/dns_peer.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <sys/socket.h>

#include "base/buf.h"
#include "base/num.h"

static const struct dns_record *table;
static size_t n_table;
static int fd;
static unsigned queries;
static int dark = DNS_PEER_LIT;

static unsigned type_number(const char *type)
{
    static const struct {
        const char *name;
        unsigned number;
    } types[] = {{"A", 1}, {"CNAME", 5}, {"PTR", 12}, {"MX", 15}, {"TXT", 16}, {"AAAA", 28}, {"TLSA", 52}};
    for (size_t i = 0; i < ARRAY_LEN(types); i++)
        if (strcmp(type, types[i].name) == 0)
            return types[i].number;
    return 0;
}

static void add_u16(struct buf *b, unsigned v)
{
    buf_addc(b, (char)(v >> 8));
    buf_addc(b, (char)v);
}

static void add_name(struct buf *b, str name)
{
    str label;
    while (str_split(&name, '.', &label)) {
        if (!label.n)
            continue;
        buf_addc(b, (char)label.n);
        buf_add(b, label);
    }
    buf_addc(b, 0);
}

static void add_data(struct buf *b, const struct dns_record *r)
{
    unsigned char ip[16];
    str data = str_c(r->data), one;
    uint32_t preference;
    switch (type_number(r->type)) {
    case 1:
        inet_pton(AF_INET, r->data, ip);
        buf_add_n(b, ip, 4);
        break;
    case 28:
        inet_pton(AF_INET6, r->data, ip);
        buf_add_n(b, ip, 16);
        break;
    case 15:
        str_split(&data, ' ', &one);
        assert(num_u32(one, 65535, &preference));
        add_u16(b, preference);
        add_name(b, data);
        break;
    case 16:
        while (str_split(&data, '|', &one)) {
            buf_addc(b, (char)one.n);
            buf_add(b, one);
        }
        break;
    case 5:
    case 12:
        add_name(b, data);
        break;
    default:
        assert(buf_add_unhex(b, data));
    }
}

static void add_record(struct buf *b, const struct dns_record *r)
{
    BUF(data, 4096);
    add_data(&data, r);
    add_name(b, str_c(r->name));
    add_u16(b, type_number(r->type));
    add_u16(b, 1);
    add_u16(b, 0);
    add_u16(b, str_starts(str_c(r->name), S("short.")) ? 0 : 60);
    add_u16(b, (unsigned)data.n);
    buf_add(b, buf_str(&data));
}

/* False: no answer at all. */
static bool answer(str query, struct buf *out)
{
    BUF(name, 256);
    BUF(records, 60000);
    size_t at = 12, n_records = 0;
    unsigned rcode = 3;
    int is_dark = __atomic_load_n(&dark, __ATOMIC_SEQ_CST);
    if (is_dark == 0)
        return false;
    while (query.p[at]) {
        buf_printf(&name, "%s%.*s", name.n ? "." : "", (int)query.p[at], query.p + at + 1);
        at += (size_t)query.p[at] + 1;
    }
    unsigned type = (unsigned)(unsigned char)query.p[at + 1] << 8 | (unsigned char)query.p[at + 2];
    for (size_t i = 0; i < n_table; i++) {
        const struct dns_record *r = &table[i];
        if (is_dark >= 0 || !str_eq_nocase(buf_str(&name), str_c(r->name)))
            continue;
        if (strcmp(r->type, "SILENCE") == 0)
            return false;
        rcode = strcmp(r->type, "RCODE") == 0 ? (unsigned)(r->data[0] - '0') : 0;
        if (type_number(r->type) == type) {
            add_record(&records, r);
            n_records++;
        }
    }
    rcode = is_dark > 0 ? (unsigned)is_dark : rcode;
    buf_add(out, str_slice(query, 0, 2));
    add_u16(out, 0x8180 | rcode);
    add_u16(out, 1);
    add_u16(out, (unsigned)n_records);
    add_u16(out, 0);
    add_u16(out, 0);
    buf_add(out, str_slice(query, 12, at + 5));
    buf_add(out, buf_str(&records));
    return true;
}

static void *serve(void *arg)
{
    (void)arg;
    for (;;) {
        char in[4096];
        struct sockaddr_in from;
        socklen_t n = sizeof(from);
        ssize_t got = recvfrom(fd, in, sizeof(in), 0, (struct sockaddr *)&from, &n);
        BUF(out, 65000);
        __atomic_add_fetch(&queries, 1, __ATOMIC_SEQ_CST);
        if (got > 16 && answer(str_n(in, (size_t)got), &out))
            (void)sendto(fd, out.p, out.n, 0, (struct sockaddr *)&from, n); /* UDP may be lost */
    }
    return NULL;
}

uint16_t dns_peer_start(const struct dns_record *records, size_t n)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    pthread_t t;
    table = records;
    n_table = n;
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) != 0)
        panic("no socket for the DNS server");
    getsockname(fd, (struct sockaddr *)&a, &len);
    pthread_create(&t, NULL, serve, NULL);
    pthread_detach(t);
    return ntohs(a.sin_port);
}

void dns_peer_dark(int rcode)
{
    __atomic_store_n(&dark, rcode, __ATOMIC_SEQ_CST);
}

unsigned dns_peer_queries(void)
{
    return __atomic_load_n(&queries, __ATOMIC_SEQ_CST);
}
