import assert from 'node:assert/strict';
import { test } from 'node:test';

import { health, isUsable, places, readPool, room, standing, who } from '../src/widget/pool';

const ME = { holder_id: 'me.1', name: 'a.ipynb', mode: 'shared', since: 0, state: 'held' };
const POOL = readPool([
  { comfy_id: 'gpu-1', capacity: 2, health: 'ok', holders: [ME, { ...ME, holder_id: 'b.1' }] },
  { comfy_id: 'gpu-2', capacity: 4, health: 'ok', holders: [{ ...ME, holder_id: 'c.1', mode: 'exclusive' }] },
  { comfy_id: 'gpu-3', capacity: 4, health: 'unreachable', reason: 'no answer' },
  { comfy_id: 'gpu-4', capacity: 4, health: 'ok', state: 'draining', state_by: 'ann', state_why: 'driver' },
  'nonsense'
]);

test('how much room there is', () => {
  assert.deepEqual(POOL.map(room), ['full', 'held exclusively', '4 of 4 free', '4 of 4 free', 'full']);
  assert.deepEqual(POOL.map(places), [0, 0, 4, 4, 0]);
});

test('how it does, and who closed it', () => {
  assert.deepEqual(POOL.slice(0, 4).map(health), [
    'ok',
    'ok',
    'unreachable: no answer',
    'ok, draining by ann: driver'
  ]);
  assert.deepEqual(POOL.map(isUsable), [true, true, false, false, false]);
});

test('who holds one is known by its id; one that drains is no more its own', () => {
  assert.equal(standing(POOL, 'me.1').mine?.server.comfyId, 'gpu-1');
  assert.equal(standing(POOL, 'x').mine, null);
  const draining = readPool([{ comfy_id: 'gpu-1', holders: [{ ...ME, state: 'draining' }] }]);
  assert.equal(standing(draining, 'me.1').mine, null);
});

test('holders are told by name, and this notebook as such', () => {
  const [mine, other] = POOL[0]?.holders ?? [];
  assert.ok(mine && other);
  assert.equal(who(mine, 'me.1'), 'this notebook');
  assert.equal(who({ ...other, mode: 'exclusive', state: 'draining' }, 'me.1'), 'a.ipynb (exclusively, leaving)');
});
