/*
 * A driver stack in C on a machine that vmbusd simulates: it takes the guest side of the machine's bus, lays out rings
 * of its own, and talks with a host. Exits with 0 when everything it checked was right; see README.md.
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bus.h"
#include "ring.h"

#define PACKET_BYTES (0xFFFF * 8) /* no packet is longer than its length field can say */
#define DATA_OFFSET 24            /* where the external data begins in its first page */

struct channel {
    struct bus *bus;
    struct ring out, in;
    int bell;      /* connected socket; any byte says "look", in either direction */
    bool let_go;   /* the host has closed its end of the bell */
    uint32_t sent; /* packets that asked for a completion; their transaction ids count from 1 */
    uint32_t completed;
    uint32_t echoes; /* the first so many of them are to be completed with their own payload */
    uint8_t *seen; /* one for each transaction id: whether it was completed */
    uint32_t capacity;
    uint8_t answer[24]; /* of the completion that was received last: descriptor and the first 8 bytes */
    uint32_t received;  /* packets of the host's */
    uint8_t packet[PACKET_BYTES], reply[PACKET_BYTES];
    uint32_t reply_bytes; /* a completion that waits for room; until it is gone nothing more is received */
};

struct command {
    char verb[4];
    uint32_t number;
};

/* ---- Doorbell and rings */

static void ring_bell(struct channel *channel) {
    /* Never waits. If the queue is full, the host has a doorbell still to hear; if it is closed, reading says so. */
    if (send(channel->bell, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN && errno != EPIPE &&
        errno != ECONNRESET)
        die("cannot ring the doorbell: %s", strerror(errno));
}

/* Wait until the host rings; take control messages in meanwhile. */
static void wait_for_bell(struct channel *channel) {
    uint8_t heard[256];
    for (;;) {
        if (channel->let_go) /* the ring was looked at since, for what had been sent before */
            die("the host let go of the channel while packets were on their way");
        bus_look(channel->bus);
        channel->let_go = channel->bus->rescinded;
        if (channel->let_go)
            return;
        struct pollfd sources[] = {{channel->bus->wire.fd, POLLIN, 0}, {channel->bell, POLLIN, 0}};
        if (poll(sources, 2, -1) < 0 && errno != EINTR)
            die("poll: %s", strerror(errno));
        if (sources[0].revents)
            wire_receive(&channel->bus->wire);
        if (!sources[1].revents)
            continue;
        ssize_t got; /* read it empty before looking at the ring */
        while ((got = recv(channel->bell, heard, sizeof heard, MSG_DONTWAIT)) > 0)
            ;
        if (got < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNRESET)
            die("cannot read the doorbell: %s", strerror(errno));
        channel->let_go = got == 0 || errno == ECONNRESET;
        return;
    }
}

/* False: the ring is full, and the host will ring when there is room. */
static bool try_send(struct channel *channel, const void *packet, uint32_t bytes) {
    enum ring_result result;
    bool bell = false;
    while ((result = ring_send(&channel->out, packet, bytes, &bell)) == RING_FULL)
        if (!ring_ask_for_room(&channel->out, bytes))
            return false;
    if (result == RING_DAMAGED)
        die("the host damaged the guest's ring");
    bus_trace(channel->bus, ">>", packet, bytes);
    if (bell)
        ring_bell(channel);
    return true;
}

static void completed(struct channel *channel, const struct vmbus_packet_descriptor *descriptor) {
    uint64_t id = descriptor->transaction_id;
    if (id == 0 || id > channel->sent || channel->seen[id - 1])
        die("the host completed packet %llu, which does not wait for it", (unsigned long long)id);
    channel->seen[id - 1] = 1;
    channel->completed++;
    memset(channel->answer, 0, sizeof channel->answer);
    uint32_t bytes = descriptor->length8 * 8u;
    memcpy(channel->answer, channel->packet, bytes < sizeof channel->answer ? bytes : sizeof channel->answer);
    struct command expected = {.verb = "echo", .number = (uint32_t)id - 1};
    if (id <= channel->echoes && memcmp(channel->answer + sizeof *descriptor, &expected, sizeof expected) != 0)
        die("the host completed packet %llu with something else than its payload", (unsigned long long)id);
}

static void handle(struct channel *channel) {
    struct vmbus_packet_descriptor descriptor;
    memcpy(&descriptor, channel->packet, sizeof descriptor);
    uint32_t offset = descriptor.data_offset8 * 8u;
    if (descriptor.type == VMBUS_PACKET_COMPLETION) {
        completed(channel, &descriptor);
    } else if (descriptor.type == VMBUS_PACKET_IN_BAND) {
        channel->received++;
        if (descriptor.flags & VMBUS_PACKET_COMPLETION_REQUESTED)
            channel->reply_bytes =
                packet_plain(channel->reply, VMBUS_PACKET_COMPLETION, 0, descriptor.transaction_id,
                             channel->packet + offset, descriptor.length8 * 8u - offset);
    } else {
        die("the host sent a packet of type %u", descriptor.type);
    }
}

/* Do everything that can be done without waiting; then the host will ring for whatever comes next. */
static void work(struct channel *channel) {
    for (;;) {
        uint32_t bytes;
        bool bell = false;
        if (channel->reply_bytes && !try_send(channel, channel->reply, channel->reply_bytes))
            return;
        channel->reply_bytes = 0;
        switch (ring_receive(&channel->in, channel->packet, sizeof channel->packet, &bytes, &bell)) {
        case RING_DONE:
            if (bell)
                ring_bell(channel);
            bus_trace(channel->bus, "<<", channel->packet, bytes);
            handle(channel);
            break;
        case RING_EMPTY:
            if (ring_go_idle(&channel->in))
                return;
            break;
        default:
            die("the host damaged its ring");
        }
    }
}

/* Send a packet however long it takes. While it waits for room the other ring is emptied, or two full ones could wait
 * for each other. */
static void send_packet(struct channel *channel, const void *packet, uint32_t bytes) {
    if (bytes + sizeof(struct vmbus_packet_footer) > channel->out.bytes - 16)
        die("a packet of %u bytes never fits this ring", bytes);
    for (;;) {
        work(channel);
        if (try_send(channel, packet, bytes))
            return;
        wait_for_bell(channel);
    }
}

static uint64_t next_transaction(struct channel *channel) {
    if (channel->sent == channel->capacity)
        die("this guest asks for %u completions and no more", channel->capacity);
    return ++channel->sent;
}

static void send_command(struct channel *channel, const char *verb, uint32_t number) {
    uint8_t packet[64];
    struct command command = {.number = number};
    memcpy(command.verb, verb, sizeof command.verb);
    uint32_t bytes = packet_plain(packet, VMBUS_PACKET_IN_BAND, VMBUS_PACKET_COMPLETION_REQUESTED,
                                  next_transaction(channel), &command, sizeof command);
    send_packet(channel, packet, bytes);
}

static void wait_for_completions(struct channel *channel) {
    for (work(channel); channel->completed < channel->sent; work(channel))
        wait_for_bell(channel);
}

/* ---- What this guest wants */

static void echo(struct channel *channel, uint32_t packets) {
    channel->echoes = packets;
    for (uint32_t number = 0; number < packets; number++)
        send_command(channel, "echo", number);
    wait_for_completions(channel);
    printf("echoed %u packets\n", packets);
}

/* A packet that points at memory of the machine; the host completes it with the sum of the bytes it finds there. */
static void external_data(struct channel *channel, uint32_t bytes) {
    struct vmbus_gpa_range range = {.byte_count = bytes, .byte_offset = DATA_OFFSET};
    uint32_t count = range_pages(range);
    uint64_t *pages = calloc(count, sizeof *pages), sum = 0, said;
    uint8_t *packet = malloc(64 + count * sizeof *pages);
    if (pages == NULL || packet == NULL)
        die("out of memory");
    bus_allocate(channel->bus, pages, count);
    for (uint32_t i = 0; i < bytes; i++) {
        uint32_t at = DATA_OFFSET + i;
        uint8_t value = (uint8_t)(i * 7 + i / 251);
        channel->bus->memory[pages[at / VMBUS_PAGE_BYTES] * VMBUS_PAGE_BYTES + at % VMBUS_PAGE_BYTES] = value;
        sum += value;
    }
    uint32_t size = packet_gpa_direct(packet, next_transaction(channel), range, pages, "sum", 4);
    send_packet(channel, packet, size);
    wait_for_completions(channel);
    memcpy(&said, channel->answer + sizeof(struct vmbus_packet_descriptor), sizeof said);
    if (said != sum)
        die("the host found a sum of %llu in %u bytes, not %llu", (unsigned long long)said, bytes,
            (unsigned long long)sum);
    printf("external data %u bytes, sum %llu\n", bytes, (unsigned long long)sum);
    free(pages);
    free(packet);
}

static void receive(struct channel *channel, uint32_t packets) {
    send_command(channel, "send", packets);
    wait_for_completions(channel);
    for (work(channel); channel->received < packets || channel->reply_bytes; work(channel))
        wait_for_bell(channel);
    printf("received %u packets\n", packets);
}

static void leave(struct channel *channel, bool by_rescind) {
    if (by_rescind) {
        send_command(channel, "gone", 0);
        wait_for_completions(channel);
        bus_wait_for_rescind(channel->bus);
        printf("rescinded\n");
    }
    bus_close(channel->bus);
    if (by_rescind)
        bus_release(channel->bus);
    close(channel->bell);
}

/* ---- Setting up */

static void open_channel(struct channel *channel, uint32_t ring_pages) {
    uint32_t each = ring_pages + 1, count = 2 * each;
    static uint64_t pages[8190]; /* as many as a page list of one range can name; the rings go on using it */
    if (ring_pages == 0 || count > sizeof pages / sizeof *pages)
        die("a ring has 1 to %zu data pages", sizeof pages / sizeof *pages / 2 - 1);
    bus_allocate(channel->bus, pages, count);
    ring_start(&channel->out, channel->bus->memory, pages, each);
    ring_start(&channel->in, channel->bus->memory, pages + each, each);
    channel->bell = bus_open(channel->bus, pages, count, each);
}

static bool parse_guid(const char *text, struct vmbus_guid *guid) {
    unsigned int a, b, c, d[8];
    int end = 0;
    if (sscanf(text, "%8x-%4x-%4x-%2x%2x-%2x%2x%2x%2x%2x%2x%n", &a, &b, &c, &d[0], &d[1], &d[2], &d[3], &d[4], &d[5],
               &d[6], &d[7], &end) != 11 || text[end] != '\0')
        return false;
    uint16_t second = (uint16_t)b, third = (uint16_t)c;
    memcpy(guid->bytes, &a, 4); /* the first three groups are little-endian, as this machine is */
    memcpy(guid->bytes + 4, &second, 2);
    memcpy(guid->bytes + 6, &third, 2);
    for (int i = 0; i < 8; i++)
        guid->bytes[8 + i] = (uint8_t)d[i];
    return true;
}

static uint32_t parse_count(const char *text, uint32_t largest) {
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || value > largest)
        die("%s is not a number from 0 to %u", text, largest);
    return (uint32_t)value;
}

struct options {
    const char *socket, *machine, *interface;
    uint32_t packets, bytes, receive, ring_pages;
    bool close, trace;
};

static struct options parse_options(int argc, char **argv) {
    static const struct option names[] = {
        {"socket", 1, NULL, 's'},  {"machine", 1, NULL, 'm'}, {"interface", 1, NULL, 'i'},  {"packets", 1, NULL, 'p'},
        {"bytes", 1, NULL, 'b'},   {"receive", 1, NULL, 'r'}, {"ring-pages", 1, NULL, 'g'}, {"close", 0, NULL, 'c'},
        {"trace", 0, NULL, 't'},   {NULL, 0, NULL, 0},
    };
    struct options options = {getenv("VMBUS_SOCKET"), "vm1", NULL, 2000, 100000, 100, 16, false, false};
    for (int name; (name = getopt_long(argc, argv, "", names, NULL)) != -1;)
        switch (name) {
        case 's': options.socket = optarg; break;
        case 'm': options.machine = optarg; break;
        case 'i': options.interface = optarg; break;
        case 'p': options.packets = parse_count(optarg, 10000000); break;
        case 'b': options.bytes = parse_count(optarg, 1 << 27); break;
        case 'r': options.receive = parse_count(optarg, 10000000); break;
        case 'g': options.ring_pages = parse_count(optarg, 4094); break;
        case 'c': options.close = true; break;
        case 't': options.trace = true; break;
        default: exit(2); /* getopt has said why */
        }
    if (optind < argc || options.socket == NULL || options.interface == NULL)
        die("usage: bus_guest --interface GUID [--socket PATH] and the options that README.md lists");
    return options;
}

int main(int argc, char **argv) {
    static struct bus bus;
    static struct channel channel;
    struct options options = parse_options(argc, argv);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!parse_guid(options.interface, &bus.wanted))
        die("%s is not a GUID", options.interface);
    wire_connect(&bus.wire, options.socket, "C bus guest");
    bus.trace = options.trace;
    bus_attach(&bus, options.machine);
    bus_connect(&bus);
    printf("connected, version %u.%u\n", bus.version >> 16, bus.version & 0xFFFF);
    bus_find_offer(&bus);
    if (bus.offer.flags & VMBUS_OFFER_NAMED_PIPE_MODE)
        die("channel %u is a named pipe, which this guest does not speak", bus.offer.channel_id);
    channel.bus = &bus;
    channel.capacity = options.packets + 3; /* the packets of echo, and one each of what follows */
    channel.seen = calloc(channel.capacity, 1);
    if (channel.seen == NULL)
        die("out of memory");
    open_channel(&channel, options.ring_pages);
    printf("opened channel %u\n", bus.offer.channel_id);
    echo(&channel, options.packets);
    if (options.bytes > 0)
        external_data(&channel, options.bytes);
    receive(&channel, options.receive);
    leave(&channel, !options.close);
    bus_unload(&bus);
    printf("unloaded\n");
    wire_close(&bus.wire);
    free(channel.seen);
    return 0;
}
