"""The map: the words of this project, and where each of them lives.

One daemon, ``vmbusd``, hosts VMBus channel endpoints and a TDI transport for many simulated machines. Programs attach
to it as separate processes, through the ``clients`` package or any MessagePack library, and exchange packets and
datagrams.

=============  ==================================================================  ===================================
word           meaning                                                             where
=============  ==================================================================  ===================================
machine        one simulated VM: guest memory, channels, TDI devices; the unit     ``daemon/machines.py``
               of isolation
guest, host    the two sides of a VMBus channel                                    ``vmbus/``
client         an attached process, as guest, as host, as TDI client               package ``clients``
session        the daemon's side of one client: one reader, one writer             ``daemon/session.py``
guest memory   pages, guest physical addresses, MDLs; a sealed shared file         ``memory.py``, ``daemon/memfile.py``
control        the 29 messages of the bus, and both ends of that conversation      ``vmbus/messages.py``, ``host.py``
packet         what stands in a ring: descriptor, ranges, payload                  ``vmbus/packets.py``
ring           one direction of a channel, in guest memory                         ``vmbus/ring.py``
endpoint       one end of an open channel: KMCL packet semantics over two rings    ``vmbus/endpoint.py``
offer          a channel to be had                                                 ``daemon/offers.py``
channel        one opening of an offer, with an end for each side                  ``daemon/channels.py``,
                                                                                   ``daemon/channel_side.py``
driver         a channel with KMCL's life cycle and callbacks                      ``vmbus/life_cycle.py``,
channel                                                                            ``daemon/driver.py``
the buses      what offers, opens and closes channels, by control messages alone   ``daemon/bus.py``
bus guest      a client that has the guest side of a machine's bus to itself       ``daemon/bus_guest.py``
doorbell       "look at the ring": what cores return, never call                   ``daemon/channel_side.py``
window         how much a client may have on the way, for one channel or address   ``wire/window.py``
frame          one MessagePack-RPC message; the numbered table of methods          ``wire/codec.py``, ``wire/schema.py``
IRP, address   a TDI request; an open transport address                            ``tdi/irp.py``, ``tdi/address.py``
connection     a connection endpoint, and the link it has to its peer              ``tdi/connection.py``
handler        a client's function for an event; it is asked, and answers          ``tdi/handlers.py``,
                                                                                   ``daemon/handler_requests.py``
segment        a virtual network that machines join                                ``tdi/segment.py``
gateway        the way between a segment and programs outside                     ``tdi/gateway.py``
filter         a client above a device, which sees each request first              ``tdi/filters.py``,
                                                                                   ``daemon/filters.py``
population     the machines there are, those made while the daemon runs included   ``daemon/population.py``
reload         a new configuration for a daemon that runs, whole or not at all     ``daemon/reload.py``
role           what somebody may do with a machine, or with the daemon             ``daemon/roles.py``
service        what vmbusd is told by systemd, and tells it                        ``daemon/service_manager.py``
manager
stream         what a session reads and writes: a Unix socket, or QUIC over UDP    ``daemon/streams.py``, ``quic.py``
key            who a client over UDP is; made, granted and revoked                 ``remote/keyring.py``
pump           lets every session with something to say say it, in one call each   ``daemon/server.py``
=============  ==================================================================  ===================================

Layers, each above the next; the upper two never import each other::

    emulator.daemon (trio)          clients (trio, or no event loop)
    emulator.wire (msgpack)         emulator.remote (aioquic), for clients over UDP
    emulator.vmbus                  emulator.tdi           pure, and strangers to each other
    emulator.memory, emulator.status                       pure

A value walks one way: a core is called, returns what it wants done, and the shell does it before anything else runs.
``docs/architecture.md`` follows a packet and a datagram along the whole way.
"""
