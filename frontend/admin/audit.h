/*
 * audit.h: what of the record of administration the front door writes by itself.
 */
#ifndef FRONTEND_ADMIN_AUDIT_H
#define FRONTEND_ADMIN_AUDIT_H

#include "frontend/admin/admin.h"

/* That the token was used from this address: once an hour for each. When it cannot be written the log says so, for
 * reading is no change. */
FIBER void audit_token_use(struct admin *a, struct http_req *req, const struct rpc_call *of);

#endif
