/* jinja_dict.c - Python's dict: insertion order, keys equal by value (1, 1.0 and true are one key). Small dicts are searched,
 * larger ones have an open-addressing index; probes are paid for, so that colliding keys cannot cost time. */
#include "text/jinja.h"
#include <math.h>

#define SEARCHED_MAX 8

struct dict *jinja_dict_new(struct jinja *j)
{
    return jinja_alloc(j, sizeof(struct dict));
}

bool jinja_hashable(struct value key)
{
    if (key.kind == VALUE_TUPLE) {
        for (uint32_t i = 0; i < key.list->count; i++)
            if (!jinja_hashable(key.list->items[i])) return false;
        return true;
    }
    return key.kind != VALUE_LIST && key.kind != VALUE_DICT && key.kind != VALUE_VIEW;
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xFF51AFD7ED558CCDu;
    return x ^ x >> 33;
}

static uint64_t hash_of(struct jinja *j, struct value key)
{
    uint64_t hash = 14695981039346656037u;
    switch (key.kind) {
    case VALUE_STRING:
        for (uint32_t i = 0; i < key.string->bytes; i++)
            hash = (hash ^ (unsigned char)key.string->data[i]) * 1099511628211u;
        jinja_charge(j, key.string->bytes / 64);
        return hash;
    case VALUE_BOOL:
        return mix(key.boolean);
    case VALUE_INT:
        return mix((uint64_t)key.integer);
    case VALUE_FLOAT:
        if (key.real == floor(key.real) && fabs(key.real) < 9e18) return mix((uint64_t)(int64_t)key.real);
        memcpy(&hash, &key.real, sizeof hash);
        return mix(hash);
    case VALUE_TUPLE:
        jinja_enter(j);
        for (uint32_t i = 0; i < key.list->count; i++) hash = mix(hash ^ hash_of(j, key.list->items[i]));
        jinja_charge(j, key.list->count);
        jinja_leave(j);
        return hash;
    default:
        return key.kind;
    }
}

static bool same_key(struct jinja *j, const struct dict_entry *entry, struct value key, uint64_t hash)
{
    return entry->hash == hash && jinja_equal(j, entry->key, key);
}

static const struct dict_entry *find(struct jinja *j, const struct dict *dict, struct value key, uint64_t hash)
{
    if (!dict->index) {
        for (uint32_t i = 0; i < dict->count; i++)
            if (same_key(j, &dict->entries[i], key, hash)) return &dict->entries[i];
        return NULL;
    }
    for (uint32_t at = (uint32_t)hash & (dict->index_size - 1); dict->index[at];
         at = (at + 1) & (dict->index_size - 1)) {
        const struct dict_entry *entry = &dict->entries[dict->index[at] - 1];
        if (same_key(j, entry, key, hash)) return entry;
        jinja_charge(j, 1);
    }
    return NULL;
}

static void index_put(struct dict *dict, uint32_t entry)
{
    uint32_t at = (uint32_t)dict->entries[entry].hash & (dict->index_size - 1);
    while (dict->index[at]) at = (at + 1) & (dict->index_size - 1);
    dict->index[at] = entry + 1;
}

static void index_grow(struct jinja *j, struct dict *dict)
{
    if (dict->count <= SEARCHED_MAX || (dict->index && dict->count * 2 <= dict->index_size)) return;
    dict->index_size = dict->index ? dict->index_size * 2 : SEARCHED_MAX * 4;
    dict->index = jinja_array(j, dict->index_size, sizeof *dict->index);
    for (uint32_t i = 0; i + 1 < dict->count; i++) index_put(dict, i);
    jinja_charge(j, dict->count);
}

void jinja_dict_set(struct jinja *j, struct dict *dict, struct value key, struct value value)
{
    if (!jinja_hashable(key)) jinja_fail(j, ST_INVALID, "unhashable type: '%s'", jinja_type_name(key));
    uint64_t hash = hash_of(j, key);
    struct dict_entry *entry = (struct dict_entry *)find(j, dict, key, hash);
    if (entry) {
        entry->value = value;
        return;
    }
    dict->entries = jinja_grow(j, dict->entries, dict->count, &dict->capacity, sizeof *dict->entries);
    dict->entries[dict->count++] = (struct dict_entry){.key = key, .value = value, .hash = hash};
    index_grow(j, dict);
    if (dict->index) index_put(dict, dict->count - 1);
}

const struct value *jinja_dict_get(struct jinja *j, const struct dict *dict, struct value key)
{
    if (dict->count == 0) return NULL;
    const struct dict_entry *entry = find(j, dict, key, hash_of(j, key));
    return entry ? &entry->value : NULL;
}

const struct value *jinja_dict_find(struct jinja *j, const struct dict *dict, const struct string *key)
{
    return jinja_dict_get(j, dict, jinja_of_string(key));
}

void jinja_dict_update(struct jinja *j, struct dict *dict, struct value source)
{
    struct iterator it;
    struct value item;
    if (source.kind == VALUE_DICT) {
        for (uint32_t i = 0; i < source.dict->count; i++)
            jinja_dict_set(j, dict, source.dict->entries[i].key, source.dict->entries[i].value);
        return;
    }
    for (jinja_iterate(j, source, &it); jinja_next(j, &it, &item);) {
        struct list *pair = jinja_to_list(j, item);
        if (pair->count != 2)
            jinja_fail(j, ST_INVALID, "dictionary update sequence element has length %u; 2 is required", pair->count);
        jinja_dict_set(j, dict, pair->items[0], pair->items[1]);
    }
}
