import { list, record, text } from './json';

/** One value of a workflow that can be set, as the Python side describes it. */
export interface Field {
  /** "3.cfg" */
  readonly key: string;
  readonly name: string;
  readonly nodeId: string;
  readonly title: string;
  readonly nodeClass: string;
  readonly kind: string;
  /** Of whole numbers, and of their range, as text: a seed is too long for a number here. */
  readonly min: string;
  readonly max: string;
  readonly step: string;
  readonly choices: readonly unknown[];
  readonly tooltip: string;
  readonly seed: boolean;
}

/** The largest seed where none is said. */
const LARGEST = (1n << 64n) - 1n;
/** The largest seed that a person can still read out; the editor's own. */
const READABLE = 2n ** 50n;

export function readFields(data: unknown): readonly Field[] {
  return list(data).map(record).map(field => ({
    key: text(field['key']),
    name: text(field['name']),
    nodeId: text(field['node_id']),
    title: text(field['title']),
    nodeClass: text(field['class']),
    kind: text(field['kind']),
    min: text(field['min']),
    max: text(field['max']),
    step: text(field['step']),
    choices: list(field['choices']),
    tooltip: text(field['tooltip']),
    seed: field['seed'] === true
  }));
}

/** Fields under the heading of their node, in their order. */
export function groups(
  fields: readonly Field[]
): readonly { readonly title: string; readonly fields: readonly Field[] }[] {
  const found: { id: string; title: string; fields: Field[] }[] = [];
  for (const field of fields) {
    const last = found.find(group => group.id === field.nodeId);
    if (last === undefined) {
      const title = field.title || field.nodeClass || field.nodeId;
      found.push({ id: field.nodeId, title, fields: [field] });
    } else {
      last.fields.push(field);
    }
  }
  return found;
}

/** Why `said` does not fit; "" if it does. The kernel has the last word. */
export function fault(field: Field, said: string): string {
  if (field.kind === 'int') {
    return /^[+-]?\d+$/.test(said.trim())
      ? outside(field, BigInt(said.trim()))
      : 'must be a whole number';
  }
  if (field.kind === 'float') {
    const value = Number(said);
    return said.trim() === '' || !Number.isFinite(value)
      ? 'must be a number'
      : outside(field, value);
  }
  if (field.kind === 'choice' && !field.choices.some(each => String(each) === said)) {
    return `${JSON.stringify(said)} is no choice`;
  }
  return '';
}

function outside(field: Field, value: bigint | number): string {
  if (field.min !== '' && value < Number(field.min)) {
    return `must be at least ${field.min}`;
  }
  if (field.max !== '' && value > (field.kind === 'int' ? BigInt(field.max) : Number(field.max))) {
    return `must be at most ${field.max}`;
  }
  return '';
}

/** `said` as the kernel takes it. */
export function valueOf(field: Field, said: string): unknown {
  if (field.kind === 'float') {
    return Number(said);
  }
  if (field.kind === 'choice') {
    return field.choices.find(each => String(each) === said) ?? said;
  }
  return field.kind === 'int' ? said.trim() : said;
}

/** Another seed; `random` gives 0 to 1, as Math.random does. */
export function anotherSeed(field: Field, random: () => number = Math.random): string {
  const least = field.min === '' ? 0n : BigInt(field.min);
  const said = field.max === '' ? LARGEST : BigInt(field.max);
  const most = said < READABLE ? said : READABLE;
  const spread = most - least + 1n;
  const drawn = BigInt(Math.floor(random() * 2 ** 32)) * 2n ** 20n;
  return String(least + ((drawn + BigInt(Math.floor(random() * 2 ** 20))) % spread));
}

/** "0 to 100", "at least 1"; "" where anything goes. */
export function range({ min, max, kind }: Field): string {
  if (kind !== 'int' && kind !== 'float') {
    return '';
  }
  // The greatest number that there is tells nobody anything.
  const end = max.length > 12 ? '' : max;
  if (min !== '' && end !== '') {
    return `${min} to ${end}`;
  }
  return min !== '' ? `at least ${min}` : end === '' ? '' : `at most ${end}`;
}
