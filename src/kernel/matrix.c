/* matrix.c - packs weight matrices: the file's blocks, transposed by tiles of 16 rows (layout: matmul_internal.h).
 *
 * One pass from the file's bytes to the packed ones, tiles split over the pool; no scratch copy. All tables share this
 * layout, so `kernel` only names who will read it. */
#include "kernel/matmul_internal.h"

#include <string.h>

const struct tile_format *tile_format(enum number_format format)
{
    static const struct tile_format formats[NF_COUNT] = {
        [NF_Q4_0] = {1, 0, 4, 2},    [NF_Q4_1] = {2, 0, 4, 4},   [NF_Q5_0] = {1, 0, 5, 2},
        [NF_Q5_1] = {2, 0, 5, 4},    [NF_Q8_0] = {1, 0, 8, 2},   [NF_Q2_K] = {2, 80, 20, 0},
        [NF_Q3_K] = {1, 108, 27, 0}, [NF_Q4_K] = {2, 0, 35, 4},  [NF_Q5_K] = {2, 0, 43, 4},
        [NF_Q6_K] = {1, 208, 52, 0}, [NF_IQ4_NL] = {1, 0, 4, 2}, [NF_IQ4_XS] = {2, 0, 33, 4},
    };
    return &formats[format];
}

uint64_t tile_words_at(enum number_format format, uint32_t columns)
{
    uint64_t blocks = columns / number_format_info(format)->block_elements;
    return round_up(blocks * tile_format(format)->halves * TILE_ROWS * 2, 64);
}

uint64_t tile_bytes(enum number_format format, uint32_t columns)
{
    const struct number_format_info *info = number_format_info(format);
    uint64_t blocks = columns / info->block_elements;
    if (info->block_elements == 1) return round_up(blocks * info->block_bytes * TILE_ROWS, 64);
    return tile_words_at(format, columns) + blocks * tile_format(format)->words * TILE_ROWS * 4;
}

/* Q5_0's fifth bits: bit 4j + i belongs to element 4j + i; as Q5_K has them it is bit j of byte i. */
static uint32_t fifth_bits_by_byte(uint32_t bits)
{
    uint32_t out = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t b = bits >> i & 0x11111111u;
        b = (b | b >> 3) & 0x03030303u;
        b = (b | b >> 6) & 0x000f000fu;
        b = (b | b >> 12) & 0xffu;
        out |= b << (8 * i);
    }
    return out;
}

/* One tile of a quantised matrix: `rows` (1...16) rows at `source`; the other lanes stay as the zeroed memory is. */
static void pack_quants(enum number_format format, const uint8_t *source, uint64_t row_bytes, uint32_t rows,
                        uint32_t columns, uint8_t *tile)
{
    const struct number_format_info *info = number_format_info(format);
    const struct tile_format fields = *tile_format(format);
    uint16_t *halves = (uint16_t *)tile;
    uint32_t *words = (uint32_t *)(tile + tile_words_at(format, columns));
    uint64_t blocks = columns / info->block_elements;
    bool fifth = format == NF_Q5_0 || format == NF_Q5_1;
    for (uint64_t b = 0; b < blocks; b++, halves += fields.halves * TILE_ROWS, words += fields.words * TILE_ROWS) {
        for (uint32_t row = 0; row < rows; row++) {
            const uint8_t *block = source + row * row_bytes + b * info->block_bytes;
            for (uint32_t h = 0; h < fields.halves; h++)
                memcpy(&halves[h * TILE_ROWS + row], block + fields.half_at + 2 * h, 2);
            for (uint32_t w = 0; w < fields.words; w++)
                memcpy(&words[w * TILE_ROWS + row], block + fields.word_at + 4 * w, 4);
        }
        if (fifth)
            for (uint32_t row = 0; row < TILE_ROWS; row++) words[row] = fifth_bits_by_byte(words[row]);
    }
}

static void pack_floats(const uint8_t *source, uint64_t row_bytes, uint32_t rows, uint32_t columns,
                        uint32_t element_bytes, uint8_t *tile)
{
    for (uint32_t row = 0; row < rows; row++) {
        const uint8_t *at = source + row * row_bytes;
        if (element_bytes == 4)
            for (uint64_t c = 0; c < columns; c++) memcpy(tile + (c * TILE_ROWS + row) * 4, at + c * 4, 4);
        else
            for (uint64_t c = 0; c < columns; c++) memcpy(tile + (c * TILE_ROWS + row) * 2, at + c * 2, 2);
    }
}

struct pack_task {
    enum number_format format;
    const uint8_t *source;
    uint32_t rows, columns;
    uint64_t tiles, tile_bytes;
    uint8_t *data;
};

static void pack_tile(const struct pack_task *task, uint64_t tile)
{
    const struct number_format_info *info = number_format_info(task->format);
    uint64_t row = tile * TILE_ROWS, row_bytes = number_format_bytes(task->format, task->columns);
    uint32_t rows = task->rows - row < TILE_ROWS ? (uint32_t)(task->rows - row) : TILE_ROWS;
    const uint8_t *source = task->source + row * row_bytes;
    uint8_t *out = task->data + tile * task->tile_bytes;
    if (info->block_elements == 1)
        pack_floats(source, row_bytes, rows, task->columns, info->block_bytes, out);
    else
        pack_quants(task->format, source, row_bytes, rows, task->columns, out);
}

static void pack_share(void *data, uint32_t worker, uint32_t workers)
{
    const struct pack_task *task = data;
    uint64_t begin, end;
    pool_share(task->tiles, 1, worker, workers, &begin, &end);
    for (uint64_t tile = begin; tile < end; tile++) pack_tile(task, tile);
}

enum status kernel_matrix_pack(const struct kernel *kernel, enum number_format format, const void *source,
                               uint32_t rows, uint32_t columns, struct pool *pool, struct kernel_matrix *out)
{
    ASSERT(kernel && rows > 0 && columns > 0 && number_format_bytes(format, columns) > 0);
    uint64_t bytes;
    struct pack_task task = {.format = format,
                             .source = source,
                             .rows = rows,
                             .columns = columns,
                             .tiles = ((uint64_t)rows + TILE_ROWS - 1) / TILE_ROWS,
                             .tile_bytes = tile_bytes(format, columns)};
    *out = (struct kernel_matrix){.format = format, .rows = rows, .columns = columns};
    if (!checked_mul(task.tiles, task.tile_bytes, &bytes) || bytes > SIZE_MAX) return ST_NOMEM;
    out->data = mem_map((size_t)bytes); /* zeroed: the padding rows and bytes */
    if (!out->data) return ST_NOMEM;
    out->bytes = bytes;
    task.data = out->data;
    if (pool)
        pool_run(pool, pack_share, &task);
    else
        pack_share(&task, 0, 1);
    return ST_OK;
}

void kernel_matrix_release(struct kernel_matrix *matrix)
{
    mem_unmap(matrix->data, (size_t)matrix->bytes);
    *matrix = (struct kernel_matrix){0};
}
