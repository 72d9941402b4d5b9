import { list, moment, number, record, text } from './json';

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
  /** What nodes left beside files: their texts. */
  readonly texts: readonly TaskText[];
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
  /** The nodes that are done, those that ComfyUI had cached among them. */
  readonly done: readonly string[];
  readonly cached: readonly string[];
  /** Rises with each new preview frame; 0: none yet. */
  readonly preview: number;
}

export interface TaskFile {
  readonly filename: string;
  readonly mediaType: string;
  /** Below the Jupyter server's base URL. */
  readonly path: string;
}

/** A text that a node shows. */
export interface TaskText {
  readonly nodeId: string;
  readonly text: string;
}

/** A node that was sent. */
export interface SentNode {
  readonly id: string;
  readonly title: string;
  readonly nodeClass: string;
}

/** A value that was sent. */
export interface SentValue {
  readonly nodeId: string;
  readonly name: string;
  readonly value: string;
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
    texts: Object.entries(record(task['outputs'])).flatMap(readTexts),
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
    done: list(progress['done_node_ids']).map(text),
    cached: list(progress['cached_node_ids']).map(text),
    preview: number(progress['preview'])
  };
}

function readTexts([nodeId, data]: [string, unknown]): readonly TaskText[] {
  return list(record(data)['text'])
    .map(text)
    .filter(said => said !== '')
    .map(said => ({ nodeId, text: said }));
}

/** The nodes of the Python side's trait. */
export function readNodes(data: unknown): readonly SentNode[] {
  return list(data).map(record).map(node => ({
    id: text(node['id']),
    title: text(node['title']),
    nodeClass: text(node['class'])
  }));
}

/** The values of the Python side's trait. */
export function readValues(data: unknown): readonly SentValue[] {
  return list(data).map(record).map(value => ({
    nodeId: text(value['node_id']),
    name: text(value['name']),
    value: text(value['value'])
  }));
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
