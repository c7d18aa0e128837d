/* check_internal.h - between check.c and check_tree.c. */
#ifndef KV_CHECK_INTERNAL_H
#define KV_CHECK_INTERNAL_H
#include "kv_internal.h"

#define BROKEN(...) return error_set(error, ST_INVALID, __VA_ARGS__)

/* Invariants 6 to 9; `stands` is scratch, zeroed, one number a node. */
MUST_CHECK enum status check_tree(const struct kv_cache *cache, uint32_t *stands, struct error *error);
uint32_t check_nodes(const struct kv_cache *cache); /* all there are: in the tree, spare, free */

#endif
