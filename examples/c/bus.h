/*
 * The guest's side of a machine's bus: the control conversation, for a guest that opens one channel.
 */
#ifndef BUS_H
#define BUS_H

#include "wire.h"

struct bus {
    struct wire wire;
    uint8_t *memory; /* the machine's, from guest physical address 0 on */
    uint64_t memory_bytes;
    uint32_t version;
    uint32_t connection_id; /* where to post */
    bool trace;             /* print every control message and every packet */

    struct vmbus_guid wanted; /* the interface this guest looks for */
    bool offered;
    struct vmbus_offer_channel offer;
    bool rescinded;

    uint32_t gpadl_id; /* of the rings; 0: none */
};

/* Print bytes in hex, if tracing is on. */
void bus_trace(const struct bus *bus, const char *direction, const void *data, uint32_t bytes);

/* Take the guest side of a machine, with its memory mapped. */
void bus_attach(struct bus *bus, const char *machine);

/* Zeroed pages of guest memory; fills in their numbers, which are checked and need not be neighbours. */
void bus_allocate(struct bus *bus, uint64_t *pages, uint32_t count);

/* Agree on a version, the newest first. */
void bus_connect(struct bus *bus);

/* Wait for an offer of the wanted interface. */
void bus_find_offer(struct bus *bus);

/* Describe the pages of both rings, the guest's first, and open the channel over them; returns its doorbell. */
int bus_open(struct bus *bus, const uint64_t *pages, uint32_t count, uint32_t downstream_page);

/* Take in the control messages that have come; they may be a rescind. Never waits. */
void bus_look(struct bus *bus);

/* Wait until the host has taken its offer back. */
void bus_wait_for_rescind(struct bus *bus);

/* Close the channel and take the memory of its rings back. */
void bus_close(struct bus *bus);

/* After a rescind and bus_close: give the channel's number back. */
void bus_release(struct bus *bus);

/* Leave the host, then the machine. */
void bus_unload(struct bus *bus);

#endif
