# What calls of the compiled ring return, made with as few objects as will do. Part of compiled_ring.pyx.

# Results that can be made beforehand: a single packet's, and those of small batches.
cdef enum:
    READY_RESULTS = 65
cdef list _results = [Sent(count >> 1, bool(count & 1)) for count in range(2 * READY_RESULTS)]


cdef object sent(Py_ssize_t written, bint signal):
    if written < READY_RESULTS:
        return _results[2 * written + signal]
    return Sent(written, signal)


cdef object received(list images, Py_ssize_t byte_count, bint signal, bint empty):
    # What Received(...) does, without the detour through its argument parsing.
    cdef object result = (<PyTypeObject *> Received).tp_alloc(<PyTypeObject *> Received, 4)
    fill_received(result, images, byte_count, signal, empty)
    return result


cdef inline void fill_received(object result, list images, Py_ssize_t byte_count, bint signal, bint empty) noexcept:
    """The four fields of a Received that nobody else has seen."""
    fill(result, 0, images)
    fill(result, 1, byte_count)
    fill(result, 2, signal)
    fill(result, 3, empty)


cdef inline void fill(object result, Py_ssize_t index, object value) noexcept:
    """Put a value into a tuple that nobody else has seen."""
    cdef PyObject *before = PyTuple_GET_ITEM(result, index)
    Py_INCREF(value)
    PyTuple_SET_ITEM(result, index, value)
    Py_XDECREF(before)
