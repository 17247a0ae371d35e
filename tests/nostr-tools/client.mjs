// The relay as clients built with nostr-tools see it: publish, query, subscribe, count, authenticate, private messages; with compression
// and without. Started by run.sh, which says where the relay is.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { after, before, describe, test } from 'node:test'

import { AbstractRelay } from 'nostr-tools/abstract-relay'
import { SimplePool, useWebSocketImplementation } from 'nostr-tools/pool'
import { finalizeEvent, generateSecretKey, getPublicKey, verifyEvent } from 'nostr-tools/pure'
import * as nip11 from 'nostr-tools/nip11'
import * as nip17 from 'nostr-tools/nip17'
import * as nip59 from 'nostr-tools/nip59'
import WebSocket from 'ws'

// Nothing here takes as long; what waits for this has failed.
const PATIENCE = 60_000

class Compressed extends WebSocket {
  constructor(url) {
    super(url, { perMessageDeflate: { threshold: 0 } })
  }
}

class Plain extends WebSocket {
  constructor(url) {
    super(url, { perMessageDeflate: false })
  }
}

const now = () => Math.floor(Date.now() / 1000)

function someone() {
  const secret = generateSecretKey()
  const sign = (kind, content, tags = [], created_at = now()) => finalizeEvent({ kind, content, tags, created_at }, secret)
  return { secret, pubkey: getPublicKey(secret), sign }
}

const ids = events => events.map(event => event.id).sort()

let url
let child
let folder

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'ratite-'))
  child = spawn(process.env.RATITE, ['--listen', '127.0.0.1:0', '--data', join(folder, 'data')], {
    cwd: folder,
    env: { RUST_LOG: 'warn' },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  url = await new Promise((resolve, reject) => {
    child.once('exit', code => reject(new Error(`the relay ended with ${code}`)))
    createInterface({ input: child.stdout }).on('line', line => {
      const found = line.match(/ws:\/\/[0-9.:]+/)
      if (found) resolve(found[0])
    })
  })
})

after(async () => {
  const ended = new Promise(resolve => child.once('exit', resolve))
  child.kill('SIGTERM')
  assert.equal(await ended, 0, 'the relay stops cleanly')
  rmSync(folder, { recursive: true })
})

for (const Socket of [Compressed, Plain]) {
  describe(Socket.name.toLowerCase(), () => {
    async function connect() {
      const relay = new AbstractRelay(url, { verifyEvent, websocketImplementation: Socket })
      Object.assign(relay, { baseEoseTimeout: PATIENCE, publishTimeout: PATIENCE })
      await relay.connect({ timeout: PATIENCE })
      assert.equal(relay.ws.extensions.includes('permessage-deflate'), Socket === Compressed)
      return relay
    }

    // What the relay has stored, up to EOSE; what it says instead is thrown.
    function query(relay, ...filters) {
      return new Promise((resolve, reject) => {
        const events = []
        const sub = relay.subscribe(filters, {
          onevent: event => events.push(event),
          oninvalidevent: event => reject(new Error(`not asked for, or forged: ${JSON.stringify(event)}`)),
          oneose: () => {
            resolve(events)
            sub.close()
          },
          onclose: reason => {
            // It waits on for an EOSE otherwise, and so does the test's process.
            clearTimeout(sub.eoseTimeoutHandle)
            reject(new Error(reason))
          },
        })
      })
    }

    // A subscription that has reached its EOSE, and the events that come after it, one by one.
    async function listen(relay, ...filters) {
      const events = []
      let waiting
      await new Promise((resolve, reject) =>
        relay.subscribe(filters, {
          onevent: event => (waiting ? waiting(event) : events.push(event)),
          oneose: resolve,
          onclose: reason => reject(new Error(reason)),
        }),
      )
      events.length = 0
      return () =>
        new Promise(resolve => {
          if (events.length > 0) return resolve(events.shift())
          waiting = event => {
            waiting = undefined
            resolve(event)
          }
        })
    }

    const signer = user => async template => finalizeEvent(template, user.secret)

    test('publish and query', { timeout: PATIENCE }, async () => {
      const relay = await connect()
      const user = someone()
      const note = user.sign(1, 'hello \u{1f426} "quoted"\n\u0000\u007f\u2028', [['t', 'ratite'], ['r', 'https://a/?b=1&c']])
      assert.equal(await relay.publish(note), '')
      assert.match(await relay.publish(note), /^duplicate: /)
      const other = user.sign(1111, 'another kind', [['t', 'other']], now() - 100)
      await relay.publish(other)
      for (const filter of [
        { ids: [note.id] },
        { authors: [user.pubkey], kinds: [1] },
        { authors: [user.pubkey], '#t': ['ratite'] },
        { authors: [user.pubkey], '#r': ['https://a/?b=1&c', 'x'] },
        { authors: [user.pubkey], since: note.created_at },
        { authors: [user.pubkey], limit: 1 },
      ]) {
        const [found, ...rest] = await query(relay, filter)
        delete found[Object.getOwnPropertySymbols(found)[0]]
        assert.deepEqual([found, rest], [JSON.parse(JSON.stringify(note)), []], JSON.stringify(filter))
      }
      assert.deepEqual((await query(relay, { authors: [user.pubkey] })).map(event => event.id), [note.id, other.id])
      assert.deepEqual(ids(await query(relay, { ids: [note.id] }, { ids: [other.id, note.id] })), ids([note, other]))
      await assert.rejects(relay.publish({ ...note, content: 'forged' }), /^Error: invalid: /)
      await assert.rejects(relay.publish(user.sign(1, 'from tomorrow', [], now() + 86_400)), /^Error: invalid: /)
      await assert.rejects(query(relay, { search: 'bird' }), /^Error: unsupported: /)
      relay.close()
    })

    test('hundreds of events come back whole', { timeout: PATIENCE }, async () => {
      const relay = await connect()
      const [user, newest] = [someone(), now()]
      const events = Array.from({ length: 300 }, (_, n) =>
        user.sign(1, `good morning nostr, this is note ${n} `.repeat(1 + (n % 40)), [['t', `${n % 7}`]], newest - n),
      )
      await Promise.all(events.map(event => relay.publish(event)))
      const found = await query(relay, { authors: [user.pubkey], limit: 500 })
      assert.deepEqual(found.map(event => event.id), events.map(event => event.id), 'newest first')
      assert.equal((await query(relay, { authors: [user.pubkey], '#t': ['3'] })).length, 43)
      relay.close()
    })

    test('replace and delete', { timeout: PATIENCE }, async () => {
      const relay = await connect()
      const user = someone()
      const versions = [user.sign(0, '{"name":"old"}', [], now() - 10), user.sign(0, '{"name":"new"}')]
      for (const version of versions) await relay.publish(version)
      assert.deepEqual(ids(await query(relay, { kinds: [0], authors: [user.pubkey] })), [versions[1].id])
      const note = user.sign(1, 'a mistake')
      await relay.publish(note)
      await relay.publish(user.sign(5, '', [['e', note.id]]))
      assert.deepEqual(await query(relay, { ids: [note.id] }), [])
      await assert.rejects(relay.publish(note), /^Error: blocked: /)
      relay.close()
    })

    test('subscribe', { timeout: PATIENCE }, async () => {
      const [reader, writer] = [await connect(), await connect()]
      const user = someone()
      const next = await listen(reader, { authors: [user.pubkey], kinds: [1, 20_001] })
      for (const [kind, content] of [
        [1, 'short'],
        [1, 'long '.repeat(5000)],
        [20_001, 'now or never'],
      ]) {
        const event = user.sign(kind, content)
        await writer.publish(user.sign(7, 'not asked for'))
        await writer.publish(event)
        assert.equal((await next()).id, event.id)
      }
      assert.deepEqual(await query(reader, { authors: [user.pubkey], kinds: [20_001] }), [], 'it is not stored')
      reader.close()
      writer.close()
    })

    test('count', { timeout: PATIENCE }, async () => {
      const relay = await connect()
      const [author, ...fans] = [someone(), someone(), someone(), someone()]
      const note = author.sign(1, 'like this')
      await relay.publish(note)
      for (const fan of fans) await relay.publish(fan.sign(7, '+', [['e', note.id]]))
      assert.equal(await relay.count([{ kinds: [1], authors: [author.pubkey] }]), 1)
      const { count, hll } = await relay.countWithHLL([{ kinds: [7], '#e': [note.id] }])
      assert.equal(count, 3)
      assert.match(hll, /^[0-9a-f]{512}$/)
      assert.equal(await relay.count([{ authors: [someone().pubkey] }]), 0)
      relay.close()
    })

    test('authenticate', { timeout: PATIENCE }, async () => {
      const relay = await connect()
      const user = someone()
      const mine = user.sign(1, 'nobody else may publish this', [['-']])
      await assert.rejects(relay.publish(mine), /^Error: auth-required: /)
      // The challenge came with that.
      assert.equal(await relay.auth(signer(user)), '')
      assert.equal(await relay.publish(mine), '')
      await assert.rejects(relay.publish(someone().sign(1, 'not theirs', [['-']])), /^Error: restricted: /)
      relay.close()
      const other = await connect()
      await assert.rejects(other.publish(user.sign(1, 'again', [['-']])), /^Error: auth-required: /)
      await assert.rejects(
        other.auth(async template => finalizeEvent({ ...template, tags: [['relay', url], ['challenge', 'another']] }, user.secret)),
        /^Error: invalid: /,
      )
      other.close()
    })

    test('gift wraps', { timeout: PATIENCE }, async () => {
      const [sender, receiver, stranger] = [await connect(), await connect(), await connect()]
      const [alice, bob, carol] = [someone(), someone(), someone()]
      const [toBob, toAlice] = nip17.wrapManyEvents(alice.secret, [{ publicKey: bob.pubkey }], 'for bob alone').reverse()
      const wraps = [toBob, toAlice]
      for (const wrap of wraps) await sender.publish(wrap)
      const inbox = { kinds: [1059], '#p': [bob.pubkey] }
      const bobs = wraps.filter(wrap => wrap.tags.some(tag => tag[1] === bob.pubkey))
      assert.equal(bobs.length, 1)

      for (const relay of [receiver, stranger]) await assert.rejects(query(relay, inbox), /^Error: auth-required: /)
      await assert.rejects(receiver.count([inbox]), /^Error: auth-required: /)
      await receiver.auth(signer(bob))
      await stranger.auth(signer(carol))

      const found = await query(receiver, inbox)
      assert.deepEqual(ids(found), ids(bobs))
      assert.equal(nip17.unwrapEvent(found[0], bob.secret).content, 'for bob alone')
      assert.equal(await receiver.count([inbox]), 1)
      assert.deepEqual(await query(stranger, inbox), [])
      assert.deepEqual(await query(stranger, { ids: ids(bobs) }), [])
      assert.equal(await stranger.count([inbox]), 0)

      // Live, dated back as wraps are; and the one that is not stored.
      const [hears, overhears] = [await listen(receiver, inbox, { kinds: [21_059] }), await listen(stranger, {})]
      const late = nip59.wrapEvent({ kind: 14, content: 'late' }, alice.secret, bob.pubkey)
      const fleeting = someone().sign(21_059, 'sealed', [['p', bob.pubkey]])
      for (const wrap of [late, fleeting]) {
        await sender.publish(wrap)
        assert.equal((await hears()).id, wrap.id)
      }
      // Delivered in order: when the stranger hears this, nothing that went before is for them.
      const publicNote = alice.sign(1, 'for all')
      await sender.publish(publicNote)
      assert.equal((await overhears()).id, publicNote.id)

      // The receiver may delete it.
      await receiver.publish(bob.sign(5, '', [['e', late.id]]))
      assert.deepEqual(ids(await query(receiver, inbox)), ids(bobs))
      for (const relay of [sender, receiver, stranger]) relay.close()
    })

    test('a pool of relays, as clients use it', { timeout: PATIENCE }, async () => {
      useWebSocketImplementation(Socket)
      const pool = new SimplePool()
      const user = someone()
      const events = [user.sign(1, 'one', [], now() - 1), user.sign(1, 'two')]
      for (const event of events) await Promise.all(pool.publish([url], event))
      const found = await pool.querySync([url], { authors: [user.pubkey] }, { maxWait: PATIENCE })
      assert.deepEqual(ids(found), ids(events))
      assert.equal((await pool.get([url], { ids: [events[0].id] })).content, 'one')
      pool.close([url])
    })
  })
}

test('the information document', async () => {
  const document = await nip11.fetchRelayInformation(url)
  for (const nip of [1, 9, 11, 40, 42, 45, 59, 62, 70]) assert.ok(document.supported_nips.includes(nip), `NIP-${nip}`)
})
