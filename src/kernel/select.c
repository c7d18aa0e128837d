/* select.c - the tables and the choice of one. A table of a later instruction set borrows what it does not do better.
 */
#include "kernel/kernel_internal.h"

#include <string.h>

#define ATTENTION_FUNCTIONS(isa)                                                                       \
    .kv_write = kernel_kv_write_##isa, .k_close = kernel_k_close_##isa, .attend = kernel_attend_##isa, \
    .attend_unit = kernel_attend_unit_##isa, .attend_fold = kernel_attend_fold_##isa,                  \
    .attend_finish = kernel_attend_finish_##isa
#define INDEX_FUNCTIONS(isa) .index_shares = kernel_index_shares_##isa, .index_sketch = kernel_index_sketch_##isa
#define VECTOR_FUNCTIONS(isa)                                                                                  \
    .input_prepare = kernel_input_prepare_##isa, .rms_norm = kernel_rms_norm_##isa, .rope = kernel_rope_##isa, \
    .hadamard = kernel_hadamard_##isa, .silu_mul = kernel_silu_mul_##isa, .gelu_mul = kernel_gelu_mul_##isa,   \
    .add = kernel_add_##isa

/* In ascending order of speed. */
static const struct kernel tables[] = {
    {.name = "ref", .matmul = kernel_matmul_ref, ATTENTION_FUNCTIONS(ref), INDEX_FUNCTIONS(ref), VECTOR_FUNCTIONS(ref)},
    {.name = "avx2",
     .matmul = kernel_matmul_avx2,
     ATTENTION_FUNCTIONS(avx2),
     INDEX_FUNCTIONS(avx2),
     VECTOR_FUNCTIONS(avx2)},
    {.name = "avxvnni",
     .matmul = kernel_matmul_avxvnni,
     ATTENTION_FUNCTIONS(avxvnni),
     INDEX_FUNCTIONS(avxvnni),
     VECTOR_FUNCTIONS(avx2)},
    {.name = "avx512",
     .matmul = kernel_matmul_avx512,
     ATTENTION_FUNCTIONS(avx512),
     INDEX_FUNCTIONS(avx512),
     VECTOR_FUNCTIONS(avx512)},
    {.name = "avx512vnni",
     .matmul = kernel_matmul_avx512vnni,
     ATTENTION_FUNCTIONS(avx512vnni),
     INDEX_FUNCTIONS(avx512vnni),
     VECTOR_FUNCTIONS(avx512)},
    {.name = "amx",
     .matmul = kernel_matmul_avx512vnni,
     .tile_prepare = kernel_tile_prepare_amx,
     .tile_matmul = kernel_tile_matmul_amx,
     ATTENTION_FUNCTIONS(amx),
     INDEX_FUNCTIONS(avx512vnni),
     VECTOR_FUNCTIONS(avx512)},
};

/* Whether this machine can run tables[index]. */
static bool table_runs(size_t index)
{
    const struct cpu_features *cpu = cpu_features();
    const bool vnni = cpu->avx2 && cpu->avx512 && cpu->avx512vnni;
    const bool runs[ARRAY_COUNT(tables)] = {
        true, cpu->avx2, cpu->avx2 && cpu->avxvnni, cpu->avx2 && cpu->avx512, vnni, vnni && cpu->amxbf16};
    return runs[index];
}

const char *const *kernel_names(void)
{
    static const char *const names[] = {"ref", "avx2", "avxvnni", "avx512", "avx512vnni", "amx", NULL};
    return names;
}

enum status kernel_select(const char *name, const struct kernel **out, struct error *error)
{
    if (!name || strcmp(name, "auto") == 0) {
        size_t best = ARRAY_COUNT(tables) - 1;
        while (!table_runs(best)) best--;
        *out = &tables[best];
        return ST_OK;
    }
    for (size_t i = 0; i < ARRAY_COUNT(tables); i++) {
        if (strcmp(name, tables[i].name)) continue;
        if (!table_runs(i))
            return error_set(error, ST_UNSUPPORTED, "this machine cannot run the instruction set \"%s\"", name);
        *out = &tables[i];
        return ST_OK;
    }
    return error_set(error, ST_NOT_FOUND,
                     "no instruction set \"%s\"; there are auto, ref, avx2, avxvnni, avx512, avx512vnni and amx", name);
}
