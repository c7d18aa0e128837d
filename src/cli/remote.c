/* remote.c - see remote.h. */
#include "cli/remote.h"
#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

#define ANSWER_BYTES_MAX (64u << 20)

static size_t on_bytes(char *bytes, size_t size, size_t count, void *data)
{
    struct buffer *answer = data;
    buffer_append(answer, bytes, size * count);
    return answer->failed ? 0 : size * count;
}

static const char *message_of(const json_t *json)
{
    const char *message = json_string_value(json_object_get(json_object_get(json, "error"), "message"));
    return message ? message : "it says no more";
}

/* What came, as JSON. */
static enum status read_answer(const char *url, long status, const struct buffer *answer, json_t **json,
                               struct error *error)
{
    *json = json_loadb(answer->data ? answer->data : "", answer->length, 0, NULL);
    if (status >= 400) return error_set(error, ST_IO, "%s: HTTP %ld: %s", url, status, message_of(*json));
    if (*json) return ST_OK;
    return error_set(error, ST_IO, "%s: what answers there is no kvasir server", url);
}

static struct curl_slist *headers_of(const struct options *options, bool *failed)
{
    struct curl_slist *list = curl_slist_append(NULL, "Content-Type: application/json"), *more = list;
    struct buffer key;
    buffer_init(&key, 0);
    if (list && options->api_keys.count) {
        buffer_printf(&key, "Authorization: Bearer %s", options->api_keys.items[0]);
        more = key.failed ? NULL : curl_slist_append(list, key.data);
    }
    buffer_release(&key);
    *failed = !list || !more;
    return list;
}

static enum status perform(CURL *curl, const struct options *options, const char *url, const char *text, json_t **json,
                           struct error *error)
{
    char reason[CURL_ERROR_SIZE] = "";
    struct buffer answer;
    bool failed;
    buffer_init(&answer, ANSWER_BYTES_MAX);
    struct curl_slist *headers = headers_of(options, &failed);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 10L);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, reason);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);
    if (options->tls_ca) curl_easy_setopt(curl, CURLOPT_CAINFO, options->tls_ca);
    if (text) curl_easy_setopt(curl, CURLOPT_COPYPOSTFIELDS, text);
    CURLcode code = failed ? CURLE_OUT_OF_MEMORY : curl_easy_perform(curl);
    long status = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    enum status result = code == CURLE_OK
                             ? read_answer(url, status, &answer, json, error)
                             : error_set(error, ST_IO, "%s: %s (is a server running there? --url says where)", url,
                                         reason[0] ? reason : curl_easy_strerror(code));
    curl_slist_free_all(headers);
    buffer_release(&answer);
    return result;
}

enum status remote_ask(const struct options *options, const char *path, const json_t *body, json_t **json,
                       struct error *error)
{
    *json = NULL;
    struct buffer url;
    buffer_init(&url, 0);
    size_t bytes = strlen(options->url);
    while (bytes && options->url[bytes - 1] == '/') bytes--;
    buffer_append(&url, options->url, bytes);
    buffer_text(&url, path);
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    CURL *curl = curl_easy_init();
    enum status status = url.failed || !curl || (body && !text)
                             ? error_set(error, ST_NOMEM, "not enough memory for a request")
                             : perform(curl, options, url.data, text, json, error);
    if (curl) curl_easy_cleanup(curl);
    free(text); /* jansson's */
    buffer_release(&url);
    if (status != ST_OK) {
        json_decref(*json);
        *json = NULL;
    }
    return status;
}
