"""The conversation between clients and the daemon: MessagePack-RPC, with one numbered table of methods. Pure.

* ``schema``   the table: every method, its number, its direction, its arguments and results
* ``fields``   the types those arguments have, and their checks
* ``scanner``  where a frame ends, and whether it may be unpacked at all
* ``codec``    frames to checked messages and back; every limit and every failure of decoding
* ``window``   how much one side may have on the way for one channel or address
* ``runs``     many packets, datagrams or MDLs as one binary
* ``document`` writes ``docs/wire-protocol.md`` from the table and the words in ``prose``
"""
