/* test_store_redis.c - blobs in a real redis-server, started here on loopback, and in servers that are slow, gone or hostile. */
#include "kv/store_wire.h"
#include "scratch.h"
#include "store_blobs.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

/* ---- servers ----------------------------------------------------------------------------------------------------- */

static struct sockaddr_in loopback(uint16_t port)
{
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
}

/* Listens on a port of the system's choice. */
static int listen_somewhere(uint16_t *port)
{
    struct sockaddr_in address = loopback(0);
    socklen_t bytes = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 8) == 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &bytes), 0);
    *port = ntohs(address.sin_port);
    return fd;
}

static int connect_to(uint16_t port)
{
    struct sockaddr_in address = loopback(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
    close(fd);
    return -1;
}

struct server {
    pid_t pid;
    uint16_t port;
};

static void server_start(struct server *server, const char *option, const char *value)
{
    char port[8];
    snprintf(port, sizeof port, "%u", server->port);
    server->pid = fork();
    assert_true(server->pid >= 0);
    if (server->pid == 0) {
        int nowhere = open("/dev/null", O_RDWR);
        dup2(nowhere, 1);
        dup2(nowhere, 2);
        execlp("redis-server", "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly",
               "no", option, value, (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 500; i++) {
        int fd = connect_to(server->port);
        if (fd >= 0) {
            close(fd);
            return;
        }
        usleep(20000);
    }
    fail_msg("redis-server does not answer on port %s", port);
}

static void server_stop(struct server *server)
{
    assert_int_equal(kill(server->pid, SIGKILL), 0);
    assert_int_equal(waitpid(server->pid, NULL, 0), server->pid);
}

static struct server server_new(const char *option, const char *value)
{
    struct server server;
    close(listen_somewhere(&server.port));
    server_start(&server, option, value);
    return server;
}

static struct store *open_store(const char *format, uint16_t port)
{
    char url[200];
    struct store *store;
    struct error error;
    snprintf(url, sizeof url, format, port);
    if (store_open_redis(url, &store, &error) != ST_OK) fail_msg("%s", error.text);
    return store;
}

/* A command of our own; the answer's first bytes. */
static void say(uint16_t port, const char *command, size_t bytes, char *answer, size_t answer_bytes)
{
    int fd = connect_to(port);
    assert_true(fd >= 0 && write(fd, command, bytes) == (ssize_t)bytes);
    ssize_t got = read(fd, answer, answer_bytes - 1);
    assert_true(got > 0);
    answer[got] = 0;
    close(fd);
}

static void key_name(uint64_t number, char out[80])
{
    struct store_key key = blob_key(number);
    char text[STORE_KEY_TEXT_BYTES];
    snprintf(out, 80, "kvasir:1:%s", store_key_text(&key, text));
}

/* ---- a real one -------------------------------------------------------------------------------------------------- */

static void test_round_trip(void **state)
{
    (void)state;
    struct server server = server_new("--maxmemory", "1gb");
    struct store *store = open_store("redis://127.0.0.1:%u/3", server.port),
                 *other = open_store("redis://localhost:%u/3", server.port),
                 *elsewhere = open_store("redis://127.0.0.1:%u", server.port);
    static const uint32_t sizes[] = {0, 1, 17, 4096, BLOB_BYTES, 1 << 17};
    for (uint32_t i = 0; i < 2 * ARRAY_COUNT(sizes); i++) {
        assert_false(blob_has(store, i));
        assert_int_equal(blob_get_sized(store, i, sizes[i / 2]), ST_NOT_FOUND);
        assert_int_equal(blob_put_sized(store, i, sizes[i / 2]), ST_OK);
        assert_int_equal(blob_put_sized(other, i, sizes[i / 2]), ST_OK);
        assert_int_equal(blob_get_sized(other, i, sizes[i / 2]), ST_OK);
        assert_false(blob_has(elsewhere, i));
    }
    struct store_stats stats = store_stats_of(store), others = store_stats_of(other);
    assert_true(stats.puts == 2 * ARRAY_COUNT(sizes) && stats.misses == stats.puts && stats.failed == 0);
    assert_true(others.puts == 0 && others.hits == stats.puts && others.misses == 0);
    struct store_key key = blob_key(3);
    store_remove(store, &key);
    assert_false(blob_has(other, 3));
    store_close(store);
    store_close(other);
    store_close(elsewhere);
    server_stop(&server);
}

static void test_many_at_once(void **state)
{
    (void)state;
    struct server server = server_new("--maxmemory", "1gb");
    struct store *store = open_store("redis://127.0.0.1:%u", server.port);
    static struct store_key keys[5000];
    static bool there[5000];
    for (uint32_t i = 0; i < ARRAY_COUNT(keys); i++) {
        keys[i] = blob_key(i);
        if (i % 97 == 0) assert_int_equal(blob_put(store, i), ST_OK);
    }
    double begun = clock_seconds();
    store_have(store, keys, ARRAY_COUNT(keys), there);
    print_message("%zu keys asked for in %.1f ms\n", ARRAY_COUNT(keys), (clock_seconds() - begun) * 1e3);
    for (uint32_t i = 0; i < ARRAY_COUNT(keys); i++) assert_int_equal(there[i], i % 97 == 0);
    store_close(store);
    server_stop(&server);
}

static void test_password(void **state)
{
    (void)state;
    struct server server = server_new("--requirepass", "s:e/c@ret");
    struct store *right = open_store("redis://:s%%3Ae%%2Fc%%40ret@127.0.0.1:%u", server.port),
                 *named = open_store("redis://default:s%%3Ae%%2Fc%%40ret@127.0.0.1:%u", server.port),
                 *wrong = open_store("redis://:guess@127.0.0.1:%u", server.port),
                 *none = open_store("redis://127.0.0.1:%u", server.port);
    assert_int_equal(blob_put(right, 1), ST_OK);
    assert_int_equal(blob_get(named, 1), ST_OK);
    assert_int_equal(blob_put(wrong, 2), ST_IO);
    assert_int_equal(blob_get(none, 1), ST_NOT_FOUND);
    assert_true(store_stats_of(wrong).failed == 1 && store_stats_of(none).failed == 1);
    store_close(right);
    store_close(named);
    store_close(wrong);
    store_close(none);
    server_stop(&server);
}

/* Killed, every call is a miss, at once but for the first; back again, it is used again. */
static void test_killed_and_restarted(void **state)
{
    (void)state;
    struct server server = server_new("--maxmemory", "1gb");
    struct store *store = open_store("redis://127.0.0.1:%u", server.port);
    assert_int_equal(blob_put(store, 1), ST_OK);
    server_stop(&server);
    double begun = clock_seconds();
    for (uint32_t i = 0; i < 50; i++) {
        assert_int_equal(blob_get(store, 1), ST_NOT_FOUND);
        assert_int_equal(blob_put(store, 2), ST_IO);
        assert_false(blob_has(store, 1));
    }
    assert_true(clock_seconds() - begun < 0.8);
    assert_int_equal(store_stats_of(store).failed, 150);
    server_start(&server, "--maxmemory", "1gb");
    while (blob_put(store, 3) != ST_OK && clock_seconds() - begun < 20) usleep(50000);
    assert_int_equal(blob_get(store, 3), ST_OK);
    assert_int_equal(blob_get(store, 1), ST_NOT_FOUND); /* the new server knows nothing */
    server_stop(&server);                               /* and, restarted between two calls, is not a failure */
    server_start(&server, "--maxmemory", "1gb");
    uint64_t failed = store_stats_of(store).failed;
    assert_int_equal(blob_put(store, 4), ST_OK);
    assert_int_equal(store_stats_of(store).failed, failed);
    store_close(store);
    server_stop(&server);
}

static void test_full_server(void **state)
{
    (void)state;
    struct server server = server_new("--maxmemory", "300kb");
    struct store *store = open_store("redis://127.0.0.1:%u", server.port);
    assert_int_equal(blob_put(store, 2), ST_FULL);
    assert_int_equal(blob_put(store, 4), ST_IO); /* not tried again so soon */
    assert_int_equal(blob_get(store, 2), ST_NOT_FOUND);
    struct store_stats stats = store_stats_of(store);
    assert_true(stats.failed == 2 && stats.misses == 1 && stats.puts == 0);
    store_close(store);
    server_stop(&server);
}

/* What others put under our keys is found, counted, removed, and can be stored anew. */
static void test_hostile_values(void **state)
{
    (void)state;
    struct server server = server_new("--maxmemory", "1gb");
    struct store *store = open_store("redis://127.0.0.1:%u", server.port);
    static const char *const values[] = {
        "SET %s x\r\n",    "SET %s KVASIRBL\r\n",        "RPUSH %s a b c\r\n",
        "HSET %s a b\r\n", "SETRANGE %s 95 x\r\n",       "SETRANGE %s 50000000 x\r\n",
        "APPEND %s x\r\n", "SETRANGE %s 0 kvasirbl\r\n", "SETRANGE %s 19000 xyz\r\n",
    };
    for (uint32_t i = 0; i < ARRAY_COUNT(values); i++) {
        char name[80], command[200], answer[100];
        bool over_ours = i >= 6;
        key_name(2 * i, name);
        if (over_ours) assert_int_equal(blob_put(store, 2 * i), ST_OK);
        int length = snprintf(command, sizeof command, values[i], name);
        say(server.port, command, (size_t)length, answer, sizeof answer);
        assert_true(answer[0] == '+' || answer[0] == ':');
        assert_true(blob_has(store, 2 * i));
        assert_int_equal(blob_get(store, 2 * i), ST_NOT_FOUND);
        assert_int_equal(store_stats_of(store).damaged, i + 1);
        assert_false(blob_has(store, 2 * i));
        assert_int_equal(blob_put(store, 2 * i), ST_OK);
        assert_int_equal(blob_get(store, 2 * i), ST_OK);
    }
    assert_int_equal(store_stats_of(store).failed, 0);
    store_close(store);
    server_stop(&server);
}

/* ---- false ones -------------------------------------------------------------------------------------------------- */

struct false_server {
    int listening;
    uint16_t port;
    const char *answer; /* to everything; NULL: none */
    uint32_t repeated;  /* without end: UINT32_MAX */
    uint32_t pause_us;  /* between two bytes of it */
    _Atomic bool ending;
    pthread_t thread;
};

static void *false_serve(void *data)
{
    struct false_server *server = data;
    while (!server->ending) {
        char heard[4096];
        int fd = accept(server->listening, NULL, NULL);
        if (fd < 0) break;
        while (!server->ending && recv(fd, heard, sizeof heard, 0) > 0) {
            size_t length = server->answer ? strlen(server->answer) : 0;
            bool open = true;
            for (uint32_t r = 0; r < server->repeated && length && open && !server->ending; r++)
                for (size_t i = 0; i < length && open; i += server->pause_us ? 1 : length) {
                    open = send(fd, server->answer + i, server->pause_us ? 1 : length, MSG_NOSIGNAL) > 0;
                    if (server->pause_us) usleep(server->pause_us);
                }
        }
        close(fd);
    }
    return NULL;
}

static void false_start(struct false_server *server)
{
    server->listening = listen_somewhere(&server->port);
    server->ending = false;
    assert_int_equal(pthread_create(&server->thread, NULL, false_serve, server), 0);
}

static void false_stop(struct false_server *server)
{
    server->ending = true;
    shutdown(server->listening, SHUT_RDWR);
    close(server->listening);
    pthread_join(server->thread, NULL);
}

/* Whatever a server says, a call is a miss, takes no longer than it may, and asks for no more memory than was stored. */
static void test_hostile_servers(void **state)
{
    (void)state;
    static struct false_server servers[] = {
        {.answer = "HTTP/1.1 400 Bad Request\r\n\r\n", .repeated = 1},
        {.answer = "$-1\r\n", .repeated = 1},
        {.answer = "$99999999999999999999\r\n", .repeated = 1},
        {.answer = "$2147483647\r\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
         .repeated = UINT32_MAX},
        {.answer = "*1000000000\r\n", .repeated = 1},
        {.answer = "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n", .repeated = 1},
        {.answer = ":1\r\n", .repeated = 1},
        {.answer = ":99999999999999999999999999\r\n", .repeated = 1},
        {.answer = "+OK\r\n", .repeated = 1},
        {.answer = "-ERR no\r\n", .repeated = 1},
        {.answer = "-MOVED 3999 127.0.0.1:6381\r\n", .repeated = 1},
        {.answer = "+", .repeated = UINT32_MAX},
        {.answer = "$5\r\nhello\r\n", .repeated = 100000},
    };
    for (uint32_t i = 0; i < ARRAY_COUNT(servers); i++) {
        struct false_server *server = &servers[i];
        false_start(server);
        double begun = clock_seconds();
        struct store *store = open_store("redis://127.0.0.1:%u", server->port);
        assert_int_equal(blob_get(store, 1), ST_NOT_FOUND);
        if (server->answer[0] != ':') assert_int_not_equal(blob_put(store, 1), ST_OK);
        (void)blob_has(store, 1);
        struct store_stats stats = store_stats_of(store);
        assert_true(stats.hits == 0 && stats.bytes_read == 0 && stats.failed + stats.damaged + stats.misses > 0);
        assert_true(clock_seconds() - begun < 2 * STORE_PATIENCE_S);
        store_close(store);
        false_stop(server);
    }
}

/* A server that never answers, or a byte now and then, costs the patience once; then it is left alone. */
static void test_slow_servers(void **state)
{
    (void)state;
    static struct false_server silent = {.answer = NULL},
                               slow = {.answer = "$20000\r\nxxxxx", .repeated = 1000, .pause_us = 200000};
    struct false_server *servers[] = {&silent, &slow};
    for (uint32_t i = 0; i < ARRAY_COUNT(servers); i++) {
        false_start(servers[i]);
        struct store *store = open_store("redis://127.0.0.1:%u", servers[i]->port);
        double begun = clock_seconds();
        assert_int_equal(blob_get(store, 1), ST_NOT_FOUND);
        double first_s = clock_seconds() - begun;
        assert_true(first_s > STORE_PATIENCE_S * 0.9 && first_s < STORE_PATIENCE_S + 1);
        assert_int_equal(blob_put(store, 1), ST_IO);
        assert_true(clock_seconds() - begun - first_s < 0.5);
        store_close(store);
        false_stop(servers[i]);
    }
}

/* ---- URLs -------------------------------------------------------------------------------------------------------- */

static void test_urls(void **state)
{
    (void)state;
    static const struct {
        const char *url, *host, *port, *user, *password;
        uint32_t database;
    } good[] = {
        {"redis://h", "h", "6379", NULL, NULL, 0},
        {"redis://h/", "h", "6379", NULL, NULL, 0},
        {"redis://10.1.2.3:1/15", "10.1.2.3", "1", NULL, NULL, 15},
        {"redis://:p@h:65535", "h", "65535", NULL, "p", 0},
        {"redis://u:@h", "h", "6379", "u", "", 0},
        {"redis://u%40x:p%3a@q@[::1]:77/2", "::1", "77", "u@x", "p:@q", 2},
        {"redis://[fe80::1]", "fe80::1", "6379", NULL, NULL, 0},
    };
    static const char *const bad[] = {
        "",
        "h",
        "tcp://h",
        "redis:/h",
        "redis://",
        "redis:///1",
        "redis://:1",
        "redis://h:",
        "redis://h:65536",
        "redis://h:1x",
        "redis://h:-1",
        "redis://h/x",
        "redis://h/1/2",
        "redis://h/65536",
        "redis://u@h",
        "redis://u:%0@h",
        "redis://u:%00@h",
        "redis://u:%zz@h",
        "redis://[::1",
        "redis://[]",
        "redis://[::1]6379",
        "redis://h:000006379",
    };
    struct wire wire;
    struct error error;
    for (uint32_t i = 0; i < ARRAY_COUNT(good); i++) {
        if (wire_init(&wire, good[i].url, &error) != ST_OK) fail_msg("%s: %s", good[i].url, error.text);
        assert_string_equal(wire.host, good[i].host);
        assert_string_equal(wire.port, good[i].port);
        assert_string_equal(wire.user ? wire.user : "none", good[i].user ? good[i].user : "none");
        assert_string_equal(wire.password ? wire.password : "none", good[i].password ? good[i].password : "none");
        assert_int_equal(wire.database, good[i].database);
        wire_release(&wire);
    }
    for (uint32_t i = 0; i < ARRAY_COUNT(bad); i++) {
        error.text[0] = 0;
        if (wire_init(&wire, bad[i], &error) != ST_INVALID) fail_msg("'%s' is taken for a URL", bad[i]);
        assert_non_null(strstr(error.text, "redis://[user:password@]host"));
    }
    assert_int_equal(wire_init(&wire, "rediss://u:secret@h", &error), ST_UNSUPPORTED);
    assert_null(strstr(error.text, "secret"));
}

int main(void)
{
    log_set_level(LOG_ERROR); /* outages are meant here */
    const struct CMUnitTest without[] = {
        cmocka_unit_test(test_urls),
        cmocka_unit_test(test_hostile_servers),
        cmocka_unit_test(test_slow_servers),
    };
    const struct CMUnitTest with[] = {
        cmocka_unit_test(test_round_trip),  cmocka_unit_test(test_many_at_once),
        cmocka_unit_test(test_password),    cmocka_unit_test(test_killed_and_restarted),
        cmocka_unit_test(test_full_server), cmocka_unit_test(test_hostile_values),
    };
    int failed = cmocka_run_group_tests(without, NULL, NULL);
    if (system("redis-server --version >/dev/null 2>&1") != 0) {
        printf("redis-server is not installed: the tests against a real server are skipped\n");
        return failed ? failed : TEST_SKIPPED;
    }
    return failed + cmocka_run_group_tests(with, NULL, NULL);
}
