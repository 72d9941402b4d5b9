import type { Render } from '@anywidget/types';

import { Follower } from './follower';
import { JupyterPage } from './server';
import { isFlying, overtaken, readGrid, readSweep } from './sweep';
import type { Sweep, SweepCell } from './sweep';
import { SweepView } from './sweep_view';
import { isLive, readTask } from './task';

const TRAITS = ['states', 'tasks', 'pictures', 'progress', 'reasons'] as const;
const WORDS = ['label', 'state', 'left', 'note', 'api_path'] as const;
const SILENT =
  'The kernel of this sweep does not answer. What it has not sent is not sent.';

/** Draws `SweepView` of Python. */
export const renderSweep: Render = ({ model, el, signal }) => {
  const page = JupyterPage.find();
  const apiPath = (): string =>
    String(model.get('api_path') || 'comfy-lock/api/');
  const path = (id: string): string =>
    `${apiPath()}tasks/${encodeURIComponent(id)}`;
  const watch = new Watch(
    page === null
      ? null
      : async id => readTask(await page.json(path(id), signal)),
    () => draw(),
    signal
  );
  let told = readSweep(name => model.get(name), apiPath());
  let cancelling = false;
  const asked = new Set<string>();

  /** Cancel what is in flight, each once; the kernel may not hear the page for long. */
  const cancelFlying = async (): Promise<void> => {
    const going = shown().cells.filter(
      cell => isFlying(cell) && cell.taskId !== '' && !asked.has(cell.taskId)
    );
    if (page === null) {
      return;
    }
    const posts = going.map(({ taskId }) => {
      asked.add(taskId);
      return page.post(`${path(taskId)}/cancel`, signal);
    });
    const results = await Promise.allSettled(posts);
    watch.look();
    const failure = results.find(result => result.status === 'rejected');
    if (failure !== undefined) {
      going.forEach(({ taskId }) => asked.delete(taskId));
      throw failure.reason;
    }
  };
  const view = new SweepView(
    el,
    page,
    {
      cancel: async () => {
        cancelling = true;
        model.send({ kind: 'cancel' });
        await cancelFlying();
      },
      resume: () => {
        model.send({ kind: 'resume' });
        return Promise.resolve();
      },
      previewPath: ({ task }) =>
        task !== null && task.progress.preview > 0 && page !== null
          ? `${path(task.id)}/preview?v=${task.progress.preview}`
          : ''
    },
    signal
  );
  const shown = (): Sweep => watch.overtake(told, apiPath());
  const draw = (): void => {
    const sweep = shown();
    view.draw(sweep);
    if (cancelling) {
      cancelling = sweep.cells.some(isFlying);
      // What was on its way when Cancel was pressed.
      void cancelFlying().catch(() => undefined);
    }
  };
  const hear = (): void => {
    told = readSweep(name => model.get(name), apiPath());
    watch.hear(told.cells);
    draw();
  };
  // Traits that change together are told one by one: they are drawn once.
  let drawing = false;
  const soon = (): void => {
    if (!drawing) {
      drawing = true;
      queueMicrotask(() => {
        drawing = false;
        if (!signal.aborted) {
          hear();
        }
      });
    }
  };
  for (const trait of [...TRAITS, ...WORDS]) {
    model.on(`change:${trait}`, soon);
    signal.addEventListener('abort', () => model.off(`change:${trait}`, soon));
  }
  // Browsers hold back what hidden pages do.
  const look = (): void => {
    if (!document.hidden) {
      watch.look();
    }
  };
  document.addEventListener('visibilitychange', look, { signal });
  view.layOut(readGrid(model.get('grid')));
  hear();
};

/** Asks the Jupyter server for the tasks in flight when their kernel is silent. */
class Watch {
  constructor(
    private readonly _ask: ConstructorParameters<typeof Follower>[0],
    private readonly _changed: () => void,
    private readonly _signal: AbortSignal
  ) {}

  hear(cells: readonly SweepCell[]): void {
    const flying = new Map(
      cells.flatMap(({ task }) => (task === null ? [] : [[task.id, task]]))
    );
    for (const id of this._followers.keys()) {
      if (!flying.has(id)) {
        this._followers.get(id)?.end.abort();
        this._followers.delete(id);
      }
    }
    for (const [id, task] of flying) {
      this._follower(id).hear(task);
    }
  }

  look(): void {
    this._followers.forEach(({ follower }) => void follower.look());
  }

  /** `sweep` with what the Jupyter server knows and the kernel has not told. */
  overtake(sweep: Sweep, apiPath: string): Sweep {
    const cells = sweep.cells.map(cell => {
      const task = this._followers.get(cell.taskId)?.follower.task;
      if (!task || isLive(task)) {
        return cell;
      }
      return overtaken(cell, task, apiPath);
    });
    const late = cells.some((cell, n) => cell !== sweep.cells[n]);
    // An end that the server tells is told by a kernel that lives within a moment, too.
    return late ? { ...sweep, cells, note: sweep.note || SILENT } : sweep;
  }

  private _follower(id: string): Follower {
    const known = this._followers.get(id);
    if (known !== undefined) {
      return known.follower;
    }
    const end = new AbortController();
    this._signal.addEventListener('abort', () => end.abort());
    const follower = new Follower(this._ask, this._changed, end.signal);
    this._followers.set(id, { follower, end });
    return follower;
  }

  private readonly _followers = new Map<
    string,
    { follower: Follower; end: AbortController }
  >();
}
