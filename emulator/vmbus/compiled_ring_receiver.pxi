# The receiving end of a compiled ring. Part of compiled_ring.pyx; its pure twin is pure_ring_receiver.py.

cdef struct Descriptor:
    uint64_t first  # its first 8 bytes: type, data offset, length, flags
    uint64_t transaction_id


cdef inline Py_ssize_t ring_bytes(uint64_t head) noexcept:
    """What a packet takes of the ring, by the first 8 bytes of its descriptor."""
    return (<Py_ssize_t> <uint16_t> (head >> 32) << 3) + FOOTER_BYTES


@cython.final
cdef class RingReceiver(RingEnd):
    """The receiving end of one ring. Raises RingCorruption at construction when the indices are illegal."""

    cdef Py_ssize_t taken  # what the last `take` took
    cdef Py_ssize_t known_used  # seen and not yet consumed; the sender can only have added to it
    cdef bint masked
    cdef object spare  # the last small result: used again when by then nobody else has it

    def __cinit__(self, RingMemory ring not None, fence=no_fence):
        self.begin_at(WORD_OUT, "out")
        self.known_used = 0
        self.masked = ring_load(ring.words + WORD_MASK) != 0
        self.spare = None
        self.used()

    cdef list list_of(self, bytes image):
        """A list of one packet: that of the last result, when nobody else has either."""
        cdef object made = self.spare
        cdef list last
        if made is not None and Py_REFCNT(made) == 2:
            last = <list> PyTuple_GET_ITEM(made, 0)
            if Py_REFCNT(last) == 2 and PyList_GET_SIZE(last) == 1:
                last[0] = image
                return last
        return [image]

    cdef object result(self, list images, Py_ssize_t byte_count, bint signal, bint empty):
        cdef object made = self.spare
        if made is not None and Py_REFCNT(made) == 2:  # here and in self.spare, as zip() and enumerate() do it
            fill_received(made, images, byte_count, signal, empty)
        else:
            made = received(images, byte_count, signal, empty)
        self.spare = made if byte_count <= SMALL_RESULT_BYTES else None
        return made

    cdef inline Py_ssize_t used(self) except -1:
        cdef Py_ssize_t index = self.peer_index(WORD_IN, "in")
        cdef Py_ssize_t count = index - self.position
        if count < 0:
            count += self.size
        if count < self.known_used:
            self.moved_back("in", <uint32_t> index)
        self.known_used = count
        return count

    def used_bytes(self):
        """Bytes that wait to be taken, footers included. Raises RingCorruption."""
        return self.used()

    @property
    def peer_honours_pending_size(self):
        """Whether the peer rings when a blocked sender of ours has room; if not, such a sender must poll (3.1)."""
        self.ring.check()
        return ring_load(self.ring.words + WORD_FEATURES) & 1 != 0

    def receive_batch(self, Py_ssize_t max_packets, Py_ssize_t max_bytes):
        """Take up to ``max_packets`` data packets and ``max_bytes`` of their ring bytes, in the order they stand.

        One data packet is taken whatever its size, unless ``max_packets`` is 0. Completions do not count: nobody may
        hold them up, and the ring bounds them. Good packets in front of a bad one are returned; the next call raises
        RingCorruption.
        """
        cdef Py_ssize_t used = self.wake()
        cdef Py_ssize_t consumed
        cdef list images
        if used == 0:
            return self.result([], 0, False, True)
        images = self.take(used, max_packets, max_bytes)
        self.ring.check()  # describing damage runs Python code, which may do anything
        if images is None:
            if self.problem is not None:
                raise RingCorruption(self.problem)
            return self.result([], 0, False, False)
        consumed = self.taken
        return self.result(images, consumed, self.took(used, consumed), consumed == used)

    def receive_payloads(self, Py_ssize_t max_packets, Py_ssize_t max_bytes):
        """Take in-band packets that want no completion, up to the first of any other kind; their payloads, padded.

        Otherwise as ``receive_batch``. What is not plain stays, good or bad, for ``receive_batch`` to judge.
        """
        cdef Py_ssize_t used = self.wake()
        cdef list payloads = self.take_payloads(used, max_packets, max_bytes)
        cdef Py_ssize_t consumed = self.taken
        if consumed == 0:
            return self.result(payloads, 0, False, used == 0)
        return self.result(payloads, consumed, self.took(used, consumed), consumed == used)

    def take_completion(self, uint64_t transaction_id):
        """Take what comes next if it is the completion of that packet: (payload, ring the doorbell).

        None, and nothing taken, when anything else stands there, or doorbells are asked for: then ``receive_batch``.
        """
        cdef Descriptor head
        cdef Py_ssize_t total = self.next_of(COMPLETION_HEAD, &head)
        if total == 0 or head.transaction_id != transaction_id:
            return None
        return self.payload_at(self.position, total), self.took(self.known_used, total)

    def take_in_band(self):
        """Take what comes next if it is an in-band packet: (payload, transaction id, flags, ring the doorbell).

        None, and nothing taken, when anything else stands there, or doorbells are asked for: then ``receive_batch``.
        """
        cdef Descriptor head
        cdef Py_ssize_t total = self.next_of(IN_BAND_HEAD, &head)
        cdef bytes payload
        if total == 0:
            return None
        payload = self.payload_at(self.position, total)
        return payload, head.transaction_id, <int> (head.first >> 48), self.took(self.known_used, total)

    cdef inline Py_ssize_t wake(self) except -1:
        """The bytes that wait to be taken; when there are any, no doorbells from here on. Raises RingCorruption."""
        cdef Py_ssize_t used = self.used()
        if not self.masked:
            if ring_load(self.ring.words + WORD_MASK) != 0:
                self.fail(MASK_SET_BY_PEER)
            if used:
                self.set_mask()
        return used

    cdef Py_ssize_t next_of(self, uint64_t kind, Descriptor *head) except -1:
        """The ring bytes of the next packet if it is whole and begins with ``kind``, else 0; 0 also before ``wake``."""
        cdef RingMemory ring = self.ring
        cdef Py_ssize_t used = self.used()
        cdef Py_ssize_t total
        if used < DESCRIPTOR_BYTES + FOOTER_BYTES or not self.masked:
            return 0
        head.first = ring_load_unit(ring.unit(self.position))
        head.transaction_id = ring_load_unit(ring.unit(self.behind(self.position, 8)))
        total = ring_bytes(head.first)
        if head.first & 0xFFFFFFFF != kind or total < DESCRIPTOR_BYTES + FOOTER_BYTES or total > used:
            return 0
        return total

    cdef inline bytes payload_at(self, Py_ssize_t start, Py_ssize_t total):
        """A copy of what is behind a descriptor of 16 bytes. ``total`` was judged: the ring is the most it allocates."""
        cdef Py_ssize_t length = total - DESCRIPTOR_BYTES - FOOTER_BYTES
        cdef bytes payload = PyBytes_FromStringAndSize(NULL, length)
        self.ring.copy_out(self.behind(start, DESCRIPTOR_BYTES), PyBytes_AS_STRING(payload), length)
        return payload

    cdef inline bint took(self, Py_ssize_t used, Py_ssize_t consumed) except -1:
        """Publish that so many of the used bytes were taken; whether to ring the sender's doorbell."""
        cdef Py_ssize_t before = self.position
        self.position = self.behind(before, consumed)
        self.known_used = used - consumed
        ring_publish(self.ring.words + WORD_OUT, <uint32_t> self.position)
        self.order()
        return ring_load(self.ring.words + WORD_PENDING) != 0 and self.frees_a_sender(before)

    cdef list take_payloads(self, Py_ssize_t used, Py_ssize_t max_packets, Py_ssize_t max_bytes):
        """Copy payloads out; ``taken`` says how many ring bytes their packets had."""
        cdef RingMemory ring = self.ring
        cdef Py_ssize_t position = 0  # counts from the read index
        cdef Py_ssize_t offset = self.position
        cdef Py_ssize_t total
        cdef uint64_t head
        cdef list payloads = []
        while used - position >= DESCRIPTOR_BYTES + FOOTER_BYTES and max_packets > 0:
            head = ring_load_unit(ring.unit(offset))
            total = ring_bytes(head)
            if head & PLAIN_HEAD != IN_BAND_HEAD or total < DESCRIPTOR_BYTES + FOOTER_BYTES or total > used - position:
                break
            if position and position + total > max_bytes:
                break
            payloads.append(self.payload_at(offset, total))
            max_packets -= 1
            position += total
            offset = self.behind(offset, total)
        self.taken = position
        return payloads

    cdef list take(self, Py_ssize_t used, Py_ssize_t max_packets, Py_ssize_t max_bytes):
        """Copy packets out, or None; ``taken`` says how many ring bytes. A violation ends it and is remembered."""
        cdef RingMemory ring = self.ring
        cdef Py_ssize_t position = 0  # counts from the read index
        cdef Py_ssize_t offset = self.position
        cdef Py_ssize_t data_bytes = 0
        cdef Py_ssize_t total
        cdef uint64_t head
        cdef uint16_t data_offset8, length8
        cdef bytes image
        cdef list images = None
        while position < used:
            if used - position < DESCRIPTOR_BYTES:
                self.problem = describe_crumb(used - position)
                break
            head = ring_load_unit(ring.unit(offset))
            data_offset8 = <uint16_t> (head >> 16)
            length8 = <uint16_t> (head >> 32)
            total = ring_bytes(head)
            if data_offset8 < 2 or length8 < data_offset8 or total > used - position:
                self.problem = describe_bad_packet(data_offset8, length8, used - position)
                break
            if <uint16_t> head != COMPLETION:
                if max_packets <= 0 or (data_bytes and data_bytes + total > max_bytes):
                    break
                max_packets -= 1
                data_bytes += total
            # Its size was judged against the ring, which is the most this can allocate.
            image = PyBytes_FromStringAndSize(NULL, total - FOOTER_BYTES)
            ring.copy_out(offset, PyBytes_AS_STRING(image), total - FOOTER_BYTES)
            ring_store_unit(PyBytes_AS_STRING(image), head)
            if images is None:
                images = self.list_of(image)
            else:
                images.append(image)
            position += total
            offset = self.behind(offset, total)
        self.taken = position
        return images

    cdef bint frees_a_sender(self, Py_ssize_t before) noexcept:
        """Whether what was just taken gave a blocked sender the room it waits for (3.4)."""
        cdef uint32_t *words = self.ring.words
        cdef Py_ssize_t pending = ring_load(words + WORD_PENDING) & ~<uint32_t> 7
        cdef Py_ssize_t end = ring_load(words + WORD_IN)
        cdef bint counts = ring_load(words + WORD_FEATURES) & 1
        if not pending or not counts or end >= self.size or end & 7:
            return False
        return self.free_from(before, end) < pending <= self.free_from(self.position, end)

    cdef void set_mask(self) noexcept:
        ring_publish(self.ring.words + WORD_MASK, 1)
        self.masked = True

    def mask(self):
        """No doorbells for now, we are awake."""
        self.ring.check()
        self.set_mask()

    def go_idle(self):
        """Ask for doorbells again; True: still empty, sleep. False: look again first. Raises RingCorruption."""
        self.refuse_what_failed()
        ring_publish(self.ring.words + WORD_MASK, 0)
        self.masked = False
        self.order()
        return self.used() == 0
