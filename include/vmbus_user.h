/*
 * What a program in C has to know to be a guest on a machine's VMBus, as docs/direct-attach.md tells it: the names of
 * the daemon's methods, the control messages, a ring's control page and the packets in a ring, byte for byte.
 *
 * C11, no library behind it. All integers are little-endian; GUIDs stand as Windows stores them (first three groups
 * little-endian). Structures are packed: copy them to and from byte buffers with memcpy. What lies in shared memory is
 * copied out once and judged in the copy; only the words of struct vmbus_ring_control are used in place, as atomics.
 */
#ifndef VMBUS_USER_H
#define VMBUS_USER_H

#include <stddef.h>
#include <stdint.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "these layouts are little-endian");
_Static_assert(__GCC_ATOMIC_INT_LOCK_FREE == 2, "two processes share 32-bit atomics, so no lock may stand behind them");

/* ---- The handshake with the daemon: MessagePack-RPC over a Unix stream socket, see docs/wire-protocol.md ---- */

#define VMBUS_WIRE_VERSION 1
#define VMBUS_WIRE_FRAME_BYTES 1200000

#define VMBUS_METHOD_HELLO "hello"                         /* lowest, highest, client */
#define VMBUS_METHOD_PING "ping"                           /* either side asks; answered with [] */
#define VMBUS_METHOD_GOODBYE "goodbye"                     /* status, reason */
#define VMBUS_METHOD_MACHINE_ATTACH "machine.attach"       /* name, map_memory -> machine, bytes, 1 descriptor */
#define VMBUS_METHOD_MEMORY_ALLOCATE "memory.allocate"     /* machine, pages -> page numbers, u64 each */
#define VMBUS_METHOD_BUS_ATTACH "bus.attach"               /* machine -> processors */
#define VMBUS_METHOD_BUS_DETACH "bus.detach"               /* machine */
#define VMBUS_METHOD_BUS_POST "bus.post"                   /* machine, connection id, payload -> hypercall status */
#define VMBUS_METHOD_BUS_SIGNAL "bus.signal"               /* machine, connection id, flag -> hypercall status */
#define VMBUS_METHOD_BUS_MESSAGE "bus.message"             /* machine, vp, sint, payload */
#define VMBUS_METHOD_BUS_MESSAGE_TAKEN "bus.message_taken" /* machine, vp, sint */
#define VMBUS_METHOD_BUS_EVENT "bus.event"                 /* machine, vp, sint, flag */
#define VMBUS_METHOD_BUS_DOORBELL "bus.doorbell"           /* machine, channel id -> 1 descriptor */
#define VMBUS_METHOD_BUS_EVENT_FLAGS_PAGE "bus.event_flags_page" /* machine, vp, address or nil */

#define VMBUS_STATUS_NOT_IMPLEMENTED 0xC0000002u /* the NTSTATUS for a method that does not exist */

/* ---- What the hypervisor would be ---- */

#define VMBUS_PAGE_BYTES 4096u
#define VMBUS_MESSAGE_BYTES 240u        /* the longest control message */
#define VMBUS_MESSAGE_CONNECTION 1u     /* where a guest posts to a host below 5.0 */
#define VMBUS_SHARED_EVENT_CONNECTION 2u /* below 2.4: rings the channels whose bits stand in the interrupt page */
#define VMBUS_MULTICLIENT_CONNECTION 4u /* where it makes contact from 5.0 on */
#define VMBUS_SINT 2u                   /* the interrupt source that carries messages and events */

#define VMBUS_HV_SUCCESS 0x00u
#define VMBUS_HV_INVALID_CONNECTION_ID 0x12u
#define VMBUS_HV_INSUFFICIENT_BUFFERS 0x13u /* take messages, then post it again */

/* ---- Control messages ---- */

#define VMBUS_VERSION_0_13 0x0000000Du
#define VMBUS_VERSION_1_1 0x00010001u
#define VMBUS_VERSION_2_4 0x00020004u
#define VMBUS_VERSION_3_0 0x00030000u
#define VMBUS_VERSION_4_0 0x00040000u
#define VMBUS_VERSION_4_1 0x00040001u
#define VMBUS_VERSION_5_0 0x00050000u
#define VMBUS_VERSION_5_1 0x00050001u
#define VMBUS_VERSION_5_2 0x00050002u
#define VMBUS_VERSION_5_3 0x00050003u
#define VMBUS_VERSION_6_0 0x00060000u

enum vmbus_feature { /* asked for and granted from 6.0 on */
    VMBUS_FEATURE_GUEST_SPECIFIED_SIGNAL_PARAMETERS = 0x1,
    VMBUS_FEATURE_CHANNEL_INTERRUPT_REDIRECTION = 0x2,
    VMBUS_FEATURE_MODIFY_CONNECTION = 0x4,
    VMBUS_FEATURE_CLIENT_ID = 0x8,
    VMBUS_FEATURE_CONFIDENTIAL_CHANNELS = 0x10,
    VMBUS_FEATURE_PAUSE_RESUME = 0x20,
    VMBUS_FEATURE_SERVER_SPECIFIED_MONITOR_PAGES = 0x40,
    VMBUS_FEATURE_GPA_PINNING = 0x80,
};

enum vmbus_message_type {
    VMBUS_OFFER_CHANNEL = 1,
    VMBUS_RESCIND_CHANNEL_OFFER = 2,
    VMBUS_REQUEST_OFFERS = 3,
    VMBUS_ALL_OFFERS_DELIVERED = 4,
    VMBUS_OPEN_CHANNEL = 5,
    VMBUS_OPEN_CHANNEL_RESULT = 6,
    VMBUS_CLOSE_CHANNEL = 7,
    VMBUS_GPADL_HEADER = 8,
    VMBUS_GPADL_BODY = 9,
    VMBUS_GPADL_CREATED = 10,
    VMBUS_GPADL_TEARDOWN = 11,
    VMBUS_GPADL_TORNDOWN = 12,
    VMBUS_REL_ID_RELEASED = 13,
    VMBUS_INITIATE_CONTACT = 14,
    VMBUS_VERSION_RESPONSE = 15,
    VMBUS_UNLOAD = 16,
    VMBUS_UNLOAD_COMPLETE = 17,
    VMBUS_MODIFY_CHANNEL = 22,
    VMBUS_MODIFY_CHANNEL_RESPONSE = 24,
};

enum vmbus_offer_flag {
    VMBUS_OFFER_ENUMERATE_DEVICE_INTERFACE = 0x1,
    VMBUS_OFFER_NAMED_PIPE_MODE = 0x10, /* payloads begin with struct vmbus_pipe_header */
    VMBUS_OFFER_TLNPI_PROVIDER = 0x2000,
};

#define VMBUS_USER_DATA_BYTES 120
#define VMBUS_TARGET_VP_NONE 0xFFFFFFFFu /* open without interrupts to the guest */
#define VMBUS_FIRST_GPADL_ID 0xE1E10u    /* ids are the guest's choice; counting from here is a habit */
#define VMBUS_GPADL_HEADER_VALUES 27     /* 64-bit values that fit behind message 8 */
#define VMBUS_GPADL_BODY_VALUES 28       /* and behind message 9 */

/* A status in messages 6, 10, 23 and 24 is a failure when it is negative as a signed number. */
#define VMBUS_IS_FAILURE(status) (((status) & 0x80000000u) != 0)

#define VMBUS_PACKED __attribute__((packed))

struct vmbus_guid {
    uint8_t bytes[16];
} VMBUS_PACKED;

struct vmbus_header {
    uint32_t message_type;
    uint32_t padding;
} VMBUS_PACKED; /* all of messages 3, 4, 16 and 17 */

struct vmbus_offer_channel {
    struct vmbus_header header;
    struct vmbus_guid interface_id;
    struct vmbus_guid instance_id;
    uint8_t reserved[16];
    uint16_t flags;
    uint16_t mmio_megabytes;
    uint8_t user_defined[VMBUS_USER_DATA_BYTES];
    uint16_t subchannel_index;
    uint16_t mmio_megabytes_optional;
    uint32_t channel_id;
    uint8_t monitor_id;
    uint8_t monitor_allocated;
    uint16_t is_dedicated;
    uint32_t connection_id; /* rings the channel, with bus.signal */
} VMBUS_PACKED;

struct vmbus_rescind_channel_offer {
    struct vmbus_header header;
    uint32_t channel_id;
} VMBUS_PACKED;

struct vmbus_open_channel {
    struct vmbus_header header;
    uint32_t channel_id;
    uint32_t open_id; /* the guest's choice; the result has it again */
    uint32_t ring_buffer_gpadl_id;
    uint32_t target_vp;
    uint32_t downstream_page_offset; /* the first page of the host's ring in the list */
    uint8_t user_data[VMBUS_USER_DATA_BYTES];
} VMBUS_PACKED;

struct vmbus_open_channel2 { /* 6.0, with feature 0x1 or 0x2 */
    struct vmbus_open_channel open;
    uint32_t connection_id;
    uint16_t event_flag;
    uint16_t flags;
} VMBUS_PACKED;

struct vmbus_open_channel_result {
    struct vmbus_header header;
    uint32_t channel_id;
    uint32_t open_id;
    uint32_t status;
} VMBUS_PACKED;

struct vmbus_close_channel {
    struct vmbus_header header;
    uint32_t channel_id;
} VMBUS_PACKED;

struct vmbus_gpadl_header { /* then up to VMBUS_GPADL_HEADER_VALUES u64 */
    struct vmbus_header header;
    uint32_t channel_id;
    uint32_t gpadl_id;
    uint16_t range_buflen; /* bytes of values in this message and all its bodies */
    uint16_t range_count;
} VMBUS_PACKED;

struct vmbus_gpadl_body { /* then up to VMBUS_GPADL_BODY_VALUES u64 */
    struct vmbus_header header;
    uint32_t message_number;
    uint32_t gpadl_id;
} VMBUS_PACKED;

struct vmbus_gpadl_created {
    struct vmbus_header header;
    uint32_t channel_id;
    uint32_t gpadl_id;
    uint32_t status;
} VMBUS_PACKED;

struct vmbus_gpadl_teardown {
    struct vmbus_header header;
    uint32_t channel_id;
    uint32_t gpadl_id;
} VMBUS_PACKED;

struct vmbus_gpadl_torndown {
    struct vmbus_header header;
    uint32_t gpadl_id;
} VMBUS_PACKED;

struct vmbus_rel_id_released {
    struct vmbus_header header;
    uint32_t channel_id;
} VMBUS_PACKED;

struct vmbus_initiate_contact {
    struct vmbus_header header;
    uint32_t version_requested;
    uint32_t target_message_vp; /* counts from 3.0 on */
    /* Below 2.4 the interrupt page's address; from 5.0 on SINT in byte 0, VTL in byte 1, from 6.0 features in the
     * high half. */
    uint64_t target_info;
    uint64_t parent_to_child_page; /* monitor pages: both or, as 0, neither */
    uint64_t child_to_parent_page;
} VMBUS_PACKED;

struct vmbus_initiate_contact2 { /* 6.0 */
    struct vmbus_initiate_contact contact;
    struct vmbus_guid client_id; /* counts with feature 0x8 */
} VMBUS_PACKED;

struct vmbus_version_response {
    struct vmbus_header header;
    uint8_t version_supported;
    uint8_t connection_state; /* 0, or why a supported version was not connected */
    uint16_t padding;
    uint32_t version_or_connection_id; /* from 5.0 on: where to post from now on */
} VMBUS_PACKED;

struct vmbus_version_response2 { /* 6.0 */
    struct vmbus_version_response response;
    uint32_t supported_features;
} VMBUS_PACKED;

struct vmbus_modify_channel {
    struct vmbus_header header;
    uint32_t channel_id;
    uint32_t target_vp;
} VMBUS_PACKED;

struct vmbus_modify_channel_response {
    struct vmbus_header header;
    uint32_t channel_id;
    uint32_t status;
} VMBUS_PACKED;

_Static_assert(sizeof(struct vmbus_header) == 8, "header");
_Static_assert(sizeof(struct vmbus_offer_channel) == 196, "message 1");
_Static_assert(offsetof(struct vmbus_offer_channel, flags) == 56, "message 1");
_Static_assert(offsetof(struct vmbus_offer_channel, channel_id) == 184, "message 1");
_Static_assert(offsetof(struct vmbus_offer_channel, connection_id) == 192, "message 1");
_Static_assert(sizeof(struct vmbus_rescind_channel_offer) == 12, "message 2");
_Static_assert(sizeof(struct vmbus_open_channel) == 148, "message 5");
_Static_assert(offsetof(struct vmbus_open_channel, user_data) == 28, "message 5");
_Static_assert(sizeof(struct vmbus_open_channel2) == 156, "message 5 from 6.0 on");
_Static_assert(sizeof(struct vmbus_open_channel_result) == 20, "message 6");
_Static_assert(sizeof(struct vmbus_close_channel) == 12, "message 7");
_Static_assert(sizeof(struct vmbus_gpadl_header) == 20, "message 8");
_Static_assert(offsetof(struct vmbus_gpadl_header, range_buflen) == 16, "message 8");
_Static_assert(sizeof(struct vmbus_gpadl_header) + 8 * VMBUS_GPADL_HEADER_VALUES <= VMBUS_MESSAGE_BYTES, "message 8");
_Static_assert(sizeof(struct vmbus_gpadl_body) == 16, "message 9");
_Static_assert(sizeof(struct vmbus_gpadl_body) + 8 * VMBUS_GPADL_BODY_VALUES <= VMBUS_MESSAGE_BYTES, "message 9");
_Static_assert(sizeof(struct vmbus_gpadl_created) == 20, "message 10");
_Static_assert(sizeof(struct vmbus_gpadl_teardown) == 16, "message 11");
_Static_assert(sizeof(struct vmbus_gpadl_torndown) == 12, "message 12");
_Static_assert(sizeof(struct vmbus_rel_id_released) == 12, "message 13");
_Static_assert(sizeof(struct vmbus_initiate_contact) == 40, "message 14");
_Static_assert(sizeof(struct vmbus_initiate_contact2) == 56, "message 14 from 6.0 on");
_Static_assert(sizeof(struct vmbus_version_response) == 16, "message 15");
_Static_assert(sizeof(struct vmbus_version_response2) == 20, "message 15 from 6.0 on");
_Static_assert(sizeof(struct vmbus_modify_channel) == 16, "message 22");
_Static_assert(sizeof(struct vmbus_modify_channel_response) == 16, "message 24");

/* ---- Rings ---- */

#define VMBUS_RING_PENDING_SIZE_WORKS 1u /* bit 0 of feature_bits: pending_send_size counts */

/* The first page of a ring; the data area is the pages behind it. Offsets count bytes of the data area. */
struct vmbus_ring_control {
    _Atomic uint32_t in;                /* the sender's: next free offset */
    _Atomic uint32_t out;               /* the receiver's: next unread offset */
    _Atomic uint32_t interrupt_mask;    /* the receiver's: not 0 for "no doorbell when you add to an empty ring" */
    _Atomic uint32_t pending_send_size; /* the sender's: not 0 for "ring me when so many bytes are free" */
    uint32_t reserved[12];
    _Atomic uint32_t feature_bits; /* the sender's */
    uint32_t reserved2[1007];
};

_Static_assert(sizeof(struct vmbus_ring_control) == VMBUS_PAGE_BYTES, "a ring's control page");
_Static_assert(offsetof(struct vmbus_ring_control, in) == 0, "a ring's control page");
_Static_assert(offsetof(struct vmbus_ring_control, out) == 4, "a ring's control page");
_Static_assert(offsetof(struct vmbus_ring_control, interrupt_mask) == 8, "a ring's control page");
_Static_assert(offsetof(struct vmbus_ring_control, pending_send_size) == 12, "a ring's control page");
_Static_assert(offsetof(struct vmbus_ring_control, feature_bits) == 64, "a ring's control page");

/*
 * Pages of bits, for machines that are configured to write them. Bit n of a row of words is bit n % 32 of word n / 32. Both
 * sides change neighbouring bits at once: set one with atomic_fetch_or, take them with atomic_exchange(word, 0), and look at
 * the rings after that; a plain load and store would undo what the other side does in between.
 */
struct vmbus_event_flags_page { /* of a processor; a flag is an open channel's event flag, most often its channel id */
    _Atomic uint32_t flags[16][64]; /* by interrupt source: row VMBUS_SINT, 2,048 flags */
};

struct vmbus_interrupt_page { /* below 2.4; a bit is a channel id */
    _Atomic uint32_t to_guest[512]; /* the host sets, the guest takes */
    _Atomic uint32_t to_host[512];  /* the guest sets, then rings; the host takes */
};

_Static_assert(sizeof(struct vmbus_event_flags_page) == 4096, "event flags");
_Static_assert(sizeof(struct vmbus_interrupt_page) == 4096, "interrupt page");
_Static_assert(offsetof(struct vmbus_interrupt_page, to_host) == 2048, "interrupt page");

enum vmbus_packet_type {
    VMBUS_PACKET_IN_BAND = 6,
    VMBUS_PACKET_TRANSFER_PAGES = 7,
    VMBUS_PACKET_GPA_DIRECT = 9,
    VMBUS_PACKET_COMPLETION = 11,
};

#define VMBUS_PACKET_COMPLETION_REQUESTED 1u /* the only flag */

struct vmbus_packet_descriptor {
    uint16_t type;
    uint16_t data_offset8; /* where the payload begins, in units of 8 bytes */
    uint16_t length8;      /* descriptor to padding, in units of 8 bytes */
    uint16_t flags;
    uint64_t transaction_id;
} VMBUS_PACKED;

struct vmbus_gpa_direct { /* then ranges: struct vmbus_gpa_range and its page numbers, u64 each */
    struct vmbus_packet_descriptor descriptor;
    uint32_t reserved;
    uint32_t range_count;
} VMBUS_PACKED;

struct vmbus_gpa_range { /* in GPA-direct packets and, as one 64-bit value, in page lists */
    uint32_t byte_count;
    uint32_t byte_offset; /* where it begins in its first page */
} VMBUS_PACKED;

struct vmbus_packet_footer { /* behind every packet */
    uint32_t reserved;
    uint32_t offset; /* of this packet's descriptor in the ring */
} VMBUS_PACKED;

struct vmbus_pipe_header { /* payloads of named-pipe channels begin with it */
    uint32_t type;         /* 1: data */
    uint32_t data_bytes;   /* exact length of what follows */
} VMBUS_PACKED;

_Static_assert(sizeof(struct vmbus_packet_descriptor) == 16, "packet descriptor");
_Static_assert(offsetof(struct vmbus_packet_descriptor, transaction_id) == 8, "packet descriptor");
_Static_assert(sizeof(struct vmbus_gpa_direct) == 24, "GPA-direct packet");
_Static_assert(sizeof(struct vmbus_gpa_range) == 8, "range of guest memory");
_Static_assert(sizeof(struct vmbus_packet_footer) == 8, "packet footer");
_Static_assert(sizeof(struct vmbus_pipe_header) == 8, "pipe header");

#endif
