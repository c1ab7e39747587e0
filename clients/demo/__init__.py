"""The demonstration: a daemon, two machines, and guests and hosts that are processes of their own.

* ``story`` is what happens, in order; ``report`` the table at its end; ``progress`` what is seen meanwhile.
* ``children`` starts the processes and ends them; ``telling`` is how they tell it what they do: JSON lines.
* ``file_host`` and ``file_guest`` move a file through external data, ``echo_host`` and ``echo_guest`` small packets,
  ``datagram_peer`` datagrams; ``talk`` is a conversation in datagrams, for it and for an ordinary socket.
* ``archive`` makes a file to send where none is given.
"""
