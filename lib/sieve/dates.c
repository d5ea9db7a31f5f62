#include <stdio.h>

#include "mail/date.h"
#include "sieve/state.h"

bool date_of_field(str value, int64_t *unix_seconds, int *zone)
{
    struct mail_date d;
    ptrdiff_t semicolon = str_rfind(value, ';'); /* Received: the date is behind the last one, RFC 5260 4 */
    if (!date_parse(value, &d) && (semicolon < 0 || !date_parse(str_slice(value, (size_t)semicolon + 1, SIZE_MAX), &d)))
        return false;
    *unix_seconds = d.unix_seconds;
    *zone = d.zone_minutes;
    return true;
}

/* RFC 5260 4.2. */
str date_part(struct run *r, str part, int64_t unix_seconds, int zone)
{
    int64_t local = unix_seconds + zone * 60, days = local / 86400 - (local % 86400 < 0), second = local - days * 86400;
    int year, month, day, h = (int)(second / 3600), m = (int)(second / 60 % 60), s = (int)(second % 60);
    int minutes = zone < 0 ? -zone : zone;
    char z[64];
    BUF(b, 128);
    date_from_days(days, &year, &month, &day);
#define IS(name) str_eq_nocase(part, S(name))
    if (IS("year"))
        snprintf(z, sizeof z, "%04d", year);
    else if (IS("month"))
        snprintf(z, sizeof z, "%02d", month);
    else if (IS("day"))
        snprintf(z, sizeof z, "%02d", day);
    else if (IS("date"))
        snprintf(z, sizeof z, "%04d-%02d-%02d", year, month, day);
    else if (IS("julian")) /* the modified Julian day */
        snprintf(z, sizeof z, "%lld", (long long)(days + 40587));
    else if (IS("hour"))
        snprintf(z, sizeof z, "%02d", h);
    else if (IS("minute"))
        snprintf(z, sizeof z, "%02d", m);
    else if (IS("second"))
        snprintf(z, sizeof z, "%02d", s);
    else if (IS("time"))
        snprintf(z, sizeof z, "%02d:%02d:%02d", h, m, s);
    else if (IS("iso8601"))
        snprintf(z, sizeof z, "%04d-%02d-%02dT%02d:%02d:%02d%c%02d:%02d", year, month, day, h, m, s,
                 zone < 0 ? '-' : '+', minutes / 60, minutes % 60);
    else if (IS("zone"))
        snprintf(z, sizeof z, "%c%02d%02d", zone < 0 ? '-' : '+', minutes / 60, minutes % 60);
    else if (IS("weekday"))
        snprintf(z, sizeof z, "%d", (int)(((days + 4) % 7 + 7) % 7));
    else if (IS("std11")) {
        date_add_rfc5322(&b, unix_seconds, zone);
        return arena_str(r->arena, buf_str(&b));
    } else {
        return STR_NONE;
    }
#undef IS
    return arena_str(r->arena, str_c(z));
}
