/* serve.c - `kvasir serve`: a model, an engine on a thread of its own, and the server in front of it. */
#include "cli/cli.h"
#include "server/server.h"
#include <stdio.h>
#include <string.h>

/* What clients call the model: the name that was given, or its file's, without folder and ending. */
static char *model_name(const char *model)
{
    const char *slash = strrchr(model, '/');
    while (slash && !slash[1] && slash > model) slash--; /* a folder's last slash */
    while (slash && slash > model && *slash != '/') slash--;
    const char *name = slash && *slash == '/' ? slash + 1 : model, *ending = strstr(name, ".gguf");
    size_t bytes = strcspn(name, "/");
    if (ending && ending > name && !ending[strlen(".gguf")]) bytes = (size_t)(ending - name);
    return mem_strndup(name, bytes);
}

struct service {
    const struct options *options;
    struct server *server;
    struct kvasir_model *model;
    struct kvasir_async *async;
    struct cache_options cache;
    char *name;
};

static void on_ready(void *data)
{
    const struct service *service = data;
    fprintf(stderr, "kvasir: serving %s at %s/v1\n", service->name, server_url(service->server));
    notify_send(service->options, "READY=1");
}

static void on_stopping(void *data)
{
    const struct service *service = data;
    notify_send(service->options, "STOPPING=1");
}

static enum status service_open(struct service *service, struct error *error)
{
    const struct options *options = service->options;
    struct kvasir_error reason;
    const char *served = options->served_name;
    service->name = served ? mem_strndup(served, strlen(served)) : model_name(options->model);
    if (!service->name) return error_set(error, ST_NOMEM, "not enough memory for the command line");
    const struct server_config config = {.host = options->host,
                                         .port = (uint16_t)options->port,
                                         .drain_s = options->drain_s,
                                         .keep_alive_s = options->keep_alive_s,
                                         .model_name = service->name,
                                         .tool_call_parser = options->tool_call_parser,
                                         .trust_chat_template = options->trust_chat_template,
                                         .pooling = options_pooling(options),
                                         .api_keys = options->api_keys.items,
                                         .api_key_count = options->api_keys.count,
                                         .api_key_file = options->api_key_file,
                                         .share_cache = options->share_cache,
                                         .allowed_hosts = options->allowed_hosts.items,
                                         .allowed_host_count = options->allowed_hosts.count,
                                         .allowed_origins = options->allowed_origins.items,
                                         .allowed_origin_count = options->allowed_origins.count,
                                         .connections_max = (uint32_t)options->connections_max,
                                         .answers_max = (uint32_t)(options->max_sequences + options->max_waiting),
                                         .body_bytes_max = options->body_bytes_max,
                                         .tls_cert = options->tls_cert,
                                         .tls_key = options->tls_key,
                                         .metrics_prefix = options->metrics_prefix,
                                         .stopping = on_stopping,
                                         .data = service,
                                         .idle_s = options->idle_s};
    enum status status = server_open(&config, &service->server, error);
    if (status == ST_OK) status = cache_options_read(options, &service->cache, error);
    if (status == ST_OK) status = model_load(options, &service->model, error);
    if (status == ST_OK &&
        kvasir_async_open(service->model, &service->cache.engine, &service->async, &reason) != KVASIR_OK)
        status = library_error(&reason, error);
    return status;
}

static void service_close(struct service *service)
{
    kvasir_async_close(service->async);
    kvasir_model_close(service->model);
    server_close(service->server);
    cache_options_release(&service->cache);
    mem_free(service->name);
}

static enum log_level log_level(const char *name)
{
    static const char *const names[] = {[LOG_ERROR] = "error", [LOG_WARNING] = "warning", [LOG_INFO] = "info"};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++)
        if (strcmp(name, names[i]) == 0) return (enum log_level)i;
    return LOG_DEBUG;
}

int serve_main(const struct options *options)
{
    struct error error;
    struct service service = {.options = options};
    log_set_json(strcmp(options->log_format, "json") == 0);
    log_set_level(log_level(options->log_level));
    enum status status = service_open(&service, &error);
    if (status == ST_OK) status = server_run(service.server, service.model, service.async, on_ready, &service, &error);
    service_close(&service);
    return status == ST_OK ? EXIT_OK : status == ST_CANCELLED ? EXIT_INTERRUPTED : fail(&error);
}
