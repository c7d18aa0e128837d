/* base_internal.h - shared by base's own files only. */
#ifndef BASE_BASE_INTERNAL_H
#define BASE_BASE_INTERNAL_H
#include "base/base.h"

bool fault_now(enum fault_kind kind); /* whether this call is the one that must fail */

#endif
