/* structure.h - what an answer has to be, as the fields of a request say it. */
#ifndef SERVER_STRUCTURE_H
#define SERVER_STRUCTURE_H
#include "server/server_internal.h"

/* {"type": "text" | "json_object" | "json_schema"} of the field `name`; `inside` has the key "schema" where the type wants one. */
bool structure_read_format(const char *name, const json_t *format, const json_t *inside, struct body *body,
                           struct refusal *refusal);
/* Compiles it, so that a refusal names the field. */
bool structure_check(struct kvasir_model *model, const struct body *body, struct refusal *refusal);
void structure_release(struct body *body);

#endif
