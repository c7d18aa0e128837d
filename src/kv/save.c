/* save.c - a sequence in a file: its tokens and all rows that it holds, and back.
 *
 *   header   | magic, version, block size, tokens, bytes of the file, fingerprint | checksum
 *   tokens   | token ids, 4 bytes each                                            | checksum
 *   blocks   | one record for each block that the kinds of layers keep at this    | checksum
 *            | position: by table index, then group; as the kernels lay them out  |
 *   open     | where K closes in groups: the exact rows of the one that is open   | checksum
 *
 * Numbers are little-endian, as on every machine that runs this. A checksum is XXH3, 64 bits, whose seed says which record
 * of which file it ends: so records that were lost, moved or mixed are found. The fingerprint stands for everything else
 * that must be the same: what rows depend on beside tokens, and what a block looks like.
 *
 * Everything in a file but its number of tokens is known beforehand, and that number must agree with the file's length
 * before it is believed: so a file can ask for no more memory than it is long. */
#include "kv_internal.h"
#include <openssl/sha.h>
#include <string.h>
#include <xxhash.h>

#define VERSION 1u
static const char magic[8] = {'K', 'V', 'A', 'S', 'I', 'R', 'K', 'V'};

struct header {
    char magic[8];
    uint32_t version, block_tokens, count, zero;
    uint64_t file_bytes;
    unsigned char fingerprint[KV_KEY_BYTES];
    uint64_t checksum; /* of all before it */
};
_Static_assert(sizeof(struct header) == 72, "the header has no padding");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files are little-endian");

/* ---- fingerprint ------------------------------------------------------------------------------------------------- */

static void mix(unsigned char digest[KV_KEY_BYTES], const uint64_t *numbers, size_t count)
{
    unsigned char bytes[KV_KEY_BYTES + 16 * sizeof *numbers];
    ASSERT(count <= 16);
    memcpy(bytes, digest, KV_KEY_BYTES);
    memcpy(bytes + KV_KEY_BYTES, numbers, count * sizeof *numbers);
    SHA256(bytes, KV_KEY_BYTES + count * sizeof *numbers, digest);
}

static void fingerprint(const struct kv_cache *cache, unsigned char out[KV_KEY_BYTES])
{
    memcpy(out, cache->provenance, KV_KEY_BYTES);
    mix(out, (const uint64_t[]){cache->block_tokens, cache->layer_count, cache->group_count}, 3);
    for (uint32_t i = 0; i < cache->layer_count; i++) {
        const struct kv_layer *layer = &cache->layers[i];
        mix(out,
            (const uint64_t[]){(uint64_t)layer->kind, layer->source, layer->kv_heads, layer->head_dim, layer->value_dim,
                               (uint64_t)layer->k_format, (uint64_t)layer->v_format},
            7);
        for (uint32_t h = 0; h < layer->kv_heads; h++) {
            const struct kv_place *place = &cache->places[cache->first_place[i] + h];
            mix(out,
                (const uint64_t[]){(uint64_t)place->reach.kind, place->reach.window, place->reach.sinks, place->group,
                                   place->k_offset, place->v_offset, place->index_group, place->index_offset},
                8);
        }
    }
}

static struct header header_for(const struct kv_cache *cache, uint32_t count)
{
    struct header header = {.version = VERSION, .block_tokens = cache->block_tokens, .count = count};
    memcpy(header.magic, magic, sizeof magic);
    fingerprint(cache, header.fingerprint);
    header.file_bytes = sizeof header + count * (uint64_t)sizeof(uint32_t) + sizeof(uint64_t);
    for (uint32_t g = 0; g < cache->group_count; g++) {
        struct kv_hole hole = group_hole(cache, &cache->groups[g], count);
        uint64_t blocks = blocks_for(cache, count) - (hole.begin < hole.end ? hole.end - hole.begin : 0);
        header.file_bytes += blocks * (cache->groups[g].block_bytes + sizeof(uint64_t));
    }
    if (cache->open_bytes) header.file_bytes += cache->open_bytes + sizeof(uint64_t);
    header.checksum = XXH3_64bits(&header, offsetof(struct header, checksum));
    return header;
}

/* ---- saving ------------------------------------------------------------------------------------------------------ */

static enum status put_record(struct file_writer *writer, const void *bytes, uint64_t count, uint64_t seed,
                              uint64_t *checksum, struct error *error)
{
    *checksum = XXH3_64bits_withSeed(bytes, count, seed);
    enum status status = file_writer_put(writer, bytes, count, error);
    return status == ST_OK ? file_writer_put(writer, checksum, sizeof *checksum, error) : status;
}

/* What lies in a partial block behind its last token may be another sequence's rows: zeros take their place. */
static void blank_rows(const struct kv_cache *cache, uint32_t g, uint32_t first, const float *zeros,
                       unsigned char *block)
{
    for (uint32_t i = 0; i < cache->layer_count; i++) {
        const struct kv_layer *layer = &cache->layers[i];
        if (kind_of(layer->kind)->rows != ROWS_OWN) continue;
        for (uint32_t h = 0; h < layer->kv_heads; h++) {
            const struct kv_place *place = &cache->places[cache->first_place[i] + h];
            if (place->index_group == g)
                kernel_index_blank(block + place->index_offset, layer->head_dim,
                                   cache->block_tokens / KERNEL_GROUP_TOKENS, first / KERNEL_GROUP_TOKENS);
            if (place->group != g) continue;
            cache->kernel->kv_write(layer->k_format, layer->v_format, block + place->k_offset, block + place->v_offset,
                                    first, cache->block_tokens - first, zeros, 0, layer->head_dim, zeros, 0,
                                    layer->value_dim);
            if (!kernel_k_closes(layer->k_format)) continue;
            uint64_t group_bytes = kernel_k_group_bytes(layer->k_format, layer->head_dim);
            uint64_t closed = first / KERNEL_CLOSED_TOKENS * (KERNEL_CLOSED_TOKENS / KERNEL_GROUP_TOKENS) * group_bytes;
            memset(block + place->k_offset + closed, 0,
                   cache->block_tokens / KERNEL_GROUP_TOKENS * group_bytes - closed);
        }
    }
}

struct scratch {
    uint32_t *tokens;
    unsigned char *block; /* of the largest group */
    float *zeros;         /* of the widest head */
};

static bool scratch_init(const struct kv_cache *cache, uint32_t count, struct scratch *out)
{
    uint64_t bytes = 0, width = 0;
    for (uint32_t g = 0; g < cache->group_count; g++)
        if (cache->groups[g].block_bytes > bytes) bytes = cache->groups[g].block_bytes;
    for (uint32_t i = 0; i < cache->layer_count; i++) {
        if (cache->layers[i].head_dim > width) width = cache->layers[i].head_dim;
        if (cache->layers[i].value_dim > width) width = cache->layers[i].value_dim;
    }
    *out = (struct scratch){.tokens = mem_alloc(count * sizeof *out->tokens),
                            .block = mem_aligned(64, bytes),
                            .zeros = mem_zero(width, sizeof *out->zeros)};
    return out->tokens && out->block && out->zeros;
}

static void scratch_release(struct scratch *scratch)
{
    mem_free(scratch->tokens);
    mem_free(scratch->block);
    mem_free(scratch->zeros);
}

static enum status put_blocks(const struct kv_seq *seq, struct file_writer *writer, const struct scratch *scratch,
                              uint64_t seed, struct error *error)
{
    const struct kv_cache *cache = seq->cache;
    uint32_t part = seq->count % cache->block_tokens, full = seq->count / cache->block_tokens;
    enum status status = ST_OK;
    uint64_t checksum;
    for (uint32_t b = 0; b < blocks_for(cache, seq->count); b++)
        for (uint32_t g = 0; g < cache->group_count && status == ST_OK; g++) {
            const struct kv_group *group = &cache->groups[g];
            if (seq->tables[g].blocks[b] == BLOCK_NONE) continue;
            const unsigned char *block = block_address(group, seq->tables[g].blocks[b]);
            if (b == full) {
                memcpy(scratch->block, block, group->block_bytes);
                blank_rows(cache, g, part, scratch->zeros, scratch->block);
                block = scratch->block;
            }
            status = put_record(writer, block, group->block_bytes, ++seed, &checksum, error);
        }
    if (status == ST_OK && cache->open_bytes)
        status = put_record(writer, seq->open_rows, cache->open_bytes, ++seed, &checksum, error);
    return status;
}

static enum status put_all(const struct kv_seq *seq, struct file_writer *writer, const struct scratch *scratch,
                           struct error *error)
{
    struct header header = header_for(seq->cache, seq->count);
    uint64_t seed;
    enum status status = file_writer_put(writer, &header, sizeof header, error);
    if (status == ST_OK)
        status =
            put_record(writer, scratch->tokens, seq->count * sizeof *scratch->tokens, header.checksum, &seed, error);
    if (status == ST_OK) status = put_blocks(seq, writer, scratch, seed, error);
    return status;
}

enum status kv_seq_save(const struct kv_seq *seq, const char *path, struct error *error)
{
    const struct kv_cache *cache = seq->cache;
    ASSERT(!cache->pinned && seq->residence == KV_RESIDENT);
    if (!cache->share_prefixes)
        return error_set(error, ST_UNSUPPORTED, "%s: a KV cache that shares no prefixes cannot save a sequence", path);
    if (seq->publish_max != UINT32_MAX)
        return error_set(error, ST_UNSUPPORTED, "%s: a sequence that no longer publishes its rows cannot be saved",
                         path);
    struct scratch scratch;
    struct file_writer writer;
    enum status status = scratch_init(cache, seq->count, &scratch)
                             ? file_writer_open(path, &writer, error)
                             : error_set(error, ST_NOMEM, "%s: not enough memory to save a sequence", path);
    if (status == ST_OK) {
        kv_seq_tokens(seq, 0, seq->count, scratch.tokens);
        status = put_all(seq, &writer, &scratch, error);
        enum status closed = file_writer_close(&writer, status == ST_OK, error);
        if (status == ST_OK) status = closed;
    }
    scratch_release(&scratch);
    return status;
}

/* ---- loading ----------------------------------------------------------------------------------------------------- */

static enum status get_record(struct file_reader *reader, void *out, uint64_t count, uint64_t seed, uint64_t *checksum,
                              const char *what, struct error *error)
{
    enum status status = file_reader_get(reader, out, count, error);
    if (status == ST_OK) status = file_reader_get(reader, checksum, sizeof *checksum, error);
    if (status == ST_OK && *checksum != XXH3_64bits_withSeed(out, count, seed))
        return error_set(error, ST_INVALID, "%s: its %s are damaged: save the sequence again", reader->path, what);
    return status;
}

static enum status get_header(const struct kv_cache *cache, struct file_reader *reader, struct header *out,
                              struct error *error)
{
    enum status status = file_reader_get(reader, out, sizeof *out, error);
    if (status != ST_OK) return status;
    if (memcmp(out->magic, magic, sizeof magic) != 0)
        return error_set(error, ST_INVALID, "%s: is not a saved sequence", reader->path);
    if (out->version != VERSION)
        return error_set(error, ST_UNSUPPORTED, "%s: is version %u of the format, this program reads version %u",
                         reader->path, out->version, VERSION);
    if (out->checksum != XXH3_64bits(out, offsetof(struct header, checksum)))
        return error_set(error, ST_INVALID, "%s: its header is damaged: save the sequence again", reader->path);
    if (out->count > UINT32_MAX / 2)
        return error_set(error, ST_INVALID, "%s: says that it holds %u tokens", reader->path, out->count);
    struct header expected = header_for(cache, out->count);
    if (out->block_tokens != expected.block_tokens)
        return error_set(error, ST_UNSUPPORTED, "%s: was saved with a block size of %u, this cache has %u",
                         reader->path, out->block_tokens, expected.block_tokens);
    if (memcmp(out->fingerprint, expected.fingerprint, sizeof out->fingerprint) != 0)
        return error_set(error, ST_UNSUPPORTED,
                         "%s: was saved with another model, or another format or policy of the KV cache", reader->path);
    if (memcmp(out, &expected, sizeof expected) != 0 || reader->bytes != expected.file_bytes)
        return error_set(error, ST_INVALID, "%s: has %llu bytes, %u tokens need %llu", reader->path,
                         (unsigned long long)reader->bytes, out->count, (unsigned long long)expected.file_bytes);
    return ST_OK;
}

/* A sequence on its root with blocks of its own for `count` tokens, none of which it has yet. */
static enum status open_empty(struct kv_cache *cache, uint32_t count, uint64_t salt, struct kv_seq **out)
{
    enum status status = seq_new(cache, out);
    if (status != ST_OK) return status;
    struct kv_seq *seq = *out;
    uint32_t blocks = blocks_for(cache, count);
    status = seq_stand_on_root(seq, salt);
    if (status == ST_OK) status = seq_take_spares(seq, blocks);
    if (status == ST_OK) status = seq_take_kept(seq, count);
    if (status == ST_OK) return ST_OK;
    kv_seq_close(seq);
    *out = NULL;
    return status;
}

static enum status get_blocks(struct kv_seq *seq, struct file_reader *reader, uint64_t seed, struct error *error)
{
    const struct kv_cache *cache = seq->cache;
    enum status status = ST_OK;
    uint64_t checksum;
    for (uint32_t b = 0; b < seq->tables[0].count; b++)
        for (uint32_t g = 0; g < cache->group_count && status == ST_OK; g++) {
            const struct kv_group *group = &cache->groups[g];
            if (seq->tables[g].blocks[b] != BLOCK_NONE)
                status = get_record(reader, block_address(group, seq->tables[g].blocks[b]), group->block_bytes, ++seed,
                                    &checksum, "rows", error);
        }
    if (status == ST_OK && cache->open_bytes)
        status = get_record(reader, seq->open_rows, cache->open_bytes, ++seed, &checksum, "open rows", error);
    return status;
}

/* All rows are there: the sequence has its tokens, and full blocks are published. */
static void take_tokens(struct kv_seq *seq, const uint32_t *tokens, uint32_t count)
{
    uint32_t size = seq->cache->block_tokens;
    while (seq->count < count) {
        uint32_t part = count - seq->count < size ? count - seq->count : size;
        memcpy(seq->tail, tokens + seq->count, part * sizeof *tokens);
        seq->count += part;
        if (part == size) seq_publish_block(seq);
    }
    seq->reserved = count;
}

static enum status get_all(struct kv_cache *cache, struct file_reader *reader, uint64_t salt, struct kv_seq **out,
                           struct error *error)
{
    struct header header;
    uint64_t seed;
    enum status status = get_header(cache, reader, &header, error);
    if (status != ST_OK) return status;
    uint32_t *tokens = mem_alloc(header.count * sizeof *tokens);
    if (!tokens) return error_set(error, ST_NOMEM, "%s: not enough memory to load it", reader->path);
    status = get_record(reader, tokens, header.count * sizeof *tokens, header.checksum, &seed, "tokens", error);
    if (status == ST_OK) {
        status = open_empty(cache, header.count, salt, out);
        if (status == ST_FULL)
            error_set(error, status, "%s: its %u tokens do not fit what is free of the KV cache: close sequences first",
                      reader->path, header.count);
        if (status == ST_NOMEM) error_set(error, status, "%s: not enough memory to load it", reader->path);
    }
    if (status == ST_OK) status = get_blocks(*out, reader, seed, error);
    if (status == ST_OK) take_tokens(*out, tokens, header.count);
    mem_free(tokens);
    return status;
}

enum status kv_seq_load(struct kv_cache *cache, const char *path, uint64_t salt, struct kv_seq **out,
                        struct error *error)
{
    ASSERT(!cache->pinned);
    *out = NULL;
    if (!cache->share_prefixes)
        return error_set(error, ST_UNSUPPORTED, "%s: a KV cache that shares no prefixes cannot load a sequence", path);
    struct file_reader reader;
    enum status status = file_reader_open(path, &reader, error);
    if (status != ST_OK) return status;
    status = get_all(cache, &reader, salt, out, error);
    file_reader_close(&reader);
    if (status == ST_OK) return ST_OK;
    kv_seq_close(*out);
    *out = NULL;
    return status;
}
