#include "server/import.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/num.h"
#include "server/client.h"
#include "server/verbs.h"

#define BATCH 500u
/* in the clear: each takes the server some hundredths of a second to hash */
#define BATCH_PASSWORDS 25u
#define LINE_MAX_BYTES 4096u
#define BYTE_ORDER_MARK "\xef\xbb\xbf" /* what spreadsheets begin UTF-8 with */

bool import_set_quota(json_t *account, const char *quota, struct err *err)
{
    uint64_t bytes;
    if (!quota || !quota[0])
        return true;
    if (!num_size(str_c(quota), INT64_MAX, &bytes))
        return err_set(err, ERR_INVALID, "quota '%.40s' is not a size such as 500M or 2G", quota);
    json_object_set_new(account, "quota_bytes", json_integer((json_int_t)bytes));
    return true;
}

/* A hash is told from a password by its form: {SCHEME}… or $id$…. */
static bool looks_like_hash(const char *s)
{
    if (s[0] == '{')
        return strchr(s, '}') != NULL;
    return s[0] == '$' && strchr(s + 1, '$') != NULL;
}

/* One CSV field (RFC 4180 quoting) off the front of *line, unquoted in place; "" when the line has ended. */
static bool csv_field(char **line, char **out)
{
    char *from = *line, *to = *line;
    *out = to;
    if (*from == '"') {
        for (from++; *from && (*from != '"' || *++from == '"'); from++)
            *to++ = *from;
        if (from[-1] != '"' || (*from != ',' && *from != '\0'))
            return false;
    } else {
        from += strcspn(from, ",");
        to = from;
    }
    bool has_more = *from == ',';
    *to = '\0';
    *line = has_more ? from + 1 : from;
    return true;
}

static json_t *csv_account(char *line, struct err *err)
{
    char *address, *password, *quota;
    if (!csv_field(&line, &address) || !csv_field(&line, &password) || !csv_field(&line, &quota) || *line) {
        (void)err_set(err, ERR_INVALID, "expected: address,password-or-hash,quota");
        return NULL;
    }
    json_t *o =
        json_pack("{s:s, s:s}", "address", address, looks_like_hash(password) ? "password_hash" : "password", password);
    if (!o)
        (void)err_set(err, ERR_INVALID, "not UTF-8");
    else if (!import_set_quota(o, quota, err)) {
        json_decref(o);
        return NULL;
    }
    return o;
}

struct row {
    unsigned line;
    char *refusal; /* heap; NULL = it is in the batch */
};
struct import {
    const char *file;
    struct row *rows; /* BATCH of them */
    size_t n_rows, n_passwords;
    json_t *batch;
    unsigned added, failed, line;
    bool has_terminal; /* standard error is one: people wait */
};

static void refuse(struct import *im, const struct row *r, const char *why)
{
    fprintf(stderr, "%s%s:%u: %s\n", im->has_terminal ? "\r" : "", im->file, r->line, why);
    im->failed++;
}

/* What came of each row, in the order of the file; results has one item for each that was sent. */
static void tell(struct import *im, json_t *results)
{
    size_t at = 0;
    for (size_t i = 0; i < im->n_rows; i++) {
        struct row *r = &im->rows[i];
        json_t *one = r->refusal ? NULL : json_array_get(results, at++);
        if (r->refusal)
            refuse(im, r, r->refusal);
        else if (json_object_get(one, "account"))
            im->added++;
        else
            refuse(im, r, client_text(one, "message"));
        free(r->refusal);
    }
    im->n_rows = im->n_passwords = 0;
    if (im->has_terminal)
        fprintf(stderr, "\r%u accounts added, %u refused", im->added, im->failed);
}

FIBER static bool send_batch(struct options *o, struct import *im, struct err *err)
{
    ARENA(a, 256u << 20);
    CLEANUP(client_json_free) json_t *answer = NULL;
    if (json_array_size(im->batch)) {
        json_t *body = json_pack("{s:o}", "accounts", im->batch);
        im->batch = json_array();
        if (!client_call(o, &a, "POST", S("/v1/accounts"), body, &answer, err))
            return err_prefix(err, "%s: from line %u on nothing is known to be added (to try again does no harm)",
                              im->file, im->rows[0].line);
    }
    tell(im, json_object_get(answer, "results"));
    return true;
}

/* One line without its end, the first without a byte order mark; false at the end of the file. One that is too long is
 * read to its end and cut. */
static bool next_line(struct import *im, FILE *f, char line[LINE_MAX_BYTES], bool *is_whole)
{
    if (!fgets(line, LINE_MAX_BYTES, f))
        return false;
    im->line++;
    size_t n = strcspn(line, "\r\n");
    *is_whole = n < LINE_MAX_BYTES - 1;
    for (int c = 0; !*is_whole && c != '\n' && c != EOF;)
        c = fgetc(f);
    line[n] = '\0';
    if (im->line == 1 && str_starts(str_n(line, n), S(BYTE_ORDER_MARK)))
        memmove(line, line + strlen(BYTE_ORDER_MARK), n + 1 - strlen(BYTE_ORDER_MARK));
    return true;
}

FIBER static bool import_lines(struct options *o, struct import *im, FILE *f, struct err *err)
{
    char line[LINE_MAX_BYTES];
    bool is_whole, ok = true;
    while (ok && next_line(im, f, line, &is_whole)) {
        struct err bad = ERR_INIT;
        if (!line[0] || line[0] == '#')
            continue;
        json_t *account = NULL;
        if (!is_whole)
            (void)err_set(&bad, ERR_INVALID, "a line has at most %u bytes", LINE_MAX_BYTES - 2);
        else if ((account = csv_account(line, &bad))) {
            im->n_passwords += json_object_get(account, "password") != NULL;
            json_array_append_new(im->batch, account);
        }
        im->rows[im->n_rows++] = (struct row){im->line, account ? NULL : xstrdup(bad.msg)};
        if (im->n_rows == BATCH || im->n_passwords == BATCH_PASSWORDS)
            ok = send_batch(o, im, err);
    }
    explicit_bzero(line, sizeof(line));
    if (ok && ferror(f))
        return err_set(err, ERR_INVALID, "%s:%u: cannot read on: %s", im->file, im->line + 1, strerror(errno));
    return ok && send_batch(o, im, err);
}

int import_accounts(struct options *o, const char *file)
{
    struct err err = ERR_INIT;
    struct import im = {.file = file, .has_terminal = isatty(STDERR_FILENO)};
    FILE *f = strcmp(file, "-") == 0 ? stdin : fopen(file, "re");
    if (!f) {
        (void)err_set(&err, ERR_INVALID, "cannot read '%s': %s", file, strerror(errno));
        return verb_fail(&err);
    }
    im.batch = json_array();
    im.rows = xcalloc(BATCH, sizeof(*im.rows));
    bool ok = import_lines(o, &im, f, &err);
    if (f != stdin)
        fclose(f);
    for (size_t i = 0; i < im.n_rows; i++)
        free(im.rows[i].refusal);
    xfree(im.rows);
    json_decref(im.batch);
    if (im.has_terminal)
        fputc('\r', stderr);
    printf("%u accounts added, %u refused\n", im.added, im.failed);
    if (!ok)
        return verb_fail(&err);
    return im.failed ? EXIT_PARTLY : EXIT_DONE;
}
