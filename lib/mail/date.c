#include "mail/date.h"

#include "base/num.h"

static const char month_names[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                        "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
static const char day_names[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};

int64_t date_days(int year, int month, int day)
{
    int64_t y = (int64_t)year - (month <= 2);
    int64_t era = (y >= 0 ? y : y - 399) / 400;
    int64_t yoe = y - era * 400;
    int64_t doy = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

void date_from_days(int64_t days, int *year, int *month, int *day)
{
    int64_t z = days + 719468;
    int64_t era = (z >= 0 ? z : z - 146096) / 146097;
    int64_t doe = z - era * 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    int64_t mp = (5 * doy + 2) / 153;
    *day = (int)(doy - (153 * mp + 2) / 5 + 1);
    *month = (int)(mp < 10 ? mp + 3 : mp - 9);
    *year = (int)(yoe + era * 400 + (*month <= 2));
}

static int days_in_month(int year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool is_leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return days[month - 1] + (month == 2 && is_leap);
}

static bool is_valid(const struct mail_date *d)
{
    return d->year >= 0 && d->year <= 9999 && d->month >= 1 && d->month <= 12 && d->day >= 1 &&
           d->day <= days_in_month(d->year, d->month) && d->hour >= 0 && d->hour <= 23 && d->minute >= 0 &&
           d->minute <= 59 && d->second >= 0 && d->second <= 60 && d->zone_minutes > -24 * 60 * 5 &&
           d->zone_minutes < 24 * 60 * 5;
}

static void set_unix(struct mail_date *d)
{
    d->unix_seconds = date_days(d->year, d->month, d->day) * 86400 + d->hour * 3600 + d->minute * 60 + d->second -
                      (int64_t)d->zone_minutes * 60;
}

/* --- RFC 5322 --- */

static void skip_cfws(struct cursor *c)
{
    unsigned depth = 0;
    while (c->p < c->end) {
        unsigned char ch = *c->p;
        if (ch == '(')
            depth++;
        else if (ch == ')' && depth)
            depth--;
        else if (!depth && ch != ' ' && ch != '\t' && ch != '\r' && ch != '\n')
            return;
        c->p++;
    }
}

/* Up to max digits. The count tells 2-digit years from 4-digit ones. */
static bool digits(struct cursor *c, unsigned max, int *value, unsigned *count)
{
    int v = 0;
    unsigned n = 0;
    while (n < max && c->p < c->end && ascii_is_digit(*c->p)) {
        v = v * 10 + (*c->p++ - '0');
        n++;
    }
    if (n == 0)
        return false;
    *value = v;
    *count = n;
    return true;
}

static str word(struct cursor *c)
{
    return cur_take_while(c, ascii_is_alpha, 32);
}

static bool month_of(str name, int *month)
{
    for (int i = 0; i < 12; i++) {
        if (name.n >= 3 && str_starts_nocase(name, str_n(month_names[i], 3))) {
            *month = i + 1;
            return true;
        }
    }
    return false;
}

static const struct {
    char name[5];
    int hours;
} zone_names[] = {{"GMT", 0},  {"UT", 0},   {"UTC", 0},  {"EST", -5}, {"EDT", -4}, {"CST", -6}, {"CDT", -5},
                  {"MST", -7}, {"MDT", -6}, {"PST", -8}, {"PDT", -7}, {"CET", 1},  {"CEST", 2}, {"MET", 1},
                  {"MEST", 2}, {"BST", 1},  {"EET", 2},  {"EEST", 3}, {"MSK", 3},  {"JST", 9},  {"Z", 0}};

static void parse_zone(struct cursor *c, struct mail_date *d)
{
    skip_cfws(c);
    int sign = cur_peek(c);
    if (sign == '+' || sign == '-') {
        c->p++;
        int v, minutes;
        unsigned n, n_minutes;
        if (!digits(c, 4, &v, &n)) {
            d->is_zone_unknown = true;
            return;
        }
        if (n <= 2 && cur_skip(c, ':') && digits(c, 2, &minutes, &n_minutes))
            v = v * 100 + minutes;
        else if (n <= 2)
            v *= 100;
        d->zone_minutes = v / 100 * 60 + v % 100;
        d->is_zone_unknown = sign == '-' && v == 0; /* RFC 5322 3.3: "-0000" says nothing of the zone */
        if (sign == '-')
            d->zone_minutes = -d->zone_minutes;
        return;
    }
    str name = word(c);
    for (size_t i = 0; i < ARRAY_LEN(zone_names); i++) {
        if (str_eq_nocase(name, str_c(zone_names[i].name))) {
            d->zone_minutes = zone_names[i].hours * 60;
            return;
        }
    }
    d->is_zone_unknown = true;
}

static bool parse_time(struct cursor *c, struct mail_date *d)
{
    unsigned n;
    skip_cfws(c);
    if (!digits(c, 2, &d->hour, &n))
        return false;
    skip_cfws(c);
    if (!cur_skip(c, ':') && !cur_skip(c, '.'))
        return false;
    skip_cfws(c);
    if (!digits(c, 2, &d->minute, &n))
        return false;
    skip_cfws(c);
    if (cur_skip(c, ':') || cur_skip(c, '.')) {
        skip_cfws(c);
        if (!digits(c, 2, &d->second, &n))
            return false;
        if (cur_skip(c, '.') && !digits(c, 9, &(int){0}, &n)) /* fractions */
            return false;
    }
    return true;
}

/* RFC 5322 4.3: 00-49 is 2000-2049, other two digits and three digits add 1900. */
static int full_year(int year, unsigned count)
{
    if (count == 2)
        return year < 50 ? year + 2000 : year + 1900;
    return count == 3 ? year + 1900 : year;
}

static void skip_separator(struct cursor *c)
{
    skip_cfws(c);
    while (cur_skip(c, '-') || cur_skip(c, ',') || cur_skip(c, '.'))
        skip_cfws(c);
}

/* "Jul 1 10:52:37 [zone] 2003", after the month's name. */
static bool parse_asctime(struct cursor *c, struct mail_date *d)
{
    unsigned n;
    skip_cfws(c);
    if (!digits(c, 2, &d->day, &n))
        return false;
    skip_separator(c);
    struct cursor before = *c;
    if (digits(c, 4, &d->year, &n) && n == 4) { /* "July 1, 2003 10:52" */
        if (!parse_time(c, d))
            return false;
        parse_zone(c, d);
        return true;
    }
    *c = before;
    if (!parse_time(c, d))
        return false;
    skip_cfws(c);
    if (!ascii_is_digit((unsigned char)MAX(cur_peek(c), 0)))
        parse_zone(c, d);
    skip_cfws(c);
    if (!digits(c, 4, &d->year, &n))
        return false;
    d->year = full_year(d->year, n);
    return true;
}

bool date_parse(str value, struct mail_date *out)
{
    struct mail_date d = {0};
    struct cursor c = cur_of(value);
    unsigned n;
    skip_cfws(&c);
    str name = word(&c);
    if (name.n && !month_of(name, &d.month)) { /* the day's name; not compared with the date */
        skip_separator(&c);
        name = word(&c);
        if (name.n && !month_of(name, &d.month))
            return false;
    }
    if (d.month) {
        if (!parse_asctime(&c, &d))
            return false;
    } else {
        if (!digits(&c, 2, &d.day, &n))
            return false;
        skip_separator(&c);
        if (!month_of(word(&c), &d.month))
            return false;
        skip_separator(&c);
        if (!digits(&c, 4, &d.year, &n))
            return false;
        d.year = full_year(d.year, n);
        skip_separator(&c);
        if (!parse_time(&c, &d))
            return false;
        parse_zone(&c, &d);
    }
    if (!is_valid(&d))
        return false;
    set_unix(&d);
    *out = d;
    return true;
}

/* --- printing --- */

static struct mail_date split(int64_t unix_seconds, int zone_minutes)
{
    struct mail_date d = {.zone_minutes = zone_minutes};
    int64_t local = unix_seconds + (int64_t)zone_minutes * 60;
    int64_t days = local / 86400, rest = local % 86400;
    if (rest < 0) {
        rest += 86400;
        days--;
    }
    date_from_days(days, &d.year, &d.month, &d.day);
    d.hour = (int)(rest / 3600);
    d.minute = (int)(rest / 60 % 60);
    d.second = (int)(rest % 60);
    return d;
}

static void add_zone(struct buf *out, int zone_minutes)
{
    int abs = zone_minutes < 0 ? -zone_minutes : zone_minutes;
    buf_printf(out, "%c%02d%02d", zone_minutes < 0 ? '-' : '+', abs / 60 % 100, abs % 60);
}

void date_add_rfc5322(struct buf *out, int64_t unix_seconds, int zone_minutes)
{
    struct mail_date d = split(unix_seconds, zone_minutes);
    int64_t day = (date_days(d.year, d.month, d.day) + 4) % 7; /* 1970-01-01 was a Thursday */
    buf_printf(out, "%s, %02d %s %04d %02d:%02d:%02d ", day_names[day < 0 ? day + 7 : day], d.day,
               month_names[d.month - 1], d.year, d.hour, d.minute, d.second);
    add_zone(out, zone_minutes);
}

void date_add_imap(struct buf *out, int64_t unix_seconds, int zone_minutes)
{
    struct mail_date d = split(unix_seconds, zone_minutes);
    buf_printf(out, "%2d-%s-%04d %02d:%02d:%02d ", d.day, month_names[d.month - 1], d.year, d.hour, d.minute, d.second);
    add_zone(out, zone_minutes);
}

/* --- IMAP --- */

static bool exact_digits(struct cursor *c, unsigned count, int *value)
{
    unsigned n;
    return digits(c, count, value, &n) && n == count;
}

static bool imap_month_year(struct cursor *c, struct mail_date *d)
{
    str name;
    if (!cur_skip(c, '-') || (name = word(c)).n != 3 || !month_of(name, &d->month) || !cur_skip(c, '-'))
        return false;
    return exact_digits(c, 4, &d->year);
}

bool date_parse_imap(str s, int64_t *unix_seconds, int *zone_minutes)
{
    struct mail_date d = {0};
    struct cursor c = cur_of(s);
    unsigned n;
    (void)cur_skip(&c, ' '); /* "date-day-fixed"; some clients send one digit alone */
    if (!digits(&c, 2, &d.day, &n))
        return false;
    if (!imap_month_year(&c, &d) || !cur_skip(&c, ' ') || !exact_digits(&c, 2, &d.hour) || !cur_skip(&c, ':') ||
        !exact_digits(&c, 2, &d.minute) || !cur_skip(&c, ':') || !exact_digits(&c, 2, &d.second) || !cur_skip(&c, ' '))
        return false;
    int sign = cur_peek(&c), zone;
    if (sign != '+' && sign != '-')
        return false;
    c.p++;
    if (!exact_digits(&c, 4, &zone) || c.p != c.end || zone % 100 > 59)
        return false;
    d.zone_minutes = (zone / 100 * 60 + zone % 100) * (sign == '-' ? -1 : 1);
    if (!is_valid(&d))
        return false;
    set_unix(&d);
    *unix_seconds = d.unix_seconds;
    *zone_minutes = d.zone_minutes;
    return true;
}

bool date_parse_imap_day(str s, int64_t *unix_seconds)
{
    struct mail_date d = {0};
    struct cursor c = cur_of(s);
    unsigned n;
    if (!digits(&c, 2, &d.day, &n) || !imap_month_year(&c, &d) || c.p != c.end || !is_valid(&d))
        return false;
    *unix_seconds = date_days(d.year, d.month, d.day) * 86400;
    return true;
}
