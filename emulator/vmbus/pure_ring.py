"""The ring in plain Python: it runs everywhere, and says in the fewest words what the compiled twin has to do.

The rules stand at the top of ``ring``. Interpreted code is fast when it does little, often: a batch is joined and
copied in one piece each way, and everything is judged in that private copy.

The fence is an argument: plain Python has none, and a store followed by a load may be reordered by the processor. Of
the shared words, each read and write is one access to a native 32-bit word, which x86-64 keeps in order otherwise.
"""

from __future__ import annotations

from emulator.vmbus.pure_ring_memory import RingMemory
from emulator.vmbus.pure_ring_receiver import RingReceiver
from emulator.vmbus.pure_ring_sender import RingSender

__all__ = ["RingMemory", "RingReceiver", "RingSender"]
