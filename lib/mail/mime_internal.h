/*
 * mime_internal.h: what the files of the MIME parser share.
 */
#ifndef MAIL_MIME_INTERNAL_H
#define MAIL_MIME_INTERNAL_H

#include "mail/mime.h"

/* Bounds what is kept: every string that goes into the tree is charged to left. */
struct mime_keeper {
    struct arena *a;
    const struct mime_limits *limits;
    size_t left;
    bool limit_hit;
};

/* Read the fields of one entity's header into part, and those of a message into envelope (NULL: not a message's
 * header). */
void mime_read_fields(struct mime_keeper *k, str header, struct mime_part *part, struct mime_envelope *envelope);
/* Message-ID, References, In-Reply-To and Date of the root. */
void mime_read_thread(struct mime_keeper *k, str header, struct mime_message *m);
/* A view of at most MIME_PREVIEW_MAX characters, from the raw (encoded) start of a text part's body. */
str mime_preview(struct arena *a, const struct mime_part *part, str raw);
bool mime_has_attachment(const struct mime_part *root);

#endif
