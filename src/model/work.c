/* work.c - what a pass has to do, counted from the matrices that are there and the keys that are seen. */
#include "model_internal.h"

static void count_matrix(const struct kernel_matrix *matrix, uint32_t tokens, struct model_work *work)
{
    uint64_t macs = (uint64_t)matrix->rows * matrix->columns * tokens;
    if (weights_quantised(matrix))
        work->int8_macs += macs;
    else
        work->f32_macs += macs;
    if (tokens) work->weight_bytes += matrix->bytes;
}

/* Keys seen by tokens 0…count-1 together; window 0: each sees itself and all before it. */
static uint64_t keys_seen(uint64_t count, uint64_t window)
{
    if (!window || count <= window) return count * (count + 1) / 2;
    return window * (window + 1) / 2 + (count - window) * window;
}

void model_work(const struct model *model, const struct kv_layer *kv_layers, uint32_t position, uint32_t count,
                uint32_t logits_count, struct model_work *out)
{
    const struct model_config *c = &model->config;
    *out = (struct model_work){0};
    for (uint32_t i = 0; i < c->layers; i++) {
        const struct layer *layer = &model->layers[i];
        const struct linear *linears[] = {&layer->q,    &layer->k,  &layer->v,   &layer->output,
                                          &layer->gate, &layer->up, &layer->down};
        for (size_t j = 0; j < ARRAY_COUNT(linears); j++) count_matrix(&linears[j]->weights, count, out);
        uint32_t window = kv_layers[i].kind == KV_SLIDING ? kv_layers[i].window : 0;
        uint64_t keys = keys_seen((uint64_t)position + count, window) - keys_seen(position, window);
        uint64_t macs = keys * c->heads * (c->head_dim + c->value_dim);
        out->attention_macs += macs;
        if (kv_layers[i].k_format != NF_F32 || kv_layers[i].v_format != NF_F32) out->attention_int16_macs += macs;
        out->kv_bytes += keys * kv_layer_bytes_per_token(&kv_layers[i]);
    }
    count_matrix(&model->output.weights, logits_count, out);
}
