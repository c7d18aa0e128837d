/* structure.h - what an answer has to be, as the fields of a request say it. */
#ifndef SERVER_STRUCTURE_H
#define SERVER_STRUCTURE_H
#include "server/server_internal.h"

/* Compiles it, so that a refusal names the field. */
bool structure_check(struct kvasir_model *model, const struct body *body, struct refusal *refusal);
void structure_release(struct body *body);

#endif
