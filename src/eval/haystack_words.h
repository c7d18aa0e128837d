/* haystack_words.h - the words that haystack.c makes its texts of. */
#ifndef EVAL_HAYSTACK_WORDS_H
#define EVAL_HAYSTACK_WORDS_H

/* Names are ADJECTIVE-NOUN. */
#define WORDS_ADJECTIVES 48u
static const char *const WORDS_ADJECTIVE[WORDS_ADJECTIVES] = {
    "amber",  "brisk",  "calm",   "dusty",  "eager",  "faint",   "gentle", "hollow", "icy",    "jolly",
    "keen",   "lofty",  "mellow", "narrow", "olive",  "pale",    "quiet",  "rusty",  "silver", "tidy",
    "upper",  "vivid",  "wooden", "young",  "zesty",  "crimson", "broad",  "clever", "deep",   "early",
    "frozen", "golden", "humble", "inner",  "kind",   "lively",  "modest", "noble",  "orange", "plain",
    "rapid",  "sandy",  "tall",   "usual",  "violet", "warm",    "yearly", "steady",
};
#define WORDS_NOUNS 46u
static const char *const WORDS_NOUN[WORDS_NOUNS] = {
    "anchor",  "basket", "candle", "drawer", "engine",  "feather", "garden", "hammer",  "island",  "jacket",
    "kettle",  "ladder", "market", "needle", "orchard", "pencil",  "quarry", "river",   "saddle",  "temple",
    "urn",     "valley", "wagon",  "yard",   "bridge",  "canyon",  "desert", "forest",  "glacier", "harbor",
    "lantern", "meadow", "museum", "oven",   "palace",  "quilt",   "ribbon", "station", "tunnel",  "umbrella",
    "village", "window", "cabin",  "barrel", "compass", "blanket",
};

/* What a single needle's number is. */
#define NEEDLE_KINDS 40u
static const char *const NEEDLE_KIND[NEEDLE_KINDS] = {
    "locker number", "invoice number",   "door code",      "bus number",        "phone extension",
    "parcel number", "flight number",    "room number",    "licence number",    "order number",
    "ticket number", "safe combination", "serial number",  "membership number", "account number",
    "shelf mark",    "patent number",    "badge number",   "lot number",        "engine number",
    "voucher code",  "case number",      "station code",   "radio frequency",   "passport number",
    "meter reading", "street number",    "job number",     "prize number",      "sample number",
    "desk number",   "platform code",    "archive number", "crate number",      "coupon code",
    "policy number", "garage code",      "race number",    "register number",   "satellite number",
};

/* Sentences of filler. */
#define FILLER_WHOS 15u
static const char *const FILLER_WHO[FILLER_WHOS] = {
    "The miller",      "An old sailor",      "The baker's son",     "A young clerk",     "The gardener",
    "My neighbour",    "The night watchman", "A travelling tailor", "The schoolteacher", "The innkeeper",
    "A retired pilot", "The postman",        "The carpenter",       "A quiet student",   "The ferryman",
};
#define FILLER_DIDS 15u
static const char *const FILLER_DID[FILLER_DIDS] = {
    "carried", "repaired", "painted", "sold",    "measured", "borrowed", "cleaned",  "described",
    "forgot",  "moved",    "counted", "ordered", "sketched", "wrapped",  "examined",
};
#define FILLER_WHATS 15u
static const char *const FILLER_WHAT[FILLER_WHATS] = {
    "two sacks of barley", "a broken chair",    "the long rope",       "a box of nails",    "seven green bottles",
    "an empty crate",      "the kitchen clock", "a pair of boots",     "the copper kettle", "some folded letters",
    "a small map",         "the garden gate",   "three wool blankets", "a cart of apples",  "the lower shelf",
};
#define FILLER_WHERES 10u
static const char *const FILLER_WHERE[FILLER_WHERES] = {
    "by the bridge",       "near the old mill", "behind the chapel", "along the canal",     "at the edge of town",
    "in the upper street", "beside the quarry", "under the arches",  "outside the station", "across the square",
};
#define FILLER_WHENS 12u
static const char *const FILLER_WHEN[FILLER_WHENS] = {
    "before noon",         "after the rain",           "on market day",      "in early spring", "while the bells rang",
    "late in the evening", "near the end of the week", "during the harvest", "at first light",  "when the road was dry",
    "as the fog lifted",   "between two meetings",
};

#endif
