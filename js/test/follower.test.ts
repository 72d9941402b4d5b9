import assert from 'node:assert/strict';
import { beforeEach, mock, test } from 'node:test';

import { AWAY_MS, Follower, QUIET_MS } from '../src/widget/follower';
import { isLive, newest, readTask } from '../src/widget/task';
import type { Task } from '../src/widget/task';

function task(state: string, id = 't'): Task {
  const read = readTask({ task_id: id, state });
  assert.ok(read);
  return read;
}

/** A Jupyter server that answers when the test says so, and a follower that asks it. */
class Scene {
  readonly life = new AbortController();
  readonly drawn: string[] = [];
  readonly asked: string[] = [];
  answer: () => Promise<Task | null> = () => Promise.resolve(null);
  readonly follower: Follower;

  constructor({ server = true } = {}) {
    const ask = (id: string) => {
      this.asked.push(id);
      return this.answer();
    };
    this.follower = new Follower(
      server ? ask : null,
      () => this.drawn.push(this.follower.task?.state ?? ''),
      this.life.signal
    );
  }

  tells(state: string): void {
    this.answer = () => Promise.resolve(task(state));
  }

  /** Let `ms` pass, and what was asked then be answered. */
  async pass(ms: number): Promise<void> {
    mock.timers.tick(ms);
    await new Promise(resolve => setImmediate(resolve));
  }
}

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ['setTimeout'] });
});

test('a kernel that says nothing for a while has the Jupyter server asked until the end', async () => {
  const scene = new Scene();
  scene.follower.hear(task('running'));
  scene.tells('running');
  await scene.pass(QUIET_MS - 1);
  assert.deepEqual(scene.asked, []);
  await scene.pass(1);
  assert.deepEqual(scene.asked, ['t']);
  scene.tells('cancelled');
  await scene.pass(QUIET_MS);
  assert.deepEqual(scene.drawn, ['running', 'running', 'cancelled']);
  await scene.pass(10 * QUIET_MS);
  await scene.follower.look();
  assert.equal(scene.asked.length, 2);
});

test('nobody is asked while the kernel talks', async () => {
  const scene = new Scene();
  for (let n = 0; n < 5; n++) {
    scene.follower.hear(task('running'));
    await scene.pass(QUIET_MS - 1);
  }
  assert.deepEqual(scene.asked, []);
});

for (const [what, state] of [
  ['a task that has ended', 'succeeded'],
  ['no task', null]
] as const) {
  test(`nobody is asked about ${what}`, async () => {
    const scene = new Scene();
    scene.follower.hear(state === null ? null : task(state));
    await scene.pass(10 * QUIET_MS);
    await scene.follower.look();
    assert.deepEqual(scene.asked, []);
  });
}

test('nobody is asked where there is no Jupyter server', async () => {
  const scene = new Scene({ server: false });
  scene.follower.hear(task('running'));
  await scene.pass(10 * QUIET_MS);
  await scene.follower.look();
  assert.deepEqual(scene.drawn, ['running']);
});

test('a view that is gone asks and draws no more', async () => {
  const scene = new Scene();
  const before = new Scene();
  before.follower.hear(task('running'));
  before.life.abort();
  await before.pass(10 * QUIET_MS);
  assert.deepEqual(before.asked, []);
  scene.follower.hear(task('running'));
  scene.answer = () => {
    scene.life.abort();
    return Promise.resolve(task('cancelled'));
  };
  await scene.pass(QUIET_MS);
  await scene.pass(10 * QUIET_MS);
  assert.deepEqual(scene.drawn, ['running']);
  assert.equal(scene.asked.length, 1);
});

test('what the Jupyter server does not know is not shown as running, until the kernel speaks', async () => {
  const scene = new Scene();
  scene.follower.hear(task('running'));
  await scene.pass(QUIET_MS);
  assert.equal(scene.drawn.at(-1), 'unknown to the Jupyter server');
  assert.ok(scene.follower.task && !isLive(scene.follower.task));
  await scene.pass(10 * QUIET_MS);
  assert.equal(scene.asked.length, 1);
  scene.follower.hear(task('running'));
  assert.equal(scene.drawn.at(-1), 'running');
});

test('an answer that the kernel overtook is dropped, unless it is the end', async () => {
  for (const [told, shown] of [
    ['queued', 'running'],
    ['running', 'running'],
    [null, 'running'],
    ['cancelled', 'cancelled']
  ] as const) {
    const scene = new Scene();
    scene.follower.hear(task('queued'));
    scene.answer = () => {
      scene.follower.hear(task('running'));
      return Promise.resolve(told === null ? null : task(told));
    };
    await scene.follower.look();
    assert.equal(scene.follower.task?.state, shown);
  }
});

test('an end is never taken back', async () => {
  const scene = new Scene();
  scene.follower.hear(task('running'));
  scene.tells('cancelled');
  await scene.follower.look();
  scene.follower.hear(task('running'));
  assert.equal(scene.follower.task?.state, 'cancelled');
  // The answer was on its way when the kernel told the end.
  const other = new Scene();
  other.follower.hear(task('running'));
  other.answer = () => {
    other.follower.hear(task('succeeded'));
    return Promise.resolve(null);
  };
  await other.follower.look();
  assert.equal(other.follower.task?.state, 'succeeded');
});

test('a Jupyter server that is away is asked again, less and less often', async () => {
  const scene = new Scene();
  scene.follower.hear(task('running'));
  scene.answer = () => Promise.reject(new Error('away'));
  await scene.pass(QUIET_MS);
  await scene.pass(QUIET_MS);
  assert.equal(scene.asked.length, 1);
  await scene.pass(QUIET_MS);
  assert.equal(scene.asked.length, 2);
  for (let n = 0; n < 5; n++) {
    await scene.pass(AWAY_MS);
  }
  assert.equal(scene.asked.length, 7);
  scene.tells('cancelled');
  await scene.pass(AWAY_MS);
  assert.equal(scene.drawn.at(-1), 'cancelled');
});

test('of two tellings of a task the further one counts', () => {
  const order = ['registered', 'queued', 'running', 'lost'];
  for (const [i, older] of order.entries()) {
    for (const newer of order.slice(i)) {
      assert.equal(newest(task(older), task(newer)).state, newer);
      assert.equal(newest(task(newer), task(older)).state, newer);
    }
  }
  assert.equal(newest(null, task('queued')).state, 'queued');
  assert.equal(newest(task('lost'), task('queued', 'u')).state, 'queued');
});
