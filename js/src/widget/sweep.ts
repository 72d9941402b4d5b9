import { list, record, text } from './json';
import { hasEnded, readTask } from './task';
import type { Task } from './task';

/** Where a cell is: as its task, and before and beside that "waiting" and "unsent". */
export interface SweepCell {
  readonly number: number;
  readonly state: string;
  /** '' before it is sent. */
  readonly taskId: string;
  /** Below the Jupyter server's base URL; '' while there is none. */
  readonly picture: string;
  /** Why it ended as it did. */
  readonly why: string;
  /** Of a cell in flight, for its progress; null for others. */
  readonly task: Task | null;
}

/** A table of cells under labels. */
export interface Block {
  readonly title: string;
  readonly columns: readonly string[];
  readonly rows: readonly string[];
  readonly cells: readonly (readonly number[])[];
}

export interface Grid {
  readonly columns: string;
  readonly rows: string;
  readonly blocks: readonly Block[];
}

export interface Sweep {
  readonly label: string;
  readonly state: string;
  readonly left: string;
  readonly note: string;
  readonly cells: readonly SweepCell[];
}

const STATES: Readonly<Record<string, string>> = {
  w: 'waiting',
  g: 'sending',
  q: 'queued',
  r: 'running',
  s: 'succeeded',
  f: 'failed',
  c: 'cancelled',
  j: 'rejected',
  l: 'lost',
  u: 'unsent'
};
const FLYING = new Set(['sending', 'queued', 'running']);
export const BAD: ReadonlySet<string> = new Set(['failed', 'rejected', 'lost']);

export function isFlying(cell: SweepCell): boolean {
  return FLYING.has(cell.state);
}

/** Whether a resume would make it. */
export function isMissing({ state }: SweepCell): boolean {
  return BAD.has(state) || state === 'cancelled' || state === 'unsent';
}

/** Read the traits of Python's `SweepView`; what is missing reads as "not known". */
export function readSweep(
  get: (trait: string) => unknown,
  apiPath: string
): Sweep {
  const states = text(get('states'));
  const tasks = list(get('tasks'));
  const pictures = list(get('pictures'));
  const progress = record(get('progress'));
  const reasons = new Map<number, string>();
  for (const entry of list(get('reasons'))) {
    const [why, numbers] = list(entry);
    for (const number of list(numbers)) {
      reasons.set(Number(number), text(why));
    }
  }
  const cells = Array.from(states, (letter, number): SweepCell => {
    const state = STATES[letter] ?? 'unknown';
    const taskId = text(tasks[number]);
    const file = pictures[number];
    const picture = typeof file === 'number' ? file : -1;
    return {
      number,
      state,
      taskId,
      picture: picture < 0 ? '' : filePath(apiPath, taskId, picture),
      why: reasons.get(number) ?? '',
      task:
        FLYING.has(state) && taskId !== ''
          ? readTask({
              task_id: taskId,
              state: state === 'sending' ? 'registered' : state,
              progress: progress[String(number)]
            })
          : null
    };
  });
  return {
    label: text(get('label')),
    state: text(get('state')),
    left: text(get('left')),
    note: text(get('note')),
    cells
  };
}

/** Read the trait that says where the cells are. */
export function readGrid(data: unknown): Grid {
  const grid = record(data);
  return {
    columns: text(grid['columns']),
    rows: text(grid['rows']),
    blocks: list(grid['blocks']).map(entry => {
      const block = record(entry);
      return {
        title: text(block['title']),
        columns: list(block['columns']).map(text),
        rows: list(block['rows']).map(text),
        cells: list(block['cells']).map(row => list(row).map(Number))
      };
    })
  };
}

/** `cell`, whose end the Jupyter server has `told` and its kernel has not. */
export function overtaken(
  cell: SweepCell,
  told: Task,
  apiPath: string
): SweepCell {
  const picture = told.files.findIndex(file =>
    file.mediaType.startsWith('image/')
  );
  return {
    ...cell,
    state: hasEnded(told) ? told.state : 'lost',
    picture: picture < 0 ? '' : filePath(apiPath, cell.taskId, picture),
    why: told.error === null ? told.reason : told.error.message,
    task: null
  };
}

function filePath(apiPath: string, taskId: string, number: number): string {
  return `${apiPath}tasks/${encodeURIComponent(taskId)}/files/${number}`;
}
