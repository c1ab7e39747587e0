"""The TDI transport of a simulated machine, as pure logic: requests in, things to do out.

A client opens an *address object* on a *network*: the UDP device, behind which real sockets stand, or a virtual segment
inside the daemon. It sends datagrams through it with requests (``Irp``), each completed exactly once, and gets every
datagram that matches. Nothing here opens a socket, reads a clock or calls back: a call returns effects, and whoever
called performs them.

=================  ====================================================================================
constants          numbers and flags of the interface
layout             C structures by their declaration, for x64 and x86; ``request_layouts``, ``address_layouts``,
                   ``query_layouts`` and ``nt_layouts`` declare those of the interface
structures         addresses and query results as bytes, both ways
create             the extended attributes a create request carries
profile            every choice the documents leave open, by rule number
irp                one request, and its one completion
effects            what a call wants done
address            address objects: who may open what, who gets an arriving datagram
queues             sends waiting for a medium: order, bounds, time-outs
destination        where a send may go
device             what the UDP device and a segment share: the checks of a send, cleanup, cancel
udp                the UDP device: one real socket for each local transport address
segment            virtual datagram networks that several machines share
receives           posted receives: filters, buffers, how a datagram ends one
handlers           event handlers, and the calls of them that wait for an answer
indications        what becomes of a datagram that matched: receive, handler, buffer or owner
loans              chained datagrams that clients keep
receive_side       a transport's way in for all of these
query              questions about a device or an address
dispatch           which request is served by whom, on which kind of file
parameters         what requests ask, once understood
raw                requests as a client's bytes, for x64 and x86
user_requests      requests of user mode, which come as device controls; ``ioctl`` serves the others,
                   ``object_ids`` address options among them, ``control_codes`` has their numbers
builders           such bytes, as the driver kit's macros make them
action             settings and actions
filters            clients above a device, asked about each request; ``filter_view`` is what they see
transport          one machine's devices and open files; the way in
=================  ====================================================================================
"""
