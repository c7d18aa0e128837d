/* fault.c - makes the Nth allocation, read or write fail, for the torture tests. Costs one relaxed load when disarmed.
 */
#include "base/base_internal.h"
#include <stdatomic.h>

static _Atomic int armed;
static _Atomic uint64_t fails_at, calls;

void fault_arm(enum fault_kind kind, uint64_t nth)
{
    atomic_store(&armed, nth ? (int)kind : FAULT_NONE);
    atomic_store(&fails_at, nth);
    atomic_store(&calls, 0);
}

uint64_t fault_count(enum fault_kind kind)
{
    return atomic_load(&armed) == (int)kind ? atomic_load(&calls) : 0;
}

bool fault_now(enum fault_kind kind)
{
    if (atomic_load_explicit(&armed, memory_order_relaxed) != (int)kind) return false;
    return atomic_fetch_add(&calls, 1) + 1 == atomic_load(&fails_at);
}
