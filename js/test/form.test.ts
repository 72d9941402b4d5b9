import assert from 'node:assert/strict';
import { test } from 'node:test';

import { anotherSeed, fault, groups, range, readFields, valueOf } from '../src/widget/form';
import type { Field } from '../src/widget/form';

const LARGEST = '18446744073709551615';

function field(fields: Record<string, unknown>): Field {
  const [read] = readFields([{ key: '3.x', name: 'x', node_id: '3', ...fields }]);
  assert.ok(read);
  return read;
}

for (const [kind, said, wrong] of [
  ['int', '5', ''],
  ['int', '-1', 'must be at least 0'],
  ['int', '18446744073709551616', `must be at most ${LARGEST}`],
  ['int', LARGEST, ''],
  ['int', '1.5', 'must be a whole number'],
  ['int', '', 'must be a whole number'],
  ['float', '', 'must be a number'],
  ['float', '-0.1', 'must be at least 0'],
  ['float', '1e3', ''],
  ['text', '', '']
] as const) {
  test(`${kind} ${JSON.stringify(said)}: ${wrong || 'fits'}`, () => {
    assert.equal(fault(field({ kind, min: '0', max: LARGEST }), said), wrong);
  });
}

test('a choice is one of those there are, of its own type', () => {
  const choice = field({ kind: 'choice', choices: ['euler', 8] });
  assert.equal(fault(choice, 'eular'), '"eular" is no choice');
  assert.equal(fault(choice, '8'), '');
  assert.equal(valueOf(choice, '8'), 8);
});

test('whole numbers go as text, because a long seed is no number here', () => {
  assert.equal(valueOf(field({ kind: 'int' }), ` ${LARGEST} `), LARGEST);
  assert.equal(valueOf(field({ kind: 'float' }), '0.5'), 0.5);
});

for (const drawn of [0, 0.5, 0.999999999]) {
  test(`a seed drawn at ${drawn} is within its range`, () => {
    const seed = field({ kind: 'int', min: '5', max: '100' });
    assert.equal(fault(seed, anotherSeed(seed, () => drawn)), '');
  });
}

test('a range tells what helps', () => {
  assert.equal(range(field({ kind: 'float', min: 0, max: 100 })), '0 to 100');
  assert.equal(range(field({ kind: 'int', min: '0', max: LARGEST })), 'at least 0');
  assert.equal(range(field({ kind: 'text', min: '0' })), '');
});

test('fields stand under their nodes, also when others come between', () => {
  const fields = readFields([
    { key: '3.a', node_id: '3', title: 'Sampler' },
    { key: '6.b', node_id: '6', title: '', class: 'Text' },
    { key: '3.c', node_id: '3', title: 'Sampler' }
  ]);
  assert.deepEqual(
    groups(fields).map(group => [group.title, group.fields.map(each => each.key)]),
    [
      ['Sampler', ['3.a', '3.c']],
      ['Text', ['6.b']]
    ]
  );
});
