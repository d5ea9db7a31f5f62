/*
 * installation.h: whether the databases of this process are those that somebody set up, all of them, and of one
 * installation.
 *
 * A volume that is not mounted, a mistyped folder or database name, a server that lost its disk: all look like a new
 * server, which would refuse all mail for good. So only `thurn setup`, `thurn migrate --new` and `--dev` make
 * databases; `serve` and `migrate` take what carries one random id (data/sql.h, sql_set), the folder of bodies too, and
 * stop for anything else with the remedy.
 */
#ifndef SERVER_INSTALLATION_H
#define SERVER_INSTALLATION_H

#include "server/node.h"

enum installation_verdict {
    /* all that could be asked; a PostgreSQL that is away just now is asked at each of its connections */
    INSTALLATION_OURS,
    INSTALLATION_EMPTY, /* nobody ever set anything up here */
    /* databases with tables, and none says which installation it is of: an older release made them */
    INSTALLATION_UNMARKED,
};
/* The process' databases are open; nothing is made. n->set.id is filled in. Errors, with the remedy: CONFLICT (a member
 * is missing, or of another installation). */
FIBER bool installation_look(struct node *n, enum installation_verdict *out, struct err *err) WARN_UNUSED;
/* Before databases are open: CONFLICT when all of them would be files in the data folder, and none is there. Anything
 * else is for installation_look. */
bool installation_glance(const struct config *c, unsigned roles, struct err *err) WARN_UNUSED;
/* The error for a verdict that is not OURS. Returns false. */
bool installation_refuse(const struct node *n, enum installation_verdict verdict, struct err *err);
/*
 * Make what is missing: a whole new installation, or, with may_join, members that the others lack. The data folder is
 * there. *made counts members. Errors: CONFLICT as above, INVALID (a new installation by a config that does not name
 * all databases), or what a database said.
 */
FIBER bool installation_make(struct node *n, bool may_join, unsigned *made, struct err *err) WARN_UNUSED;

#endif
