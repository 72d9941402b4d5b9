import assert from 'node:assert/strict';
import { test } from 'node:test';

import { parsePool } from '../src/rest';

const HOLDER = {
  holder_id: 'k.1',
  name: 'a.ipynb',
  mode: 'shared',
  since: 5
};
const SERVER = {
  comfy_id: 'gpu-1',
  url: 'http://127.0.0.1:8188',
  health: 'ok',
  reason: null,
  version: '0.3.75',
  queue_remaining: 2,
  holders: [HOLDER]
};

test('a pool is read as it was promised', () => {
  assert.deepEqual(parsePool({ servers: [SERVER] }), [
    {
      comfyId: 'gpu-1',
      url: 'http://127.0.0.1:8188',
      health: 'ok',
      reason: null,
      version: '0.3.75',
      queueRemaining: 2,
      holders: [
        {
          holderId: 'k.1',
          name: 'a.ipynb',
          mode: 'shared',
          since: 5,
          state: 'held'
        }
      ],
      state: 'open',
      stateBy: null,
      stateWhy: null,
      waiting: []
    }
  ]);
});

test('who closed it, who waits and who drains are read where they are told', () => {
  const [server] = parsePool({
    servers: [
      {
        ...SERVER,
        holders: [{ ...HOLDER, state: 'draining' }],
        state: 'disabled',
        state_by: 'ann',
        state_why: 'new driver',
        waiting: [{ ...HOLDER, name: 'b.ipynb', place: 1 }]
      }
    ]
  });
  assert.ok(server);
  assert.equal(server.holders[0]?.state, 'draining');
  assert.deepEqual(
    [server.state, server.stateBy, server.stateWhy],
    ['disabled', 'ann', 'new driver']
  );
  assert.deepEqual(server.waiting, [
    { holderId: 'k.1', name: 'b.ipynb', mode: 'shared', place: 1 }
  ]);
});

for (const [data, message] of [
  [null, 'The server sent null for the answer, not an object'],
  [{}, 'The server sent nothing for servers, not a list'],
  [
    { servers: [SERVER, { ...SERVER, comfy_id: 3 }] },
    'The server sent 3 for servers[1].comfy_id, not a string'
  ],
  [
    { servers: [{ ...SERVER, holders: [{ ...HOLDER, since: '5' }] }] },
    'The server sent "5" for servers[0].holders[0].since, not a number'
  ],
  [
    { servers: [{ ...SERVER, queue_remaining: undefined }] },
    'The server sent nothing for servers[0].queue_remaining, not a number'
  ],
  [
    { servers: [{ ...SERVER, state: 3 }] },
    'The server sent 3 for servers[0].state, not a string'
  ],
  [
    { servers: [{ ...SERVER, waiting: [{ ...HOLDER, place: '1' }] }] },
    'The server sent "1" for servers[0].waiting[0].place, not a number'
  ]
] as const) {
  test(`a broken promise is named: ${message}`, () => {
    assert.throws(() => parsePool(data), { message });
  });
}
