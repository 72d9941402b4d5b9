import { Bar } from './bar';
import { button, complaint, element, fill, put } from './dom';
import { Gallery } from './gallery';
import {
  announcement,
  clock,
  detail,
  droppedTitle,
  errorTitle,
  line,
  nodes,
  nodeShare,
  step,
  stepShare
} from './labels';
import { NodeList, ValueList } from './node_list';
import { Picture } from './pictures';
import type { Files } from './pictures';
import { hasEnded, isLive } from './task';
import type { SentNode, SentValue, Task } from './task';

/** What the view asks of whoever shows it. */
export interface Wishes {
  /** Cancel the task; rejects with a message for the person. */
  cancel(task: Task): Promise<void>;
  /** Where the preview of the task is; null where it is sent by itself, to `preview`. */
  previewPath(task: Task): string | null;
}

/** What was sent, as far as it is known. */
export interface Sent {
  readonly label: string;
  readonly nodes: readonly SentNode[];
  readonly values: readonly SentValue[];
}

/**
 * A task under its cell. `draw` may be called many times a second: it changes what is there
 * and never builds the whole anew.
 */
export class TaskView {
  constructor(
    el: HTMLElement,
    files: Files,
    private readonly _wishes: Wishes,
    private readonly _signal: AbortSignal
  ) {
    this._el = el;
    el.classList.add('jp-Comfy', 'jp-ComfyTask');
    this._cancel = button('Cancel', () => void this._onCancel(), _signal);
    this._cancel.classList.add('jp-ComfyTask-cancel');
    const copy = button('Copy', () => void this._onCopy(copy), _signal);
    this._announced.setAttribute('role', 'status');
    this._head.append(this._title, this._badge, this._text, this._clock, this._cancel);
    this._failure.append(this._failureTitle, copy, this._traceback);
    this._preview = new Picture(files, _signal);
    this._preview.node.className = 'jp-ComfyTask-preview';
    this._preview.node.alt = 'Preview of the picture in the making';
    this._gallery = new Gallery(files, _signal);
    el.append(
      this._announced,
      this._head,
      this._nodes.node,
      this._steps.node,
      this._preview.node,
      this._gallery.node,
      this._notes,
      this._failure,
      this._nodeList.node,
      this._values.node
    );
    const tick = setInterval(() => this._drawClock(), 1000);
    _signal.addEventListener('abort', () => clearInterval(tick));
  }

  /** Show `task`, and what was sent. */
  draw(task: Task | null, sent: Sent): void {
    if (task?.id !== this._task?.id) {
      this._gallery.clear();
      this._preview.clear();
      this._complaint = '';
    }
    this._task = task;
    // The line begins with the ComfyUI server's id: as a title it would be said twice.
    const title = sent.label === task?.comfyId ? '' : sent.label;
    put(this._title, title);
    this._title.hidden = title === '';
    this._el.dataset['state'] = task?.state ?? '';
    put(this._badge, task?.state ?? 'waiting');
    put(this._text, task === null ? '' : detail(task));
    put(this._announced, announcement(task));
    this._head.title = task === null ? '' : line(task);
    this._cancel.hidden = task === null || !isLive(task);
    this._drawClock();
    if (task !== null) {
      this._drawProgress(task);
      this._gallery.draw(task.files, task.texts);
      this._drawProblems(task);
      this._nodeList.draw(sent.nodes, task);
      this._values.draw(sent.values, sent.nodes);
    }
  }

  /** Show a preview that was sent by itself. */
  preview(bytes: Blob): void {
    if (this._task !== null && isLive(this._task)) {
      this._preview.put(bytes);
    }
  }

  private _drawProgress(task: Task): void {
    const { progress } = task;
    const moving = task.state === 'running';
    this._nodes.draw(moving ? nodeShare(task) : null, nodes(progress));
    this._steps.draw(moving ? stepShare(task) : null, step(progress));
    if (hasEnded(task)) {
      this._preview.clear();
      return;
    }
    const path = this._wishes.previewPath(task);
    if (path !== null && isLive(task) && progress.preview > 0) {
      this._preview.show(`${path}?v=${progress.preview}`);
    }
  }

  private _drawClock(): void {
    const task = this._task;
    const since = task?.state === 'running' ? task.startedAt : null;
    put(this._clock, since === null ? '' : clock(Date.now() / 1000 - since));
  }

  private _drawProblems(task: Task): void {
    const dropped = task.dropped.map(droppedTitle);
    const notes = this._complaint === '' ? dropped : [...dropped, this._complaint];
    fill(this._notes, notes.join('\n'), () => notes.map(note => element('li', '', note)));
    this._failure.hidden = task.error === null;
    if (task.error !== null) {
      put(this._failureTitle, errorTitle(task.error));
      put(this._traceback, task.error.traceback);
    }
  }

  private async _onCancel(): Promise<void> {
    const task = this._task;
    if (task === null) {
      return;
    }
    this._cancel.disabled = true;
    this._complaint = '';
    try {
      await this._wishes.cancel(task);
    } catch (error) {
      this._complaint = `Could not cancel: ${complaint(error)}`;
    } finally {
      this._cancel.disabled = false;
    }
    if (this._task !== null && !this._signal.aborted) {
      this._drawProblems(this._task);
    }
  }

  private async _onCopy(copy: HTMLElement): Promise<void> {
    const text = `${this._failureTitle.textContent}\n${this._traceback.textContent}`;
    try {
      await navigator.clipboard.writeText(text);
      put(copy, 'Copied');
    } catch {
      // Not allowed here: the text is selected, for the person to copy it.
      getSelection()?.selectAllChildren(this._traceback);
      put(copy, 'Selected: copy it with the keyboard');
    }
  }

  private readonly _el: HTMLElement;
  private readonly _announced = element('div', 'jp-Comfy-unseen');
  private readonly _head = element('div', 'jp-ComfyTask-head');
  private readonly _title = element('strong', 'jp-ComfyTask-title');
  private readonly _badge = element('span', 'jp-Comfy-badge jp-ComfyTask-badge');
  private readonly _text = element('span', 'jp-ComfyTask-text');
  private readonly _clock = element('span', 'jp-ComfyTask-clock');
  private readonly _cancel: HTMLButtonElement;
  private readonly _nodes = new Bar('jp-ComfyTask-nodes', 'Progress of the task');
  private readonly _steps = new Bar('jp-ComfyTask-steps', 'Steps of this node');
  private readonly _preview: Picture;
  private readonly _gallery: Gallery;
  private readonly _notes = element('ul', 'jp-ComfyTask-notes');
  private readonly _failure = element('details', 'jp-ComfyTask-failure');
  private readonly _failureTitle = element('summary', 'jp-ComfyTask-failureTitle');
  private readonly _traceback = element('pre', 'jp-ComfyTask-traceback');
  private readonly _nodeList = new NodeList();
  private readonly _values = new ValueList();
  private _task: Task | null = null;
  private _complaint = '';
}
