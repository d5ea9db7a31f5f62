/*
 * lex.h: the words of a script, RFC 5228 8.1.
 */
#ifndef SIEVE_LEX_H
#define SIEVE_LEX_H

#include "base/arena.h"
#include "base/buf.h"

// clang-format off
enum token_kind {
    T_EOF, T_IDENTIFIER, T_TAG, T_NUMBER, T_STRING, T_SEMICOLON, T_COMMA, T_LPAREN, T_RPAREN, T_LBRACE, T_RBRACE, T_LBRACKET, T_RBRACKET,
    T_BAD /* text: what is wrong */
};
// clang-format on
struct token {
    enum token_kind kind;
    unsigned line, column;
    str text; /* identifier or tag without its colon; the string's content */
    uint64_t number;
};
struct lexer {
    const char *p, *end, *line_start;
    unsigned line;
    struct arena *arena; /* of strings that are not as they stand */
};
void lexer_init(struct lexer *l, str script, struct arena *a);
void lex(struct lexer *l, struct token *out);
const char *token_name(enum token_kind k); /* "a string", for people */

#endif
