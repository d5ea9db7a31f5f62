/*
 * date.h: dates of mail: RFC 5322 3.3 with its obsolete forms, and IMAP's (RFC 9051 section 9).
 */
#ifndef MAIL_DATE_H
#define MAIL_DATE_H

#include "base/buf.h"

struct mail_date {
    int year, month, day;     /* as written; month and day from 1 */
    int hour, minute, second; /* second may be 60 */
    int zone_minutes;         /* east of UTC */
    bool is_zone_unknown;     /* "-0000", a military letter or an unknown name: UTC assumed */
    int64_t unix_seconds;
};
/* The value of a Date field (folded, with comments, day name optional, asctime() order accepted). False: unreadable. */
bool date_parse(str value, struct mail_date *out) WARN_UNUSED;
/* "Sun, 21 Nov 2026 20:10:00 +0000", in that zone. */
void date_add_rfc5322(struct buf *out, int64_t unix_seconds, int zone_minutes);
/* "21-Nov-2026 20:10:00 +0000" without quotes (date-time; the day has two characters, padded by a space). */
void date_add_imap(struct buf *out, int64_t unix_seconds, int zone_minutes);
/* The content of a quoted date-time: strict. */
bool date_parse_imap(str s, int64_t *unix_seconds, int *zone_minutes) WARN_UNUSED;
/* "1-Feb-1994" of SEARCH: the unix time of that day's start in UTC. */
bool date_parse_imap_day(str s, int64_t *unix_seconds) WARN_UNUSED;

/* Days since 1970-01-01 of a proleptic Gregorian date. */
int64_t date_days(int year, int month, int day);
void date_from_days(int64_t days, int *year, int *month, int *day);

#endif
