import { BAD, isFlying } from './sweep';
import type { Block, Grid, SweepCell } from './sweep';

/** "5 of 16 done, 1 failed, 4 in flight, 6 waiting" */
export function counted(cells: readonly SweepCell[]): string {
  const count = (state: string): number =>
    cells.filter(cell => cell.state === state).length;
  const parts: (readonly [number, string])[] = [
    [count('failed'), 'failed'],
    [count('rejected'), 'rejected'],
    [count('lost'), 'lost'],
    [count('cancelled'), 'cancelled'],
    [count('unsent'), 'not sent'],
    [cells.filter(isFlying).length, 'in flight'],
    [count('waiting'), 'waiting']
  ];
  return [
    `${count('succeeded')} of ${cells.length} done`,
    ...parts.filter(([n]) => n > 0).map(([n, word]) => `${n} ${word}`)
  ].join(', ');
}

/** The shares of a bar, 0 to 1: what is done, what went wrong, what is in flight. */
export function shares(
  cells: readonly SweepCell[]
): readonly [number, number, number] {
  const share = (is: (cell: SweepCell) => boolean): number =>
    cells.length === 0 ? 0 : cells.filter(is).length / cells.length;
  return [
    share(cell => cell.state === 'succeeded'),
    share(cell => BAD.has(cell.state)),
    share(isFlying)
  ];
}

/** What stands in the place of a picture. */
export function word({ state }: SweepCell): string {
  const words: Readonly<Record<string, string>> = {
    unsent: 'not sent',
    sending: 'queued',
    succeeded: 'no picture'
  };
  return words[state] ?? state;
}

/** "seed = 3, cfg = 7" */
export function caption(
  grid: Grid,
  block: Block,
  row: number,
  column: number
): string {
  return [
    `${grid.columns} = ${block.columns[column] ?? ''}`,
    ...(grid.rows === '' ? [] : [`${grid.rows} = ${block.rows[row] ?? ''}`]),
    ...(block.title === '' ? [] : [block.title])
  ].join(', ');
}

/** Each reason once, with the number of the cells that ended so: "3 failed: out of memory". */
export function reasonLines(cells: readonly SweepCell[]): readonly string[] {
  const found = new Map<string, { n: number; cell: SweepCell }>();
  for (const cell of cells) {
    if (BAD.has(cell.state) && cell.why !== '') {
      const key = `${cell.state}\n${cell.why}`;
      found.set(key, { n: (found.get(key)?.n ?? 0) + 1, cell });
    }
  }
  return [...found.values()].map(
    ({ n, cell }) => `${n} ${cell.state}: ${cell.why}`
  );
}
