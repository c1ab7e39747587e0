"""The words of ``docs/wire-protocol.md``, with places for the numbers and tables that ``document`` fills in."""

from __future__ import annotations

CONVERSATION = """\
# The wire protocol, version {version}

<!-- Made by `python -m emulator.wire.document`; to change it, edit schema.py, prose.py or document.py there. -->

How a client, in any language, talks to `vmbusd`. Read this page from top to bottom once, then keep the
[table of methods](#methods) open.

## Connection

Connect a Unix stream socket to the daemon's path: what `vmbusd --socket` says, else `$VMBUS_SOCKET`, else
`vmbusd.sock` in `$XDG_RUNTIME_DIR`, else `/run/vmbusd.sock` for root and `/tmp/vmbusd-UID.sock` for others
(UID in decimal). Both sides then send **MessagePack-RPC** messages, back
to back, in both directions: a message is one MessagePack array, it ends where MessagePack says that it
ends, and no length goes before it.

| message | form |
|---|---|
| request | `[0, msgid, method, params]` |
| response | `[1, msgid, error, result]` |
| notification | `[2, method, params]` |

* `method` is a method's name as a `str`; the numbers below order the table and never travel.
* `params` and `result` are arrays, with exactly the values the method's section lists, in that order. A
  result without values is `[]`. There are no maps and no optional trailing values; nil stands only where
  the type says so.
* `msgid` is the sender's choice, 0 to 4,294,967,295, unused among its unanswered requests. Responses come
  in any order.
* A good response has nil as `error`; a failed one has `[status, message]` there (an NTSTATUS as an unsigned
  integer, and a sentence for people, at most 1,024 characters) and nil as `result`.
* A notification is never answered.

**Hello first.** A client's first message is the request `hello`, sent once. It names the lowest and the
highest protocol version the client speaks; the daemon chooses one or ends the session. Nothing else may be
sent before it, though there is no need to wait for its response. A client that says no hello, or leaves a
frame unfinished, is dropped after a while (10 seconds each, unless configured).

**Order.** The daemon takes a client's messages one after the other, as they were sent. So a request may
follow one that is still unanswered, and sees what that has done; only what needs a number from the answer
has to wait. The daemon sends a number (`channel.open`'s response, `channel.opened`, and so on) before
anything that uses it, but perhaps in one piece with it: enter a new channel or address into your tables
before you look at the next message.

**Keep reading**, also while you have much to write. When more than the daemon will hold for a client waits
to be read (16 MiB, unless configured), the session ends.

**Ping.** Either side may send `ping`; answer it with `[]`. The daemon's other requests (`address.event` is one) come
only to a client that has asked for them.

**Cancel.** `cancel` names the msgid of an own request and asks for its early end. The request still gets
exactly one response: the error {cancelled}, or its result if that was
quicker. A cancel for a request that has just been answered is no mistake, and changes nothing.

**Goodbye.** When the daemon ends a session it sends the notification `goodbye` with a status and the
reason, if the socket takes it, and closes. So a client whose write fails reads on: the reason may be waiting.
A client that wants to leave closes its socket; whatever it held is then closed, freed and completed at its
peers.

## Limits of a frame

| limit | value |
|---|---|
| bytes of one message | {frame_bytes:,} |
| MessagePack elements in one message (each array, and each value in it, is one) | {elements} |
| arrays inside each other, the message itself included | {depth} |
| unanswered requests of one client | as `hello` answers |

A packet that waits for its completion is an unanswered request, also long after its window came back. Leave a
few of them unused, so that a close still gets through; `cancel` and `packet.complete` are no requests.

The limits hold in both directions, together with the limits of each field. The daemon checks them before it has
all of a message, so a length that is too large is refused at once. Ext types are not part of the protocol,
nor are timestamps; a `str` is valid UTF-8; `bin` and `str` are different types and cannot stand for each
other. Integers may use any width.

## Mistakes

A request with a method that does not exist, is a notification, or is for the other side to send, gets the
error {not_implemented}. One with wrong arguments gets
{invalid_parameter}, one beyond the limit of unanswered requests
{insufficient}. The session goes on.

These break the protocol and end the session: bytes that are not such a message; a frame beyond its limits;
anything before `hello`, or a second one; a notification that does not exist, is for the other side to send,
or has wrong arguments; a response nobody waits for, or with results that do not fit the request; a msgid
used again before its answer; a number this
session was never given (except a machine's, which is refused); a packet or datagram sent without a window;
a completion for a packet that waits for none, or one too long for the ring; a descriptor passed to the
daemon.

## Identifiers

Machines, offers, channels and addresses are named by numbers that belong to one session. The daemon counts
each kind up from 1 and never gives a number out twice. So a message about something that has just gone is
seen to be late: late notifications and late closes are ignored, and other late requests are refused with a
status. The same holds for the client: it must expect and drop what is still on its way for a channel or an
address it has closed.

## Memory and the descriptor

With `map_memory` true, `machine.attach` hands over a descriptor of the machine's memory, and says so with
`descriptors` = 1. The descriptor travels as SCM_RIGHTS, attached to the first byte of that response.
Therefore:

* receive with `recvmsg`, always with room for a descriptor and with MSG_CMSG_CLOEXEC; a plain `recv` loses
  it silently;
* one `recvmsg` may return earlier messages together with the descriptor: keep what comes in a queue, and
  give the oldest to the response that announces one, which is complete no sooner than the descriptor is
  there;
* close descriptors that no response announced, and close the connection.

Map it shared, readable and writable, `memory_bytes` long. A byte's guest physical address is its offset;
pages have 4,096 bytes, and a page number is an address divided by that. The file is sealed and cannot be
resized. A client that cannot map uses `memory.read` and `memory.write`; page numbers that
`memory.allocate` gives out need not be neighbours. Never pass descriptors to the
daemon.

## Windows

For each channel and each address, in each direction, the receiver grants a window: so many packets and so
many bytes that may be on the way. The first grant is in the method that opens it; later ones come as
`channel.window` and `address.window` and add to what is left.

> **While both counts are above zero, one more may be sent, whatever its size.** Sending takes 1 from the
> packets and the packet's cost from the bytes, which may fall below zero.

{cost_table}

Completions, cancels and closes cost nothing. Whoever returns room may collect it, but must return it no
later than when half of the packets or half of the bytes of the first grant are due; then neither side ever
waits for the other. A client that grants 0 gets nothing. A client that sends without a window breaks the
protocol: it has to queue. A request whose method or arguments are refused unread (by this page's tables)
is not counted, so a client checks them before it spends. What waits for a window waits in the order it was to
be sent. Many `packet.send` may be on the way at once: that is what the window is for.

## Channels

**Opening.** A host attaches to the machine and sends `channel.offer`; a guest sends `channel.open`, and the
host gets `channel.opened`. One guest at a time has an offer open; another one's open is refused, unless a
further offer matches. With `wait` true and no matching offer, the open stays unanswered until there is one,
however long that takes; `cancel` gives up.

**Sending.** Guest and host send with the same requests.

* `buffer` is the payload and nothing else: the daemon makes the descriptor, the padding, the transaction id
  and, on a named-pipe channel, the pipe header. Its greatest length is configured (`packet_bytes`); a packet
  that can never fit the ring is refused too.
* The response to a send with WAIT_FOR_COMPLETION comes when the other side has completed the packet. Its
  `payload` is the completion's, padded with zeros to a multiple of 8 bytes. It has no pipe header, so this is
  true of named-pipe channels as well. The other side's `packet.complete` passes the payload only.
* A `status` in a send's result is a success. A send that was refused, cancelled, or cut off by the end of its
  channel gets an error instead.
* External data goes from guest to host, not from host to guest and not on a named-pipe channel. It needs
  WAIT_FOR_COMPLETION, and one of the two MDL flags in each MDL. The daemon copies none of it: the host looks at
  those very pages, so leave them as they are until the completion.
* `packet.send` sends all that its `mdl` describes. `packet.send_external_mdl` sends `length` bytes from
  `offset`, both counted in the buffer the whole chain describes, and `length` 0 is all the rest. With
  FORCE_MDL_LENGTH only the first MDL counts, and `length`, which must not be 0 then, may go beyond it up to
  the end of its last page.
* PAGED_BUFFER is accepted and changes nothing here.

**Receiving.** `channel.packets` brings one packet or more as a run, see [Packets](#packets). A packet that
`errors` names was delivered like the others and is completed like them; only its external data must not be
used.

**Closing.** Either side sends `channel.close`. It gets the errors of its unanswered packets, then the response,
and no `channel.closed`. The other side gets the responses to all its packets, then `channel.closed`; so it does
when the offer is rescinded, when the program at the other end is gone, or when a ring is found damaged.

A close waits for nothing: packets and completions the other side has not taken out of the ring are lost. A side
that wants its last completions to arrive first sends a packet and waits for its completion, since a ring keeps
its order.

The number of a closed channel is dead: drop what still names it, do not close it again (only a direct client
does, see [`channel.closed`](#25-channelclosed)), and leave packets that were not completed alone. The host's
offer stands, unless it was rescinded, and the next opening is a channel with another number.

## Driver channels

A driver channel is a channel with KMCL's life cycle, at either end; the other end may be a plain one. `driver.allocate`
takes all Init* values at once, `driver.enable` offers it or looks for its offer. From then on:

* The daemon calls back with `driver.callback`, a request; answer it when the callback has returned, within 5 seconds
  unless configured. The next one of that channel comes then.
* `driver.opened` names the channel for packets. Send on it from the answer to Opened on, and keep what is sent earlier.
  When `channel.closed` has come for it, or Closed is called, it is over; the next opening has another number.
* Every packet that came is to be completed (`packet.complete`, `packet.fail`), those that want no completion as well.
* After the answer to Suspend, send `driver.drained` once all packets that the driver took are completed. What arrived
  and was not taken is kept for the next Started, and is void after Closed.
* A client that works the rings itself takes packets from the ring only from the answer to Started until Suspend is
  called, and lets its end go when Closed is called.
* `driver.state` says where the channel is. Answers to `driver.pause` and `driver.disable` come when that is done.

## Receives and event handlers

Where nothing else is asked for, datagrams come as `address.datagrams`, in a window. A client may do better:

* `address.receive_datagram` posts a receive. The first datagram that passes its filter is its answer, and is
  not in `address.datagrams`. Posted receives take no window; `cancel` ends one.
* `address.set_event_handler` sets a handler for an event, by a number that stands for the client's function.
  From then on the daemon sends `address.event`, a request, and the client answers with what the function
  returns:

| status | taken | request | what becomes of the datagram |
|---|---|---|---|
| SUCCESS (0) | what it took of `data` | 0 | the rest is lost |
| MORE_PROCESSING_REQUIRED (0xC0000016) | likewise | a number of its own | the rest goes there, `length` bytes |
| DATA_NOT_ACCEPTED (0xC000021B) | 0 | 0 | lost; a provider that buffers keeps it |
| PENDING (0x103), chained events only | 0 | 0 | the client keeps it until `machine.return_chained` |

A request handed over so ends with `address.request_completed`. An error, or any other status, counts as not
accepted. So does no answer within 5 seconds, unless configured; answer all the same, late: a request in a late
answer is completed with CANCELLED. Until it is answered no further event comes for that address object;
datagrams wait, and beyond a bound the newest are dropped. `address.told` calls a handler whose answer would
count for nothing. A handler that was replaced or taken away may still be called until the response to that has
been read.

## Bus guest

A client with a driver stack of its own takes the whole guest side of a machine with `bus.attach`, instead of opening
channels one by one. There is one to a machine, and no other guest beside it; a refusal names the session that is in
the way. From then on:

* `bus.post` is HvPostMessage and `bus.message` the host's answer, both with the control message as it is, from
  initiate contact to unload complete. A message slot holds one message: the next comes after `bus.message_taken`,
  which is the end of message.
* Rings, page lists and external data lie in pages of the machine's memory that `memory.allocate` gave out. A page
  list with a page outside it is refused by the created message's status; a ring the host's end finds damaged stops
  that end, and the listing of channels says why.
* A channel is rung by `bus.signal` and `bus.event`, or, once it is open and `bus.doorbell` was asked for, through
  a descriptor: send a byte without waiting; read all there is, then look at the ring. When the other side is
  direct, the descriptor leads to it, and the daemon takes no part.
* Errors are silent, as the documentation of VMBus has it; the daemon counts them (`vmbus_violations` in
  `daemon.inspect`) and logs each with its rule.
* `bus.detach` or the end of the session resets the host bus: all channels close, and everything is offered anew to the
  next guest.
"""

RUNS = """\
## Runs

Many things of one kind travel as one `bin`, back to back with nothing between them. All integers are
little-endian, unless a table says otherwise.

### Page numbers

A u64 for each page.

### MDL chain

One after the other, in the order of the chain; at most {mdls}. An empty run is NULL.

{mdl_table}

The pages have to hold `byte_offset` + `byte_count` bytes.

### Packets

As they stand in a ring, without the 8-byte footer. The descriptor says how long a packet is.

{packet_table}

From byte 16 on, types 7 and 9 have their list of ranges; the payload begins at 8 times `data_offset8`, goes
to the end of the packet, and is padded with zeros to a multiple of 8 bytes, so a receiver cannot see where in
the last 8 it ended. On a named-pipe channel the payload begins with the pipe header, two u32: the number 1,
and the exact length of what follows them.

{kind_table}

A range of type 9 has as many page numbers as `byte_offset` + `byte_count` bytes touch; `byte_offset` is below
4,096 and counts in the first of them.

A delivered packet with external data names pages of the machine's memory: read and write them there, until
the packet is completed. `packet.send_run` takes type 6 without flags only.

Packets have no numbers in the run: `channel.packets` gives the handle of the first, and each next has the
next handle. Complete or fail exactly once, in any order, each one whose flags ask for a completion or that is
GPA-direct. Any other is finished when it is delivered. A completion for it, for a handle that was never given,
or a second one for the same packet breaks the protocol.

### Datagrams

{datagram_table}

The address is a TRANSPORT_ADDRESS, the sender's, with one entry:

{address_table}

An IPv6 entry has address_length 26 and address_type 23, and then port u16 and flow u32 in network order, 16
bytes of address, scope u32 little-endian: 34 bytes in all.

## Values

* A GUID is 16 bytes as Windows stores it: its first three groups little-endian, the rest in order of writing.
  00112233-4455-6677-8899-aabbccddeeff is `33 22 11 00 55 44 77 66 88 99 aa bb cc dd ee ff`.
* The u64 values the daemon sends in messages stay below 2 to the power of 53, so a language whose numbers are
  doubles loses nothing. Transaction ids in a run are any 64 bits.
* `flags` of the two sends: 0x1 WAIT_FOR_COMPLETION, 0x2 FORCE_MDL_LENGTH, 0x4 PAGED_BUFFER.
* A status is an NTSTATUS; its top two bits are 0 success, 1 information, 2 warning, 3 error.
"""

EXAMPLE = """\
## Worked example

A client that calls itself `example` says hello; the daemon answers. Then the client grants 16 more packets
and 65,536 more bytes on channel 3.
"""

EXAMPLE_RUNS = """\
Two runs. The MDL chain of one MDL: 5,000 bytes that begin 16 bytes into page 0x101 and end in page 0x200, which
is not its neighbour. Then packets as `channel.packets` brings them: one in-band with the payload `ping` that asks
for nothing, and one with the payload `data` and that MDL's bytes as external data.
"""
