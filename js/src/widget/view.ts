import { Bar } from './bar';
import { button, complaint, element, fill, put } from './dom';
import {
  detail,
  droppedTitle,
  errorTitle,
  isImage,
  line,
  nodes,
  nodeShare,
  step,
  stepShare
} from './labels';
import { Picture } from './pictures';
import type { JupyterPage } from './server';
import { zoom } from './zoom';
import type { Zoomed } from './zoom';
import { hasEnded, isLive } from './task';
import type { Task, TaskFile } from './task';

/** What the view asks of whoever shows it. */
export interface Wishes {
  /** Cancel the task; rejects with a message for the person. */
  cancel(task: Task): Promise<void>;
}

/**
 * A task under its cell. `draw` may be called many times a second: it changes what is there
 * and never builds the whole anew.
 */
export class TaskView {
  constructor(
    el: HTMLElement,
    private readonly _page: JupyterPage | null,
    private readonly _wishes: Wishes,
    private readonly _signal: AbortSignal
  ) {
    this._el = el;
    el.classList.add('jp-Comfy', 'jp-ComfyTask');
    el.append(
      this._head,
      this._nodes.node,
      this._steps.node,
      this._gallery,
      this._notes,
      this._failure
    );
    this._text.setAttribute('role', 'status');
    this._cancel = button('Cancel', () => void this._onCancel(), _signal);
    this._cancel.classList.add('jp-ComfyTask-cancel');
    this._head.append(this._title, this._badge, this._text, this._cancel);
    this._failure.append(this._failureTitle, this._traceback);
    if (_page !== null) {
      this._preview = new Picture(_page, _signal);
      this._preview.node.className = 'jp-ComfyTask-preview';
      this._preview.node.alt = 'Preview of the picture in the making';
      this._gallery.before(this._preview.node);
    }
  }

  /** Show `task`, under `label` when it is not empty. */
  draw(task: Task | null, label: string): void {
    this._task = task;
    // The line begins with the ComfyUI server's id: as a title it would be said twice.
    const title = label === task?.comfyId ? '' : label;
    put(this._title, title);
    this._title.hidden = title === '';
    this._el.dataset['state'] = task?.state ?? '';
    put(this._badge, task?.state ?? 'waiting');
    put(this._text, task === null ? '' : detail(task));
    this._head.title = task === null ? '' : line(task);
    this._cancel.hidden = task === null || !isLive(task);
    if (task !== null) {
      this._drawProgress(task);
      this._drawFiles(task);
      this._drawProblems(task);
    }
  }

  private _drawProgress(task: Task): void {
    const { progress } = task;
    const moving = task.state === 'running';
    this._nodes.draw(moving ? nodeShare(task) : null, nodes(progress));
    this._steps.draw(moving ? stepShare(task) : null, step(progress));
    if (this._preview === null) {
      return;
    }
    if (isLive(task) && progress.preview > 0) {
      const id = encodeURIComponent(task.id);
      const version = `?v=${progress.preview}`;
      this._preview.show(`${this.apiPath}tasks/${id}/preview${version}`);
    }
    if (hasEnded(task)) {
      this._preview.node.remove();
    }
  }

  private _drawFiles(task: Task): void {
    for (const file of task.files) {
      if (this._page !== null && !this._shown.has(file.path)) {
        this._shown.add(file.path);
        this._gallery.append(this._fileNode(file, this._page));
      }
    }
  }

  private _fileNode(file: TaskFile, page: JupyterPage): HTMLElement {
    if (!isImage(file.mediaType)) {
      const link = document.createElement('a');
      link.href = page.url(file.path);
      link.download = file.filename;
      link.textContent = file.filename;
      return link;
    }
    const picture = new Picture(page, this._signal);
    const shown = { image: picture.node, caption: file.filename, filename: file.filename };
    const open = () => zoom(this._zoomed, this._zoomed.indexOf(shown), this._signal);
    const node = button('', open, this._signal);
    node.className = 'jp-ComfyTask-thumbnail';
    node.title = file.filename;
    picture.node.alt = file.filename;
    picture.show(file.path, reason => put(node, `${file.filename}: ${reason}`));
    node.append(picture.node);
    this._zoomed.push(shown);
    return node;
  }

  private _drawProblems(task: Task): void {
    const dropped = task.dropped.map(droppedTitle);
    const left = this._complaint === '' ? [] : [this._complaint];
    const notes = [...dropped, ...left].join('\n');
    fill(this._notes, notes, () =>
      [...dropped, ...left].map(note => element('li', '', note))
    );
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

  /** Where the REST API is, below the server's base URL; ends with a slash. */
  apiPath = 'comfy-lock/api/';

  private readonly _el: HTMLElement;
  private readonly _head = element('div', 'jp-ComfyTask-head');
  private readonly _title = element('strong', 'jp-ComfyTask-title');
  private readonly _badge = element('span', 'jp-ComfyTask-badge');
  private readonly _text = element('span', 'jp-ComfyTask-text');
  private readonly _cancel: HTMLButtonElement;
  private readonly _nodes = new Bar('jp-ComfyTask-nodes', 'Progress of the task');
  private readonly _steps = new Bar('jp-ComfyTask-steps', 'Steps of this node');
  private readonly _gallery = element('div', 'jp-ComfyTask-gallery');
  private readonly _notes = element('ul', 'jp-ComfyTask-notes');
  private readonly _failure = element('details', 'jp-ComfyTask-failure');
  private readonly _failureTitle = element('summary', 'jp-ComfyTask-failureTitle');
  private readonly _traceback = element('pre', 'jp-ComfyTask-traceback');
  private readonly _preview: Picture | null = null;
  private readonly _shown = new Set<string>();
  private readonly _zoomed: Zoomed[] = [];
  private _task: Task | null = null;
  private _complaint = '';
}
