/* matmul.c - walks tiles, panels and tokens for every instruction set (layout and chains: matmul_internal.h).
 *
 * Few tokens go over whole tiles (`sweep`), where the instruction set has that for the format. Others are in order:
 * slabs of columns, tiles of 16 rows, panels, tokens. Where the tokens' quants fit the second-level cache the slab
 * is the whole row, so that a tile's bytes are read in one sweep; else it is one panel, so that the quants of the slab stay
 * there while the tiles pass. Between panels the chains wait in `out`: an f32 loses nothing there, so the
 * order changes no bits. */
#include "kernel/matmul_internal.h"

#define SWEEP_MOST 32u        /* tokens; with more, unpacking once into a panel is as fast */
#define WIDE_TOKENS 8u        /* from here on int16 weights pay */
#define PREFETCH_BYTES 16384u /* how far ahead of the panel, where the slab is the row */
#define SLAB_TOKENS 576u      /* 576 tokens x 512 columns x 1.6 bytes: 480 KB */

enum matmul_kind matmul_kind(enum number_format format)
{
    switch (format) {
    case NF_Q4_0:
        return KIND_OFFSET_8;
    case NF_Q5_0:
        return KIND_OFFSET_16;
    case NF_Q8_0:
    case NF_IQ4_NL:
    case NF_IQ4_XS:
        return KIND_OFFSET_128;
    case NF_Q4_1:
    case NF_Q4_K:
        return KIND_MINIMUM_4;
    case NF_Q5_1:
    case NF_Q5_K:
        return KIND_MINIMUM_5;
    case NF_Q3_K:
        return KIND_HALF_OFFSET_4;
    case NF_Q6_K:
        return KIND_HALF_OFFSET_32;
    case NF_Q2_K:
        return KIND_HALF_MINIMUM;
    default:
        break;
    }
    ASSERT(!"a quantised format");
    return KIND_COUNT;
}

struct matmul_job {
    const struct matmul_set *set;
    const struct kernel_matrix *weights;
    const struct kernel_input *input;
    uint32_t row_begin, row_end;
    const struct kernel_output *output;
};

/* Where tokens from `token` on, rows from `row` on go, and what is added to the finished chains. */
static struct matmul_result result_at(const struct matmul_job *job, uint32_t token, uint32_t row, bool finished)
{
    const struct kernel_output *output = job->output;
    uint32_t rows_left = job->row_end - row;
    struct matmul_result result = {.out = output->out + token * output->stride + row,
                                   .out_stride = output->stride,
                                   .rows = rows_left < TILE_ROWS ? rows_left : TILE_ROWS};
    if (!finished || token >= output->tokens) return result;
    if (output->bias) result.bias = output->bias + row;
    if (output->sum) result.sum = output->sum + token * output->sum_stride + row;
    result.sum_stride = output->sum_stride;
    return result;
}

/* How far tokens from `token` on are treated alike. */
static uint32_t alike_end(const struct matmul_job *job, uint32_t token, uint32_t token_end)
{
    uint32_t end = job->output->tokens;
    return (job->output->bias || job->output->sum) && token < end && end < token_end ? end : token_end;
}

/* How many tokens one micro kernel call takes: to the next block of 4, or whole blocks. */
static uint32_t call_tokens(uint32_t token, uint32_t token_end, uint32_t tokens_max)
{
    uint32_t rest = token_end - token, lane = token % INPUT_TOKENS;
    if (lane) return rest < INPUT_TOKENS - lane ? rest : INPUT_TOKENS - lane;
    if (rest >= tokens_max) return tokens_max;
    return rest < INPUT_TOKENS ? rest : rest / INPUT_TOKENS * INPUT_TOKENS;
}

/* The kind that a slab of `tokens` tokens is multiplied in. */
static enum matmul_kind slab_kind(const struct matmul_job *job, uint32_t tokens)
{
    enum matmul_kind kind = matmul_kind(job->weights->format);
    return kind == KIND_OFFSET_128 && job->set->widen && tokens >= WIDE_TOKENS ? KIND_WIDE : kind;
}

/* One panel of one tile, at `row` and column group `group`. */
struct matmul_place {
    const struct matmul_panel *panel;
    const uint8_t *tile;
    uint64_t group_bytes; /* of the tile, per 32 columns */
    uint64_t ahead;       /* how far behind this panel lie the bytes to ask for */
    uint32_t row, group, groups;
};

static void panel_times_tokens(const struct matmul_job *job, const struct matmul_place *place, uint32_t token_begin,
                               uint32_t token_end)
{
    enum matmul_kind kind = slab_kind(job, token_end - token_begin);
    uint32_t tokens_max = job->set->micro[kind].tokens_max, groups = job->weights->columns / GROUP_COLUMNS;
    bool last = place->group + place->groups == groups;
    struct matmul_call call = {.panel = place->panel,
                               .groups = place->groups,
                               .block_stride = job->input->block_groups,
                               .first = place->group == 0,
                               .prefetch = (uintptr_t)place->tile + place->group * place->group_bytes + place->ahead,
                               .prefetch_lines = (uint32_t)(place->group_bytes + 63) / 64};
    for (uint32_t token = token_begin; token < token_end; token += call.tokens) {
        uint64_t at = token / INPUT_TOKENS * job->input->block_groups + place->group;
        call.tokens = call_tokens(token, alike_end(job, token, token_end), tokens_max);
        call.lane = token % INPUT_TOKENS;
        call.input = job->input->groups + at;
        call.halves = job->input->halves + at;
        call.result = result_at(job, token, place->row, last);
        job->set->micro[kind].run(&call);
        call.prefetch_lines = 0;
    }
}

/* How many of `rest` tokens one sweep takes: those of a block that was begun, else of any number as many as it can. */
static uint32_t sweep_tokens(uint32_t lane, uint32_t rest)
{
    uint32_t most = lane ? INPUT_TOKENS - lane : SWEEP_TOKENS;
    return rest < most ? rest : most;
}

/* All columns of all tiles of the job, times few tokens. */
static void sweep_tiles(const struct matmul_job *job, uint32_t token_begin, uint32_t token_end)
{
    const struct kernel_matrix *weights = job->weights;
    uint64_t bytes = tile_bytes(weights->format, weights->columns);
    uint64_t words_at = tile_words_at(weights->format, weights->columns);
    uint32_t groups = weights->columns / GROUP_COLUMNS;
    struct matmul_call call = {.groups = groups, .block_stride = job->input->block_groups, .first = true};
    for (uint32_t row = job->row_begin; row < job->row_end; row += TILE_ROWS) {
        const uint8_t *tile = (const uint8_t *)weights->data + row / TILE_ROWS * bytes;
        call.prefetch = (uintptr_t)tile + PREFETCH_BYTES;
        call.prefetch_lines = (uint32_t)(bytes / groups + 63) / 64;
        for (uint32_t token = token_begin; token < token_end; token += call.tokens) {
            uint64_t at = token / INPUT_TOKENS * job->input->block_groups;
            call.lane = token % INPUT_TOKENS;
            call.tokens = sweep_tokens(call.lane, alike_end(job, token, token_end) - token);
            call.input = job->input->groups + at;
            call.halves = job->input->halves + at;
            call.result = result_at(job, token, row, true);
            job->set->sweep[weights->format]((const uint16_t *)tile, (const uint32_t *)(tile + words_at), &call);
            call.prefetch_lines = 0;
        }
    }
}

/* Columns [slab_begin, slab_end), in groups of 32, of all tiles of the job. */
static void slab_times_tokens(const struct matmul_job *job, uint32_t slab_begin, uint32_t slab_end,
                              uint32_t token_begin, uint32_t token_end)
{
    const struct kernel_matrix *weights = job->weights;
    matmul_unpack_fn *unpack = job->set->unpack[weights->format];
    uint64_t bytes = tile_bytes(weights->format, weights->columns);
    uint64_t words_at = tile_words_at(weights->format, weights->columns);
    const bool whole =
        slab_end - slab_begin == weights->columns / GROUP_COLUMNS; /* then panels lie one behind the other */
    struct matmul_panel panel;
    for (uint32_t row = job->row_begin; row < job->row_end; row += TILE_ROWS) {
        const uint8_t *tile = (const uint8_t *)weights->data + row / TILE_ROWS * bytes;
        const uint16_t *halves = (const uint16_t *)tile;
        const uint32_t *words = (const uint32_t *)(tile + words_at);
        for (uint32_t group = slab_begin; group < slab_end; group += PANEL_GROUPS) {
            uint32_t groups = slab_end - group < PANEL_GROUPS ? slab_end - group : PANEL_GROUPS;
            unpack(halves, words, group, groups, &panel);
            if (slab_kind(job, token_end - token_begin) == KIND_WIDE) job->set->widen(&panel, groups);
            struct matmul_place place = {.panel = &panel,
                                         .tile = tile,
                                         .group_bytes = bytes / (weights->columns / GROUP_COLUMNS),
                                         .ahead = whole ? PREFETCH_BYTES : bytes,
                                         .row = row,
                                         .group = group,
                                         .groups = groups};
            panel_times_tokens(job, &place, token_begin, token_end);
        }
    }
}

static void run_quants(const struct matmul_job *job, uint32_t token_begin, uint32_t token_end)
{
    if (job->set->sweep[job->weights->format] && token_end - token_begin <= SWEEP_MOST) {
        sweep_tiles(job, token_begin, token_end);
        return;
    }
    uint32_t groups = job->weights->columns / GROUP_COLUMNS;
    uint32_t slabs = (token_end - token_begin + SLAB_TOKENS - 1) / SLAB_TOKENS;
    for (uint32_t begin = token_begin, end; begin < token_end; begin = end, slabs--) {
        uint32_t tokens = (token_end - begin + slabs - 1) / slabs;
        end = (begin + tokens + INPUT_TOKENS - 1) / INPUT_TOKENS * INPUT_TOKENS;
        if (end > token_end) end = token_end;
        bool fit = (end - begin) * (uint64_t)groups <= SLAB_TOKENS * PANEL_GROUPS;
        uint32_t slab_groups = fit ? groups : PANEL_GROUPS;
        for (uint32_t slab = 0; slab < groups; slab += slab_groups) {
            uint32_t slab_end = groups - slab < slab_groups ? groups : slab + slab_groups;
            slab_times_tokens(job, slab, slab_end, begin, end);
        }
    }
}

static void run_floats(const struct matmul_job *job, matmul_float_fn *micro, uint32_t token_begin, uint32_t token_end)
{
    const struct kernel_matrix *weights = job->weights;
    uint64_t bytes = tile_bytes(weights->format, weights->columns);
    for (uint32_t row = job->row_begin; row < job->row_end; row += TILE_ROWS)
        for (uint32_t token = token_begin, tokens; token < token_end; token += tokens) {
            tokens = alike_end(job, token, token_end) - token;
            if (tokens > job->set->float_tokens_max) tokens = job->set->float_tokens_max;
            if (tokens > INPUT_TOKENS) tokens = tokens / INPUT_TOKENS * INPUT_TOKENS;
            struct matmul_float_call call = {.tile = (const uint8_t *)weights->data + row / TILE_ROWS * bytes,
                                             .input = job->input->rows + token * job->input->stride,
                                             .input_stride = job->input->stride,
                                             .columns = weights->columns,
                                             .tokens = tokens,
                                             .result = result_at(job, token, row, true)};
            micro(&call);
        }
}

void matmul_run(const struct matmul_set *set, const struct kernel_matrix *weights, const struct kernel_input *input,
                uint32_t token_begin, uint32_t token_end, uint32_t row_begin, uint32_t row_end,
                const struct kernel_output *output)
{
    ASSERT(input->columns == weights->columns && token_end <= input->tokens && row_end <= weights->rows);
    ASSERT(row_begin % TILE_ROWS == 0);
    struct matmul_job job = {
        .set = set, .weights = weights, .input = input, .row_begin = row_begin, .row_end = row_end, .output = output};
    switch (weights->format) {
    case NF_F32:
        run_floats(&job, set->float_f32, token_begin, token_end);
        break;
    case NF_F16:
        run_floats(&job, set->float_f16, token_begin, token_end);
        break;
    case NF_BF16:
        run_floats(&job, set->float_bf16, token_begin, token_end);
        break;
    default:
        run_quants(&job, token_begin, token_end);
        break;
    }
}
