import { hasEnded, isLive } from './task';
import type { DroppedOutput, Progress, SentNode, Task, TaskError } from './task';

/** What is going on, without the state: "gpu-1 · 3 of 7 nodes · KSampler 12/20". */
export function detail(task: Task): string {
  // An error is told in full below it.
  const told = task.error === null ? details(task) : [seconds(task)];
  return join([task.comfyId, ...told]);
}

/** All in one line: "gpu-1 · running · 3 of 7 nodes · KSampler 12/20". */
export function line(task: Task): string {
  return join([task.comfyId, task.state, ...details(task)]);
}

function join(parts: readonly string[]): string {
  return parts.filter(part => part !== '').join(' · ');
}

function details(task: Task): readonly string[] {
  return DETAILS[task.state]?.(task) ?? [task.reason];
}

const DETAILS: Readonly<Record<string, (task: Task) => readonly string[]>> = {
  registered: () => ['on its way'],
  queued: task => [place(task)],
  running: task => [nodes(task.progress), step(task.progress)],
  succeeded: task => [results(task), seconds(task)],
  failed: task => [failedAt(task), seconds(task)],
  cancelled: task => [cancelledBy(task.reason), seconds(task)],
  lost: task => [task.reason, 'nobody knows how far it came']
};

/** By whom or because of what: "by the Jupyter user", "because its kernel ended". */
function cancelledBy(reason: string): string {
  if (reason === 'cancelled') {
    return '';
  }
  return reason.startsWith('its ') ? `because ${reason}` : reason;
}

function place({ queue }: Task): string {
  if (queue === null) {
    return '';
  }
  if (queue.ahead === 0) {
    return 'next';
  }
  const mine = queue.mine === 0 ? '' : `, ${queue.mine} of them yours`;
  return `${queue.ahead} ahead${mine}`;
}

export function nodes({ nodesDone, nodesTotal }: Progress): string {
  return nodesTotal === 0 ? '' : `${nodesDone} of ${count(nodesTotal, 'node')}`;
}

export function step({ nodeClass, value, max }: Progress): string {
  // A node of one step has nothing to tell but its name.
  return max > 1 ? `${nodeClass} ${value}/${max}`.trim() : nodeClass;
}

function results(task: Task): string {
  if (task.files.length > 0) {
    const pictures = task.files.every(file => isImage(file.mediaType));
    const cached = task.cached ? ', nothing had to run' : '';
    return count(task.files.length, pictures ? 'picture' : 'file') + cached;
  }
  return task.cached ? 'nothing had to run' : '';
}

function failedAt({ error, reason }: Task): string {
  return error === null
    ? reason
    : `${error.nodeClass} (node ${error.nodeId}): ${error.exceptionType}`;
}

function seconds({ startedAt, endedAt }: Task): string {
  return startedAt === null || endedAt === null
    ? ''
    : `${Math.max(0, endedAt - startedAt).toFixed(1)} s`;
}

/** "KSampler (node 3): ValueError: boom" */
export function errorTitle(error: TaskError): string {
  const where = error.nodeClass
    ? `${error.nodeClass} (node ${error.nodeId})`
    : '';
  return [where, error.exceptionType, error.message.trim()]
    .filter(part => part !== '')
    .join(': ');
}

/** "SaveImage (node 9) was left out: Required input is missing: images" */
export function droppedTitle(output: DroppedOutput): string {
  const why = output.reasons.join('; ');
  const what = `${output.nodeClass || 'An output'} (node ${output.nodeId}) was left out`;
  return why === '' ? what : `${what}: ${why}`;
}

/** How full a bar is, 0 to 1; null when nobody knows. */
export function share(done: number, total: number): number | null {
  return total > 0 ? Math.min(1, Math.max(0, done / total)) : null;
}

/** The nodes that are done, and as much of the running one as is done of it. */
export function nodeShare(task: Task): number | null {
  const { nodesDone, nodesTotal, nodeId } = task.progress;
  // A node that another one expanded to ("1.0.0.2") is not among the nodes that are counted.
  const part = nodeId.includes('.') ? null : stepShare(task);
  return share(nodesDone + (part ?? 0), nodesTotal);
}

/** A node of one step has no steps to show. */
export function stepShare({ progress }: Task): number | null {
  return progress.max > 1 ? share(progress.value, progress.max) : null;
}

export function isImage(mediaType: string): boolean {
  return mediaType.startsWith('image/');
}

function count(n: number, what: string): string {
  return `${n} ${what}${n === 1 ? '' : 's'}`;
}

/** How one node of a task stands, in a word. */
export function nodeState(node: SentNode, task: Task): string {
  const { progress, error } = task;
  if (error !== null && error.nodeId === node.id) {
    return 'failed';
  }
  if (task.dropped.some(output => output.nodeId === node.id)) {
    return 'left out';
  }
  if (progress.cached.includes(node.id)) {
    return 'cached';
  }
  if (progress.done.includes(node.id)) {
    return 'done';
  }
  if (isLive(task)) {
    // A node that another one expanded to ("1.0.0.2") is that one's work.
    const runs = progress.nodeId.split('.')[0] === node.id;
    return task.state === 'running' && runs ? 'running' : 'waiting';
  }
  // Of what the Jupyter server has read again from its store it does not know the nodes.
  return hasEnded(task) && progress.nodesTotal > 0 ? 'did not run' : '';
}

/** "3 done, 1 running, 2 waiting" */
export function tally(states: readonly string[]): string {
  const counts = new Map<string, number>();
  for (const state of states.filter(each => each !== '')) {
    counts.set(state, (counts.get(state) ?? 0) + 1);
  }
  return [...counts].map(([state, n]) => `${n} ${state}`).join(', ');
}

/** A length of time for a person: "8 s", "2:05", "1:02:05". */
export function clock(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) {
    return `${whole} s`;
  }
  const [h, m, s] = [whole / 3600, (whole / 60) % 60, whole % 60].map(Math.floor) as [
    number,
    number,
    number
  ];
  const two = (n: number) => String(n).padStart(2, '0');
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** What a screen reader says when it changes: no steps, which change many times a second. */
export function announcement(task: Task | null): string {
  if (task === null) {
    return '';
  }
  return task.state === 'running' ? `${task.comfyId}: running` : line(task);
}
