import assert from 'node:assert/strict';
import { test } from 'node:test';

import type { DocumentRegistry } from '@jupyterlab/docregistry';
import { Signal } from '@lumino/signaling';

import { PinKeeper, keepPin, parsePin } from '../src/pin';

type Metadata = Record<string, unknown>;
type Open = (comm: unknown, message: unknown) => void;

class FakeModel {
  constructor(metadata: Metadata = {}) {
    this._metadata = new Map(Object.entries(metadata));
  }

  get metadata(): Metadata {
    return Object.fromEntries(this._metadata);
  }

  getMetadata(key: string): unknown {
    return this._metadata.get(key);
  }

  setMetadata(key: string, value: unknown): void {
    this.changes += 1;
    this._metadata.set(key, value);
  }

  deleteMetadata(key: string): void {
    this.changes += 1;
    this._metadata.delete(key);
  }

  changes = 0;
  private readonly _metadata: Map<string, unknown>;
}

class FakeKernel {
  registerCommTarget(name: string, open: Open): void {
    this.targets.set(name, open);
  }

  removeCommTarget(name: string): void {
    this.targets.delete(name);
  }

  tell(pin: unknown): void {
    const open = this.targets.get('jupyter_comfy_lock:pin');
    open?.({}, { content: { data: { pin } } });
  }

  readonly targets = new Map<string, Open>();
}

class FakeSession {
  constructor(public kernel: FakeKernel | null) {}

  get session(): { kernel: FakeKernel | null } {
    return this;
  }

  change(kernel: FakeKernel): void {
    this.kernel = kernel;
    this.kernelChanged.emit({ newValue: kernel });
  }

  readonly kernelChanged = new Signal<this, { newValue: FakeKernel }>(this);
}

function opened(model: FakeModel, session: FakeSession) {
  const context = { model, sessionContext: session };
  return new PinKeeper().createNew(
    null,
    context as unknown as DocumentRegistry.Context
  );
}

for (const [before, pin, after] of [
  [{}, 'gpu-2', { comfy_lock: { pin: 'gpu-2' } }],
  [
    { kernelspec: 1, comfy_lock: { pin: 'gpu-1', more: 3 } },
    'gpu-2',
    { kernelspec: 1, comfy_lock: { pin: 'gpu-2', more: 3 } }
  ],
  [
    { comfy_lock: { pin: 'gpu-1', more: 3 } },
    null,
    { comfy_lock: { more: 3 } }
  ],
  [{ comfy_lock: { pin: 'gpu-1' } }, null, {}],
  [{}, null, {}],
  [{ comfy_lock: 'nonsense' }, 'gpu-2', { comfy_lock: { pin: 'gpu-2' } }]
] as [Metadata, string | null, Metadata][]) {
  test(`pinned to ${pin}, ${JSON.stringify(before)} becomes ${JSON.stringify(after)}`, () => {
    const model = new FakeModel(before);
    keepPin(model, pin);
    assert.deepEqual(model.metadata, after);
  });
}

for (const pin of ['gpu-1', null]) {
  test(`to be pinned to ${pin} again does not change the notebook`, () => {
    const model = new FakeModel();
    keepPin(model, pin);
    const { changes } = model;
    keepPin(model, pin);
    assert.equal(model.changes, changes);
  });
}

test('what is no pin does not get into the notebook', () => {
  assert.throws(() => parsePin({ pin: 3 }), {
    message: 'The kernel sent {"pin":3}, which is no pin'
  });
  assert.throws(() => parsePin({}));
  assert.throws(() => parsePin(null));
});

test('the kernel of an opened notebook is heard', () => {
  const model = new FakeModel();
  const kernel = new FakeKernel();
  opened(model, new FakeSession(kernel));
  kernel.tell('gpu-2');
  assert.deepEqual(model.metadata, { comfy_lock: { pin: 'gpu-2' } });
});

test('a kernel that comes later, or instead, is heard too', () => {
  const model = new FakeModel();
  const session = new FakeSession(null);
  opened(model, session);
  const kernel = new FakeKernel();
  session.change(kernel);
  kernel.tell('gpu-2');
  assert.deepEqual(model.metadata, { comfy_lock: { pin: 'gpu-2' } });
});

test('a notebook that was closed is left alone', () => {
  const model = new FakeModel();
  const session = new FakeSession(new FakeKernel());
  opened(model, session).dispose();
  const kernel = new FakeKernel();
  session.change(kernel);
  assert.equal(session.kernel?.targets.size, 0);
});
