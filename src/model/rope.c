/* rope.c - rotation frequencies from metadata: plain (Su et al. 2021), linear (Chen et al. 2023), YaRN (Peng et al.
 * 2023), llama3 (Dubey et al. 2024), and explicit factors (tensor rope_freqs).
 *
 * A frequency here is fixed when the model is opened: a token's rotation depends on its position alone. Schemes in
 * which old tokens rotate again as the text grows are refused. */
#include "model_internal.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

struct scaling {
    char type[32];
    double factor, original, attention_factor, low, high, beta_fast, beta_slow;
    bool truncate;
};

static enum status refuse(const struct format *format, const char *type, struct error *error)
{
    static const char *const rerotating[] = {"dynamic",     "ntk",         "dynamic_ntk", "rerope",
                                             "self_extend", "self-extend", "selfextend"};
    for (size_t i = 0; i < ARRAY_COUNT(rerotating); i++)
        if (strcmp(type, rerotating[i]) == 0)
            return error_set(
                error, ST_UNSUPPORTED,
                "%s: rope scaling '%s' rotates old tokens again as the text grows, so their K could not be "
                "cached; use a model with linear, yarn or llama3 scaling",
                format_path(format), type);
    return error_set(error, ST_UNSUPPORTED, "%s: rope scaling '%s' is not known; Kvasir knows linear, yarn and llama3",
                     format_path(format), type);
}

static enum status read_number(const struct format *format, const char *key, double least, double *value,
                               struct error *error)
{
    if (!format_has(format, key)) return ST_OK;
    enum status status = format_get_double(format, key, value, error);
    if (status == ST_OK && !(isfinite(*value) && *value > least))
        return error_set(error, ST_INVALID, "%s: %s must be more than %g", format_path(format), key, least);
    return status;
}

static enum status read_scaling(const struct format *format, struct scaling *s, struct error *error)
{
    *s = (struct scaling){.type = "none",
                          .factor = 1,
                          .attention_factor = 1,
                          .low = 1,
                          .high = 4,
                          .beta_fast = 32,
                          .beta_slow = 1,
                          .truncate = true};
    const char *type;
    size_t bytes;
    enum status status = ST_OK;
    if (format_has(format, ".rope.scaling.type")) {
        status = format_get_text(format, ".rope.scaling.type", &type, &bytes, error);
        if (status != ST_OK) return status;
        snprintf(s->type, sizeof s->type, "%s", strcmp(type, "default") == 0 ? "none" : type);
    } else if (format_has(format, ".rope.scale_linear")) { /* before GGUF had scaling types */
        snprintf(s->type, sizeof s->type, "linear");
        status = read_number(format, ".rope.scale_linear", 0, &s->factor, error);
    }
    const struct {
        const char *key;
        double least, *value;
    } numbers[] = {
        {".rope.scaling.factor", 0, &s->factor},
        {".rope.scaling.original_context_length", 0, &s->original},
        {".rope.scaling.attn_factor", 0, &s->attention_factor},
        {".rope.scaling.low_freq_factor", 0, &s->low},
        {".rope.scaling.high_freq_factor", 0, &s->high},
        {".rope.scaling.yarn_beta_fast", 0, &s->beta_fast},
        {".rope.scaling.yarn_beta_slow", 0, &s->beta_slow},
    };
    for (size_t i = 0; i < ARRAY_COUNT(numbers) && status == ST_OK; i++)
        status = read_number(format, numbers[i].key, numbers[i].least, numbers[i].value, error);
    if (status == ST_OK && format_has(format, ".rope.scaling.truncate"))
        status = format_get_bool(format, ".rope.scaling.truncate", &s->truncate, error);
    return status;
}

static void scale_yarn(const struct scaling *s, double base, uint32_t dims, float *frequencies)
{
    const double turn = 6.283185307179586;
    double low = dims * log(s->original / (s->beta_fast * turn)) / (2 * log(base));
    double high = dims * log(s->original / (s->beta_slow * turn)) / (2 * log(base));
    if (s->truncate) low = floor(low), high = ceil(high);
    if (low < 0) low = 0;
    if (high > dims - 1) high = dims - 1;
    if (low == high) high += 0.001;
    for (uint32_t i = 0; i < dims / 2; i++) {
        double ramp = (i - low) / (high - low);
        ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        frequencies[i] = (float)(frequencies[i] / s->factor * ramp + frequencies[i] * (1 - ramp));
    }
}

static void scale_llama3(const struct scaling *s, uint32_t dims, float *frequencies)
{
    const double turn = 6.283185307179586;
    for (uint32_t i = 0; i < dims / 2; i++) {
        double f = frequencies[i], length = turn / f;
        if (length > s->original / s->low) {
            f /= s->factor;
        } else if (length >= s->original / s->high) {
            double smooth = (s->original / length - s->low) / (s->high - s->low);
            f = (1 - smooth) * f / s->factor + smooth * f;
        }
        frequencies[i] = (float)f;
    }
}

/* Frequencies of the full layers by the file's scaling; a tensor rope_freqs.weight divides them (llama 3.1 in GGUF). */
static enum status scale(const struct format *format, struct model_config *config, double base, struct error *error)
{
    struct scaling s;
    enum status status = read_scaling(format, &s, error);
    if (status != ST_OK) return status;
    uint32_t dims = config->rope_dimensions;
    float *frequencies = config->rope_frequencies[0];
    config->rope_attention_factor = 1;
    if (s.original == 0) s.original = config->context_length;
    if (strcmp(s.type, "linear") == 0) {
        for (uint32_t i = 0; i < dims / 2; i++) frequencies[i] = (float)(frequencies[i] / s.factor);
    } else if (strcmp(s.type, "yarn") == 0) {
        if (base <= 1) return error_set(error, ST_INVALID, "%s: yarn needs a rope base above 1", format_path(format));
        scale_yarn(&s, base, dims, frequencies);
        config->rope_attention_factor = (float)((s.factor > 1 ? 0.1 * log(s.factor) + 1 : 1) * s.attention_factor);
        double reach = s.original * s.factor;
        if (reach > config->context_length && reach < 1u << 30) config->context_length = (uint32_t)reach;
    } else if (strcmp(s.type, "llama3") == 0) {
        if (s.high <= s.low)
            return error_set(error, ST_INVALID, "%s: llama3 rope scaling needs high_freq_factor above low_freq_factor",
                             format_path(format));
        scale_llama3(&s, dims, frequencies);
    } else if (strcmp(s.type, "none") != 0) {
        return refuse(format, s.type, error);
    }
    const struct format_tensor *factors = format_tensor_find(format, "rope_freqs.weight");
    if (!factors) return ST_OK;
    if (factors->elements != dims / 2 || factors->format != NF_F32)
        return error_set(error, ST_INVALID, "%s: tensor rope_freqs.weight is not %u f32 numbers", format_path(format),
                         dims / 2);
    for (uint32_t i = 0; i < dims / 2; i++) {
        float factor;
        memcpy(&factor, (const char *)factors->data + i * sizeof factor, sizeof factor);
        if (!(factor > 0) || !isfinite(factor))
            return error_set(error, ST_INVALID, "%s: tensor rope_freqs.weight has a factor that is not positive",
                             format_path(format));
        frequencies[i] /= factor;
    }
    return ST_OK;
}

static void plain(double base, uint32_t dims, float *frequencies)
{
    for (uint32_t i = 0; i < dims / 2; i++) frequencies[i] = 1.0f / powf((float)base, (float)(2 * i) / (float)dims);
}

enum status rope_read(const struct format *format, struct model_config *config, struct error *error)
{
    const struct model_architecture *row = config->row;
    double base = 10000, sliding_base;
    enum status status = read_number(format, ".rope.freq_base", 0, &base, error);
    sliding_base = row->sliding_base > 0 ? row->sliding_base : base;
    if (status == ST_OK) status = read_number(format, ".rope.freq_base_swa", 0, &sliding_base, error);
    uint64_t dims = config->head_dim;
    if (status == ST_OK && format_has(format, ".rope.dimension_count"))
        status = format_get_u64(format, ".rope.dimension_count", &dims, error);
    if (status != ST_OK) return status;
    if (dims < 2 || dims % 2 || dims > config->head_dim)
        return error_set(error, ST_INVALID, "%s: rope.dimension_count %llu does not fit heads of %u",
                         format_path(format), (unsigned long long)dims, config->head_dim);
    config->rope_dimensions = (uint32_t)dims;
    config->rope_neighbours = row->neighbour_rope && format_kind(format) == FORMAT_GGUF;
    for (int i = 0; i < 2; i++) {
        config->rope_frequencies[i] = mem_alloc(dims / 2 * sizeof(float));
        if (!config->rope_frequencies[i]) return error_set(error, ST_NOMEM, "not enough memory for rope frequencies");
        plain(i ? sliding_base : base, config->rope_dimensions, config->rope_frequencies[i]);
    }
    status = scale(format, config, base, error);
    /* Without a base of their own, sliding layers are scaled like full ones (mistral). */
    bool own = row->sliding_base > 0 || format_has(format, ".rope.freq_base_swa");
    if (status == ST_OK && !own)
        memcpy(config->rope_frequencies[1], config->rope_frequencies[0], dims / 2 * sizeof(float));
    return status;
}

float rope_factor(const struct model_config *config, uint32_t kind)
{
    return kind == 0 || config->row->sliding_base == 0 ? config->rope_attention_factor : 1.0f;
}

void rope_round_to_bf16(struct model_config *config)
{
    for (uint32_t i = 0; i < config->rope_dimensions; i++) {
        float *value = &config->rope_frequencies[i % 2][i / 2];
        uint32_t bits;
        memcpy(&bits, value, sizeof bits);
        bits = (bits + 0x7fffu + (bits >> 16 & 1)) & 0xffff0000u; /* to nearest even; frequencies are finite */
        memcpy(value, &bits, sizeof bits);
    }
}
