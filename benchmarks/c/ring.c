/* The limit the rings of the project are measured against: a plain single-producer, single-consumer ring in C with an
 * eventfd to wake a sleeping reader. It trusts its peer and checks nothing that is not needed to move bytes.
 *
 *   ring local  BYTES COUNT        put and get in turn, in one thread: ns for each packet
 *   ring batch  BYTES COUNT        the same, 32 puts with one publication, 32 gets with one
 *   ring stream BYTES COUNT        two processes, one way, 32 puts to a publication: ns for each packet
 *   ring trip   BYTES COUNT        two processes, there and back, both asleep in between: ns for each trip
 *
 * A record is its length in 8 bytes, then the bytes, padded to 8. Indices count up and are masked when used. */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 64 * 1024, BATCH = 32, LARGEST = 8192 };

struct shared {
    _Atomic uint64_t in;
    _Atomic uint64_t out;
    _Atomic uint32_t awake;    /* the reader looks by itself: no doorbell */
    _Atomic uint32_t blocked;  /* the writer waits for room */
    unsigned char data[SIZE];
};

struct ring {
    struct shared *shared;
    uint64_t position;  /* our own index */
    int reader_bell, writer_bell;
};

static unsigned char payload[LARGEST], sink[LARGEST];

static void move(unsigned char *to, const unsigned char *from, size_t count)
{
    memcpy(to, from, count);
}

/* Write one record behind those not yet published; 0 when there is no room. */
static int put(struct ring *ring, uint64_t bytes, uint64_t unpublished)
{
    uint64_t total = 8 + ((bytes + 7) & ~7ull);
    uint64_t at = ring->position + unpublished;
    uint64_t out = atomic_load_explicit(&ring->shared->out, memory_order_acquire);
    if (SIZE - (at - out) < total)
        return 0;
    unsigned char *data = ring->shared->data;
    memcpy(data + (at & (SIZE - 1)), &bytes, 8);
    uint64_t start = (at + 8) & (SIZE - 1), first = SIZE - start;
    if (bytes <= first) {
        move(data + start, payload, bytes);
    } else {
        move(data + start, payload, first);
        move(data, payload + first, bytes - first);
    }
    return (int)total;
}

/* Let the reader see `total` bytes more; whether it has to be woken. */
static int publish(struct ring *ring, uint64_t total)
{
    uint64_t before = ring->position;
    ring->position += total;
    atomic_store_explicit(&ring->shared->in, ring->position, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    return !atomic_load_explicit(&ring->shared->awake, memory_order_relaxed) &&
           atomic_load_explicit(&ring->shared->out, memory_order_relaxed) == before;
}

/* Copy one record out, `taken` bytes behind the index; 0 when there is none. */
static int get(struct ring *ring, uint64_t taken)
{
    uint64_t at = ring->position + taken;
    if (atomic_load_explicit(&ring->shared->in, memory_order_acquire) == at)
        return 0;
    unsigned char *data = ring->shared->data;
    uint64_t bytes;
    memcpy(&bytes, data + (at & (SIZE - 1)), 8);
    uint64_t start = (at + 8) & (SIZE - 1), first = SIZE - start;
    if (bytes <= first) {
        move(sink, data + start, bytes);
    } else {
        move(sink, data + start, first);
        move(sink + first, data, bytes - first);
    }
    return (int)(8 + ((bytes + 7) & ~7ull));
}

/* Give `total` bytes of room back; whether a blocked writer has to be woken. */
static int consume(struct ring *ring, uint64_t total)
{
    ring->position += total;
    atomic_store_explicit(&ring->shared->out, ring->position, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    return atomic_load_explicit(&ring->shared->blocked, memory_order_relaxed) != 0;
}

static void ring_bell(int bell)
{
    uint64_t one = 1;
    if (write(bell, &one, 8) != 8)
        abort();
}

static void sleep_on(int bell)
{
    uint64_t count;
    if (read(bell, &count, 8) != 8)
        abort();
}

static struct ring make_ring(void)
{
    struct ring ring = {0};
    ring.shared = mmap(NULL, sizeof *ring.shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ring.reader_bell = eventfd(0, 0);
    ring.writer_bell = eventfd(0, 0);
    if (ring.shared == MAP_FAILED || ring.reader_bell < 0 || ring.writer_bell < 0)
        abort();
    return ring;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

static double local(uint64_t bytes, long count, long batch)
{
    struct ring writer = make_ring(), reader = writer;
    long rung = 0;
    double began = now();
    for (long done = 0; done < count; done += batch) {
        uint64_t total = 0, taken = 0;
        for (long index = 0; index < batch; index++)
            total += put(&writer, bytes, total);
        rung += publish(&writer, total);
        for (long index = 0; index < batch; index++)
            taken += get(&reader, taken);
        rung += consume(&reader, taken);
        if (taken != total)
            abort();
    }
    double nanoseconds = now() - began;
    if (rung == 0)
        abort();
    return nanoseconds / count;
}

/* Take what is there, up to a batch; sleep when there is nothing. */
static long receive(struct ring *ring)
{
    for (;;) {
        uint64_t taken = 0;
        long count = 0;
        int step;
        while (count < BATCH && (step = get(ring, taken))) {
            taken += step;
            count++;
        }
        if (count) {
            atomic_store_explicit(&ring->shared->awake, 1, memory_order_relaxed);
            if (consume(ring, taken))
                ring_bell(ring->writer_bell);
            return count;
        }
        atomic_store_explicit(&ring->shared->awake, 0, memory_order_relaxed);
        atomic_thread_fence(memory_order_seq_cst);
        if (atomic_load_explicit(&ring->shared->in, memory_order_acquire) == ring->position)
            sleep_on(ring->reader_bell);
    }
}

/* Send `count` records, up to a batch to a publication; sleep while there is no room. */
static void send_all(struct ring *ring, uint64_t bytes, long count)
{
    while (count) {
        uint64_t total = 0;
        long batch = 0;
        int step;
        while (batch < BATCH && batch < count && (step = put(ring, bytes, total))) {
            total += step;
            batch++;
        }
        if (total) {
            count -= batch;
            if (publish(ring, total))
                ring_bell(ring->reader_bell);
            continue;
        }
        atomic_store_explicit(&ring->shared->blocked, 1, memory_order_relaxed);
        atomic_thread_fence(memory_order_seq_cst);
        if (!put(ring, bytes, 0))
            sleep_on(ring->writer_bell);
        atomic_store_explicit(&ring->shared->blocked, 0, memory_order_relaxed);
    }
}

static double stream(uint64_t bytes, long count)
{
    struct ring ring = make_ring();
    if (fork() == 0) {
        send_all(&ring, bytes, count);
        _exit(0);
    }
    double began = 0;
    for (long left = count; left > 0;) {
        left -= receive(&ring);
        if (!began)
            began = now();
    }
    double nanoseconds = now() - began;
    wait(NULL);
    return nanoseconds / count;
}

static double trip(uint64_t bytes, long count)
{
    struct ring there = make_ring(), back = make_ring();
    if (fork() == 0) {
        for (long left = count; left > 0;) {
            long got = receive(&there);
            send_all(&back, bytes, got);
            left -= got;
        }
        _exit(0);
    }
    double began = now();
    for (long left = count; left > 0; left--) {
        send_all(&there, bytes, 1);
        receive(&back);
    }
    double nanoseconds = now() - began;
    wait(NULL);
    return nanoseconds / count;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    uint64_t bytes = strtoull(argv[2], NULL, 10);
    long count = strtol(argv[3], NULL, 10) / BATCH * BATCH;
    if (bytes > LARGEST || count <= 0)
        return 2;
    double result;
    if (!strcmp(argv[1], "local"))
        result = local(bytes, count, 1);
    else if (!strcmp(argv[1], "batch"))
        result = local(bytes, count, bytes > 1800 ? 1 : BATCH);
    else if (!strcmp(argv[1], "stream"))
        result = stream(bytes, count);
    else if (!strcmp(argv[1], "trip"))
        result = trip(bytes, count);
    else
        return 2;
    printf("%.3f\n", result);
    return 0;
}
