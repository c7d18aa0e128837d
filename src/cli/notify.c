/* notify.c - telling systemd how far the server is (Type=notify): a datagram to the socket that $NOTIFY_SOCKET names, as
 * sd_notify(3) describes it. Without systemd there is no socket, and nothing is done. */
#include "cli/cli.h"
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

void notify_send(const struct options *options, const char *state)
{
    const char *path = options->environment.notify_socket;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t bytes = path ? strlen(path) : 0;
    if (!bytes || bytes >= sizeof address.sun_path || (*path != '/' && *path != '@')) return;
    memcpy(address.sun_path, path, bytes);
    if (*path == '@') address.sun_path[0] = 0; /* an abstract name */
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return;
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + bytes);
    if (sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&address, length) < 0)
        log_line(LOG_WARNING, "systemd could not be told: %s", state);
    close(fd);
}
