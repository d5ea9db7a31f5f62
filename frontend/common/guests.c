#include "frontend/common/guests.h"

#include "base/map.h"
#include "net/cap.h"

struct guest_address {
    unsigned n;
    char key[NET_ADDR_TEXT_MAX];
};
struct guest_share {
    const char *name;
    unsigned max, max_per_address, n;
    struct map addresses; /* limit key → guest_address */
};
struct guests {
    struct guest_share shares[GUEST_SERVICES_];
};

struct guests *guests_new(const unsigned *max, unsigned max_per_address)
{
    static const struct guest_share defaults[] = {
#define GUEST_(id, label, most) [GUEST_##id] = {.name = label, .max = most},
        GUEST_SERVICES(GUEST_)
#undef GUEST_
    };
    struct guests *g = xnew(struct guests);
    for (size_t i = 0; i < GUEST_SERVICES_; i++) {
        g->shares[i] = defaults[i];
        g->shares[i].max = max ? max[i] : defaults[i].max;
        g->shares[i].max_per_address = max_per_address;
        map_init(&g->shares[i].addresses);
    }
    return g;
}

static bool enter_address(struct guest_share *s, struct guest *guest, const struct net_addr *peer)
{
    char text[NET_ADDR_TEXT_MAX];
    if (!s->max_per_address || net_addr_is_loopback(peer))
        return true;
    str key = net_addr_limit_key(peer, text);
    struct guest_address *a = map_get(&s->addresses, key);
    if (!a) {
        a = xnew(struct guest_address);
        memcpy(a->key, key.p, key.n);
        (void)map_put(&s->addresses, str_c(a->key), a);
    }
    if (a->n >= s->max_per_address)
        return false;
    a->n++;
    guest->address = a;
    return true;
}

bool guest_enter(struct guests *g, enum guest_service service, struct guest *guest, const struct net_addr *peer)
{
    struct guest_share *s = &g->shares[service];
    if (guest->share)
        return true;
    if (s->max && s->n >= s->max)
        return cap_reached(s->name, "guests", s->max);
    if (!enter_address(s, guest, peer))
        return false;
    s->n++;
    guest->share = s;
    return true;
}

void guest_leave(struct guest *guest)
{
    struct guest_address *a = guest->address;
    if (!guest->share)
        return;
    guest->share->n--;
    if (a && --a->n == 0) {
        (void)map_remove(&guest->share->addresses, str_c(a->key));
        free(a);
    }
    *guest = (struct guest){NULL, NULL};
}

unsigned guests_count(const struct guests *g, enum guest_service service)
{
    return g->shares[service].n;
}

void guests_free(struct guests *g)
{
    if (!g)
        return;
    for (size_t i = 0; i < GUEST_SERVICES_; i++) {
        assert(g->shares[i].n == 0);
        map_done(&g->shares[i].addresses);
    }
    free(g);
}
