/* roofline.h - what this machine can do at best, and so the most tokens per second that a benchmark could show.
 * docs/roofline.md has the formulas. Private to eval. */
#ifndef EVAL_ROOFLINE_H
#define EVAL_ROOFLINE_H
#include "eval/eval_internal.h"

/* Measured with all threads of the model and the loops of its kernel table; 0 where that has no such loop. */
struct roofline_machine {
    double int8_macs_per_s, int16_macs_per_s, f32_macs_per_s, tile_macs_per_s;
    double read_bytes_per_s; /* over a buffer of the size that was asked for */
};

/* One benchmark, as the work of a token of it, on the average. */
struct roofline_cell {
    bool decode;
    /* Of a token: as in struct model_work, `bytes` those of weights, K and V. */
    double int8_macs, f32_macs, attention_macs, attention_int16_macs, bytes;
    uint64_t working_set;            /* bytes that are read again and again */
    struct roofline_machine machine; /* mean of the measurements made for this cell */
    uint32_t measurements;
    double limit_tokens_per_s; /* 0 = not known */
};

#define ROOFLINE_SIZES 3u /* of buffers, for a look at the machine's caches */
struct roofline {
    const struct model *model;
    struct pool *pool;       /* owned, as all below */
    struct kv_layer *layers; /* [layers of the model] */
    double *cpu_seconds;     /* [threads] what each ran in the last pass of multiply-adds */
    /* Measured at the beginning; 0 = no such loop. */
    double int8_macs_per_s, int16_macs_per_s, f32_macs_per_s, tile_macs_per_s;
    uint64_t read_bytes[ROOFLINE_SIZES];
    double read_bytes_per_s[ROOFLINE_SIZES];
};

/* Measures the machine, which takes about a second. ST_NOMEM; ST_INVALID when the model was opened without weights. */
MUST_CHECK enum status roofline_init(struct roofline *roofline, const struct kvasir_model *model,
                                     const char *kv_cache_dtype, struct error *error);
void roofline_release(struct roofline *roofline);

/* What a prefill of `tokens` tokens from empty has to do, the last one with logits, … */
void roofline_prefill(const struct roofline *roofline, uint32_t tokens, struct roofline_cell *out);
/* … or a decode of `tokens` tokens, one by one, the first at position `depth`. */
void roofline_decode(const struct roofline *roofline, uint32_t depth, uint32_t tokens, struct roofline_cell *out);
/* Measures the machine for the cell, once more, and sets its limit. A machine that others use too may change by the
 * second, so this is done just before and just after the cell's own runs. ST_NOMEM. */
MUST_CHECK enum status roofline_measure(const struct roofline *roofline, struct roofline_cell *cell,
                                        struct error *error);
/* The limit that a cell has by its work and its machine; 0 = not known. */
double roofline_limit(const struct roofline_cell *cell);

#endif
