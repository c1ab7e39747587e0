# The sending end of a compiled ring. Part of compiled_ring.pyx; its pure twin is pure_ring_sender.py.

@cython.final
cdef class RingSender(RingEnd):
    """The sending end of one ring. Raises RingCorruption at construction when the indices are illegal."""

    cdef Py_ssize_t known_free  # the receiver can only have made more room since
    cdef bint pending

    def __cinit__(self, RingMemory ring not None, fence=no_fence):
        self.begin_at(WORD_IN, "in")
        self.known_free = 0
        self.pending = False
        self.room()

    cdef Py_ssize_t room(self) except -1:
        cdef Py_ssize_t out = self.peer_index(WORD_OUT, "out")
        cdef Py_ssize_t free = self.free_from(out, self.position)
        if free < self.known_free:
            self.moved_back("out", <uint32_t> out)
        self.known_free = free
        return free

    def free_bytes(self):
        """Bytes there is room for now, footers included. Raises RingCorruption."""
        return self.room()

    def would_ever_fit(self, cost):
        """Whether a packet of ``cost`` bytes with its footer fits an empty ring. Some readers refuse the last 8."""
        return cost <= self.size - 16

    @property
    def largest_cost(self):
        """The most ring bytes one packet may take."""
        return self.size - 16

    def send_batch(self, images):
        """Write as many encoded packets as fit, in order; publish once and decide once about the doorbell (3.4).

        Raises RingCorruption, or Misuse when a packet is not padded to 8 bytes.
        """
        cdef Py_ssize_t free = self.room()
        cdef Py_ssize_t total = 0
        cdef Py_ssize_t fits = 0
        cdef Py_ssize_t lengths = 0
        cdef object batch = PySequence_Fast(images, "packets come as a sequence of bytes")
        cdef PyObject **items = PySequence_Fast_ITEMS(batch)
        cdef Py_ssize_t count = PySequence_Fast_GET_SIZE(batch)
        while fits < count:
            if not PyBytes_CheckExact(<object> items[fits]):
                raise TypeError(f"an encoded packet is bytes, not {type(<object> items[fits]).__name__}")
            total = PyBytes_GET_SIZE(<object> items[fits]) + FOOTER_BYTES
            if total > free:
                break
            free -= total
            lengths |= total
            fits += 1
        if lengths & 7:
            raise Misuse(UNPADDED)
        if fits == 0:
            return sent(0, False)
        return sent(fits, self.put(items, fits, free))

    cdef bint put(self, PyObject **items, Py_ssize_t count, Py_ssize_t free) except -1:
        """Write packets that were seen to fit, publish them, and say whether to ring. No Python code runs in between."""
        cdef RingMemory ring = self.ring
        cdef Py_ssize_t position = self.position
        cdef Py_ssize_t length
        cdef Py_ssize_t index
        cdef Py_ssize_t start
        for index in range(count):
            start = position
            length = PyBytes_GET_SIZE(<object> items[index])
            ring.copy_in(position, PyBytes_AS_STRING(<object> items[index]), length)
            position = self.behind(position, length)
            ring_store_unit(ring.unit(position), <uint64_t> start << 32)  # the footer: 0, and where its packet begins
            position = self.behind(position, FOOTER_BYTES)
        return self.publish(position, free)

    def send_in_band(self, payloads, Py_ssize_t first, Py_ssize_t most, uint64_t transaction_id, Py_ssize_t longest):
        """Write payloads from number ``first`` on, at most ``most``, as in-band packets that want no completion.

        As many as fit, up to one that is longer than ``longest`` bytes; transaction ids count up from the one given.
        Published once, with one decision about the doorbell. Raises RingCorruption, TypeError for what is not bytes.
        """
        cdef Py_ssize_t free = self.room()
        cdef object batch = PySequence_Fast(payloads, "payloads come as a sequence of bytes")
        cdef PyObject **items = PySequence_Fast_ITEMS(batch)
        cdef Py_ssize_t end = min(PySequence_Fast_GET_SIZE(batch), first + min(most, MOST_AT_ONCE))
        cdef Py_ssize_t position = self.position
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t length
        cdef Py_ssize_t total
        longest = min(longest, LONGEST_IN_BAND)
        if first < 0:
            raise Misuse(f"payloads are numbered from 0, not {first}")
        while first + count < end:
            if not PyBytes_CheckExact(<object> items[first + count]):
                if count:
                    break
                raise TypeError(f"a payload is bytes, not {type(<object> items[first]).__name__}")
            length = PyBytes_GET_SIZE(<object> items[first + count])
            total = ((length + 7) & ~<Py_ssize_t> 7) + DESCRIPTOR_BYTES + FOOTER_BYTES
            if length > longest or total > free:
                break
            self.put_packet(
                position, PyBytes_AS_STRING(<object> items[first + count]), length, transaction_id + count, IN_BAND_HEAD
            )
            free -= total
            position = self.behind(position, total)
            count += 1
        if count == 0:
            return sent(0, False)
        return sent(count, self.publish(position, free))

    def send_asking(self, bytes payload not None, uint64_t transaction_id):
        """Write one in-band packet that wants its completion, if there is room; otherwise as ``send_in_band``."""
        return self.put_single(payload, transaction_id, IN_BAND_HEAD | ASKS)

    def send_completion(self, bytes payload not None, uint64_t transaction_id):
        """Write the completion of one of the peer's packets, if there is room; otherwise as ``send_in_band``."""
        return self.put_single(payload, transaction_id, COMPLETION_HEAD)

    cdef object put_single(self, bytes payload, uint64_t transaction_id, uint64_t head):
        cdef Py_ssize_t free = self.room()
        cdef Py_ssize_t length = PyBytes_GET_SIZE(payload)
        cdef Py_ssize_t total = ((length + 7) & ~<Py_ssize_t> 7) + DESCRIPTOR_BYTES + FOOTER_BYTES
        if length > LONGEST_IN_BAND or total > free:
            return sent(0, False)
        self.put_packet(self.position, PyBytes_AS_STRING(payload), length, transaction_id, head)
        return sent(1, self.publish(self.behind(self.position, total), free - total))

    cdef inline void put_packet(
        self, Py_ssize_t start, const char *payload, Py_ssize_t length, uint64_t transaction_id, uint64_t head
    ) noexcept:
        """One packet with its footer, at a place that was seen to have room. ``head`` lacks its length."""
        cdef RingMemory ring = self.ring
        cdef Py_ssize_t padded = (length + 7) & ~<Py_ssize_t> 7
        cdef Py_ssize_t position = start
        ring_store_unit(ring.unit(position), head | <uint64_t> ((padded + DESCRIPTOR_BYTES) >> 3) << 32)
        position = self.behind(position, 8)
        ring_store_unit(ring.unit(position), transaction_id)
        position = self.behind(position, 8)
        if length != padded:
            ring_store_unit(ring.unit(self.behind(position, padded - 8)), 0)
        ring.copy_in(position, payload, length)
        ring_store_unit(ring.unit(self.behind(position, padded)), <uint64_t> start << 32)

    cdef bint publish(self, Py_ssize_t position, Py_ssize_t free) except -1:
        """Let the receiver see what was written up to ``position``; whether to ring its doorbell."""
        cdef RingMemory ring = self.ring
        cdef uint32_t before = <uint32_t> self.position
        cdef uint32_t out
        self.known_free = free
        self.position = position
        ring_publish(ring.words + WORD_IN, <uint32_t> position)
        self.order()
        # In this order: the mask, then the receiver's place. Past where we began means that it has seen us coming; at
        # no place at all, it has to look, or nobody finds the damage while both sleep.
        if ring_load(ring.words + WORD_MASK) != 0:
            return False
        out = ring_load(ring.words + WORD_OUT)
        return out == before or out >= <uint32_t> self.size or out & 7 != 0

    def block(self, Py_ssize_t needed):
        """Ask for a doorbell when ``needed`` bytes are free. True: there is room by now, try again. May raise."""
        cdef Py_ssize_t threshold = min(max(needed, self.size >> 2), self.size)
        self.ring.check()
        threshold = min((threshold + 7) & ~<Py_ssize_t> 7, self.size - 8)
        ring_publish(self.ring.words + WORD_PENDING, <uint32_t> threshold)
        self.pending = True
        self.order()
        return self.room() >= needed

    def unblock(self):
        """No packet waits for room any more."""
        self.ring.check()
        if self.pending:
            ring_publish(self.ring.words + WORD_PENDING, 0)
            self.pending = False
