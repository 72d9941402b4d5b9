import { hasEnded, isLive, newest, unknown } from './task';
import type { Task } from './task';

/** Milliseconds without a word from the kernel after which the Jupyter server is asked. */
export const QUIET_MS = 3_000;
/** The longest pause between two questions to a Jupyter server that does not answer. */
export const AWAY_MS = 30_000;

/**
 * Knows how a task stands. Its kernel tells that; when the kernel is silent, which it is for
 * ever when it was restarted, the Jupyter server is asked.
 */
export class Follower {
  /**
   * @param _ask the Jupyter server for a task; resolves to null when it does not know it. Null
   *   where there is no Jupyter server.
   * @param _changed is called after each change of `task`.
   */
  constructor(
    private readonly _ask: ((id: string) => Promise<Task | null>) | null,
    private readonly _changed: () => void,
    private readonly _signal: AbortSignal
  ) {
    _signal.addEventListener('abort', () => clearTimeout(this._timer));
  }

  /** The task as it was last told; null before the first word. */
  get task(): Task | null {
    return this._task;
  }

  /** Take what the kernel says. */
  hear(task: Task | null): void {
    this._heard += 1;
    this._pause = QUIET_MS;
    this._take(task === null ? null : newest(this._task, task));
    this._wait();
  }

  /** Ask the Jupyter server now. Never rejects. */
  async look(): Promise<void> {
    const task = this._task;
    const idle = this._looking || this._signal.aborted;
    if (this._ask === null || task === null || hasEnded(task) || idle) {
      return;
    }
    const heard = this._heard;
    this._looking = true;
    try {
      const told = await this._ask(task.id);
      this._pause = QUIET_MS;
      // What the kernel said meanwhile is as new, unless this is the end.
      const isNews = heard === this._heard || (told !== null && hasEnded(told));
      if (isNews && this._task?.id === task.id && !this._isOver()) {
        this._take(told === null ? unknown(this._task) : newest(this._task, told));
      }
    } catch {
      // Away, or restarting: what is shown stays until somebody knows better.
      this._pause = Math.min(2 * this._pause, AWAY_MS);
    } finally {
      this._looking = false;
      this._wait();
    }
  }

  private _wait(): void {
    clearTimeout(this._timer);
    const live = this._task !== null && isLive(this._task);
    if (live && this._ask !== null && !this._isOver()) {
      this._timer = setTimeout(() => void this.look(), this._pause);
    }
  }

  private _take(task: Task | null): void {
    this._task = task;
    this._changed();
  }

  private _isOver(): boolean {
    return this._signal.aborted;
  }

  private _task: Task | null = null;
  private _heard = 0;
  private _pause = QUIET_MS;
  private _looking = false;
  private _timer: ReturnType<typeof setTimeout> | undefined;
}
