import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  announcement,
  clock,
  detail,
  droppedTitle,
  errorTitle,
  line,
  nodeShare,
  nodeState,
  stepShare,
  tally
} from '../src/widget/labels';
import { readTask } from '../src/widget/task';
import type { Task } from '../src/widget/task';

function task(fields: Record<string, unknown>): Task {
  const read = readTask({ task_id: 't', comfy_id: 'gpu-1', ...fields });
  assert.ok(read);
  return read;
}

const STEPS = {
  nodes_done: 3,
  nodes_total: 7,
  node_id: '3',
  node_class: 'KSampler',
  value: 12,
  max: 20,
  preview: 0
};
const PICTURE = { filename: 'a.png', media_type: 'image/png', path: 'p/1' };

test('a running task says where it runs, how far it is and at which step', () => {
  const running = task({ state: 'running', progress: STEPS });
  assert.equal(
    line(running),
    'gpu-1 · running · 3 of 7 nodes · KSampler 12/20'
  );
  assert.equal(detail(running), 'gpu-1 · 3 of 7 nodes · KSampler 12/20');
});

test('a node of one step is told by its name alone', () => {
  const running = task({
    state: 'running',
    progress: { ...STEPS, node_class: 'SaveImage', value: 0, max: 1 }
  });
  assert.equal(line(running), 'gpu-1 · running · 3 of 7 nodes · SaveImage');
  assert.equal(stepShare(running), null);
});

for (const [queue, said] of [
  [{ ahead: 0, ahead_mine: 0 }, 'gpu-1 · queued · next'],
  [{ ahead: 2, ahead_mine: 0 }, 'gpu-1 · queued · 2 ahead'],
  [{ ahead: 3, ahead_mine: 1 }, 'gpu-1 · queued · 3 ahead, 1 of them yours'],
  [null, 'gpu-1 · queued']
] as const) {
  test(`a queued task says how many are ahead: ${said}`, () => {
    assert.equal(line(task({ state: 'queued', queue })), said);
  });
}

test('a task that succeeded counts its pictures and its seconds', () => {
  const done = task({
    state: 'succeeded',
    files: [PICTURE],
    started_at: 100,
    ended_at: 104.25
  });
  assert.equal(line(done), 'gpu-1 · succeeded · 1 picture · 4.3 s');
});

test('a task whose results were all there says that nothing ran', () => {
  const done = task({ state: 'succeeded', cached: true, files: [PICTURE] });
  assert.equal(line(done), 'gpu-1 · succeeded · 1 picture, nothing had to run');
});

test('files that are no pictures are called files', () => {
  const sound = { filename: 'a.mp3', media_type: 'audio/mpeg', path: 'p/2' };
  assert.equal(
    line(task({ state: 'succeeded', files: [PICTURE, sound] })),
    'gpu-1 · succeeded · 2 files'
  );
});

test('a failed task names the node, its class and the exception', () => {
  const failed = task({
    state: 'failed',
    error: {
      node_id: '4',
      node_class: 'TrRaise',
      exception_type: 'ValueError',
      message: 'boom\n',
      traceback: ['line 1\n', 'line 2\n']
    }
  });
  assert.equal(line(failed), 'gpu-1 · failed · TrRaise (node 4): ValueError');
  // Where the error is shown in full, it is not said twice.
  assert.equal(detail(failed), 'gpu-1');
  assert.ok(failed.error);
  assert.equal(errorTitle(failed.error), 'TrRaise (node 4): ValueError: boom');
  assert.equal(failed.error.traceback, 'line 1\nline 2\n');
});

test('a lost task says why', () => {
  const lost = task({ state: 'lost', reason: 'ComfyUI was restarted' });
  assert.equal(
    line(lost),
    'gpu-1 · lost · ComfyUI was restarted · nobody knows how far it came'
  );
});

test('an output that was left out says why', () => {
  const partly = task({
    state: 'running',
    dropped: {
      '9': {
        class_type: 'SaveImage',
        errors: [
          { type: 'x', message: 'Required input is missing', details: 'images' }
        ]
      }
    }
  });
  assert.deepEqual(partly.dropped.map(droppedTitle), [
    'SaveImage (node 9) was left out: Required input is missing: images'
  ]);
});

test('a bar is never under or over full', () => {
  const over = { ...STEPS, value: 30, nodes_done: 9 };
  assert.equal(stepShare(task({ state: 'running', progress: over })), 1);
  assert.equal(nodeShare(task({ state: 'running', progress: over })), 1);
});

test('the bar of the task counts what is done of the running node', () => {
  const first = {
    ...STEPS,
    nodes_done: 0,
    nodes_total: 4,
    node_class: 'DemoSampler',
    value: 19,
    max: 25
  };
  const running = task({ state: 'running', progress: first });
  assert.equal(nodeShare(running), 0.19);
  assert.equal(detail(running), 'gpu-1 · 0 of 4 nodes · DemoSampler 19/25');
});

test('a node of one step, and one that is not counted, add nothing to that bar', () => {
  const half = { ...STEPS, nodes_done: 2, nodes_total: 4, value: 1, max: 2 };
  for (const progress of [
    { ...half, max: 1 },
    { ...half, node_id: '1.0.0.2' }
  ]) {
    assert.equal(nodeShare(task({ state: 'running', progress })), 0.5);
  }
});

test('no task, and a task of an unknown shape, can be read', () => {
  assert.equal(readTask({}), null);
  assert.equal(readTask(null), null);
  const odd = task({ state: 7, progress: 'x', files: 'x', dropped: [1] });
  assert.equal(line(odd), 'gpu-1 · 7');
});

test('each node is told in a word', () => {
  const progress = {
    ...STEPS,
    node_id: '3.0.1',
    done_node_ids: ['1', '2'],
    cached_node_ids: ['1']
  };
  const states = (fields: Record<string, unknown>) =>
    ['1', '2', '3', '4'].map(id =>
      nodeState({ id, title: '', nodeClass: 'X' }, task({ progress, ...fields }))
    );
  assert.deepEqual(states({ state: 'running' }), ['cached', 'done', 'running', 'waiting']);
  assert.equal(tally(states({ state: 'running' })), '1 cached, 1 done, 1 running, 1 waiting');
  assert.deepEqual(states({ state: 'failed', error: { node_id: '3' } }).slice(2), [
    'failed',
    'did not run'
  ]);
  assert.deepEqual(states({ state: 'lost', progress: null }), ['', '', '', '']);
});

for (const [seconds, said] of [
  [0, '0 s'],
  [59.9, '59 s'],
  [125, '2:05'],
  [3725, '1:02:05'],
  [-3, '0 s']
] as const) {
  test(`${seconds} seconds are ${said}`, () => assert.equal(clock(seconds), said));
}

for (const [state, reason, said] of [
  ['cancelled', 'by its kernel', 'gpu-1 · by its kernel'],
  ['cancelled', 'its kernel ended', 'gpu-1 · because its kernel ended'],
  ['cancelled', 'cancelled', 'gpu-1'],
  ['lost', 'it restarted', 'gpu-1 · it restarted · nobody knows how far it came']
] as const) {
  test(`${state}, ${reason}: ${said}`, () => assert.equal(detail(task({ state, reason })), said));
}

test('a screen reader hears of states and not of steps', () => {
  assert.equal(announcement(task({ state: 'running', progress: STEPS })), 'gpu-1: running');
  assert.equal(announcement(null), '');
});
