/* store_wire.h - one connection to a server that speaks Redis' protocol (RESP2): its address, time limits, commands and replies. The
 * protocol's form is hiredis' affair, the socket is ours: so that a deadline is one, and no reply is longer than was asked for.
 * One thread at a time. */
#ifndef KV_STORE_WIRE_H
#define KV_STORE_WIRE_H
#include "base/base.h"
#include <hiredis/hiredis.h>

struct wire {
    char *host, *port, *user, *password; /* the last two: NULL without */
    char name[128];                      /* host and port, for messages */
    uint32_t database;
    int socket; /* -1: not connected */
    redisReader *reader;
    redisReplyObjectFunctions functions; /* the reader's */
    double deadline_s;                   /* clock_seconds */
};

/* ST_INVALID, ST_UNSUPPORTED (TLS): not "redis://[user:password@]host[:port][/database]". Does not connect. */
MUST_CHECK enum status wire_init(struct wire *wire, const char *url, struct error *error);
void wire_release(struct wire *wire);

/* Everything until the next wire_begin has patience_s. Connects if need be, and says who it is. After a failure here or in what
 * follows, and at any time in between, wire_hang_up lets the connection go. */
MUST_CHECK enum status wire_begin(struct wire *wire, double patience_s, struct error *error);
void wire_hang_up(struct wire *wire);

struct wire_command {
    int count;
    const char *words[4];
    size_t lengths[4];
};
MUST_CHECK enum status wire_send(struct wire *wire, const struct wire_command *command, struct error *error);
/* The next reply, to be given to freeReplyObject; never an array. ST_INVALID: longer than bytes_max, or no RESP. */
MUST_CHECK enum status wire_receive(struct wire *wire, uint64_t bytes_max, redisReply **out, struct error *error);

#endif
