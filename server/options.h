/*
 * options.h: the command line: global options, which may stand before or after the verb, and what is left for the verb.
 */
#ifndef SERVER_OPTIONS_H
#define SERVER_OPTIONS_H

#include "base/config.h"

struct options {
    const char *program;     /* as it was called, for commands that are shown */
    const char *config_file; /* --config, or NULL */
    const char *data;        /* --data, or NULL */
    const char *roles;       /* --roles, comma separated, or NULL */
    const char *port_offset; /* --port-offset, or NULL */
    const char *http;        /* --http, or NULL: listen.http as it is written here, without the port offset */
    /* --url, --token: admin API of a running server elsewhere (also THURN_ADMIN_URL, _TOKEN) */
    const char *url, *token;
    bool is_dev;      /* --dev */
    bool is_json;     /* --json: print what the API answered */
    const char *verb; /* NULL when there is none */
    char **args;      /* the verb's own words, verb not included; NULL-terminated */
    int n_args;
};

/* argv is reordered in place. INVALID with what to do. */
bool options_parse(struct options *o, int argc, char **argv, struct err *err) WARN_UNUSED;

/* For verbs: take "--name VALUE" (or "--name=VALUE") or a flag "--name" out of o->args. */
bool options_take(struct options *o, const char *name, const char **value, struct err *err) WARN_UNUSED;
bool options_flag(struct options *o, const char *name);
/* INVALID when words that look like options are left, or the number of words is not within min..max. */
bool options_finish(const struct options *o, int min, int max, struct err *err) WARN_UNUSED;

/*
 * The settings in force: file (--config, else DATA/thurn.yaml, else /etc/thurn/thurn.yaml when they exist), then
 * options, then defaults that depend on the machine (data folder, host name). c is initialised here.
 */
bool options_config(const struct options *o, struct config *c, struct err *err) WARN_UNUSED;
/* The data folder without reading any file: --data, or root's and users' standard places. Arena-free static text. */
const char *options_default_data(const struct options *o);

#endif
