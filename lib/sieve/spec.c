#include "sieve/internal.h"

// clang-format off
const struct cap_spec cap_specs[] = {
    {"fileinto", CAP_FILEINTO, false}, {"envelope", CAP_ENVELOPE, false}, {"encoded-character", CAP_ENCODED_CHARACTER, false},
    {"variables", CAP_VARIABLES, false}, {"body", CAP_BODY, false}, {"relational", CAP_RELATIONAL, false}, {"subaddress", CAP_SUBADDRESS, false},
    {"regex", CAP_REGEX, false}, {"copy", CAP_COPY, false}, {"date", CAP_DATE, false}, {"index", CAP_INDEX, false},
    {"editheader", CAP_EDITHEADER, false}, {"imap4flags", CAP_IMAP4FLAGS, false}, {"mailbox", CAP_MAILBOX, false},
    {"mailboxid", CAP_MAILBOXID, false}, {"special-use", CAP_SPECIAL_USE, false}, {"mboxmetadata", CAP_MBOXMETADATA, false},
    {"servermetadata", CAP_SERVERMETADATA, false}, {"foreverypart", CAP_FOREVERYPART, false}, {"mime", CAP_MIME, false},
    {"replace", CAP_REPLACE, false}, {"enclose", CAP_ENCLOSE, false}, {"extracttext", CAP_EXTRACTTEXT, false}, {"enotify", CAP_ENOTIFY, false},
    {"ihave", CAP_IHAVE, false}, {"include", CAP_INCLUDE, false}, {"duplicate", CAP_DUPLICATE, false}, {"vacation", CAP_VACATION, false},
    {"vacation-seconds", CAP_VACATION_SECONDS, false}, {"reject", CAP_REJECT, false}, {"ereject", CAP_EREJECT, false},
    {"redirect-dsn", CAP_REDIRECT_DSN, false}, {"redirect-deliverby", CAP_REDIRECT_DELIVERBY, false}, {"envelope-dsn", CAP_ENVELOPE_DSN, false},
    {"envelope-deliverby", CAP_ENVELOPE_DELIVERBY, false}, {"environment", CAP_ENVIRONMENT, false}, {"extlists", CAP_EXTLISTS, false},
    {"spamtest", CAP_SPAMTEST, false}, {"spamtestplus", CAP_SPAMTESTPLUS, false}, {"virustest", CAP_VIRUSTEST, false}, {"fcc", CAP_FCC, false},
    {"imapsieve", CAP_IMAPSIEVE, false}, {"comparator-i;octet", CAP_COMPARATOR_OCTET, false},
    {"comparator-i;ascii-casemap", CAP_COMPARATOR_CASEMAP, false}, {"comparator-i;ascii-numeric", CAP_COMPARATOR_NUMERIC, false},
    {"comparator-i;unicode-casemap", CAP_COMPARATOR_UNICODE, false}, {"vnd.dovecot.environment", CAP_V_ENVIRONMENT, false},
    {"vnd.dovecot.debug", CAP_V_DEBUG, false}, {"vnd.dovecot.duplicate", CAP_V_DUPLICATE, true}, {NULL, CAP_NONE, false}};

bool cap_find(str name, enum cap *out)
{
    for (const struct cap_spec *s = cap_specs; s->name; s++) {
        if (str_eq(name, str_c(s->name))) { /* RFC 5228 3.2: as they are written */
            *out = s->cap;
            return true;
        }
    }
    return false;
}
// clang-format on

const char *cap_name(enum cap c)
{
    for (const struct cap_spec *s = cap_specs; s->name; s++)
        if (s->cap == c)
            return s->name;
    return "";
}

#define END                                                                                                            \
    {                                                                                                                  \
        NULL, TAG_PLAIN, 0, CAP_NONE, CAP_NONE, 0                                                                      \
    }
// clang-format off
static const struct tag_spec match_tags[] = {
    {"is", TAG_MATCH, I_MATCH, CAP_NONE, CAP_NONE, MATCH_IS}, {"contains", TAG_MATCH, I_MATCH, CAP_NONE, CAP_NONE, MATCH_CONTAINS},
    {"matches", TAG_MATCH, I_MATCH, CAP_NONE, CAP_NONE, MATCH_MATCHES}, {"regex", TAG_MATCH, I_MATCH, CAP_REGEX, CAP_NONE, MATCH_REGEX},
    {"list", TAG_MATCH, I_MATCH, CAP_EXTLISTS, CAP_NONE, MATCH_LIST}, {"count", TAG_RELATION, I_MATCH, CAP_RELATIONAL, CAP_NONE, MATCH_COUNT},
    {"value", TAG_RELATION, I_MATCH, CAP_RELATIONAL, CAP_NONE, MATCH_VALUE},
    {"comparator", TAG_COMPARATOR, I_COMPARATOR, CAP_NONE, CAP_NONE, 0}, END};
static const struct tag_spec part_tags[] = {
    {"all", TAG_PART, I_PART, CAP_NONE, CAP_NONE, PART_ALL}, {"localpart", TAG_PART, I_PART, CAP_NONE, CAP_NONE, PART_LOCALPART},
    {"domain", TAG_PART, I_PART, CAP_NONE, CAP_NONE, PART_DOMAIN}, {"user", TAG_PART, I_PART, CAP_SUBADDRESS, CAP_NONE, PART_USER},
    {"detail", TAG_PART, I_PART, CAP_SUBADDRESS, CAP_NONE, PART_DETAIL}, END};
static const struct tag_spec index_tags[] = {
    {"index", TAG_NUMBER, I_INDEX, CAP_INDEX, CAP_NONE, 0}, {"last", TAG_PLAIN, I_LAST, CAP_INDEX, CAP_NONE, 0}, END};
static const struct tag_spec mime_tags[] = {
    {"mime", TAG_PLAIN, I_MIME, CAP_MIME, CAP_NONE, 0}, {"anychild", TAG_PLAIN, I_ANYCHILD, CAP_MIME, CAP_NONE, 0},
    {"type", TAG_MIME_OPT, I_TYPE, CAP_MIME, CAP_NONE, 0}, {"subtype", TAG_MIME_OPT, I_SUBTYPE, CAP_MIME, CAP_NONE, 0},
    {"contenttype", TAG_MIME_OPT, I_CONTENTTYPE, CAP_MIME, CAP_NONE, 0}, {"param", TAG_LIST, I_PARAM, CAP_MIME, CAP_NONE, 0}, END};
static const struct tag_spec mime_exists_tags[] = {
    {"mime", TAG_PLAIN, I_MIME, CAP_MIME, CAP_NONE, 0}, {"anychild", TAG_PLAIN, I_ANYCHILD, CAP_MIME, CAP_NONE, 0}, END};
static const struct tag_spec keep_tags[] = {{"flags", TAG_LIST, I_FLAGS, CAP_IMAP4FLAGS, CAP_NONE, 0}, END};
static const struct tag_spec fileinto_tags[] = {
    {"copy", TAG_PLAIN, I_COPY, CAP_COPY, CAP_NONE, 0}, {"create", TAG_PLAIN, I_CREATE, CAP_MAILBOX, CAP_NONE, 0},
    {"flags", TAG_LIST, I_FLAGS, CAP_IMAP4FLAGS, CAP_NONE, 0}, {"specialuse", TAG_STRING, I_SPECIAL_USE, CAP_SPECIAL_USE, CAP_NONE, 0},
    {"mailboxid", TAG_STRING, I_MAILBOXID, CAP_MAILBOXID, CAP_NONE, 0}, END};
static const struct tag_spec redirect_tags[] = {
    {"copy", TAG_PLAIN, I_COPY, CAP_COPY, CAP_NONE, 0}, {"notify", TAG_STRING, I_NOTIFY, CAP_REDIRECT_DSN, CAP_NONE, 0},
    {"ret", TAG_STRING, I_RET, CAP_REDIRECT_DSN, CAP_NONE, 0}, {"bytimerelative", TAG_NUMBER, I_SECONDS, CAP_REDIRECT_DELIVERBY, CAP_NONE, 0},
    {"bytimeabsolute", TAG_STRING, I_BYTIME_ABSOLUTE, CAP_REDIRECT_DELIVERBY, CAP_NONE, 0},
    {"bymode", TAG_STRING, I_BYMODE, CAP_REDIRECT_DELIVERBY, CAP_NONE, 0}, {"bytrace", TAG_PLAIN, I_BYTRACE, CAP_REDIRECT_DELIVERBY, CAP_NONE, 0},
    {"list", TAG_PLAIN, I_LISTS, CAP_EXTLISTS, CAP_NONE, 0}, END};
static const struct tag_spec set_tags[] = {
    {"lower", TAG_PLAIN, I_LOWER, CAP_NONE, CAP_NONE, 40}, {"upper", TAG_PLAIN, I_UPPER, CAP_NONE, CAP_NONE, 40},
    {"lowerfirst", TAG_PLAIN, I_LOWERFIRST, CAP_NONE, CAP_NONE, 30}, {"upperfirst", TAG_PLAIN, I_UPPERFIRST, CAP_NONE, CAP_NONE, 30},
    {"quotewildcard", TAG_PLAIN, I_QUOTEWILDCARD, CAP_NONE, CAP_NONE, 20}, {"quoteregex", TAG_PLAIN, I_QUOTEREGEX, CAP_REGEX, CAP_NONE, 20},
    {"encodeurl", TAG_PLAIN, I_ENCODEURL, CAP_ENOTIFY, CAP_NONE, 15}, {"length", TAG_PLAIN, I_LENGTH, CAP_NONE, CAP_NONE, 10}, END};
static const struct tag_spec size_tags[] = {
    {"over", TAG_SIZE, I_OVER, CAP_NONE, CAP_NONE, 0}, {"under", TAG_SIZE, I_UNDER, CAP_NONE, CAP_NONE, 0}, END};
static const struct tag_spec body_tags[] = {
    {"raw", TAG_PLAIN, I_RAW, CAP_NONE, CAP_NONE, 0}, {"text", TAG_PLAIN, I_TEXT, CAP_NONE, CAP_NONE, 0},
    {"content", TAG_LIST, I_CONTENT, CAP_NONE, CAP_NONE, 0}, END};
static const struct tag_spec date_tags[] = {
    {"zone", TAG_STRING, I_ZONE, CAP_NONE, CAP_NONE, 0}, {"originalzone", TAG_PLAIN, I_ORIGINALZONE, CAP_NONE, CAP_NONE, 0}, END};
static const struct tag_spec zone_tags[] = {{"zone", TAG_STRING, I_ZONE, CAP_NONE, CAP_NONE, 0}, END};
static const struct tag_spec addheader_tags[] = {{"last", TAG_PLAIN, I_LAST, CAP_NONE, CAP_NONE, 0}, END};
static const struct tag_spec deleteheader_tags[] = {
    {"index", TAG_NUMBER, I_INDEX, CAP_NONE, CAP_NONE, 0}, {"last", TAG_PLAIN, I_LAST, CAP_NONE, CAP_NONE, 0}, END};
static const struct tag_spec name_tags[] = {{"name", TAG_STRING, I_NAME, CAP_NONE, CAP_NONE, 0}, END};
static const struct tag_spec replace_tags[] = {
    {"mime", TAG_PLAIN, I_MIME, CAP_NONE, CAP_NONE, 0}, {"subject", TAG_STRING, I_SUBJECT, CAP_NONE, CAP_NONE, 0},
    {"from", TAG_STRING, I_FROM, CAP_NONE, CAP_NONE, 0}, END};
static const struct tag_spec enclose_tags[] = {
    {"subject", TAG_STRING, I_SUBJECT, CAP_NONE, CAP_NONE, 0}, {"headers", TAG_LIST, I_LIST_3, CAP_NONE, CAP_NONE, 0}, END};
static const struct tag_spec extracttext_tags[] = {{"first", TAG_NUMBER, I_FIRST, CAP_NONE, CAP_NONE, 0}, END};
static const struct tag_spec notify_tags[] = {
    {"from", TAG_STRING, I_FROM, CAP_NONE, CAP_NONE, 0}, {"importance", TAG_STRING, I_IMPORTANCE, CAP_NONE, CAP_NONE, 0},
    {"options", TAG_LIST, I_OPTIONS, CAP_NONE, CAP_NONE, 0}, {"message", TAG_STRING, I_MESSAGE, CAP_NONE, CAP_NONE, 0}, END};
static const struct tag_spec fcc_tags[] = {
    {"fcc", TAG_STRING, I_FCC, CAP_FCC, CAP_NONE, 0}, {"create", TAG_PLAIN, I_CREATE, CAP_FCC, CAP_MAILBOX, 0},
    {"flags", TAG_LIST, I_FLAGS, CAP_FCC, CAP_IMAP4FLAGS, 0}, {"specialuse", TAG_STRING, I_SPECIAL_USE, CAP_FCC, CAP_SPECIAL_USE, 0},
    {"mailboxid", TAG_STRING, I_MAILBOXID, CAP_FCC, CAP_MAILBOXID, 0}, END};
static const struct tag_spec vacation_tags[] = {
    {"days", TAG_NUMBER, I_DAYS, CAP_NONE, CAP_NONE, 0}, {"seconds", TAG_NUMBER, I_SECONDS, CAP_VACATION_SECONDS, CAP_NONE, 0},
    {"subject", TAG_STRING, I_SUBJECT, CAP_NONE, CAP_NONE, 0}, {"from", TAG_STRING, I_FROM, CAP_NONE, CAP_NONE, 0},
    {"addresses", TAG_LIST, I_ADDRESSES, CAP_NONE, CAP_NONE, 0}, {"mime", TAG_PLAIN, I_MIME, CAP_NONE, CAP_NONE, 0},
    {"handle", TAG_STRING, I_HANDLE, CAP_NONE, CAP_NONE, 0}, END};
static const struct tag_spec include_tags[] = {
    {"personal", TAG_PLAIN, I_NONE, CAP_NONE, CAP_NONE, 0}, {"global", TAG_PLAIN, I_GLOBAL, CAP_NONE, CAP_NONE, 0},
    {"once", TAG_PLAIN, I_ONCE, CAP_NONE, CAP_NONE, 0}, {"optional", TAG_PLAIN, I_OPTIONAL, CAP_NONE, CAP_NONE, 0}, END};
static const struct tag_spec duplicate_tags[] = {
    {"handle", TAG_STRING, I_HANDLE, CAP_NONE, CAP_NONE, 0}, {"header", TAG_STRING, I_HEADER, CAP_NONE, CAP_NONE, 0},
    {"uniqueid", TAG_STRING, I_UNIQUEID, CAP_NONE, CAP_NONE, 0}, {"value", TAG_STRING, I_UNIQUEID, CAP_V_DUPLICATE, CAP_NONE, 0},
    {"seconds", TAG_NUMBER, I_SECONDS, CAP_NONE, CAP_NONE, 0}, {"last", TAG_PLAIN, I_LAST, CAP_NONE, CAP_NONE, 0}, END};
static const struct tag_spec spamtest_tags[] = {{"percent", TAG_PLAIN, I_PERCENT, CAP_SPAMTESTPLUS, CAP_NONE, 0}, END};

#define CONTROL(name, op, cap, args, ...) {name, op, false, cap, CAP_NONE, args, {__VA_ARGS__}, BLOCK_NONE}
#define TEST(name, op, cap, args, ...) {name, op, true, cap, CAP_NONE, args, {__VA_ARGS__}, BLOCK_NONE}
const struct call_spec call_specs[] = {
    CONTROL("stop", OP_STOP, CAP_NONE, "", NULL),
    CONTROL("keep", OP_KEEP, CAP_NONE, "", keep_tags),
    CONTROL("discard", OP_DISCARD, CAP_NONE, "", NULL),
    CONTROL("fileinto", OP_FILEINTO, CAP_FILEINTO, "s", fileinto_tags),
    CONTROL("redirect", OP_REDIRECT, CAP_NONE, "s", redirect_tags),
    CONTROL("reject", OP_REJECT, CAP_REJECT, "s", NULL),
    CONTROL("ereject", OP_EREJECT, CAP_EREJECT, "s", NULL),
    CONTROL("vacation", OP_VACATION, CAP_VACATION, "s", vacation_tags, fcc_tags),
    CONTROL("notify", OP_NOTIFY, CAP_ENOTIFY, "s", notify_tags, fcc_tags),
    CONTROL("set", OP_SET, CAP_VARIABLES, "ss", set_tags),
    CONTROL("setflag", OP_SETFLAG, CAP_IMAP4FLAGS, "?sl", NULL),
    CONTROL("addflag", OP_ADDFLAG, CAP_IMAP4FLAGS, "?sl", NULL),
    CONTROL("removeflag", OP_REMOVEFLAG, CAP_IMAP4FLAGS, "?sl", NULL),
    CONTROL("addheader", OP_ADDHEADER, CAP_EDITHEADER, "ss", addheader_tags),
    CONTROL("deleteheader", OP_DELETEHEADER, CAP_EDITHEADER, "s?l", deleteheader_tags, match_tags),
    CONTROL("replace", OP_REPLACE, CAP_REPLACE, "s", replace_tags),
    CONTROL("enclose", OP_ENCLOSE, CAP_ENCLOSE, "s", enclose_tags),
    CONTROL("extracttext", OP_EXTRACTTEXT, CAP_EXTRACTTEXT, "s", extracttext_tags, set_tags),
    CONTROL("debug_log", OP_DEBUG_LOG, CAP_V_DEBUG, "s", NULL),
    CONTROL("error", OP_ERROR, CAP_IHAVE, "s", NULL),
    CONTROL("include", OP_INCLUDE, CAP_INCLUDE, "s", include_tags),
    CONTROL("return", OP_RETURN, CAP_INCLUDE, "", NULL),
    CONTROL("global", OP_GLOBAL, CAP_INCLUDE, "l", NULL),
    CONTROL("break", OP_BREAK, CAP_FOREVERYPART, "", name_tags),
    {"foreverypart", OP_FOREVERYPART, false, CAP_FOREVERYPART, CAP_NONE, "", {name_tags}, BLOCK_YES},
    TEST("true", OP_TRUE, CAP_NONE, "", NULL),
    TEST("false", OP_FALSE, CAP_NONE, "", NULL),
    TEST("address", OP_ADDRESS, CAP_NONE, "ll", match_tags, part_tags, index_tags, mime_exists_tags),
    TEST("header", OP_HEADER, CAP_NONE, "ll", match_tags, index_tags, mime_tags),
    TEST("envelope", OP_ENVELOPE, CAP_ENVELOPE, "ll", match_tags, part_tags),
    TEST("exists", OP_EXISTS, CAP_NONE, "l", mime_exists_tags),
    TEST("size", OP_SIZE, CAP_NONE, "n", size_tags),
    TEST("string", OP_STRING, CAP_VARIABLES, "ll", match_tags),
    TEST("hasflag", OP_HASFLAG, CAP_IMAP4FLAGS, "?ll", match_tags),
    TEST("body", OP_BODY, CAP_BODY, "l", match_tags, body_tags),
    TEST("date", OP_DATE, CAP_DATE, "ssl", match_tags, date_tags, index_tags),
    TEST("currentdate", OP_CURRENTDATE, CAP_DATE, "sl", match_tags, zone_tags),
    TEST("mailboxexists", OP_MAILBOXEXISTS, CAP_MAILBOX, "l", NULL),
    TEST("mailboxidexists", OP_MAILBOXIDEXISTS, CAP_MAILBOXID, "l", NULL),
    TEST("specialuse_exists", OP_SPECIALUSE_EXISTS, CAP_SPECIAL_USE, "?sl", NULL),
    TEST("metadata", OP_METADATA, CAP_MBOXMETADATA, "ssl", match_tags),
    TEST("metadataexists", OP_METADATAEXISTS, CAP_MBOXMETADATA, "sl", NULL),
    TEST("servermetadata", OP_SERVERMETADATA, CAP_SERVERMETADATA, "sl", match_tags),
    TEST("servermetadataexists", OP_SERVERMETADATAEXISTS, CAP_SERVERMETADATA, "l", NULL),
    TEST("valid_notify_method", OP_VALID_NOTIFY_METHOD, CAP_ENOTIFY, "l", NULL),
    TEST("notify_method_capability", OP_NOTIFY_METHOD_CAPABILITY, CAP_ENOTIFY, "ssl", match_tags),
    TEST("ihave", OP_IHAVE, CAP_IHAVE, "l", NULL),
    {"duplicate", OP_DUPLICATE, true, CAP_DUPLICATE, CAP_V_DUPLICATE, "", {duplicate_tags}, BLOCK_NONE},
    TEST("environment", OP_ENVIRONMENT, CAP_ENVIRONMENT, "sl", match_tags),
    TEST("valid_ext_list", OP_VALID_EXT_LIST, CAP_EXTLISTS, "l", NULL),
    {"spamtest", OP_SPAMTEST, true, CAP_SPAMTEST, CAP_SPAMTESTPLUS, "s", {match_tags, spamtest_tags}, BLOCK_NONE},
    TEST("virustest", OP_VIRUSTEST, CAP_VIRUSTEST, "s", match_tags),
    {NULL, OP_END, false, CAP_NONE, CAP_NONE, NULL, {NULL}, BLOCK_NONE}};

const struct call_spec *call_spec_find(str name, bool is_test)
{
    for (const struct call_spec *s = call_specs; s->name; s++)
        if (s->is_test == is_test && str_eq_nocase(name, str_c(s->name)))
            return s;
    return NULL;
}
// clang-format on

const struct call_spec *call_spec_of(enum op op)
{
    for (const struct call_spec *s = call_specs; s->name; s++)
        if (s->op == op)
            return s;
    return NULL;
}
