#include "frontend/common/guests.h"

#include "base/map.h"

struct guest_address {
    unsigned n;
    char key[NET_ADDR_TEXT_MAX];
};
struct guests {
    unsigned max, max_per_address, n;
    struct map addresses; /* limit key → guest_address */
};

struct guests *guests_new(unsigned max, unsigned max_per_address)
{
    struct guests *g = xnew(struct guests);
    *g = (struct guests){.max = max, .max_per_address = max_per_address};
    map_init(&g->addresses);
    return g;
}

static bool enter_address(struct guests *g, struct guest *guest, const struct net_addr *peer)
{
    char text[NET_ADDR_TEXT_MAX];
    if (!g->max_per_address || net_addr_is_loopback(peer))
        return true;
    str key = net_addr_limit_key(peer, text);
    struct guest_address *a = map_get(&g->addresses, key);
    if (!a) {
        a = xnew(struct guest_address);
        memcpy(a->key, key.p, key.n);
        (void)map_put(&g->addresses, str_c(a->key), a);
    }
    if (a->n >= g->max_per_address)
        return false;
    a->n++;
    guest->address = a;
    return true;
}

bool guest_enter(struct guests *g, struct guest *guest, const struct net_addr *peer)
{
    if (guest->all)
        return true;
    if ((g->max && g->n >= g->max) || !enter_address(g, guest, peer))
        return false;
    g->n++;
    guest->all = g;
    return true;
}

void guest_leave(struct guest *guest)
{
    struct guest_address *a = guest->address;
    if (!guest->all)
        return;
    guest->all->n--;
    if (a && --a->n == 0) {
        (void)map_remove(&guest->all->addresses, str_c(a->key));
        free(a);
    }
    *guest = (struct guest){NULL, NULL};
}

unsigned guests_count(const struct guests *g)
{
    return g->n;
}

void guests_free(struct guests *g)
{
    if (!g)
        return;
    assert(g->n == 0);
    map_done(&g->addresses);
    free(g);
}
