/* test_matmul.c - packed weights and matmul: every number format in every table this machine can run, against `ref`
 * (the same bits) and against a double-precision product with the independently decoded weights (stated bounds). */
#include "kernel/kernel.h"
#include "support.h"
#include <math.h>

#define TOKENS_MOST 40u
#define ROWS_MOST 83u

struct fixture {
    enum number_format format;
    uint32_t rows, columns, tokens;
    uint64_t stride;      /* of x, in floats */
    uint8_t *source;      /* at an odd address */
    uint8_t *source_base; /* what to free */
    float *x, *weights;   /* weights: decoded */
};

static struct random dice;

static float random_normal(void)
{
    double sum = 0;
    for (int i = 0; i < 12; i++) sum += random_unit(&dice);
    return (float)(sum - 6);
}

/* Random bytes, with f16 fields (scales and minima) of ordinary size. */
static void fill_blocks(enum number_format format, uint8_t *at, uint64_t blocks)
{
    static const int8_t halves_at[NF_COUNT][2] = {
        [NF_Q4_0] = {0, -1}, [NF_Q4_1] = {0, 2},          [NF_Q5_0] = {0, -1},   [NF_Q5_1] = {0, 2},
        [NF_Q8_0] = {0, -1}, [NF_Q2_K] = {80, 82},        [NF_Q3_K] = {108, -1}, [NF_Q4_K] = {0, 2},
        [NF_Q5_K] = {0, 2},  [NF_Q6_K] = {208 - 256, -1}, [NF_IQ4_NL] = {0, -1}, [NF_IQ4_XS] = {0, -1},
    };
    uint32_t bytes = number_format_info(format)->block_bytes;
    for (uint64_t b = 0; b < blocks; b++, at += bytes) {
        if (number_format_info(format)->block_elements == 1) {
            float value = random_normal();
            uint16_t half = f16_from_f32(value);
            uint32_t bits;
            memcpy(&bits, &value, 4);
            bits >>= 16;
            memcpy(at, format == NF_F32 ? (void *)&value : format == NF_F16 ? (void *)&half : (void *)&bits, bytes);
            continue;
        }
        for (uint32_t i = 0; i < bytes; i++) at[i] = (uint8_t)random_next(&dice);
        for (int h = 0; h < 2; h++) {
            uint16_t half = f16_from_f32(random_normal() * 0.05f);
            if (halves_at[format][h] != -1) memcpy(at + (uint8_t)halves_at[format][h], &half, 2);
        }
    }
}

static void fixture_init(struct fixture *f, enum number_format format, uint32_t rows, uint32_t columns, uint32_t tokens)
{
    uint64_t bytes = rows * number_format_bytes(format, columns);
    *f = (struct fixture){.format = format, .rows = rows, .columns = columns, .tokens = tokens, .stride = columns + 3};
    f->source_base = malloc(bytes + 1);
    f->source = f->source_base + 1;
    f->x = malloc(tokens * f->stride * sizeof(float));
    f->weights = malloc((uint64_t)rows * columns * sizeof(float));
    fill_blocks(format, f->source, (uint64_t)rows * columns / number_format_info(format)->block_elements);
    for (uint64_t i = 0; i < tokens * f->stride; i++) f->x[i] = random_normal();
    number_format_decode(format, f->source, f->weights, (uint64_t)rows * columns);
}
static void fixture_release(struct fixture *f)
{
    free(f->source_base);
    free(f->x);
    free(f->weights);
}

static const struct kernel *table_or_null(const char *name)
{
    const struct kernel *kernel = NULL;
    return kernel_select(name, &kernel, NULL) == ST_OK ? kernel : NULL;
}

struct prepared {
    struct kernel_matrix matrix;
    struct kernel_input input;
    void *storage;
};
static void prepare(const struct kernel *kernel, const struct fixture *f, struct prepared *p)
{
    assert_int_equal(kernel_matrix_pack(kernel, f->format, f->source, f->rows, f->columns, NULL, &p->matrix), ST_OK);
    p->storage = mem_aligned(64, kernel_input_bytes(f->tokens, f->columns));
    kernel_input_init(&p->input, p->storage, f->x, f->stride, f->tokens, f->columns);
    kernel->input_prepare(&p->input, 0, f->tokens);
}
static void prepared_release(struct prepared *p)
{
    kernel_matrix_release(&p->matrix);
    mem_free(p->storage);
}

/* [tokens, rows]; the element after every row is checked to stay untouched. */
static float *product(const struct kernel *kernel, const struct fixture *f)
{
    struct prepared p;
    uint64_t stride = f->rows + 1;
    float *out = malloc(f->tokens * stride * sizeof(float));
    for (uint64_t i = 0; i < f->tokens * stride; i++) out[i] = 12345.0f;
    prepare(kernel, f, &p);
    kernel->matmul(&p.matrix, &p.input, 0, f->tokens, 0, f->rows,
                   &(struct kernel_output){.out = out, .stride = stride});
    for (uint32_t t = 0; t < f->tokens; t++) {
        assert_true(out[t * stride + f->rows] == 12345.0f);
        memmove(out + (uint64_t)t * f->rows, out + t * stride, f->rows * sizeof(float));
    }
    prepared_release(&p);
    return out;
}

/* The activations as matmul sees them: for quantised weights rounded to 127 steps of the largest of 32. */
static void round_activations(const struct fixture *f, uint32_t token, double *out)
{
    const float *x = f->x + token * f->stride;
    for (uint32_t c = 0; c < f->columns; c++) out[c] = (double)x[c];
    if (number_format_info(f->format)->block_elements == 1) return;
    for (uint32_t c = 0; c < f->columns; c += 32) {
        float most = 0;
        for (uint32_t i = 0; i < 32; i++) most = fmaxf(most, fabsf(x[c + i]));
        for (uint32_t i = 0; i < 32; i++)
            out[c + i] = most > 0 ? (double)nearbyintf(x[c + i] * (127.0f / most)) * ((double)most / 127) : 0;
    }
}

/* Bounds, per output: 4e-6 of sum |w x| against the product with the rounded activations (float rounding only), and
 * half a step of every group's scale against the exact product. */
static void check_against_double(const struct fixture *f, const float *out, const char *table)
{
    double *x = malloc(f->columns * sizeof(double));
    for (uint32_t t = 0; t < f->tokens; t++) {
        round_activations(f, t, x);
        for (uint32_t r = 0; r < f->rows; r++) {
            const float *w = f->weights + (uint64_t)r * f->columns;
            double rounded = 0, exact = 0, magnitude = 0, step = 0;
            for (uint32_t c = 0; c < f->columns; c++) {
                double given = (double)f->x[t * f->stride + c];
                rounded += (double)w[c] * x[c];
                exact += (double)w[c] * given;
                magnitude += fabs((double)w[c] * given);
                step += fabs((double)w[c] * (x[c] - given));
            }
            double got = (double)out[(uint64_t)t * f->rows + r];
            if (!(fabs(got - rounded) <= 4e-6 * magnitude + 1e-6) ||
                !(fabs(got - exact) <= step + 5e-6 * magnitude + 1e-6))
                fail_msg("%s %s rows %u columns %u: [%u][%u] is %g, not %g (exact %g, magnitude %g)", table,
                         number_format_info(f->format)->name, f->rows, f->columns, t, r, got, rounded, exact,
                         magnitude);
        }
    }
    free(x);
}

static void check_same(const struct fixture *f, const float *out, const float *want, const char *what)
{
    for (uint64_t i = 0; i < (uint64_t)f->tokens * f->rows; i++)
        if (memcmp(&out[i], &want[i], 4))
            fail_msg("%s, %s rows %u columns %u tokens %u: [%u][%u] is %a, not %a", what,
                     number_format_info(f->format)->name, f->rows, f->columns, f->tokens, (unsigned)(i / f->rows),
                     (unsigned)(i % f->rows), (double)out[i], (double)want[i]);
}

/* ---- tiles --------------------------------------------------------------------------------------------------------- */

static float to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&value, &bits, 4);
    return value;
}

/* The chain that TDPBF16PS defines, going on with `chain`: of each 32 columns the even and the odd ones apart. */
static float tile_chain(const struct fixture *f, uint32_t token, uint32_t row, float chain)
{
    const float *x = f->x + token * f->stride, *w = f->weights + (uint64_t)row * f->columns;
    for (uint32_t c = 0; c < f->columns; c += 32) {
        float sums[2] = {0, 0};
        for (uint32_t i = 0; i < 32; i++) sums[i % 2] = fmaf(to_bf16(w[c + i]), to_bf16(x[c + i]), sums[i % 2]);
        chain += sums[0] + sums[1];
    }
    return chain;
}

/* Tokens [begin, end) and rows [row_begin, row_end) into `out`, [tokens, rows]. */
static void tile_part(const struct kernel *kernel, const struct fixture *f, const struct prepared *p, uint32_t begin,
                      uint32_t end, uint32_t row_begin, uint32_t row_end, float *out)
{
    const struct kernel_output output = {.out = out, .stride = f->rows, .tokens = f->tokens};
    kernel->tile_matmul(&p->matrix, &p->input, begin, end, row_begin, row_end, &output);
}

static void check_tiles(const struct kernel *kernel, const struct fixture *f)
{
    const uint64_t count = (uint64_t)f->tokens * f->rows;
    struct prepared p;
    float *whole = malloc(count * sizeof(float)), *parts = malloc(count * sizeof(float)),
          *sum = malloc(count * sizeof(float)), *bias = malloc(f->rows * sizeof(float));
    prepare(kernel, f, &p);
    kernel->tile_prepare(&p.input, 0, f->tokens);
    tile_part(kernel, f, &p, 0, f->tokens, 0, f->rows, whole);
    for (uint32_t t = 0; t < f->tokens; t++)
        for (uint32_t r = 0; r < f->rows; r++) {
            float got = whole[(uint64_t)t * f->rows + r], want = tile_chain(f, t, r, 0);
            if (memcmp(&got, &want, 4))
                fail_msg("%s rows %u columns %u: [%u][%u] is %a, not %a", number_format_info(f->format)->name, f->rows,
                         f->columns, t, r, (double)got, (double)want);
        }
    /* In parts, whose neighbours are left alone. */
    for (uint64_t i = 0; i < count; i++) parts[i] = 12345;
    for (uint32_t t = 0, tokens = 1; t < f->tokens; t += tokens, tokens = 1 + t % 5 * 7)
        for (uint32_t r = 0, rows; r < f->rows; r += rows) {
            rows = 16 + r % 3 * 16;
            tile_part(kernel, f, &p, t, t + tokens < f->tokens ? t + tokens : f->tokens, r,
                      r + rows < f->rows ? r + rows : f->rows, parts);
            assert_true(t + tokens >= f->tokens || parts[(uint64_t)(t + tokens) * f->rows + r] == 12345);
        }
    check_same(f, parts, whole, "tiles in parts");
    /* With bias, added to a sum. */
    for (uint32_t r = 0; r < f->rows; r++) bias[r] = random_normal();
    for (uint64_t i = 0; i < count; i++) sum[i] = random_normal();
    for (uint64_t i = 0; i < count; i++)
        whole[i] = tile_chain(f, (uint32_t)(i / f->rows), (uint32_t)(i % f->rows), sum[i]) + bias[i % f->rows];
    const struct kernel_output output = {
        .out = parts, .stride = f->rows, .bias = bias, .sum = sum, .sum_stride = f->rows, .tokens = f->tokens};
    kernel->tile_matmul(&p.matrix, &p.input, 0, f->tokens, 0, f->rows, &output);
    check_same(f, sum, whole, "tiles with bias and sum");
    prepared_release(&p);
    free(whole);
    free(parts);
    free(sum);
    free(bias);
}

static void test_tiles(void **state)
{
    (void)state;
    static const uint32_t sizes[][3] = {{1, 256, 1}, {16, 768, 16}, {31, 512, 17}, {83, 1280, 40}, {64, 256, 33}};
    uint32_t checked = 0;
    for (const char *const *name = kernel_names(); *name; name++) {
        const struct kernel *kernel = table_or_null(*name);
        for (int format = NF_Q4_0; kernel && kernel->tile_matmul && format < NF_COUNT; format++)
            for (size_t i = 0; i < ARRAY_COUNT(sizes); i++, checked++) {
                struct fixture f;
                fixture_init(&f, (enum number_format)format, sizes[i][0], sizes[i][1], sizes[i][2]);
                check_tiles(kernel, &f);
                fixture_release(&f);
            }
    }
    if (checked) return;
    print_message("skipped: this machine has no tiles\n");
    skip();
}

static void check_all_tables(const struct fixture *f)
{
    float *want = product(table_or_null("ref"), f);
    check_against_double(f, want, "ref");
    for (const char *const *name = kernel_names(); *name; name++) {
        const struct kernel *kernel = table_or_null(*name);
        if (!kernel || strcmp(*name, "ref") == 0) continue;
        float *out = product(kernel, f);
        check_same(f, out, want, *name);
        free(out);
    }
    free(want);
}

static uint32_t block_columns(enum number_format format)
{
    return number_format_info(format)->block_elements;
}

static void test_every_format_in_every_table(void **state)
{
    (void)state;
    random_seed(&dice, 1);
    for (int format = 0; format < NF_COUNT; format++)
        for (uint32_t round = 0; round < test_count(12, 200); round++) {
            uint32_t block = block_columns((enum number_format)format), most = 1600 / block;
            uint32_t columns = block * (1 + (uint32_t)random_below(&dice, round % 4 ? most / 4 + 1 : most));
            uint32_t rows = 1 + (uint32_t)random_below(&dice, ROWS_MOST - 1);
            struct fixture f;
            fixture_init(&f, (enum number_format)format, rows, columns, 1 + (uint32_t)random_below(&dice, TOKENS_MOST));
            check_all_tables(&f);
            fixture_release(&f);
        }
}

/* Every token count from 1 to 40, so that every way of cutting tokens into micro kernel calls is met; and a count that
 * passes the slab of 576 tokens. */
static void test_every_token_count(void **state)
{
    (void)state;
    static const enum number_format formats[] = {NF_Q5_0, NF_Q4_1, NF_Q6_K, NF_F16};
    random_seed(&dice, 2);
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++)
        for (uint32_t tokens = 1; tokens <= TOKENS_MOST + 1; tokens++) {
            struct fixture f;
            fixture_init(&f, formats[i], 19, 768, tokens <= TOKENS_MOST ? tokens : 591);
            check_all_tables(&f);
            fixture_release(&f);
        }
}

/* One output is a function of its own row and token only: any split of rows and tokens gives the bits of the whole. */
static void test_splits_change_no_bits(void **state)
{
    (void)state;
    random_seed(&dice, 3);
    for (int format = 0; format < NF_COUNT; format++) {
        struct fixture f;
        fixture_init(&f, (enum number_format)format, ROWS_MOST, 1024, 33);
        for (const char *const *name = kernel_names(); *name; name++) {
            const struct kernel *kernel = table_or_null(*name);
            if (!kernel) continue;
            float *whole = product(kernel, &f), *parts = malloc(33 * ROWS_MOST * sizeof(float));
            struct prepared p;
            prepare(kernel, &f, &p);
            for (uint32_t row = 0, row_end; row < f.rows; row = row_end) {
                row_end = row + 16 * (1 + (uint32_t)random_below(&dice, 3));
                if (row_end > f.rows) row_end = f.rows;
                for (uint32_t token = 0, token_end; token < f.tokens; token = token_end) {
                    token_end = token + 1 + (uint32_t)random_below(&dice, 17);
                    if (token_end > f.tokens) token_end = f.tokens;
                    kernel->input_prepare(&p.input, token, token_end);
                    kernel->matmul(&p.matrix, &p.input, token, token_end, row, row_end,
                                   &(struct kernel_output){.out = parts, .stride = f.rows});
                }
            }
            check_same(&f, parts, whole, *name);
            prepared_release(&p);
            free(whole);
            free(parts);
        }
        fixture_release(&f);
    }
}

/* Columns of some tokens, quantised as an input of their own, are those of the whole; rows of a matrix, multiplied as a
 * matrix of their own, too. */
static void test_parts_change_no_bits(void **state)
{
    (void)state;
    random_seed(&dice, 7);
    struct fixture f;
    fixture_init(&f, NF_Q4_K, ROWS_MOST, 1024, 23);
    for (const char *const *name = kernel_names(); *name; name++) {
        const struct kernel *kernel = table_or_null(*name);
        if (!kernel) continue;
        float *whole = product(kernel, &f), *parts = malloc(f.tokens * ROWS_MOST * sizeof(float));
        struct prepared p;
        prepare(kernel, &f, &p);
        memset(p.storage, 0x55, kernel_input_bytes(f.tokens, f.columns));
        for (uint32_t column = 0, columns; column < f.columns; column += columns) {
            columns = 32 * (1 + (uint32_t)random_below(&dice, 7));
            if (columns > f.columns - column) columns = f.columns - column;
            for (uint32_t token = 0; token < f.tokens; token += 12) {
                uint32_t count = f.tokens - token < 12 ? f.tokens - token : 12;
                struct kernel_input part;
                kernel_input_part(&p.input, token, count, column, columns, f.x + token * f.stride + column, f.stride,
                                  &part);
                kernel->input_prepare(&part, 0, count);
            }
        }
        for (uint32_t row = 0, rows; row < f.rows; row += rows) {
            rows = 16 * (1 + (uint32_t)random_below(&dice, 3));
            if (rows > f.rows - row) rows = f.rows - row;
            struct kernel_matrix part;
            kernel_matrix_rows(&p.matrix, row, row + rows, &part);
            for (uint32_t token = 0; token < f.tokens; token += 12) {
                uint32_t count = f.tokens - token < 12 ? f.tokens - token : 12;
                struct kernel_input tokens;
                kernel_input_part(&p.input, token, count, 0, f.columns, f.x, f.stride, &tokens);
                kernel->matmul(&part, &tokens, 0, count, 0, rows,
                               &(struct kernel_output){.out = parts + token * f.rows + row, .stride = f.rows});
            }
        }
        check_same(&f, parts, whole, *name);
        prepared_release(&p);
        free(whole);
        free(parts);
    }
    fixture_release(&f);
}

/* Bias and sum are added to finished chains: the bits of the plain product plus the bias, plus what the sum held. Tokens
 * from `output.tokens` on get neither. Nothing beside the rows asked for is touched. */
static void test_bias_and_sum(void **state)
{
    (void)state;
    random_seed(&dice, 8);
    for (int format = 0; format < NF_COUNT; format++)
        for (int mode = 0; mode < 4; mode++) {
            struct fixture f;
            fixture_init(&f, (enum number_format)format, 16 + 16 + 11, mode == 3 ? 1280 : 768, mode == 3 ? 61 : 15);
            const uint32_t own = mode == 2 ? f.tokens : f.tokens - 6;
            const uint64_t stride = f.rows + 2, count = f.tokens * stride;
            float *bias = malloc(f.rows * sizeof(float)), *start = malloc(count * sizeof(float));
            for (uint32_t r = 0; r < f.rows; r++) bias[r] = random_normal();
            for (uint64_t i = 0; i < count; i++) start[i] = random_normal();
            for (const char *const *name = kernel_names(); *name; name++) {
                const struct kernel *kernel = table_or_null(*name);
                if (!kernel) continue;
                float *plain = product(kernel, &f), *out = malloc(count * sizeof(float));
                float *sum = malloc(count * sizeof(float));
                struct prepared p;
                prepare(kernel, &f, &p);
                memcpy(out, start, count * sizeof(float));
                memcpy(sum, start, count * sizeof(float));
                struct kernel_output output = {.out = out,
                                               .stride = stride,
                                               .bias = mode != 1 ? bias : NULL,
                                               .sum = mode != 0 ? sum : NULL,
                                               .sum_stride = stride,
                                               .tokens = own};
                kernel->matmul(&p.matrix, &p.input, 0, f.tokens, 0, 32, &output);
                kernel->matmul(&p.matrix, &p.input, 0, f.tokens, 32, f.rows, &output);
                for (uint32_t t = 0; t < f.tokens; t++)
                    for (uint32_t r = 0; r < stride; r++) {
                        float old = start[t * stride + r], want_out = old, want_sum = old;
                        if (r < f.rows) {
                            want_out = plain[t * f.rows + r];
                            if (t < own && output.bias) want_out += bias[r];
                            if (t < own) want_sum += want_out;
                        }
                        bool scratch = t < own && output.sum && r < f.rows;
                        if (!scratch) assert_memory_equal(&out[t * stride + r], &want_out, 4);
                        if (!output.sum || t >= own) want_sum = old;
                        assert_memory_equal(&sum[t * stride + r], &want_sum, 4);
                    }
                prepared_release(&p);
                free(plain);
                free(out);
                free(sum);
            }
            free(bias);
            free(start);
            fixture_release(&f);
        }
}

/* Scales that a hostile file may hold: every table gives the same bits, or a NaN where a scale is not finite. */
static void test_hostile_scales(void **state)
{
    (void)state;
    static const uint16_t halves[] = {0x0000, 0x8000, 0x0001, 0x83ff, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e01};
    static const uint8_t at[NF_COUNT] = {[NF_Q2_K] = 80, [NF_Q3_K] = 108, [NF_Q6_K] = 208};
    random_seed(&dice, 9);
    for (int format = NF_Q4_0; format < NF_COUNT; format++)
        for (size_t i = 0; i < ARRAY_COUNT(halves); i++) {
            struct fixture f;
            fixture_init(&f, (enum number_format)format, 16, 512, 14);
            uint64_t bytes = number_format_bytes(f.format, f.columns);
            for (uint32_t row = 0; row < f.rows; row++) memcpy(f.source + row * bytes + at[format], &halves[i], 2);
            float *want = product(table_or_null("ref"), &f);
            for (const char *const *name = kernel_names(); *name; name++) {
                const struct kernel *kernel = table_or_null(*name);
                if (!kernel) continue;
                float *out = product(kernel, &f);
                if ((halves[i] & 0x7c00) != 0x7c00) check_same(&f, out, want, *name);
                for (uint32_t o = 0; o < f.tokens * f.rows; o++) {
                    assert_int_equal(isnan(out[o]) != 0, isnan(want[o]) != 0);
                    assert_int_equal(isfinite(out[o]) != 0, (halves[i] & 0x7c00) != 0x7c00);
                }
                free(out);
            }
            free(want);
            fixture_release(&f);
        }
}

/* The largest bytes meet the largest quants of both signs: integer sums must not saturate or wrap. */
static void test_extreme_values(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {0x00, 0xff, 0x80, 0x7f, 0x81};
    static const uint16_t one = 0x3c00;
    random_seed(&dice, 4);
    for (int format = NF_Q4_0; format < NF_COUNT; format++)
        for (size_t i = 0; i < ARRAY_COUNT(bytes); i++) {
            struct fixture f;
            fixture_init(&f, (enum number_format)format, 17, 512, 9);
            uint32_t block_bytes = number_format_info(f.format)->block_bytes;
            uint64_t size = f.rows * number_format_bytes(f.format, f.columns);
            memset(f.source, bytes[i], size);
            for (uint64_t at = 0; at < size; at += block_bytes) {
                uint8_t *block = f.source + at;
                if (f.format == NF_Q2_K)
                    memcpy(block + 80, &one, 2), memcpy(block + 82, &one, 2);
                else if (f.format == NF_Q3_K)
                    memcpy(block + 108, &one, 2);
                else if (f.format == NF_Q6_K)
                    memcpy(block + 208, &one, 2);
                else
                    memcpy(block, &one, 2);
                if (f.format == NF_Q4_1 || f.format == NF_Q5_1 || f.format == NF_Q4_K || f.format == NF_Q5_K)
                    memcpy(block + 2, &one, 2);
            }
            number_format_decode(f.format, f.source, f.weights, (uint64_t)f.rows * f.columns);
            for (uint32_t t = 0; t < f.tokens; t++)
                for (uint32_t c = 0; c < f.columns; c++)
                    f.x[t * f.stride + c] = t % 3 == 0 ? 1.0f : t % 3 == 1 ? -1.0f : c % 2 ? 1.0f : -1.0f;
            check_all_tables(&f);
            fixture_release(&f);
        }
}

/* Zero activations and zero weights give zeros, also beside tiny activations whose scale would not be finite. */
static void test_zero_rows(void **state)
{
    (void)state;
    random_seed(&dice, 5);
    for (int format = 0; format < NF_COUNT; format++) {
        struct fixture f;
        fixture_init(&f, (enum number_format)format, 21, 256, 6);
        memset(f.x, 0, f.stride * sizeof(float));
        for (uint32_t c = 0; c < f.columns; c++) f.x[f.stride + c] = 1e-38f;
        uint64_t row_bytes = number_format_bytes(f.format, f.columns);
        memset(f.source + 3 * row_bytes, 0, row_bytes);
        for (const char *const *name = kernel_names(); *name; name++) {
            const struct kernel *kernel = table_or_null(*name);
            if (!kernel) continue;
            float *out = product(kernel, &f);
            for (uint32_t i = 0; i < f.tokens * f.rows; i++) {
                assert_true(isfinite(out[i]));
                if (i / f.rows == 0 || i % f.rows == 3) assert_true(out[i] == 0.0f);
                if (i / f.rows == 1) assert_true(fabsf(out[i]) < 1e-30f);
            }
            free(out);
        }
        fixture_release(&f);
    }
}

/* The quantiser: the largest of 32 becomes 127, and what it stands for is within half a step. Same bytes in all tables.
 */
static void test_input_prepare_same_in_every_table(void **state)
{
    (void)state;
    random_seed(&dice, 6);
    struct fixture f;
    fixture_init(&f, NF_Q8_0, 1, 1056, 23);
    for (uint32_t c = 0; c < 32; c++) f.x[c] = c == 5 ? -127.0f : (float)c + 0.5f; /* ties: to even */
    uint64_t bytes = kernel_input_bytes(f.tokens, f.columns);
    uint8_t *want = mem_aligned(64, bytes), *got = mem_aligned(64, bytes);
    memset(want, 0, bytes);
    struct kernel_input input;
    kernel_input_init(&input, want, f.x, f.stride, f.tokens, f.columns);
    table_or_null("ref")->input_prepare(&input, 0, f.tokens);
    for (const char *const *name = kernel_names(); *name; name++) {
        const struct kernel *kernel = table_or_null(*name);
        if (!kernel) continue;
        memset(got, 0, bytes);
        kernel_input_init(&input, got, f.x, f.stride, f.tokens, f.columns);
        for (uint32_t begin = 0, end; begin < f.tokens; begin = end) { /* whole blocks of 4 tokens, and parts of one */
            end = begin + 1 + (uint32_t)random_below(&dice, 9);
            if (end > f.tokens) end = f.tokens;
            kernel->input_prepare(&input, begin, end);
        }
        assert_memory_equal(got, want, bytes);
    }
    mem_free(want);
    mem_free(got);
    fixture_release(&f);
}

static void test_packing_is_compact_and_thread_independent(void **state)
{
    (void)state;
    random_seed(&dice, 7);
    struct pool *pool;
    assert_int_equal(pool_open(2, &pool, NULL), ST_OK);
    for (int format = 0; format < NF_COUNT; format++) {
        struct fixture f;
        fixture_init(&f, (enum number_format)format, 16 + 48 + 5, 256, 3);
        const struct kernel *kernel = table_or_null("auto");
        struct kernel_matrix alone, shared;
        assert_int_equal(kernel_matrix_pack(kernel, f.format, f.source, f.rows, f.columns, NULL, &alone), ST_OK);
        assert_int_equal(kernel_matrix_pack(kernel, f.format, f.source, f.rows, f.columns, pool, &shared), ST_OK);
        assert_int_equal(shared.bytes, alone.bytes);
        assert_memory_equal(shared.data, alone.data, alone.bytes);
        /* at about the file's bit width: padding rows and a line per tile at most */
        assert_true(alone.bytes <= 80 * number_format_bytes(f.format, f.columns) + 5 * 64);
        kernel_matrix_release(&alone);
        kernel_matrix_release(&shared);
        fixture_release(&f);
    }
    pool_close(pool);
}

static void test_pack_reports_no_memory(void **state)
{
    (void)state;
    struct kernel_matrix matrix;
    const float weights[4] = {1, 2, 3, 4};
    fault_arm(FAULT_ALLOC, 1);
    assert_int_equal(kernel_matrix_pack(table_or_null("ref"), NF_F32, weights, 1, 4, NULL, &matrix), ST_NOMEM);
    fault_arm(FAULT_NONE, 0);
    assert_null(matrix.data);
    kernel_matrix_release(&matrix);
}

static void test_select(void **state)
{
    (void)state;
    const struct kernel *kernel;
    struct error error;
    assert_int_equal(kernel_select("sse9", &kernel, &error), ST_NOT_FOUND);
    assert_non_null(strstr(error.text, "sse9"));
    for (const char *const *name = kernel_names(); *name; name++) {
        assert_non_null(strstr(error.text, *name));
        if (kernel_select(*name, &kernel, NULL) == ST_OK) assert_string_equal(kernel->name, *name);
    }
    assert_int_equal(kernel_select(NULL, &kernel, NULL), ST_OK);
    const char *best = NULL;
    for (const char *const *name = kernel_names(); *name; name++)
        if (table_or_null(*name)) best = *name;
    assert_string_equal(kernel->name, best);
    assert_int_equal(kernel_select("ref", &kernel, NULL), ST_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_format_in_every_table),
        cmocka_unit_test(test_every_token_count),
        cmocka_unit_test(test_splits_change_no_bits),
        cmocka_unit_test(test_parts_change_no_bits),
        cmocka_unit_test(test_bias_and_sum),
        cmocka_unit_test(test_hostile_scales),
        cmocka_unit_test(test_extreme_values),
        cmocka_unit_test(test_zero_rows),
        cmocka_unit_test(test_input_prepare_same_in_every_table),
        cmocka_unit_test(test_packing_is_compact_and_thread_independent),
        cmocka_unit_test(test_pack_reports_no_memory),
        cmocka_unit_test(test_tiles),
        cmocka_unit_test(test_select),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
