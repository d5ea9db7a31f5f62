#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "base/clock.h"
#include "store-service/log/change_item.h"
#include "store-service/uidset.h"

static struct uidset parse(struct arena *a, const char *text)
{
    struct uidset s = uidset_of(a);
    unsigned long long first, last;
    int n;
    while (sscanf(text, "%llu:%llu%n", &first, &last, &n) == 2) {
        uidset_add_range(&s, first, last);
        text += n;
        text += *text == ',';
    }
    return s;
}

static const char *print(struct arena *a, const struct uidset *s)
{
    BUF(b, 1 << 16);
    for (size_t i = 0; i < s->n; i++)
        buf_printf(&b, "%s%llu:%llu", i ? "," : "", (unsigned long long)s->v[i].first,
                   (unsigned long long)s->v[i].last);
    return arena_strz(a, buf_str(&b));
}

static void test_algebra(void **state)
{
    static const struct {
        const char *a, *b, *both, *only_a;
    } cases[] = {
        {"1:10", "3:4,8:20", "3:4,8:10", "1:2,5:7"},
        {"1:10", "", "", "1:10"},
        {"", "1:10", "", ""},
        {"5:5,7:7,9:9", "1:100", "5:5,7:7,9:9", ""},
        {"1:100", "5:5,7:7,9:9", "5:5,7:7,9:9", "1:4,6:6,8:8,10:100"},
        {"1:5,10:15,20:25", "4:11,14:21", "4:5,10:11,14:15,20:21", "1:3,12:13,22:25"},
        {"1:3", "4:6", "", "1:3"},
        {"18446744073709551614:18446744073709551614", "1:2", "", "18446744073709551614:18446744073709551614"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        ARENA(a, 1 << 20);
        struct uidset x = parse(&a, cases[i].a), y = parse(&a, cases[i].b);
        struct uidset both = uidset_and(&a, &x, &y), only = uidset_minus(&a, &x, &y);
        assert_string_equal(print(&a, &both), cases[i].both);
        assert_string_equal(print(&a, &only), cases[i].only_a);
        assert_true(uidset_count(&x) == uidset_count(&both) + uidset_count(&only));
    }
}

/* Against bit maps. */
static void test_random(void **state)
{
    (void)state;
    for (int round = 0; round < 500; round++) {
        ARENA(a, 1 << 20);
        bool in[2][200] = {{false}};
        uint64_t values[2][60];
        struct uidset s[2];
        for (int k = 0; k < 2; k++) {
            size_t n = random_below(60);
            for (size_t i = 0; i < n; i++) {
                values[k][i] = 1 + random_below(199);
                in[k][values[k][i]] = true;
            }
            s[k] = uidset_of_values(&a, values[k], n);
        }
        struct uidset both = uidset_and(&a, &s[0], &s[1]), only = uidset_minus(&a, &s[0], &s[1]);
        for (uint64_t v = 0; v < 200; v++) {
            assert_int_equal(uidset_has(&s[0], v), in[0][v]);
            assert_int_equal(uidset_has(&both, v), in[0][v] && in[1][v]);
            assert_int_equal(uidset_has(&only, v), in[0][v] && !in[1][v]);
        }
    }
}

static bool of_proto(struct arena *a, const uint64_t (*pairs)[2], size_t n, bool none_is_all, struct uidset *out,
                     struct err *err)
{
    Thurn__Range ranges[8], *v[8];
    for (size_t i = 0; i < n; i++) {
        thurn__range__init(&ranges[i]);
        ranges[i].first = pairs[i][0];
        ranges[i].last = pairs[i][1];
        v[i] = &ranges[i];
    }
    return uidset_of_proto(a, v, n, UINT32_MAX, none_is_all, out, err);
}

static void test_requests(void **state)
{
    static const uint64_t good[][2] = {{1, 3}, {4, 4}, {7, UINT64_MAX}}, zero[][2] = {{0, 3}}, turned[][2] = {{5, 3}},
                          overlap[][2] = {{1, 5}, {5, 6}}, descending[][2] = {{9, 9}, {1, 1}};
    (void)state;
    ARENA(a, 1 << 20);
    struct err err = ERR_INIT;
    struct uidset s;
    assert_true(of_proto(&a, good, 3, false, &s, &err));
    assert_string_equal(print(&a, &s), "1:4,7:4294967295");
    assert_true(of_proto(&a, NULL, 0, false, &s, &err));
    assert_int_equal(s.n, 0);
    assert_true(of_proto(&a, NULL, 0, true, &s, &err));
    assert_string_equal(print(&a, &s), "1:4294967295");
    const uint64_t(*const bad[])[2] = {zero, turned, overlap, descending};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_false(of_proto(&a, bad[i], i < 2 ? 1 : 2, false, &s, &err));
        assert_int_equal(err.kind, ERR_INVALID);
        err_clear(&err);
    }
}

static void test_items(void **state)
{
    struct change_item v[50];
    (void)state;
    for (int round = 0; round < 200; round++) {
        BUF(b, 1 << 16);
        size_t n = random_below(50);
        for (size_t i = 0; i < n; i++)
            v[i] = (struct change_item){(uint32_t)random_u64(), (int64_t)random_u64(), (int64_t)random_u64()};
        change_items_encode(&b, v, n);
        struct cursor c = cur_of(buf_str(&b));
        struct change_item it = {0};
        for (size_t i = 0; i < n; i++) {
            assert_true(change_item_next(&c, &it));
            assert_memory_equal(&it.uid, &v[i].uid, sizeof it.uid);
            assert_true(it.email_id == v[i].email_id && it.thread_id == v[i].thread_id);
        }
        assert_false(change_item_next(&c, &it));
        assert_int_equal(cur_left(&c), 0);
        /* Cut anywhere, it ends before the cut. */
        for (size_t cut = 0; n && cut < b.n; cut++) {
            size_t got = 0;
            c = cur_of(str_slice(buf_str(&b), 0, cut));
            it = (struct change_item){0};
            while (change_item_next(&c, &it))
                got++;
            assert_true(got < n);
        }
    }
    BUF(b, 1 << 16);
    struct change_item one[] = {{1, 1000, 1000}, {2, 1001, 1000}};
    change_items_encode(&b, one, 2);
    assert_in_range(b.n, 6, 8); /* a usual message takes few bytes */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_algebra),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_items),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
