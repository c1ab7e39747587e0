#include "ring.h"

#include <stdatomic.h>
#include <string.h>

#define FOOTER_BYTES ((uint32_t)sizeof(struct vmbus_packet_footer))

static uint32_t advance(const struct ring *ring, uint32_t index, uint32_t by) {
    index += by; /* both are below 2 to the power of 31 */
    return index >= ring->bytes ? index - ring->bytes : index; /* the size is no power of two: no mask would do */
}

static uint32_t distance(const struct ring *ring, uint32_t from, uint32_t to) {
    return to >= from ? to - from : to + ring->bytes - from;
}

/* Eight bytes always stay free, so that equal indices mean an empty ring and nothing else. */
static uint32_t free_bytes(const struct ring *ring, uint32_t in, uint32_t out) {
    return ring->bytes - distance(ring, out, in) - 8;
}

static bool is_index(const struct ring *ring, uint32_t index) { return index < ring->bytes && index % 8 == 0; }

static uint8_t *page_at(const struct ring *ring, uint32_t index) {
    return ring->memory + ring->pages[index / VMBUS_PAGE_BYTES] * VMBUS_PAGE_BYTES + index % VMBUS_PAGE_BYTES;
}

/* Neighbours in the ring may be far apart in memory, so copying goes page by page. */
static uint32_t piece(uint32_t index, uint32_t bytes) {
    uint32_t rest = VMBUS_PAGE_BYTES - index % VMBUS_PAGE_BYTES;
    return bytes < rest ? bytes : rest;
}

static uint32_t copy_in(struct ring *ring, uint32_t index, const void *from, uint32_t bytes) {
    const uint8_t *source = from;
    while (bytes > 0) {
        uint32_t now = piece(index, bytes);
        memcpy(page_at(ring, index), source, now);
        source += now;
        bytes -= now;
        index = advance(ring, index, now);
    }
    return index;
}

static void copy_out(const struct ring *ring, uint32_t index, void *to, uint32_t bytes) {
    uint8_t *target = to;
    while (bytes > 0) {
        uint32_t now = piece(index, bytes);
        memcpy(target, page_at(ring, index), now);
        target += now;
        bytes -= now;
        index = advance(ring, index, now);
    }
}

void ring_start(struct ring *ring, uint8_t *memory, const uint64_t *pages, uint32_t page_count) {
    ring->control = (struct vmbus_ring_control *)(memory + pages[0] * VMBUS_PAGE_BYTES);
    ring->memory = memory;
    ring->pages = pages + 1;
    ring->bytes = (page_count - 1) * VMBUS_PAGE_BYTES;
    ring->mine = 0;
    memset(ring->control, 0, sizeof *ring->control);
    atomic_store(&ring->control->feature_bits, VMBUS_RING_PENDING_SIZE_WORKS);
}

enum ring_result ring_send(struct ring *ring, const void *packet, uint32_t bytes, bool *ring_bell) {
    struct vmbus_ring_control *control = ring->control;
    uint32_t before = ring->mine;
    uint32_t out = atomic_load_explicit(&control->out, memory_order_acquire);
    if (!is_index(ring, out))
        return RING_DAMAGED;
    if (bytes + FOOTER_BYTES > free_bytes(ring, before, out))
        return RING_FULL;
    struct vmbus_packet_footer footer = {.offset = before};
    uint32_t index = copy_in(ring, before, packet, bytes);
    ring->mine = copy_in(ring, index, &footer, FOOTER_BYTES);
    atomic_store_explicit(&control->pending_send_size, 0, memory_order_relaxed);

    /* Publish, fence, then look: without the full fence the processor may look first, and a wake-up is lost. */
    atomic_store_explicit(&control->in, ring->mine, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    uint32_t mask = atomic_load_explicit(&control->interrupt_mask, memory_order_acquire);
    out = atomic_load_explicit(&control->out, memory_order_relaxed);
    *ring_bell = mask == 0 && out == before; /* it was empty when we began; a receiver past that has seen us */
    return RING_DONE;
}

bool ring_ask_for_room(struct ring *ring, uint32_t bytes) {
    uint32_t needed = bytes + FOOTER_BYTES;
    uint32_t wanted = needed > ring->bytes / 4 ? needed : ring->bytes / 4; /* not a doorbell for every few bytes */
    atomic_store_explicit(&ring->control->pending_send_size, wanted, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    uint32_t out = atomic_load_explicit(&ring->control->out, memory_order_acquire);
    return !is_index(ring, out) || free_bytes(ring, ring->mine, out) >= needed; /* damage is for ring_send to tell */
}

/* Whether taking what lay between two read indices just gave a blocked sender the room it waits for. */
static bool frees_a_sender(struct ring *ring, uint32_t before, uint32_t after) {
    uint32_t pending = atomic_load_explicit(&ring->control->pending_send_size, memory_order_acquire) & ~7u;
    uint32_t in = atomic_load_explicit(&ring->control->in, memory_order_acquire);
    uint32_t features = atomic_load_explicit(&ring->control->feature_bits, memory_order_relaxed);
    if (pending == 0 || !(features & VMBUS_RING_PENDING_SIZE_WORKS) || !is_index(ring, in))
        return false;
    return free_bytes(ring, in, before) < pending && pending <= free_bytes(ring, in, after);
}

enum ring_result ring_receive(struct ring *ring, void *packet, uint32_t capacity, uint32_t *bytes, bool *ring_bell) {
    struct vmbus_ring_control *control = ring->control;
    struct vmbus_packet_descriptor descriptor;
    uint32_t before = ring->mine;
    uint32_t in = atomic_load_explicit(&control->in, memory_order_acquire);
    if (!is_index(ring, in))
        return RING_DAMAGED;
    uint32_t used = distance(ring, before, in);
    if (used == 0)
        return RING_EMPTY;
    atomic_store_explicit(&control->interrupt_mask, 1, memory_order_relaxed); /* awake: no doorbells for now */
    if (used < sizeof descriptor + FOOTER_BYTES)
        return RING_DAMAGED;
    copy_out(ring, before, &descriptor, sizeof descriptor); /* once; from here on only the copy counts */
    uint32_t total = descriptor.length8 * 8u;
    if (descriptor.data_offset8 < 2 || descriptor.length8 < descriptor.data_offset8 || total + FOOTER_BYTES > used)
        return RING_DAMAGED;
    if (total > capacity)
        return RING_DAMAGED;
    memcpy(packet, &descriptor, sizeof descriptor);
    copy_out(ring, advance(ring, before, sizeof descriptor), (uint8_t *)packet + sizeof descriptor,
             total - (uint32_t)sizeof descriptor);
    *bytes = total;
    ring->mine = advance(ring, before, total + FOOTER_BYTES);

    atomic_store_explicit(&control->out, ring->mine, memory_order_release); /* after the copying */
    atomic_thread_fence(memory_order_seq_cst);
    *ring_bell = frees_a_sender(ring, before, ring->mine);
    return RING_DONE;
}

bool ring_go_idle(struct ring *ring) {
    atomic_store_explicit(&ring->control->interrupt_mask, 0, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    return atomic_load_explicit(&ring->control->in, memory_order_acquire) == ring->mine;
}

uint32_t range_pages(struct vmbus_gpa_range range) {
    return (uint32_t)(((uint64_t)range.byte_offset + range.byte_count + VMBUS_PAGE_BYTES - 1) / VMBUS_PAGE_BYTES);
}

/* The payload behind `offset` bytes of descriptor, zeros up to the next multiple of 8, and the descriptor in front. */
static uint32_t finish_packet(uint8_t *packet, struct vmbus_packet_descriptor descriptor, uint32_t offset,
                              const void *payload, uint32_t bytes) {
    uint32_t total = (offset + bytes + 7) & ~7u;
    memset(packet + offset + bytes, 0, total - offset - bytes);
    if (bytes > 0)
        memcpy(packet + offset, payload, bytes);
    descriptor.data_offset8 = (uint16_t)(offset / 8);
    descriptor.length8 = (uint16_t)(total / 8);
    memcpy(packet, &descriptor, sizeof descriptor);
    return total;
}

uint32_t packet_plain(void *packet, enum vmbus_packet_type type, uint16_t flags, uint64_t transaction_id,
                      const void *payload, uint32_t bytes) {
    struct vmbus_packet_descriptor descriptor = {
        .type = (uint16_t)type, .flags = flags, .transaction_id = transaction_id};
    return finish_packet(packet, descriptor, sizeof descriptor, payload, bytes);
}

uint32_t packet_gpa_direct(void *packet, uint64_t transaction_id, struct vmbus_gpa_range range, const uint64_t *pages,
                           const void *payload, uint32_t bytes) {
    /* The host uses the memory until it completes the packet, so it always asks for that. */
    struct vmbus_packet_descriptor descriptor = {.type = VMBUS_PACKET_GPA_DIRECT,
                                                 .flags = VMBUS_PACKET_COMPLETION_REQUESTED,
                                                 .transaction_id = transaction_id};
    struct vmbus_gpa_direct head = {.range_count = 1};
    uint32_t list = range_pages(range) * 8;
    memcpy(packet, &head, sizeof head);
    memcpy((uint8_t *)packet + sizeof head, &range, sizeof range);
    memcpy((uint8_t *)packet + sizeof head + sizeof range, pages, list);
    return finish_packet(packet, descriptor, sizeof head + sizeof range + list, payload, bytes);
}
