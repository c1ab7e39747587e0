#include "bus.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const uint32_t VERSIONS[] = {
    VMBUS_VERSION_6_0, VMBUS_VERSION_5_3, VMBUS_VERSION_5_2, VMBUS_VERSION_5_1, VMBUS_VERSION_5_0,
    VMBUS_VERSION_4_1, VMBUS_VERSION_4_0, VMBUS_VERSION_3_0, VMBUS_VERSION_2_4,
};
#define OPEN_ID 1 /* one channel, opened once */

static struct vmbus_header header_of(uint32_t type) { return (struct vmbus_header){.message_type = type}; }

void bus_trace(const struct bus *bus, const char *direction, const void *data, uint32_t bytes) {
    if (!bus->trace)
        return;
    printf("%s ", direction);
    for (uint32_t i = 0; i < bytes; i++)
        printf("%02x", ((const uint8_t *)data)[i]);
    putchar('\n');
}

/* ---- Messages */

/* What may come at any time. Everything else is the answer to something this guest has just asked. */
static void notice(struct bus *bus, uint32_t type, const uint8_t *message, uint32_t bytes) {
    struct vmbus_rescind_channel_offer rescind;
    if (type == VMBUS_OFFER_CHANNEL && bytes >= sizeof bus->offer) {
        struct vmbus_offer_channel offer;
        memcpy(&offer, message, sizeof offer);
        if (bus->offered || memcmp(&offer.interface_id, &bus->wanted, sizeof bus->wanted) != 0)
            return; /* other devices, sub-channels, and what is offered again */
        bus->offer = offer;
        bus->offered = true;
    } else if (type == VMBUS_RESCIND_CHANNEL_OFFER && bytes >= sizeof rescind) {
        memcpy(&rescind, message, sizeof rescind);
        bus->rescinded |= bus->offered && rescind.channel_id == bus->offer.channel_id;
    } else {
        die("the host sent a message of type %u and %u bytes out of turn", type, bytes);
    }
}

/* Take the message that stands in the slot, if one does; its type, or 0. */
static uint32_t take(struct bus *bus, uint8_t message[VMBUS_MESSAGE_BYTES], uint32_t *bytes) {
    struct vmbus_header header;
    *bytes = wire_take_message(&bus->wire, message);
    if (*bytes == 0)
        return 0;
    bus_trace(bus, "<", message, *bytes);
    if (*bytes < sizeof header)
        die("the host sent a message of %u bytes", *bytes);
    memcpy(&header, message, sizeof header);
    return header.message_type;
}

void bus_look(struct bus *bus) {
    uint8_t message[VMBUS_MESSAGE_BYTES];
    uint32_t bytes, type;
    while ((type = take(bus, message, &bytes)) != 0)
        notice(bus, type, message, bytes);
}

/* Wait for an answer of this type, and copy as much of it as there is, at least `needed` bytes. */
static void await_answer(struct bus *bus, uint32_t wanted, void *answer, uint32_t size, uint32_t needed) {
    uint8_t message[VMBUS_MESSAGE_BYTES];
    uint32_t bytes, type;
    for (;;) {
        while ((type = take(bus, message, &bytes)) == 0)
            wire_receive(&bus->wire);
        if (type == wanted)
            break;
        notice(bus, type, message, bytes);
        if (bus->rescinded && wanted == VMBUS_OPEN_CHANNEL_RESULT)
            die("the host took its offer back before the channel was open");
    }
    if (bytes < needed)
        die("the host's message of type %u has only %u bytes", type, bytes);
    memset(answer, 0, size);
    memcpy(answer, message, bytes < size ? bytes : size); /* more than the structure is allowed, and means nothing */
}

#define AWAIT(bus, type, answer) await_answer(bus, type, answer, sizeof *(answer), sizeof *(answer))

/* What the hypercall returns. */
static uint32_t try_post(struct bus *bus, const void *message, uint32_t bytes) {
    msgpack_packer *request = wire_request(&bus->wire, VMBUS_METHOD_BUS_POST, 3);
    msgpack_pack_uint32(request, bus->wire.machine);
    msgpack_pack_uint32(request, bus->connection_id);
    msgpack_pack_bin(request, bytes);
    msgpack_pack_bin_body(request, message, bytes);
    uint32_t status = (uint32_t)wire_number(wire_call(&bus->wire, 1), UINT16_MAX);
    if (status == VMBUS_HV_SUCCESS)
        bus_trace(bus, ">", message, bytes);
    return status;
}

static void post(struct bus *bus, const void *message, uint32_t bytes) {
    uint32_t status;
    while ((status = try_post(bus, message, bytes)) == VMBUS_HV_INSUFFICIENT_BUFFERS) {
        bus_look(bus); /* the host waits for its own messages to be taken */
        wire_receive(&bus->wire);
    }
    if (status != VMBUS_HV_SUCCESS)
        die("posting a message failed with hypercall status 0x%X", status);
}

/* ---- The machine */

void bus_attach(struct bus *bus, const char *machine) {
    msgpack_packer *request = wire_request(&bus->wire, VMBUS_METHOD_MACHINE_ATTACH, 2);
    msgpack_pack_str(request, strlen(machine));
    msgpack_pack_str_body(request, machine, strlen(machine));
    msgpack_pack_true(request); /* map_memory */
    const msgpack_object *results = wire_call(&bus->wire, 3);
    bus->wire.machine = (uint32_t)wire_number(&results[0], UINT32_MAX);
    bus->memory_bytes = wire_number(&results[1], SIZE_MAX);
    int memory = wire_descriptor(&bus->wire, &results[2]);
    bus->memory = mmap(NULL, bus->memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (bus->memory == MAP_FAILED)
        die("cannot map the machine's memory: %s", strerror(errno));
    close(memory);
    request = wire_request(&bus->wire, VMBUS_METHOD_BUS_ATTACH, 1);
    msgpack_pack_uint32(request, bus->wire.machine);
    wire_call(&bus->wire, 1);
}

void bus_allocate(struct bus *bus, uint64_t *pages, uint32_t count) {
    msgpack_packer *request = wire_request(&bus->wire, VMBUS_METHOD_MEMORY_ALLOCATE, 2);
    msgpack_pack_uint32(request, bus->wire.machine);
    msgpack_pack_uint32(request, count);
    const msgpack_object *run = wire_call(&bus->wire, 1);
    if (run->type != MSGPACK_OBJECT_BIN || run->via.bin.size != count * sizeof *pages)
        die("the daemon allocated something else than %u pages", count);
    memcpy(pages, run->via.bin.ptr, run->via.bin.size);
    for (uint32_t i = 0; i < count; i++)
        if (pages[i] >= bus->memory_bytes / VMBUS_PAGE_BYTES)
            die("the daemon allocated a page outside the machine's memory");
}

/* ---- The conversation */

/* Post message 14 for this version; false when the host does not have it. */
static bool contact(struct bus *bus, uint32_t version) {
    struct vmbus_initiate_contact2 message = {
        .contact = {.header = header_of(VMBUS_INITIATE_CONTACT), .version_requested = version}};
    bool new = version >= VMBUS_VERSION_5_0;
    bus->connection_id = new ? VMBUS_MULTICLIENT_CONNECTION : VMBUS_MESSAGE_CONNECTION;
    if (new) /* from 6.0 on the features asked for would be in the high half: none */
        message.contact.target_info = VMBUS_SINT;
    uint32_t bytes = version >= VMBUS_VERSION_6_0 ? sizeof message : sizeof message.contact;
    uint32_t status = try_post(bus, &message, bytes);
    if (new && status == VMBUS_HV_INVALID_CONNECTION_ID)
        return false; /* a host older than 5.0 */
    if (status != VMBUS_HV_SUCCESS)
        die("making contact failed with hypercall status 0x%X", status);
    struct vmbus_version_response2 answer;
    await_answer(bus, VMBUS_VERSION_RESPONSE, &answer, sizeof answer, sizeof answer.response);
    if (!answer.response.version_supported)
        return false;
    if (answer.response.connection_state != 0)
        die("the host has version 0x%X, but no connection: state %u", version, answer.response.connection_state);
    if (new)
        bus->connection_id = answer.response.version_or_connection_id;
    bus->version = version;
    return true;
}

void bus_connect(struct bus *bus) {
    for (size_t i = 0; i < sizeof VERSIONS / sizeof *VERSIONS; i++)
        if (contact(bus, VERSIONS[i]))
            return;
    die("the host has none of the versions that this guest has");
}

void bus_find_offer(struct bus *bus) {
    struct vmbus_header request = header_of(VMBUS_REQUEST_OFFERS), delivered;
    post(bus, &request, sizeof request);
    AWAIT(bus, VMBUS_ALL_OFFERS_DELIVERED, &delivered);
    for (bus_look(bus); !bus->offered; bus_look(bus))
        wire_receive(&bus->wire);
}

/* A page list is 64-bit values: one for the range, one for each page. They go into as many messages as they need. */
static void describe(struct bus *bus, const uint64_t *pages, uint32_t count) {
    uint8_t message[VMBUS_MESSAGE_BYTES];
    struct vmbus_gpa_range range = {.byte_count = count * VMBUS_PAGE_BYTES};
    struct vmbus_gpadl_header header = {.header = header_of(VMBUS_GPADL_HEADER),
                                        .channel_id = bus->offer.channel_id,
                                        .gpadl_id = VMBUS_FIRST_GPADL_ID,
                                        .range_buflen = (uint16_t)(sizeof range + count * sizeof *pages),
                                        .range_count = 1};
    uint32_t now = count < VMBUS_GPADL_HEADER_VALUES - 1 ? count : VMBUS_GPADL_HEADER_VALUES - 1;
    memcpy(message, &header, sizeof header);
    memcpy(message + sizeof header, &range, sizeof range);
    memcpy(message + sizeof header + sizeof range, pages, now * sizeof *pages);
    post(bus, message, (uint32_t)(sizeof header + sizeof range + now * sizeof *pages));
    struct vmbus_gpadl_body body = {.header = header_of(VMBUS_GPADL_BODY), .gpadl_id = VMBUS_FIRST_GPADL_ID};
    for (uint32_t done = now; done < count; done += now, body.message_number++) {
        now = count - done < VMBUS_GPADL_BODY_VALUES ? count - done : VMBUS_GPADL_BODY_VALUES;
        memcpy(message, &body, sizeof body);
        memcpy(message + sizeof body, pages + done, now * sizeof *pages);
        post(bus, message, (uint32_t)(sizeof body + now * sizeof *pages));
    }
    struct vmbus_gpadl_created created;
    AWAIT(bus, VMBUS_GPADL_CREATED, &created);
    if (created.gpadl_id != VMBUS_FIRST_GPADL_ID || VMBUS_IS_FAILURE(created.status))
        die("the host refused the page list of the rings: status 0x%X", created.status);
    bus->gpadl_id = created.gpadl_id;
}

int bus_open(struct bus *bus, const uint64_t *pages, uint32_t count, uint32_t downstream_page) {
    describe(bus, pages, count);
    struct vmbus_open_channel open = {.header = header_of(VMBUS_OPEN_CHANNEL),
                                      .channel_id = bus->offer.channel_id,
                                      .open_id = OPEN_ID,
                                      .ring_buffer_gpadl_id = bus->gpadl_id,
                                      .downstream_page_offset = downstream_page};
    post(bus, &open, sizeof open);
    struct vmbus_open_channel_result result;
    AWAIT(bus, VMBUS_OPEN_CHANNEL_RESULT, &result);
    if (result.open_id != OPEN_ID || VMBUS_IS_FAILURE(result.status))
        die("the host refused to open channel %u: status 0x%X", result.channel_id, result.status);
    msgpack_packer *request = wire_request(&bus->wire, VMBUS_METHOD_BUS_DOORBELL, 2);
    msgpack_pack_uint32(request, bus->wire.machine);
    msgpack_pack_uint32(request, bus->offer.channel_id);
    return wire_descriptor(&bus->wire, wire_call(&bus->wire, 1));
}

void bus_wait_for_rescind(struct bus *bus) {
    for (bus_look(bus); !bus->rescinded; bus_look(bus))
        wire_receive(&bus->wire);
}

void bus_close(struct bus *bus) {
    struct vmbus_close_channel close = {.header = header_of(VMBUS_CLOSE_CHANNEL), .channel_id = bus->offer.channel_id};
    post(bus, &close, sizeof close); /* never answered; after a rescind it means nothing, and does no harm */
    struct vmbus_gpadl_teardown teardown = {.header = header_of(VMBUS_GPADL_TEARDOWN),
                                            .channel_id = bus->offer.channel_id,
                                            .gpadl_id = bus->gpadl_id};
    struct vmbus_gpadl_torndown torndown;
    post(bus, &teardown, sizeof teardown);
    AWAIT(bus, VMBUS_GPADL_TORNDOWN, &torndown); /* until then the host may use the rings */
    if (torndown.gpadl_id != bus->gpadl_id)
        die("the host let go of a page list that this guest does not have");
    bus->gpadl_id = 0;
}

void bus_release(struct bus *bus) {
    struct vmbus_rel_id_released released = {.header = header_of(VMBUS_REL_ID_RELEASED),
                                             .channel_id = bus->offer.channel_id};
    post(bus, &released, sizeof released);
    bus->offered = false;
}

void bus_unload(struct bus *bus) {
    struct vmbus_header unload = header_of(VMBUS_UNLOAD), complete;
    post(bus, &unload, sizeof unload);
    AWAIT(bus, VMBUS_UNLOAD_COMPLETE, &complete);
    msgpack_packer *request = wire_request(&bus->wire, VMBUS_METHOD_BUS_DETACH, 1);
    msgpack_pack_uint32(request, bus->wire.machine);
    wire_call(&bus->wire, 0);
    munmap(bus->memory, bus->memory_bytes);
}
