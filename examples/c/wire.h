/*
 * The conversation with the daemon: MessagePack-RPC over a Unix stream socket, as docs/wire-protocol.md has it, as far
 * as a bus guest needs it. Whatever goes wrong ends the program with one sentence; a driver would return errors.
 */
#ifndef WIRE_H
#define WIRE_H

#include <msgpack.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmbus_user.h"

#define WIRE_DESCRIPTORS 4 /* more have no business being on the way at once */

struct wire {
    int fd;
    uint32_t machine; /* its number in this session, for bus.message_taken */
    uint32_t msgid;   /* of the latest request */
    bool answered;    /* it has its response */
    msgpack_unpacker unpacker;
    msgpack_sbuffer out; /* the request being made */
    msgpack_packer packer;
    msgpack_unpacked response;
    int descriptors[WIRE_DESCRIPTORS]; /* received and not yet announced, oldest first */
    int descriptor_count;
    /* What stands in the message slot. The daemon sends the next one when this was taken, so one is enough. */
    uint8_t message[VMBUS_MESSAGE_BYTES];
    uint32_t message_bytes;
    bool has_message;
};

/* Print one sentence on stderr and exit with 1. */
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Connect to the daemon at this path, and say hello. */
void wire_connect(struct wire *wire, const char *path, const char *client);
void wire_close(struct wire *wire);

/* Begin a request; pack its arguments with the packer that this returns, then finish it with wire_call. */
msgpack_packer *wire_request(struct wire *wire, const char *method, uint32_t arguments);

/* Send the request and wait for its response: its results, of which there must be so many; good until the next one. */
const msgpack_object *wire_call(struct wire *wire, uint32_t results);

/* One result as a number no larger than this. */
uint64_t wire_number(const msgpack_object *result, uint64_t largest);

/* The descriptor a response announced. The caller closes it. */
int wire_descriptor(struct wire *wire, const msgpack_object *announced);

/* Wait until the daemon has sent something, and take it in. */
void wire_receive(struct wire *wire);

/* Take the control message out of its slot, if one stands there; returns its length, or 0. Never waits. */
uint32_t wire_take_message(struct wire *wire, uint8_t message[VMBUS_MESSAGE_BYTES]);

#endif
