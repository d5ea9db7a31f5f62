/*
 * dns_thread.h: a DNS server for tests, on a thread of its own: answers over UDP on a loopback port from a table.
 */
#ifndef TESTS_DNS_THREAD_H
#define TESTS_DNS_THREAD_H

#include <pthread.h>
#include <stdint.h>

/* Names in lower case without the final dot. data: "10 mx.test" (or "0 ." ), "192.0.2.1", "2001:db8::1". type "FAIL":
 * every question for that name gets SERVFAIL. A name without rows does not exist. */
struct dns_record {
    const char *name, *type, *data;
};
struct dns_thread {
    const struct dns_record *records;
    size_t n;
    int fd;
    uint16_t port;
    _Atomic unsigned n_questions;
    pthread_t thread;
};
void dns_thread_start(struct dns_thread *d, const struct dns_record *records, size_t n);
void dns_thread_stop(struct dns_thread *d);

#endif
