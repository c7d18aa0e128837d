/* head.c - see head.h. */
#include "server/head.h"
#include <string.h>
#include <strings.h>

struct text {
    const char *data;
    size_t bytes;
};
struct head {
    bool old; /* HTTP/1.0 */
    struct text method, target;
    uint32_t fields, hosts, lengths, encodings, keys;
    uint64_t body_bytes;
};

static bool is(struct text text, const char *name)
{
    return text.bytes == strlen(name) && strncasecmp(text.data, name, text.bytes) == 0;
}

/* A character of a token, RFC 9110 section 5.6.2. */
static bool is_token_byte(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static bool is_token(struct text text)
{
    for (size_t i = 0; i < text.bytes; i++)
        if (!is_token_byte(text.data[i])) return false;
    return text.bytes > 0;
}

bool head_find(const char *data, size_t bytes, size_t *checked, size_t *out, struct refusal *refusal)
{
    *out = 0;
    if (bytes && !(data[0] >= 'A' && data[0] <= 'Z'))
        return refuse(refusal, 400, "", "this is no HTTP request (is it TLS, where plain HTTP is spoken?)");
    for (size_t i = *checked; i < bytes; i++) {
        if (data[i] != '\n') continue;
        if (!i || data[i - 1] != '\r') return refuse(refusal, 400, "", "a line of the head does not end in CRLF");
        if (i < 3 || memcmp(data + i - 3, "\r\n\r\n", 4) != 0) continue;
        *out = i + 1;
        break;
    }
    *checked = bytes;
    return (*out ? *out : bytes) <= HEAD_BYTES_MAX ||
           refuse(refusal, 431, "", "the head of the request is longer than %u bytes", HEAD_BYTES_MAX);
}

static bool check_method(const struct head *head, struct refusal *refusal)
{
    static const char *const methods[] = {"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"};
    for (size_t i = 0; i < ARRAY_COUNT(methods); i++)
        if (head->method.bytes == strlen(methods[i]) && memcmp(head->method.data, methods[i], head->method.bytes) == 0)
            return true;
    return refuse(refusal, 405, "", "the method is none that is known here");
}

/* "/path?query", or the same after "http:" and a host. */
static bool check_target(const struct text *target, struct refusal *refusal)
{
    bool valid = target->bytes > 0 && (target->data[0] == '/' || target->data[0] == 'h');
    for (size_t i = 0; i < target->bytes; i++) {
        unsigned char c = (unsigned char)target->data[i];
        valid &= c > ' ' && c < 0x7f && c != '#';
    }
    char copy[2048];
    if (target->bytes >= sizeof copy) return refuse(refusal, 414, "", "the address is longer than 2047 bytes");
    memcpy(copy, target->data, target->bytes);
    copy[target->bytes] = 0;
    struct evhttp_uri *uri = valid ? evhttp_uri_parse_with_flags(copy, EVHTTP_URI_NONCONFORMANT) : NULL;
    if (!uri) return refuse(refusal, 400, "", "the request's target is no address");
    evhttp_uri_free(uri);
    return true;
}

/* "METHOD TARGET HTTP/1.x" */
static bool read_first_line(struct head *head, struct text line, struct refusal *refusal)
{
    const char *first = memchr(line.data, ' ', line.bytes);
    const char *last = memrchr(line.data, ' ', line.bytes);
    if (!first || first == last) return refuse(refusal, 400, "", "the request line is not METHOD TARGET HTTP/1.1");
    head->method = (struct text){line.data, (size_t)(first - line.data)};
    head->target = (struct text){first + 1, (size_t)(last - first) - 1};
    struct text version = {last + 1, (size_t)(line.data + line.bytes - last) - 1};
    head->old = version.bytes == 8 && memcmp(version.data, "HTTP/1.0", 8) == 0;
    if (!head->old && !(version.bytes == 8 && memcmp(version.data, "HTTP/1.1", 8) == 0))
        return refuse(refusal, 400, "", "the request is of no version of HTTP that is spoken here: 1.0 and 1.1");
    return check_method(head, refusal) && check_target(&head->target, refusal);
}

static bool read_length(struct head *head, struct text value, struct refusal *refusal)
{
    bool valid = value.bytes && value.bytes <= 18 && !head->lengths++;
    for (size_t i = 0; i < value.bytes && valid; i++) {
        valid = value.data[i] >= '0' && value.data[i] <= '9';
        head->body_bytes = head->body_bytes * 10 + (uint64_t)(value.data[i] - '0');
    }
    return valid || refuse(refusal, 400, "", "Content-Length must be there once, a number of at most 18 digits");
}

static bool read_encoding(struct head *head, struct text value, struct refusal *refusal)
{
    return (is(value, "chunked") && !head->encodings++ && !head->old) ||
           refuse(refusal, 400, "", "Transfer-Encoding must be chunked, once, in HTTP/1.1");
}

static bool read_field(struct head *head, struct text line, struct refusal *refusal)
{
    const char *colon = memchr(line.data, ':', line.bytes);
    struct text name = {line.data, colon ? (size_t)(colon - line.data) : 0};
    if (!is_token(name)) return refuse(refusal, 400, "", "a header field is not NAME: VALUE on one line");
    if (++head->fields > HEAD_FIELDS_MAX)
        return refuse(refusal, 431, "", "more than %u header fields", HEAD_FIELDS_MAX);
    struct text value = {colon + 1, line.bytes - name.bytes - 1};
    while (value.bytes && is_blank(value.data[0])) value.data++, value.bytes--;
    while (value.bytes && is_blank(value.data[value.bytes - 1])) value.bytes--;
    for (size_t i = 0; i < value.bytes; i++) {
        unsigned char c = (unsigned char)value.data[i];
        if ((c < ' ' && c != '\t') || c == 0x7f)
            return refuse(refusal, 400, "", "a header field has a control character in its value");
    }
    head->hosts += is(name, "Host");
    head->keys += is(name, "Authorization") || is(name, "X-Api-Key");
    if (is(name, "Content-Length")) return read_length(head, value, refusal);
    if (is(name, "Transfer-Encoding")) return read_encoding(head, value, refusal);
    return true;
}

/* What fields say of each other. */
static bool check(const struct head *head, uint64_t body_max, struct refusal *refusal)
{
    bool body = head->encodings || head->body_bytes;
    if (head->lengths && head->encodings)
        return refuse(refusal, 400, "", "Content-Length and Transfer-Encoding exclude each other");
    if (head->hosts > 1 || (!head->hosts && !head->old))
        return refuse(refusal, 400, "", "the request must have one Host header");
    if (head->keys > 1) return refuse(refusal, 400, "", "more than one API key in the request");
    if (body && is(head->method, "HEAD")) return refuse(refusal, 400, "", "a HEAD request has no body");
    if (head->body_bytes > body_max)
        return refuse(refusal, 413, "", "the body has %llu bytes: at most %llu", (unsigned long long)head->body_bytes,
                      (unsigned long long)body_max);
    return true;
}

bool head_check(const char *data, size_t bytes, uint64_t body_max, struct refusal *refusal)
{
    struct head head = {.old = false};
    const char *end = data + bytes - 2; /* of the last field, before the empty line */
    for (const char *p = data; p < end;) {
        const char *stop = memmem(p, (size_t)(end - p), "\r\n", 2);
        struct text line = {p, (size_t)((stop ? stop : end) - p)};
        if (p == data ? !read_first_line(&head, line, refusal) : !read_field(&head, line, refusal)) return false;
        p += line.bytes + 2;
    }
    return check(&head, body_max, refusal);
}
