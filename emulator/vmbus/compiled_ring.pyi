# The compiled ring has the classes of the pure one, method for method; a test compares their names.
from emulator.vmbus.pure_ring import RingMemory, RingReceiver, RingSender

__all__ = ["SOURCE", "RingMemory", "RingReceiver", "RingSender", "set_bit", "take_bits"]

SOURCE: str

def set_bit(bits: memoryview, bit: int) -> bool: ...
def take_bits(bits: memoryview) -> list[int]: ...
