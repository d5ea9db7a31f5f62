#include "mail_util.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static void dump_params(struct buf *out, const char *what, const struct mime_params *p)
{
    for (size_t i = 0; i < p->n; i++)
        buf_printf(out, " %s%.*s=%.*s", what, STR_ARG(p->v[i].name), STR_ARG(p->v[i].value));
}

static void dump_addresses(struct buf *out, const char *what, const struct address_list *l)
{
    for (size_t i = 0; i < l->n; i++) {
        const struct mail_address *m = &l->v[i];
        buf_printf(out, " %s:%.*s|%.*s|%.*s|%.*s|%d", what, STR_ARG(m->name), STR_ARG(m->local), STR_ARG(m->domain),
                   STR_ARG(m->group_start), m->is_group_end);
    }
}

static void dump_envelope(struct buf *out, const struct mime_envelope *e)
{
    buf_printf(out, " envelope date=%.*s subject=%.*s id=%.*s irt=%.*s", STR_ARG(e->date), STR_ARG(e->subject),
               STR_ARG(e->message_id), STR_ARG(e->in_reply_to));
    dump_addresses(out, "from", &e->from);
    dump_addresses(out, "sender", &e->sender);
    dump_addresses(out, "reply-to", &e->reply_to);
    dump_addresses(out, "to", &e->to);
    dump_addresses(out, "cc", &e->cc);
    dump_addresses(out, "bcc", &e->bcc);
}

static void dump_part(struct buf *out, const struct mime_part *p, unsigned depth)
{
    buf_printf(out, "%*s%.*s/%.*s %.*s h=%llu b=%llu n=%llu l=%u disp=%.*s", (int)(depth * 2), "", STR_ARG(p->type),
               STR_ARG(p->subtype), STR_ARG(p->encoding), (unsigned long long)p->header_offset,
               (unsigned long long)p->body_offset, (unsigned long long)p->body_size, p->body_lines,
               STR_ARG(p->disposition));
    dump_params(out, "", &p->params);
    dump_params(out, "d:", &p->disposition_params);
    if (p->envelope)
        dump_envelope(out, p->envelope);
    buf_addc(out, '\n');
    for (const struct mime_part *c = p->children; c; c = c->next)
        dump_part(out, c, depth + 1);
}

void dump_message(struct buf *out, const struct mime_message *m)
{
    buf_printf(out, "size=%llu parts=%u limit=%d attachment=%d sent=%lld preview=[%.*s]", (unsigned long long)m->size,
               m->n_parts, m->limit_hit, m->has_attachment, (long long)m->sent_unix, STR_ARG(m->preview));
    for (size_t i = 0; i < m->n_references; i++)
        buf_printf(out, " ref=%.*s", STR_ARG(m->references[i]));
    dump_envelope(out, &m->envelope);
    buf_printf(out, " header=%zu\n", m->header.n);
    dump_part(out, m->root, 0);
}

bool read_file(const char *path, struct buf *b)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return false;
    static char chunk[16384];
    size_t n;
    while ((n = fread(chunk, 1, sizeof(chunk), f)) > 0)
        buf_add_n(b, chunk, n);
    fclose(f);
    return buf_ok(b);
}

const char *shared_data(const char *sub, char path[4096])
{
    const char *base = getenv("THURN_SHARED_DATA");
    snprintf(path, 4096, "%s/%s", base ? base : "../shared/data", sub);
    struct stat st;
    if (stat(path, &st) == 0)
        return path;
    printf("# skipped: no sample data at %s (set THURN_SHARED_DATA)\n", path);
    return NULL;
}

unsigned each_file(const char *folder, const char *suffix, void (*fn)(const char *path, str content, void *arg),
                   void *arg)
{
    struct dirent **names;
    unsigned found = 0;
    int n = scandir(folder, &names, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        str name = str_c(names[i]->d_name);
        if (name.p[0] != '.' && str_ends(name, str_c(suffix))) {
            char path[4096];
            snprintf(path, sizeof(path), "%s/%s", folder, names[i]->d_name);
            BUF(content, 64u << 20);
            if (read_file(path, &content)) {
                fn(path, buf_str(&content), arg);
                found++;
            }
        }
        free(names[i]);
    }
    if (n >= 0)
        free(names);
    return found;
}
