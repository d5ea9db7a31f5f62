/*
 * mime_json.h: a message's structure as JSON, for people and tests.
 */
#ifndef MAIL_MIME_JSON_H
#define MAIL_MIME_JSON_H

#include "mail/mime.h"

/*
 * Append one JSON object: size, parts, limit_hit, preview, and the root part with, for each part, its IMAP number,
 * type, charset, parameters, transfer encoding, disposition, offsets and sizes in the message, the size and SHA-256 of
 * its decoded body (leaves only; transfer encoding undone, charset as it is), its decoded header fields in order, and
 * its parts. m is of `message`, whole in memory.
 */
void mime_to_json(struct buf *out, const struct mime_message *m, str message);

#endif
