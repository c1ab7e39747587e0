/* Ends of the datagram benchmarks: senders that keep to a rate, and sinks that count. Over UDP on the loopback, and as
 * a port of a vde_switch, where a datagram is the payload of an Ethernet frame. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER_BYTES = 4 << 20, LARGEST = 65536, QUIET_MILLISECONDS = 100, HEADER_BYTES = 14 };
static char data[LARGEST];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void must(int good, const char *what)
{
    if (!good) {
        perror(what);
        exit(1);
    }
}

/* A UDP socket bound to a loopback port, and that port. */
static int udp(int *port)
{
    int s = socket(AF_INET, SOCK_DGRAM, 0), size = BUFFER_BYTES;
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(*port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof a;
    must(s >= 0, "socket");
    setsockopt(s, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    must(!bind(s, (struct sockaddr *)&a, sizeof a), "bind");
    getsockname(s, (struct sockaddr *)&a, &length);
    *port = ntohs(a.sin_port);
    return s;
}

/* What a switch is told by whoever plugs in: then it answers with the address frames go to. */
struct plug {
    uint32_t magic, version;
    int32_t wanted;
    struct sockaddr_un own;
    char name[8];
} __attribute__((packed));

/* A port of the switch with this control socket. The stream it came over stays open as long as the port is used. */
static int vde(const char *directory)
{
    int control = socket(AF_UNIX, SOCK_STREAM, 0), s = socket(AF_UNIX, SOCK_DGRAM, 0), size = BUFFER_BYTES;
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    struct plug plug = { 0xfeedface, 3, 0, { .sun_family = AF_UNIX }, "bench" };
    must(control >= 0 && s >= 0, "socket");
    snprintf(a.sun_path, sizeof a.sun_path, "%s/ctl", directory);
    must(!connect(control, (struct sockaddr *)&a, sizeof a), "connect to the switch");
    snprintf(plug.own.sun_path, sizeof plug.own.sun_path, "%s.port.%d", directory, getpid());
    must(!bind(s, (struct sockaddr *)&plug.own, sizeof plug.own), "bind");
    must(write(control, &plug, sizeof plug) == sizeof plug, "ask the switch");
    must(read(control, &a, sizeof a) > 0, "answer of the switch");
    must(!connect(s, (struct sockaddr *)&a, sizeof a), "connect to the port");
    setsockopt(s, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    return s;
}

/* An Ethernet header from one of our two stations to the other. */
static void header(int from)
{
    memcpy(data, "\x02\0\0\0\0\0\x02\0\0\0\0\0\x88\xb5", HEADER_BYTES);
    data[5] = 3 - from;
    data[11] = from;
}

/* Counts what comes, until a line on standard input asks: answers with the count since the last, after a quiet moment. */
static int sink(int s)
{
    char line[16];
    unsigned long count = 0;
    struct pollfd both[2] = { { s, POLLIN, 0 }, { 0, POLLIN, 0 } };
    for (;;) {
        poll(both, 2, -1);
        if (both[0].revents) {
            for (int i = 0; i < 1024 && recvfrom(s, data, sizeof data, MSG_DONTWAIT, 0, 0) >= 0; i++)
                count++;
        } else if (both[1].revents) {
            if (read(0, line, sizeof line) <= 0)
                return 0;
            while (poll(both, 1, QUIET_MILLISECONDS) > 0)
                while (recvfrom(s, data, sizeof data, MSG_DONTWAIT, 0, 0) >= 0)
                    count++;
            printf("%lu\n", count);
            fflush(stdout);
            count = 0;
        }
    }
}

/* Sends at a rate for so many seconds, one system call each; prints how many, and the seconds it took. */
static int pace(int s, const struct sockaddr_in *to, size_t bytes, double rate, double seconds)
{
    double began = now(), t;
    unsigned long sent = 0;
    while ((t = now() - began) < seconds)
        for (unsigned long due = t * rate; sent < due && now() - began < seconds; sent++)
            while (sendto(s, data, bytes, 0, (const struct sockaddr *)to, to ? sizeof *to : 0) < 0)
                must(errno == ECONNREFUSED || errno == ENOBUFS || errno == EAGAIN, "sendto");
    printf("%lu %.6f\n", sent, now() - began);
    return 0;
}

int main(int argc, char **argv)
{
    const char *what = argc > 2 ? argv[1] : "";
    int port = 0;
    if (!strcmp(what, "sink")) {
        int s = udp(&port);
        printf("%d\n", port);
        fflush(stdout);
        return sink(s);
    }
    if (!strcmp(what, "vde-sink")) {
        int s = vde(argv[2]);
        header(2); /* so that the switch knows where it is */
        must(send(s, data, HEADER_BYTES + 46, 0) > 0, "send");
        printf("0\n");
        fflush(stdout);
        return sink(s);
    }
    if (argc == 6 && !strcmp(what, "pace")) {
        struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[2])) };
        to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        return pace(udp(&port), &to, atoi(argv[3]), atof(argv[4]), atof(argv[5]));
    }
    if (argc == 6 && !strcmp(what, "vde-pace")) {
        int s = vde(argv[2]);
        header(1);
        return pace(s, NULL, HEADER_BYTES + atoi(argv[3]), atof(argv[4]), atof(argv[5]));
    }
    fprintf(stderr, "datagrams sink|vde-sink WHERE; pace|vde-pace WHERE BYTES RATE SECONDS\n");
    return 2;
}
