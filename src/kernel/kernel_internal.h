/* kernel_internal.h - the functions that fill the tables of kernel.h, named kernel_FUNCTION_ISA.
 *
 * Vector functions and input_prepare exist for ref, avx2 and avx512; the tables avxvnni, avx512vnni and amx take theirs from
 * avx2 and avx512. Attention exists for every table, matmul and the index for every one but amx, which takes
 * avx512vnni's and adds tiles. Files whose names end in an instruction set are compiled
 * for it; they may be called only on a machine that has it (kernel_select sees to that). */
#ifndef KERNEL_KERNEL_INTERNAL_H
#define KERNEL_KERNEL_INTERNAL_H
#include "kernel/kernel.h"

/* The scratch and the state that each of these takes are described in kernel.h, at struct kernel. */
#define KERNEL_DECLARE_ATTENTION(isa)                                                                                  \
    void kernel_kv_write_##isa(enum number_format k_format, enum number_format v_format, void *k_groups,               \
                               void *v_groups, uint32_t first_slot, uint32_t count, const float *k, uint64_t k_stride, \
                               uint32_t head_dim, const float *v, uint64_t v_stride, uint32_t value_dim);              \
    void kernel_k_close_##isa(enum number_format format, void *k_groups, const void *exact_groups, uint32_t head_dim); \
    void kernel_attend_##isa(const struct kernel_attend *attend, uint32_t segment_begin, uint32_t segment_end,         \
                             float *state, float *scratch);                                                            \
    uint32_t kernel_attend_unit_##isa(enum number_format k_format, enum number_format v_format);                       \
    void kernel_attend_fold_##isa(const struct kernel_attend *attend, float *state, const float *next);                \
    void kernel_attend_finish_##isa(const struct kernel_attend *attend, const float *state)

#define KERNEL_DECLARE_VECTOR(isa)                                                                                \
    void kernel_rms_norm_##isa(const float *x, const float *weight, float eps, uint32_t count, float *out);       \
    void kernel_rope_##isa(float *head, const float *cosines, const float *sines, uint32_t dim, bool neighbours); \
    void kernel_hadamard_##isa(float *row, uint32_t count);                                                       \
    void kernel_silu_mul_##isa(const float *gate, const float *up, uint32_t count, float *out);                   \
    void kernel_gelu_mul_##isa(const float *gate, const float *up, uint32_t count, float *out);                   \
    void kernel_add_##isa(float *x, const float *y, uint32_t count);                                              \
    void kernel_input_prepare_##isa(const struct kernel_input *input, uint32_t begin, uint32_t end)

#define KERNEL_DECLARE_INDEX(isa)                                                                                    \
    void kernel_index_shares_##isa(const struct kernel_index *index, uint32_t count, float *shares, float *scratch); \
    void kernel_index_sketch_##isa(const struct kernel_index *index, uint32_t count, float *shares, float *scratch)

#define KERNEL_DECLARE_MATMUL(isa)                                                                           \
    void kernel_matmul_##isa(const struct kernel_matrix *weights, const struct kernel_input *input,          \
                             uint32_t token_begin, uint32_t token_end, uint32_t row_begin, uint32_t row_end, \
                             const struct kernel_output *output)

KERNEL_DECLARE_ATTENTION(ref);
KERNEL_DECLARE_ATTENTION(avx2);
KERNEL_DECLARE_ATTENTION(avxvnni);
KERNEL_DECLARE_ATTENTION(avx512);
KERNEL_DECLARE_ATTENTION(avx512vnni);
KERNEL_DECLARE_ATTENTION(amx);
KERNEL_DECLARE_VECTOR(ref);
KERNEL_DECLARE_VECTOR(avx2);
KERNEL_DECLARE_VECTOR(avx512);
KERNEL_DECLARE_INDEX(ref);
KERNEL_DECLARE_INDEX(avx2);
KERNEL_DECLARE_INDEX(avxvnni);
KERNEL_DECLARE_INDEX(avx512);
KERNEL_DECLARE_INDEX(avx512vnni);
KERNEL_DECLARE_MATMUL(ref);
KERNEL_DECLARE_MATMUL(avx2);
KERNEL_DECLARE_MATMUL(avxvnni);
KERNEL_DECLARE_MATMUL(avx512);
KERNEL_DECLARE_MATMUL(avx512vnni);

void kernel_tile_prepare_amx(const struct kernel_input *input, uint32_t begin, uint32_t end);
void kernel_tile_matmul_amx(const struct kernel_matrix *weights, const struct kernel_input *input, uint32_t token_begin,
                            uint32_t token_end, uint32_t row_begin, uint32_t row_end,
                            const struct kernel_output *output);

#endif
