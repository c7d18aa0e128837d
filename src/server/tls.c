/* tls.c - see tls.h. */
#include "server/tls.h"
#include <event2/bufferevent_ssl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

/* What OpenSSL says was wrong. */
static enum status wrong(const char *path, const char *what, struct error *error)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    ERR_clear_error();
    return error_set(error, ST_INVALID, "%s: no %s: %s", path, what, reason ? reason : "unknown reason");
}

enum status tls_open(const char *cert, const char *key, SSL_CTX **out, struct error *error)
{
    SSL_CTX *tls = *out = SSL_CTX_new(TLS_server_method());
    if (!key) key = cert;
    if (!tls) return error_set(error, ST_NOMEM, "not enough memory for TLS");
    SSL_CTX_set_min_proto_version(tls, TLS1_2_VERSION);
    SSL_CTX_set_options(tls, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(tls, SSL_MODE_RELEASE_BUFFERS); /* an idle connection costs little */
    if (!file_exists(cert) || !file_exists(key))
        return error_set(error, ST_IO, "%s: there is no such file", file_exists(cert) ? key : cert);
    if (SSL_CTX_use_certificate_chain_file(tls, cert) != 1) return wrong(cert, "certificate in PEM", error);
    if (SSL_CTX_use_PrivateKey_file(tls, key, SSL_FILETYPE_PEM) != 1)
        return wrong(key, "private key of the certificate in PEM", error);
    if (SSL_CTX_check_private_key(tls) != 1) return wrong(key, "key of this certificate", error);
    return ST_OK;
}

void tls_close(SSL_CTX *tls)
{
    SSL_CTX_free(tls);
}

struct bufferevent *tls_stream(struct event_base *base, SSL_CTX *tls)
{
    if (!tls) return bufferevent_socket_new(base, -1, BEV_OPT_CLOSE_ON_FREE);
    SSL *ssl = SSL_new(tls);
    if (!ssl) return NULL;
    struct bufferevent *stream =
        bufferevent_openssl_socket_new(base, -1, ssl, BUFFEREVENT_SSL_ACCEPTING, BEV_OPT_CLOSE_ON_FREE);
    if (!stream)
        SSL_free(ssl);
    else
        bufferevent_openssl_set_allow_dirty_shutdown(stream,
                                                     1); /* a length or a last chunk says where an answer ends */
    return stream;
}
