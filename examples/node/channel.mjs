// An open channel from the guest's side: packets out through the daemon's window, packets in through ours.

import { Window, encodeMdl, guidBytes, parsePackets } from './wire.mjs';

const WAIT_FOR_COMPLETION = 0x1;
const PACKET_OVERHEAD_BYTES = 64;
const NO_BYTES = new Uint8Array();

/** The channel is gone, and why. */
export class ChannelClosed extends Error {
  name = 'ChannelClosed';
}

export class Channel {
  /** Whether it is a named-pipe channel: payloads that arrive have their exact length, and no external data goes. */
  pipe;

  /** The daemon's first grant: packets and bytes that may be on the way to the host. */
  window;

  /** Rejects when the channel is lost, other than by `close()`; made for Promise.race. */
  lost;

  #connection;
  #number;
  #receive;
  #grant;
  #owed = { packets: 0, bytes: 0 };
  #sending;
  #received = Promise.resolve();
  #lose;
  #isOver = false;

  /**
   * Open an offered channel of a machine, waiting until a host offers it.
   *
   * `receive(packet)` is called for each packet from the host, one after the other. What it returns (bytes, or a
   * promise of bytes) completes the packet, if that asks to be completed.
   */
  static open(connection, machine, { interfaceId, sendPages = 0, receivePages = 0, grant, receive }) {
    return connection.requestThen(
      ([number, , pipe, packets, bytes]) =>
        new Channel(connection, { number, pipe, window: { packets, bytes }, grant, receive }),
      'channel.open',
      machine,
      guidBytes(interfaceId),
      null, // any instance
      true, // wait for the offer
      sendPages,
      receivePages,
      grant.packets,
      grant.bytes,
    );
  }

  constructor(connection, { number, pipe, window, grant, receive }) {
    this.#connection = connection;
    this.#number = number;
    this.pipe = pipe;
    this.window = window;
    this.#grant = grant;
    this.#receive = receive;
    this.#sending = new Window(window.packets, window.bytes);
    this.lost = new Promise((_, reject) => {
      this.#lose = reject;
    });
    this.lost.catch(() => {}); // nobody has to look at it
    connection.channels.set(number, this);
  }

  /** Send bytes in the ring; resolves to the bytes of the host's completion. */
  send(buffer) {
    return this.#request('packet.send', buffer, NO_BYTES);
  }

  /** Send bytes in the ring and, beside them, `byteCount` bytes that stand in `pages` of the machine's memory. */
  sendExternal(buffer, pages, byteCount) {
    const offset = 0;
    return this.#request('packet.send_external_mdl', buffer, encodeMdl(pages, byteCount), offset, byteCount);
  }

  /**
   * Close it, when what has arrived was handled. What is still on the way is lost, in both directions: a guest that
   * wants the host to get its last completions waits for the completion of a packet sent after them.
   */
  async close() {
    await this.#received;
    this.#stop(new ChannelClosed('this guest closed the channel'));
    await this.#connection.request('channel.close', this.#number);
  }

  async #request(method, buffer, mdl, ...rest) {
    await this.#sending.take(buffer.length + mdl.length + PACKET_OVERHEAD_BYTES);
    await this.#connection.unanswered.take(0);
    try {
      const sent = this.#connection.request(method, this.#number, WAIT_FOR_COMPLETION, buffer, mdl, ...rest);
      const [, payload] = await sent; // its status is a success: a failed send is answered with an error
      return payload;
    } finally {
      this.#connection.unanswered.add(1, 0);
    }
  }

  // What the daemon says about this channel.

  onWindow(packets, bytes) {
    this.#sending.add(packets, bytes);
  }

  onPackets(first, run) {
    // One chain of promises keeps the order, however long the receiver takes for one of them.
    for (const packet of parsePackets(run, first, this.pipe)) {
      this.#received = this.#received.then(() => this.#handle(packet));
    }
    this.#received.catch((error) => this.#giveUp(error));
  }

  onClosed(status, reason) {
    this.end(new ChannelClosed(`the channel was closed: ${reason}`));
  }

  /** The channel is lost: by its closing, or with the whole session. */
  end(error) {
    this.#stop(error);
    this.#lose(error);
  }

  async #handle(packet) {
    if (this.#isOver) return;
    const answer = await this.#receive(packet);
    if (this.#isOver) return;
    if (packet.wantsCompletion) {
      this.#connection.notify('packet.complete', this.#number, packet.handle, answer ?? NO_BYTES);
    }
    this.#giveBack(packet.bytes);
  }

  /** Room for more packets; collected, but not beyond half of the first grant, where both sides could come to wait. */
  #giveBack(bytes) {
    this.#owed.packets += 1;
    this.#owed.bytes += bytes;
    if (this.#owed.packets * 2 < this.#grant.packets && this.#owed.bytes * 2 < this.#grant.bytes) return;
    this.#connection.notify('channel.window', this.#number, this.#owed.packets, this.#owed.bytes);
    this.#owed = { packets: 0, bytes: 0 };
  }

  /** The receiver failed. The host must not wait for a completion that will not come. */
  #giveUp(error) {
    if (this.#isOver) return;
    this.end(error);
    this.#connection.request('channel.close', this.#number).catch(() => {});
  }

  #stop(error) {
    this.#isOver = true;
    this.#connection.channels.delete(this.#number);
    this.#sending.close(error);
  }
}
