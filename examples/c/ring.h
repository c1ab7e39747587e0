/*
 * A ring over shared memory, one end at a time, and the packets in it. It knows neither the daemon nor the channel.
 *
 * The other side may write anything into this memory at any time. Therefore each end keeps its own index to itself,
 * checks the other's at every look, and copies a packet out before it judges it.
 */
#ifndef RING_H
#define RING_H

#include <stdbool.h>
#include <stdint.h>

#include "vmbus_user.h"

struct ring {
    struct vmbus_ring_control *control;
    uint8_t *memory;       /* guest memory, from address 0 on */
    const uint64_t *pages; /* page numbers of the data area, in any order */
    uint32_t bytes;        /* of the data area */
    uint32_t mine;         /* the index this end owns; in shared memory it is output only */
};

enum ring_result {
    RING_DONE,
    RING_FULL,    /* nothing was sent */
    RING_EMPTY,   /* nothing was received */
    RING_DAMAGED, /* the other side wrote nonsense: stop using the channel */
};

/* A ring in these pages of guest memory, which the caller has checked: the control page, then the data area. Clears
 * the control page; do it before the host is told of them. */
void ring_start(struct ring *ring, uint8_t *memory, const uint64_t *pages, uint32_t page_count);

/* Write one packet, a multiple of 8 bytes long, and its footer. Sets *ring_bell if the receiver waits for that. */
enum ring_result ring_send(struct ring *ring, const void *packet, uint32_t bytes, bool *ring_bell);

/* After RING_FULL: ask for a doorbell when a packet of so many bytes fits. True: it fits by now, send it. */
bool ring_ask_for_room(struct ring *ring, uint32_t bytes);

/* Copy one packet out, at most `capacity` bytes, of which there were *bytes. A longer one is damage. */
enum ring_result ring_receive(struct ring *ring, void *packet, uint32_t capacity, uint32_t *bytes, bool *ring_bell);

/* Ask for a doorbell when something arrives. False: something has, look again. */
bool ring_go_idle(struct ring *ring);

/* Build packets, padding included; each returns the bytes it took at `packet`. */
uint32_t packet_plain(void *packet, enum vmbus_packet_type type, uint16_t flags, uint64_t transaction_id,
                      const void *payload, uint32_t bytes);
uint32_t packet_gpa_direct(void *packet, uint64_t transaction_id, struct vmbus_gpa_range range, const uint64_t *pages,
                           const void *payload, uint32_t bytes);

/* Pages that a range touches. */
uint32_t range_pages(struct vmbus_gpa_range range);

#endif
