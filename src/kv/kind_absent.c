/* kind_absent.c - layers without rows of their own: those that read another layer's, and those that cache nothing. */
#include "kv_internal.h"

const struct kind kind_shared = {.name = "shared", .rows = ROWS_OF_SOURCE};
const struct kind kind_none = {.name = "none", .rows = ROWS_NONE};
