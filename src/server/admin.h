/* admin.h - routes for the operator of a running server; see admin.c for who may ask. */
#ifndef SERVER_ADMIN_H
#define SERVER_ADMIN_H
#include "server/reply.h"

void admin_requests(struct server *server, struct evhttp_request *http, const struct api *api);
void admin_drain(struct server *server, struct evhttp_request *http, const struct api *api);
void admin_kv_stats(struct server *server, struct evhttp_request *http, const struct api *api);
void admin_kv_pins(struct server *server, struct evhttp_request *http, const struct api *api);
void admin_change_pins(struct server *server, struct evhttp_request *http, const struct api *api);

#endif
