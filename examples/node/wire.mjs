// The conversation with the daemon: MessagePack-RPC over a Unix stream socket, windows, and the byte layouts.
//
// This file knows the wire protocol (docs/wire-protocol.md) and nothing of what a guest wants. Porting it needs a
// MessagePack library that decodes a stream of values with nothing between them, or one that says where a value ended.

import net from 'node:net';
import { decodeMultiStream, encode } from '@msgpack/msgpack';

const REQUEST = 0;
const RESPONSE = 1;
const NOTIFICATION = 2;
const PROTOCOL_VERSION = 1;
const PAGE_BYTES = 4096;
const NOT_IMPLEMENTED = 0xc0000002;

// A close and the like have to get through while packets wait for their completions.
const RESERVED_REQUESTS = 8;

/** The daemon answered a request with an error; `status` is an NTSTATUS. */
export class RequestFailed extends Error {
  constructor(method, status, message) {
    super(`${method}: ${message || 'failed'} (status 0x${status.toString(16).toUpperCase()})`);
    this.name = 'RequestFailed';
    this.status = status;
  }
}

/** The connection is over: nothing that waits on it will be answered. */
export class SessionEnded extends Error {
  name = 'SessionEnded';
}

/**
 * So many packets and bytes may be on the way. Who wants to send takes from it, and waits, in order, while it is used up.
 */
export class Window {
  #waiting = [];
  #closed = null;

  constructor(packets, bytes) {
    this.packets = packets;
    this.bytes = bytes;
  }

  /** Resolves when a packet of this cost may be sent. The bytes may fall below zero: only the next one has to wait. */
  take(cost) {
    if (this.#closed) return Promise.reject(this.#closed);
    if (this.#waiting.length === 0 && this.#isOpen) {
      this.#spend(cost);
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => this.#waiting.push({ cost, resolve, reject }));
  }

  add(packets, bytes) {
    this.packets += packets;
    this.bytes += bytes;
    while (this.#waiting.length > 0 && this.#isOpen) {
      const { cost, resolve } = this.#waiting.shift();
      this.#spend(cost);
      resolve();
    }
  }

  /** Nobody may send any more; those who wait are told why. */
  close(error) {
    this.#closed ??= error;
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }

  get #isOpen() {
    return this.packets > 0 && this.bytes > 0;
  }

  #spend(cost) {
    this.packets -= 1;
    this.bytes -= cost;
  }
}

/** One session with the daemon. */
export class Connection {
  /** How many packets may wait for their completions at once: the daemon bounds the unanswered requests of a client. */
  unanswered;

  /** Open channels by number. The daemon never gives a number out twice, so what is not in here is late: drop it. */
  channels = new Map();

  #socket;
  #pending = new Map(); // msgid -> { method, accept, resolve, reject }
  #nextMsgid = 0;
  #goodbye = null;
  #ended = null;

  /** Connect to the daemon's socket and say hello. */
  static async open(path, name) {
    const socket = net.createConnection(path);
    await new Promise((resolve, reject) => {
      socket.once('connect', resolve);
      // It stays: a later error reaches the reader as well, but one after the reader's end must not end the program.
      socket.on('error', (error) => reject(new SessionEnded(`no daemon at ${path}: ${error.message}`)));
    });
    const connection = new Connection(socket);
    const [version, , , , , outstanding] = await connection.request('hello', PROTOCOL_VERSION, PROTOCOL_VERSION, name);
    if (version !== PROTOCOL_VERSION) throw new SessionEnded(`the daemon chose version ${version}`);
    connection.unanswered = new Window(outstanding - RESERVED_REQUESTS, Infinity);
    return connection;
  }

  constructor(socket) {
    this.#socket = socket;
    this.#read().then(
      () => this.#end(new SessionEnded(this.#goodbye ?? 'the daemon closed the connection')),
      // A socket that breaks right after the goodbye has said why already.
      (error) => this.#end(error instanceof SessionEnded ? error : new SessionEnded(this.#goodbye ?? `the connection broke: ${error.message}`)),
    );
  }

  /** Resolves to the result's values. */
  request(method, ...params) {
    return this.requestThen((result) => result, method, ...params);
  }

  /**
   * The same, but `accept(result)` makes the value. It runs before the next message is looked at, so that something
   * the result brings into being (a channel) is there for the notification that may come right behind it.
   */
  requestThen(accept, method, ...params) {
    if (this.#ended) return Promise.reject(this.#ended);
    while (this.#pending.has(this.#nextMsgid)) this.#countMsgid();
    const msgid = this.#nextMsgid;
    this.#countMsgid();
    this.#write([REQUEST, msgid, method, params]);
    return new Promise((resolve, reject) => this.#pending.set(msgid, { method, accept, resolve, reject }));
  }

  notify(method, ...params) {
    if (!this.#ended) this.#write([NOTIFICATION, method, params]);
  }

  /** Leave. The daemon then closes, frees and completes whatever this client held. */
  close() {
    this.#end(new SessionEnded('this client left'));
  }

  #write(message) {
    // A Uint8Array becomes a `bin`. Integers of plain numbers become the shortest form; u64 is exact up to 2 ** 53.
    this.#socket.write(encode(message));
  }

  #countMsgid() {
    this.#nextMsgid = (this.#nextMsgid + 1) % 2 ** 32;
  }

  async #read() {
    for await (const message of decodeMultiStream(this.#socket, { maxExtLength: 0 })) {
      if (this.#ended) return;
      this.#dispatch(message);
    }
  }

  #dispatch(message) {
    if (!Array.isArray(message)) throw new SessionEnded('the daemon sent something that is no message');
    const [kind, ...rest] = message;
    if (kind === RESPONSE) this.#onResponse(...rest);
    else if (kind === REQUEST) this.#onRequest(...rest);
    else if (kind === NOTIFICATION) this.#onNotification(...rest);
    else throw new SessionEnded(`the daemon sent a message of kind ${kind}`);
  }

  #onResponse(msgid, error, result) {
    const pending = this.#pending.get(msgid);
    if (!pending) throw new SessionEnded(`the daemon answered request ${msgid}, which nobody made`);
    this.#pending.delete(msgid);
    if (error) pending.reject(new RequestFailed(pending.method, ...error));
    else pending.resolve(pending.accept(result));
  }

  #onRequest(msgid, method) {
    if (method === 'ping') this.#write([RESPONSE, msgid, null, []]);
    else this.#write([RESPONSE, msgid, [NOT_IMPLEMENTED, `this client knows no method ${method}`], null]);
  }

  #onNotification(method, [subject, ...rest]) {
    if (method === 'channel.packets') this.channels.get(subject)?.onPackets(...rest);
    else if (method === 'channel.window') this.channels.get(subject)?.onWindow(...rest);
    else if (method === 'channel.closed') this.channels.get(subject)?.onClosed(...rest);
    else if (method === 'goodbye') this.#goodbye = `the daemon ended the session: ${rest[0]}`;
    // `cancel` can only name a ping, which is answered already. The others are for hosts and TDI clients.
  }

  #end(error) {
    if (this.#ended) return;
    this.#ended = error;
    this.#socket.destroySoon(); // after what is written
    this.unanswered?.close(error);
    for (const channel of this.channels.values()) channel.end(error);
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
  }
}

/** A GUID as text to 16 bytes as Windows stores it: the first three groups little-endian, the rest as written. */
export function guidBytes(text) {
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text)) throw new TypeError(`not a GUID: ${text}`);
  const bytes = Buffer.from(text.replaceAll('-', ''), 'hex');
  bytes.subarray(0, 4).reverse();
  bytes.subarray(4, 6).reverse();
  bytes.subarray(6, 8).reverse();
  return bytes;
}

/** A run of page numbers, u64 each. */
export function parsePages(run) {
  const view = viewOf(run);
  return Array.from({ length: run.length / 8 }, (_, index) => Number(view.getBigUint64(8 * index, true)));
}

/** An MDL chain of one MDL: `byteCount` bytes that begin `byteOffset` bytes into the first of `pages`. */
export function encodeMdl(pages, byteCount, byteOffset = 0) {
  const MDL_PAGES_LOCKED = 0x2;
  const run = new Uint8Array(16 + 8 * pages.length);
  const view = viewOf(run);
  [byteCount, byteOffset, MDL_PAGES_LOCKED, pages.length].forEach((value, index) => view.setUint32(4 * index, value, true));
  pages.forEach((page, index) => view.setBigUint64(16 + 8 * index, BigInt(page), true));
  return run;
}

export const addressOfPage = (page) => page * PAGE_BYTES;
export const pagesFor = (byteCount) => Math.ceil(byteCount / PAGE_BYTES);
export const splitIntoPages = (bytes) =>
  Array.from({ length: pagesFor(bytes.length) }, (_, index) => bytes.subarray(index * PAGE_BYTES, (index + 1) * PAGE_BYTES));

const TRANSFER_PAGES = 7;
const GPA_DIRECT = 9;
const COMPLETION_REQUESTED = 0x1;

/**
 * The packets of a `channel.packets` run, in order.
 *
 * `bytes` is what the packet takes from the window, `payload` is padded with zeros to a multiple of 8 bytes unless
 * `pipe`, and `ranges` says where external data stands in the machine's memory.
 */
export function* parsePackets(run, first, pipe) {
  const view = viewOf(run);
  for (let at = 0, handle = first; at < run.length; handle += 1) {
    const type = view.getUint16(at, true);
    const payloadAt = at + 8 * view.getUint16(at + 2, true);
    const bytes = 8 * view.getUint16(at + 4, true);
    const end = at + bytes;
    if (bytes < 16 || payloadAt < at + 16 || payloadAt > end || end > run.length) {
      throw new SessionEnded(`the packet at byte ${at} of a run is damaged`);
    }
    const asked = (view.getUint16(at + 6, true) & COMPLETION_REQUESTED) !== 0;
    yield {
      handle,
      type,
      bytes,
      transactionId: view.getBigUint64(at + 8, true),
      wantsCompletion: asked || type === GPA_DIRECT,
      payload: pipe ? withoutPipeHeader(run.subarray(payloadAt, end)) : run.subarray(payloadAt, end),
      ranges: type === GPA_DIRECT || type === TRANSFER_PAGES ? parseRanges(view, type, at, payloadAt) : [],
    };
    at = end;
  }
}

/** The payload of a packet on a named-pipe channel, of exact length. */
function withoutPipeHeader(framed) {
  const bytes = framed.length < 8 ? Infinity : viewOf(framed).getUint32(4, true);
  if (bytes > framed.length - 8) throw new SessionEnded('a packet has a damaged pipe header');
  return framed.subarray(8, 8 + bytes);
}

function parseRanges(view, type, packetAt, end) {
  const ranges = [];
  let at = packetAt + 24;
  for (let left = view.getUint32(packetAt + 20, true); left > 0 && at + 8 <= end; left -= 1) {
    const range = { byteCount: view.getUint32(at, true), byteOffset: view.getUint32(at + 4, true), pages: [] };
    at += 8;
    if (type === GPA_DIRECT) {
      for (let page = pagesFor(range.byteOffset + range.byteCount); page > 0 && at + 8 <= end; page -= 1, at += 8) {
        range.pages.push(Number(view.getBigUint64(at, true)));
      }
    }
    ranges.push(range);
  }
  return ranges;
}

const viewOf = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
