/* page.c - the page at /, and what it loads: files of src/server/page, put into the program when it is built.
 *
 * They hold nothing that is secret, so they need no key. What the page may do is said by POLICY: run and load what comes from
 * this server, and nothing else; so text that a model writes could not do anything even if it became markup. */
#include "server/reply.h"
#include <event2/buffer.h>
#include <string.h>

static const char POLICY[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'";

const struct page_file *page_find(const char *path)
{
    for (size_t i = 0; i < PAGE_FILE_COUNT; i++)
        if (strcmp(path, PAGE_FILES[i].path) == 0) return &PAGE_FILES[i];
    return NULL;
}

static void add_headers(const struct page_file *file, struct evkeyvalq *headers)
{
    const char *const rows[][2] = {{"Content-Type", file->type},
                                   {"ETag", file->etag},
                                   {"Cache-Control", "no-cache"}, /* may be kept, and is asked for each time */
                                   {"Content-Security-Policy", POLICY},
                                   {"X-Content-Type-Options", "nosniff"},
                                   {"X-Frame-Options", "DENY"},
                                   {"Referrer-Policy", "no-referrer"},
                                   {"Cross-Origin-Opener-Policy", "same-origin"},
                                   {"Cross-Origin-Resource-Policy", "same-origin"}};
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) evhttp_add_header(headers, rows[i][0], rows[i][1]);
}

void page_answer(struct server *server, struct evhttp_request *http, const struct api *api)
{
    (void)server, (void)api;
    const struct page_file *file = page_find(evhttp_uri_get_path(evhttp_request_get_evhttp_uri(http)));
    const char *known = evhttp_find_header(evhttp_request_get_input_headers(http), "If-None-Match");
    struct evbuffer *body = evbuffer_new();
    if (!body || evbuffer_add_reference(body, file->bytes, file->count, NULL, NULL) != 0) {
        reply_no_memory(http);
    } else {
        add_headers(file, evhttp_request_get_output_headers(http));
        if (known && strstr(known, file->etag))
            evhttp_send_reply(http, 304, "Not Modified", NULL);
        else
            evhttp_send_reply(http, 200, NULL, body);
    }
    if (body) evbuffer_free(body);
}
