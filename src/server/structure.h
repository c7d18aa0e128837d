/* structure.h - what an answer has to be, as the fields of a request say it. */
#ifndef SERVER_STRUCTURE_H
#define SERVER_STRUCTURE_H
#include "server/server_internal.h"

/* Where a tool has to be called, the answer is a call, or several, and nothing else; where one may be called beside an answer in
 * JSON, it is either. */
bool structure_allow_calls(struct body *body, const struct tool_format *format, struct refusal *refusal);
/* Compiles it, so that a refusal names the field. */
bool structure_check(struct kvasir_model *model, const struct body *body, struct refusal *refusal);
void structure_release(struct body *body);

#endif
