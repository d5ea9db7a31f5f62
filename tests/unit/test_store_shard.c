/* A shard's database knows its number: given in another order, nothing begins in it. */
#include "unit/store_world.h"

static void knows_its_number(struct world *w)
{
    struct sql_db *dbs[] = {w->db, w->db2}, *swapped[] = {w->db2, w->db};
    Thurn__AccountRef far = world_account(w, 2);
    Thurn__AccountRequest q = THURN__ACCOUNT_REQUEST__INIT;
    const Thurn__AccountInfo *r;
    struct err err = ERR_INIT;
    far.shard = 2;
    for (int again = 0; again < 2; again++)
        for (uint32_t i = 0; i < 2; i++)
            if (!store_claim(dbs[i], i + 1, &err))
                fail_msg("%s", err.msg);
    assert_false(store_claim(w->db2, 1, &err));
    assert_true(err.kind == ERR_CONFLICT && strstr(err.msg, "shard 2"));
    q.account = &far;
    MUST(w, get_account, &q, &r);

    w->opts.shards = swapped;
    world_restart(w);
    MUST_FAIL(w, get_account, &q, &r, ERR_UNAVAILABLE); /* it is not made a second time, in the other database */
    Thurn__DeliverReply__Result delivered;
    assert_false(world_deliver(w, "Subject: x\r\n\r\n", "k", 1, &delivered) && delivered.error_kind == ERR_NONE);

    w->opts.shards = dbs;
    world_restart(w);
    MUST(w, get_account, &q, &r);
    assert_true(world_deliver(w, "Subject: x\r\n\r\n", "k", 1, &delivered) && delivered.error_kind == ERR_NONE);
}

int main(void)
{
    static const struct world_case cases[] = {{"knows_its_number", knows_its_number}};
    return world_main(cases, 1, 2, NULL);
}
