/*
 * html_text.h: the words of an HTML document, for previews and search.
 */
#ifndef MAIL_HTML_TEXT_H
#define MAIL_HTML_TEXT_H

#include "base/buf.h"

/* Append the text of html (UTF-8): without tags, comments, head, style and script; references decoded; block elements
 * leave white space. Never fails: broken markup is text or nothing. */
void html_to_text(struct buf *out, str html);

#endif
