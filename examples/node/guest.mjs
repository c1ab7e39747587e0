// A guest of one machine: opens a channel, sends packets and external data, answers the host's packets, and leaves.
//
//   node guest.mjs --socket /tmp/vmbusd.sock --machine vm1 --interface 5f1d2b6c-7f10-4b6e-9c53-0e6d0c5a0002
//
// README.md says what the host at the other end has to do.

import { createHash } from 'node:crypto';
import { parseArgs } from 'node:util';
import { Channel } from './channel.mjs';
import { Connection, addressOfPage, pagesFor, parsePages, splitIntoPages } from './wire.mjs';

const options = parseArgs({
  options: {
    socket: { type: 'string', default: process.env.VMBUS_SOCKET },
    machine: { type: 'string', default: 'vm1' },
    interface: { type: 'string' },
    packets: { type: 'string', default: '2000' }, // how many to have on the way at once
    'ring-pages': { type: 'string', default: '0' }, // 0: as the daemon likes
    bytes: { type: 'string', default: '100000' }, // of external data
    receive: { type: 'string', default: '100' }, // how many packets to ask the host for
  },
}).values;

/** Stop with a sentence when what came back is not what had to come. */
function check(condition, message) {
  if (!condition) throw new Error(message);
}

const say = (line) => process.stdout.write(`${line}\n`);
const text = (bytes) => Buffer.from(bytes).toString().replace(/\0+$/, ''); // a ring pads with zeros

/** One packet in the ring, one completion. */
async function greet(channel) {
  const answer = await channel.send(Buffer.from('echo hello from node'));
  check(text(answer) === 'echo hello from node', `the greeting was answered with ${JSON.stringify(text(answer))}`);
  say('greeted');
}

/** Bytes in the machine's memory, described to the host by an MDL: the host reads them there, and answers a digest. */
async function sendExternalData(connection, machine, channel) {
  const payload = Buffer.from(Array.from({ length: Number(options.bytes) }, (_, index) => (index * 31 + 7) % 251));
  const [run] = await connection.request('memory.allocate', machine, pagesFor(payload.length));
  const pages = parsePages(run);
  // Pages need not be neighbours, so each is written by itself; a client that maps the memory would just copy.
  for (const [index, piece] of splitIntoPages(payload).entries()) {
    await connection.request('memory.write', machine, addressOfPage(pages[index]), piece);
  }
  const digest = await channel.sendExternal(Buffer.from('sha256'), pages, payload.length);
  const expected = createHash('sha256').update(payload).digest();
  check(expected.equals(digest), `the host read other bytes: its SHA-256 is ${Buffer.from(digest).toString('hex')}`);
  await connection.request('memory.free', machine, run);
  say(`external data ${payload.length}`);
}

/** Many at once: those beyond the daemon's window wait here, in order, until it gives room. */
async function sendMany(channel) {
  const count = Number(options.packets);
  const send = async (number) => {
    const packet = Buffer.alloc(16);
    packet.write('echo');
    packet.writeUInt32LE(number, 8);
    check(packet.equals(await channel.send(packet)), `packet ${number} came back changed`);
  };
  await Promise.all(Array.from({ length: count }, (_, number) => send(number)));
  say(`completed ${count}`);
}

/** Ask the host for packets and wait until all of them are here; `arrived` counts them. */
async function receiveMany(channel, arrived) {
  const request = Buffer.alloc(16);
  request.write('send');
  request.writeUInt32LE(arrived.wanted, 8);
  await channel.send(request);
  await arrived.all;
  await channel.send(Buffer.from('echo have it')); // our completions are before this packet in the ring
  say(`received ${arrived.count}, completed ${arrived.completed}`);
}

/** Counts the host's packets, checks that they are in order, and answers each with its bytes reversed. */
function countArrivals(wanted) {
  const arrived = { wanted, count: 0, completed: 0 };
  const done = {};
  arrived.all = new Promise((resolve) => Object.assign(done, { resolve }));
  if (wanted === 0) done.resolve();
  arrived.receive = (packet) => {
    const number = Buffer.from(packet.payload).readUInt32LE(0);
    check(number === arrived.count, `packet ${number} of the host came where ${arrived.count} was due`);
    arrived.count += 1;
    if (packet.wantsCompletion) arrived.completed += 1;
    if (arrived.count === wanted) done.resolve();
    return Buffer.from(packet.payload).reverse();
  };
  return arrived;
}

async function main() {
  check(options.socket, 'say where the daemon is: --socket PATH, or VMBUS_SOCKET');
  check(options.interface, 'say what to open: --interface GUID');
  const connection = await Connection.open(options.socket, 'node guest');
  try {
    const mapMemory = false; // a descriptor cannot be received with Node's own modules
    const [machine] = await connection.request('machine.attach', options.machine, mapMemory);
    say('waiting for the offer');
    const arrived = countArrivals(Number(options.receive));
    const channel = await Channel.open(connection, machine, {
      interfaceId: options.interface,
      sendPages: Number(options['ring-pages']),
      receivePages: Number(options['ring-pages']),
      grant: { packets: 8, bytes: 4096 },
      receive: arrived.receive,
    });
    const { packets, bytes } = channel.window;
    say(`opened ${channel.pipe ? 'named-pipe' : 'packet'} channel, window ${packets} packets, ${bytes} bytes`);
    const work = async () => {
      await greet(channel);
      if (!channel.pipe) await sendExternalData(connection, machine, channel); // a named pipe carries none
      await sendMany(channel);
      await receiveMany(channel, arrived);
      await channel.close();
    };
    await Promise.race([work(), channel.lost]);
    say('closed');
  } finally {
    connection.close();
  }
}

main().catch((error) => {
  process.stderr.write(`guest: ${error.message}\n`);
  process.exitCode = 1;
});
