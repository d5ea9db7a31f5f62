#include "mail/date.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mail_date d, again;
    str in = str_n(data, size);
    if (date_parse(in, &d)) {
        BUF(out, 256);
        date_add_rfc5322(&out, d.unix_seconds, d.zone_minutes);
        if (d.zone_minutes > -24 * 60 && d.zone_minutes < 24 * 60) {
            assert(date_parse(buf_str(&out), &again));
            assert(again.unix_seconds == d.unix_seconds);
        }
    }
    int64_t t;
    int zone;
    if (date_parse_imap(in, &t, &zone)) {
        BUF(out, 256);
        int64_t t2;
        int zone2;
        date_add_imap(&out, t, zone);
        assert(date_parse_imap(buf_str(&out), &t2, &zone2) && t2 == t && zone2 == zone);
    }
    if (date_parse_imap_day(in, &t))
        assert(t % 86400 == 0);
    return 0;
}
