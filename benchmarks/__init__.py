"""How fast the daemon carries packets, as ratios to a plain relay of raw bytes measured in the same run.

=================  ===================================================================================================
``rows``           what is measured: every row, what carries it, how long each measurement takes
``__main__``       the command line: ``python -m benchmarks``
``stage``          the processes of a run (daemon, relays, two ends for each), started, pinned, asked, and ended
``relay``          the yardstick: a trio process that moves bytes between two Unix sockets, and knows nothing of them
``blocking_ends``  the near and the far end without an event loop: ``clients.sync``, and plain blocking sockets
``trio_ends``      the same with trio: ``clients.connect``, and plain trio streams
``direct``         direct channels at both ends, against a Pipe and pyzmq: ``python -m benchmarks.direct``
``plain_ends``     the two ends of a Pipe, and of pyzmq
``echo``           a UDP program that sends every datagram back
``timing``         what both near ends make of their clocks, and how they are asked
``raw``            what both ends of a raw carrier have agreed on
``figures``        repetitions to medians and ratios
``report``         figures to tables, for the terminal and for the README
``record``         a run as one entry of ``history.json``: when, which commit, which machine, the figures
=================  ===================================================================================================

The *near* end is the guest, and has the clock; the *far* end is the host. They are processes of their own, as the
daemon is.
"""
