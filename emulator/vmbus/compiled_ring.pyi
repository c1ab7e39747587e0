# The compiled ring has the classes of the pure one, method for method; a test compares their names.
from emulator.vmbus.pure_ring import RingMemory, RingReceiver, RingSender

__all__ = ["SOURCE", "RingMemory", "RingReceiver", "RingSender"]

SOURCE: str
