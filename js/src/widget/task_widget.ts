import type { Render } from '@anywidget/types';

import { Follower } from './follower';
import { JupyterPage } from './server';
import { readTask } from './task';
import type { Task } from './task';
import { TaskView } from './view';

/** The traits of the Python side. */
interface Traits extends Record<string, unknown> {
  task: unknown;
  api_path: string;
  label: string;
}

/** Draws `TaskView` of Python. */
export const renderTask: Render<Traits> = ({ model, el, signal }) => {
  const page = JupyterPage.find();
  const apiPath = (): string => model.get('api_path') || 'comfy-lock/api/';
  const path = (id: string): string =>
    `${apiPath()}tasks/${encodeURIComponent(id)}`;
  const ask = async (server: JupyterPage, id: string): Promise<Task | null> =>
    readTask(await server.json(path(id), signal));
  const cancel = async (id: string): Promise<void> => {
    if (page === null) {
      // Reaches the kernel only between cells, but there is no other way.
      model.send({ kind: 'cancel' });
      return;
    }
    try {
      await page.post(`${path(id)}/cancel`, signal);
    } finally {
      // Whether it was refused because the task has ended shows as well.
      void follower.look();
    }
  };
  const view = new TaskView(el, page, { cancel: task => cancel(task.id) }, signal);
  const draw = (): void => {
    view.apiPath = apiPath();
    view.draw(follower.task, model.get('label') || '');
  };
  const follower = new Follower(
    page === null ? null : id => ask(page, id),
    draw,
    signal
  );
  const hear = (): void => follower.hear(readTask(model.get('task')));
  const listeners = { task: hear, label: draw, api_path: draw } as const;
  for (const [trait, listener] of Object.entries(listeners)) {
    model.on(`change:${trait}`, listener);
    signal.addEventListener('abort', () =>
      model.off(`change:${trait}`, listener)
    );
  }
  // Browsers hold back what hidden pages do.
  const look = (): void => {
    if (!document.hidden) {
      void follower.look();
    }
  };
  document.addEventListener('visibilitychange', look, { signal });
  hear();
};
