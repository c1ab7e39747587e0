"""The commands of ``vmbusctl``, by owner.

* ``look``: machines, channels, version. ``packets``: send, serve-echo. ``datagrams``: datagram send and listen.
  ``demo``: the demonstration, whose parts are in ``clients.demo``.
* ``calling`` connects to the daemon and runs a command to its end, ``content`` turns options into bytes and back,
  ``output`` writes tables and JSON, ``interfaces`` holds the interface GUIDs the commands agree on.
"""
