# Bits of shared memory that two processes set and clear; shared_bits.py says for what. Part of compiled_ring.pyx.

def set_bit(bits, Py_ssize_t bit):
    """Set a bit of shared memory in one step; True when it was clear. See ``shared_bits``."""
    cdef Py_buffer seen
    PyObject_GetBuffer(bits, &seen, PyBUF_WRITABLE)
    try:
        if not 0 <= bit < seen.len * 8:
            raise Misuse(f"bit {bit} is not in {seen.len} bytes")
        return bool(bits_set(<char *> seen.buf, bit))
    finally:
        PyBuffer_Release(&seen)


def take_bits(bits):
    """Clear shared memory in steps of 64 bits; the bits that were set, lowest first. See ``shared_bits``."""
    cdef Py_buffer seen
    cdef Py_ssize_t word
    cdef int bit
    cdef uint64_t taken
    cdef list found = []
    PyObject_GetBuffer(bits, &seen, PyBUF_WRITABLE)
    try:
        if seen.len & 7 or <size_t> seen.buf & 7:
            raise Misuse("bits are taken from whole, aligned words of 8 bytes")
        for word in range(seen.len >> 3):
            taken = bits_take(<char *> seen.buf + (word << 3))
            for bit in range(64):
                if not taken:
                    break
                if taken & 1:
                    found.append((word << 6) + bit)
                taken >>= 1
    finally:
        PyBuffer_Release(&seen)
    return found
