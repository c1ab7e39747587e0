#define _GNU_SOURCE
#include "wire.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define READ_BYTES 65536

enum { REQUEST = 0, RESPONSE = 1, NOTIFICATION = 2 };

void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("bus_guest: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static void send_all(struct wire *wire, const char *data, size_t size) {
    while (size > 0) {
        ssize_t sent = send(wire->fd, data, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && (errno == EPIPE || errno == ECONNRESET))
            for (;;) /* the daemon closed; what it said last may be waiting, and ends the program */
                wire_receive(wire);
        if (sent < 0)
            die("cannot write to the daemon: %s", strerror(errno));
        data += sent;
        size -= (size_t)sent;
    }
}

static void pack_text(msgpack_packer *packer, const char *text) {
    msgpack_pack_str(packer, strlen(text));
    msgpack_pack_str_body(packer, text, strlen(text));
}

/* Notifications and answers go out at once, also between the making of a request and its sending. */
static void send_packed(struct wire *wire, msgpack_sbuffer *buffer) {
    send_all(wire, buffer->data, buffer->size);
    msgpack_sbuffer_destroy(buffer);
}

static bool is_text(const msgpack_object *object, const char *text) {
    return object->type == MSGPACK_OBJECT_STR && object->via.str.size == strlen(text) &&
           memcmp(object->via.str.ptr, text, object->via.str.size) == 0;
}

static const msgpack_object *array_of(const msgpack_object *object, uint32_t size, const char *what) {
    if (object->type != MSGPACK_OBJECT_ARRAY || object->via.array.size != size)
        die("the daemon sent %s that is not an array of %u values", what, size);
    return object->via.array.ptr;
}

uint64_t wire_number(const msgpack_object *result, uint64_t largest) {
    if (result->type != MSGPACK_OBJECT_POSITIVE_INTEGER || result->via.u64 > largest)
        die("the daemon sent something else than a number up to %llu", (unsigned long long)largest);
    return result->via.u64;
}

/* End the program with what the daemon says of an error: a status and a sentence. */
static _Noreturn void die_of(const char *what, const msgpack_object *error) {
    const msgpack_object *parts = array_of(error, 2, "an error");
    if (parts[1].type != MSGPACK_OBJECT_STR)
        die("%s: status 0x%08llX", what, (unsigned long long)wire_number(&parts[0], UINT32_MAX));
    die("%s: %.*s (status 0x%08llX)", what, (int)parts[1].via.str.size, parts[1].via.str.ptr,
        (unsigned long long)wire_number(&parts[0], UINT32_MAX));
}

/* The daemon asks: only for a ping, so far. */
static void answer(struct wire *wire, const msgpack_object *fields) {
    msgpack_sbuffer buffer;
    msgpack_packer packer;
    msgpack_sbuffer_init(&buffer);
    msgpack_packer_init(&packer, &buffer, msgpack_sbuffer_write);
    msgpack_pack_array(&packer, 4);
    msgpack_pack_int(&packer, RESPONSE);
    msgpack_pack_uint32(&packer, (uint32_t)wire_number(&fields[1], UINT32_MAX));
    if (is_text(&fields[2], VMBUS_METHOD_PING)) {
        msgpack_pack_nil(&packer);
        msgpack_pack_array(&packer, 0);
    } else {
        msgpack_pack_array(&packer, 2);
        msgpack_pack_uint32(&packer, VMBUS_STATUS_NOT_IMPLEMENTED);
        pack_text(&packer, "a bus guest answers pings only");
        msgpack_pack_nil(&packer);
    }
    send_packed(wire, &buffer);
}

static void notified(struct wire *wire, const msgpack_object *method, const msgpack_object *params) {
    if (is_text(method, VMBUS_METHOD_GOODBYE))
        die_of("the daemon ended the session", params);
    if (!is_text(method, VMBUS_METHOD_BUS_MESSAGE))
        return; /* bus.event among others: this guest looks at its ring when it has the doorbell */
    const msgpack_object *fields = array_of(params, 4, "a bus.message"); /* machine, vp, sint, payload */
    if (wire_number(&fields[1], 0) != 0 || wire_number(&fields[2], VMBUS_SINT) != VMBUS_SINT || wire->has_message)
        die("the daemon sent a message to a slot that was not free");
    if (fields[3].type != MSGPACK_OBJECT_BIN || fields[3].via.bin.size > VMBUS_MESSAGE_BYTES)
        die("the daemon sent a control message of no legal length");
    wire->message_bytes = fields[3].via.bin.size;
    memcpy(wire->message, fields[3].via.bin.ptr, wire->message_bytes);
    wire->has_message = true;
}

/* Act on one MessagePack value. A response is kept for wire_call. */
static void arrived(struct wire *wire, msgpack_unpacked *value) {
    if (value->data.type != MSGPACK_OBJECT_ARRAY || value->data.via.array.size < 3)
        die("the daemon sent something that is not MessagePack-RPC");
    const msgpack_object *fields = value->data.via.array.ptr;
    switch (wire_number(&fields[0], NOTIFICATION)) {
    case REQUEST:
        answer(wire, array_of(&value->data, 4, "a request"));
        break;
    case RESPONSE:
        array_of(&value->data, 4, "a response");
        if (wire_number(&fields[1], UINT32_MAX) != wire->msgid || wire->answered)
            die("the daemon answered a request that does not wait for it");
        msgpack_unpacked_destroy(&wire->response);
        wire->response = *value;
        msgpack_unpacked_init(value);
        wire->answered = true;
        break;
    default:
        notified(wire, &array_of(&value->data, 3, "a notification")[1], &fields[2]);
    }
}

static void keep_descriptors(struct wire *wire, struct msghdr *header) {
    for (struct cmsghdr *part = CMSG_FIRSTHDR(header); part != NULL; part = CMSG_NXTHDR(header, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            if (wire->descriptor_count == WIRE_DESCRIPTORS)
                die("the daemon passed descriptors nobody asked for");
            memcpy(&wire->descriptors[wire->descriptor_count++], CMSG_DATA(part) + i * sizeof(int), sizeof(int));
        }
    }
    if (header->msg_flags & MSG_CTRUNC)
        die("descriptors of the daemon were lost");
}

void wire_receive(struct wire *wire) {
    union {
        char bytes[CMSG_SPACE(WIRE_DESCRIPTORS * sizeof(int))];
        struct cmsghdr alignment;
    } control;
    if (msgpack_unpacker_message_size(&wire->unpacker) > VMBUS_WIRE_FRAME_BYTES)
        die("the daemon sent a message that is too long");
    if (!msgpack_unpacker_reserve_buffer(&wire->unpacker, READ_BYTES))
        die("out of memory");
    struct iovec piece = {msgpack_unpacker_buffer(&wire->unpacker), READ_BYTES};
    struct msghdr header = {
        .msg_iov = &piece, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t got;
    do /* never plain recv: it would lose descriptors silently */
        got = recvmsg(wire->fd, &header, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        die("cannot read from the daemon: %s", strerror(errno));
    if (got == 0)
        die("the daemon closed the connection");
    keep_descriptors(wire, &header);
    msgpack_unpacker_buffer_consumed(&wire->unpacker, (size_t)got);

    msgpack_unpacked value;
    msgpack_unpack_return result;
    msgpack_unpacked_init(&value);
    while ((result = msgpack_unpacker_next(&wire->unpacker, &value)) == MSGPACK_UNPACK_SUCCESS)
        arrived(wire, &value);
    msgpack_unpacked_destroy(&value);
    if (result != MSGPACK_UNPACK_CONTINUE)
        die("the daemon sent something that is not MessagePack");
}

msgpack_packer *wire_request(struct wire *wire, const char *method, uint32_t arguments) {
    msgpack_sbuffer_clear(&wire->out);
    msgpack_pack_array(&wire->packer, 4);
    msgpack_pack_int(&wire->packer, REQUEST);
    msgpack_pack_uint32(&wire->packer, ++wire->msgid);
    pack_text(&wire->packer, method);
    msgpack_pack_array(&wire->packer, arguments);
    wire->answered = false;
    return &wire->packer;
}

const msgpack_object *wire_call(struct wire *wire, uint32_t results) {
    send_all(wire, wire->out.data, wire->out.size);
    while (!wire->answered)
        wire_receive(wire);
    const msgpack_object *fields = wire->response.data.via.array.ptr; /* response, msgid, error, result */
    if (fields[2].type != MSGPACK_OBJECT_NIL)
        die_of("the daemon refused", &fields[2]);
    return array_of(&fields[3], results, "a result");
}

int wire_descriptor(struct wire *wire, const msgpack_object *announced) {
    if (wire_number(announced, 1) != 1 || wire->descriptor_count == 0)
        die("the daemon passed no descriptor");
    int oldest = wire->descriptors[0];
    wire->descriptor_count--;
    memmove(&wire->descriptors[0], &wire->descriptors[1], sizeof(int) * (size_t)wire->descriptor_count);
    return oldest;
}

uint32_t wire_take_message(struct wire *wire, uint8_t message[VMBUS_MESSAGE_BYTES]) {
    if (!wire->has_message)
        return 0;
    wire->has_message = false;
    memcpy(message, wire->message, wire->message_bytes);
    msgpack_sbuffer buffer;
    msgpack_packer packer;
    msgpack_sbuffer_init(&buffer);
    msgpack_packer_init(&packer, &buffer, msgpack_sbuffer_write);
    msgpack_pack_array(&packer, 3);
    msgpack_pack_int(&packer, NOTIFICATION);
    pack_text(&packer, VMBUS_METHOD_BUS_MESSAGE_TAKEN);
    msgpack_pack_array(&packer, 3);
    msgpack_pack_uint32(&packer, wire->machine);
    msgpack_pack_uint32(&packer, 0);
    msgpack_pack_uint32(&packer, VMBUS_SINT);
    send_packed(wire, &buffer);
    return wire->message_bytes;
}

void wire_connect(struct wire *wire, const char *path, const char *client) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memset(wire, 0, sizeof *wire);
    if (strlen(path) >= sizeof address.sun_path)
        die("the path of the daemon's socket is too long: %s", path);
    strcpy(address.sun_path, path);
    wire->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (wire->fd < 0 || connect(wire->fd, (struct sockaddr *)&address, sizeof address) != 0)
        die("no daemon at %s: %s", path, strerror(errno));
    msgpack_sbuffer_init(&wire->out);
    msgpack_packer_init(&wire->packer, &wire->out, msgpack_sbuffer_write);
    msgpack_unpacked_init(&wire->response);
    if (!msgpack_unpacker_init(&wire->unpacker, READ_BYTES))
        die("out of memory");
    msgpack_packer *request = wire_request(wire, VMBUS_METHOD_HELLO, 3);
    msgpack_pack_uint32(request, VMBUS_WIRE_VERSION);
    msgpack_pack_uint32(request, VMBUS_WIRE_VERSION);
    pack_text(request, client);
    wire_number(&wire_call(wire, 6)[0], VMBUS_WIRE_VERSION);
}

void wire_close(struct wire *wire) {
    msgpack_unpacked_destroy(&wire->response);
    msgpack_unpacker_destroy(&wire->unpacker);
    msgpack_sbuffer_destroy(&wire->out);
    close(wire->fd);
}
