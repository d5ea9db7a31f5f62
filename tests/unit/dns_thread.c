#include "dns_thread.h"

#include <arpa/inet.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MESSAGE_MAX 1500

static const struct {
    const char *name;
    unsigned number;
} types[] = {{"A", 1}, {"MX", 15}, {"TXT", 16}, {"AAAA", 28}};

static size_t put_name(unsigned char *out, const char *name)
{
    size_t n = 0;
    while (*name) {
        size_t len = strcspn(name, ".");
        if (len > 0) {
            out[n++] = (unsigned char)len;
            memcpy(out + n, name, len);
            n += len;
        }
        name += len + (name[len] == '.');
    }
    out[n++] = 0;
    return n;
}

static size_t put_data(unsigned char *out, unsigned type, const char *data)
{
    if (type == 1 || type == 28)
        return inet_pton(type == 1 ? AF_INET : AF_INET6, data, out) == 1 ? (type == 1 ? 4 : 16) : 0;
    if (type == 16) {
        out[0] = (unsigned char)strlen(data);
        memcpy(out + 1, data, out[0]);
        return out[0] + 1u;
    }
    unsigned long preference = strtoul(data, NULL, 10);
    out[0] = (unsigned char)(preference >> 8);
    out[1] = (unsigned char)preference;
    return 2 + put_name(out + 2, strchr(data, ' ') + 1);
}

/* The question's name as text; its length in the message, or 0. */
static size_t get_name(const unsigned char *q, size_t n, char out[256])
{
    size_t at = 0, used = 0;
    while (at < n && q[at] != 0) {
        size_t len = q[at++];
        if (len > 63 || at + len >= n || used + len + 2 > 255)
            return 0;
        if (used)
            out[used++] = '.';
        for (size_t i = 0; i < len; i++, at++)
            out[used++] = (char)(q[at] >= 'A' && q[at] <= 'Z' ? q[at] | 0x20 : q[at]);
    }
    out[used] = '\0';
    return at + 1;
}

static size_t answer(const struct dns_thread *d, const unsigned char *q, size_t n, unsigned char *out)
{
    char name[256];
    size_t len = n > 16 ? get_name(q + 12, n - 16, name) : 0;
    if (len == 0)
        return 0;
    unsigned type = (unsigned)q[12 + len] << 8 | q[13 + len];
    size_t used = 12 + len + 4;
    memset(out, 0, 12);
    memcpy(out, q, 2);
    memcpy(out + 12, q + 12, len + 4);
    out[2] = (unsigned char)(0x85 | (q[2] & 1));
    out[5] = 1;
    bool exists = false, fails = false;
    for (size_t i = 0; i < d->n; i++) {
        const struct dns_record *r = &d->records[i];
        if (strcmp(r->name, name) != 0)
            continue;
        exists = true;
        fails |= strcmp(r->type, "FAIL") == 0;
        for (size_t k = 0; k < sizeof(types) / sizeof(types[0]); k++) {
            if (strcmp(types[k].name, r->type) != 0 || types[k].number != type)
                continue;
            static const unsigned char head[] = {0xc0, 12, 0, 0, 0, 1, 0, 0, 0, 60, 0, 0};
            memcpy(out + used, head, sizeof(head));
            out[used + 3] = (unsigned char)type;
            size_t size = put_data(out + used + 12, type, r->data);
            out[used + 11] = (unsigned char)size;
            used += 12 + size;
            out[7]++;
        }
    }
    out[3] = (unsigned char)(0x80 | (fails ? 2 : exists ? 0 : 3));
    return used;
}

static void *serve(void *arg)
{
    struct dns_thread *d = arg;
    for (;;) {
        unsigned char q[MESSAGE_MAX], out[MESSAGE_MAX * 4];
        struct sockaddr_in from;
        socklen_t from_len = sizeof(from);
        ssize_t n = recvfrom(d->fd, q, sizeof(q), 0, (struct sockaddr *)&from, &from_len);
        if (n <= 1) /* the one byte of dns_thread_stop */
            return NULL;
        d->n_questions++;
        size_t len = answer(d, q, (size_t)n, out);
        if (len > 0 && sendto(d->fd, out, len, 0, (struct sockaddr *)&from, from_len) < 0)
            perror("dns_thread");
    }
}

static void die(const char *what)
{
    perror(what);
    abort();
}

void dns_thread_start(struct dns_thread *d, const struct dns_record *records, size_t n)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    d->records = records;
    d->n = n;
    d->n_questions = 0;
    d->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (d->fd < 0 || bind(d->fd, (struct sockaddr *)&addr, len) != 0 ||
        getsockname(d->fd, (struct sockaddr *)&addr, &len) != 0)
        die("dns_thread");
    d->port = ntohs(addr.sin_port);
    if (pthread_create(&d->thread, NULL, serve, d) != 0)
        die("dns_thread");
}

void dns_thread_stop(struct dns_thread *d)
{
    struct sockaddr_in addr = {
        .sin_family = AF_INET, .sin_port = htons(d->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (sendto(d->fd, "", 1, 0, (struct sockaddr *)&addr, sizeof(addr)) != 1)
        die("dns_thread");
    pthread_join(d->thread, NULL);
    close(d->fd);
}
