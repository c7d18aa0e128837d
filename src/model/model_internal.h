/* model_internal.h - shared by model's own files only; grouped by file. */
#ifndef MODEL_MODEL_INTERNAL_H
#define MODEL_MODEL_INTERNAL_H
#include "model/model.h"

/* ---- architecture.c ---- */

enum activation { ACTIVATION_SILU, ACTIVATION_GELU };

/* One row a family: everything in which it differs from llama. */
struct model_architecture {
    const char *name;
    enum activation activation;
    bool qk_norm;         /* q and k heads are normalised before rope */
    bool post_norms;      /* the outputs of attention and feed-forward are normalised before they are added */
    bool norm_plus_one;   /* norm weights are stored as w - 1 in Hugging Face checkpoints (already w in GGUF) */
    bool scale_embedding; /* token embeddings are multiplied by sqrt(embedding) */
    bool neighbour_rope;  /* GGUF keeps q/k rows permuted for neighbouring rope pairs */
    uint32_t full_period; /* every n-th layer is full, where a window is given without a pattern; 0 = all slide */
    float sliding_base;   /* rope base of sliding layers where the file names none; 0 = the same base */
};
const struct model_architecture *architecture_find(const char *name);
/* Says why `name` can't run: encoders and diffusion models by their reason, others with the list of those that can. */
enum status architecture_refuse(const char *name, struct error *error);

/* ---- rope.c ---- */
/* What cosines and sines of full (0) or sliding (1) layers are multiplied with: yarn's attention factor belongs to the scaled
 * frequencies; sliding layers of their own base have none. */
float rope_factor(const struct model_config *config, uint32_t kind);
void rope_round_to_bf16(struct model_config *config);
MUST_CHECK enum status rope_read(const struct format *format, struct model_config *config, struct error *error);

/* ---- weights.c ---- */

struct linear {
    struct kernel_matrix weights; /* [out, in] */
    float *bias;                  /* [out] or NULL */
};

struct layer {
    float *attention_norm, *feed_forward_norm;           /* [embedding] */
    float *post_attention_norm, *post_feed_forward_norm; /* [embedding] or NULL */
    float *q_norm, *k_norm;                              /* [head_dim] or NULL */
    struct linear q, k, v, output, gate, up, down;
};

struct model {
    const struct format *format;
    const struct kernel *kernel;
    struct model_config config;
    struct kv_layer *shapes; /* [layers]: window and kind only matter here */
    const struct format_tensor *embedding;
    struct layer *layers;
    float *output_norm;
    struct linear output;
    struct arena arena; /* norms and biases */
    uint64_t bytes;
    bool tiles; /* model_has_tiles */
};

bool weights_quantised(const struct kernel_matrix *matrix);

#endif
