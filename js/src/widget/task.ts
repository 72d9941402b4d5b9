/**
 * A task, as the Jupyter server describes it. What is missing or of another type reads as
 * "not known": a widget that was saved by another version must still draw.
 */
export interface Task {
  readonly id: string;
  readonly state: string;
  readonly reason: string;
  readonly comfyId: string;
  /** Seconds since the epoch; null: not yet. */
  readonly startedAt: number | null;
  readonly endedAt: number | null;
  readonly queue: { readonly ahead: number; readonly mine: number } | null;
  readonly progress: Progress;
  readonly cached: boolean;
  readonly files: readonly TaskFile[];
  readonly error: TaskError | null;
  readonly dropped: readonly DroppedOutput[];
}

export interface Progress {
  readonly nodesDone: number;
  readonly nodesTotal: number;
  readonly nodeId: string;
  readonly nodeClass: string;
  readonly value: number;
  readonly max: number;
  /** Rises with each new preview frame; 0: none yet. */
  readonly preview: number;
}

export interface TaskFile {
  readonly filename: string;
  readonly mediaType: string;
  /** Below the Jupyter server's base URL. */
  readonly path: string;
}

export interface TaskError {
  readonly nodeId: string;
  readonly nodeClass: string;
  readonly exceptionType: string;
  readonly message: string;
  readonly traceback: string;
}

/** An output that ComfyUI refused while it runs the rest. */
export interface DroppedOutput {
  readonly nodeId: string;
  readonly nodeClass: string;
  readonly reasons: readonly string[];
}

/** The states before the end, in their order. */
const PENDING = ['registered', 'queued', 'running'];
const ENDED = new Set(['succeeded', 'failed', 'cancelled', 'rejected', 'lost']);
/** In place of a state: what became of the task cannot be found out. */
const UNKNOWN = 'unknown to the Jupyter server';

export function hasEnded(task: Task): boolean {
  return ENDED.has(task.state);
}

/** Whether the task goes on, as far as anybody knows. */
export function isLive(task: Task): boolean {
  return !hasEnded(task) && task.state !== UNKNOWN;
}

/** `task`, which the Jupyter server does not know; itself when its end was seen. */
export function unknown(task: Task): Task {
  return hasEnded(task) ? task : { ...task, state: UNKNOWN, reason: '' };
}

/** The newer of what is `shown` and what was `told`: a task never goes back. */
export function newest(shown: Task | null, told: Task): Task {
  const older = shown?.id === told.id && rank(told) < rank(shown);
  return older ? shown : told;
}

function rank(task: Task): number {
  return hasEnded(task) ? PENDING.length : PENDING.indexOf(task.state);
}

/** The task in `data`; null when there is none yet. */
export function readTask(data: unknown): Task | null {
  const task = record(data);
  const id = text(task['task_id']);
  if (id === '') {
    return null;
  }
  const queue = record(task['queue']);
  return {
    id,
    state: text(task['state']),
    reason: text(task['reason']),
    comfyId: text(task['comfy_id']),
    startedAt: moment(task['started_at']),
    endedAt: moment(task['ended_at']),
    queue:
      'ahead' in queue
        ? { ahead: number(queue['ahead']), mine: number(queue['ahead_mine']) }
        : null,
    progress: readProgress(task['progress']),
    cached: task['cached'] === true,
    files: list(task['files']).map(readFile),
    error: task['error'] ? readError(task['error']) : null,
    dropped: Object.entries(record(task['dropped'])).map(readDropped)
  };
}

function readProgress(data: unknown): Progress {
  const progress = record(data);
  return {
    nodesDone: number(progress['nodes_done']),
    nodesTotal: number(progress['nodes_total']),
    nodeId: text(progress['node_id']),
    nodeClass: text(progress['node_class']),
    value: number(progress['value']),
    max: number(progress['max']),
    preview: number(progress['preview'])
  };
}

function readFile(data: unknown): TaskFile {
  const file = record(data);
  return {
    filename: text(file['filename']),
    mediaType: text(file['media_type']),
    path: text(file['path'])
  };
}

function readError(data: unknown): TaskError {
  const error = record(data);
  return {
    nodeId: text(error['node_id']),
    nodeClass: text(error['node_class']),
    exceptionType: text(error['exception_type']),
    message: text(error['message']),
    traceback: list(error['traceback']).map(text).join('')
  };
}

function readDropped([nodeId, data]: [string, unknown]): DroppedOutput {
  const output = record(data);
  return {
    nodeId,
    nodeClass: text(output['class_type']),
    reasons: list(output['errors']).map(data => {
      const error = record(data);
      return [text(error['message']), text(error['details'])]
        .filter(part => part !== '')
        .join(': ');
    })
  };
}

function record(data: unknown): Record<string, unknown> {
  return typeof data === 'object' && data !== null
    ? (data as Record<string, unknown>)
    : {};
}

function list(data: unknown): readonly unknown[] {
  return Array.isArray(data) ? data : [];
}

function text(data: unknown): string {
  return typeof data === 'string' || typeof data === 'number'
    ? String(data)
    : '';
}

function number(data: unknown): number {
  return typeof data === 'number' && Number.isFinite(data) ? data : 0;
}

function moment(data: unknown): number | null {
  return typeof data === 'number' ? data : null;
}
