/* origin.c - see origin.h. No sockets. */
#include "server/origin.h"
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

struct text {
    const char *data;
    size_t bytes;
};

static bool same(struct text a, struct text b)
{
    return a.bytes == b.bytes && strncasecmp(a.data, b.data, a.bytes) == 0;
}

/* The name of "name:port" or "[address]:port". */
static struct text name_of(struct text host)
{
    const char *bracket = host.bytes && host.data[0] == '[' ? memchr(host.data, ']', host.bytes) : NULL;
    size_t address = bracket ? (size_t)(bracket - host.data) + 1 : 0;
    if (address && (address == host.bytes || host.data[address] == ':')) return (struct text){host.data, address};
    const char *colon = memchr(host.data, ':', host.bytes);
    return (struct text){host.data, colon ? (size_t)(colon - host.data) : host.bytes};
}

static bool is_address(struct text name)
{
    char text[INET6_ADDRSTRLEN];
    unsigned char address[16];
    bool wide = name.bytes > 2 && name.data[0] == '[' && name.data[name.bytes - 1] == ']';
    if (wide) name = (struct text){name.data + 1, name.bytes - 2};
    if (name.bytes >= sizeof text) return false;
    snprintf(text, sizeof text, "%.*s", (int)name.bytes, name.data);
    return inet_pton(wide ? AF_INET6 : AF_INET, text, address) == 1;
}

static bool ends_with(struct text name, struct text ending)
{
    return name.bytes > ending.bytes &&
           same((struct text){name.data + name.bytes - ending.bytes, ending.bytes}, ending);
}

/* Is an item of the list "*", `text`, or "*.domain" of its `name`? */
static bool is_listed(const struct name_list *list, struct text text, struct text name)
{
    for (size_t i = 0; i < list->count; i++)
        for (const char *p = list->items[i], *blanks = strncmp(p, "[\"", 2) == 0 ? " []\"" : " ";;) {
            p += strspn(p, blanks);
            struct text item = {p, strcspn(p, ",")};
            p += item.bytes;
            while (item.bytes && strchr(blanks, item.data[item.bytes - 1])) item.bytes--;
            bool all = item.bytes == 1 && *item.data == '*',
                 domain = item.bytes > 2 && strncmp(item.data, "*.", 2) == 0;
            if (all || (item.bytes && (same(item, text) || same(item, name))) ||
                (domain && ends_with(name, (struct text){item.data + 1, item.bytes - 1})))
                return true;
            if (!*p++) break;
        }
    return false;
}

bool origin_host_is_allowed(const struct name_list *allowed, const char *bound, const char *host)
{
    struct text text = {host, strlen(host)}, name = name_of(text);
    return is_address(name) || same(name, (struct text){"localhost", 9}) ||
           ends_with(name, (struct text){".localhost", 10}) || same(name, (struct text){bound, strlen(bound)}) ||
           is_listed(allowed, text, name);
}

bool origin_is_allowed(const struct name_list *allowed, const char *host, const char *origin)
{
    struct text text = {origin, strlen(origin)};
    const char *authority = strstr(origin, "://");
    return (authority && strcasecmp(authority + 3, host) == 0) || is_listed(allowed, text, text);
}
